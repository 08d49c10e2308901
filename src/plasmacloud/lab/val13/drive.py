"""The course of VAL13: what is done, in order. Every step leaves its evidence file; nothing is judged here."""

import asyncio
import signal
import time

import msgspec

from plasmacloud.lab.election.api import HEALTHY, LOST, ServerApi
from plasmacloud.lab.election.rig import ElectionRig
from plasmacloud.lab.val13 import names
from plasmacloud.lab.val13.names import NODE1, NODE2
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.lab.wire import AttemptFailed
from plasmacloud.postgres import StopMode
from plasmacloud.verify.files import encode_lines

TABLE = "val13_probe"
CREATE = f"CREATE TABLE {TABLE} (id integer PRIMARY KEY, note text NOT NULL)"
INSERT = f"INSERT INTO {TABLE} (id, note) VALUES (1, 'pre-kill')"
SELECT = f"SELECT note FROM {TABLE} WHERE id = 1"
EPOCHS = (
    "SELECT epoch, timeline, holder_id, acquired_at::text, coalesce(resigned_at::text, ''), notes FROM leader_epochs"
)
BASELINE_WRITES = 100
GIVE_UP_S = 30.0


class EpochRow(msgspec.Struct, frozen=True):
    """One row of ``leader_epochs``."""

    epoch: int
    timeline: int
    holder_id: str
    acquired_at: str
    resigned_at: str
    notes: str


async def drive(rig: ElectionRig) -> None:
    """All of it. Raises `WaitedTooLong` when the system does not get into a state that it must reach."""
    await _baseline(rig)
    await _planned_failover(rig)
    await _postgres_crash(rig)
    await _rapid_cycles(rig)
    killed_ms = await fail_over(rig, NODE1, NODE2, signal.SIGKILL)
    _write(rig, names.KILL_TIMING, names.timing_line(killed_ms, "KILL"))
    _reached(killed_ms, NODE2)
    await _more_trials(rig)
    rig.doing("VAL13-10: still the leader")
    await rig.traffic(BASELINE_WRITES)
    _write(rig, names.FINAL_STATUS, await rig.ha_status(NODE2))
    await rig.finish()
    rows = await rig.postgres.fetch(f"{EPOCHS} ORDER BY epoch")
    _write(rig, names.EPOCHS, encode_lines(EpochRow(*row) for row in rows).decode())


async def _baseline(rig: ElectionRig) -> None:
    """VAL13-01 and 02: node 1 leads, node 2 waits, a row is written."""
    await rig.start_postgres()
    _write(rig, names.TABLE_CREATE, await _sql(rig, CREATE))
    try:
        rig.start_server(NODE1)
        await rig.answering(NODE1)
        await rig.leader(NODE1)
        rig.start_server(NODE2)
        await rig.answering(NODE2)
        rig.workload.start()
        await rig.traffic(BASELINE_WRITES)
    except WaitedTooLong:  # nobody leads: what the servers say then is the evidence
        await _who_leads(rig)
        raise
    await _who_leads(rig)
    _write(rig, names.PRE_KILL_WRITE, await _sql(rig, INSERT))


async def _who_leads(rig: ElectionRig) -> None:
    for name, file in ((NODE1, names.NODE1_STATUS), (NODE2, names.NODE2_STATUS)):
        if rig.servers[name].running:
            _write(rig, file, await rig.ha_status(name) + _count_line(rig, name))


async def _planned_failover(rig: ElectionRig) -> None:
    """VAL13-03, 04 and 05: SIGTERM of node 1; node 2 leads and the row is there."""
    took_ms = await fail_over(rig, NODE1, NODE2, signal.SIGTERM)
    _write(rig, names.TERM_TIMING, names.timing_line(took_ms, "TERM"))
    _reached(took_ms, NODE2)
    _write(rig, names.STATUS_AFTER, await rig.ha_status(NODE2))
    _write(rig, names.DATA_PROBE, await _row(rig))
    _write(rig, names.WRITE_READY, await _write_ready(rig, NODE2))


async def _postgres_crash(rig: ElectionRig) -> None:
    """VAL13-06 and 07: PostgreSQL is stopped the hard way, and started again. Leaves node 2 leading.

    Node 1 is down meanwhile: of two, either could win after the restart, and the course goes on from node 2.
    """
    await rig.leader(NODE2)
    await rig.begin_trial(NODE2)
    rig.doing("VAL13-06: PostgreSQL stopped")
    began_ns = await rig.stop_postgres(StopMode.IMMEDIATE, "postgres-stop")
    lost = await _quorums(rig, LOST, rig.plan.threshold("quorum_lost_max_s") + 5, since_ns=began_ns)
    _write(rig, names.QUORUM_LOST, lost)
    rig.doing("VAL13-07: PostgreSQL started again")
    again_ns = time.monotonic_ns()
    await rig.restart_postgres()
    healthy = await _quorums(rig, HEALTHY, rig.plan.recovery_deadline_s, since_ns=again_ns)
    _write(rig, names.QUORUM_HEALTHY, healthy)
    _write(rig, names.DATA_AFTER_RESTART, await _row(rig))
    resumed = await rig.resumed(again_ns)
    await rig.end_trial(ok=resumed)


async def _rapid_cycles(rig: ElectionRig) -> None:
    """VAL13-08: three times in a row, whoever leads is told to end and comes back. Leaves node 1 leading."""
    rig.start_server(NODE1)
    await rig.answering(NODE1)
    took: list[int] = []
    for number, (leader, follower) in enumerate(((NODE2, NODE1), (NODE1, NODE2), (NODE2, NODE1)), 1):
        ms = await fail_over(rig, leader, follower, signal.SIGTERM)
        took.append(ms)
        led = ", ".join(status.node_id for status in rig.watcher.leaders()) or "nobody"
        lines = f"cycle={number}  {names.timing_line(ms, 'TERM')}stopped={leader}  leader={led}\n{await _row(rig)}"
        _write(rig, names.CYCLES[number - 1], lines)
        _reached(ms, follower)
        rig.start_server(leader)
        await rig.answering(leader)
    _write(rig, names.RAPID_SUMMARY, names.summary_line(took))
    _write(rig, names.POST_CYCLE_STATUS, await rig.ha_status(NODE1))
    _write(rig, names.DATA_AFTER_RAPID, await _row(rig))


async def _more_trials(rig: ElectionRig) -> None:
    """The two failovers again, ``trials`` - 1 times; each round begins and ends with node 2 leading alone."""
    lines: list[str] = []
    for number in range(2, rig.plan.trials + 1):
        rig.progress.trial = number
        for leader, follower, signum in ((NODE2, NODE1, signal.SIGTERM), (NODE1, NODE2, signal.SIGKILL)):
            rig.start_server(follower)
            await rig.answering(follower)
            ms = await fail_over(rig, leader, follower, signum)
            lines.append(f"trial={number}  {names.timing_line(ms, signum.name.removeprefix('SIG'))}")
            _write(rig, names.MORE_TRIALS, "".join(lines))
            _reached(ms, follower)


async def fail_over(rig: ElectionRig, leader: str, follower: str, signum: signal.Signals) -> int:
    """End the leader and time the follower as VAL13 prescribes: count the words in the follower's current session
    log, take the start time, send the signal, look every 50 ms until the count has risen. In ms; 99999: never."""
    await rig.leader(leader)
    await rig.begin_trial(leader)
    fault = "terminate" if signum is signal.SIGTERM else "kill"
    rig.doing(f"{signum.name} to {leader}")
    before = rig.servers[follower].count_in_log(names.ACQUIRED)
    start_ns = time.monotonic_ns()
    at_ns = rig.signal_server(leader, signum, fault)
    took_ms, resumed, _ = await asyncio.gather(
        _until_acquired(rig, follower, before, start_ns), rig.resumed(at_ns), rig.prove_end(leader, signum, fault)
    )
    await rig.end_trial(ok=resumed)
    return took_ms


async def _until_acquired(rig: ElectionRig, follower: str, before: int, start_ns: int) -> int:
    server = rig.servers[follower]
    while (elapsed_ns := time.monotonic_ns() - start_ns) < GIVE_UP_S * 1e9:
        if server.count_in_log(names.ACQUIRED) > before:
            return round(elapsed_ns / 1e6)
        await asyncio.sleep(names.LOG_POLL_S)
    return names.NEVER_MS


def _reached(took_ms: int, follower: str) -> None:
    if took_ms >= names.NEVER_MS:
        raise WaitedTooLong(f"{follower} did not acquire leadership within {GIVE_UP_S:g} s")


async def _quorums(rig: ElectionRig, wanted: str, timeout: float, *, since_ns: int) -> str:
    """What the servers that run say about the quorum, each asked until it is as wanted: node 2's answer, and below
    it what each said and how long after ``since_ns``."""
    servers = [name for name in reversed(names.NODES) if rig.servers[name].running]
    answers = await asyncio.gather(*(rig.quorum(name, wanted, timeout=timeout) for name in servers))
    document: dict[str, object] = {}
    if answers:
        document = msgspec.json.decode(answers[0][0], type=dict[str, object])
    document["servers"] = {
        name: {"reached": came, "after_ms": round((at_ns - since_ns) / 1e6, 1), "answer": msgspec.Raw(body)}
        for name, (body, at_ns, came) in zip(servers, answers, strict=True)
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


async def _write_ready(rig: ElectionRig, name: str) -> str:
    server = rig.servers[name]
    api = ServerApi(server.host, server.port)
    try:
        answer = await api.get("/v1/health/write-ready", timeout=5.0)
        return f"GET {server.url}/v1/health/write-ready\n{answer.status}\n{answer.body.decode(errors='replace')}\n"
    except AttemptFailed as error:
        return f"GET {server.url}/v1/health/write-ready\n{error}\n"
    finally:
        api.close()


async def _sql(rig: ElectionRig, statement: str) -> str:
    return f"{statement};\n{await rig.postgres.execute(statement)}\n"


async def _row(rig: ElectionRig) -> str:
    """The probe row as PostgreSQL has it now."""
    rows = await rig.postgres.fetch(SELECT)
    return (
        f"{SELECT};\n"
        + "".join(f"note = {note}\n" for (note,) in rows)
        + f"({len(rows)} row{'s' * (len(rows) != 1)})\n"
    )


def _count_line(rig: ElectionRig, name: str) -> str:
    server = rig.servers[name]
    return f"{server.log_path.name}: {server.count_in_log(names.ACQUIRED)} x {names.ACQUIRED!r}\n"


def _write(rig: ElectionRig, name: str, text: str) -> None:
    (rig.directory / name).write_text(text, encoding="utf-8")
