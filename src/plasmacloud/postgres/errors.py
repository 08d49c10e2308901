"""What PostgreSQL says when it does not start, as errors that an operator can act on."""

import re
from collections.abc import Iterator

from plasmacloud.base.errors import ConfigError, PlasmaError, StorageError

_TOLD = re.compile(r"(?:FATAL|PANIC|ERROR|[a-z_]+: error|[a-z_]+: fatal):\s+(.+)")
_KNOWN_LINES = 3


class PostgresError(PlasmaError):
    """A PostgreSQL server or one of its programs did not do what it was told."""


class PostgresUnavailable(ConfigError):
    """There is no PostgreSQL that can be run here."""


class PortTaken(ConfigError):
    """Another process listens where the server should."""


class DiskFull(StorageError):
    """The file system of the data directory has no room left."""


def explain(what: str, output: str) -> PlasmaError:
    """The error behind the output of a server or a program that failed. ``what`` failed, for the message."""
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return DiskFull(f"{what}: the disk is full", hint="make room, or put the data directory on another file system")
    if "Address already in use" in output:
        return PortTaken(f"{what}: its port is taken", hint="stop what listens there, or choose another port")
    if "cannot be run as root" in output or "execution of the PostgreSQL server is not permitted" in output:
        return PostgresUnavailable(f"{what}: PostgreSQL does not run as root", hint="run as another user")
    said = list(_complaints(output))
    return PostgresError(f"{what}: {'; '.join(said[-_KNOWN_LINES:]) or 'it does not say why'}")


def _complaints(output: str) -> Iterator[str]:
    """What went wrong, line by line, without times and process ids."""
    for line in output.splitlines():
        match = _TOLD.search(line)
        if match is not None:
            yield match[1]
