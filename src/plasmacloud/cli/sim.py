"""`plasma sim`: run simulated clusters, report what broke, and make it smaller."""

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plasmacloud.base.errors import ExitCode
from plasmacloud.cli import errors
from plasmacloud.cli.lazy import examples

if TYPE_CHECKING:
    from plasmacloud.sim.campaign import Totals
    from plasmacloud.sim.case import Case
    from plasmacloud.sim.simulation import Outcome

_REPORT_EVERY_S = 10.0
_LAST_WORDS = 40


@click.group(epilog=examples("plasma sim run --minutes 5", "plasma sim run --seed 4711 --shrink"))
def sim() -> None:
    """Run whole clusters in one process under virtual time, and look for broken promises."""


class SeedRange(click.ParamType[range]):
    """``A..B``, both included."""

    name = "A..B"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> range:
        if isinstance(value, range):
            return value
        first, dots, last = str(value).partition("..")
        if not (dots and first.isdigit() and last.isdigit() and int(first) <= int(last)):
            self.fail(f"{value!r} is no range of seeds; write for example 1..1000", param, ctx)
        return range(int(first), int(last) + 1)


@sim.command(
    epilog=examples(
        "plasma sim run                              # fresh seeds for one minute on all processors",
        "plasma sim run --seeds 1..500 --jobs 8",
        "plasma sim run --seed 4711                  # one run; prints its trace hash",
        "plasma sim run --seed 4711 --shrink         # and the fewest faults that break it",
        "plasma sim run --case failure.json",
        "plasma sim run --minutes 60 --dask tcp://scheduler:8786",
    )
)
@click.option("--seed", type=click.IntRange(0), help="This one run.")
@click.option("--seeds", type=SeedRange(), help="These runs.")
@click.option("--case", "case_file", type=click.Path(path_type=Path), help="The run in this file (see --shrink).")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Stop after so long. [default: 1, or never]")
@click.option("--jobs", type=click.IntRange(1, 1024), help="Processes. [default: processors of this machine]")
@click.option("--dask", metavar="ADDRESS", default="", help="Run on the workers of this Dask scheduler.")
@click.option("--keep-going", is_flag=True, help="Go on after a failure.")
@click.option("--shrink", is_flag=True, help="Look for fewer faults that break the same rule; writes a case file.")
@click.pass_context
def run(
    ctx: click.Context,
    seed: int | None,
    seeds: range | None,
    case_file: Path | None,
    minutes: float | None,
    jobs: int | None,
    dask: str,
    keep_going: bool,
    shrink: bool,
) -> None:
    """Run seeds: each is a cluster with its own sizes, timings, clients and bad luck.

    Exit status 0 if no rule was broken, 1 if one was, 130 after Ctrl-C.
    """
    from plasmacloud.base.logging import silence_logging
    from plasmacloud.sim.campaign import Totals, run_case
    from plasmacloud.sim.case import case_of_seed, read_case

    if sum(given is not None for given in (seed, seeds, case_file)) > 1:
        raise click.UsageError("--seed, --seeds and --case exclude each other")
    silence_logging()
    totals = Totals()
    if seed is not None or case_file is not None:
        case = case_of_seed(seed) if seed is not None else read_case(case_file or Path())
        click.echo(case.options.describe())
        totals.add(run_case(case))
    else:
        given = iter(seeds) if seeds is not None else _fresh_seeds()
        limit_s = 60 * (minutes or 1.0) if seeds is None else None if minutes is None else 60 * minutes
        _run_many(given, totals, jobs or os.cpu_count() or 1, dask, limit_s, keep_going)
    _report(totals)
    for outcome in totals.failures:
        _report_failure(outcome, case_file)
    if shrink and totals.failures:
        first = totals.failures[0]
        _shrink(read_case(case_file) if case_file is not None else case_of_seed(first.seed), first)
    if totals.failures:
        ctx.exit(ExitCode.FAILED)


def _fresh_seeds() -> Iterator[int]:
    return itertools.count(int.from_bytes(os.urandom(6), "big"))


def _run_many(
    seeds: Iterator[int], totals: "Totals", jobs: int, dask: str, limit_s: float | None, keep_going: bool
) -> None:
    from plasmacloud.sim.campaign import processors, run_seeds

    began = reported = time.monotonic()

    def on_outcome(outcome: "Outcome") -> bool:
        totals.add(outcome)
        return keep_going or not outcome.failed

    def on_idle() -> bool:
        nonlocal reported
        now = time.monotonic()
        if now - reported >= _REPORT_EVERY_S:
            reported = now
            errors.say(_progress(totals, now - began))
        return limit_s is None or now - began < limit_s

    with processors(jobs, dask) as (executor, count):
        run_seeds(seeds, executor, count, on_outcome=on_outcome, on_idle=on_idle)
    errors.say(_progress(totals, time.monotonic() - began))


def _progress(totals: "Totals", seconds: float) -> str:
    return (
        f"{seconds:6.0f} s  {totals.runs} runs, {totals.simulated_s / 3600:.2f} simulated hours, "
        f"{totals.steps:,} steps, {totals.elections:,} elections, {totals.commits:,} commits, "
        f"{len(totals.failures)} failures"
    )


def _report(totals: "Totals") -> None:
    from plasmacloud.sim.options import FaultKind

    click.echo(
        f"{totals.runs} runs, {totals.simulated_s / 3600:.3f} simulated hours, {totals.steps:,} steps, "
        f"{totals.elections:,} elections, {totals.commits:,} commits, {totals.answered:,} requests answered"
    )
    kinds = {kind.value for kind in FaultKind}
    for title, wanted in (("faults", True), ("also", False)):
        found = [f"{name} {count:,}" for name, count in sorted(totals.counts.items()) if (name in kinds) is wanted]
        click.echo(f"{title}: {', '.join(found) or 'none'}")
    if totals.undecided:
        click.echo(f"undecided: the history of {totals.undecided} keys was too much for the checker")
    seeds = f"seed {min(totals.digests)}" if totals.runs == 1 else f"{totals.runs} seeds"
    if totals.runs:
        click.echo(f"trace hash {next(iter(totals.digests.values())) if totals.runs == 1 else totals.digest} ({seeds})")


def _report_failure(outcome: "Outcome", case_file: Path | None) -> None:
    click.echo(f"\nFAILED: seed {outcome.seed}, at {outcome.simulated_s:.6f} s")
    click.echo(f"rule: {outcome.rule}\n{outcome.text}")
    click.echo("last events:")
    for line in outcome.last_words[-_LAST_WORDS:]:
        click.echo(f"  {line}")
    if outcome.counterexample:
        path = Path(f"sim-{outcome.seed}.html")
        path.write_text(outcome.timeline)
        click.echo(f"{outcome.counterexample}\ntimeline: {path}")
    what = f"--seed {outcome.seed}" if case_file is None else f"--case {case_file}"
    click.echo(f"again:   plasma sim run {what}\nsmaller: plasma sim run {what} --shrink")


def _shrink(case: "Case", outcome: "Outcome") -> None:
    from plasmacloud.sim.campaign import run_case
    from plasmacloud.sim.shrink import shrink

    errors.say(f"{len(case.faults)} faults; looking for fewer")
    shrunk = shrink(case, outcome, run_case)
    path = Path(f"sim-{outcome.seed}.json")
    path.write_bytes(shrunk.case.encode())
    click.echo(f"\n{len(shrunk.case.faults)} of {len(case.faults)} faults are enough ({shrunk.runs} runs):")
    for fault in shrunk.case.faults:
        click.echo(f"  {fault.describe()}")
    click.echo(f"again:   plasma sim run --case {path}")
