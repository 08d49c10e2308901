"""The history is bounded also where no client ever compacts."""

import http.client
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import pytest
from chainfire_cluster import Cluster, Node, running_cluster, wait_until
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from plasmacloud.chainfire.history import HistoryLimit
from plasmacloud.client import ClientError, SyncClient

MIB = 1 << 20


def test_what_is_older_than_the_limit_is_forgotten() -> None:
    limit = HistoryLimit(1600)
    assert [limit.look(written, 10 + written // 100) for written in range(0, 1600, 100)] == [0] * 16
    assert limit.look(1600, 26) == 10
    assert limit.look(1700, 27) == 11
    assert limit.look(1700, 27) == 11, "until it is done"
    assert limit.look(5000, 60) == 27, "in one go: nobody looked meanwhile"
    assert limit.look(6600, 76) == 60


def test_without_a_limit_nothing_is_forgotten() -> None:
    limit = HistoryLimit(0)
    assert {limit.look(written, written) for written in range(0, 10**9, 10**7)} == {0}


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 3)), max_size=200), st.integers(1, 3000))
def test_never_less_than_the_limit_is_kept_and_seldom_much_more(steps: list[tuple[int, int]], size: int) -> None:
    limit = HistoryLimit(size)
    written, revision = 0, 5
    at = {revision: 0}  # revision -> bytes written when it was made
    for more, revisions in steps:
        written, revision = written + more, revision + revisions
        at[revision] = written
        cut = limit.look(written, revision)
        if cut:
            kept = written - at[cut]
            assert kept >= size or at[cut] > written - size  # a revision's bytes may have come in several looks
            assert kept <= size + size // 16 + 2 * 500
        else:
            assert written < size + 500
        assert len(limit._marks) <= 18


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("history"), 3, ["--history-limit", "1MiB"]) as running:
        yield running


def metrics(address: str) -> dict[str, float]:
    with closing(http.client.HTTPConnection(address, timeout=10)) as connection:
        connection.request("GET", "/metrics")
        families = text_string_to_metric_families(connection.getresponse().read().decode())
        return {sample.name: sample.value for family in families for sample in family.samples}


def test_members_keep_a_bounded_past_of_a_few_keys_and_nobody_compacts(cluster: Cluster) -> None:
    value = "v" * 20_000
    with SyncClient(cluster.endpoints, timeout=30.0) as client:
        for number in range(400):  # eight MiB
            client.put(f"key/{number % 7}", value)

        def past_is_short(node: Node) -> bool:
            client.put("key/0", value)  # the limit is looked at while there are changes
            return metrics(node.client)["plasma_chainfire_past_versions"] < 2 * MIB // 20_000

        for node in cluster.nodes:
            wait_until("a short past", partial(past_is_short, node))
            seen = metrics(node.client)
            assert seen["etcd_debugging_mvcc_keys_total"] == 7
            assert seen["etcd_debugging_mvcc_compact_revision"] > 200
        assert len(client.get("key/", prefix=True).kvs) == 7
        with pytest.raises(ClientError, match="compacted"):
            client.get("key/1", revision=50)
        newest = client.get("key/1").header.revision
        assert client.get("key/1", revision=newest - 30).kvs, "the last MiB is there"
