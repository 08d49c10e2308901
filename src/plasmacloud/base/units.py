"""Durations and sizes as people write them: ``300ms``, ``5s``, ``64MiB``.

Settings carry their units in the text, so that nobody has to remember whether a number meant seconds or milliseconds.
A bare number is refused.
"""

import re

from plasmacloud.base.errors import ConfigError

_DURATION_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


def parse_duration(text: str) -> float:
    """Seconds from text such as ``200ms``, ``1.5s`` or ``1h30m``.

    Raises `ConfigError` when the text is anything else, a bare number included.
    """
    total = 0.0
    at = 0
    for match in _DURATION.finditer(text):
        if match.start() != at:
            break
        total += float(match[1]) * _DURATION_UNITS[match[2]]
        at = match.end()
    if at == 0 or at != len(text):
        raise ConfigError(f"{text!r} is not a duration", hint="write a number with a unit, such as 200ms, 5s or 1h30m")
    return total


def format_duration(seconds: float) -> str:
    """The shortest reading of a duration: ``850us``, ``12.3ms``, ``4.20s``, ``3m05s``."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f}us"
    if seconds < 1:
        return f"{seconds * 1e3:.1f}ms"
    if seconds < 60:
        return f"{seconds:.2f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m{rest:02d}s" if hours else f"{minutes}m{rest:02d}s"


def parse_size(text: str) -> int:
    """Bytes from text such as ``64MiB`` or ``1.5GB``. Raises `ConfigError` for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2] not in _SIZE_UNITS:
        raise ConfigError(f"{text!r} is not a size", hint=f"write a number with one of {', '.join(_SIZE_UNITS)}")
    return round(float(match[1]) * _SIZE_UNITS[match[2]])


def format_size(size_bytes: int) -> str:
    """``512 B``, ``1.5 KiB``, ``64.0 MiB``."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
