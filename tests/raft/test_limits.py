"""How much may be sent, how much may wait, and what happens when messages are lost."""

import pytest
from raft_cluster import Cluster, Node, log_of

from plasmacloud.base.errors import ConfigError
from plasmacloud.raft.errors import NotLeader, ProposalRefused, Refusal
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.progress import Inflights, Progress, ProgressState
from plasmacloud.raft.raft import Config
from plasmacloud.storage.entry import MAX_ENTRY_DATA_BYTES, RECORD_HEADER_BYTES

M = MessageType


def replicating(**settings: int | bool) -> Node:
    """A leader whose follower 2 is in state REPLICATE; 3 is never heard of."""
    node = Node(1, ConfState(voters=frozenset({1, 2, 3})), pre_vote=False, **settings)
    node.raft.campaign()
    node.take()
    node.raft.step(Message(M.VOTE_RESPONSE, 1, 2, 1))
    node.take()
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=1))
    node.take()
    return node


def appends_to_2(node: Node) -> list[int]:
    """Number of entries in each append to 2 that leaves now."""
    return [len(m.entries) for m in node.take() if m.to == 2 and m.type is M.APPEND]


def test_a_probe_is_one_append_at_a_time() -> None:
    node = Node(1, ConfState(voters=frozenset({1, 2, 3})), pre_vote=False)
    node.raft.campaign()
    node.take()
    node.raft.step(Message(M.VOTE_RESPONSE, 1, 2, 1))
    assert appends_to_2(node) == [1]
    node.raft.propose(b"x")
    assert appends_to_2(node) == []
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=1))
    assert appends_to_2(node) == [1]


def test_a_probe_is_repeated_once_per_heartbeat_and_not_per_read_round() -> None:
    node = Node(1, ConfState(voters=frozenset({1, 2, 3})), pre_vote=False)
    node.raft.campaign()
    node.take()
    node.raft.step(Message(M.VOTE_RESPONSE, 1, 3, 1))
    assert appends_to_2(node) == [1]
    for _ in range(5):
        node.raft.step(Message(M.HEARTBEAT_RESPONSE, 1, 2, 1))
    assert appends_to_2(node) == []
    for _ in range(node.raft.config.heartbeat_ticks):
        node.raft.tick()
    for _ in range(5):
        node.raft.step(Message(M.HEARTBEAT_RESPONSE, 1, 2, 1))
    assert appends_to_2(node) == [1]


def test_pipelining_stops_at_the_number_of_messages() -> None:
    node = replicating(max_inflight_messages=3)
    sent = []
    for _ in range(6):
        node.raft.propose(b"x")
        sent += appends_to_2(node)
    assert sent == [1, 1, 1]
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=3))  # two of the three
    assert appends_to_2(node) == [3], "what waited leaves together"


def test_pipelining_stops_at_the_number_of_bytes() -> None:
    node = replicating(max_inflight_bytes=250)
    sent = 0
    for _ in range(10):
        node.raft.propose(bytes(100))
        sent += sum(appends_to_2(node))
    assert sent == 2, "the second reaches the limit"
    assert node.raft.status().progress[2].inflight_bytes == 2 * (100 + RECORD_HEADER_BYTES)
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=2))
    assert sum(appends_to_2(node)) > 0


def test_an_append_holds_at_most_so_many_bytes_but_at_least_one_entry() -> None:
    entry_bytes = 10 + RECORD_HEADER_BYTES
    node = replicating(max_append_bytes=2 * entry_bytes + 1)
    for _ in range(5):
        node.raft.propose(bytes(10))
    assert appends_to_2(node) == [2, 2, 1]
    node.raft.propose(bytes(1000))
    assert appends_to_2(node) == [1]


def test_a_full_window_is_reopened_when_its_messages_were_lost() -> None:
    cluster = Cluster.of(3, max_inflight_messages=2)
    leader = cluster.elect(1)
    cluster.lost = lambda m: m.to == 2 and m.type is M.APPEND
    for _ in range(5):
        leader.propose(b"x")
        cluster.settle()
    cluster.heal()
    assert cluster[2].last_index == 1
    cluster.tick(3 * leader.config.heartbeat_ticks)
    assert cluster[2].commit == leader.commit == 6


def test_a_member_that_cannot_be_reached_is_not_sent_to_until_it_answers_a_heartbeat() -> None:
    node = replicating()
    node.raft.propose(b"x")
    assert appends_to_2(node) == [1]
    node.raft.peer_unreachable(2)
    node.raft.propose(b"y")
    assert appends_to_2(node) == []
    for _ in range(node.raft.config.heartbeat_ticks):
        node.raft.tick()
    node.raft.step(Message(M.HEARTBEAT_RESPONSE, 1, 2, 1))
    assert appends_to_2(node) == [2], "both, from the last acknowledged on"


def test_a_member_unreachable_before_it_ever_answered_is_not_sent_the_log_from_its_beginning() -> None:
    """A new leader finds by probing, from its end on, where the logs part. Not reaching the member teaches nothing."""
    node = Node(1, ConfState(voters=frozenset({1, 2, 3})), entries=log_of(1, 1, 1), pre_vote=False)
    node.raft.campaign()
    node.take()
    node.raft.step(Message(M.VOTE_RESPONSE, 1, 2, 2))
    node.take()
    before = node.raft.status().progress[3].next
    assert before == 4
    node.raft.peer_unreachable(3)
    node.raft.peer_lost(3)
    assert node.raft.status().progress[3].next == before


def test_unreachable_in_answer_to_every_send_comes_to_rest() -> None:
    node = replicating()
    node.raft.propose(b"x")
    for _ in range(10):
        if not node.raft.has_ready():
            break
        for message in node.take():
            node.raft.peer_unreachable(message.to)
    assert not node.raft.has_ready()


def snapshotting() -> Node:
    """A leader that dropped its log and offered 2 a snapshot of entry 4."""
    node = replicating()
    for _ in range(3):
        node.raft.propose(b"x")
    node.take()
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 3, 1, index=4))
    node.take()
    node.disk.compact(4)
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=3, hint_index=1, hint_term=1, reject=True))
    assert [(m.type, m.index) for m in node.take() if m.to == 2] == [(M.SNAPSHOT, 4)]
    return node


@pytest.mark.parametrize(("success", "then"), [(True, 5), (False, 2)])
def test_after_a_snapshot_the_member_is_probed_at_the_next_heartbeat(success: bool, then: int) -> None:
    node = snapshotting()
    node.raft.propose(b"y")
    assert appends_to_2(node) == []
    node.raft.report_snapshot(2, success)
    progress = node.raft.status().progress[2]
    assert (progress.state, progress.next) == ("probe", then)
    node.raft.propose(b"z")
    assert [m.type for m in node.take() if m.to == 2] == []
    for _ in range(node.raft.config.heartbeat_ticks):
        node.raft.tick()
    node.raft.step(Message(M.HEARTBEAT_RESPONSE, 1, 2, 1))
    expected = M.APPEND if success else M.SNAPSHOT
    assert [m.type for m in node.take() if m.to == 2] == [M.HEARTBEAT, expected]


def test_answers_below_the_commit_name_the_commit() -> None:
    """A late append must not make a follower look as if it had less than it committed."""
    node = Node(2, ConfState(voters=frozenset({1, 2, 3})))
    node.raft.step(Message(M.APPEND, 2, 1, 1, commit=3, entries=log_of(1, 1, 1)))
    node.take()
    node.disk.compact(2)
    node.raft.step(Message(M.APPEND, 2, 1, 1, commit=3, entries=log_of(1, 1)))
    assert [(m.index, m.reject) for m in node.take()] == [(3, False)]


def test_a_report_about_nothing_means_nothing() -> None:
    node = replicating()
    before = node.raft.status()
    node.raft.report_snapshot(2, True)
    node.raft.report_snapshot(9, False)
    assert node.raft.status() == before


def test_proposals_are_refused_when_too_much_is_uncommitted() -> None:
    node = replicating(max_uncommitted_bytes=100)
    node.raft.propose(bytes(60))
    node.raft.propose(bytes(40))
    with pytest.raises(ProposalRefused) as caught:
        node.raft.propose(b"x")
    assert caught.value.reason is Refusal.UNCOMMITTED
    node.take()
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=2))
    assert node.raft.status().uncommitted_bytes == 40
    node.raft.propose(bytes(60))


def test_whether_proposals_are_taken_can_be_asked() -> None:
    node = replicating()
    assert node.raft.takes_proposals
    node.raft.transfer_leader(3)
    assert not node.raft.takes_proposals
    assert not Node(2, ConfState(voters=frozenset({1, 2}))).raft.takes_proposals


def test_a_single_proposal_may_exceed_the_uncommitted_limit() -> None:
    node = replicating(max_uncommitted_bytes=100)
    node.raft.propose(bytes(500))
    with pytest.raises(ProposalRefused):
        node.raft.propose(b"x")


def test_a_proposal_that_no_entry_can_hold_is_refused() -> None:
    with pytest.raises(ProposalRefused) as caught:
        replicating().raft.propose(bytes(MAX_ENTRY_DATA_BYTES + 1))
    assert caught.value.reason is Refusal.TOO_LARGE


def test_only_the_leader_takes_proposals_and_the_others_name_it() -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    with pytest.raises(NotLeader) as caught:
        cluster[2].propose(b"x")
    assert caught.value.leader == 1


def test_a_forwarded_proposal_is_taken() -> None:
    node = replicating()
    node.raft.step(Message(M.PROPOSE, 1, 3, data=b"x"))
    assert node.raft.last_index == 2


def test_committed_entries_come_in_portions() -> None:
    node = replicating(max_apply_bytes=200)
    for _ in range(5):
        node.raft.propose(bytes(60))
    node.take()
    node.raft.step(Message(M.APPEND_RESPONSE, 1, 2, 1, index=6))
    portions = []
    while node.raft.has_ready():
        portions.append(len(node.raft.ready().committed))
    assert portions == [2, 2, 1]


@pytest.mark.parametrize(
    "wrong",
    [{"id": 0}, {"heartbeat_ticks": 0}, {"heartbeat_ticks": 30}, {"max_append_bytes": 0}, {"max_inflight_bytes": -1}],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Config(**{"id": 1} | wrong).check()  # type: ignore[arg-type]


def test_inflights_free_what_arrived() -> None:
    window = Inflights(3, 100)
    window.add(5, 60)
    window.add(9, 50)
    assert (len(window), window.size_bytes, window.full) == (2, 110, True)
    window.free_to(8)
    assert (len(window), window.size_bytes, window.full) == (1, 50, False)
    window.clear()
    assert (len(window), window.size_bytes) == (0, 0)


def test_refusals_that_answer_old_messages_are_ignored() -> None:
    progress = Progress(11, 10, 1000)
    assert not progress.refuse(5, 3), "not the probe that is out"
    assert progress.refuse(10, 6)
    assert progress.next == 7
    progress.acknowledge(6)
    progress.become_replicate()
    progress.sent(9, 10)
    assert not progress.refuse(6, 2), "already acknowledged"
    assert not progress.refuse(40, 2), "never sent"
    assert progress.refuse(8, 2)
    assert (progress.state, progress.next) == (ProgressState.PROBE, 7)
    assert not progress.refuse(6, 0), "a member that takes back what it acknowledged is not probed in a loop"


def test_a_hint_never_moves_below_what_matches() -> None:
    progress = Progress(11, 10, 1000)
    progress.acknowledge(4)
    assert progress.refuse(10, 0)
    assert progress.next == 5
