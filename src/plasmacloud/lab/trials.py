"""Trials, put together from the events: what was done to whom, when, and how the system got over it. Pure."""

from collections.abc import Iterable

import msgspec

from plasmacloud.verify.events import (
    AnyEvent,
    CaughtUp,
    FaultInjected,
    FaultProof,
    NodeRestarted,
    NodeThawed,
    ProcessEnded,
    Recovered,
    ServiceResumed,
    TrialBegan,
    WindowClosed,
)


class Trial(msgspec.Struct):
    """One repetition. Fields are None, or empty, where the trial did not get that far.

    Most trials have one fault; where there are several, they are injected and proven one after the other, and the
    trial's window begins with the first.
    """

    number: int
    leader: str
    leader_member: int
    term: int
    began_ns: int
    faults: list[FaultInjected] = msgspec.field(default_factory=list)
    proofs: list[FaultProof] = msgspec.field(default_factory=list)
    resumed: ServiceResumed | None = None
    closed_ns: int | None = None
    caught_up: CaughtUp | None = None
    ended: list[ProcessEnded] = msgspec.field(default_factory=list)
    restarts: list[NodeRestarted] = msgspec.field(default_factory=list)
    thawed: NodeThawed | None = None
    recovered: Recovered | None = None

    @property
    def fault(self) -> FaultInjected | None:
        """The first fault."""
        return self.faults[0] if self.faults else None

    @property
    def proof(self) -> FaultProof | None:
        """The proof of the first fault."""
        return self.proofs[0] if self.proofs else None

    @property
    def proven(self) -> int:
        """How many of the faults left proof that they landed."""
        return sum(proof.landed for proof in self.proofs[: len(self.faults)])

    @property
    def complete(self) -> bool:
        """Whether every step of the trial was taken, whatever its result."""
        return None not in (self.fault, self.proof, self.resumed, self.closed_ns, self.caught_up)

    @property
    def rejoin_ms(self) -> float | None:
        """From the first restart until every node had applied a barrier written after it."""
        if not self.restarts or self.caught_up is None or not self.caught_up.ok:
            return None
        return (self.caught_up.at_ns - self.restarts[0].at_ns) / 1e6


def assemble(events: Iterable[AnyEvent]) -> list[Trial]:
    """All trials that began, in order."""
    trials: dict[int, Trial] = {}
    for event in events:
        if isinstance(event, TrialBegan):
            trials[event.trial] = Trial(event.trial, event.leader, event.leader_member, event.term, event.at_ns)
        trial = trials.get(event.trial)
        if trial is None:
            continue
        match event:
            case FaultInjected():
                trial.faults.append(event)
            case FaultProof():
                trial.proofs.append(event)
            case ServiceResumed():
                trial.resumed = event
            case WindowClosed():
                trial.closed_ns = event.at_ns
            case CaughtUp():
                trial.caught_up = event
            case ProcessEnded():
                trial.ended.append(event)
            case NodeRestarted():
                trial.restarts.append(event)
            case NodeThawed():
                trial.thawed = event
            case Recovered():
                trial.recovered = event
            case _:
                pass
    return [trials[number] for number in sorted(trials)]
