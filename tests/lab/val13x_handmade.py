"""A run of val13x in which all is well, as evidence; tests take it and break one thing."""

from pathlib import Path

import msgspec

from plasmacloud.lab.judging import Case
from plasmacloud.lab.plan import Plan, Traits
from plasmacloud.lab.recorder import Record
from plasmacloud.lab.val13x import names
from plasmacloud.lab.val13x.facts import (
    AnyFact,
    AuditRow,
    Begun,
    Ended,
    EpochRow,
    Followed,
    Gathered,
    PoolerTried,
    Promoted,
    QuorumSaid,
    StaleAttempt,
    Standby,
    Told,
    append_fact,
)
from plasmacloud.lab.val13x.names import NODE1, NODE2
from plasmacloud.lab.val13x.suite import Val13x
from plasmacloud.verify.events import (
    AnyEvent,
    CaughtUp,
    FaultInjected,
    FaultProof,
    NodeRestarted,
    NodeThawed,
    ProcessEnded,
    ServiceResumed,
    TrialBegan,
    WindowClosed,
)
from plasmacloud.verify.files import encode_lines
from plasmacloud.verify.history import Op, Outcome
from plasmacloud.verify.observations import KeyRecord, Reading, StatusSample
from plasmacloud.verify.registers import Kind, RegisterOp

MS = 1_000_000
TRIAL_MS = 10_000
OUTAGE_MS = 1200
NUMBERS = {NODE1: 1, NODE2: 2}


def plan() -> Plan:
    """One trial of every scenario, with the suite's own thresholds."""
    return Plan(
        target="election",
        target_version="handmade 1",
        traits=Traits(term_lags=False, graceful_statuses=(0,), election_timeout_ms=1500),
        scenario="val13x",
        trials=1,
        nodes=2,
        clients=2,
        rate_per_s=100,
        seed=7,
        thresholds=dict(Val13x.thresholds),
        min_traffic=5,
        options={"ports": "1 2 3 4", "postgres": "", "network": "proxies", "network_why": "", "scenarios": every()},
    )


def every() -> str:
    """The names of all scenarios."""
    return " ".join(names.COURSES)


def faults() -> list[tuple[str, str]]:
    """Scenario and fault of every trial, in order."""
    return [(name, fault) for name, course in names.COURSES.items() for fault in course.faults]


def trial_of(fault: str) -> int:
    """The number of the trial with this fault."""
    return [each for _, each in faults()].index(fault) + 1


def at(trial: int, ms: float) -> int:
    """A moment of a trial: so many milliseconds after its fault."""
    return int((trial * TRIAL_MS + 1000 + ms) * MS)


def leaders(trial: int) -> tuple[str, str]:
    """Who leads before, and who after the fault."""
    return (NODE1, NODE2) if trial % 2 else (NODE2, NODE1)


def good_record() -> Record:
    """Before each fault ten writes; an outage of 1.2 s, in which the old leader steps down; forty under the next."""
    events: list[AnyEvent] = []
    history: list[Op] = []
    statuses: list[StatusSample] = []
    for number, (_, fault) in enumerate(faults(), 1):
        old, new = leaders(number)
        events += _events(number, fault, old)
        for step in range(50):
            begin = -200 + 10 * step if step < 10 else OUTAGE_MS + 75 * (step - 10)
            history.append(_op(number, step, begin, old if step < 10 else new, number if step < 10 else number + 1))
        history.append(_op(number, 50, 100, old, 0, Outcome.FAIL, client=1))
        for node, ms, leader in ((old, -150, 1), (old, 500, 0), (new, 550, 0), (new, OUTAGE_MS - 50, 1)):
            member = NUMBERS[node]
            term = number if ms < 0 else number + 1
            when = at(number, ms)
            statuses.append(StatusSample(when, when + MS, node, 1, member, member if leader else 0, term))
    held = [KeyRecord(o.key, o.value, o.revision, o.revision, 1) for o in history if o.outcome is Outcome.OK]
    end = at(len(faults()) + 1, 0)
    readings = [Reading("final", "lab.", 0, end, {"postgres": held}, {})]
    return Record(plan(), events, history, statuses, readings, registers=_registers())


def _op(
    trial: int, step: int, ms: float, node: str, epoch: int, outcome: Outcome = Outcome.OK, *, client: int = 0
) -> Op:
    begin = at(trial, ms)
    key = f"lab.{trial:04d}.{step}"
    return Op(
        trial, client, trial * 100 + step, node, key, f"v{step}", begin, begin + 2 * MS, outcome, epoch, answered=True
    )


def _registers() -> list[RegisterOp]:
    """One client that writes and reads a contended key, thirty times."""
    found = []
    for step in range(60):
        begin = at(1, -500 + step)
        write = step % 2 == 0
        version = step // 2 + 1
        found.append(
            RegisterOp(
                1,
                1,
                step,
                NODE1,
                "register.x.0",
                Kind.WRITE if write else Kind.READ,
                begin,
                begin + MS // 2,
                Outcome.OK,
                value=f"1.{version}" if write else None,
                executed=write,
                revision=version if write else 0,
                seen=None if write else f"1.{version}",
                seen_revision=0 if write else version,
            )
        )
    return found


def _events(number: int, fault: str, leader: str) -> list[AnyEvent]:
    victim = "postgres" if "postgres" in fault or "primary" in fault else "postgres-2" if "standby" in fault else leader
    status = {names.TERM: 0, names.STOP_POSTGRES: 0}.get(fault, -9)
    ends = fault in (
        names.TERM,
        names.KILL,
        names.STOP_POSTGRES,
        names.KILL_POSTGRES,
        names.KILL_STANDBY,
        names.KILL_PRIMARY,
    )

    def moment(ms: float) -> dict[str, int]:
        return {"at_ns": at(number, ms), "trial": number}

    events: list[AnyEvent] = [
        TrialBegan(**moment(-900), leader=leader, leader_member=NUMBERS[leader], term=number),
        FaultInjected(**moment(0), fault=fault, nodes=(victim,)),
    ]
    if ends:
        events.append(ProcessEnded(**moment(10), node=victim, pid=number, status=status))
        events.append(NodeRestarted(**moment(1000), node=victim, old_pid=number, new_pid=number + 1000))
    if fault == names.FREEZE:
        thawed = NodeThawed(**moment(3000), node=leader, pid=1, frozen_ms=3000, states_before="TT", states_after="SS")
        events.append(thawed)
    return [
        *events,
        FaultProof(**moment(20), fault=fault, landed=True, evidence="seen"),
        ServiceResumed(**moment(OUTAGE_MS + 5), ok=True, waited_ms=OUTAGE_MS + 5),
        WindowClosed(**moment(4000)),
        CaughtUp(**moment(4100), ok=True, revision=number + 1, waited_ms=0),
    ]


def good_facts() -> list[AnyFact]:
    """Everything as it should be."""
    facts: list[AnyFact] = []
    number = 0
    for name, course in names.COURSES.items():
        first = number + 1
        before = at(number, 4200)
        facts.append(Begun(at_ns=before, scenario=name, first_trial=first))
        for fault in course.faults:
            number += 1
            facts += _facts_of(number, fault)
        if name == names.POOLER:
            said = "error: a connection pooler is in the way"
            facts.append(
                PoolerTried(
                    at_ns=before + MS, trial=number, pooler="small", shared=True, status=6, said=said, acquired=0
                )
            )
        if name == names.SPLIT_BRAIN:
            facts += _told(number)
        facts.append(Ended(at_ns=max(at(number, 4150), before + 2 * MS), scenario=name, last_trial=number))
    return facts


def _facts_of(number: int, fault: str) -> list[AnyFact]:
    old, new = leaders(number)
    epoch = f"1.{number}"

    def moment(ms: float) -> dict[str, int]:
        return {"at_ns": at(number, ms), "trial": number}

    def refused(via: str, kind: str) -> StaleAttempt:
        return StaleAttempt(**moment(3100), via=via, target=old, epoch=epoch, outcome=Outcome.FAIL, kind=kind)

    def quorum(wanted: str, ms: float) -> list[AnyFact]:
        ready = wanted == "healthy"
        return [
            QuorumSaid(**moment(ms), server=each, wanted=wanted, health=wanted, write_ready=ready, after_ms=300)
            for each in names.NODES
        ]

    match fault:
        case names.FREEZE | names.CUT:
            return [refused("server", "not-leader"), Followed(**moment(3200), server=old, leader=new, after_ms=100)]
        case names.STOP_POSTGRES | names.KILL_POSTGRES:
            return [*quorum("lost", 300), *quorum("healthy", 2000)]
        case names.OVERTAKE:
            control = StaleAttempt(
                **moment(3300),
                via="sql",
                target="postgres",
                epoch=f"1.{number + 1}",
                outcome=Outcome.OK,
                accepted=f"1.{number + 1}",
                current=True,
            )
            return [refused("server", "stale-epoch"), refused("sql", "stale-epoch"), control]
        case names.KILL_STANDBY:
            gone = Standby(**moment(30), primary="postgres", standby="postgres-2")
            return [gone, *quorum("lost", 300), *quorum("healthy", 2000)]
        case names.KILL_PRIMARY:
            promoted = Promoted(**moment(200), server="postgres-2", old_timeline=1, timeline=2, after_ms=200)
            return [promoted, *quorum("healthy", 2000)]
        case _:
            return []


def _told(number: int) -> list[AnyFact]:
    course = (
        ("detect", 0, ()),
        ("detect", 1, ("holder-without-lock",)),
        ("recover --strategy promote-leader", 0, ("holder-without-lock",)),
        ("detect", 0, ()),
        ("detect", 1, ("lock-held-by-stranger",)),
        ("recover --strategy manual-reconcile", 0, ("lock-held-by-stranger",)),
        ("release", 0, ()),
        ("detect", 0, ()),
    )
    return [
        Told(at_ns=at(number, 3000) + step, trial=number, command=command, status=status, findings=findings)
        for step, (command, status, findings) in enumerate(course)
    ]


def good_gathered() -> Gathered:
    """The suite's own files."""
    count = len(faults()) + 1
    later = trial_of(names.KILL_PRIMARY) + 1
    epochs = [
        EpochRow(number, 2 if number >= later else 1, leaders(number)[0], "then", "", "")
        for number in range(1, count + 1)
    ]
    audit = [
        AuditRow("then", NODE1, names.OPERATOR, f"split-brain {what}", outcome)
        for what in ("promote-leader", "manual-reconcile", "release")
        for outcome in ("requested", "done")
    ]
    return Gathered(good_facts(), epochs, audit)


def good_case() -> Case:
    """The record, with what is derived from it."""
    return Case(good_record())


def write_own_files(directory: Path, gathered: Gathered) -> None:
    """As a run leaves them."""
    for fact in gathered.facts:
        append_fact(directory, fact)
    (directory / names.EPOCHS).write_bytes(encode_lines(gathered.epochs or []))
    (directory / names.AUDIT).write_bytes(encode_lines(gathered.audit))


def with_fact(gathered: Gathered, old: AnyFact, **changes: object) -> Gathered:
    """The same files with one fact changed."""
    new = msgspec.structs.replace(old, **changes)
    return msgspec.structs.replace(gathered, facts=[new if fact is old else fact for fact in gathered.facts])
