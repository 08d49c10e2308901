"""Three real processes: what an operator may rely on when members are killed, stopped and started."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from chainfire_cluster import DEADLINE_S, Cluster, Node, wait_until

from plasmacloud.client import ClientError, NotExecuted, OutcomeUnknown, SyncClient


class Writers:
    """Clients that write keys of their own until told to stop, and remember what was acknowledged."""

    def __init__(self, endpoints: list[str], count: int = 4) -> None:
        self.endpoints = endpoints
        self.acknowledged: dict[bytes, bytes] = {}
        self.not_executed: set[bytes] = set()
        self.unknown: set[bytes] = set()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(count)]

    def _write(self, writer: int) -> None:
        with SyncClient(self.endpoints[writer % len(self.endpoints) :] + self.endpoints, timeout=10.0) as client:
            for n in range(50_000):
                if self._stop.is_set():
                    return
                key, value = b"w%d/%d" % (writer, n), b"%d" % n
                try:
                    client.put(key, value)
                    self.acknowledged[key] = value
                except NotExecuted:
                    self.not_executed.add(key)
                except OutcomeUnknown:
                    self.unknown.add(key)
                time.sleep(0.001)

    def wait_for(self, count: int) -> None:
        """Wait until so many more writes were acknowledged."""
        goal = len(self.acknowledged) + count
        wait_until(f"{count} more writes", lambda: len(self.acknowledged) >= goal)

    def check(self, held: dict[bytes, tuple[bytes, int, int]]) -> None:
        """Everything acknowledged is there, once; nothing refused is."""
        assert len(self.acknowledged) > 100
        lost = [key for key, value in self.acknowledged.items() if held.get(key, (None,))[0] != value]
        assert not lost, f"{len(lost)} of {len(self.acknowledged)} acknowledged writes lost: {lost[:5]}"
        mine = {key: entry for key, entry in held.items() if key.startswith(b"w")}
        assert [key for key, entry in mine.items() if entry[1] != 1] == [], "written twice"
        assert not self.not_executed & mine.keys(), "reported as not executed, and executed"
        assert mine.keys() <= self.acknowledged.keys() | self.unknown

    def __enter__(self) -> "Writers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()


@contextmanager
def load(cluster: Cluster) -> Iterator[Writers]:
    with Writers(cluster.endpoints) as writers:
        writers.wait_for(100)
        yield writers
        writers.wait_for(100)


def test_a_killed_leader_is_replaced_and_nothing_acknowledged_is_lost(cluster: Cluster) -> None:
    with load(cluster) as writers:
        for _ in range(3):
            old = cluster.leader()
            cluster.kill(old)
            writers.wait_for(50)
            cluster.start(old)
    writers.check(cluster.wait_converged())


def test_a_terminated_leader_hands_over_and_exits_with_zero(cluster: Cluster) -> None:
    with load(cluster) as writers:
        old = cluster.leader()
        assert cluster.terminate(old) == 0
        assert "leadership handed over" in old.log
        writers.wait_for(50)
        cluster.start(old)
    writers.check(cluster.wait_converged())
    assert not writers.unknown, "a planned stop leaves no client in doubt"


def test_a_killed_follower_does_not_disturb_and_catches_up(cluster: Cluster) -> None:
    with load(cluster) as writers:
        leader = cluster.leader()
        elections = leader.log.count("became leader")
        follower = cluster.followers()[0]
        cluster.kill(follower)
        writers.wait_for(300)
        cluster.start(follower)
    writers.check(cluster.wait_converged())
    assert cluster.leader() is leader
    assert leader.log.count("became leader") == elections


def test_a_power_loss_of_all_members_loses_nothing_acknowledged(cluster: Cluster) -> None:
    for _ in range(2):
        with Writers(cluster.endpoints) as writers:
            writers.wait_for(200)
            cluster.kill(*cluster.nodes)
        cluster.start()
        writers.check(cluster.wait_converged())
        with SyncClient(cluster.endpoints, timeout=10.0) as client:
            client.delete(b"w", prefix=True)


def test_a_frozen_leader_is_replaced_and_serves_nothing_stale_afterwards(cluster: Cluster) -> None:
    old = cluster.leader()
    others = [node for node in cluster.nodes if node is not old]
    assert old.process is not None
    with SyncClient([node.client for node in others], timeout=10.0) as client:
        client.put("k", "before")
        old.process.signal(signal.SIGSTOP)
        try:
            wait_until("a new leader", lambda: any(_leads(client, node) for node in others))
            client.put("k", "after")
        finally:
            old.process.signal(signal.SIGCONT)
        with SyncClient([old.client], timeout=10.0) as late:
            assert [kv.value for kv in late.get("k").kvs] == [b"after"]
    assert cluster.wait_converged()[b"k"][0] == b"after"


def _leads(client: SyncClient, node: Node) -> bool:
    state = client.status(node.client)
    return state.leader == state.header.member_id


def test_without_a_quorum_nothing_is_acknowledged_and_stale_reads_must_be_asked_for(cluster: Cluster) -> None:
    survivor, *others = cluster.nodes
    with SyncClient([survivor.client], timeout=20.0) as client:
        client.put("k", "v")
        cluster.kill(*others)
        with pytest.raises(ClientError) as write:
            client.put("k", "w", timeout=1.0)
        assert isinstance(write.value, (NotExecuted, OutcomeUnknown))
        with pytest.raises(ClientError):
            client.get("k", timeout=1.0)
        assert [kv.value for kv in client.get("k", serializable=True).kvs] == [b"v"]
        wait_until("a clean refusal", lambda: _is_refused_cleanly(client))
        cluster.start(*others)
        client.put("k", "x")
        assert [kv.value for kv in client.get("k").kvs] == [b"x"]
    assert cluster.wait_converged()[b"k"][0] == b"x"


def _is_refused_cleanly(client: SyncClient) -> bool:
    """Without a quorum for a while, a write is answered at once: not executed."""
    try:
        client.put("k", "never", timeout=1.0)
    except NotExecuted:
        return True
    except OutcomeUnknown:
        return False
    raise AssertionError("a write was acknowledged without a quorum")


def test_a_write_to_a_follower_is_forwarded_and_executed_once(cluster: Cluster) -> None:
    follower = cluster.followers()[0]
    with SyncClient([follower.client], timeout=10.0) as client:
        member = client.status(follower.client).header.member_id
        for n in range(200):
            assert client.put(f"f{n}", "v").header.member_id == member, "the member that was asked answers"
    held = cluster.wait_converged()
    assert [held[b"f%d" % n][1] for n in range(200)] == [1] * 200


def test_a_restart_replays_only_what_came_after_the_last_checkpoint(cluster: Cluster) -> None:
    node = cluster.followers()[0]
    with SyncClient(cluster.endpoints, timeout=10.0) as client:
        for n in range(300):
            client.put(f"k{n}", "v" * 100)
        revision = client.put("last", "v").header.revision
    cluster.wait_converged()
    assert cluster.terminate(node) == 0
    cluster.start(node)
    restored = [line for line in node.log.splitlines() if " restored " in line][-1]
    assert f"revision={revision}" in restored, "a clean stop leaves nothing to replay"
    assert len(cluster.wait_converged()) == 301
