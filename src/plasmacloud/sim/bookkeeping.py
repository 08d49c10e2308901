"""Whether what a member has noted down for itself is true.

Most of it is never said to anybody, so that no rule about what members say sees it, and a slip in it does harm much
later and only with bad luck: the end of the log that is taken for durable, changes of the membership that wait in the
log, bytes that wait for their commit, the mark behind which the log was shortened, who has left. Here it is compared
with the thing itself, as soon as it changes: with the simulated disk, the log, the state.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from plasmacloud.chainfire.cluster_state import ClusterState
from plasmacloud.chainfire.lane import Lane
from plasmacloud.chainfire.state_meta import META_NAME, decode_state_meta
from plasmacloud.chainfire.waiting import Waiter
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.state import StateRole
from plasmacloud.sim.disk import SimDisk
from plasmacloud.sim.violation import Violation
from plasmacloud.storage.entry import EntryKind
from plasmacloud.storage.wal_recovery import segment_name

if TYPE_CHECKING:
    from plasmacloud.chainfire.replica import Replica
    from plasmacloud.chainfire.running_member import RunningMember
    from plasmacloud.raft.raft import Raft

_LARGE_LOG_BYTES = 1 << 20  # a log that may grow so far is never shortened for its size in a run
LOOK_TICKS = 5  # so often it is looked at who waits
_OVERDUE_TICKS = 25
_MOMENT_S = 1e-6
_KEPT_QUESTIONS = 64


def check_durable(member: "RunningMember") -> None:
    """What the log takes for durable is so by what the write-ahead log knows, and would survive a loss of power."""
    durable, wal = member.raft.log.durable, member.wal
    if wal.durable_index < durable:
        raise Violation(
            "what counts as durable is on the disk",
            f"{member.raft.id:x} takes entry {durable} for durable, and the log has written {wal.durable_index}",
        )
    index, disk = wal._index, member.environment.disk
    if durable <= index.base_index or not isinstance(disk, SimDisk):
        return
    place = index.location(durable)
    if not disk.would_survive(wal.path / segment_name(place >> 32), place & 0xFFFFFFFF):
        raise Violation(
            "what counts as durable is on the disk",
            f"{member.raft.id:x} takes entry {durable} for durable, and a loss of power could undo it",
        )


def check_hard_state(member: "RunningMember") -> None:
    """Term, vote and commit index that count as durable were written, by what the log's writer knows."""
    durable, written = member.raft._hard_state_durable, member.wal._writer._hard_state
    voted = durable.term == written.term and durable.vote not in (0, written.vote)
    if durable.term > written.term or voted or durable.commit > written.commit:
        raise Violation(
            "what counts as durable is on the disk",
            f"{member.raft.id:x} takes {durable} for durable, and the log has written {written}",
        )


def check_spoken(member: "RunningMember", term: int) -> None:
    """A member makes a promise in a term."""
    written = member.wal._writer._hard_state.term
    if written < term:
        raise Violation(
            "who speaks in a term has it on disk",
            f"{member.raft.id:x} speaks in term {term}, and has written {written}",
        )


def check_candidate(raft: "Raft") -> None:
    """Who stands counts the votes of the newest configuration that it knows to be committed."""
    changes = raft.log.memberships
    if changes and changes[0] <= raft.log.commit:
        raise Violation(
            "who stands has applied all changes of the membership",
            f"{raft.id:x} is {raft.role.value} and has not applied the committed change of entry {changes[0]}",
        )


def check_in_force(raft: "Raft") -> None:
    """The entry behind the last applied one comes into force: it is not forgotten in a crash that it is committed."""
    index, durable = raft.log.applied + 1, raft._hard_state_durable.commit
    if durable < index:
        raise Violation(
            "a configuration in force is never forgotten",
            f"{raft.id:x} puts the change of entry {index} into force, and its disk knows {durable} to be committed",
        )


def check_memberships(member: "RunningMember") -> None:
    """The log knows which of its unapplied entries change the membership. Looks at entries in memory only."""
    raft = member.raft
    log = raft.log
    known = list(log.memberships)
    if len(known) > 1 and known[-2] > log.commit:
        raise Violation("one change of the membership at a time", f"{raft.id:x} has {known}")
    within = known == sorted(set(known)) and log.applied < known[0] and known[-1] <= log.last_index
    wrong = [index for index in known if within and _kind(member, index) not in (None, EntryKind.MEMBERSHIP)]
    if wrong or not within:
        raise Violation(
            "a log knows its changes of the membership",
            f"{raft.id:x}, applied {log.applied}, last {log.last_index}, takes {wrong or known} for them",
        )


def _kind(member: "RunningMember", index: int) -> EntryKind | None:
    """Of an entry that is in memory; None: it is not."""
    log, window = member.raft.log, member.wal._index.window
    if index >= log._offset:
        return log._tail[index - log._offset].kind
    if window.first_index <= index <= member.wal.last_index():
        return window.get(index, index + 1, 1)[0].kind
    return None


def check_uncommitted(raft: "Raft") -> None:
    """When everything is committed, nothing is counted as waiting for it: else proposals are refused one day."""
    if raft.log.commit == raft.log.last_index and raft._uncommitted_bytes:
        raise Violation(
            "what waits for its commit is counted",
            f"{raft.id:x} leads, has committed everything up to {raft.log.commit}, and counts "
            f"{raft._uncommitted_bytes} bytes that are not",
        )


def check_mark(member: "RunningMember", states: Mapping[int, tuple[object, ...]], floor_before: int) -> None:
    """A mark was set. ``states``: what members were at an applied index; the last of it is the configuration.
    ``floor_before``: what everybody had, as far as was known a turn ago.
    """
    mark, raft = member.wal.log_mark, member.raft
    state = states.get(mark.index)
    if state is not None:
        term, conf = state[0], state[-1]
        assert isinstance(conf, ConfState)
        if mark.term != term or mark.conf != conf.encode():
            raise Violation(
                "a mark is that of its index",
                f"{raft.id:x} marks entry {mark.index} with term {mark.term}, {ConfState.decode(mark.conf)}; members "
                f"had term {term}, {conf} there",
            )
    tuning, floor = member.config.tuning, member.snapshots.floor
    if tuning.max_log_bytes < _LARGE_LOG_BYTES:
        return
    if floor is not None and mark.index - floor <= tuning.max_entries and raft.log.first_index > floor + 1:
        raise Violation(
            "the log goes on behind a snapshot under way",
            f"{raft.id:x} sends a snapshot of index {floor}, and its log begins at {raft.log.first_index}",
        )
    shared = max(floor_before, member.replica.floor)
    if mark.index - shared <= tuning.max_entries and raft.log.first_index > shared + 1:
        raise Violation(
            "the log keeps what somebody lacks",
            f"{raft.id:x} knows that everybody has entry {shared}, and its log begins at {raft.log.first_index}",
        )


def check_saved(member: "RunningMember", states: Mapping[int, tuple[object, ...]]) -> None:
    """A checkpoint was written: it is the state of its index. ``states``: as for `check_mark`."""
    saved = member.checkpointer._saved
    state = states.get(saved.index)
    if state is None:
        return
    encoded = member.store.meta(META_NAME)
    if encoded is None:
        return  # it has never saved anything
    meta = decode_state_meta({META_NAME: encoded})
    told = (saved.term, saved.conf)
    written = (meta.applied_term, meta.change_crc, meta.revision, ClusterState.decode(meta.cluster).conf)
    if told != (state[0], state[-1]) or (meta.applied_index == saved.index and written != state):
        raise Violation(
            "a checkpoint is that of its index",
            f"{member.raft.id:x} has saved entry {saved.index} as {told}, {written}; members had {state} there",
        )


def check_departed(member: "RunningMember") -> None:
    """Who has left executes nothing any more."""
    machine = member.machine
    departed = machine.cluster.departed
    if departed and not departed.keys().isdisjoint(machine.sessions):
        present = ", ".join(f"{origin:x}" for origin in departed.keys() & machine.sessions.keys())
        raise Violation("who has left has no say", f"{member.raft.id:x} executes commands of {present}, gone before")


def check_leavers(member: "RunningMember", before: ConfState, conf: ConfState) -> None:
    """Who is in a configuration no more is known to have left, so that it can be told."""
    unknown = before.all_members() - conf.all_members() - member.machine.cluster.departed.keys()
    if unknown:
        left = ", ".join(f"{each:x}" for each in sorted(unknown))
        raise Violation("who has left has no say", f"{member.raft.id:x} does not remember that {left} left")


class Claims:
    """Of one life: what a leader takes for proposed, and so drops when it comes again, is in its log.

    Looked at every `LOOK_TICKS` of its ticks, in two steps: what the leader takes for proposed at one look was in its
    log by then, and is executed when that much of the log is applied.
    """

    def __init__(self, replica: "Replica") -> None:
        self._replica = replica
        self._term = 0
        self._claims: dict[tuple[int, int, int], tuple[int, int]] = {}  # (end of the log then, overdue for ticks)

    def ticked(self, raft: "Raft") -> None:
        """Some ticks have passed. Raises `Violation`."""
        before = self._claims if raft.term == self._term else {}
        self._term, self._claims = raft.term, {}
        if not raft.takes_proposals:
            return  # it may not have looked at what it remembers in this term
        for origin, (incarnation, last_seq) in self._replica._proposer._proposed.items():
            claim = (origin, incarnation, last_seq)
            end, ticks = before.get(claim, (raft.last_index, 0))
            due = raft.applied >= end and not self._executed(*claim)
            self._claims[claim] = (end, ticks + LOOK_TICKS if due else 0)
            if ticks > _OVERDUE_TICKS:
                raise Violation(
                    "what counts as proposed is in the log",
                    f"{raft.id:x}, leader of term {raft.term}, takes the commands of {origin:x} up to {last_seq} for "
                    f"proposed; it has applied {raft.applied} entries, and they are not executed",
                )

    def _executed(self, origin: int, incarnation: int, last_seq: int) -> bool:
        machine = self._replica.machine
        session = machine.sessions.get(origin)
        gone = origin in machine.cluster.departed
        return gone or (session is not None and tuple(session) >= (incarnation, last_seq))


class Impatience:
    """Of one life: who waits for an answer that may be lost asks again. Looked at every `LOOK_TICKS` of its ticks."""

    def __init__(self, replica: "Replica") -> None:
        self._replica = replica
        self._overdue: dict[tuple[object, float], int] = {}  # what should be asked again, and since when: ticks ago
        self._transfer = (0, 0)  # to whom the leader hands over, and for how many ticks by its own count
        self._transfer_ticks = 0
        self._asked: dict[int, float] = {}  # context -> when the leader was asked last
        self._led: tuple[tuple[int, int], float] = ((0, 0), 0.0)  # leader and term, and since when at the earliest
        self._looked_at = 0.0

    def asked(self, context: int) -> None:
        """A question to the leader leaves."""
        self._asked.pop(context, None)
        self._asked[context] = self._replica._loop.time()
        if len(self._asked) > _KEPT_QUESTIONS:  # a round that waits sees many others come and go
            rounds = {each.context for each in self._replica._reads._rounds}
            self._asked = {context: at for context, at in self._asked.items() if context in rounds}

    def ticked(self, raft: "Raft") -> None:
        """Some ticks have passed. Raises `Violation`."""
        if self._replica._leader_seen != self._led[0]:  # who is lost and found within a turn was not away
            self._led = self._replica._leader_seen, self._looked_at
        self._looked_at = self._replica._loop.time()
        self._overdue = {each: self._overdue.get(each, 0) + LOOK_TICKS for each in self._find_overdue(raft)}
        if max(self._overdue.values(), default=0) > _OVERDUE_TICKS:
            raise Violation("who waits asks again", f"{raft.id:x}, {raft.role.value} of term {raft.term}, does not")
        transfer = (raft._transferee if raft.role is StateRole.LEADER else 0, raft._transfer_elapsed)
        same = transfer[0] and transfer[0] == self._transfer[0] and transfer[1] >= self._transfer[1]
        self._transfer, self._transfer_ticks = transfer, self._transfer_ticks + LOOK_TICKS if same else 0
        if self._transfer_ticks > 2 * (raft.config.election_ticks + LOOK_TICKS):
            raise Violation(
                "a transfer of leadership ends",
                f"{raft.id:x}, leader of term {raft.term}, has been handing over for {self._transfer_ticks} ticks",
            )

    def _find_overdue(self, raft: "Raft") -> Iterator[tuple[object, float]]:
        replica, leader = self._replica, raft.leader_id
        if not leader or not replica._running:
            return
        now = replica._loop.time()
        since = self._led[1] - _MOMENT_S
        for each in replica._reads._rounds:
            unasked = leader != raft.id and self._asked.get(each.context, 0.0) < each.again_at - each.wait_s - _MOMENT_S
            if each.index is None and (each.again_at <= now or unasked):
                yield each.context, each.again_at
        if raft.takes_proposals if leader == raft.id else replica.transport.is_connected(leader):
            for lane in replica._lanes:
                if _has_forgotten(lane, now) or _was_not_told(lane, since):
                    yield lane, lane._again_at


def _has_forgotten(lane: Lane[Waiter], now: float) -> bool:
    return lane.queue.in_flight_count > 0 and (lane.is_due(now) or lane._again_at == float("inf"))


def _was_not_told(lane: Lane[Waiter], since: float) -> bool:
    """Whether what is in flight was last sent before the present leader led."""
    return lane.queue.in_flight_count > 0 and lane._again_at - lane._again_delay_s < since
