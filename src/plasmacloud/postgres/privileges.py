"""PostgreSQL refuses to run as root. Who is root gives its rights up for it, and needs no account to do so.

First choice: a user namespace of its own, in which root is user 1000 and has no rights. The files still belong to
root outside, every directory that root can read can be read, and nothing is left behind. Where the kernel forbids
namespaces: the account ``postgres``, if it can read the programs. Either way the program is exec'ed in place, so that
the PID that was started is the PID of the server, and the kernel still ends it with its parent.
"""

import functools
import os
import pwd
import shutil
import subprocess
from pathlib import Path

import msgspec

from plasmacloud.postgres.binaries import Binaries, find_binaries
from plasmacloud.postgres.errors import PostgresUnavailable

ACCOUNT = "postgres"
NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
_TIMEOUT_S = 10.0


class Confinement(msgspec.Struct, frozen=True):
    """How programs of PostgreSQL are run. ``prefix``: words before the program; ``owner``: uid and gid that must own
    its directories, None when that is whoever runs us."""

    prefix: tuple[str, ...]
    owner: tuple[int, int] | None
    describe: str

    def hand_over(self, path: Path) -> None:
        """Make a file or directory belong to whom the server runs as."""
        if self.owner is not None:
            os.chown(path, *self.owner)


def find_usable(directory: Path | None = None) -> Binaries:
    """As `find_binaries`, and whoever runs us can run them here: the wheel may lie where only root can read."""
    return find_binaries(directory, suits=confinement)


def confinement(binaries: Binaries) -> Confinement:
    """How to run these binaries here. Raises `PostgresUnavailable` when root cannot give up its rights."""
    return _choose(binaries.directory, os.geteuid())


@functools.lru_cache
def _choose(directory: Path, euid: int) -> Confinement:
    if euid != 0:
        return Confinement((), None, f"as user {euid}")
    version = str(directory / "postgres"), "--version"
    problems: list[str] = []
    for candidate in (_namespace(), _account()):
        problem = _try(candidate, version) if isinstance(candidate, Confinement) else candidate
        if problem is None:
            assert isinstance(candidate, Confinement)
            return candidate
        problems.append(problem)
    raise PostgresUnavailable(
        f"PostgreSQL does not run as root, and root cannot give up its rights here: {'; '.join(problems)}",
        hint="allow user namespaces, or install Debian's package postgresql, or run as another user",
    )


def _namespace() -> Confinement | str:
    if shutil.which("unshare") is None:
        return "there is no `unshare`"
    return Confinement(NAMESPACE, None, "as user 1000 of a user namespace")


def _account() -> Confinement | str:
    if shutil.which("setpriv") is None:
        return "there is no `setpriv`"
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        return f"there is no account {ACCOUNT}"
    prefix = (
        "setpriv",
        f"--reuid={entry.pw_uid}",
        f"--regid={entry.pw_gid}",
        "--clear-groups",
        "--pdeathsig=KILL",  # the kernel forgets the parent's wish when the user changes
        "--",
    )
    return Confinement(prefix, (entry.pw_uid, entry.pw_gid), f"as the account {ACCOUNT}")


def _try(candidate: Confinement, command: tuple[str, ...]) -> str | None:
    """Why the candidate cannot be used; None when it can."""
    try:
        done = subprocess.run([*candidate.prefix, *command], capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{candidate.describe}: {error}"
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines()
    return f"{candidate.describe}: {said[-1] if said else f'exit status {done.returncode}'}"


def reachable(how: Confinement, directory: Path) -> bool:
    """Whether a program run this way can enter the directory."""
    if how.owner is None:
        return True
    return _try(how, ("test", "-x", str(directory))) is None
