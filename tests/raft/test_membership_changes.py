"""Changing the membership of a running group: one change at a time, and who may stand and lead meanwhile."""

import pytest
from raft_cluster import THREE, Member, alone, changed, conf, group, lead_with, log_of, member

from plasmacloud.raft.errors import NotLeader, ProposalRefused, Refusal, TransferRefused
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.raft import Ready, StateRole
from plasmacloud.storage.entry import Entry, EntryKind, HardState
from plasmacloud.storage.entry_codec import make_entry

M = MessageType


def entry(term: int, index: int, new: ConfState | None = None) -> Entry:
    return make_entry(term, index, EntryKind.MEMBERSHIP, new.encode()) if new else log_of(*[term] * index)[-1]


# -- one at a time ----------------------------------------------------------------------------------------------------


def test_the_second_change_waits_until_the_first_is_applied() -> None:
    cluster = group(THREE, 4, 5)
    leader = cluster.elect(1)
    member(cluster, 1).slow = True
    changed(cluster, 1, conf("123", learners="4"))
    assert (leader.commit, leader.applied) == (2, 1)
    assert leader.membership_pending
    with pytest.raises(ProposalRefused) as refused:
        leader.propose_membership(conf("123", learners="5").encode())
    assert refused.value.reason is Refusal.MEMBERSHIP
    assert leader.propose(b"x") == (1, 3), "commands go on"
    member(cluster, 1).catch_up()
    assert not leader.membership_pending
    changed(cluster, 1, conf("123", learners="45"))
    member(cluster, 1).catch_up()
    cluster.settle()
    assert {cluster[id].conf for id in (1, 2, 3, 4, 5)} == {conf("123", learners="45")}


def test_a_follower_does_not_change_the_membership() -> None:
    cluster = group(THREE)
    cluster.elect(1)
    with pytest.raises(NotLeader):
        cluster[2].propose_membership(b"")


def test_no_change_while_leadership_is_handed_over() -> None:
    cluster = group(THREE)
    leader = cluster.elect(1)
    cluster.isolate(3)
    leader.transfer_leader(3)
    with pytest.raises(ProposalRefused) as refused:
        leader.propose_membership(b"")
    assert refused.value.reason is Refusal.TRANSFER


def test_a_new_leader_first_applies_what_it_inherited_and_the_start_of_its_own_term() -> None:
    for inherited in ([], log_of(1, 1), [entry(1, 1, conf("123", learners="4"))]):
        node = alone(conf=THREE, entries=inherited, pre_vote=False, seed=1)
        node.raft.campaign()
        node.take()
        node.raft.step(Message(M.VOTE_RESPONSE, 1, 2, node.raft.term))
        assert node.raft.role is StateRole.LEADER
        node.take()
        with pytest.raises(ProposalRefused) as refused:
            node.raft.propose_membership(b"")
        assert refused.value.reason is Refusal.MEMBERSHIP
        node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, node.raft.term, index=node.raft.last_index))
        node.take()
        assert node.raft.applied == node.raft.last_index
        node.raft.propose_membership(b"")


def test_a_change_that_a_new_leader_overwrites_is_no_longer_pending() -> None:
    cluster = group(THREE)
    leader = cluster.elect(1)
    cluster.isolate(1)
    changed(cluster, 1, conf("123", learners="4"))
    assert leader.membership_pending
    cluster[2].campaign()
    cluster.tick(60, 2, 3)
    cluster.heal()
    cluster.tick(60)
    assert not leader.membership_pending
    assert {cluster[id].conf for id in (1, 2, 3)} == {THREE}


# -- who may stand ----------------------------------------------------------------------------------------------------


def behind() -> Member:
    """Replica 2 of a group in which the removal of 3 is committed, which 2 knows and has not applied."""
    cluster = group(THREE)
    cluster.elect(1)
    member(cluster, 2).slow = True
    changed(cluster, 1, conf("12"))
    node = member(cluster, 2)
    assert (node.raft.commit, node.raft.applied, node.raft.conf) == (2, 1, THREE)
    return node


def test_who_knows_of_an_unapplied_change_does_not_stand_and_does_so_once_it_is_applied() -> None:
    for how in ("campaign", "timeout", "lost"):
        node = behind()
        if how == "campaign":
            node.raft.campaign()
        elif how == "lost":
            node.raft.peer_lost(1)
        for _ in range(100):
            node.raft.tick()
        assert (node.raft.role, node.take()) == (StateRole.FOLLOWER, [])
        node.slow = False
        node.catch_up()
        node.raft.tick()
        assert node.raft.role is StateRole.PRE_CANDIDATE
        assert [(m.type, m.to) for m in node.take()] == [(M.PRE_VOTE, 1)], "the removed member is not asked"


def test_a_handover_that_comes_too_early_is_made_up_for() -> None:
    node = behind()
    node.raft.step(Message(M.TIMEOUT_NOW, 2, 1, 1))
    assert node.raft.role is StateRole.FOLLOWER
    node.catch_up()
    node.raft.tick()
    assert [(m.type, m.to, m.force) for m in node.take()] == [(M.VOTE, 1, True)]


def test_a_handover_that_comes_too_early_is_forgotten_when_the_leader_goes_on() -> None:
    node = behind()
    node.raft.step(Message(M.TIMEOUT_NOW, 2, 1, 1))
    node.raft.step(Message(M.HEARTBEAT, 2, 1, 1))
    node.catch_up()
    node.raft.tick()
    assert node.raft.role is StateRole.FOLLOWER
    node.raft.peer_lost(1)
    for _ in range(node.raft.config.hint_stagger_ticks):
        node.raft.tick()
    assert node.raft.role is StateRole.PRE_CANDIDATE, "and a later hint asks politely"


def test_the_word_to_take_over_is_repeated_with_the_heartbeats() -> None:
    cluster = group(THREE)
    leader = cluster.elect(1)
    cluster.lost = lambda m: m.type is M.TIMEOUT_NOW
    leader.transfer_leader(2)
    cluster.settle()
    cluster.heal()
    cluster.tick(leader.config.heartbeat_ticks)
    assert cluster[2].role is StateRole.LEADER


def test_of_several_changes_in_a_log_all_but_the_last_are_committed_also_after_a_restart() -> None:
    entries = [entry(1, 1), entry(1, 2, conf("1234")), entry(1, 3), entry(1, 4, conf("12345")), entry(1, 5)]
    node = Member(1, THREE, entries=entries, hard_state=HardState(1, 0, 0))
    assert (node.raft.commit, node.raft.conf) == (2, THREE)
    node.raft.campaign()
    assert node.raft.role is StateRole.FOLLOWER, "the majority of the past is not asked"
    node.take()
    assert node.raft.conf == conf("1234")
    node.raft.campaign()
    assert [m.to for m in node.take() if m.type is M.PRE_VOTE] == [2, 3, 4]


def test_a_change_is_applied_only_when_its_commit_is_durable() -> None:
    """Else a crash brings the old configuration back, when those who left may be gone for good."""
    node = lead_with(THREE)
    node.take()
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=1))
    node.take()
    node.raft.propose_membership(conf("1").encode())
    node.take()
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=2))
    rd = node.raft.ready()
    assert (rd.hard_state, rd.must_sync, rd.committed) == (HardState(1, 1, 2), True, [])
    assert not node.raft.has_ready(), "nothing to do until the disk has it"
    node.raft.advance(rd)
    assert [each.index for each in node.raft.ready().committed] == [2]


def test_a_ready_without_a_change_of_the_membership_does_not_sync_for_a_commit_index() -> None:
    node = lead_with(THREE)
    node.take()
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=1))
    rd: Ready = node.raft.ready()
    assert ([each.index for each in rd.committed], rd.must_sync, rd.hard_state) == ([1], False, None)


def test_the_last_member_leads_alone_after_everything_lost_power() -> None:
    cluster = group(conf("12"))
    cluster.elect(1)
    changed(cluster, 1, conf("1"))
    survivor = Member(1, conf("12"), entries=cluster.nodes[1].disk.items, hard_state=cluster.nodes[1].hard_state)
    survivor.take()
    survivor.raft.campaign()
    survivor.take()
    assert survivor.raft.role is StateRole.LEADER


# -- leaders that go --------------------------------------------------------------------------------------------------


def test_a_leader_that_was_removed_hands_over_at_once() -> None:
    cluster = group(conf("1234"))
    cluster.elect(1)
    cluster.isolate(4)
    changed(cluster, 1, conf("234"))
    assert cluster[1].role is StateRole.FOLLOWER
    assert cluster.sent(M.TIMEOUT_NOW)[-1].to == 3, "the longest log, not the member that is out of reach"
    cluster.tick()
    assert cluster[3].role is StateRole.LEADER, "without waiting for a timeout"
    assert cluster[2].leader_id == 3


def test_a_joint_change_that_takes_the_leader_away_ends_with_another_leader() -> None:
    cluster = group(conf("123"), 4, 5)
    leader = cluster.elect(1)
    changed(cluster, 1, ConfState(frozenset({3, 4, 5}), frozenset({1, 2, 3}), auto_leave=True))
    assert (leader.role, leader.conf.joint) == (StateRole.LEADER, True)
    changed(cluster, 1, conf("345"))
    assert leader.role is StateRole.FOLLOWER
    cluster.tick()
    assert cluster.leader().id in (3, 4, 5)
    cluster.isolate(1, 2)
    cluster.leader().propose(b"x")
    cluster.settle()
    assert cluster.leader().commit == cluster.leader().last_index


def test_a_removed_leader_with_the_longer_log_does_not_block_those_who_stay() -> None:
    """It refuses its vote, and says that the removal is committed: then the vote is not needed."""
    cluster = group(conf("12"))
    leader = cluster.elect(1)
    leader.propose_membership(conf("2").encode())
    cluster.lost = lambda m: m.sender == 1  # but its last append arrived
    for message in member(cluster, 1).take():
        cluster[2].step(message)
    leader.propose(b"more that nobody else gets")
    cluster.settle()
    cluster.heal()
    assert (leader.role, leader.conf, leader.last_index) == (StateRole.FOLLOWER, conf("2"), 3)
    assert (cluster[2].conf, cluster[2].commit, cluster[2].last_index) == (conf("12"), 1, 2)
    cluster[2].peer_lost(1)
    cluster.tick(3)
    assert (cluster[2].role, cluster[2].conf) == (StateRole.LEADER, conf("2"))


def test_a_candidate_that_learns_of_a_change_stops_and_starts_over_with_the_new_configuration() -> None:
    entries = [entry(1, 1), entry(1, 2, conf("1"))]
    for kind, term in ((M.VOTE_RESPONSE, 2), (M.PRE_VOTE_RESPONSE, 1)):
        node = Member(1, THREE, entries=entries, hard_state=HardState(1, 0, 1), pre_vote=kind is M.PRE_VOTE_RESPONSE)
        node.raft.campaign()
        node.take()
        node.raft.step(Message(kind, 1, 2, term, commit=2, hint_term=1, reject=True))
        assert node.raft.role is StateRole.FOLLOWER
        node.take()
        node.raft.tick()
        node.take()
        assert (node.raft.role, node.raft.conf) == (StateRole.LEADER, conf("1"))


def test_only_an_entry_that_is_in_the_log_is_learned_to_be_committed() -> None:
    node = alone(entries=log_of(1, 1, 2))
    node.raft.step(Message(M.PRE_VOTE, 1, 2, 9, index=9, log_term=3, commit=4, hint_term=2))
    node.raft.step(Message(M.PRE_VOTE, 1, 2, 9, index=9, log_term=3, commit=3, hint_term=3))
    assert node.raft.commit == 0
    node.raft.step(Message(M.PRE_VOTE, 1, 2, 9, index=9, log_term=3, commit=2, hint_term=1))
    assert node.raft.commit == 2


def test_leadership_goes_only_to_a_voter_of_the_new_configuration() -> None:
    joint = ConfState(frozenset({1, 2}), frozenset({1, 3}), frozenset({4}))
    cluster = group(joint)
    leader = cluster.elect(1)
    for other in (3, 4, 5):
        with pytest.raises(TransferRefused):
            leader.transfer_leader(other)
    cluster[2].transfer_leader(4)
    cluster.settle()
    assert leader.status().transferee == 0


def test_a_transfer_to_a_member_that_is_demoted_meanwhile_is_given_up() -> None:
    cluster = group(THREE)
    leader = cluster.elect(1)
    cluster.isolate(3)
    leader.propose_membership(conf("12", learners="3").encode())
    leader.transfer_leader(3)
    cluster.settle()
    assert leader.conf == conf("12", learners="3")
    assert leader.takes_proposals
