"""Putting a configuration into force: trackers switch, quorums change, progress is kept or begins."""

import pytest
from raft_cluster import Cluster, Node, conf

from plasmacloud.raft.errors import NotLeader
from plasmacloud.raft.membership import BadConfState, ConfState
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.raft import StateRole

M = MessageType


def grown(cluster: Cluster, id: int, new: ConfState) -> None:
    """Start another member, which knows nothing but the configuration it joined with."""
    cluster.nodes[id] = Node(id, new)


@pytest.mark.parametrize(
    "wrong",
    [
        conf("123", learners="3"),
        conf("12", outgoing="13", learners="3"),
        conf("12", outgoing="13", learners_next="2"),
        conf("12", learners_next="3"),
        conf("", learners="1"),
        ConfState(voters=frozenset({0, 1})),
        ConfState(voters=frozenset({1}), auto_leave=True),
    ],
)
def test_contradictions_are_refused_and_change_nothing(wrong: ConfState) -> None:
    node = Node(1, conf("123"))
    with pytest.raises(BadConfState):
        node.raft.apply_membership(wrong)
    assert node.raft.conf == conf("123")
    assert set(node.raft.tracker.progress) == {1, 2, 3}


def test_a_new_learner_is_brought_up_to_date_and_counts_nowhere() -> None:
    cluster = Cluster.of(3)
    leader = cluster.elect(1)
    leader.propose(b"x")
    cluster.settle()
    new = conf("123", learners="4")
    grown(cluster, 4, new)
    for id in (1, 2, 3):
        cluster[id].apply_membership(new)
    cluster.settle()
    assert cluster[4].commit == leader.commit == 2
    assert leader.status().progress[4].state == "replicate"
    cluster.isolate(2, 3)
    leader.propose(b"y")
    cluster.settle()
    assert leader.status().progress[4].match == 3
    assert leader.commit == 2


def test_a_learner_that_never_starts_blocks_nobody() -> None:
    cluster = Cluster.of(3)
    leader = cluster.elect(1)
    for id in (1, 2, 3):
        cluster[id].apply_membership(conf("123", learners="456"))
    for _ in range(5):
        leader.propose(b"x")
        cluster.tick(20)
    assert leader.role is StateRole.LEADER
    assert leader.commit == 6


def test_promotion_keeps_what_is_known() -> None:
    cluster = Cluster(Node(id, conf("123", learners="4")) for id in (1, 2, 3, 4))
    leader = cluster.elect(1)
    leader.propose(b"x")
    cluster.settle()
    before = leader.status().progress[4]
    leader.apply_membership(conf("1234"))
    assert leader.status().progress[4] == before
    cluster.isolate(2, 3)
    leader.propose(b"y")
    cluster.settle()
    assert leader.commit == 2, "two of four are no quorum"


def test_a_new_voter_does_not_depose_the_leader_before_it_could_answer() -> None:
    cluster = Cluster.of(1)
    leader = cluster.elect(1)
    leader.tick()
    for _ in range(leader.config.election_ticks - 2):
        leader.tick()
    leader.apply_membership(conf("12"))
    leader.tick()
    assert leader.role is StateRole.LEADER


def test_a_smaller_quorum_commits_at_once() -> None:
    cluster = Cluster.of(3)
    leader = cluster.elect(1)
    cluster.isolate(2, 3)
    leader.propose(b"x")
    leader.read_index(9)
    cluster.settle()
    assert leader.commit == 1
    leader.apply_membership(conf("1"))
    cluster.settle()
    assert leader.commit == 2
    assert [context for context, _ in cluster.nodes[1].reads] == [9]


def test_both_majorities_of_a_joint_configuration_are_needed() -> None:
    joint = conf("145", outgoing="123", learners_next="23")
    cluster = Cluster(Node(id, joint) for id in range(1, 6))
    leader = cluster.elect(1)
    cluster.isolate(4, 5)
    leader.propose(b"x")
    leader.read_index(9)
    cluster.settle()
    assert (leader.commit, cluster.nodes[1].reads) == (1, [])
    cluster.heal()
    cluster.tick(20)
    assert leader.commit == 2
    assert cluster.nodes[1].reads[0][0] == 9
    cluster.isolate(2, 3)
    cluster[4].campaign()
    cluster.tick(100, 4, 5)
    assert cluster[4].role is not StateRole.LEADER, "without the outgoing majority there is no new leader"


def test_a_removed_member_is_forgotten_and_its_answers_ignored() -> None:
    cluster = Cluster.of(3)
    leader = cluster.elect(1)
    cluster.isolate(3)
    leader.transfer_leader(3)
    cluster.settle()
    leader.apply_membership(conf("12"))
    assert 3 not in leader.status().progress
    assert leader.status().transferee == 0
    leader.step(Message(M.APPEND_RESPONSE, 1, 3, 1, index=1))
    leader.step(Message(M.HEARTBEAT_RESPONSE, 1, 3, 1, context=1))
    cluster.trace.clear()
    cluster.tick(20, 1, 2)
    assert [m for m in cluster.trace if m.to == 3] == []


def test_a_leader_that_is_no_voter_any_more_steps_down() -> None:
    for new in (conf("23"), conf("23", learners="1")):
        cluster = Cluster.of(3)
        leader = cluster.elect(1)
        leader.apply_membership(new)
        assert leader.role is StateRole.FOLLOWER
        with pytest.raises(NotLeader):
            leader.propose(b"x")
        leader.campaign()
        assert leader.role is StateRole.FOLLOWER


def test_a_member_that_left_does_not_disturb_those_who_stay() -> None:
    cluster = Cluster.of(3)
    leader = cluster.elect(1)
    for id in (1, 2):  # 3 never hears of it
        cluster[id].apply_membership(conf("12"))
    cluster.tick(200)
    assert (leader.role, leader.term) == (StateRole.LEADER, 1)


def test_restore_takes_over_the_configuration() -> None:
    node = Node(4, ConfState())
    new = conf("123", learners="4")
    node.raft.step(Message(M.HEARTBEAT, 4, 1, 7))
    node.take()
    assert node.raft.restore(20, 6, new)
    rd = node.raft.ready()
    assert rd.snapshot is not None
    assert (rd.snapshot.index, rd.snapshot.term, rd.snapshot.conf, rd.must_sync) == (20, 6, new, True)
    assert [(m.type, m.to, m.index) for m in rd.after_sync] == [(M.APPEND_RESPONSE, 1, 20)]
    assert node.raft.conf == new
    assert not node.raft.restore(20, 6, new)


def test_restore_of_what_the_log_has_only_commits() -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    cluster.lost = lambda m: m.type in (M.COMMIT, M.HEARTBEAT)
    cluster[1].propose(b"x")
    cluster.settle()
    assert (cluster[2].last_index, cluster[2].commit) == (2, 1)
    assert not cluster[2].restore(2, 1, conf("123"))
    assert (cluster[2].last_index, cluster[2].commit) == (2, 2)
    cluster.settle()
    assert [entry.index for entry in cluster.nodes[2].applied] == [1, 2]
