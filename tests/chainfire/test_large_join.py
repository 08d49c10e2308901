"""A member joins a cluster with much state, under load: by snapshot, completely, and without holding anybody up."""

import os
from pathlib import Path

from chainfire_cluster import SERVE, Cluster, Node, wait_until
from test_cluster import load

from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.client import SyncClient, Txn, put

RECORDS = 20_000
PER_TXN = 100


def fill(cluster: Cluster) -> None:
    with SyncClient(cluster.endpoints, timeout=20.0) as client:
        for first in range(0, RECORDS, PER_TXN):
            client.txn(Txn().then(*(put(b"big/%08d" % n, os.urandom(200)) for n in range(first, first + PER_TXN))))


def test_a_member_joins_a_large_cluster_by_snapshot_under_load(cluster: Cluster, tmp_path: Path) -> None:
    fill(cluster)
    client_port, peer_port = free_ports(2)
    node = Node("n4", tmp_path, client_port, peer_port, [])
    argv = [*SERVE, "--name", node.name, "--data-dir", str(node.data_dir), "--log-level", "debug"]
    argv += ["--listen-client", node.client, "--listen-peer", node.peer, "--join", cluster.endpoints[0]]
    node.process = ManagedProcess(node.name, argv, log_path=node.log_path)
    founders = list(cluster.nodes)
    cluster.nodes.append(node)  # which stops it, whatever happens
    with load(cluster) as writers:
        acknowledged = len(writers.acknowledged)
        node.process.start()
        with SyncClient(cluster.endpoints[:3], timeout=20.0) as client:
            wait_until(
                "four voters",
                lambda: [m.role for m in client.cluster_view().members].count("voter") == 4,
                deadline_s=60,
            )
        assert len(writers.acknowledged) > acknowledged, "writes went on"
    assert any("snapshot delivered" in each.log for each in founders)
    assert "installed" in node.log
    held = cluster.wait_converged()
    writers.check(held)
    assert sum(key.startswith(b"big/") for key in held) == RECORDS
