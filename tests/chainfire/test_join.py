"""Joining, as real processes: nobody waits for a member that does not come, and everybody catches up."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from chainfire_cluster import DEADLINE_S, SERVE, Cluster, Node, wait_until

from plasmacloud.base.errors import ExitCode
from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.client import ClusterView, RequestRefused, SyncClient
from plasmacloud.storage.snapshot import verify


class Growing:
    """Members that are started with flags of their own, and always stopped."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.nodes: list[Node] = []

    def node(self, name: str) -> Node:
        client, peer = free_ports(2)
        self.nodes.append(Node(name, self.directory, client, peer, []))
        return self.nodes[-1]

    def launch(self, node: Node, *flags: str) -> Node:
        argv = [*SERVE, "--name", node.name, "--data-dir", str(node.data_dir), "--log-level", "debug"]
        argv += ["--listen-client", node.client, "--listen-peer", node.peer, *flags]
        node.process = ManagedProcess(node.name, argv, log_path=node.log_path)
        node.process.start()
        return node

    def start(self, name: str, *flags: str) -> Node:
        node = self.launch(self.node(name), *flags)
        node.wait_for_log("ready to serve clients")
        return node

    def stop(self) -> None:
        for node in self.nodes:
            if node.process is not None:
                node.process.kill()


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[Growing]:
    made = Growing(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def view(node: Node) -> ClusterView:
    with SyncClient([node.client], timeout=10.0) as client:
        return client.cluster_view()


def wait_for_voters(node: Node, count: int) -> None:
    wait_until(
        f"{count} voters", lambda: [m.role for m in view(node).members].count("voter") == count and not view(node).joint
    )


def put(node: Node, key: str, value: str = "v") -> None:
    with SyncClient([node.client], timeout=15.0) as client:
        client.put(key, value)


def held(node: Node) -> set[bytes]:
    with SyncClient([node.client], timeout=15.0) as client:
        return {kv.key for kv in client.get(b"\0", range_end=b"\0", serializable=True).kvs}


def test_one_bootstraps_two_join_and_all_three_vote(growing: Growing) -> None:
    first = growing.start("n1", "--bootstrap")
    put(first, "before")
    second = growing.start("n2", "--join", first.client)
    third = growing.start("n3", "--join", first.client)
    wait_for_voters(first, 3)
    put(third, "after")
    for node in (first, second, third):
        wait_until("both keys", lambda node=node: held(node) == {b"before", b"after"})
    assert first.process is not None
    first.process.signal(signal.SIGKILL)
    put(second, "without the first")


def test_a_member_that_never_starts_blocks_neither_writes_nor_other_joins(growing: Growing) -> None:
    first = growing.start("n1", "--bootstrap")
    (nobody,) = free_ports(1)
    with SyncClient([first.client], timeout=10.0) as client:
        absent = client.add_member([f"http://127.0.0.1:{nobody}"], name="ghost")
    put(first, "one")
    second = growing.start("n2", "--join", first.client)
    wait_for_voters(first, 2)
    put(second, "two")
    ghost = next(m for m in view(first).members if m.id == absent.id)
    assert (ghost.role, ghost.started, ghost.match) == ("learner", False, 0)
    with SyncClient([first.client], timeout=10.0) as client:
        client.member_remove(absent.id)
    assert absent.id not in [m.id for m in view(first).members]


def test_a_member_that_dies_while_it_joins_goes_on_where_it_was(growing: Growing) -> None:
    first = growing.start("n1", "--bootstrap")
    put(first, "k")
    second = growing.launch(growing.node("n2"), "--join", first.client)
    second.wait_for_log("added to the cluster as a learner")
    assert second.process is not None
    second.process.kill()
    put(first, "while it was dead")
    growing.launch(second, "--join", first.client)
    second.wait_for_log("ready to serve clients")
    wait_for_voters(first, 2)
    assert [m.name for m in view(first).members if m.role == "learner"] == [], "it did not ask for a second place"


def test_a_removed_member_says_so_and_ends(growing: Growing) -> None:
    first = growing.start("n1", "--bootstrap")
    second = growing.start("n2", "--join", first.client)
    third = growing.start("n3", "--join", first.client)
    wait_for_voters(first, 3)
    with SyncClient([first.client], timeout=10.0) as client:
        client.member_remove(next(m.id for m in view(first).members if m.name == "n3"))
    assert third.process is not None
    assert third.process.wait(DEADLINE_S) == ExitCode.CONFIG
    assert "removed from the cluster" in third.log
    assert "Traceback" not in third.log
    put(second, "still two")
    growing.launch(third, "--join", first.client)
    assert third.process.wait(DEADLINE_S) == ExitCode.CONFIG, "its old directory does not bring it back"


def test_a_leader_that_is_removed_hands_over_first(growing: Growing) -> None:
    first = growing.start("n1", "--bootstrap")
    second = growing.start("n2", "--join", first.client)
    growing.start("n3", "--join", first.client)
    wait_for_voters(first, 3)
    leader_id = view(first).leader_id
    leader = next(
        node for node in growing.nodes for m in view(second).members if m.id == leader_id and m.name == node.name
    )
    other = next(node for node in growing.nodes if node is not leader)
    with SyncClient([other.client], timeout=15.0) as client:
        client.member_remove(leader_id)
    assert leader.process is not None
    assert leader.process.wait(DEADLINE_S) == ExitCode.CONFIG
    assert "handing over before leaving" in leader.log
    put(other, "after")


def test_a_leader_that_is_replaced_hands_over_first(growing: Growing) -> None:
    first = growing.start("n1", "--bootstrap")
    second = growing.start("n2", "--join", first.client)
    wait_for_voters(first, 2)
    leader_id = view(first).leader_id
    leader = next(
        node for node in growing.nodes for m in view(second).members if m.id == leader_id and m.name == node.name
    )
    other = next(node for node in growing.nodes if node is not leader)
    heir = growing.node("n3")
    with SyncClient([other.client], timeout=15.0) as client:
        client.add_member([f"http://{heir.peer}"], name="n3", replaces=leader_id)
    growing.launch(heir, "--join", other.client)
    assert leader.process is not None
    assert leader.process.wait(DEADLINE_S) == ExitCode.CONFIG
    assert "handing over before leaving" in leader.log
    put(other, "after")


def test_joining_nobody_ends_with_an_explanation(growing: Growing) -> None:
    (nobody,) = free_ports(1)
    node = growing.launch(growing.node("n1"), "--join", f"127.0.0.1:{nobody}", "--join-timeout", "1s")
    assert node.process is not None
    assert node.process.wait(DEADLINE_S) == ExitCode.CONFIG
    assert "could not join" in node.log
    assert "Traceback" not in node.log


def test_a_directory_of_another_cluster_is_not_joined_with(growing: Growing) -> None:
    first = growing.start("n1", "--bootstrap")
    other = growing.start("n2", "--bootstrap")
    put(other, "elsewhere")
    assert other.process is not None
    assert other.process.stop() == 0
    growing.launch(other, "--join", first.client)
    assert other.process.wait(DEADLINE_S) == ExitCode.CONFIG
    assert "belongs to member n2 of cluster" in other.log
    assert f"at {first.client} serves cluster" in other.log
    assert [member.name for member in view(first).members] == ["n1"], "nobody was added"
    put(first, "after")
    growing.launch(other, "--bootstrap").wait_for_log("ready to serve clients", times=2)
    assert b"elsewhere" in held(other), "its own cluster is as it was"


def test_a_lone_founder_that_lost_its_disk_hears_of_the_others_before_it_serves(growing: Growing) -> None:
    """With the flags that it was started with it would found the same cluster again, and serve an empty store."""
    first = growing.start("n1", "--bootstrap")
    second = growing.start("n2", "--join", first.client)
    third = growing.start("n3", "--join", first.client)
    wait_for_voters(first, 3)
    put(first, "k")
    assert first.process is not None
    first.process.kill()
    shutil.rmtree(first.data_dir)
    put(second, "without the first")
    leaders = first.log.count("became leader")
    growing.launch(first, "--bootstrap")
    assert first.process.wait(DEADLINE_S) == ExitCode.CONFIG
    assert first.log.count("became leader") == leaders
    assert first.log.count("ready to serve clients") == 1
    put(third, "and goes on")


def test_an_empty_directory_does_not_take_the_place_of_a_member(growing: Growing) -> None:
    first = growing.start("n1", "--bootstrap")
    second = growing.start("n2", "--join", first.client)
    growing.start("n3", "--join", first.client)
    wait_for_voters(first, 3)
    assert second.process is not None
    assert second.process.stop() == 0
    second.data_dir.rename(second.data_dir.with_name("lost"))
    growing.launch(second, "--join", first.client)
    assert second.process.wait(DEADLINE_S) == ExitCode.CONFIG
    assert "member remove" in second.log


@pytest.mark.parametrize("count", [1, 3, 4])
def test_machines_that_expect_each_other_found_one_cluster(growing: Growing, count: int) -> None:
    nodes = [growing.node(f"n{n + 1}") for n in range(count)]
    expect = min(count, 3)
    for node in nodes:
        growing.launch(node, "--bootstrap-expect", str(expect), "--seeds", nodes[0].client)
    for node in nodes:
        node.wait_for_log("ready to serve clients")
    wait_for_voters(nodes[0], count)
    assert len({view(node).cluster_id for node in nodes}) == 1
    put(nodes[-1], "k")


def test_flags_that_exclude_each_other_are_refused(growing: Growing) -> None:
    node = growing.launch(growing.node("n1"), "--bootstrap", "--join", "127.0.0.1:1")
    assert node.process is not None
    assert node.process.wait(DEADLINE_S) == ExitCode.CONFIG
    assert "exclude each other" in node.log


def test_a_permanent_learner_follows_and_is_promoted_by_hand(growing: Growing) -> None:
    first = growing.start("n1", "--bootstrap")
    second = growing.start("n2", "--join", first.client, "--learner")
    put(first, "k")
    wait_until("the key", lambda: held(second) == {b"k"})
    learner = next(m for m in view(first).members if m.name == "n2")
    assert learner.role == "learner"

    def promoted() -> bool:
        with SyncClient([first.client], timeout=10.0) as client:
            try:
                client.member_promote(learner.id)
            except RequestRefused:
                return False
            return True

    wait_until("promotion", promoted)
    wait_for_voters(first, 2)


def test_a_snapshot_saved_by_etcdctls_call_holds_everything(cluster: Cluster, tmp_path: Path) -> None:
    with SyncClient(cluster.endpoints[:1], timeout=15.0) as client:
        for n in range(100):
            client.put(f"k{n}", "v" * 100)
        with (tmp_path / "backup").open("wb") as file:
            for chunk in client.snapshot(cluster.endpoints[0]):
                file.write(chunk.blob)
    assert verify(tmp_path / "backup").records >= 100
