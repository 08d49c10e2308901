"""What the Raft paper (§) and the Raft thesis (thesis §) say about the log and reads of it, one test per statement."""

import pytest
from raft_cluster import Cluster, alone, answers, lead_with, log_of

from plasmacloud.raft.errors import NoLeader
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.raft import StateRole
from plasmacloud.storage.entry import EntryKind, HardState
from plasmacloud.storage.entry_codec import make_entry

M = MessageType


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


def test_5_3_a_candidate_whose_disk_is_still_writing_leads_once_that_is_done() -> None:
    node = alone(pre_vote=False)
    node.held = True
    node.raft.step(Message(M.APPEND, 1, 2, 1, entries=log_of(1, 1)))
    node.take()
    node.raft.campaign()  # stands with entries that its disk is still writing
    node.take()
    node.raft.step(Message(M.VOTE_RESPONSE, 1, 2, 2))
    node.raft.step(Message(M.VOTE_RESPONSE, 1, 3, 2))
    assert node.raft.role is StateRole.CANDIDATE, "its log and its vote are not durable"
    node.sync()
    assert node.raft.role is StateRole.LEADER
    assert node.raft.status().progress[1].match == 2, "what it inherited is on its disk"


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
