"""What the page shows of one scenario, loaded from its directory: as much as there is, and no more.

The judge insists on every file and every field; the page does not. It reads what it knows how to draw and ignores the
rest, so that a scenario that records other things, or fewer, is still shown. Files of operations are recognised by the
shape of their lines, logs by their names.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from plasmacloud.lab.evidence import RunInfo
from plasmacloud.lab.html.logs import LogLine, WallClock, read_log
from plasmacloud.lab.recorder import EVENTS, PLAN, STATUSES

T = TypeVar("T")
_KINDS = {"history": "write", "reads": "read", "registers": "contended"}
"""What the operations of a file are called; those of another by the name of the file."""
MAX_LOG_BYTES = 8 * 2**20
"""Of each log; the middle of a longer one is left out."""


class Attempt(msgspec.Struct, frozen=True):
    """One operation of a client, as far as a drawing needs it. Times as in the history."""

    invoke_ns: int
    return_ns: int
    outcome: str
    node: str = ""
    key: str = ""
    error: str = ""
    trial: int = 0
    client: int = 0
    revision: int = 0
    kind: str = "write"

    @property
    def latency_ms(self) -> float:
        return (self.return_ns - self.invoke_ns) / 1e6


class Sample(msgspec.Struct, frozen=True):
    """One answer of a node about itself; ``error`` when it gave none."""

    at_ns: int
    node: str
    member: int = 0
    leader: int = 0
    term: int = 0
    error: str = ""


class Moment(msgspec.Struct, frozen=True):
    """One event of whatever kind, with its facts as they were written."""

    at_ns: int
    kind: str
    trial: int
    facts: dict[str, Any]

    @property
    def nodes(self) -> tuple[str, ...]:
        """Whom it is about."""
        several = self.facts.get("nodes")
        if isinstance(several, list):
            return tuple(str(node) for node in several)
        one = self.facts.get("node") or self.facts.get("leader")
        return (one,) if isinstance(one, str) else ()


class Timers(msgspec.Struct, frozen=True):
    """What the page needs of the target's traits."""

    election_timeout_ms: float = 0


class Settings(msgspec.Struct, frozen=True):
    """What the page needs of the plan."""

    traits: Timers = Timers()

    trials: int = 0
    rate_per_s: float = 0
    op_timeout_ms: float = 0
    thresholds: dict[str, float] = {}


class View(msgspec.Struct, frozen=True):
    """All that is drawn of one scenario. ``name`` is TARGET/SCENARIO; lists are in the order of time."""

    name: str
    settings: Settings
    moments: list[Moment]
    attempts: list[Attempt]
    samples: list[Sample]
    logs: dict[str, list[LogLine]]

    @property
    def span_ns(self) -> tuple[int, int]:
        """From the first to the last observation; (0, 0) when there is none."""
        times = [moment.at_ns for moment in self.moments]
        times += [attempt.invoke_ns for attempt in self.attempts]
        times += [attempt.return_ns for attempt in self.attempts]
        return (min(times), max(times)) if times else (0, 0)


def load_view(directory: Path, name: str, run: RunInfo) -> View:
    """Load what can be shown. What is missing or cannot be read is left out: that it is so, the judge says."""
    clock = WallClock.of(run)
    attempts: list[Attempt] = []
    for path in sorted(directory.glob("*.jsonl")):
        if path.name not in (EVENTS, STATUSES):
            attempts += _attempts(path)
    return View(
        name=name,
        settings=_settings(directory / PLAN),
        moments=_moments(directory / EVENTS),
        attempts=sorted(attempts, key=lambda attempt: (attempt.invoke_ns, attempt.client, attempt.key)),
        samples=sorted(_lines(directory / STATUSES, Sample), key=lambda sample: (sample.at_ns, sample.node)),
        logs={path.stem: read_log(path, clock, MAX_LOG_BYTES) for path in _log_files(directory)},
    )


def _log_files(directory: Path) -> list[Path]:
    found = {path for pattern in ("*.log", "logs/*.log") for path in directory.glob(pattern) if path.is_file()}
    return sorted(found, key=lambda path: (path.stem, str(path)))


def _attempts(path: Path) -> list[Attempt]:
    kind = _KINDS.get(path.stem, path.stem)
    return [msgspec.structs.replace(attempt, kind=kind) for attempt in _lines(path, Attempt)]


def _moments(path: Path) -> list[Moment]:
    moments = []
    for facts in _lines(path, dict[str, Any]):
        at_ns, kind, trial = facts.pop("at_ns", None), facts.pop("event", None), facts.pop("trial", 0)
        if isinstance(at_ns, int) and isinstance(kind, str) and isinstance(trial, int):
            moments.append(Moment(at_ns, kind, trial, facts))
    return sorted(moments, key=lambda moment: moment.at_ns)


def _settings(path: Path) -> Settings:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Settings)
    except (OSError, msgspec.DecodeError):
        return Settings()


def _lines(path: Path, kind: type[T]) -> list[T]:
    """The lines that are what they should be."""
    try:
        lines: Iterable[bytes] = path.read_bytes().splitlines()
    except OSError:
        return []
    decoder = msgspec.json.Decoder(kind)
    found = []
    for line in lines:
        try:
            found.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return found
