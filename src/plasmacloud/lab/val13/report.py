"""``val13-report.txt`` and ``val13-report.json``: VAL13's own form of the result, beside the lab's.

Both follow from the judgement, and so from the evidence.
"""

from typing import TYPE_CHECKING

import msgspec

from plasmacloud.lab.election.suite import count_writes, times_text
from plasmacloud.lab.val13 import names
from plasmacloud.lab.val13.rule import GATE_C, gate_c, rule
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.statistics import Summary, summarize

if TYPE_CHECKING:
    from plasmacloud.lab.judge import Judgement

_TIMES = ("failover_term_ms", "failover_kill_ms", "rto_term_ms", "rto_kill_ms")


class ReportedCheck(msgspec.Struct, frozen=True):
    """One of the ten."""

    id: str
    name: str
    verdict: Verdict
    measured: str
    threshold: str
    findings: tuple[str, ...]


class GateC(msgspec.Struct, frozen=True):
    """Gate C reads 03, 09 and 04."""

    passed: bool
    reads: dict[str, Verdict]


class Val13Report(msgspec.Struct, frozen=True):
    """``verdict``: the rule on the ten checks, or worse where ``also_checked`` says so. Times in milliseconds:
    ``failover_*`` from the signal to the words in the follower's log, ``rto_*`` as a client's longest time without an
    acknowledged write."""

    verdict: Verdict
    verdict_of_the_ten: Verdict
    reason: str
    interrupted: bool
    gate_c: GateC
    checks: list[ReportedCheck]
    also_checked: list[Check]
    times: dict[str, list[float]]
    summaries: dict[str, Summary]
    writes: dict[str, int]
    target_version: str


def make_report(judgement: "Judgement") -> Val13Report:
    """Pure."""
    by_title = {check.name: check for check in judgement.checks}
    titles = {identifier: names.check_title(identifier) for identifier in names.CHECKS}
    ten = {identifier: by_title[title] for identifier, title in titles.items()}
    verdicts = {identifier: check.verdict for identifier, check in ten.items()}
    ruling = rule(verdicts)
    others = [check for check in judgement.checks if check.name not in titles.values()]
    worse = [f"{check.name} ({check.verdict.value})" for check in others if check.verdict is not Verdict.PASS]
    reason = f"{ruling.reason}; beside the ten: {', '.join(worse)}" if worse else ruling.reason
    times = {name: judgement.distributions[name] for name in _TIMES if judgement.distributions.get(name)}
    return Val13Report(
        verdict=judgement.verdict,
        verdict_of_the_ten=ruling.verdict,
        reason=reason,
        interrupted=judgement.interrupted,
        gate_c=GateC(gate_c(verdicts), {identifier: verdicts[identifier] for identifier in GATE_C}),
        checks=[
            ReportedCheck(each, names.CHECKS[each], check.verdict, check.measured, check.threshold, check.findings)
            for each, check in ten.items()
        ],
        also_checked=others,
        times=times,
        summaries={name: summarize(values) for name, values in times.items()},
        writes=count_writes(judgement),
        target_version=judgement.target_version,
    )


def report_text(report: Val13Report) -> str:
    """For people: a line for each check, Gate C, the times, the verdict."""
    lines = ["VAL13: HA failover validation of leader election", report.target_version, ""]
    for check in report.checks:
        lines.append(f"{check.id}  {check.name:<28}  {check.verdict.value:<12}  {check.measured}  ({check.threshold})")
        lines += [f"          {finding}" for finding in check.findings]
    lines += ["", "beside the ten:"]
    for other in report.also_checked:
        lines.append(f"  {other.name:<22}  {other.verdict.value:<12}  {other.measured}  ({other.threshold})")
        lines += [f"          {finding}" for finding in other.findings]
    lines += [
        "",
        "times in ms (failover: signal to log line; rto: a client's longest time without an acknowledged write)",
    ]
    lines += times_text(report.summaries, 18)
    writes = ", ".join(f"{count:,} {name}" for name, count in report.writes.items())
    gate = ", ".join(f"{each} {verdict.value}" for each, verdict in report.gate_c.reads.items())
    lines += ["", f"writes    {writes}", f"Gate C    {'PASS' if report.gate_c.passed else 'FAIL'}  ({gate})"]
    verdict = f"{report.verdict.value}{' (INTERRUPTED)' if report.interrupted else ''}"
    lines.append(f"verdict   {verdict}: {report.reason}")
    return "\n".join(lines) + "\n"


def reports(judgement: "Judgement") -> dict[str, bytes]:
    """Both forms, by file name."""
    report = make_report(judgement)
    return {
        names.REPORT_TEXT: report_text(report).encode(),
        names.REPORT_JSON: msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n",
    }
