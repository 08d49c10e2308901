"""A VAL13 run in which all is well, as evidence; tests take it and break one thing."""

import msgspec

from plasmacloud.lab.judging import Case
from plasmacloud.lab.plan import Plan, Traits
from plasmacloud.lab.recorder import Record
from plasmacloud.lab.val13 import names
from plasmacloud.lab.val13.names import NODE1, NODE2
from plasmacloud.lab.val13.suite import Val13
from plasmacloud.verify.events import (
    AnyEvent,
    CaughtUp,
    FaultInjected,
    FaultProof,
    ProcessEnded,
    ServiceResumed,
    TrialBegan,
    WindowClosed,
)
from plasmacloud.verify.history import Op, Outcome
from plasmacloud.verify.observations import KeyRecord, Reading, StatusSample

MS = 1_000_000
COURSE = (
    (NODE1, "terminate", 0),
    ("postgres", "postgres-stop", 0),
    (NODE2, "terminate", 0),
    (NODE1, "terminate", 0),
    (NODE2, "terminate", 0),
    (NODE1, "kill", -9),
)
NUMBERS = {NODE1: 1, NODE2: 2}


def plan(trials: int = 1) -> Plan:
    """Settings with the suite's own thresholds."""
    return Plan(
        target="election",
        target_version="handmade 1",
        traits=Traits(term_lags=False, graceful_statuses=(0,), election_timeout_ms=1500),
        scenario="val13",
        trials=trials,
        nodes=2,
        clients=2,
        rate_per_s=100,
        seed=7,
        thresholds=dict(Val13.thresholds),
        min_traffic=5,
    )


def status_text(server: str, leader: str, more: str = "") -> str:
    """What the two commands of a status file print."""
    answer = msgspec.json.format(msgspec.json.encode([{"node_id": server, "leader_id": leader}])).decode()
    return (
        f"$ plasma ha status --server x\nNODE  LEADER\n{server}  {leader}\nexit status 0\n"
        f"$ plasma ha status --server x -o json\n{answer}\nexit status 0\n{more}"
    )


def quorum_text(health: str, after_ms: float = 800.0, *, reached: bool = True) -> str:
    """A quorum file."""
    servers = {name: {"reached": reached, "after_ms": after_ms, "answer": {}} for name in names.NODES}
    return msgspec.json.encode({"quorum_health": health, "servers": servers}).decode()


def good_files() -> dict[str, str]:
    """Every evidence file that the checks read."""
    row = f"SELECT;\n{names.NOTE}\n(1 row)\n"
    cycles = {
        file: f"cycle={number}  {names.timing_line(200, 'TERM')}stopped={old}  leader={new}\n{row}"
        for number, (file, old, new) in enumerate(
            zip(names.CYCLES, (NODE2, NODE1, NODE2), (NODE1, NODE2, NODE1), strict=True), 1
        )
    }
    return {
        names.TABLE_CREATE: "CREATE TABLE\n",
        names.NODE1_STATUS: status_text(NODE1, NODE1, f"val13-node1-s0.log: 1 x '{names.ACQUIRED}'\n"),
        names.NODE2_STATUS: status_text(NODE2, NODE1, f"val13-node2-s0.log: 0 x '{names.ACQUIRED}'\n"),
        names.PRE_KILL_WRITE: "INSERT INTO t;\nINSERT 0 1\n",
        names.TERM_TIMING: names.timing_line(107, "TERM"),
        names.STATUS_AFTER: status_text(NODE2, NODE2),
        names.DATA_PROBE: row,
        names.WRITE_READY: "GET x\n200\n{}\n",
        names.QUORUM_LOST: quorum_text("lost"),
        names.QUORUM_HEALTHY: quorum_text("healthy"),
        names.DATA_AFTER_RESTART: row,
        **cycles,
        names.RAPID_SUMMARY: names.summary_line([200, 200, 200]),
        names.POST_CYCLE_STATUS: status_text(NODE1, NODE1),
        names.DATA_AFTER_RAPID: row,
        names.KILL_TIMING: names.timing_line(120, "KILL"),
        names.FINAL_STATUS: status_text(NODE2, NODE2),
    }


def good_record() -> Record:
    """Six faults; before each ten writes, after each an outage of 100 ms and ten more, in the next epoch."""
    events: list[AnyEvent] = []
    history: list[Op] = []
    statuses: list[StatusSample] = []
    for number, (victim, fault, status) in enumerate(COURSE, 1):
        at = number * 1000
        leader = victim if victim in NUMBERS else NODE2
        events += [
            TrialBegan(at_ns=at * MS, trial=number, leader=leader, leader_member=NUMBERS[leader], term=number),
            FaultInjected(at_ns=(at + 100) * MS, trial=number, fault=fault, nodes=(victim,)),
            ProcessEnded(at_ns=(at + 110) * MS, trial=number, node=victim, pid=number, status=status),
            FaultProof(at_ns=(at + 110) * MS, trial=number, fault=fault, landed=True, evidence="waitpid"),
            ServiceResumed(at_ns=(at + 200) * MS, trial=number, ok=True, waited_ms=100),
            WindowClosed(at_ns=(at + 250) * MS, trial=number),
            CaughtUp(at_ns=(at + 300) * MS, trial=number, ok=True, revision=number + 1, waited_ms=0),
        ]
        for step in range(20):
            begin = at + 10 * step + (0 if step < 10 else 100)
            epoch = number if step < 10 else number + 1
            history.append(
                Op(
                    trial=number,
                    client=0,
                    seq=number * 100 + step,
                    node=leader,
                    key=f"lab.{number}.{step}",
                    value=f"v{step}",
                    invoke_ns=begin * MS,
                    return_ns=(begin + 2) * MS,
                    outcome=Outcome.OK,
                    revision=epoch,
                )
            )
        statuses.append(StatusSample(at * MS, at * MS, leader, 1, NUMBERS[leader], NUMBERS[leader], number))
    held = [KeyRecord(op.key, op.value, op.revision, op.revision, 1) for op in history]
    readings = [Reading("final", "lab.", 0, 9_000 * MS, {"postgres": held}, {})]
    return Record(plan(), events, history, statuses, readings)


def good_case() -> Case:
    """The record, with what is derived from it."""
    return Case(good_record())
