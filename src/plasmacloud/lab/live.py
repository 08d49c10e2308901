"""What a run shows while it runs: a small table that stays in place on a terminal, one line per step elsewhere.

Drawing takes time from the process that measures, so it is done a few times a second and never by a thread.
"""

import time
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from plasmacloud.lab.judge import Judgement
from plasmacloud.lab.observed_load import Progress
from plasmacloud.lab.plan import Plan
from plasmacloud.lab.tables import milliseconds, verdict_text
from plasmacloud.verify.statistics import summarize

TICK_S = 0.25
SIGN_OF_LIFE_S = 60.0


class Writing(Protocol):
    """A load, as far as it is shown."""

    acknowledged: int


class Shown(Protocol):
    """A rig, as far as it is shown."""

    plan: Plan
    progress: Progress

    @property
    def workload(self) -> Writing: ...


def outcome_line(result: Judgement) -> str:
    """What came out of a scenario, in a few words."""
    parts = []
    times = result.distributions.get("rto_ms")
    if times:
        summary = summarize(times)
        parts.append(
            f"outage p50 {milliseconds(summary.p50)} ms, max {milliseconds(summary.maximum)} ms, {summary.n} trials"
        )
    formed = result.distributions.get("formation_ms")
    if formed:
        parts.append(f"formed in {milliseconds(formed[0])} ms")
    parts.append(f"{result.acknowledged:,} writes, {result.lost:,} lost")
    return "; ".join(parts)


def short_line(result: Judgement) -> str:
    """The same for a narrow column."""
    lost = f"{result.lost:,} of {result.acknowledged:,} lost"
    times = result.distributions.get("rto_ms")
    if not times:
        return lost
    summary = summarize(times)
    return f"{lost}, {milliseconds(summary.p50)} ms (max {milliseconds(summary.maximum)})"


def under_way(rig: Shown) -> str:
    """How far a scenario is."""
    trial = f"trial {rig.progress.trial}/{rig.plan.trials}  " if rig.plan.trials > 1 and rig.progress.trial else ""
    writes = f"{rig.workload.acknowledged:,} writes"
    return f"{trial}{rig.progress.doing}  {writes}"


class PlainDisplay:
    """For files and pipes: a line when a scenario begins, one when it ends, and one a minute in between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = 0.0
        self._told = 0.0

    def open(self, plans: Sequence[Plan]) -> None:
        """The run begins."""
        self._total, self._number = len(plans), 0

    def begin(self, plan: Plan) -> None:
        """A scenario begins."""
        self._number += 1
        self._began = self._told = time.monotonic()
        trials = f", {plan.trials} trials" if plan.trials > 1 else ""
        self._print(f"[{self._number}/{self._total}] {plan.target} {plan.scenario}{trials} ...")

    def tick(self, rig: Shown) -> None:
        """Called a few times a second while a scenario runs."""
        now = time.monotonic()
        if now >= self._told + SIGN_OF_LIFE_S:
            self._told = now
            self._print(f"      {now - self._began:.0f} s  {under_way(rig)}")

    def end(self, result: Judgement) -> None:
        """A scenario has been judged."""
        took = time.monotonic() - self._began
        self._print(f"      {result.verdict.value}  {outcome_line(result)}  ({took:.1f} s)")

    def close(self) -> None:
        """The run has ended."""

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


class LiveDisplay(PlainDisplay):
    """For a terminal: all scenarios in one table, the one under way with a spinner."""

    def open(self, plans: Sequence[Plan]) -> None:
        self._plans = list(plans)
        self._results: dict[int, Judgement] = {}
        self._at = -1
        self._now = Text()
        self._spinner = Spinner("dots")
        self._live = Live(self._table(), console=self._console, auto_refresh=False, transient=True)
        self._live.start()

    def begin(self, plan: Plan) -> None:
        self._at += 1
        self._now = Text("starting")
        self._began = time.monotonic()
        self._draw()

    def tick(self, rig: Shown) -> None:
        self._now = Text(f"{under_way(rig)}  {time.monotonic() - self._began:.0f} s", overflow="ellipsis")
        self._draw()

    def end(self, result: Judgement) -> None:
        self._results[self._at] = result
        self._draw()

    def close(self) -> None:
        self._live.stop()

    def _draw(self) -> None:
        self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        table = Table(box=None, show_header=False, expand=True)
        table.add_column(min_width=7, no_wrap=True)
        table.add_column(min_width=max(len(plan.target) for plan in self._plans), no_wrap=True)
        table.add_column(min_width=max(len(plan.scenario) for plan in self._plans), no_wrap=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for number, plan in enumerate(self._plans):
            result = self._results.get(number)
            if result is not None:
                table.add_row(verdict_text(result.verdict), plan.target, plan.scenario, short_line(result))
            elif number == self._at:
                table.add_row(self._spinner, plan.target, plan.scenario, self._now)
            else:
                style = "dim"
                table.add_row(Text("-", style), Text(plan.target, style), Text(plan.scenario, style), "")
        return table


def display_for(console: Console) -> PlainDisplay:
    """The live table on a terminal, plain lines otherwise."""
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)
