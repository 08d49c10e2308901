"""What the leader does about members on its own: promote who has caught up, clear away who never came, report who died.

Pure: `decide` is called now and then with what the leader sees and the time, and returns what should be done. It is
careful in one direction: a decision not taken costs a moment, a wrong one costs availability. So

- at most one change is under way, and none while a configuration is joint or an earlier entry is not applied;
- a learner is promoted after several *rounds* in a row (Raft thesis, section 4.2.1): a round is the replication of
  everything the leader had when the round began, and counts only if it was finished within an election timeout. A
  learner that keeps up with the load passes; one that is for ever behind does not, however small its lag looks;
- nobody is removed unless the voters that remain have a working quorum without it;
- time in which this process did not run, or did not ask, is no evidence against anybody: the policy's clock advances
  by `MAX_STEP_S` at most from one call to the next, and starts anew with every term.
"""

from enum import Enum
from typing import NamedTuple

import msgspec

from plasmacloud.base.units import format_duration
from plasmacloud.chainfire.membership_view import MemberRole, MembershipView, MemberView, quorum_works

MAX_STEP_S = 1.0
_RATE_SMOOTHING = 0.3


class DeadPolicy(Enum):
    """What happens to a member that was silent for too long."""

    REPORT = "report"
    REMOVE = "remove"


class PolicyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds. ``round_s`` is the election timeout.

    ``learner_deadline_s``: a learner that never received anything is removed then; ``learner_stall_s``: so is one on
    its way to become a voter that makes no progress. ``dead_after_s``: a silent member is dead. ``retry_s``: no second
    decision about a member before then.
    """

    auto_promote: bool = True
    rounds: int = 3
    round_s: float = 0.3
    learner_deadline_s: float = 600.0
    learner_stall_s: float = 1800.0
    dead_after_s: float = 300.0
    dead_policy: DeadPolicy = DeadPolicy.REPORT
    change_timeout_s: float = 15.0
    retry_s: float = 5.0


class Promote(NamedTuple):
    """The learner has caught up: make it a voter."""

    member_id: int


class RemoveStaleLearner(NamedTuple):
    """The learner never came, or came to a halt: remove it."""

    member_id: int
    why: str


class RemoveDead(NamedTuple):
    """The member is dead and not needed for a quorum: remove it."""

    member_id: int
    silent_s: float


class ReportDead(NamedTuple):
    """Tell the operator; once per silence."""

    member_id: int
    silent_s: float


class ReportBack(NamedTuple):
    """A member reported dead answers again."""

    member_id: int


Change = Promote | RemoveStaleLearner | RemoveDead
Decision = Change | ReportDead | ReportBack


class JoinProgress(NamedTuple):
    """How far a learner is on its way. ``None`` where nothing can be said yet. Rates in entries per second."""

    percent: int
    lag_entries: int
    lag_bytes: int
    rate: float
    eta_s: float | None
    rounds_done: int
    rounds_needed: int
    expires_in_s: float | None


class _Track:
    """What the leader remembers about one member of its term. All times are of the policy's clock."""

    def __init__(self, now: float, view: MembershipView, member: MemberView) -> None:
        self.first_seen = now
        self.progressed_at = now
        self.mark = _mark(member)
        self.moved = False
        self.rounds = 0
        self.round_target = view.last_index
        self.round_began = now
        self.rate = 0.0
        self.gain = 0.0
        self.sample = (now, member.match or 0, view.last_index)
        self.reported = False
        self.not_before = now


def _mark(member: MemberView) -> tuple[int, int]:
    """Grows whenever the member receives anything."""
    return member.match or 0, member.snapshot_percent or 0


class MembershipPolicy:
    """One per member; it acts only while its member leads."""

    def __init__(self, config: PolicyConfig | None = None) -> None:
        self.config = config or PolicyConfig()
        self._tracks: dict[int, _Track] = {}
        self._term = 0
        self._clock = 0.0
        self._step = 0.0
        self._asked_at: float | None = None
        self._in_flight: Change | None = None
        self._in_flight_until = 0.0

    @property
    def in_flight(self) -> Change | None:
        """The change that was asked for last, until it is `settled`, seen in the view, or given up."""
        return self._in_flight

    def set_round(self, round_s: float) -> None:
        """The election timeout has changed: a round may take that long (seconds)."""
        self.config = msgspec.structs.replace(self.config, round_s=round_s)

    def settled(self) -> None:
        """The change asked for last was answered, by success or refusal."""
        self._in_flight = None

    def decide(self, view: MembershipView, now: float) -> list[Decision]:
        """What to do now: any number of reports, and at most one change, which comes last.

        ``now``: monotonic seconds. Call it several times a second.
        """
        self._advance(now)
        if not view.from_leader or view.term != self._term:
            self._begin_term(view)
        if not view.from_leader:
            return []
        self._observe(view)
        decisions = self._reports(view)
        self._settle_what_is_visible(view)
        if self._in_flight is None and not view.joint and not view.change_pending:
            change = self._change(view)
            if change is not None:
                self._in_flight = change
                self._in_flight_until = self._clock + self.config.change_timeout_s
                self._tracks[change.member_id].not_before = self._clock + self.config.retry_s
                decisions.append(change)
        return decisions

    def stand_by(self, now: float) -> None:
        """What `decide` does on a member that does not lead: remember nothing, but that time has passed."""
        self._advance(now)
        self._term = 0
        self._tracks = {}
        self._in_flight = None

    def progress(self, view: MembershipView) -> dict[int, JoinProgress]:
        """How far each learner is; empty unless this member leads."""
        return {
            member.id: self._progress_of(view, member, self._tracks[member.id])
            for member in view.members
            if member.role is MemberRole.LEARNER and member.id in self._tracks
        }

    # -- time and memory -------------------------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        if self._asked_at is not None:
            self._step = min(max(0.0, now - self._asked_at), MAX_STEP_S)
            self._clock += self._step
        self._asked_at = now

    def _begin_term(self, view: MembershipView) -> None:
        self._term = view.term
        self._tracks = {}
        self._in_flight = None

    def _observe(self, view: MembershipView) -> None:
        now = self._clock
        others = {member.id: member for member in view.members if member.id != view.own_id}
        self._tracks = {
            member_id: self._tracks.get(member_id) or _Track(now, view, member) for member_id, member in others.items()
        }
        for member_id, member in others.items():
            track = self._tracks[member_id]
            if _mark(member) != track.mark:
                track.mark = _mark(member)
                track.moved = True
                track.progressed_at = now
            if view.in_sync(member):
                track.progressed_at = now
            self._count_rounds(view, member, track)
            self._measure(view, member, track)

    def _count_rounds(self, view: MembershipView, member: MemberView, track: _Track) -> None:
        now = self._clock
        overdue = now - track.round_began > self.config.round_s + self._step  # as exactly as it was looked at
        if not member.active or member.state != "replicate":
            track.rounds = 0
        elif (member.match or 0) < track.round_target:
            if overdue:
                track.rounds = 0
            return
        elif now > track.round_began:
            track.rounds = 0 if overdue else track.rounds + 1
        else:
            return
        track.round_began, track.round_target = now, view.last_index

    def _measure(self, view: MembershipView, member: MemberView, track: _Track) -> None:
        then, match, last = track.sample
        elapsed = self._clock - then
        if elapsed <= 0:
            return
        rate = max(0.0, ((member.match or 0) - match) / elapsed)
        growth = max(0.0, (view.last_index - last) / elapsed)
        track.rate += _RATE_SMOOTHING * (rate - track.rate)
        track.gain += _RATE_SMOOTHING * (rate - growth - track.gain)
        track.sample = (self._clock, member.match or 0, view.last_index)

    # -- decisions -------------------------------------------------------------------------------------------------

    def _settle_what_is_visible(self, view: MembershipView) -> None:
        change = self._in_flight
        if change is None:
            return
        member = view.member(change.member_id)
        done = member is None or (isinstance(change, Promote) and member.role is not MemberRole.LEARNER)
        if done or self._clock >= self._in_flight_until:
            self._in_flight = None

    def _reports(self, view: MembershipView) -> list[Decision]:
        reports: list[Decision] = []
        for member in view.members:
            track = self._tracks.get(member.id)
            if track is None or self._never_came(member, track):
                continue
            silent_s = self._silent_s(member, track)
            if silent_s >= self.config.dead_after_s and not track.reported:
                track.reported = True
                reports.append(ReportDead(member.id, silent_s))
            elif track.reported and member.active:
                track.reported = False
                reports.append(ReportBack(member.id))
        return reports

    def _change(self, view: MembershipView) -> Change | None:
        due = [
            (member, self._tracks[member.id])
            for member in view.members
            if member.id in self._tracks and self._tracks[member.id].not_before <= self._clock
        ]
        for member, track in due:
            if self._may_promote(view, member, track):
                return Promote(member.id)
        for member, track in due:
            why = self._stale(member, track)
            if why:
                return RemoveStaleLearner(member.id, why)
        for member, track in due:
            if self._may_bury(view, member, track):
                return RemoveDead(member.id, self._silent_s(member, track))
        return None

    def _may_promote(self, view: MembershipView, member: MemberView, track: _Track) -> bool:
        return (
            self.config.auto_promote
            and member.role is MemberRole.LEARNER
            and member.promote
            and track.rounds >= self.config.rounds
            and view.in_sync(member)
            and quorum_works((view.voters | {member.id}) - {member.replaces}, view.active)
        )

    def _stale(self, member: MemberView, track: _Track) -> str:
        """Why the learner should go; empty when it may stay."""
        if member.role is not MemberRole.LEARNER:
            return ""
        config = self.config
        idle_s = self._clock - track.progressed_at
        if self._never_came(member, track):
            if idle_s >= config.learner_deadline_s:
                return f"it has not received anything for {format_duration(idle_s)} since it was added"
        elif member.promote and idle_s >= config.learner_stall_s:
            return f"it has made no progress for {format_duration(idle_s)}"
        return ""

    def _may_bury(self, view: MembershipView, member: MemberView, track: _Track) -> bool:
        return (
            self.config.dead_policy is DeadPolicy.REMOVE
            and member.role is not MemberRole.LEAVING
            and not self._never_came(member, track)
            and self._silent_s(member, track) >= self.config.dead_after_s
            and quorum_works(view.voters - {member.id}, view.active)
        )

    def _never_came(self, member: MemberView, track: _Track) -> bool:
        return member.role is MemberRole.LEARNER and not (member.started or track.moved or track.mark > (0, 0))

    def _silent_s(self, member: MemberView, track: _Track) -> float:
        """For how long it has certainly been silent: what the leader counted, within this policy's own time."""
        watched_s = self._clock - track.first_seen
        return watched_s if member.last_contact_s is None else min(watched_s, member.last_contact_s)

    def _progress_of(self, view: MembershipView, member: MemberView, track: _Track) -> JoinProgress:
        lag = view.lag(member)
        if member.snapshot_percent is not None:
            percent = member.snapshot_percent
        else:
            percent = 100 * (member.match or 0) // max(1, view.last_index)
        idle_s = self._clock - track.progressed_at
        expires: float | None = None
        if self._never_came(member, track):
            expires = max(0.0, self.config.learner_deadline_s - idle_s)
        elif member.promote and not view.in_sync(member):
            expires = max(0.0, self.config.learner_stall_s - idle_s)
        return JoinProgress(
            percent=min(percent, 100),
            lag_entries=lag,
            lag_bytes=round(lag * view.entry_bytes),
            rate=track.rate,
            eta_s=0.0 if not lag else lag / track.gain if track.gain > 0 else None,
            rounds_done=min(track.rounds, self.config.rounds),
            rounds_needed=self.config.rounds,
            expires_in_s=expires,
        )
