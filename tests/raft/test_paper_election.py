"""What the Raft paper (§) and the Raft thesis (thesis §) say about elections, one test per statement."""

import pytest
from raft_cluster import Cluster, Node, alone, answers, lead_with, log_of

from plasmacloud.raft.errors import NoLeader, NotLeader, ProposalRefused, Refusal, TransferRefused
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.raft import StateRole
from plasmacloud.storage.entry import EntryKind, HardState
from plasmacloud.storage.entry_codec import make_entry

M = MessageType


# -- §5.1 terms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [StateRole.FOLLOWER, StateRole.CANDIDATE, StateRole.LEADER])
def test_5_1_whoever_sees_a_higher_term_becomes_its_follower(role: StateRole) -> None:
    node = alone(pre_vote=False)
    if role is not StateRole.FOLLOWER:
        node.raft.campaign()
        node.take()
    if role is StateRole.LEADER:
        node.raft.step(Message(M.VOTE_RESPONSE, 1, 2, 1))
    assert node.raft.role is role
    node.raft.step(Message(M.APPEND, 1, 3, 9))
    assert (node.raft.role, node.raft.term, node.raft.leader_id) == (StateRole.FOLLOWER, 9, 3)


def test_5_1_a_leader_of_the_past_is_told_so_and_not_followed() -> None:
    node = alone(hard_state=HardState(term=5))
    (answer,) = answers(node, Message(M.APPEND, 1, 2, 4, entries=log_of(4)))
    assert (answer.type, answer.term, answer.reject) == (M.APPEND_RESPONSE, 5, True)
    assert node.raft.last_index == 0
    assert node.raft.leader_id == 0


def test_5_1_the_term_is_durable_before_it_is_spoken_of() -> None:
    node = alone()
    node.raft.step(Message(M.VOTE, 1, 2, 3))
    rd = node.raft.ready()
    assert rd.must_sync
    assert rd.hard_state == HardState(term=3, vote=2)
    assert rd.messages == []
    assert [(m.type, m.reject) for m in rd.after_sync] == [(M.VOTE_RESPONSE, False)]


# -- §5.2 leader election ----------------------------------------------------------------------------------------------


def test_5_2_starts_as_follower_and_stands_after_a_random_timeout() -> None:
    timeouts = set()
    for seed in range(40):
        node = alone(seed=seed, pre_vote=False, election_ticks=10, heartbeat_ticks=2)
        assert node.raft.role is StateRole.FOLLOWER
        ticks = 0
        while node.raft.role is StateRole.FOLLOWER:
            node.raft.tick()
            ticks += 1
        assert node.raft.role is StateRole.CANDIDATE
        timeouts.add(ticks)
    assert timeouts <= set(range(10, 20))
    assert len(timeouts) > 5


def test_5_2_a_leader_keeps_its_followers_quiet_with_heartbeats() -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    cluster.tick(300)
    assert cluster[1].role is StateRole.LEADER
    assert {raft.term for raft in (cluster[1], cluster[2], cluster[3])} == {1}


def test_5_2_a_candidate_votes_for_itself_and_asks_all_others() -> None:
    node = alone(pre_vote=False)
    node.raft.campaign()
    rd = node.raft.ready()
    assert rd.hard_state == HardState(term=1, vote=1)
    assert [(m.type, m.to, m.term) for m in rd.messages] == [(M.VOTE, 2, 1), (M.VOTE, 3, 1)]
    assert rd.after_sync == []


def test_5_2_nobody_leads_before_its_own_vote_is_durable_whoever_else_voted_for_it() -> None:
    node = alone(pre_vote=False)
    node.raft.campaign()
    rd = node.raft.ready()
    for voter in (2, 3):
        node.raft.step(Message(M.VOTE_RESPONSE, 1, voter, 1))
        assert node.raft.role is StateRole.CANDIDATE
    node.raft.advance(rd)
    assert node.raft.role is StateRole.LEADER


def test_5_4_1_a_candidate_asks_for_votes_only_for_a_log_that_is_durable() -> None:
    node = alone(pre_vote=False)
    node.raft.step(Message(M.APPEND, 1, 2, 1, entries=[make_entry(1, 1, EntryKind.COMMANDS, b"a")]))
    node.raft.campaign()
    rd = node.raft.ready()
    assert not [m for m in rd.messages if m.type is M.VOTE]
    asked = [m for m in rd.after_sync if m.type is M.VOTE]
    assert [(m.to, m.term, m.index, m.log_term) for m in asked] == [(2, 2, 1, 1), (3, 2, 1, 1)]


@pytest.mark.parametrize(
    ("size", "grants", "refusals", "role"),
    [
        (1, [], [], StateRole.LEADER),
        (3, [2], [], StateRole.LEADER),
        (3, [2], [3], StateRole.LEADER),
        (3, [], [], StateRole.CANDIDATE),
        (3, [], [2], StateRole.CANDIDATE),
        (3, [], [2, 3], StateRole.FOLLOWER),
        (5, [2], [3], StateRole.CANDIDATE),
        (5, [2, 3], [], StateRole.LEADER),
        (5, [2], [3, 4, 5], StateRole.FOLLOWER),
        (4, [2], [], StateRole.CANDIDATE),
        (4, [2], [3, 4], StateRole.FOLLOWER),
    ],
)
def test_5_2_the_outcome_of_an_election(size: int, grants: list[int], refusals: list[int], role: StateRole) -> None:
    node = alone(conf=ConfState(voters=frozenset(range(1, size + 1))), pre_vote=False)
    node.raft.campaign()
    node.take()
    for voter in grants:
        node.raft.step(Message(M.VOTE_RESPONSE, 1, voter, 1))
    for voter in refusals:
        node.raft.step(Message(M.VOTE_RESPONSE, 1, voter, 1, reject=True))
    assert node.raft.role is role


def test_5_2_repeated_or_foreign_votes_do_not_count() -> None:
    node = alone(conf=ConfState(voters=frozenset(range(1, 6)), learners=frozenset({6})), pre_vote=False)
    node.raft.campaign()
    node.take()
    for voter in (2, 2, 2, 6, 77):
        node.raft.step(Message(M.VOTE_RESPONSE, 1, voter, 1))
    assert node.raft.role is StateRole.CANDIDATE


def test_5_2_one_vote_per_term_first_come_first_served_also_after_a_restart() -> None:
    node = alone()
    assert [m.reject for m in answers(node, Message(M.VOTE, 1, 2, 1))] == [False]
    assert [m.reject for m in answers(node, Message(M.VOTE, 1, 3, 1))] == [True]
    node.restart()
    assert [m.reject for m in answers(node, Message(M.VOTE, 1, 3, 1))] == [True]
    assert [m.reject for m in answers(node, Message(M.VOTE, 1, 2, 1))] == [False]


@pytest.mark.parametrize("kind", [M.APPEND, M.HEARTBEAT, M.COMMIT, M.SNAPSHOT])
def test_5_2_a_candidate_follows_the_leader_that_its_term_has(kind: MessageType) -> None:
    node = alone(pre_vote=False)
    node.raft.campaign()
    node.take()
    node.raft.step(Message(kind, 1, 3, 1))
    assert (node.raft.role, node.raft.leader_id, node.raft.vote) == (StateRole.FOLLOWER, 3, 1)


def test_5_2_a_split_vote_is_retried_in_a_new_term() -> None:
    node = alone(pre_vote=False)
    node.raft.campaign()
    node.take()
    for _ in range(2 * node.raft.config.election_ticks):
        node.raft.tick()
    assert (node.raft.role, node.raft.term) == (StateRole.CANDIDATE, 2)


def test_5_2_the_own_vote_counts_only_once_it_is_durable() -> None:
    """Else a single voter, crashing, could lead a term twice and give its learners two histories of it."""
    node = alone(conf=ConfState(voters=frozenset({1}), learners=frozenset({2})))
    node.held = True
    node.raft.campaign()
    assert node.take() == []
    node.raft.step(Message(M.VOTE_RESPONSE, 1, 2, 1))  # somebody who has no vote makes us count
    assert node.raft.role is StateRole.CANDIDATE
    node.held = False
    node.sync()
    assert node.raft.role is StateRole.LEADER
    assert [m.type for m in node.take()] == [M.APPEND]


def test_5_2_a_learner_never_stands() -> None:
    node = alone(4, conf=ConfState(voters=frozenset({1, 2, 3}), learners=frozenset({4})))
    node.raft.campaign()
    for _ in range(100):
        node.raft.tick()
    node.raft.step(Message(M.TIMEOUT_NOW, 4, 1, 1))
    assert (node.raft.role, node.take()) == (StateRole.FOLLOWER, [])


# -- thesis §3.10 leadership transfer ----------------------------------------------------------------------------------


def test_thesis_3_10_transfer_to_a_follower_that_is_up_to_date_is_immediate() -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    cluster[1].transfer_leader(2)
    cluster.settle()  # no tick passes
    assert (cluster.leader().id, cluster[1].role) == (2, StateRole.FOLLOWER)


def test_thesis_3_10_a_follower_forwards_the_request() -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    cluster[2].transfer_leader(3)
    cluster.settle()
    assert cluster.leader().id == 3


def test_thesis_3_10_transfer_goes_to_voters_only() -> None:
    node = lead_with(ConfState(voters=frozenset({1, 2}), outgoing=frozenset({1, 3}), learners=frozenset({4})))
    for refused in (3, 4, 9):
        with pytest.raises(TransferRefused):
            node.raft.transfer_leader(refused)
    node.raft.transfer_leader(1)
    assert node.raft.status().transferee == 0
    with pytest.raises(NoLeader):
        alone().raft.transfer_leader(2)


def test_thesis_3_10_no_proposals_meanwhile_and_again_after_an_election_timeout() -> None:
    cluster = Cluster.of(3)
    leader = cluster.elect(1)
    cluster.isolate(2)
    leader.transfer_leader(2)
    with pytest.raises(ProposalRefused) as caught:
        leader.propose(b"x")
    assert caught.value.reason is Refusal.TRANSFER
    cluster.tick(leader.config.election_ticks - 1, 1, 3)
    assert leader.status().transferee == 2
    cluster.tick(1, 1, 3)
    assert leader.status().transferee == 0
    leader.propose(b"x")


def test_thesis_3_10_transfer_ends_when_the_target_dies() -> None:
    cluster = Cluster.of(3)
    leader = cluster.elect(1)
    cluster.isolate(2)
    leader.transfer_leader(2)
    leader.peer_lost(2)
    leader.propose(b"x")


# -- thesis §4.2.3 and §6.2 check-quorum -------------------------------------------------------------------------------


def test_thesis_4_2_3_a_member_that_hears_its_leader_ignores_candidates() -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    for kind in (M.VOTE, M.PRE_VOTE):
        for id in (1, 2):
            cluster[id].step(Message(kind, id, 3, 99, index=99, log_term=98))
            assert cluster.nodes[id].take() == []
            assert cluster[id].term == 1


def test_6_2_a_leader_without_a_quorum_steps_down_within_two_election_timeouts() -> None:
    cluster = Cluster.of(3)
    leader = cluster.elect(1)
    cluster.isolate(1)
    ticks = 0
    while leader.role is StateRole.LEADER:
        leader.tick()
        cluster.settle()
        ticks += 1
    assert ticks <= 2 * leader.config.election_ticks
    assert leader.leader_id == 0
    with pytest.raises(NotLeader):
        leader.propose(b"x")


def test_6_2_a_leader_with_a_bare_quorum_stays() -> None:
    cluster = Cluster.of(3)
    leader = cluster.elect(1)
    cluster.isolate(3)
    cluster.tick(200, 1, 2)
    assert leader.role is StateRole.LEADER


def test_6_2_learners_do_not_keep_a_leader() -> None:
    conf = ConfState(voters=frozenset({1, 2, 3}), learners=frozenset({4, 5}))
    cluster = Cluster(Node(id, conf) for id in range(1, 6))
    leader = cluster.elect(1)
    cluster.isolate(2, 3)
    cluster.tick(70, 1, 4, 5)
    assert leader.role is StateRole.FOLLOWER


# -- thesis §9.6 pre-vote ----------------------------------------------------------------------------------------------


def test_thesis_9_6_a_pre_vote_changes_nothing_durable_on_either_side() -> None:
    cluster = Cluster.of(3)
    cluster[1].campaign()
    rd = cluster[1].ready()
    assert cluster[1].role is StateRole.PRE_CANDIDATE
    assert (rd.hard_state, rd.must_sync, [m.term for m in rd.messages]) == (None, False, [1, 1])
    cluster[2].step(rd.messages[0])
    answer = cluster[2].ready()
    assert (answer.hard_state, answer.must_sync) == (None, False)
    assert (cluster[2].term, cluster[2].vote) == (0, 0)


def test_thesis_9_6_a_member_that_was_cut_off_returns_without_disturbing() -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    cluster.isolate(3)
    cluster.tick(500)
    assert cluster[3].term == 1
    cluster.heal()
    cluster.tick(10)
    assert (cluster[1].role, cluster[1].term, cluster[3].leader_id) == (StateRole.LEADER, 1, 1)


def test_thesis_9_6_a_restarted_member_returns_without_disturbing() -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    cluster.nodes[3].restart()
    for id in (1, 2):
        cluster[id].peer_lost(3)
    cluster[3].campaign()
    cluster.settle()
    cluster.tick(20)
    assert (cluster[1].role, cluster[1].term, cluster[3].leader_id) == (StateRole.LEADER, 1, 1)
    cluster[1].propose(b"x")
    cluster.settle()
    assert cluster[3].commit == 2


def test_thesis_9_6_a_grant_may_follow_a_refusal_but_is_not_taken_back() -> None:
    node = alone(conf=ConfState(voters=frozenset(range(1, 6))))
    node.raft.campaign()
    node.take()
    node.raft.step(Message(M.PRE_VOTE_RESPONSE, 1, 2, 1))
    node.raft.tracker.record_vote(2, False)
    node.raft.tracker.record_vote(3, False)
    assert node.raft.role is StateRole.PRE_CANDIDATE
    node.raft.step(Message(M.PRE_VOTE_RESPONSE, 1, 3, 1))
    assert node.raft.role is StateRole.CANDIDATE


def test_thesis_9_6_answers_to_an_earlier_pre_vote_do_not_count() -> None:
    node = alone(hard_state=HardState(term=3))
    node.raft.campaign()
    node.take()
    node.raft.step(Message(M.PRE_VOTE_RESPONSE, 1, 2, 3))
    assert node.raft.role is StateRole.PRE_CANDIDATE
    node.raft.step(Message(M.PRE_VOTE_RESPONSE, 1, 2, 4))
    assert (node.raft.role, node.raft.term) == (StateRole.CANDIDATE, 4)
