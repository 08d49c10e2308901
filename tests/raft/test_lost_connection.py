"""The hint that a connection broke: fast when the leader is dead, harmless when it is not."""

import pytest
from raft_cluster import Cluster, Node

from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.raft import StateRole

M = MessageType


def crash(cluster: Cluster, id: int) -> None:
    cluster.isolate(id)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_dead_leader_is_replaced_without_waiting_for_a_timeout(size: int, reverse: bool) -> None:
    cluster = Cluster.of(size)
    cluster.elect(1)
    crash(cluster, 1)
    others = sorted(range(2, size + 1), reverse=reverse)
    for id in others:
        cluster[id].peer_lost(1)
        cluster.settle()
    assert (cluster.leader().id, cluster.leader().term) == (2, 2)
    cluster.leader().propose(b"x")
    cluster.settle()
    assert {cluster[id].commit for id in others} == {3}


def test_if_the_first_in_line_is_dead_too_the_second_follows_some_ticks_later() -> None:
    cluster = Cluster.of(5)
    cluster.elect(1)
    crash(cluster, 1)
    crash(cluster, 2)
    for id in (3, 4, 5):
        cluster[id].peer_lost(1)
    cluster.settle()
    assert cluster.leader().id == 1, "nobody new yet"
    cluster.tick(cluster[3].config.hint_stagger_ticks, 3, 4, 5)
    assert cluster.leader().id == 3


def test_the_second_in_line_waits_after_it_let_the_first_try() -> None:
    """A slow disk at the first candidate must not lead to a competing candidacy."""
    cluster = Cluster.of(3)
    cluster.elect(1)
    crash(cluster, 1)
    cluster.nodes[2].held = True
    cluster[2].peer_lost(1)
    cluster[3].peer_lost(1)
    cluster.settle()
    assert cluster[2].role is StateRole.CANDIDATE
    cluster.tick(10, 3)
    assert [m for m in cluster.sent(M.PRE_VOTE) if m.sender == 3] == []
    cluster.nodes[2].held = False
    for message in cluster.nodes[2].sync():
        if message.to == 3:
            cluster[3].step(message)
    cluster.settle()
    assert (cluster.leader().id, cluster.leader().term) == (2, 2)


def test_a_false_alarm_costs_one_refused_pre_vote() -> None:
    cluster = Cluster.of(3)
    leader = cluster.elect(1)
    for _ in range(3):
        cluster[2].peer_lost(1)
        cluster.trace.clear()
        cluster.settle()
        assert {m.type for m in cluster.trace} == {M.PRE_VOTE}
        cluster.tick(leader.config.heartbeat_ticks)
        assert (leader.role, leader.term) == (StateRole.LEADER, 1)
        assert (cluster[2].role, cluster[2].leader_id) == (StateRole.FOLLOWER, 1)


def test_a_pre_vote_deferred_long_ago_is_not_granted() -> None:
    cluster = Cluster.of(3)
    leader = cluster.elect(1)
    cluster[2].peer_lost(1)
    cluster.settle()
    cluster.tick(leader.config.election_ticks)
    assert cluster[2].leader_id == 1
    cluster.trace.clear()
    cluster[3].peer_lost(1)
    cluster.settle()
    assert cluster.sent(M.PRE_VOTE_RESPONSE) == []


def test_a_deferred_pre_vote_of_a_shorter_log_is_not_granted() -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    crash(cluster, 2)
    cluster[1].propose(b"x")
    cluster.settle()
    cluster.heal()
    crash(cluster, 1)
    cluster[2].peer_lost(1)
    cluster.settle()
    cluster[3].peer_lost(1)
    cluster.tick(cluster[3].config.hint_stagger_ticks, 2, 3)
    assert cluster.leader().id == 3


@pytest.mark.parametrize("lost", [0, 2, 3, 9])
def test_the_loss_of_anybody_else_means_nothing_to_a_follower(lost: int) -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    cluster[2].peer_lost(lost)
    assert not cluster[2].has_ready()
    assert cluster[2].leader_id == 1


def test_a_second_hint_while_standing_changes_nothing() -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    crash(cluster, 1)
    cluster[2].peer_lost(1)
    cluster.settle()
    before = cluster[2].status()
    cluster[2].peer_lost(1)
    assert cluster[2].status() == before
    assert not cluster[2].has_ready()


def test_a_leaders_message_after_the_hint_takes_it_back() -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    cluster[3].peer_lost(1)
    assert cluster[3].leader_id == 0
    cluster[1].propose(b"x")
    cluster.settle()
    cluster.tick(10, 2, 3)
    assert (cluster[3].role, cluster[3].leader_id) == (StateRole.FOLLOWER, 1)


def test_a_learner_forgets_its_leader_and_does_not_stand() -> None:
    conf = ConfState(voters=frozenset({1, 2, 3}), learners=frozenset({4}))
    cluster = Cluster(Node(id, conf) for id in (1, 2, 3, 4))
    cluster.elect(1)
    cluster[4].peer_lost(1)
    cluster.tick(10, 4)
    assert (cluster[4].role, cluster[4].leader_id) == (StateRole.FOLLOWER, 0)


def test_a_pre_vote_is_asked_even_where_elections_do_without() -> None:
    cluster = Cluster.of(3, pre_vote=False)
    cluster.elect(1)
    cluster[2].peer_lost(1)
    cluster.settle()
    assert (cluster[2].term, cluster[1].role) == (1, StateRole.LEADER)


def test_a_leader_that_loses_a_member_keeps_leading_and_probes_it() -> None:
    cluster = Cluster.of(3)
    leader = cluster.elect(1)
    leader.peer_lost(3)
    assert leader.status().progress[3].state == "probe"
    leader.propose(b"x")
    cluster.tick(leader.config.heartbeat_ticks)
    assert leader.status().progress[3].state == "replicate"
    assert cluster[3].commit == 2


def test_a_lost_leader_still_answers_for_its_term_when_it_is_not_dead() -> None:
    """Everybody lost the connections to a living leader: they elect another, and the old one follows it."""
    cluster = Cluster.of(3)
    cluster.elect(1)
    cluster[2].peer_lost(1)
    cluster[3].peer_lost(1)
    cluster.settle()
    assert cluster.leader().id == 2
    assert (cluster[1].role, cluster[1].leader_id, cluster[1].term) == (StateRole.FOLLOWER, 2, 2)


def test_a_vote_within_the_lease_needs_the_mark_of_a_transfer() -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    cluster[2].step(Message(M.VOTE, 2, 3, 2, index=1, log_term=1))
    assert cluster.nodes[2].take() == []
    cluster[2].step(Message(M.VOTE, 2, 3, 2, index=1, log_term=1, force=True))
    assert [m.reject for m in cluster.nodes[2].take()] == [False]
