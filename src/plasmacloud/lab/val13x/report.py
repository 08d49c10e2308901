"""``val13x-report.txt`` and ``val13x-report.json``: the suite's own form of the result, beside the lab's. Pure."""

from typing import TYPE_CHECKING

import msgspec

from plasmacloud.lab.election.suite import check_text, count_writes, times_text
from plasmacloud.lab.val13x import names
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.statistics import Summary, summarize

if TYPE_CHECKING:
    from plasmacloud.lab.judge import Judgement


class Val13xReport(msgspec.Struct, frozen=True):
    """``times``: in milliseconds. ``rto_*``: a client's longest time without an acknowledged write; ``takeover_*``:
    from the fault to the first write of a newer epoch; ``step_down_ms``: until a leader that was cut off had given up;
    ``resume_pg_*``: from when the database took sessions again to the first acknowledged write; ``resume_standby_ms``:
    from the start of the lost standby; ``resume_promoted_ms``: from the promotion."""

    verdict: Verdict
    interrupted: bool
    scenarios: list[Check]
    also_checked: list[Check]
    times: dict[str, list[float]]
    summaries: dict[str, Summary]
    writes: dict[str, int]
    target_version: str


def make_report(judgement: "Judgement") -> Val13xReport:
    """From the judgement, and so from the evidence."""
    titles = {names.title(name) for name in names.COURSES}
    times = {name: values for name, values in judgement.distributions.items() if values and name != "write_ms"}
    return Val13xReport(
        verdict=judgement.verdict,
        interrupted=judgement.interrupted,
        scenarios=[check for check in judgement.checks if check.name in titles],
        also_checked=[check for check in judgement.checks if check.name not in titles],
        times=times,
        summaries={name: summarize(values) for name, values in times.items()},
        writes=count_writes(judgement),
        target_version=judgement.target_version,
    )


def report_text(report: Val13xReport) -> str:
    """For people."""
    lines = ["VAL13X: where VAL13 stops", report.target_version, ""]
    for check in report.scenarios:
        lines += check_text(check, 38)
    lines += ["", "over the whole run:"]
    for check in report.also_checked:
        lines += check_text(check, 38)
    lines += ["", "times in ms"]
    lines += times_text(report.summaries, 26)
    writes = ", ".join(f"{count:,} {name}" for name, count in report.writes.items())
    lines += ["", f"writes    {writes}"]
    lines.append(f"verdict   {report.verdict.value}{' (INTERRUPTED)' if report.interrupted else ''}")
    return "\n".join(lines) + "\n"


def reports(judgement: "Judgement") -> dict[str, bytes]:
    """Both forms, by file name."""
    report = make_report(judgement)
    return {
        names.REPORT_TEXT: report_text(report).encode(),
        names.REPORT_JSON: msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n",
    }
