"""Messages that no correct member sends: they may be useless, they may not do harm."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raft_cluster import Cluster, Node, log_of

from plasmacloud.raft.errors import StateLost
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import FROM_LEADER, Message, MessageType
from plasmacloud.raft.raft import StateRole
from plasmacloud.storage.entry import EntryKind
from plasmacloud.storage.entry_codec import make_entry

M = MessageType
THREE = ConfState(voters=frozenset({1, 2, 3}), learners=frozenset({4}))


def test_messages_for_others_from_nobody_or_from_oneself_are_ignored() -> None:
    node = Node(1, THREE)
    for to, sender in ((2, 3), (1, 0), (1, 1), (0, 2)):
        node.raft.step(Message(M.APPEND, to, sender, 5, entries=log_of(5)))
    assert (node.raft.term, node.raft.last_index, node.raft.has_ready()) == (0, 0, False)


@pytest.mark.parametrize("kind", sorted(set(M) - {M.PROPOSE, M.READ_INDEX, M.TRANSFER_LEADER}))
def test_messages_without_a_term_are_ignored(kind: MessageType) -> None:
    node = Node(1, THREE)
    node.raft.step(Message(kind, 1, 2))
    assert (node.raft.leader_id, node.raft.has_ready()) == (0, False)


@pytest.mark.parametrize("kind", sorted(FROM_LEADER))
def test_a_second_leader_of_a_term_is_not_believed(kind: MessageType) -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    for id in (1, 2):
        cluster[id].step(Message(kind, id, 3, 1, index=1, log_term=1, commit=1, entries=[]))
        assert cluster[id].leader_id == 1
        assert not cluster[id].has_ready()


def test_entries_that_do_not_follow_one_another_are_ignored() -> None:
    node = Node(1, THREE)
    one, two, three = log_of(2, 2, 2)
    for entries in ([two], [one, three], [one, make_entry(1, 2, EntryKind.COMMANDS, b"")], log_of(9)):
        node.raft.step(Message(M.APPEND, 1, 2, 2, entries=entries))
    assert node.raft.last_index == 0


def test_acknowledgements_of_what_was_never_sent_are_ignored() -> None:
    cluster = Cluster.of(3)
    leader = cluster.elect(1)
    leader.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=99))
    leader.step(Message(M.APPEND_RESPONSE, 1, 7, 1, index=1))
    assert leader.status().progress[2].match == 1
    assert set(leader.status().progress) == {1, 2, 3}


def test_a_commit_beyond_the_log_means_that_the_disk_lost_what_it_had_acknowledged() -> None:
    node = Node(1, THREE)
    with pytest.raises(StateLost):
        node.raft.step(Message(M.HEARTBEAT, 1, 2, 3, commit=4))


def test_read_indexes_come_from_the_leader() -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    cluster[2].read_index(7)
    cluster.nodes[2].take()
    cluster[2].step(Message(M.READ_INDEX_RESPONSE, 2, 3, 1, index=0, context=7))
    cluster.settle()
    assert cluster.nodes[2].reads == []


def test_time_and_answers_from_strangers_do_not_make_a_leader() -> None:
    node = Node(1, THREE)
    node.raft.campaign()
    node.take()
    for stranger in (4, 5, 6, 7):
        node.raft.step(Message(M.PRE_VOTE_RESPONSE, 1, stranger, 1))
    assert node.raft.role is StateRole.PRE_CANDIDATE


small = st.integers(0, 6)
noise = st.builds(
    Message,
    type=st.sampled_from(MessageType),
    to=st.just(1),
    sender=st.integers(0, 6),
    term=small,
    log_term=small,
    index=small,
    commit=small,
    hint_index=small,
    hint_term=small,
    context=small,
    reject=st.booleans(),
    force=st.booleans(),
    entries=st.lists(
        st.builds(make_entry, st.integers(1, 6), st.integers(1, 6), st.just(EntryKind.COMMANDS), st.just(b"")),
        max_size=3,
    ),
    data=st.just(b""),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(noise, st.sampled_from(["tick", "campaign", "propose", "lost"])), max_size=40))
def test_noise_breaks_no_invariant(events: list[Message | str]) -> None:
    """Whatever arrives, terms and commits only rise, votes stay, and nothing but StateLost is raised."""
    node = Node(1, THREE, election_ticks=3, heartbeat_ticks=1)
    for event in events:
        raft = node.raft
        before = (raft.term, raft.vote, raft.commit)
        try:
            if isinstance(event, Message):
                raft.step(event)
            elif event == "tick":
                raft.tick()
            elif event == "campaign":
                raft.campaign()
            elif event == "lost":
                raft.peer_lost(raft.leader_id)
            elif raft.role is StateRole.LEADER:
                raft.propose(b"x")
        except StateLost:
            return
        assert raft.term >= before[0]
        assert raft.term > before[0] or before[1] in (0, raft.vote)
        assert before[2] <= raft.commit <= raft.last_index
        for progress in raft.tracker.progress.values():
            assert 0 <= progress.match < progress.next
        node.take()
