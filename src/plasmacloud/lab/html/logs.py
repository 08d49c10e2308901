"""Server logs on the lab's time axis.

A server writes the time of day, the lab's evidence is in monotonic nanoseconds; `run.json` holds one moment on both
clocks. A line without a time belongs to the line before it. A time without a zone is taken as UTC.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec

from plasmacloud.lab.evidence import RunInfo

MAX_LINE = 280
_SEARCHED = 120
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?\s?(?:(Z|UTC|GMT)|([+-])(\d\d):?(\d\d))?"
)


class LogLine(msgspec.Struct, frozen=True):
    """One line, cut to a readable length."""

    at_ns: int
    text: str


class WallClock(msgspec.Struct, frozen=True):
    """The same moment on both clocks; nanoseconds since 1970 and CLOCK_MONOTONIC."""

    unix_ns: int
    monotonic_ns: int

    @classmethod
    def of(cls, run: RunInfo) -> "WallClock":
        """The moment at which the run was described; 0 where its time cannot be read."""
        try:
            started = datetime.fromisoformat(run.started)
        except ValueError:
            return cls(0, 0)
        return cls(_unix_ns(started), run.monotonic_ns)

    def monotonic(self, unix_ns: int) -> int:
        """The same moment on the lab's time axis."""
        return unix_ns - self.unix_ns + self.monotonic_ns


def _unix_ns(moment: datetime) -> int:
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000


def time_in(line: str) -> int | None:
    """Nanoseconds since 1970 of the time that a line begins with, or nearly so."""
    match = _TIME.search(line, 0, _SEARCHED)
    if match is None:
        return None
    zone = UTC
    if match[9]:
        offset = timedelta(hours=int(match[10]), minutes=int(match[11]))
        zone = timezone(-offset if match[9] == "-" else offset)
    try:
        year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
        moment = datetime(year, month, day, hour, minute, second, tzinfo=zone)
    except ValueError:
        return None
    return _unix_ns(moment) + int((match[7] or "0").ljust(9, "0"))


def read_log(path: Path, clock: WallClock, max_bytes: int) -> list[LogLine]:
    """All lines in the order of their times; nothing when it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError:
        return []
    if len(data) > max_bytes:
        data = data[: max_bytes // 2] + b"\n" + data[-max_bytes // 2 :]
    lines = timed_lines(data.decode(errors="replace").split("\n"), clock)
    return sorted(lines, key=lambda line: line.at_ns)


def timed_lines(lines: Iterable[str], clock: WallClock) -> list[LogLine]:
    """Lines before the first one with a time are left out."""
    found: list[LogLine] = []
    at_ns: int | None = None
    for line in lines:
        text = line.rstrip()
        unix_ns = time_in(text)
        if unix_ns is not None:
            at_ns = clock.monotonic(unix_ns)
        if at_ns is not None and text:
            found.append(LogLine(at_ns, text if len(text) <= MAX_LINE else text[: MAX_LINE - 1] + "…"))
    return found


def around(
    logs: Mapping[str, Sequence[LogLine]], at_ns: int, before_ns: int, after_ns: int, limit: int
) -> tuple[list[tuple[str, LogLine]], int]:
    """The lines of all logs nearest to a moment, by time, and how many more there were within the window. Each log is
    in the order of time."""
    inside: list[tuple[str, LogLine]] = []
    for log, lines in sorted(logs.items()):
        first = bisect_left(lines, at_ns - before_ns, key=_at)
        inside += [(log, line) for line in lines[first : bisect_right(lines, at_ns + after_ns, key=_at)]]
    nearest = sorted(inside, key=lambda pair: abs(pair[1].at_ns - at_ns))[:limit]
    return sorted(nearest, key=lambda pair: pair[1].at_ns), len(inside) - len(nearest)


def _at(line: LogLine) -> int:
    return line.at_ns
