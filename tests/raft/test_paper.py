"""What the Raft paper (§) and the Raft thesis (thesis §) say, one test per statement."""

import pytest
from raft_cluster import Cluster, Node, log_of

from plasmacloud.raft.errors import NoLeader, NotLeader, ProposalRefused, Refusal, TransferRefused
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.raft import StateRole
from plasmacloud.storage.entry import EntryKind, HardState, make_entry

M = MessageType
THREE = ConfState(voters=frozenset({1, 2, 3}))


def alone(id: int = 1, *, conf: ConfState = THREE, **arguments: object) -> Node:
    return Node(id, conf, **arguments)  # type: ignore[arg-type]


def answers(node: Node, message: Message) -> list[Message]:
    node.raft.step(message)
    return node.take()


def lead_with(conf: ConfState = THREE, **arguments: object) -> Node:
    """Replica 1, elected by everybody, its first messages taken."""
    node = alone(conf=conf, pre_vote=False, **arguments)
    node.raft.campaign()
    node.take()
    for voter in sorted(conf.all_voters() - {1}):
        node.raft.step(Message(M.VOTE_RESPONSE, 1, voter, node.raft.term))
    assert node.raft.role is StateRole.LEADER
    return node


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
    assert [(m.type, m.to, m.term) for m in rd.after_sync] == [(M.VOTE, 2, 1), (M.VOTE, 3, 1)]
    assert rd.messages == []


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


# -- §5.3 log replication ----------------------------------------------------------------------------------------------


def test_5_3_the_leader_sends_to_its_followers_while_its_own_disk_writes() -> None:
    cluster = Cluster.of(3)
    leader = cluster.elect(1)
    leader.propose(b"x")
    rd = leader.ready()
    assert [entry.data for entry in rd.entries] == [b"x"]
    assert [(m.type, m.to, len(m.entries)) for m in rd.messages] == [(M.APPEND, 2, 1), (M.APPEND, 3, 1)]
    assert rd.after_sync == []


def test_5_3_the_leader_counts_itself_only_when_its_disk_is_done() -> None:
    node = lead_with()
    node.held = True
    node.take()
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=1))
    assert node.raft.commit == 0, "one follower of three, and a leader whose entry is not durable"
    node.held = False
    node.sync()
    assert node.raft.commit == 1


def test_5_3_a_quorum_of_followers_commits_without_the_leaders_disk_but_it_does_not_apply() -> None:
    node = lead_with()
    node.held = True
    node.take()
    for follower in (2, 3):
        node.raft.step(Message(M.APPEND_RESPONSE, 1, follower, 1, index=1))
    node.take()
    assert node.raft.commit == 1
    assert node.applied == []
    node.sync()
    node.take()
    assert [entry.index for entry in node.applied] == [1]


def test_5_3_old_entries_of_a_new_leader_do_not_count_as_durable_before_they_are() -> None:
    node = alone(pre_vote=False)
    node.held = True
    node.raft.step(Message(M.APPEND, 1, 2, 1, entries=log_of(1, 1)))
    node.take()
    node.raft.campaign()  # stands with entries that its disk is still writing
    node.take()
    node.raft.step(Message(M.VOTE_RESPONSE, 1, 2, 2))
    node.raft.step(Message(M.VOTE_RESPONSE, 1, 3, 2))
    assert node.raft.role is StateRole.LEADER
    assert node.raft.status().progress[1].match == 0


def test_5_3_a_follower_answers_once_the_entries_are_durable() -> None:
    node = alone()
    node.raft.step(Message(M.APPEND, 1, 2, 1, entries=log_of(1, 1)))
    rd = node.raft.ready()
    assert len(rd.entries) == 2
    assert rd.messages == []
    assert [(m.type, m.index, m.reject) for m in rd.after_sync] == [(M.APPEND_RESPONSE, 2, False)]


def test_5_3_a_follower_refuses_what_does_not_fit_and_hints_where_it_could() -> None:
    node = alone(entries=log_of(1, 1, 2, 2, 2), hard_state=HardState(term=2))
    (answer,) = answers(node, Message(M.APPEND, 1, 2, 5, index=9, log_term=4))
    assert (answer.reject, answer.index, answer.hint_index, answer.hint_term) == (True, 9, 5, 2)
    (answer,) = answers(node, Message(M.APPEND, 1, 2, 5, index=5, log_term=1))
    assert (answer.reject, answer.index, answer.hint_index, answer.hint_term) == (True, 5, 2, 1)


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ((1, 1), (1, 1), (1, 1)),
        ((1, 1, 1), (1, 1), (1, 1, 1)),  # a late, shorter append removes nothing that matches
        ((1, 1, 1), (1, 2), (1, 2)),
        ((1, 1, 1), (1, 2, 2, 2), (1, 2, 2, 2)),
        ((), (2,), (2,)),
    ],
)
def test_5_3_conflicting_entries_are_replaced(
    before: tuple[int, ...], after: tuple[int, ...], kept: tuple[int, ...]
) -> None:
    node = alone(entries=log_of(*before))
    (answer,) = answers(node, Message(M.APPEND, 1, 2, 2, entries=log_of(*after)))
    assert answer.index == len(after)
    assert tuple(entry.term for entry in node.disk.items) == kept


def test_5_3_a_follower_commits_only_what_the_leader_showed_it() -> None:
    """The rest of its log may yet be replaced."""
    node = alone(entries=log_of(1, 1, 1), hard_state=HardState(term=1))
    answers(node, Message(M.APPEND, 1, 2, 2, commit=3, entries=log_of(1)))
    assert node.raft.commit == 1


def test_5_3_news_of_a_commit_say_nothing_about_a_log_that_differs() -> None:
    node = alone(entries=log_of(1, 1, 1), hard_state=HardState(term=1))
    node.raft.step(Message(M.COMMIT, 1, 2, 2, index=3, log_term=2, commit=3))
    assert node.raft.commit == 0
    node.raft.step(Message(M.COMMIT, 1, 2, 2, index=2, log_term=1, commit=3))
    assert node.raft.commit == 2


def test_5_3_followers_that_forwarded_a_write_hear_of_its_commit_at_once() -> None:
    cluster = Cluster.of(3)
    leader = cluster.elect(1)
    leader.propose(b"x")
    cluster.settle()  # no tick passes
    assert [raft.commit for raft in (cluster[1], cluster[2], cluster[3])] == [2, 2, 2]


def test_5_3_the_commit_rides_along_with_the_next_entries() -> None:
    node = lead_with()
    node.take()
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=1))
    node.raft.propose(b"x")
    to_2 = [m for m in node.raft.ready().messages if m.to == 2]
    assert [(m.type, m.commit) for m in to_2] == [(M.APPEND, 1)]


def test_5_3_several_appends_are_acknowledged_in_one_answer() -> None:
    node = alone()
    first, second = log_of(1, 1)
    node.raft.step(Message(M.APPEND, 1, 2, 1, entries=[first]))
    node.raft.step(Message(M.APPEND, 1, 2, 1, log_term=1, index=1, entries=[second]))
    assert [(m.type, m.index) for m in node.take()] == [(M.APPEND_RESPONSE, 2)]


# -- §5.4 safety -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "index", "term", "granted"),
    [
        ((1,), 1, 1, True),
        ((1,), 2, 1, True),
        ((1, 1), 1, 1, False),
        ((1, 1), 1, 2, True),
        ((1, 2), 5, 1, False),
        ((), 0, 0, True),
    ],
)
@pytest.mark.parametrize("kind", [M.VOTE, M.PRE_VOTE])
def test_5_4_1_votes_go_to_logs_at_least_as_complete(
    kind: MessageType, own: tuple[int, ...], index: int, term: int, granted: bool
) -> None:
    node = alone(entries=log_of(*own))
    (answer,) = answers(node, Message(kind, 1, 2, 7, index=index, log_term=term))
    assert answer.reject is not granted


def test_5_4_2_figure_8_entries_of_earlier_terms_are_not_committed_by_counting() -> None:
    """Replica 1 leads term 4 and has brought its entry of term 2 to a majority; term 3 may still overwrite it."""
    conf = ConfState(voters=frozenset(range(1, 6)))
    node = alone(conf=conf, entries=log_of(1, 2), hard_state=HardState(term=3), pre_vote=False)
    node.raft.campaign()
    node.take()
    for voter in (2, 3):
        node.raft.step(Message(M.VOTE_RESPONSE, 1, voter, 4))
    assert node.raft.role is StateRole.LEADER
    node.take()
    for follower in (2, 3):
        node.raft.step(Message(M.APPEND_RESPONSE, 1, follower, 4, index=2))
    assert node.raft.commit == 0
    for follower in (2, 3):
        node.raft.step(Message(M.APPEND_RESPONSE, 1, follower, 4, index=3))
    assert node.raft.commit == 3, "its own entry commits, and with it what precedes"


def test_5_4_2_a_new_leader_begins_with_an_empty_entry() -> None:
    node = lead_with()
    assert [(entry.kind, entry.term, entry.data) for entry in node.raft.ready().entries] == [(EntryKind.EMPTY, 1, b"")]


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


# -- thesis §6.4 read index --------------------------------------------------------------------------------------------


def test_thesis_6_4_no_read_before_an_entry_of_the_own_term_is_committed() -> None:
    node = lead_with()
    node.raft.read_index(5)
    node.take()
    node.raft.step(Message(M.HEARTBEAT_RESPONSE, 1, 2, 1, context=1))
    assert node.take() == []
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=1))
    heartbeats = [m for m in node.take() if m.type is M.HEARTBEAT]
    assert [m.context for m in heartbeats] == [1, 1]
    assert node.reads == []
    node.raft.step(Message(M.HEARTBEAT_RESPONSE, 1, 2, 1, context=1))
    node.take()
    assert node.reads == [(5, 1)]


def test_thesis_6_4_a_round_confirms_those_before_it_but_not_those_after() -> None:
    node = lead_with()
    node.take()
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=1))
    for context in (11, 12, 13):
        node.raft.read_index(context)
        node.take()
    node.raft.step(Message(M.HEARTBEAT_RESPONSE, 1, 3, 1, context=1))
    node.take()
    assert node.reads == [(11, 1)]
    node.raft.step(Message(M.HEARTBEAT_RESPONSE, 1, 2, 1, context=3))
    node.take()
    assert node.reads == [(11, 1), (12, 1), (13, 1)]


def test_thesis_6_4_reads_under_load_share_rounds() -> None:
    node = lead_with()
    node.take()
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=1))
    rounds = set()
    for context in range(20):
        node.raft.read_index(context)
        rounds |= {m.context for m in node.take() if m.type is M.HEARTBEAT}
    assert rounds == {1, 2}
    node.raft.step(Message(M.HEARTBEAT_RESPONSE, 1, 2, 1, context=2))
    assert {m.context for m in node.take() if m.type is M.HEARTBEAT} == {3}
    node.raft.step(Message(M.HEARTBEAT_RESPONSE, 1, 2, 1, context=3))
    node.take()
    assert [context for context, _ in node.reads] == list(range(20))


def test_thesis_6_4_the_index_is_as_of_the_round_and_not_of_its_answer() -> None:
    node = lead_with()
    node.take()
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=1))
    node.raft.read_index(5)
    node.take()
    node.raft.propose(b"x")
    node.take()
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=2))
    node.raft.step(Message(M.HEARTBEAT_RESPONSE, 1, 2, 1, context=1))
    node.take()
    assert (node.raft.commit, node.reads) == (2, [(5, 1)])


def test_thesis_6_4_learners_and_strangers_confirm_nothing() -> None:
    node = lead_with(ConfState(voters=frozenset({1, 2, 3}), learners=frozenset({4})))
    node.take()
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=1))
    node.raft.read_index(5)
    node.take()
    for sender, context in ((4, 1), (9, 1), (2, 7), (3, 0)):
        node.raft.step(Message(M.HEARTBEAT_RESPONSE, 1, sender, 1, context=context))
    node.take()
    assert node.reads == []


def test_thesis_6_4_a_single_voter_answers_at_once() -> None:
    node = alone(conf=ConfState(voters=frozenset({1}), learners=frozenset({2})))
    node.raft.campaign()
    node.take()
    node.raft.read_index(5)
    assert node.take() == []
    assert node.reads == [(5, 1)]


def test_thesis_6_4_rounds_do_not_outlive_the_leadership() -> None:
    """A round of an earlier leadership of the same replica must not be confirmed by the answers of a later one."""
    cluster = Cluster.of(3)
    cluster.elect(1)
    cluster.isolate(1)
    cluster[1].read_index(5)
    cluster.settle()
    cluster.heal()
    cluster[1].step(Message(M.HEARTBEAT, 1, 2, 4))  # a leader of term 4 was there
    for id in (2, 3):
        cluster[id].step(Message(M.HEARTBEAT, id, 9, 4))
    cluster.tick(30, 2, 3)
    cluster.elect(1)
    cluster[1].read_index(6)
    cluster.settle()
    assert [context for context, _ in cluster.nodes[1].reads] == [6]


def test_thesis_6_4_without_a_leader_the_caller_is_told() -> None:
    with pytest.raises(NoLeader):
        alone().raft.read_index(1)


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


# -- storage -----------------------------------------------------------------------------------------------------------


def test_a_write_that_a_new_leader_overtook_vouches_for_nothing_that_was_replaced() -> None:
    """Entry 2 of term 1 is written, replaced by one of term 2, and comes back with a leader that kept it.

    Index and term of the first write's entry match again when that write is done - but the disk will yet cut it off.
    """
    node = alone()
    node.held = True
    old = log_of(1, 1)
    node.raft.step(Message(M.APPEND, 1, 2, 1, entries=old))
    node.take()
    node.raft.step(Message(M.APPEND, 1, 3, 2, log_term=1, index=1, entries=[make_entry(2, 2, EntryKind.COMMANDS, b"")]))
    node.take()
    node.raft.step(Message(M.APPEND, 1, 2, 3, log_term=1, index=1, entries=old[1:]))
    node.take()
    first, *rest = node.writing
    node.store(first)
    node.raft.advance(first)
    assert node.raft.log.durable == 1
    for rd in rest:
        node.store(rd)
        node.raft.advance(rd)
    assert node.raft.log.durable == 2


def test_entries_are_handed_out_once_however_many_writes_are_under_way() -> None:
    node = lead_with()
    node.held = True
    node.take()
    for value in (b"a", b"b", b"c"):
        node.raft.propose(value)
        node.take()
    handed = [entry.index for rd in node.writing for entry in rd.entries]
    assert handed == [1, 2, 3, 4]


def test_the_commit_index_alone_is_no_reason_to_write_and_never_ahead_of_the_disk() -> None:
    node = lead_with()
    node.take()
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=1))
    rd = node.raft.ready()
    assert (rd.hard_state, rd.must_sync, rd.number) == (None, False, 0)
    node.raft.propose(b"x")
    assert node.raft.ready().hard_state == HardState(term=1, vote=1, commit=1)


def test_the_recorded_commit_index_never_passes_the_disk() -> None:
    """Else a crash between the two could leave a commit index beyond the end of the log."""
    node = alone()
    node.raft.step(Message(M.APPEND, 1, 2, 1, commit=2, entries=log_of(1, 1)))
    rd = node.raft.ready()
    assert (node.raft.commit, rd.hard_state) == (2, HardState(term=1, commit=0))


def test_readys_are_advanced_in_order() -> None:
    node = lead_with()
    node.held = True
    node.take()
    node.raft.propose(b"x")
    node.take()
    first, second = node.writing[-2:]
    with pytest.raises(AssertionError):
        node.raft.advance(second)
    assert first.number < second.number
