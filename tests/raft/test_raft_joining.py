"""Members that join: what learners may do and what they cannot hold up, and the quorums of a changed group."""

import random

import pytest
from raft_cluster import THREE, Member, Node, alone, changed, conf, group, lead_with

from plasmacloud.raft.errors import StateLost
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.raft import StateRole

M = MessageType


# -- learners ---------------------------------------------------------------------------------------------------------


def test_a_learner_never_stands_and_its_vote_does_not_count() -> None:
    cluster = group(conf("123", learners="4"))
    learner = cluster[4]
    learner.campaign()
    cluster.elect(1)
    learner.step(Message(M.TIMEOUT_NOW, 4, 1, 1))
    learner.peer_lost(1)
    cluster.tick(100, 4)
    assert (learner.role, learner.term) == (StateRole.FOLLOWER, 1)
    cluster = group(conf("123", learners="4"), pre_vote=False)
    cluster.isolate(2, 3)
    cluster[1].campaign()
    cluster.settle()
    cluster[1].step(Message(M.VOTE_RESPONSE, 1, 4, 1))
    assert cluster[1].role is StateRole.CANDIDATE


def test_a_learner_that_does_not_know_of_its_promotion_votes() -> None:
    """The candidate knows better who votes; without this answer the group would stand still with a majority up."""
    cluster = group(conf("12", learners="3"))
    cluster.elect(1)
    cluster.lost = lambda m: m.to == 3 and m.type in (M.COMMIT, M.HEARTBEAT)
    changed(cluster, 1, conf("123"))
    assert [cluster[id].conf == conf("123") for id in (1, 2, 3)] == [True, True, False]
    cluster.heal()
    cluster.isolate(1)
    cluster.tick(60, 2, 3)
    assert cluster[2].role is StateRole.LEADER


def test_the_lease_of_a_silent_leader_runs_out_on_a_learner_too() -> None:
    for seed in range(40):  # with every election timeout that can be drawn
        node = alone(4, conf=conf("123", learners="4"), seed=seed)
        node.raft.step(Message(M.HEARTBEAT, 4, 1, 1))
        node.take()
        for _ in range(2 * node.raft.config.election_ticks + seed):
            node.raft.tick()
        node.raft.step(Message(M.PRE_VOTE, 4, 2, 2))
        assert [(m.type, m.reject) for m in node.take()] == [(M.PRE_VOTE_RESPONSE, False)]


# -- quorums under change ---------------------------------------------------------------------------------------------


def test_a_promoted_member_that_is_silent_costs_the_leader_its_quorum_and_a_learner_does_not() -> None:
    for new, stays in ((conf("1", learners="2"), True), (conf("12"), False)):
        cluster = group(conf("1"))
        leader = cluster.elect(1)
        changed(cluster, 1, new)
        cluster.tick(3 * leader.config.election_ticks)
        assert (leader.role is StateRole.LEADER) is stays


def test_a_read_under_way_is_confirmed_by_the_majority_in_force() -> None:
    cluster = group(THREE)
    leader = cluster.elect(1)
    cluster.lost = lambda m: m.type in (M.HEARTBEAT, M.HEARTBEAT_RESPONSE) and 3 not in (m.sender, m.to)
    leader.propose_membership(ConfState(frozenset({1, 2}), frozenset({1, 2, 3})).encode())
    cluster.settle()
    leader.read_index(7)
    cluster.settle()
    rd = leader.ready()
    assert rd.read_states == [], "3 confirms for the old half; nobody but the leader for the new one"
    cluster.heal()
    cluster.tick(leader.config.heartbeat_ticks)
    assert cluster.sent(M.HEARTBEAT_RESPONSE)
    assert leader.tracker.confirmed_round() == 1


def test_after_a_change_the_order_of_standing_follows_the_new_voters() -> None:
    cluster = group(conf("123"), 4)
    cluster.elect(1)
    changed(cluster, 1, conf("134", learners="2"))
    cluster.isolate(1)
    for id in (2, 3, 4):
        cluster[id].peer_lost(1)
    cluster.settle()
    assert cluster[3].role is StateRole.LEADER
    assert cluster[2].leader_id == 3


# -- three faults of the past -----------------------------------------------------------------------------------------


def test_a_learner_that_has_received_nothing_is_needed_for_nothing() -> None:
    """Once a change waited for a learner that had not yet received an entry: joining hung for ever."""
    cluster = group(conf("1"))
    leader = cluster.elect(1)
    for count in range(2, 7):
        changed(cluster, 1, conf("1", learners="23456"[: count - 1]))
        leader.propose(b"x")
        leader.read_index(count)
        cluster.tick(leader.config.election_ticks)
        assert not leader.membership_pending
        assert leader.commit == leader.last_index
        assert leader.role is StateRole.LEADER
    changed(cluster, 1, conf("1"))
    assert leader.conf == conf("1"), "and goes as it came"


def test_a_joining_member_that_knows_nothing_answers_from_the_first_message_on() -> None:
    """Once a joining node initialised nothing, so it never answered."""
    for compacted in (False, True):
        cluster = group(conf("1"))
        leader = cluster.elect(1)
        for _ in range(5):
            leader.propose(b"x")
        cluster.settle()
        changed(cluster, 1, conf("1", learners="2"))
        if compacted:
            cluster.nodes[1].disk.compact(leader.applied)
        joining = cluster.nodes[2] = Node(2, ConfState())  # not even a configuration
        assert joining.raft.status().role is StateRole.FOLLOWER
        cluster.tick(3)
        cluster.tick(leader.config.heartbeat_ticks)
        state = leader.status().progress[2]
        assert state.last_contact_ticks < leader.config.heartbeat_ticks
        if compacted:
            assert (state.state, state.pending_snapshot) == ("snapshot", 7)
            assert joining.raft.restore(7, 1, conf("1", learners="2"))
            leader.report_snapshot(2, True)
            cluster.tick(leader.config.heartbeat_ticks)
        state = leader.status().progress[2]
        assert (state.state, state.match) == ("replicate", leader.last_index)


def test_no_message_order_makes_the_leader_stumble_over_a_learner_that_is_behind() -> None:
    """Once the leader asserted that a learner's match was not below its own idea of it."""
    for seed in range(200):
        rng = random.Random(seed)
        leader = lead_with(conf("1", learners="2"))
        raft = leader.raft
        for _ in range(60):
            dice = rng.randrange(9)
            index = rng.randrange(raft.last_index + 3)
            if dice == 0:
                raft.propose(b"x")
            elif dice == 1:
                raft.step(Message(M.APPEND_RESPONSE, 1, 2, raft.term, index=index))
            elif dice == 2:
                hint = rng.randrange(index + 1)
                reply = Message(M.APPEND_RESPONSE, 1, 2, raft.term, index=index, hint_index=hint, reject=True)
                raft.step(reply)
            elif dice == 3:
                raft.step(Message(M.HEARTBEAT_RESPONSE, 1, 2, raft.term))
            elif dice == 4:
                raft.report_snapshot(2, rng.random() < 0.5)
            elif dice == 5:
                raft.apply_membership(conf("1", learners=rng.choice(("", "2", "23"))))
            elif dice == 6 and raft.applied > leader.disk.start:
                leader.disk.compact(raft.applied)
            elif dice == 7:
                raft.peer_lost(2)
            else:
                raft.tick()
            leader.take()
            assert raft.commit == raft.last_index, "nor does it hold up a commit"
            progress = raft.status().progress.get(2)
            assert progress is None or 0 <= progress.match < progress.next


def test_a_member_with_an_emptied_disk_under_its_old_id_does_not_go_on() -> None:
    cluster = group(THREE)
    cluster.elect(1)
    cluster.nodes[3] = Member(3, THREE)
    with pytest.raises(StateLost):
        cluster.tick(20)
