"""Whether who leads still may: it hears from a majority, its reads are confirmed, its majority changes step by step.

The linearizability of what clients saw says the same in the end, but only where a client was in the right place at the
right moment. These rules look at the steps themselves. They count what arrived and what left; what the members make of
it is not asked, but for their configuration.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.progress import ProgressState
from plasmacloud.raft.raft import Raft
from plasmacloud.raft.state import StateRole
from plasmacloud.sim.bookkeeping import LOOK_TICKS, Claims, Impatience, check_in_force
from plasmacloud.sim.disk import SimDisk
from plasmacloud.sim.entrance import WatchedRegister, check_remembered
from plasmacloud.sim.execution import Told, WatchedMachine
from plasmacloud.sim.filing import Steps, check_installed
from plasmacloud.sim.observer import Observer, describe_conf
from plasmacloud.sim.violation import Violation

if TYPE_CHECKING:
    from plasmacloud.chainfire.running_member import RunningMember
    from plasmacloud.chainfire.snapshot_flow import Received

_VOTES = {
    MessageType.VOTE: MessageType.VOTE_RESPONSE,
    MessageType.PRE_VOTE: MessageType.PRE_VOTE_RESPONSE,
}
_SLACK_TICKS = 3
_IDLE_LOOKS = 8  # at the members that lack something, once per heartbeat
_KEPT_QUESTIONS = 2000


class WatchedRaft(Raft):
    """Tells of its ticks and its configurations: the part that every simulated member has in place of its own."""

    on_tick: Callable[[], None] | None = None
    on_membership: Callable[[ConfState], None] | None = None
    on_changed: Callable[[], None] | None = None
    on_append: Callable[[Message], None] | None = None
    on_problem: Callable[[Violation], None] | None = None

    def step(self, message: Message) -> None:
        kind = message.type
        if (kind is MessageType.PRE_VOTE or kind is MessageType.VOTE) and self.on_problem is not None:
            self._step_watched(message, self.on_problem)
            return
        before = self.log.commit
        super().step(message)
        if kind is MessageType.APPEND and self.on_append is not None:
            self.on_append(message)
        if self.log.commit > before and self.on_problem is not None:
            self._check_vouched(message, before, self.on_problem)

    def _check_vouched(self, message: Message, before: int, on_problem: Callable[[Violation], None]) -> None:
        """The commit index of a leader says nothing about entries of which it is not known that they are its own."""
        kind = message.type
        if kind is MessageType.APPEND or kind is MessageType.COMMIT:
            known = message.index + len(message.entries) if self.log.matches(message.index, message.log_term) else 0
        elif kind is MessageType.HEARTBEAT:
            known = message.commit
        else:
            return
        if self.log.commit > min(known, message.commit):
            on_problem(
                Violation(
                    "a member commits what it is known to share",
                    f"{self.id:x} goes from {before} to {self.log.commit}, and {message.sender:x} says that "
                    f"{message.commit} is committed, and knows of {known} entries in its log",
                )
            )

    def propose_membership(self, data: bytes) -> tuple[int, int]:
        applied = self.log.applied
        term = self.log.term(applied) if applied >= self.log.first_index - 1 else self.term
        proposed = super().propose_membership(data)
        if term != self.term and self.on_problem is not None:
            self.on_problem(
                Violation(
                    "a change of the membership builds on a term's own beginning",
                    f"{self.id:x} proposes one in term {self.term}, and has applied nothing of that term",
                )
            )
        return proposed

    def _step_watched(self, message: Message, on_problem: Callable[[Violation], None]) -> None:
        """Somebody asks for a vote, or whether it would get it."""
        term, log_end = self.term, (self.log.last_term, self.log.last_index)
        hears_leader = self.leader_id != 0 and self._election_elapsed < self.config.election_ticks
        said = len(self._messages), len(self._after_sync)
        super().step(message)
        answers = [*self._messages[said[0] :], *self._after_sync[said[1] :]]
        granted = any(not each.reject and each.type is _VOTES[message.type] for each in answers)
        if granted and (message.log_term, message.index) < log_end:
            on_problem(
                Violation(
                    "a vote is for a log as good as the own",
                    f"{self.id:x} is for {message.sender:x}, whose log ends with entry {message.index} of term "
                    f"{message.log_term}, and has entry {log_end[1]} of term {log_end[0]}",
                )
            )
        leaves = hears_leader and self.config.check_quorum and not message.force
        if leaves and message.term > term and (granted or self.term > term):
            on_problem(
                Violation(
                    "who hears from a leader keeps it",
                    f"{self.id:x} has a leader in term {term}, and is for {message.sender:x} in term {message.term}",
                )
            )

    def tick(self, missed: int = 0) -> None:
        super().tick(missed)
        if self.on_tick is not None:
            self.on_tick()

    def apply_membership(self, conf: ConfState) -> None:
        if self.on_membership is not None:
            self.on_membership(conf)
        super().apply_membership(conf)
        if self.on_changed is not None:
            self.on_changed()


def watched_members(
    member_class: "type[RunningMember]", fail: Callable[[Violation], None], on_executed: Told
) -> "type[RunningMember]":
    """The same, with parts that tell, and an opening of the data in the middle of which the machine may stop.

    ``fail`` is told what is wrong with its steps, ``on_executed`` what a state machine has executed.
    """
    raft_class = type("WatchedRaft", (WatchedRaft, member_class.raft_class), {})
    register_class = type("WatchedRegister", (WatchedRegister, member_class.register_class), {})

    def open_data(self: "RunningMember", received: "Received | None" = None) -> None:
        disk = self.environment.disk
        assert isinstance(disk, SimDisk)
        named = Steps(disk, self.config.data_dir, fail)
        disk.on_name = named.changes
        steps, disk.false_start = disk.false_start, None
        if received is not None and disk.false_install is not None:
            steps, disk.false_install = disk.false_install, None
        if steps is not None and steps >= 0:
            disk.cut_after(steps)
        elif steps is not None:
            named.ends_at = -steps
        member_class.open(self, received)
        if not disk.dead:
            disk.cut_after(None)

    machine_parts = {"on_executed": staticmethod(on_executed)}
    machine_class = type("WatchedMachine", (WatchedMachine, member_class.machine_class), machine_parts)
    parts = {
        "raft_class": raft_class,
        "register_class": register_class,
        "machine_class": machine_class,
        "open": open_data,
    }
    return type(member_class.__name__, (member_class,), parts)


class Question(msgspec.Struct):
    """A read that a member asked its leader about. ``commit``: what was known to be committed then, by anybody."""

    at: int
    commit: int


class Reign(msgspec.Struct):
    """What one member has heard as the leader of a term. Times are counted: in its ticks, or in events."""

    term: int
    since: int  # tick of its beginning, or of the last change of the membership
    election_ticks: int  # the longest timeout it had
    check_at: int = 0
    heard: dict[int, int] = {}  # member -> tick of its last answer
    sent: dict[int, int] = {}  # member -> tick of the last append to it
    waits: dict[int, tuple[int, int]] = {}  # member -> its match, and for how many looks nothing was done about it
    rounds: dict[int, int] = {}  # read round -> event of its first heartbeat
    confirmed: dict[int, int] = {}  # member -> the newest such event that it has answered


class Watched(msgspec.Struct):
    """One life of a member."""

    raft: object
    ticks: int = 0
    conf: ConfState = ConfState()
    before: ConfState = ConfState()  # the configuration before that
    reign: Reign | None = None
    on_look: list[Callable[[Raft], None]] = []  # called every `LOOK_TICKS` of its ticks
    impatience: Impatience | None = None


class Authority:
    """``fail`` is told what is wrong: a member that were told would take it for a defect of its own."""

    def __init__(self, observer: Observer, fail: Callable[[Violation], None]) -> None:
        self._observer = observer
        self._fail = fail
        self._members: dict[int, Watched] = {}
        self._questions: dict[tuple[int, int], Question] = {}  # (member, context)
        self._events = 0
        self.on_conf: dict[object, Callable[[Raft], None]] = {}  # called when a configuration comes into force

    def begins(self, member: "RunningMember") -> None:
        """A life: from now on its ticks and its configurations are seen."""
        raft = member.raft
        impatience, claims = Impatience(member.replica), Claims(member.replica)
        watched = self._members[raft.id] = Watched(
            raft=raft,
            conf=raft.conf,
            before=raft.conf,
            impatience=impatience,
            on_look=[impatience.ticked, claims.ticked],
        )
        if isinstance(raft, WatchedRaft):
            raft.on_tick = lambda: self._ticked(raft, watched)
            raft.on_membership = lambda conf: self._changes(raft, watched, conf)
            raft.on_changed = lambda: self._changed(raft)
            raft.on_problem = self._fail
            raft.on_append = lambda message: self._appended(raft, message)
        # What an earlier life has asked is nobody's question any more, whatever number it had.
        for question in [question for question in self._questions if question[0] == raft.id]:
            del self._questions[question]
        if isinstance(member.peers, WatchedRegister):
            member.peers.on_admitted = lambda claim: self._try(partial(check_remembered, member, claim))
        self._try(partial(check_installed, member))

    def _try(self, check: Callable[[], None]) -> None:
        try:
            check()
        except Violation as violation:
            self._fail(violation)

    def _appended(self, raft: Raft, message: Message) -> None:
        """Whoever follows the leader of its term answers it, in that term: it promises, or refuses."""
        if (raft.term, raft.leader_id) != (message.term, message.sender):
            return
        answers = [
            answer
            for answer in raft._after_sync
            if answer.type is MessageType.APPEND_RESPONSE and (answer.to, answer.term) == (message.sender, message.term)
        ]
        if not answers:
            self._fail(
                Violation(
                    "an append is answered",
                    f"{raft.id:x} has entries of {message.sender:x}, leader of term {message.term}, and no answer",
                )
            )

    # A majority is heard

    def _ticked(self, raft: Raft, watched: Watched) -> None:
        watched.ticks += 1
        if watched.ticks % LOOK_TICKS == 0:
            try:
                for look in watched.on_look:
                    look(raft)
            except Violation as violation:
                self._fail(violation)
        if raft.role is not StateRole.LEADER:
            watched.reign = None
            return
        reign = self._reign(raft, watched)
        reign.election_ticks = max(reign.election_ticks, raft.config.election_ticks)
        if watched.ticks < reign.check_at or not raft.config.check_quorum:
            return
        looked_at = reign.check_at - raft.config.heartbeat_ticks
        reign.check_at = watched.ticks + raft.config.heartbeat_ticks
        self._check_sent(raft, reign, looked_at)
        oldest = watched.ticks - 2 * reign.election_ticks - _SLACK_TICKS
        # A change of the membership begins the count anew: who was not needed before may have been silent.
        heard = {member for member in raft.conf.all_voters() if max(reign.heard.get(member, 0), reign.since) >= oldest}
        heard.add(raft.id)
        if not _is_majority(heard, raft.conf):
            self._fail(
                Violation(
                    "who leads hears from a majority",
                    f"{raft.id:x} leads term {raft.term} and has heard only {len(heard) - 1} others for two election "
                    f"timeouts, in configuration {describe_conf(raft.conf)}",
                )
            )

    def _check_sent(self, raft: Raft, reign: Reign, since: int) -> None:
        """Who answers and lacks something is sent it, or asked what it has. ``since``: tick of the last look."""
        last = raft.log.last_index
        for member_id, progress in raft.tracker.peers(raft.id):
            match, looks = reign.waits.get(member_id, (0, 0))
            idle = (
                progress.match == match < last
                and progress.state is not ProgressState.SNAPSHOT
                and progress.next >= raft.log.first_index  # else it waits for a snapshot, which may take long to make
                and reign.heard.get(member_id, 0) >= since > reign.sent.get(member_id, 0)
            )
            reign.waits[member_id] = (progress.match, looks + 1 if idle else 0)
            if looks > _IDLE_LOOKS:
                self._fail(
                    Violation(
                        "what a member lacks is sent",
                        f"{raft.id:x}, leader of term {raft.term}, hears from {member_id:x}, which has {match} of "
                        f"{last} entries, and sends it nothing",
                    )
                )

    def sent(self, member_id: int, to: int, term: int) -> None:
        """A leader sends an append."""
        leading = self._leading(member_id, term)
        if leading is not None:
            leading[2].sent[to] = leading[1].ticks

    def _reign(self, raft: Raft, watched: Watched) -> Reign:
        reign = watched.reign
        if reign is None or reign.term != raft.term:
            reign = watched.reign = Reign(
                term=raft.term, since=watched.ticks, election_ticks=raft.config.election_ticks
            )
        return reign

    def _leading(self, member_id: int, term: int) -> tuple[Raft, Watched, Reign] | None:
        watched = self._members.get(member_id)
        if watched is None:
            return None
        raft: Raft = watched.raft  # type: ignore[assignment]
        if raft.role is not StateRole.LEADER or raft.term != term:
            return None
        return raft, watched, self._reign(raft, watched)

    def arrived(self, kind: int, here: int, sender: int, term: int, context: int) -> None:
        """A member has an answer to an append or to a heartbeat."""
        leading = self._leading(here, term)
        if leading is None:
            return
        _, watched, reign = leading
        reign.heard[sender] = watched.ticks
        if kind == MessageType.HEARTBEAT_RESPONSE and (sent := reign.rounds.get(context)) is not None:
            reign.confirmed[sender] = max(reign.confirmed.get(sender, 0), sent)

    # Reads

    def asked(self, member_id: int, context: int) -> None:
        """A member asks its leader how new its state has to be."""
        self._events += 1
        asking = self._members.get(member_id)
        if asking is not None and asking.impatience is not None:
            asking.impatience.asked(context)
        questions = self._questions
        questions.setdefault((member_id, context), Question(self._events, self._observer.commit))
        if len(questions) > _KEPT_QUESTIONS:
            del questions[next(iter(questions))]

    def beat(self, member_id: int, term: int, read_round: int) -> None:
        """A leader sends a heartbeat."""
        self._events += 1
        leading = self._leading(member_id, term)
        if leading is not None:
            rounds = leading[2].rounds
            rounds.setdefault(read_round, self._events)
            if len(rounds) > _KEPT_QUESTIONS:
                del rounds[next(iter(rounds))]

    def answered(self, leader: int, term: int, asker: int, context: int, index: int) -> None:
        """A leader tells a member how new its state has to be. Raises `Violation`."""
        question, leading = self._questions.get((asker, context)), self._leading(leader, term)
        if question is None or leading is None:
            return
        if index < question.commit:
            raise Violation(
                "a read sees what was committed before its question",
                f"{leader:x} answers a read by {index}, and {question.commit} was committed when it was asked",
            )
        raft, watched, reign = leading
        heard = {member for member, sent in reign.confirmed.items() if sent > question.at}
        heard.add(leader)
        if not any(_is_majority(heard, conf) for conf in (raft.conf, watched.before)):
            raise Violation(
                "a read is confirmed by a majority behind its question",
                f"{leader:x}, leader of term {term}, answers a read that {len(heard) - 1} others have confirmed, in "
                f"configuration {describe_conf(raft.conf)}",
            )

    # Steps

    def _changes(self, raft: Raft, watched: Watched, conf: ConfState) -> None:
        self._try(partial(check_in_force, raft))
        before = raft.conf
        problem = bad_step(before, conf)
        if problem:
            self._fail(
                Violation(
                    "a change of the membership keeps a majority in common",
                    f"{raft.id:x} goes from {describe_conf(before)} to {describe_conf(conf)}: {problem}",
                )
            )
        if conf.joint:
            self._observer.joint_seen(conf)
        watched.conf, watched.before = conf, before
        if watched.reign is not None:
            watched.reign.since = watched.ticks

    def _changed(self, raft: Raft) -> None:
        for call in list(self.on_conf.values()):
            call(raft)


def _is_majority(members: set[int], conf: ConfState) -> bool:
    return all(2 * len(members & voters) > len(voters) for voters in (conf.voters, conf.outgoing) if voters)


def bad_step(before: ConfState, after: ConfState) -> str:
    """Why nobody may go from one configuration to the other; empty: it may."""
    if not before.voters:
        return ""  # of somebody who has just joined
    if before.joint:
        return "" if after.voters == before.voters and not after.joint else "the joint phase ends otherwise"
    if after.joint:
        return "" if after.outgoing == before.voters else "the old voters have no say"
    return "" if len(before.voters ^ after.voters) <= 1 else "several voters change at once"
