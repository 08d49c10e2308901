"""The safety of the cluster, looked at behind every turn of every member.

What is looked at is what the members are (public attributes of the replica, its log and its state machine) and what
they say (the messages of consensus that leave them). What is remembered is the truth: which entry was committed at
which index, who led a term, who was promised a vote, how far an acknowledgement went. A run is over with the first
contradiction, `Violation`.

The rules are those of figure 3 of the Raft paper, the promises of its members, and the invariants of this house. Only
what changed is looked at, so that a turn in which nothing happens costs next to nothing.
"""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

import msgspec

from plasmacloud.chainfire.mvcc.records import RecordMissing
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.state import StateRole
from plasmacloud.sim.bookkeeping import (
    check_candidate,
    check_departed,
    check_durable,
    check_hard_state,
    check_leavers,
    check_mark,
    check_memberships,
    check_saved,
    check_spoken,
    check_uncommitted,
)
from plasmacloud.sim.execution import check_store
from plasmacloud.sim.model import Model
from plasmacloud.sim.trace import Trace
from plasmacloud.sim.violation import Violation

if TYPE_CHECKING:
    from plasmacloud.chainfire.running_member import RunningMember
    from plasmacloud.raft.raft import Raft

_HASH_EVERY = 64  # the whole state is compared at every so manieth index; its running checksum at all
_KEPT = 5000  # what is remembered of old entries, in indexes behind the newest


class Promise(msgspec.Struct):
    """What a member has said and must never forget, over all its lives."""

    term: int = 0
    acknowledged: int = 0  # up to this index, in `acknowledged_term`
    acknowledged_term: int = 0


class Seen(msgspec.Struct):
    """What a member was when it was looked at last. Of one life."""

    member: object = None
    state: tuple[object, ...] = ()
    term: int = 0
    role: StateRole = StateRole.FOLLOWER
    commit: int = 0
    applied: int = 0
    durable: int = 0
    mark: object = None
    saved: object = None
    floor: int = 0
    hard_state: object = None
    conf: ConfState | None = None
    matches: dict[int, int] = {}  # of a leader


class Observer:
    """Remembers and compares. ``names`` of the members are for messages."""

    def __init__(self, trace: Trace) -> None:
        self.elections = 0
        self.candidacies = 0  # how often somebody wanted to lead
        self.commit = 0  # the highest commit index that anybody knew
        self.leaders: dict[int, int] = {}  # term -> member
        self.model = Model()
        self.on_vote: dict[int, Callable[[], None]] = {}  # called once when that member asks for votes, or gives one
        self._trace = trace
        self._votes: dict[tuple[int, int], int] = {}  # (term, voter) -> candidate that was promised the vote
        self._pre_votes: set[tuple[int, int, int]] = set()  # (term that is asked for, voter, candidate)
        self._heirs: dict[tuple[int, int], int] = {}  # (term, member) told to stand -> the entry that it needs for it
        self._terms = {0}  # that somebody has stood in
        self._entries: dict[int, int] = {}  # committed: index -> term
        self._committed_in: dict[int, int] = {}  # and the term of who knew it first
        self._states: dict[int, tuple[object, ...]] = {}  # applied index -> checksums
        self._hashes: dict[int, bytes] = {}
        self._confs: dict[int, ConfState] = {}  # in force after the membership entry of that index
        self.latest_conf = ConfState()
        self._latest_at = -1  # the index at which it came into force
        self._left: set[int] = set()
        self._promises: dict[int, Promise] = {}
        self.on_begin: Callable[[RunningMember], None] = lambda _: None  # a life has begun
        self._joints: set[ConfState] = set()
        self._lost: dict[int, Promise] = {}  # of members whose disks are gone: what they said was true then
        self._seen: dict[int, Seen] = {}

    # What members say

    def promised(self, member_id: int, term: int, transport: object = None) -> None:
        """A member has spoken in a term. ``transport``: by which."""
        member = self._speaking(member_id, transport)
        if member is not None:
            check_spoken(member, term)
        promise = self._promises.get(member_id)
        if promise is None:
            promise = self._promises[member_id] = Promise()
        promise.term = max(promise.term, term)

    def voted(self, voter: int, term: int, candidate: int) -> None:
        """A member has told a candidate that it has its vote."""
        self._notice_vote(voter)
        given = self._votes.setdefault((term, voter), candidate)
        if given != candidate:
            raise Violation(
                "a vote is never forgotten",
                f"{voter:x} gave its vote of term {term} to {given:x} and then to {candidate:x}",
            )

    def took_part(self, member_id: int) -> None:
        """A vote or an acknowledgement of a member has left."""
        if member_id in self._lost:
            raise Violation("who has lost its memory keeps silent", f"{member_id:x} lost its disk and takes part")

    def pre_voted(self, voter: int, term: int, candidate: int) -> None:
        """A member has told another that it would vote for it in a term that nobody has entered yet."""
        self._pre_votes.add((term, voter, candidate))

    def stood(self, candidate: int, term: int, index: int, transport: object = None) -> None:
        """A candidate has asked for votes, for a log that ends at an index. ``transport``: by which."""
        self._terms.add(term)
        self._notice_vote(candidate)
        raft = self._speaker(candidate, transport)
        if raft is None or raft.term != term or raft.role is StateRole.FOLLOWER:
            return  # it stands no more, whatever the vote
        if raft.log.durable < index:
            raise Violation(
                "votes are asked for a log that is durable",
                f"{candidate:x} asks in term {term} with a log up to {index}, of which {raft.log.durable} is on disk",
            )

    def _speaker(self, member_id: int, transport: object) -> "Raft | None":
        """The life of a member that has this transport, unless it was not looked at yet."""
        member = self._speaking(member_id, transport)
        return None if member is None else member.raft

    def _speaking(self, member_id: int, transport: object) -> "RunningMember | None":
        seen = self._seen.get(member_id)
        if seen is None:
            return None
        member: RunningMember = seen.member  # type: ignore[assignment]
        return member if member.replica.transport is transport else None

    def _notice_vote(self, member_id: int) -> None:
        if self.on_vote and (on_vote := self.on_vote.pop(member_id, None)) is not None:
            on_vote()

    def told_to_stand(self, member_id: int, term: int, index: int) -> None:
        """The leader of a term hands over to a member, if that has an entry."""
        self._heirs[term, member_id] = min(index, self._heirs.get((term, member_id), index))

    def acknowledged(self, member_id: int, term: int, index: int, leader: int, transport: object = None) -> None:
        """A member has told the leader of a term that it has everything up to an index. ``transport``: by which."""
        if self.leaders.get(term) != leader:
            raise Violation(
                "only the leader of the term is followed",
                f"{member_id:x} acknowledges entries to {leader:x}, which does not lead term {term}",
            )
        raft = self._speaker(member_id, transport)
        if raft is not None:
            self._check_acknowledged(raft, term, index, leader)
        self._counts(member_id, term, index)

    def _counts(self, member_id: int, term: int, index: int) -> None:
        """The leader of a term, which may be the member itself, counts on its having everything up to an index."""
        promise = self._promises.setdefault(member_id, Promise())
        if (term, index) > (promise.acknowledged_term, promise.acknowledged):
            promise.acknowledged_term, promise.acknowledged = term, index

    def _check_acknowledged(self, raft: "Raft", term: int, index: int, leader: int) -> None:
        own, leads = raft.log, self._seen.get(leader)
        if raft.term != term:
            return  # said to a leader of the past about what was in the log then, and no matter since
        if own.durable < index:
            raise Violation(
                "what was acknowledged is durable",
                f"{raft.id:x} acknowledges entry {index}, and {own.durable} is on its disk",
            )
        if leads is None:
            return
        other: Raft = leads.member.raft  # type: ignore[attr-defined]
        known = own.first_index <= index and other.log.first_index <= index <= other.log.last_index
        if other.term == term and other.role is StateRole.LEADER and known and other.log.term(index) != own.term(index):
            raise Violation(
                "what is acknowledged is what the leader has",
                f"{raft.id:x} acknowledges entry {index} with term {own.term(index)}, and the leader "
                f"{leader:x} has it with term {other.log.term(index)}",
            )

    def forgets(self, member_id: int) -> None:
        """The member's disk is gone, by a fault that the cluster has to bear."""
        promise = self._promises.pop(member_id, None)
        if promise is not None:
            self._lost[member_id] = promise
        self._seen.pop(member_id, None)

    def joint_seen(self, conf: ConfState) -> None:
        """A joint configuration has come into force somewhere."""
        if conf not in self._joints:
            self._joints.add(conf)
            self._trace.count("joint configurations")

    def has_left(self, member_id: int) -> bool:
        """Whether a configuration without the member was in force after one with it."""
        return member_id in self._left

    def belongs(self, member_id: int) -> bool:
        """Whether the latest configuration has the member."""
        return member_id in self.latest_conf.all_members()

    def electorates(self) -> list[frozenset[int]]:
        """The sets of voters of which some member, as far as it knows, needs a majority."""
        members = self.latest_conf.all_members()
        confs = [
            self.latest_conf,
            *(
                seen.conf
                for member, seen in self._seen.items()
                if member in members and member not in self._lost and seen.conf
            ),
        ]
        found = {voters for conf in confs for voters in (conf.voters, conf.outgoing) if voters}
        return sorted(found, key=sorted)

    # What members are

    def look(self, member: "RunningMember") -> None:
        """Behind a turn of a member. Raises `Violation`."""
        raft = member.raft
        seen = self._seen.get(raft.id)
        if seen is None or seen.member is not member:
            seen = self._seen[raft.id] = self._begin(member)
        log = raft.log
        state = (raft.term, raft.role, raft.leader_id, raft.vote, log.commit, log.applied, log.last_index, log.durable)
        if state != seen.state:
            self._changed(member, raft, seen)
            seen.state = state
        if raft._hard_state_durable is not seen.hard_state:
            seen.hard_state = raft._hard_state_durable
            check_hard_state(member)
        if member.wal.log_mark is not seen.mark:
            seen.mark = member.wal.log_mark
            check_mark(member, self._states, seen.floor)

    def _begin(self, member: "RunningMember") -> Seen:
        """A new life: it must know what the lives before it said."""
        raft = member.raft
        promise = self._promises.get(raft.id)
        if promise is not None:
            self._check_memory(raft, promise)
        self.on_begin(member)
        applied = member.machine.applied_index
        self._trace.count("starts")
        if member.wal.recovery.torn is not None:
            self._trace.count("logs with a torn end")
        if member.wal.log_mark.index > 1:
            self._trace.count("starts from a shortened log")
        before = self._seen.get(raft.id)
        if before is not None and applied > before.commit:
            self._trace.count("snapshots installed")
        self._note_conf(applied, raft.conf)
        self._check_applied(member, applied)
        if member.machine.is_whole:
            check_store(self.model, member)
        self._terms.add(raft.term)
        return Seen(member=member, commit=applied, applied=applied, mark=member.wal.log_mark, conf=raft.conf)

    def _check_memory(self, raft: "Raft", promise: Promise) -> None:
        if raft.term < promise.term:
            raise Violation(
                "a term never falls", f"{raft.id:x} spoke in term {promise.term} and came back in term {raft.term}"
            )
        granted = self._votes.get((raft.term, raft.id), 0)
        if granted and raft.vote != granted:
            raise Violation(
                "a vote is never forgotten",
                f"{raft.id:x} gave its vote of term {raft.term} to {granted:x} and came back with {raft.vote:x}",
            )
        term, index = promise.acknowledged_term, promise.acknowledged
        if raft.term > term:
            # A later leader may have taken the end of the log away, but nothing that is committed as it was then.
            index = min(index, self.commit)
            while self._entries.get(index, 0) > term:
                index -= 1
            if self._entries.get(index) != term or (index < raft.log.first_index and index <= raft.last_index):
                return
        if raft.last_index < index or (raft.term > term and not raft.log.matches(index, term)):
            raise Violation(
                "what was acknowledged is durable",
                f"{raft.id:x} acknowledged entry {index} in term {term} and came back with {raft.last_index}",
            )

    def _changed(self, member: "RunningMember", raft: "Raft", seen: Seen) -> None:
        log = raft.log
        if not (log.applied <= log.commit <= log.last_index and log.durable <= log.last_index):
            raise Violation(
                "applied <= commit <= last",
                f"{raft.id:x} has applied {log.applied}, commit {log.commit}, durable {log.durable}, "
                f"last {log.last_index}",
            )
        if raft.term < seen.term:
            raise Violation("a term never falls", f"{raft.id:x} went from term {seen.term} to {raft.term}")
        if log.commit < seen.commit:
            raise Violation("what is committed is never lost", f"{raft.id:x} went from {seen.commit} to {log.commit}")
        if raft.term != seen.term:
            self._check_term(raft, seen)
        promise = self._promises.get(raft.id)
        if promise is not None and raft.term == promise.acknowledged_term and log.durable < promise.acknowledged:
            raise Violation(
                "what was acknowledged is durable",
                f"{raft.id:x} acknowledged entry {promise.acknowledged} in term {raft.term} and now has {log.durable}",
            )
        if log.durable != seen.durable:
            check_durable(member)
        if raft.role is StateRole.LEADER:
            self._check_leader(raft, seen)
            check_uncommitted(raft)
            self._counts(raft.id, raft.term, log.durable)
        elif raft.role is not StateRole.FOLLOWER and seen.role is not raft.role:
            self.candidacies += 1
            check_candidate(raft)
        self._check_followed(raft)
        if log.commit > seen.commit:
            self._check_committed(raft, seen, log.commit)
        applied = member.machine.applied_index
        if applied != seen.applied:
            self._check_applied(member, applied)
        if raft.conf is not seen.conf:
            self._check_conf(member, seen)
        if log.memberships:
            check_memberships(member)
        seen.term, seen.role, seen.commit, seen.applied = raft.term, raft.role, log.commit, applied
        seen.durable, seen.floor = log.durable, member.replica.floor
        if member.checkpointer._saved is not seen.saved:
            seen.saved = member.checkpointer._saved
            check_saved(member, self._states)

    def _check_term(self, raft: "Raft", seen: Seen) -> None:
        """A term begins with a candidate, who stands because a majority would vote for it, or because it was told to.

        That is what pre-votes are for: a member that was cut off raises nobody's term when it comes back.
        """
        if raft.vote != raft.id:
            if seen.term and raft.term not in self._terms:
                raise Violation("a term begins with a candidate", f"{raft.id:x} is in term {raft.term}, nobody stood")
            return
        self._terms.add(raft.term)
        needed = self._heirs.get((raft.term - 1, raft.id))
        told = needed is not None and raft.last_index >= needed
        if not seen.term or told or raft.role is StateRole.FOLLOWER or not raft.config.pre_vote:
            return
        if not any(self._would_vote(conf, raft) for conf in (raft.conf, seen.conf or raft.conf)):
            raise Violation(
                "who stands has the pre-votes of a majority", f"{raft.id:x} stands in term {raft.term} without"
            )

    def _check_followed(self, raft: "Raft") -> None:
        leader = raft.leader_id
        if (leader == raft.id) != (raft.role is StateRole.LEADER):
            raise Violation("only the leader of the term is followed", f"{raft.id:x} takes itself for the leader")
        if leader in (0, raft.id):
            return
        if raft.role is not StateRole.FOLLOWER or self.leaders.get(raft.term) != leader:
            raise Violation(
                "only the leader of the term is followed",
                f"{raft.id:x}, {raft.role.value}, takes {leader:x} for the leader of term {raft.term}",
            )

    def _would_vote(self, conf: ConfState, raft: "Raft") -> bool:
        granted = {voter for term, voter, candidate in self._pre_votes if (term, candidate) == (raft.term, raft.id)}
        granted.add(raft.id)
        return _is_majority(granted, conf)

    def _check_leader(self, raft: "Raft", seen: Seen) -> None:
        leads_on = seen.role is StateRole.LEADER and seen.term == raft.term
        matches, last = seen.matches if leads_on else {}, raft.log.last_index
        seen.matches = {}
        for member_id, progress in raft.tracker.progress.items():
            match, before = progress.match, matches.get(member_id, 0)
            if not before <= match < progress.next <= last + 1:
                raise Violation(
                    "0 <= match < next",
                    f"{raft.id:x} has {match}, {progress.next} for {member_id:x}, and had {before}; its log ends at "
                    f"{last}",
                )
            seen.matches[member_id] = match
        if leads_on:
            return
        holder = self.leaders.setdefault(raft.term, raft.id)
        if holder != raft.id:
            raise Violation("one leader in a term", f"{holder:x} and {raft.id:x} lead term {raft.term}")
        self.elections += 1
        self._trace.note(f"{raft.id:x}", f"leads term {raft.term}")
        self.voted(raft.id, raft.term, raft.id)
        if not raft._term_is_durable:
            raise Violation("a leader's own vote is durable", f"{raft.id:x} leads term {raft.term} without")
        if not raft.conf.is_voter(raft.id):
            raise Violation("only voters lead", f"{raft.id:x} leads and does not vote")
        self._check_votes(raft, seen.conf or raft.conf)
        for index in range(self.commit, max(raft.log.first_index - 1, self.commit - 20), -1):
            entry = self._entries.get(index)
            if self._committed_in.get(index, raft.term) >= raft.term:
                continue  # by a later leader: this one took its time to find out that it was elected
            if entry is not None and not raft.log.matches(index, entry):
                raise Violation(
                    "leader completeness",
                    f"{raft.id:x} leads term {raft.term} without entry {index} of term {entry}, which is committed",
                )

    def _check_votes(self, raft: "Raft", before: ConfState) -> None:
        """In the turn in which it was elected, a leader may have put a configuration into force that follows."""
        given = {voter for (term, voter), candidate in self._votes.items() if (term, candidate) == (raft.term, raft.id)}
        if not any(_is_majority(given, conf) for conf in (before, raft.conf)):
            raise Violation(
                "a leader has the votes of a majority",
                f"{raft.id:x} leads term {raft.term} with {len(given)} votes; the voters are {raft.conf}",
            )

    def _check_committed(self, raft: "Raft", seen: Seen, commit: int) -> None:
        entries, before = self._entries, seen.commit
        log = raft.log
        for index in range(max(before + 1, log.first_index), commit + 1):
            known = entries.get(index)
            term = log.term(index)
            if known is None:
                entries[index] = term
                self._committed_in[index] = raft.term
                entries.pop(index - _KEPT, None)
                self._committed_in.pop(index - _KEPT, None)
            elif known != term:
                raise Violation(
                    "log matching",
                    f"entry {index} is committed with term {known}, and {raft.id:x} has it with term {term}",
                )
        if commit > self.commit:
            self.commit = commit
            self._check_counted(raft, log.term(commit))
            self._check_quorum(raft, commit, seen.conf or raft.conf)

    def _check_counted(self, raft: "Raft", term: int) -> None:
        """The first who calls an entry committed leads its term; what lies before is committed by that (§5.4.2)."""
        leader = raft.id if raft.role is StateRole.LEADER and raft.term == term else self.leaders.get(term)
        if leader != raft.id or (raft.role is StateRole.LEADER and raft.term != term):
            raise Violation(
                "a leader counts only entries of its own term",
                f"{raft.id:x}, {raft.role.value} of term {raft.term}, commits an entry of term {term} first",
            )

    def _check_quorum(self, raft: "Raft", index: int, before: ConfState) -> None:
        """The first who calls an entry committed: majorities of disks hold it.

        ``before``: the configuration as of the turn before; the present one may have come into force behind the commit.
        """
        term = raft.log.term(index)
        missing = []
        for conf in (before, raft.conf):
            short = [
                voters for voters in (conf.voters, conf.outgoing) if voters and not self._hold(voters, index, term)
            ]
            if not short:
                return
            missing.append(f"of {_ids(short[0])} too few")
        raise Violation(
            "what is committed is on a majority of disks",
            f"{raft.id:x} commits entry {index} of term {term}, which {missing[0]} have",
        )

    def _hold(self, voters: frozenset[int], index: int, term: int) -> bool:
        return 2 * sum(self._holds(voter, index, term) for voter in voters) > len(voters)

    def _holds(self, voter: int, index: int, term: int) -> bool:
        seen = self._seen.get(voter)
        for promise in (self._promises.get(voter), self._lost.get(voter)):
            if promise is not None and promise.acknowledged >= index and promise.acknowledged_term >= term:
                return True
        member = None if seen is None else seen.member
        if member is None:
            return False
        log = member.raft.log  # type: ignore[attr-defined]
        return bool(log.durable >= index and (index < log.first_index or log.matches(index, term)))

    def _check_applied(self, member: "RunningMember", applied: int) -> None:
        machine = member.machine
        if not machine.is_whole:
            return  # the checksum has a part of the next entry in it already
        store = machine.store
        checksums = (machine.applied_term, store.change_crc, store.revision, machine.cluster.conf)
        known = self._states.setdefault(applied, checksums)
        if known != checksums:
            raise Violation(
                "state machine safety",
                f"at index {applied} {member.raft.id:x} has (term, checksum, revision, configuration) "
                f"{checksums}, another {known}",
            )
        self._states.pop(applied - _KEPT, None)
        check_departed(member)
        if applied % _HASH_EVERY == 0:
            self.compare_states(member)

    def compare_states(self, member: "RunningMember") -> None:
        """The whole state, with that of whoever was looked at with the same applied index."""
        machine = member.machine
        try:
            digest = machine.state_hash()
        except RecordMissing as missing:
            raise Violation("state machine safety", f"{member.raft.id:x}: {missing}") from missing
        if self._hashes.setdefault(machine.applied_index, digest) != digest:
            raise Violation("state machine safety", f"states differ at index {machine.applied_index}")
        self._hashes.pop(machine.applied_index - _KEPT, None)
        check_store(self.model, member)

    def _note_conf(self, applied: int, conf: ConfState) -> None:
        if applied > self._latest_at and conf.voters:
            self._left |= self.latest_conf.all_members() - conf.all_members()
            self.latest_conf, self._latest_at = conf, applied

    def _check_conf(self, member: "RunningMember", seen: Seen) -> None:
        raft = member.raft
        before, conf = seen.conf, raft.conf
        seen.conf = conf
        if before is None or before == conf:
            return
        check_leavers(member, before, conf)
        known = self._confs.setdefault(raft.log.applied, conf)
        if known != conf:
            raise Violation(
                "everybody sees the same configurations", f"at index {raft.log.applied}: {known} and {conf}"
            )
        self._note_conf(raft.log.applied, conf)
        self._trace.note(f"{raft.id:x}", f"is in configuration {describe_conf(conf)}")


def describe_conf(conf: ConfState) -> str:
    """In short."""
    parts = [f"voters {_ids(conf.voters)}"]
    if conf.outgoing:
        parts.append(f"outgoing {_ids(conf.outgoing)}")
    if conf.learners or conf.learners_next:
        parts.append(f"learners {_ids(conf.learners | conf.learners_next)}")
    return ", ".join(parts)


def _ids(members: Iterable[int]) -> str:
    return "/".join(f"{member % 0x10000:04x}" for member in sorted(members))


def _is_majority(members: AbstractSet[int], conf: ConfState) -> bool:
    """Of the voters, and of those of the configuration that is being left."""
    return all(2 * len(members & voters) > len(voters) for voters in (conf.voters, conf.outgoing) if voters)
