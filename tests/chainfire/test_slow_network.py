"""Three real members with a slow network between them."""

from pathlib import Path

from chainfire_cluster import Cluster, wait_until
from slow_links import SlowLinks

from plasmacloud.client import SyncClient

ONE_WAY_S = 0.06


def test_on_a_slow_network_everybody_waits_longer_for_a_leader(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    with SlowLinks([node.peer for node in cluster.nodes], ONE_WAY_S) as links:
        cluster.initial_cluster = ",".join(
            f"{node.name}={address}" for node, address in zip(cluster.nodes, links.addresses, strict=True)
        )
        try:
            cluster.start()
            with SyncClient(cluster.endpoints, timeout=10.0) as client:

                def raised() -> bool:
                    views = [client.cluster_view(endpoint) for endpoint in cluster.endpoints]
                    return all(view.election_timeout_s >= 10 * 2 * ONE_WAY_S for view in views)

                wait_until("longer election timeouts on all members", raised)
                assert client.cluster_view().configured_election_timeout_s == 0.3
                client.put(b"k", b"v")
                assert client.get(b"k").kvs[0].value == b"v"
            for node in cluster.nodes:
                node.wait_for_log("election timeout adjusted to network and disk")
                assert cluster.terminate(node) == 0
        finally:
            cluster.stop()
