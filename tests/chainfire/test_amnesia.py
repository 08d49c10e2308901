"""Real members on real directories: one that lost its memory takes no part, and nobody healthy is taken for one."""

import random
import shutil
import signal
from pathlib import Path

import pytest
from chainfire_cluster import DEADLINE_S, Cluster, Node, running_cluster, wait_until

from plasmacloud.base.errors import ExitCode
from plasmacloud.client import SyncClient


def write(cluster: Cluster, *nodes: Node, count: int = 50) -> None:
    """Acknowledged writes through these members, or any."""
    with SyncClient([node.client for node in nodes or cluster.nodes], timeout=20.0) as client:
        for n in range(count):
            client.put(f"k{n}", f"v{n}")


def others(cluster: Cluster, node: Node) -> list[Node]:
    return [other for other in cluster.nodes if other is not node]


def assert_refused(cluster: Cluster, node: Node, reason: str) -> None:
    """The member ends by itself with an explanation, took no part, and the others do not notice."""
    leader = cluster.leader()
    elections = leader.log.count("became leader")
    said_before = len(node.log)
    process = cluster.launch(node)
    assert process.wait(DEADLINE_S) == ExitCode.CONFIG, node.log[-3000:]
    said = node.log[said_before:]
    assert reason in said
    assert "plasma chainfire member remove" in said
    assert "--join" in said
    assert "became leader" not in said
    assert "ready to serve clients" not in said
    assert "Traceback" not in said
    assert any("refused a peer" in other.log for other in others(cluster, node))
    write(cluster, *others(cluster, node))
    assert leader.log.count("became leader") == elections


def nobody_was_refused(cluster: Cluster) -> None:
    for node in cluster.nodes:
        assert node.process is not None
        assert node.process.running
        assert "refused a peer" not in node.log
        assert "must not take part" not in node.log


# Amnesiacs


def test_an_emptied_directory_under_the_old_name_is_refused(cluster: Cluster) -> None:
    node = cluster.followers()[0]
    write(cluster)
    cluster.kill(node)
    shutil.rmtree(node.data_dir)
    assert_refused(cluster, node, "was replaced")
    assert_refused(cluster, node, "was replaced")


def test_a_leader_with_an_emptied_directory_is_refused_too(cluster: Cluster) -> None:
    node = cluster.leader()
    write(cluster)
    cluster.kill(node)
    shutil.rmtree(node.data_dir)
    write(cluster, *others(cluster, node))
    assert_refused(cluster, node, "was replaced")


def test_a_directory_without_its_log_is_refused(cluster: Cluster) -> None:
    """Its identity file says whose it is, and knows all its lives; what it promised is gone."""
    node = cluster.followers()[0]
    write(cluster)
    cluster.kill(node)
    shutil.rmtree(node.data_dir / "wal")
    shutil.rmtree(node.data_dir / "state")
    assert_refused(cluster, node, "was replaced")


def test_an_old_copy_of_the_whole_directory_is_refused_however_often_it_is_started(
    cluster: Cluster, tmp_path: Path
) -> None:
    node = cluster.followers()[0]
    copy = tmp_path / "copy"
    assert cluster.terminate(node) == 0
    shutil.copytree(node.data_dir, copy)
    cluster.start(node)
    write(cluster)
    cluster.kill(node)
    newest = tmp_path / "newest"
    node.data_dir.rename(newest)
    copy.rename(node.data_dir)
    for _ in range(3):
        assert_refused(cluster, node, "old copy")
    shutil.rmtree(node.data_dir)
    newest.rename(node.data_dir)
    cluster.start(node)
    assert cluster.wait_converged()[b"k49"][0] == b"v49", "with the newest copy it is the member it was"


@pytest.mark.parametrize("how", ["lost", "damaged"])
def test_what_one_member_forgot_about_the_others_others_remember(cluster: Cluster, how: str) -> None:
    """And the replicated state does."""
    node, forgetful, witness = *cluster.followers(), cluster.leader()
    write(cluster)
    cluster.kill(forgetful)
    memory = forgetful.data_dir / "peers.json"
    if how == "lost":
        memory.unlink()
    else:
        memory.write_bytes(memory.read_bytes()[:-40] + b"0" * 40)
    cluster.start(forgetful)
    assert ("is lost" in forgetful.log) == (how == "damaged")
    cluster.kill(node)
    shutil.rmtree(node.data_dir)
    assert_refused(cluster, node, "was replaced")
    for peer in (forgetful, witness):
        assert "refused a peer" in peer.log


def test_the_refusal_outlasts_a_restart_of_everybody(cluster: Cluster) -> None:
    """With the other two freshly started, and the emptied member among the first to call."""
    node = cluster.followers()[0]
    write(cluster)
    cluster.kill(*cluster.nodes)
    shutil.rmtree(node.data_dir)
    for each in cluster.nodes:
        cluster.launch(each)
    assert node.process is not None
    assert node.process.wait(DEADLINE_S) == ExitCode.CONFIG
    assert "was replaced" in node.log
    write(cluster, *others(cluster, node))
    assert node.log.rpartition("restored")[2].count("became leader") == 0


# The healthy


def test_two_members_restarted_at_the_same_time_are_welcome(cluster: Cluster) -> None:
    for _ in range(3):
        pair = random.Random(1).sample(cluster.nodes, 2)
        cluster.kill(*pair)
        cluster.start(*pair)
        write(cluster, count=5)
    nobody_was_refused(cluster)


def test_all_members_restarted_at_the_same_time_are_welcome(cluster: Cluster) -> None:
    for _ in range(3):
        write(cluster, count=5)
        cluster.kill(*cluster.nodes)
        cluster.start()
    cluster.wait_converged()
    nobody_was_refused(cluster)


def test_a_member_is_welcome_after_lives_that_the_others_did_not_see(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    rest = others(cluster, node)
    for _ in range(2):
        cluster.kill(node, *rest)
        for _ in range(3):
            cluster.launch(node)
            node.wait_for_log("listening", times=node.log.count("listening") + 1)
            cluster.kill(node)
        cluster.start()
        write(cluster, count=5)
    nobody_was_refused(cluster)


@pytest.mark.slow
def test_a_storm_of_restarts_refuses_nobody(cluster: Cluster) -> None:
    """Some are killed before they can say a word, some while they greet the others."""
    rng = random.Random(7)
    begun = dict.fromkeys(cluster.nodes, 0)
    for _ in range(20):
        victims = rng.sample(cluster.nodes, rng.randint(1, 3))
        cluster.kill(*victims)
        for victim in victims:
            begun[victim] = len(victim.log)
            cluster.launch(victim)
        if rng.random() < 0.6:
            wait_until("it listens", lambda node=victims[0]: "listening" in node.log[begun[node] :])  # type: ignore[misc]
    for node in cluster.nodes:
        wait_until(f"{node.name} serves", lambda node=node: "ready to serve" in node.log[begun[node] :])  # type: ignore[misc]
    write(cluster, count=10)
    cluster.wait_converged()
    nobody_was_refused(cluster)


def test_everybodys_memory_of_the_others_may_be_lost(cluster: Cluster) -> None:
    write(cluster)
    cluster.kill(*cluster.nodes)
    for node in cluster.nodes:
        (node.data_dir / "peers.json").unlink()
    cluster.start()
    write(cluster)
    nobody_was_refused(cluster)


def test_a_frozen_peer_does_not_keep_a_starting_member_silent(cluster: Cluster) -> None:
    frozen, node = cluster.followers()
    assert frozen.process is not None
    cluster.kill(node)
    frozen.process.signal(signal.SIGSTOP)
    try:
        cluster.start(node)
        write(cluster, *others(cluster, frozen), count=5)
    finally:
        frozen.process.signal(signal.SIGCONT)
    nobody_was_refused(cluster)


def test_a_single_member_needs_nobody(tmp_path: Path) -> None:
    with running_cluster(tmp_path, size=1) as cluster:
        cluster.kill(*cluster.nodes)
        cluster.start()
        write(cluster)
