"""What the lab itself did, and when: the time axis on which everything else is judged.

One struct per kind of event; the ``event`` field of the JSON line names the kind. Times are CLOCK_MONOTONIC
nanoseconds of the lab process; ``trial`` 0 is the time outside of any trial.
"""

from typing import Literal

import msgspec


class Event(msgspec.Struct, frozen=True, tag_field="event", kw_only=True):
    """Base of all events."""

    at_ns: int
    trial: int = 0


class NodeStarted(Event, frozen=True, tag="node-started"):
    """A server process exists."""

    node: str
    pid: int
    incarnation: int


class LeaderSeen(Event, frozen=True, tag="leader-seen"):
    """All running nodes agreed on a leader and its term."""

    node: str
    member: int
    term: int


class TrialBegan(Event, frozen=True, tag="trial-began"):
    """Stable leader, everyone caught up; traffic from here on counts for this trial."""

    leader: str
    leader_member: int
    term: int


class FaultInjected(Event, frozen=True, tag="fault-injected"):
    """Taken immediately before the fault was applied. ``nodes`` are the victims."""

    fault: str
    nodes: tuple[str, ...]


class FaultProof(Event, frozen=True, tag="fault-proof"):
    """Whether the fault landed, and how the lab knows."""

    fault: str
    landed: bool
    evidence: str


class ProcessEnded(Event, frozen=True, tag="process-ended"):
    """A server process was reaped. ``status`` as of waitpid: negative is the signal that ended it."""

    node: str
    pid: int
    status: int


class ServiceResumed(Event, frozen=True, tag="service-resumed"):
    """A write that was sent after the fault was acknowledged; or, with ``ok`` false, none was within the deadline."""

    ok: bool
    waited_ms: float


class WindowClosed(Event, frozen=True, tag="window-closed"):
    """The end of the time in which an interruption of service is put down to the fault."""


class NodeRestarted(Event, frozen=True, tag="node-restarted"):
    """A victim runs again, as a new process."""

    node: str
    old_pid: int
    new_pid: int


class NodeThawed(Event, frozen=True, tag="node-thawed"):
    """A frozen process was told to go on; taken immediately before. The states are those of all its threads, from
    /proc, just before and just after."""

    node: str
    pid: int
    frozen_ms: float
    states_before: str
    states_after: str


class MembershipChanged(Event, frozen=True, tag="membership-changed"):
    """A change of membership that the lab asked for has happened, as a linearizable member list shows."""

    change: Literal["added", "promoted", "removed"]
    node: str
    member: int
    took_ms: float
    learner: bool = False


class RemovedEnded(Event, frozen=True, tag="removed-ended"):
    """What became of the process of a member that was removed while it ran. ``status`` as of waitpid; None: it went on
    for so long that the lab ended it."""

    node: str
    pid: int
    status: int | None


class Recovered(Event, frozen=True, tag="recovered"):
    """A survivor of the loss of the majority serves alone. ``revision``: of a linearizable read, before any new write;
    what was acknowledged at a higher revision could be missing. ``told``: what the recovery itself said."""

    node: str
    command: str
    revision: int
    began_ns: int
    told: str = ""


class CaughtUp(Event, frozen=True, tag="caught-up"):
    """Every running node has applied at least ``revision``; or, with ``ok`` false, did not within the deadline."""

    ok: bool
    revision: int
    waited_ms: float
    behind: tuple[str, ...] = ()


class HoldBegan(Event, frozen=True, tag="hold-began"):
    """From here on nothing may change."""


class HoldEnded(Event, frozen=True, tag="hold-ended"):
    """Until here nothing may have changed."""


class LoopStall(Event, frozen=True, tag="loop-stall"):
    """The lab's own event loop was late by this much: a limit of what it could measure just then."""

    late_ms: float


class UnexpectedExit(Event, frozen=True, tag="unexpected-exit"):
    """A server ended although nobody had told it to."""

    node: str
    pid: int
    status: int


class Stopped(Event, frozen=True, tag="stopped"):
    """The scenario ended before its plan was done. ``cause``: the target did not get into a state it had to reach,
    the user interrupted, or the lab itself failed."""

    cause: Literal["target", "user", "lab"]
    reason: str


class Note(Event, frozen=True, tag="note"):
    """Anything a reader of the evidence should know."""

    text: str


AnyEvent = (
    NodeStarted
    | LeaderSeen
    | TrialBegan
    | FaultInjected
    | FaultProof
    | ProcessEnded
    | ServiceResumed
    | WindowClosed
    | NodeRestarted
    | NodeThawed
    | MembershipChanged
    | RemovedEnded
    | Recovered
    | CaughtUp
    | HoldBegan
    | HoldEnded
    | LoopStall
    | UnexpectedExit
    | Stopped
    | Note
)
