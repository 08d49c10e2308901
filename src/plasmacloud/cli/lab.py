"""`plasma lab`: run scenarios, list them, and check the evidence of an old run, or a single history, again."""

import random
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plasmacloud.base.errors import ConfigError, ExitCode
from plasmacloud.base.units import parse_duration
from plasmacloud.cli import errors
from plasmacloud.cli.lazy import Lazy, LazyGroup, examples

if TYPE_CHECKING:
    from rich.console import Console

    from plasmacloud.lab.election.suite import Suite
    from plasmacloud.lab.report import Report
    from plasmacloud.lab.report_baseline import Baseline
    from plasmacloud.lab.scenarios.base import Scenario

PRESET_NAMES = ("full", "quick", "demo", "resilience")


@click.group(
    cls=LazyGroup,
    lazy={
        "check-history": Lazy("plasmacloud.cli.check_history:check_history", "Judge a history for linearizability."),
    },
    epilog=examples("plasma lab run", "plasma lab run leader-kill --target chainfire --target etcd", "plasma lab list"),
)
def lab() -> None:
    """Prove high availability: break real clusters, measure, and keep the evidence."""


@lab.command(
    epilog=examples(
        "plasma lab run                                            # all scenarios on ChainFire",
        "plasma lab run leader-kill --target chainfire --target etcd --trials 50",
        "plasma lab run --preset demo                              # under two minutes",
        "plasma lab run --preset resilience --target chainfire --target etcd",
        "plasma lab run val13 --trials 20                          # leader election on PostgreSQL",
        "plasma lab run val13x --only partition_leader             # and where VAL13 stops",
        "plasma lab run power-loss --target canary                 # a broken store: must FAIL",
        "plasma lab run leader-kill --threshold leader-kill.rto_max_ms=500",
        "plasma lab run --baseline plasma-lab/20260101-120000       # with the differences in report.html",
    )
)
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]...")
@click.option(
    "--target", "targets", multiple=True, metavar="NAME", help="System under test; repeatable. [default: chainfire]"
)
@click.option("--preset", type=click.Choice(PRESET_NAMES), default="full", show_default=True, help="How thorough.")
@click.option("--quick", is_flag=True, help="Short for --preset quick.")
@click.option(
    "--trials", type=click.IntRange(1, 10_000), help="Repetitions of each fault. [default: 20, or the scenario's]"
)
@click.option("--seed", type=int, help="For everything that is drawn. [default: random]")
@click.option(
    "--out", type=click.Path(path_type=Path), help="New directory for the evidence. [default: plasma-lab/TIME]"
)
@click.option("--nodes", type=int, default=3, show_default=True, help="Size of the cluster.")
@click.option(
    "--rate", type=click.IntRange(10, 20_000), default=800, show_default=True, help="Writes per second, all clients."
)
@click.option("--clients", type=click.IntRange(1, 5_000), help="Concurrent clients. [default: rate x op-timeout]")
@click.option("--op-timeout", default="250ms", show_default=True, help="How long a client waits for one write.")
@click.option(
    "--threshold", "thresholds", multiple=True, metavar="SCENARIO.NAME=VALUE", help="Change a threshold; repeatable."
)
@click.option(
    "--port-base",
    type=click.IntRange(1024, 65_534),
    metavar="PORT",
    help="val13: use PORT and PORT+1 in place of 18997; val13x: PORT to PORT+3.",
)
@click.option(
    "--postgres",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="val13 and val13x: directory of PostgreSQL's programs. [default: the wheel, or else Debian's]",
)
@click.option(
    "--network",
    type=click.Choice(["namespaces", "proxies"]),
    help="val13x: how networks are cut. [default: namespaces where there can be any]",
)
@click.option("--only", multiple=True, metavar="NAME", help="val13x: this scenario, and no other; repeatable.")
@click.option(
    "--baseline",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Evidence of an earlier run to compare with.",
)
@click.pass_context
def run(
    ctx: click.Context,
    scenarios: tuple[str, ...],
    targets: tuple[str, ...],
    preset: str,
    quick: bool,
    trials: int | None,
    seed: int | None,
    out: Path | None,
    nodes: int,
    rate: int,
    clients: int | None,
    op_timeout: str,
    thresholds: tuple[str, ...],
    baseline: Path | None,
    port_base: int | None,
    postgres: Path | None,
    network: str | None,
    only: tuple[str, ...],
) -> None:
    """Run SCENARIOs (default: all) and write an evidence directory.

    Exit status 0 only if everything passed; 1 if anything failed or proved nothing; 130 after Ctrl-C.
    """
    from rich.text import Text

    from plasmacloud.lab.live import display_for
    from plasmacloud.lab.plan import PRESETS
    from plasmacloud.lab.planning import Request, make_plans
    from plasmacloud.lab.report_baseline import keep_baseline, read_baseline
    from plasmacloud.lab.runner import prepare_directory, run_plans
    from plasmacloud.lab.tables import render_summary

    if quick and preset not in ("full", "quick"):
        raise click.UsageError("--quick and --preset exclude each other")
    request = Request(
        scenarios=scenarios,
        targets=targets,
        preset=PRESETS["quick" if quick else preset],
        trials=trials,
        seed=random.SystemRandom().randrange(2**31) if seed is None else seed,
        nodes=nodes,
        clients=clients,
        rate_per_s=rate,
        op_timeout_ms=max(1, round(parse_duration(op_timeout) * 1000)),
        thresholds=dict(map(_threshold, thresholds)),
        port_base=port_base,
        postgres=postgres,
        network=network,
        only=only,
    )
    plans, remarks = make_plans(request)
    earlier = read_baseline(baseline) if baseline is not None else None
    root = out if out is not None else Path("plasma-lab") / datetime.now().strftime("%Y%m%d-%H%M%S")
    prepare_directory(root)
    if earlier is not None:
        keep_baseline(root, earlier)
    console = _console()
    for remark in remarks:
        errors.say(remark)
    outcome = run_plans(plans, root, request.seed, display_for(console))
    report = outcome.report
    console.print(render_summary(report.verdict, report.interrupted, report.not_run, report.results))
    if earlier is not None:
        _print_comparison(console, report, earlier)
    console.print(Text(f"page      {root}/report.html", style="bold"), soft_wrap=True)
    console.print(Text(f"evidence  {root}/   check again: plasma lab report {root}", style="bold"), soft_wrap=True)
    console.print(f"manifest  sha256 {outcome.manifest_sha256}", style="dim", soft_wrap=True)
    ctx.exit(_exit_code(report))


@lab.command(name="list")
def list_() -> None:
    """List scenarios with their thresholds, and targets."""
    from rich import box
    from rich.table import Table

    from plasmacloud.lab.scenarios import SCENARIOS
    from plasmacloud.lab.suites import SUITES
    from plasmacloud.lab.targets import TARGETS

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("scenario", "trials", "what must hold", "thresholds"):
        table.add_column(name, no_wrap=name == "scenario")
    every: list[Scenario | Suite] = [*SCENARIOS.values(), *SUITES.values()]
    for scenario in every:
        limits = "\n".join(f"{name}={value:g}" for name, value in scenario.thresholds.items())
        table.add_row(scenario.name, str(scenario.default_trials), scenario.must_hold, limits)
    targets = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("target", "what it is", "here"):
        targets.add_column(name)
    for target in TARGETS.values():
        targets.add_row(target.name, target.describe, target.missing() or "yes")
    for suite in SUITES.values():
        targets.add_row(suite.target, f"leader election on PostgreSQL, for {suite.name} only", suite.missing() or "yes")
    console = _console()
    console.print(table)
    console.print(targets)


@lab.command(
    epilog=examples(
        "plasma lab report plasma-lab/20260101-120000",
        "plasma lab report plasma-lab/NEW --baseline plasma-lab/OLD --html compared.html",
        "plasma lab report plasma-lab/20260101-120000 --svg outages.svg",
    )
)
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--baseline",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Evidence of an earlier run to compare with.",
)
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write the page there.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Write a figure of all outages there.")
@click.pass_context
def report(ctx: click.Context, directory: Path, baseline: Path | None, html: Path | None, svg: Path | None) -> None:
    """Judge the evidence in DIRECTORY again, from its files alone.

    Verifies the manifest, computes every check anew, and says what differs from the report that is there.
    Exit status 0 only if the evidence is intact and everything passed.
    """
    from rich.text import Text

    from plasmacloud.lab.evidence import manifest_sha256
    from plasmacloud.lab.report import recheck, report_figure, report_page
    from plasmacloud.lab.report_baseline import kept_baseline, read_baseline
    from plasmacloud.lab.tables import environment, render_summary

    for path in (html, svg):
        _check_outside(path, directory)
    earlier = read_baseline(baseline) if baseline is not None else kept_baseline(directory)
    again = recheck(directory)
    found = again.report
    console = _console()
    console.print(*environment(found.run), sep="\n", soft_wrap=True)
    console.print(render_summary(found.verdict, found.interrupted, found.not_run, found.results))
    if earlier is not None:
        _print_comparison(console, found, earlier)
    if html is not None:
        _write(html, report_page(directory, found, earlier))
    if svg is not None:
        _write(svg, report_figure(directory, found))
    console.print(f"manifest  sha256 {manifest_sha256(directory)}", style="dim", soft_wrap=True)
    if again.altered:
        console.print("DO NOT TRUST THIS: the files are not as they were recorded", style="bold red", soft_wrap=True)
        for problem in again.altered:
            console.print(Text(f"  {problem}"), soft_wrap=True)
    if again.contradiction:
        console.print("the report does not follow from the evidence", style="bold red", soft_wrap=True)
        console.print(Text(f"  {again.contradiction}"), soft_wrap=True)
        console.print(Text(f"  it was written by commit {found.run.commit}"), soft_wrap=True)
    if not again.intact:
        ctx.exit(ExitCode.FAILED)
    console.print("the evidence is intact, and judging it again gives the same report", style="green")
    ctx.exit(_exit_code(found))


def _print_comparison(console: "Console", report: "Report", earlier: "Baseline") -> None:
    from plasmacloud.lab.report_comparison import compare
    from plasmacloud.lab.tables import render_comparison

    comparison = compare(earlier.results, report.results, earlier.run, report.run)
    console.print(render_comparison(comparison, earlier.described), soft_wrap=True)


def _check_outside(path: Path | None, directory: Path) -> None:
    if path is not None and path.resolve().is_relative_to(directory.resolve()):
        raise ConfigError(f"{path} is inside of {directory}", hint="evidence is not added to: name a file elsewhere")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _exit_code(report: "Report") -> int:
    from plasmacloud.verify.checks import Verdict

    if report.interrupted or report.not_run:
        return ExitCode.INTERRUPTED
    return ExitCode.OK if report.verdict is Verdict.PASS else ExitCode.FAILED


def _threshold(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        what = f"{value!r} is not a number" if equals else "there is no value"
        raise ConfigError(f"--threshold {text}: {what}", hint="write SCENARIO.NAME=VALUE") from None


def _console() -> "Console":
    from rich.console import Console

    console = Console(no_color=not errors.color_wanted(), highlight=False)
    if not console.is_terminal:
        console = Console(no_color=True, highlight=False, width=110)
    return console
