"""The report: all judgements of a run and the one verdict, as JSON, JUnit, text and a page.

A report is a function of the evidence directory. `plasma lab report` computes it again and compares.
"""

import io
from pathlib import Path

import msgspec
from rich.console import Console

from plasmacloud.lab.evidence import (
    JUNIT,
    REPORT_HTML,
    REPORT_JSON,
    REPORT_TEXT,
    RunInfo,
    load_run,
    scenario_directories,
    verify_manifest,
)
from plasmacloud.lab.html.page import Facts, render_figure, render_page
from plasmacloud.lab.judge import Judgement, judge_directory
from plasmacloud.lab.junit import junit_xml
from plasmacloud.lab.report_baseline import Baseline, kept_baseline
from plasmacloud.lab.report_comparison import compare
from plasmacloud.lab.suites import suite_reports_differ
from plasmacloud.lab.tables import render_full
from plasmacloud.verify.checks import Verdict, combine
from plasmacloud.verify.files import UnreadableEvidence

TEXT_WIDTH = 110


class Report(msgspec.Struct, frozen=True):
    """What a run came to. ``not_run``: planned, but never begun."""

    run: RunInfo
    verdict: Verdict
    interrupted: bool
    not_run: list[str]
    results: list[Judgement]


def build_report(root: Path) -> tuple[Report, list[str]]:
    """Judge everything in the directory. Also returns what could not be read."""
    run = load_run(root)
    results: list[Judgement] = []
    unreadable: list[str] = []
    directories = scenario_directories(root, run)
    for directory in directories:
        try:
            results.append(judge_directory(directory))
        except UnreadableEvidence as error:
            unreadable.append(f"{directory.relative_to(root)}: {error}")
    not_run = [name for name in run.scenarios if root / name not in directories]
    subjects = [result for result in results if not result.reference]
    verdict = combine(result.verdict for result in subjects)
    interrupted = any(result.interrupted for result in results)
    if verdict is Verdict.PASS and (not_run or interrupted or unreadable):
        verdict = Verdict.INCONCLUSIVE
    return Report(run, verdict, interrupted, not_run, results), unreadable


def write_report(root: Path, report: Report) -> None:
    """Write all forms of the report."""
    (root / REPORT_JSON).write_bytes(encode_report(report))
    (root / JUNIT).write_text(
        junit_xml([r for r in report.results if not r.reference], report.run.started), encoding="utf-8"
    )
    (root / REPORT_TEXT).write_text(report_text(report), encoding="utf-8")
    (root / REPORT_HTML).write_text(report_page(root, report), encoding="utf-8")


def encode_report(report: Report) -> bytes:
    """The report as JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def report_text(report: Report) -> str:
    """The report as plain text."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=TEXT_WIDTH, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(render_full(report.run, report.verdict, report.interrupted, report.not_run, report.results))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def report_page(root: Path, report: Report, baseline: Baseline | None = None) -> str:
    """The report as one HTML file, compared with ``baseline`` or with the run named when this one was made. Raises
    `UnreadableEvidence` when that one cannot be read."""
    earlier = baseline or kept_baseline(root)
    return render_page(
        root,
        Facts(
            report.run,
            report.verdict,
            report.interrupted,
            report.not_run,
            report.results,
            compare(earlier.results, report.results, earlier.run, report.run) if earlier else None,
            earlier.described if earlier else "",
        ),
    )


def report_figure(root: Path, report: Report) -> str:
    """All outages as one SVG file, for other documents: of scenarios that ran on several targets, if there are any."""
    return render_figure(root, report.run, report.results)


class Recheck(msgspec.Struct, frozen=True):
    """An old run judged again. ``altered``: files that are not as they were recorded; ``contradiction``: how the
    stored report differs from what the evidence says now (it was changed, or the judge was)."""

    report: Report
    altered: list[str]
    contradiction: str | None

    @property
    def intact(self) -> bool:
        return not self.altered and self.contradiction is None


def recheck(root: Path) -> Recheck:
    """Judge an old run again, from its files alone. Raises `UnreadableEvidence` when it is no evidence directory."""
    altered = verify_manifest(root)
    report, unreadable = build_report(root)
    altered += unreadable
    try:
        stored = (root / REPORT_JSON).read_bytes()
    except OSError as error:
        return Recheck(report, altered, f"{REPORT_JSON} cannot be read: {error.strerror}")
    if stored != encode_report(report):
        return Recheck(report, altered, _difference(stored, report))
    suites = (suite_reports_differ(root / result.scenario, result) for result in report.results)
    return Recheck(report, altered, next(filter(None, suites), None) or _page_difference(root, report))


def _page_difference(root: Path, report: Report) -> str | None:
    """How the stored page differs from what the evidence gives now. Evidence older than the page has none."""
    path = root / REPORT_HTML
    if not path.exists():
        return None
    try:
        same = path.read_text(encoding="utf-8") == report_page(root, report)
    except (OSError, ValueError, UnreadableEvidence) as error:
        return f"{REPORT_HTML} cannot be compared: {error}"
    return None if same else f"{REPORT_HTML} is not the page that this version makes of the evidence"


def _difference(stored: bytes, report: Report) -> str:
    try:
        old = msgspec.json.decode(stored, type=Report)
    except msgspec.DecodeError as error:
        return f"it cannot be read ({error})"
    if old.verdict is not report.verdict:
        return f"the report says {old.verdict.value}, the evidence {report.verdict.value}"
    before = {f"{r.target}/{r.scenario}": r for r in old.results}
    for result in report.results:
        name = f"{result.target}/{result.scenario}"
        if before.get(name) != result:
            return f"{name} differs"
    return "facts about the run differ"
