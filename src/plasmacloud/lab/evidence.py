"""The evidence directory: its layout, the facts about where and how it came to be, and its manifest.

Layout::

    run.json                      when, where, what, by which command line
    lab.log                       the lab's own log
    TARGET/SCENARIO/plan.json     settings and thresholds
    TARGET/SCENARIO/events.jsonl  what the lab did, with proof of every fault
    TARGET/SCENARIO/history.jsonl every write that was tried
    TARGET/SCENARIO/status.jsonl  what the nodes said about themselves
    TARGET/SCENARIO/reads.jsonl   every linearizable read that was tried, where there were any
    TARGET/SCENARIO/members.jsonl every change of the linearizable member list, where it was watched
    TARGET/SCENARIO/readings/     what every node held
    TARGET/SCENARIO/logs/         output of every server process
    baseline.json                 the report of the earlier run that this one is compared with, where one was named
    report.txt report.json report.html junit.xml
    MANIFEST.sha256               SHA-256 of every other file, in the format of sha256sum

``sha256sum -c MANIFEST.sha256`` checks it without us. The manifest detects damage and careless change; whoever wants
to detect a forger keeps the manifest's own SHA-256, which the run prints, somewhere else.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from plasmacloud.verify.files import UnreadableEvidence

RUN = "run.json"
LAB_LOG = "lab.log"
MANIFEST = "MANIFEST.sha256"
REPORT_TEXT = "report.txt"
REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
BASELINE = "baseline.json"
JUNIT = "junit.xml"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


class RunInfo(msgspec.Struct, frozen=True):
    """Where the evidence comes from. ``monotonic_ns`` and ``started`` are the same moment on both clocks."""

    format: int
    started: str
    monotonic_ns: int
    command: list[str]
    seed: int
    plasmacloud: str
    commit: str
    python: str
    kernel: str
    machine: str
    cpu_count: int
    cpu_model: str
    memory_mib: int
    load_average: float
    file_system: str
    scenarios: list[str]
    """What was planned, as TARGET/SCENARIO, in order."""


def describe_run(command: list[str], seed: int, out: Path, scenarios: list[str], version: str) -> RunInfo:
    """The facts of this machine, now."""
    return RunInfo(
        format=1,
        started=datetime.now(UTC).isoformat(timespec="milliseconds"),
        monotonic_ns=time.monotonic_ns(),
        command=command,
        seed=seed,
        plasmacloud=version,
        commit=_commit(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        kernel=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cpu_count=len(os.sched_getaffinity(0)),
        cpu_model=_cpu_model(),
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        load_average=round(os.getloadavg()[0], 2),
        file_system=_file_system(out),
        scenarios=scenarios,
    )


def _commit() -> str:
    """The commit of the source tree this code runs from, if it is one."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        dirty = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown (not run from a source tree)"
    return f"{commit} with local changes" if dirty else commit


def _git(where: Path, *arguments: str) -> str:
    command = ["git", "-C", str(where), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def _cpu_model() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or "unknown"


def _file_system(path: Path) -> str:
    """Type of the file system that holds ``path``: on tmpfs a sync costs nothing, and the reader must know."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return kind
    for line in mounts:
        _, mount_point, type_name, *_ = line.split()
        inside = mount_point == "/" or str(path.resolve()).startswith(mount_point.rstrip("/") + "/")
        if inside and len(mount_point) >= len(best):
            best, kind = mount_point, type_name
    return kind


def command_line() -> list[str]:
    """The command as given, without the directory that the program happens to be in."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def write_manifest(root: Path) -> str:
    """Write the manifest of all files; returns the SHA-256 of the manifest itself."""
    lines = [f"{_sha256(root / name)}  {name}\n" for name in _files(root)]
    (root / MANIFEST).write_text("".join(lines))
    return _sha256(root / MANIFEST)


def verify_manifest(root: Path) -> list[str]:
    """What is not as the manifest says, one line each; empty when all is well. Raises `UnreadableEvidence`."""
    try:
        text = (root / MANIFEST).read_text()
    except OSError as error:
        raise UnreadableEvidence(
            f"{root} has no {MANIFEST}: {error.strerror}", hint="name the directory that `plasma lab run` printed"
        ) from error
    listed: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            problems.append(f"{MANIFEST} line {number} is not a checksum")
        else:
            listed[match[2]] = match[1]
    present = set(_files(root))
    problems += [f"{name} is missing" for name in sorted(listed.keys() - present)]
    problems += [f"{name} is not in the manifest" for name in sorted(present - listed.keys())]
    problems += [
        f"{name} was changed" for name in sorted(listed.keys() & present) if _sha256(root / name) != listed[name]
    ]
    return problems


def manifest_sha256(root: Path) -> str:
    """SHA-256 of the manifest itself."""
    return _sha256(root / MANIFEST)


def load_run(root: Path) -> RunInfo:
    """The facts of an old run. Raises `UnreadableEvidence`."""
    try:
        return msgspec.json.decode((root / RUN).read_bytes(), type=RunInfo)
    except (OSError, msgspec.DecodeError) as error:
        raise UnreadableEvidence(f"{root / RUN} cannot be read: {error}") from error


def scenario_directories(root: Path, run: RunInfo) -> list[Path]:
    """Directories of the scenarios that were begun, in the order of the plan."""
    return [root / name for name in run.scenarios if (root / name).is_dir()]


def _files(root: Path) -> list[str]:
    names = (str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    return sorted(name for name in names if name != MANIFEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
