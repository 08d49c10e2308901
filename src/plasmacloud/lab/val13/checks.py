"""VAL13's ten checks, each from the evidence files that it names. Pure.

A file that is not there means that the course did not get so far: the check is INCONCLUSIVE, and the course's own end
says why. A failover whose fault left no proof is INCONCLUSIVE too, however good its time looks.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from plasmacloud.lab.judging import Case
from plasmacloud.lab.val13 import names
from plasmacloud.lab.val13.names import NODE1, NODE2, check_title
from plasmacloud.verify.checks import Check, Verdict

Files = Mapping[str, str]
_COUNT = re.compile(rf"\S+\.log: (\d+) x '{names.ACQUIRED}'")
_LED = re.compile(r"stopped=(\S+)  leader=(.+)")


class SaidStatus(msgspec.Struct, frozen=True):
    """What `plasma ha status -o json` says of a server."""

    node_id: str
    leader_id: str


class SaidQuorum(msgspec.Struct, frozen=True):
    """What one server said about the quorum, and how long after the event."""

    reached: bool
    after_ms: float


class QuorumFile(msgspec.Struct, frozen=True):
    """``val13-06-quorum-lost.json`` and ``val13-07-quorum-healthy.json``."""

    quorum_health: str
    servers: dict[str, SaidQuorum]


class Missing(Exception):
    """A file of the evidence is not there, or not what it should be."""


def ten_checks(case: Case, files: Files) -> list[Check]:
    """All of them, in order. ``files``: the contents of the evidence files that exist, by name."""
    makers: Sequence[Callable[[Case, Files], Check]] = (
        _baseline,
        _written,
        _term,
        _no_loss,
        _active,
        _quorum_lost,
        _quorum_recovered,
        _rapid,
        _kill,
        _stable,
    )
    found: list[Check] = []
    for identifier, make in zip(names.CHECKS, makers, strict=True):
        try:
            found.append(make(case, files))
        except Missing as error:
            found.append(_check(identifier, "not reached", "judged", [str(error)], bad=Verdict.INCONCLUSIVE))
    return found


def failover_times(files: Files) -> dict[str, list[float]]:
    """All failover times as VAL13 measures them, by signal, in milliseconds."""
    text = "".join(
        files.get(name, "") for name in (names.TERM_TIMING, *names.CYCLES, names.KILL_TIMING, names.MORE_TRIALS)
    )
    found: dict[str, list[float]] = {}
    for took_ms, signal in names.read_timings(text):
        found.setdefault(f"failover_{signal.lower()}_ms", []).append(float(took_ms))
    return found


def _check(
    identifier: str, measured: str, threshold: str, findings: Sequence[str], *, bad: Verdict = Verdict.FAIL
) -> Check:
    verdict = bad if findings else Verdict.PASS
    return Check(check_title(identifier), verdict, measured, threshold, tuple(findings))


def _baseline(case: Case, files: Files) -> Check:
    first, second = _text(files, names.NODE1_STATUS), _text(files, names.NODE2_STATUS)
    leader = _status(first, names.NODE1_STATUS).leader_id
    own, other = _count(first, names.NODE1_STATUS), _count(second, names.NODE2_STATUS)
    findings = [] if leader == NODE1 else [f"node 1's status names {leader or 'nobody'}"]
    findings += [] if own else [f"node 1's log has no {names.ACQUIRED!r}"]
    findings += [f"node 2's first session log has {names.ACQUIRED!r} {other} times"] if other else []
    measured = f"{leader or 'nobody'} leads; {names.ACQUIRED!r}: {own} x node 1, {other} x node 2"
    return _check("VAL13-01", measured, f"{NODE1} leads, node 2 never did", findings)


def _written(case: Case, files: Files) -> Check:
    written = "INSERT 0 1" in _text(files, names.PRE_KILL_WRITE).splitlines()
    return _check("VAL13-02", "INSERT 0 1" if written else "no row", "1 row", [] if written else ["not inserted"])


def _term(case: Case, files: Files) -> Check:
    return _timed(case, files, "VAL13-03", names.TERM_TIMING, "TERM", names.TERM_TRIAL)


def _kill(case: Case, files: Files) -> Check:
    return _timed(case, files, "VAL13-09", names.KILL_TIMING, "KILL", names.KILL_TRIAL)


def _timed(case: Case, files: Files, identifier: str, file: str, signal: str, trial: int) -> Check:
    timing = names.read_timing(_text(files, file))
    if timing is None or timing[1] != signal:
        raise Missing(f"{file} has no failover time for SIG{signal}")
    limit = case.plan.threshold("failover_max_ms")
    measured, threshold = _milliseconds(timing[0]), f"<= {limit:g} ms after SIG{signal}"
    if timing[0] > limit:
        return _check(identifier, measured, threshold, [f"failover took {measured}"])
    return _check(identifier, measured, threshold, _unproven(case, trial), bad=Verdict.INCONCLUSIVE)


def _no_loss(case: Case, files: Files) -> Check:
    return _row("VAL13-04", files, names.DATA_PROBE)


def _row(identifier: str, files: Files, file: str) -> Check:
    there = names.NOTE in _text(files, file).splitlines()
    findings = [] if there else [f"{file}: the row written before the kill is not there"]
    return _check(identifier, names.NOTE if there else "row lost", names.NOTE, findings)


def _active(case: Case, files: Files) -> Check:
    ready = "ready" if "\n200\n" in files.get(names.WRITE_READY, "") else "not ready"
    return _named("VAL13-05", files, names.STATUS_AFTER, NODE2, f", {ready} for writes")


def _stable(case: Case, files: Files) -> Check:
    return _named("VAL13-10", files, names.FINAL_STATUS, NODE2)


def _named(identifier: str, files: Files, file: str, wanted: str, more: str = "") -> Check:
    leader = _status(_text(files, file), file).leader_id
    findings = [] if leader == wanted else [f"{file} names {leader or 'nobody'}"]
    return _check(identifier, f"{leader or 'nobody'} leads{more}", f"{wanted} leads", findings)


def _quorum_lost(case: Case, files: Files) -> Check:
    said = _quorum(files, names.QUORUM_LOST)
    limit_s = case.plan.threshold("quorum_lost_max_s")
    measured, findings = _reached(said, "lost", limit_s * 1e3)
    threshold = f"lost within {limit_s:g} s"
    if findings:
        return _check("VAL13-06", measured, threshold, findings)
    unproven = _unproven(case, names.POSTGRES_TRIAL)
    return _check("VAL13-06", measured, threshold, unproven, bad=Verdict.INCONCLUSIVE)


def _quorum_recovered(case: Case, files: Files) -> Check:
    said = _quorum(files, names.QUORUM_HEALTHY)
    measured, findings = _reached(said, "healthy", case.plan.recovery_deadline_s * 1e3)
    row = _row("VAL13-07", files, names.DATA_AFTER_RESTART)
    threshold = f"healthy after the start, {names.NOTE}"
    return _check("VAL13-07", f"{measured}; {row.measured}", threshold, [*findings, *row.findings])


def _reached(said: QuorumFile, wanted: str, limit_ms: float) -> tuple[str, list[str]]:
    """What was measured, and what is wrong with it."""
    findings = [] if said.quorum_health == wanted else [f"quorum_health is {said.quorum_health!r}, not {wanted!r}"]
    for name, each in said.servers.items():
        if not each.reached:
            findings.append(f"{name} did not say {wanted!r} within {each.after_ms:.0f} ms")
        elif each.after_ms > limit_ms:
            findings.append(f"{name} said {wanted!r} only after {each.after_ms:.0f} ms")
    times = ", ".join(f"{name} after {each.after_ms:.0f} ms" for name, each in said.servers.items())
    return f"{said.quorum_health}: {times}", findings


def _rapid(case: Case, files: Files) -> Check:
    limit = case.plan.threshold("failover_max_ms")
    findings: list[str] = []
    for number, (file, wanted) in enumerate(zip(names.CYCLES, (NODE1, NODE2, NODE1), strict=True), 1):
        text = _text(files, file)
        timing, led = names.read_timing(text), _LED.search(text)
        if timing is None or led is None:
            raise Missing(f"{file} has no failover time")
        findings += [f"cycle {number} took {_milliseconds(timing[0])}"] if timing[0] > limit else []
        findings += [f"cycle {number}: {led[2]} leads, not {wanted}"] if led[2] != wanted else []
        findings += [] if names.NOTE in text.splitlines() else [f"cycle {number}: the row is lost"]
    summary = names.read_summary(_text(files, names.RAPID_SUMMARY))
    if summary is None:
        raise Missing(f"{names.RAPID_SUMMARY} has no three times")
    after = _status(_text(files, names.POST_CYCLE_STATUS), names.POST_CYCLE_STATUS).leader_id
    findings += [] if after == NODE1 else [f"after the cycles {after or 'nobody'} leads, not {NODE1}"]
    findings += _row("VAL13-08", files, names.DATA_AFTER_RAPID).findings
    measured, threshold = ", ".join(map(_milliseconds, summary)), f"each <= {limit:g} ms, new leader, row there"
    if findings:
        return _check("VAL13-08", measured, threshold, findings)
    unproven = [finding for trial in names.CYCLE_TRIALS for finding in _unproven(case, trial)]
    return _check("VAL13-08", measured, threshold, unproven, bad=Verdict.INCONCLUSIVE)


def _unproven(case: Case, number: int) -> list[str]:
    """Why the fault of a trial counts for nothing; empty when it left its proof."""
    trial = next((trial for trial in case.trials if trial.number == number), None)
    if trial is None or trial.proof is None:
        return [f"trial {number} recorded no proof of its fault"]
    return [] if trial.proof.landed else [trial.proof.evidence]


def _milliseconds(value: int) -> str:
    return "never" if value >= names.NEVER_MS else f"{value} ms"


def _text(files: Files, name: str) -> str:
    try:
        return files[name]
    except KeyError:
        raise Missing(f"there is no {name}") from None


def _count(text: str, name: str) -> int:
    match = _COUNT.search(text)
    if match is None:
        raise Missing(f"{name} does not say how often {names.ACQUIRED!r} was logged")
    return int(match[1])


def _status(text: str, name: str) -> SaidStatus:
    """The JSON document in a status file, in which the command's table comes first."""
    document = text.partition(" -o json\n")[2].partition("\nexit status")[0]
    try:
        (said,) = msgspec.json.decode(document, type=list[SaidStatus])
    except (msgspec.DecodeError, ValueError):
        raise Missing(f"{name} has no answer of `plasma ha status -o json`") from None
    return said


def _quorum(files: Files, name: str) -> QuorumFile:
    try:
        return msgspec.json.decode(_text(files, name), type=QuorumFile)
    except msgspec.DecodeError as error:
        raise Missing(f"{name} cannot be read: {error}") from error
