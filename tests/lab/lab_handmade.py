"""A small leader-kill record, all well; tests take it and break one thing."""

from pathlib import Path

from plasmacloud.lab.plan import Plan, Traits
from plasmacloud.lab.recorder import Record, Recorder
from plasmacloud.lab.scenarios import find_scenario
from plasmacloud.verify.events import (
    AnyEvent,
    CaughtUp,
    FaultInjected,
    FaultProof,
    NodeRestarted,
    ProcessEnded,
    ServiceResumed,
    TrialBegan,
    WindowClosed,
)
from plasmacloud.verify.history import Op, Outcome
from plasmacloud.verify.observations import KeyRecord, Reading, StatusSample
from plasmacloud.verify.registers import Kind, RegisterOp

MS = 1_000_000
NODES = ("n1", "n2", "n3")
OUTAGE_MS = 120


def plan(scenario: str = "leader-kill", target: str = "etcd", trials: int = 2) -> Plan:
    """Settings with the scenario's own thresholds."""
    return Plan(
        target=target,
        target_version="handmade 1",
        traits=Traits(term_lags=False, graceful_statuses=(0,), election_timeout_ms=300),
        scenario=scenario,
        trials=trials,
        nodes=3,
        clients=2,
        rate_per_s=1000,
        seed=7,
        thresholds=dict(find_scenario(scenario).thresholds),
        min_traffic=5,
    )


def writes(trial: int, first_ms: int, count: int, revision: int) -> list[Op]:
    """``count`` acknowledged writes, one each millisecond."""
    return [
        Op(
            trial=trial,
            client=0,
            seq=revision + i,
            node="n2",
            key=f"lab/{trial:04d}/000/{revision + i:06d}",
            value=f"v{revision + i}",
            invoke_ns=(first_ms + i) * MS,
            return_ns=(first_ms + i) * MS + MS // 2,
            outcome=Outcome.OK,
            revision=revision + i,
        )
        for i in range(count)
    ]


def contention(trial: int, first_ms: int, revision: int) -> list[RegisterOp]:
    """A contender writes, another one reads what was written, ten times, on one contended key."""

    def attempt(number: int, kind: Kind, **facts: object) -> RegisterOp:
        begin_ns = (first_ms + number) * MS + (MS // 2 if kind is Kind.READ else 0)
        return RegisterOp(
            trial=trial,
            client=int(kind is Kind.READ),
            seq=revision + number,
            node="n2",
            key="lab-register/0",
            kind=kind,
            invoke_ns=begin_ns,
            return_ns=begin_ns + MS // 4,
            outcome=Outcome.OK,
            **facts,
        )

    attempts = []
    for i in range(10):
        value = f"{trial}.{i}"
        attempts.append(attempt(i, Kind.WRITE, value=value, executed=True, revision=revision + i))
        attempts.append(attempt(i, Kind.READ, seen=value, seen_revision=revision + i))
    return attempts


def trial_events(number: int, at_ms: int) -> list[AnyEvent]:
    """Begin at ``at_ms``, kill 10 ms later, back after OUTAGE_MS, restarted and caught up."""

    def ns(ms: int) -> int:
        return (at_ms + ms) * MS

    return [
        TrialBegan(at_ns=ns(0), trial=number, leader="n1", leader_member=1, term=2 * number),
        FaultInjected(at_ns=ns(10), trial=number, fault="kill", nodes=("n1",)),
        ProcessEnded(at_ns=ns(12), trial=number, node="n1", pid=100 + number, status=-9),
        FaultProof(at_ns=ns(12), trial=number, fault="kill", landed=True, evidence="waitpid: ended by SIGKILL"),
        ServiceResumed(at_ns=ns(10 + OUTAGE_MS), trial=number, ok=True, waited_ms=OUTAGE_MS),
        WindowClosed(at_ns=ns(20 + OUTAGE_MS), trial=number),
        NodeRestarted(at_ns=ns(21 + OUTAGE_MS), trial=number, node="n1", old_pid=100 + number, new_pid=200 + number),
        CaughtUp(at_ns=ns(60 + OUTAGE_MS), trial=number, ok=True, revision=99, waited_ms=39),
    ]


def good_record(trials: int = 2, target: str = "etcd") -> Record:
    """Every trial: ten writes, a kill, silence for OUTAGE_MS, twenty writes."""
    events: list[AnyEvent] = []
    history: list[Op] = []
    statuses: list[StatusSample] = []
    registers: list[RegisterOp] = []
    for number in range(1, trials + 1):
        at_ms = number * 1000
        events += trial_events(number, at_ms)
        history += writes(number, at_ms, 10, revision=number * 100)
        history += writes(number, at_ms + 9 + OUTAGE_MS, 20, revision=number * 100 + 10)
        registers += contention(number, at_ms, revision=number * 100 + 40)
        for after_ms, leader, term in ((0, 1, 2 * number), (50, 0, 2 * number), (100, 2, 2 * number + 1)):
            at_ns = (at_ms + 10 + after_ms) * MS
            statuses.append(StatusSample(at_ns, at_ns, "n2", 1, 2, leader, term))
    held = [KeyRecord(op.key, op.value, op.revision, op.revision, 1) for op in history]
    readings = [Reading("final", "lab/", 9999, 10_000 * MS, {node: list(held) for node in NODES}, {})]
    return Record(plan(trials=trials, target=target), events, history, statuses, readings, registers=registers)


def write_record(directory: Path, record: Record) -> None:
    """Put a record where the lab would have written it."""
    recorder = Recorder(directory, record.plan)
    for event in record.events:
        recorder.event(event)
    for op in record.history:
        recorder.op(op)
    for sample in record.statuses:
        recorder.status(sample)
    for attempt in record.registers:
        recorder.register(attempt)
    for reading in record.readings:
        recorder.reading(reading)
    recorder.flush()
