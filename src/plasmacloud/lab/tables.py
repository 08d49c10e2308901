"""What people see of a report: banner, tables and footnotes, on a terminal and in report.txt alike."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from plasmacloud.lab.evidence import RunInfo
from plasmacloud.lab.judge import Judgement
from plasmacloud.lab.report_comparison import Change, Comparison
from plasmacloud.lab.report_metrics import PARTS, in_order, metric_words
from plasmacloud.verify.checks import Verdict
from plasmacloud.verify.statistics import max_coverage, summarize

STYLES = {
    Verdict.PASS: "green",
    Verdict.PARTIAL: "yellow",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.VOID: "magenta",
    Verdict.FAIL: "red",
}
_SHOWN_FINDINGS = 5


def milliseconds(value: float) -> str:
    """``0.84``, ``12.3``, ``1363``: three digits are all that a measurement deserves."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def verdict_text(verdict: Verdict) -> Text:
    """The word in its colour."""
    return Text(verdict.value, style=f"bold {STYLES[verdict]}")


def banner(verdict: Verdict, interrupted: bool, results: Sequence[Judgement]) -> RenderableType:
    """The answer, in one box. References are not part of the answer."""
    results = [result for result in results if not result.reference]
    acknowledged = sum(result.acknowledged for result in results)
    lost = sum(result.lost for result in results)
    trials = sum(result.trials for result in results)
    head = Text(f"{verdict.value}{'  (INTERRUPTED)' if interrupted else ''}", style=f"bold {STYLES[verdict]}")
    passed = sum(result.verdict is Verdict.PASS for result in results)
    line = (
        f"{passed} of {len(results)} scenarios passed, {trials} faults injected, "
        f"{acknowledged:,} acknowledged writes, {lost:,} lost"
    )
    return Panel(Group(head, Text(line)), border_style=STYLES[verdict], box=box.ROUNDED, expand=True)


def summary_table(results: Sequence[Judgement]) -> Table:
    """One row for each scenario, grouped by target; fits a terminal of 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for name in ("scenario", "verdict"):
        table.add_column(name, no_wrap=True)
    for name in ("trials", "acked", "lost", "outage p50", "p99", "max (ms)"):
        table.add_column(name, justify="right", no_wrap=True)
    target = None
    for result in results:
        if result.target != target:
            target = result.target
            table.add_row(Text(f"{target} (for comparison)" if result.reference else target, style="bold"))
        times = result.distributions.get("rto_ms")
        summary = summarize(times) if times else None
        table.add_row(
            f" {result.scenario}",
            verdict_text(result.verdict),
            str(result.trials) if result.trials else "-",
            f"{result.acknowledged:,}",
            Text(f"{result.lost:,}", style="red" if result.lost else ""),
            milliseconds(summary.p50) if summary else "-",
            milliseconds(summary.p99) + ("*" if summary.p99_is_maximum else "") if summary else "-",
            milliseconds(summary.maximum) if summary else "-",
        )
    return table


def comparison_table(results: Sequence[Judgement]) -> Table | None:
    """Targets side by side, for the scenarios that ran on more than one."""
    by_scenario: dict[str, dict[str, Judgement]] = {}
    for result in results:
        by_scenario.setdefault(result.scenario, {})[result.target] = result
    shared = {name: each for name, each in by_scenario.items() if len(each) > 1}
    if not shared:
        return None
    targets = list(dict.fromkeys(result.target for result in results if result.scenario in shared))
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
        title="Side by side: p50 / max (ms)",
        title_justify="left",
    )
    table.add_column("scenario", no_wrap=True)
    table.add_column("time", no_wrap=True)
    for target in targets:
        table.add_column(target, justify="right", no_wrap=True)
    for scenario, each in shared.items():
        first = True
        for key in in_order(key for result in each.values() for key in result.distributions):
            cells = [_p50_and_maximum(each[target], key) if target in each else "" for target in targets]
            if any(cells):
                label = f"  {metric_words(key)}" if key in PARTS else metric_words(key)
                table.add_row(scenario if first else "", label, *cells)
                first = False
    return table


def _p50_and_maximum(result: Judgement, key: str) -> str:
    values = result.distributions.get(key)
    if not values:
        return ""
    summary = summarize(values)
    if summary.n == 1:
        return milliseconds(summary.maximum)
    return f"{milliseconds(summary.p50)} / {milliseconds(summary.maximum)}"


def render_comparison(comparison: Comparison, earlier: str) -> RenderableType:
    """What changed since an earlier run, in a few lines; the whole of it is in report.html."""
    lines: list[RenderableType] = [Text(f"Compared with {earlier}", style="bold")]
    for change in comparison.verdicts:
        before, after = (v.value if v else "not there" for v in (change.before, change.after))
        lines.append(Text(f"  {change.name}{' ' if change.check else ''}{change.check}: {before} -> {after}"))
    if not comparison.verdicts:
        lines.append(Text("  no verdict changed"))
    if comparison.only_before:
        lines.append(Text(f"  only in the earlier run: {', '.join(comparison.only_before)}", style="dim"))
    if comparison.only_after:
        lines.append(Text(f"  only in this run: {', '.join(comparison.only_after)}", style="dim"))
    for time in comparison.times:
        if time.change in (Change.SLOWER, Change.FASTER) and time.before and time.after:
            p50, n = (milliseconds(s.p50) for s in (time.before, time.after)), f"{time.before.n} and {time.after.n}"
            lines.append(
                Text(f"  {time.name} {time.metric}: {time.change.value}, p50 {' -> '.join(p50)} ms ({n} values)")
            )
    few = sum(time.change is Change.TOO_FEW for time in comparison.times)
    alike = sum(time.change is Change.ALIKE for time in comparison.times)
    lines.append(Text(f"  no difference shown in {alike} other distributions; too few values in {few}", style="dim"))
    lines += [Text(f"  {fact}: {before} -> {after}", style="dim") for fact, before, after in comparison.circumstances]
    return Group(*lines)


def findings(results: Sequence[Judgement], limit: int = _SHOWN_FINDINGS) -> list[RenderableType]:
    """Every check that is not PASS, with what was found."""
    lines: list[RenderableType] = []
    for result in results:
        for check in result.checks:
            if check.verdict is Verdict.PASS:
                continue
            head = Text.assemble(
                verdict_text(check.verdict), f" {result.target}/{result.scenario} {check.name}: {check.measured}"
            )
            lines.append(Text.assemble(head, f" (threshold: {check.threshold})"))
            lines += [Text(f"    {finding}") for finding in check.findings[:limit]]
            if len(check.findings) > limit:
                lines.append(Text(f"    ... {len(check.findings) - limit} more lines in report.txt"))
    return lines


def footnotes(results: Sequence[Judgement], not_run: Sequence[str]) -> list[RenderableType]:
    """What a reader must know to believe the numbers no more than they deserve."""
    notes: list[str] = []
    sizes = {len(result.distributions["rto_ms"]) for result in results if result.distributions.get("rto_ms")}
    if sizes and min(sizes) < 100:
        bounds = ", ".join(f"of {n}: {max_coverage(n):.0%}" for n in sorted(sizes, reverse=True))
        notes.append(
            "* below 100 trials the nearest-rank p99 is the maximum; with 95 % confidence, share of such faults "
            f"that the maximum of n trials bounds: {bounds}"
        )
    resolution = max((result.resolution_ms for result in results if result.resolution_ms is not None), default=None)
    if resolution is not None:
        stall = max(result.stall_ms for result in results)
        late = f"; the lab itself was late by up to {stall:.0f} ms" if stall else ""
        notes.append(
            f"outage: longest time without an acknowledged write around the fault; "
            f"undisturbed traffic paused for up to {resolution:.1f} ms{late}"
        )
    failed = [f"{r.target}/{r.scenario}" for r in results if r.reference and r.verdict is not Verdict.PASS]
    if failed:
        notes.append(f"for comparison only, not part of the verdict: {', '.join(failed)}")
    notes += list(dict.fromkeys(result.shortened for result in results if result.shortened))
    if not_run:
        notes.append(f"not run: {', '.join(not_run)}")
    return [Text(note, style="dim") for note in notes]


def environment(run: RunInfo) -> list[RenderableType]:
    """Where and how, in a few lines."""
    return [
        Text(f"started   {run.started}   seed {run.seed}"),
        Text(f"command   {' '.join(run.command)}"),
        Text(f"code      plasmacloud {run.plasmacloud}, commit {run.commit}"),
        Text(f"machine   {run.cpu_count} CPUs ({run.cpu_model}), {run.memory_mib} MiB, load {run.load_average:g}"),
        Text(f"system    {run.kernel} {run.machine}, {run.python}, data on {run.file_system}"),
    ]


def render_summary(
    verdict: Verdict, interrupted: bool, not_run: Sequence[str], results: Sequence[Judgement]
) -> RenderableType:
    """What is printed at the end of a run."""
    parts: list[RenderableType] = [banner(verdict, interrupted, results), summary_table(results)]
    comparison = comparison_table(results)
    if comparison is not None:
        parts.append(comparison)
    problems = findings(results)
    if problems:
        parts += [*problems, Text()]
    return Group(*parts, *footnotes(results, not_run))


def render_full(
    run: RunInfo, verdict: Verdict, interrupted: bool, not_run: Sequence[str], results: Sequence[Judgement]
) -> RenderableType:
    """report.txt: the summary, where it comes from, and every check of every scenario."""
    parts: list[RenderableType] = [
        Text("PlasmaCloud HA validation lab"),
        *environment(run),
        Text(),
        banner(verdict, interrupted, results),
        summary_table(results),
    ]
    comparison = comparison_table(results)
    if comparison is not None:
        parts.append(comparison)
    parts += footnotes(results, not_run)
    for result in results:
        parts += [Text(), *_scenario_section(result)]
    return Group(*parts)


def _scenario_section(result: Judgement) -> list[RenderableType]:
    parts: list[RenderableType] = [
        Text(f"{result.target} / {result.scenario}: {result.verdict.value}", style="bold"),
        Text(f"  {result.must_hold}"),
        Text(
            f"  {result.target_version}; {result.acknowledged:,} writes acknowledged, {result.refused:,} not executed, "
            f"{result.unknown:,} with unknown outcome; {result.read_back:,} verified on every node"
        ),
    ]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("check", "verdict", "measured", "threshold"):
        table.add_column(name, overflow="fold")
    for check in result.checks:
        table.add_row(check.name, verdict_text(check.verdict), check.measured, check.threshold)
    parts.append(table)
    for key in in_order(result.distributions):
        values = result.distributions[key]
        if values:
            parts.append(Text(f"  {key}: {_line(values)}"))
    for check in result.checks:
        if check.findings:
            parts.append(Text(f"  {check.name}:"))
            parts += [Text(f"    {finding}") for finding in check.findings]
    return parts


def _line(values: Sequence[float]) -> str:
    summary = summarize(values)
    text = (
        f"n {summary.n}, min {milliseconds(summary.minimum)}, p50 {milliseconds(summary.p50)}, "
        f"p99 {milliseconds(summary.p99)}{'*' if summary.p99_is_maximum else ''}, max {milliseconds(summary.maximum)}"
    )
    if 1 < summary.n <= 40:
        text += f"  [{' '.join(milliseconds(value) for value in values)}]"
    return text
