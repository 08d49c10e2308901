"""Runs scenarios on targets, one after the other, each on a fresh cluster, and writes the evidence.

Whatever happens (a target that does not come back, Ctrl-C, a bug in the lab), every process that was started is
stopped by its PID, and what was observed until then is kept.
"""

import asyncio
import gc
import importlib.metadata
import shutil
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec

from plasmacloud.base.errors import ConfigError, PlasmaError
from plasmacloud.base.logging import configure_logging, get_logger
from plasmacloud.lab.cluster import Cluster
from plasmacloud.lab.election.rig import ElectionRig
from plasmacloud.lab.evidence import LAB_LOG, RUN, command_line, describe_run, write_manifest
from plasmacloud.lab.judge import judge_directory
from plasmacloud.lab.live import TICK_S, PlainDisplay
from plasmacloud.lab.plan import Plan
from plasmacloud.lab.recorder import LOGS, Recorder
from plasmacloud.lab.report import Report, build_report, write_report
from plasmacloud.lab.rig import Rig
from plasmacloud.lab.scenarios import find_scenario
from plasmacloud.lab.suites import SUITES, write_suite_reports
from plasmacloud.lab.targets import find_target
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.verify.events import Stopped

DATA = ".data"
AnyRig = Rig | ElectionRig

log = get_logger("lab")


class Outcome(msgspec.Struct, frozen=True):
    """A finished run: its report, and the SHA-256 of the manifest that seals the evidence."""

    report: Report
    manifest_sha256: str


def prepare_directory(root: Path) -> None:
    """Make the evidence directory. Raises `ConfigError` when it cannot be, or holds something already."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise ConfigError(f"{root} is not empty", hint="evidence is never mixed: name a new directory with --out")
    except OSError as error:
        raise ConfigError(f"cannot make the directory {root}: {error.strerror}") from error


def run_plans(plans: Sequence[Plan], root: Path, seed: int, display: PlainDisplay) -> Outcome:
    """Run all plans in order and write evidence, report and manifest below ``root``, which is empty."""
    names = [directory_name(plan) for plan in plans]
    assert len(set(names)) == len(names), "a scenario is planned twice on one target"
    version = importlib.metadata.version("plasmacloud")
    info = describe_run(command_line(), seed, root, names, version)
    (root / RUN).write_bytes(msgspec.json.format(msgspec.json.encode(info), indent=1) + b"\n")
    display.open(plans)
    try:
        with (root / LAB_LOG).open("w", encoding="utf-8") as log:
            configure_logging("info", "text", log)
            asyncio.run(_run_all(plans, root, display))
    finally:
        configure_logging("warning", "text", sys.stderr)
        display.close()
        shutil.rmtree(root / DATA, ignore_errors=True)
    report, unreadable = build_report(root)
    if unreadable:
        raise PlasmaError(f"the lab cannot read what it has just written: {unreadable[0]}")
    write_report(root, report)
    return Outcome(report, write_manifest(root))


def directory_name(plan: Plan) -> str:
    """Where the evidence of a plan is, below the root."""
    return plan.scenario if plan.scenario in SUITES else f"{plan.target}/{plan.scenario}"


async def _run_all(plans: Sequence[Plan], root: Path, display: PlainDisplay) -> None:
    gc.collect()
    gc.freeze()  # collections in the middle of a measurement then look at young objects only
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signum, stop.set)
    loop.set_exception_handler(_log_stray_error)
    for plan in plans:
        if stop.is_set():
            return
        display.begin(plan)
        await _run_one(plan, root, display, stop)
        directory = root / directory_name(plan)
        judgement = judge_directory(directory)
        write_suite_reports(directory, judgement)
        display.end(judgement)


def _log_stray_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An error in a task that nobody waits for any more, such as a connection attempt to a node just killed."""
    log.warning("stray error", what=context.get("message"), error=repr(context.get("exception")))


async def _run_one(plan: Plan, root: Path, display: PlainDisplay, stop: asyncio.Event) -> None:
    """One scenario on one target, from the first process to the last."""
    directory = root / directory_name(plan)
    data = root / DATA / directory_name(plan)
    data.mkdir(parents=True)
    rig, course = _prepare(plan, directory, data)
    scenario = asyncio.create_task(course)
    stopping = asyncio.create_task(stop.wait())
    try:
        while not scenario.done() and not stop.is_set():
            display.tick(rig)
            await asyncio.wait({scenario, stopping}, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
        if not scenario.done():
            scenario.cancel()
            await asyncio.gather(scenario, return_exceptions=True)
            rig.record(Stopped, cause="user", reason="interrupted by a signal")
        else:
            _record_failure(rig, scenario.exception())
    finally:
        stopping.cancel()
        await rig.stop()
        shutil.rmtree(data, ignore_errors=True)


def _prepare(plan: Plan, directory: Path, data: Path) -> tuple[AnyRig, Coroutine[None, None, None]]:
    """The rig of a plan, and what is to be done with it. Nothing runs yet."""
    recorder = Recorder(directory, plan)
    suite = SUITES.get(plan.scenario)
    if suite is not None:
        own = suite.rig(plan, data, recorder)
        return own, suite.drive(own)
    what = find_scenario(plan.scenario)
    cluster = Cluster(find_target(plan.target), plan.nodes, data, directory / LOGS, spares=what.spares)
    rig = Rig(plan, cluster, recorder)
    return rig, what.drive(rig)


def _record_failure(rig: AnyRig, error: BaseException | None) -> None:
    """Turn what ended the scenario into evidence; a bug is not an observation and is raised."""
    match error:
        case None:
            pass
        case WaitedTooLong():
            rig.record(Stopped, cause="target", reason=f"{error}" + (f" ({error.hint})" if error.hint else ""))
        case PlasmaError():
            rig.record(Stopped, cause="lab", reason=str(error))
        case _:
            raise error
