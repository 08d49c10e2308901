"""A member's data directory: what is in it, whose it is, and how often it has been opened.

::

    DATA_DIR/
      LOCK          held by the process that uses the directory
      member.json   whose directory this is, its birth, and the incarnations of its starts
      peers.json    what this member remembers of the others, see `peer_memory`
      wal/          the write-ahead log
      state/        the applied state

The *birth* is drawn at random when the log is created and never changes: a directory that was emptied, or whose log
was taken away, has another one. The *incarnation* numbers the lives of a member. Commands are numbered within an
incarnation, so that a command of an earlier life that surfaces late (from another member's log) is never confused with
one of this life. It grows with every start, also when the clock was set back. The incarnations of the lives before are
kept: a disk that was set back to an earlier day does not know of lives that others have met (`peer_memory`).

A new life is durable before anybody hears of it, and only the holder of the lock begins one. A life that was refused
is withdrawn, so that a member that is started again and again cannot fill its past with lives nobody wanted.
"""

import contextlib
import itertools
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from plasmacloud.base.errors import ConfigError, StorageError
from plasmacloud.rpc.peer_wire import MAX_EARLIER
from plasmacloud.storage.disk import DirectoryLock, OsDisk
from plasmacloud.storage.install import PENDING_NAME

_FORMAT = 2
_FORMATS = (1, 2)  # 1 has no birth and no earlier incarnations
_TEMPORARY = "member.tmp"  # may be left by a crash during the very first start
_IDENTITY = "member.json"
_LOCK = "LOCK"
JOIN_NOTE = "join.json"
"""Which place in the cluster this member was given; see `place`."""
PROMISE_NOTE = "promise.json"
"""With whom this machine has promised to found a cluster; see `forming`."""
_JUMP_BITS = 30  # with a clock that stands still, two lives that continue the same one still differ


class Life(NamedTuple):
    """One life of one data directory."""

    birth: int
    incarnation: int
    earlier: tuple[int, ...]  # incarnations of the lives before, newest first, at most `MAX_EARLIER`


class DataDir(msgspec.Struct, frozen=True):
    """An opened data directory, locked until `close` or the end of the process."""

    path: Path
    life: Life
    lock: DirectoryLock

    @property
    def incarnation(self) -> int:
        """Of the life that has begun."""
        return self.life.incarnation

    @property
    def wal(self) -> Path:
        """Directory of the write-ahead log."""
        return self.path / "wal"

    @property
    def state(self) -> Path:
        """Directory of the applied state."""
        return self.path / "state"

    @property
    def snapshots(self) -> Path:
        """Directory for snapshots that come and go."""
        return self.path / "snapshots"

    @property
    def peers(self) -> Path:
        """File with what is remembered of the other members."""
        return self.path / "peers.json"

    def withdraw(self) -> None:
        """Take this life out of the disk's past: the others have refused it. Best effort, it is ending anyway."""
        identity_file = self.path / _IDENTITY
        with contextlib.suppress(OSError, ConfigError):
            found = _read(identity_file)
            if found is not None and found.incarnation == self.life.incarnation:
                found.withdrawn = True
                _write(identity_file, found)

    def close(self) -> None:
        """Let another process use the directory."""
        self.lock.release()


class _Identity(msgspec.Struct):
    format: int
    name: str
    cluster_id: str
    member_id: str
    incarnation: int
    birth: str = ""
    earlier: tuple[int, ...] = ()
    withdrawn: bool = False  # the last life does not belong to the past of the next one

    @property
    def life(self) -> Life:
        """The last life that began here."""
        return Life(int(self.birth or "0", 16), self.incarnation, self.earlier)


def open_data_dir(
    path: Path,
    *,
    name: str,
    cluster_id: int,
    member_id: int,
    now_ns: int,
    repair: Callable[[Path], object] | None = None,
) -> DataDir:
    """Create the directory or check that it belongs to this member, and begin a new incarnation.

    ``now_ns`` is the wall clock in nanoseconds. ``repair`` is called with the path under the directory's lock, before
    anything in it is believed, to finish what a crash interrupted. Raises `ConfigError` when the directory belongs to
    another member or cluster, is not a data directory at all, or is in use; `StorageError` when the disk refuses.
    """
    identity_file = path / _IDENTITY
    with contextlib.ExitStack() as undo:
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not (identity_file.exists() or _is_fresh(path) or (path / PENDING_NAME).exists()):
                raise ConfigError(
                    f"{path} is not empty, and not a ChainFire data directory",
                    hint="choose an empty or a new directory for --data-dir",
                )
            lock = OsDisk().lock_directory(path)
            undo.callback(lock.release)
            if repair is not None:
                repair(path)
            found = _read(identity_file)
            if found is not None:
                _check(found, path, name=name, cluster_id=cluster_id, member_id=member_id)
            has_log = any((path / "wal").glob("*.wal"))
            life = next_life(
                found.life if found else None,
                has_log=has_log,
                withdrawn=found is not None and found.withdrawn,
                now_ns=now_ns,
            )
            _write(
                identity_file,
                _Identity(
                    format=_FORMAT,
                    name=name,
                    cluster_id=f"{cluster_id:x}",
                    member_id=f"{member_id:x}",
                    incarnation=life.incarnation,
                    birth=f"{life.birth:x}",
                    earlier=life.earlier,
                ),
            )
        except OSError as error:
            raise StorageError(
                f"cannot use the data directory {path}: {error.strerror}",
                hint="the directory must be writable by the user that runs the server, on a disk with free space",
            ) from error
        undo.pop_all()
    return DataDir(path, life, lock)


class Place(NamedTuple):
    """Whose data directory this is."""

    name: str
    cluster_id: int
    member_id: int


def read_place(path: Path) -> Place | None:
    """Whose data directory ``path`` is; None when it is nobody's yet. Raises `ConfigError` when it cannot be read."""
    found = _read(path / _IDENTITY)
    return None if found is None else Place(found.name, int(found.cluster_id, 16), int(found.member_id, 16))


def write_note(path: Path, name: str, content: bytes) -> None:
    """Keep a note in a data directory that is still to be made, durably. Raises `ConfigError` or `StorageError`."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _is_fresh(path):
            raise ConfigError(
                f"{path} is not empty, and not a ChainFire data directory",
                hint="choose an empty or a new directory for --data-dir",
            )
        write_durably(path / name, _TEMPORARY, content)
    except OSError as error:
        raise StorageError(f"cannot use the data directory {path}: {error.strerror}") from error


def _is_fresh(path: Path) -> bool:
    return all(item.name in (_TEMPORARY, _LOCK, JOIN_NOTE, PROMISE_NOTE) for item in path.iterdir())


def next_life(last: Life | None, *, has_log: bool, withdrawn: bool = False, now_ns: int) -> Life:
    """The life that begins on a disk that ``last`` was written to, if any."""
    if last is None:
        return Life(_draw_birth(), max(now_ns, 1), ())
    incarnation = now_ns
    if now_ns <= last.incarnation:
        incarnation = last.incarnation + 1 + secrets.randbits(_JUMP_BITS)
    if not last.birth or not has_log:
        # Without its log the member has forgotten what it promised, whatever member.json says; and before there was
        # one it promised nothing, so that nobody will miss the birth before.
        return Life(_draw_birth(), incarnation, ())
    past = last.earlier if withdrawn else (last.incarnation, *last.earlier)
    return Life(last.birth, incarnation, past[:MAX_EARLIER])


def _draw_birth() -> int:
    return secrets.randbits(64) or 1


def _read(identity_file: Path) -> _Identity | None:
    try:
        found = msgspec.json.decode(identity_file.read_bytes(), type=_Identity)
        if any(old <= older for old, older in itertools.pairwise((found.incarnation, *found.earlier))):
            raise ValueError("the incarnations do not grow")
        _ = found.life
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(
            f"{identity_file} cannot be read: {error}",
            hint="the file says whose data this is; restore it from a backup, or use a new data directory",
        ) from error
    return found


def _check(found: _Identity, path: Path, *, name: str, cluster_id: int, member_id: int) -> None:
    if found.format not in _FORMATS:
        raise ConfigError(
            f"{path} has data format {found.format}; this version reads format {_FORMAT}",
            hint="run the version of plasmacloud that wrote it",
        )
    if found.cluster_id != f"{cluster_id:x}" or found.member_id != f"{member_id:x}":
        raise ConfigError(
            f"{path} belongs to member {found.name} ({found.member_id}) of cluster {found.cluster_id}, "
            f"and this is member {name} ({member_id:x}) of cluster {cluster_id:x}",
            hint="--data-dir, --name, --initial-cluster and --cluster-token must be those of the first start",
        )


def _write(identity_file: Path, identity: _Identity) -> None:
    write_durably(identity_file, _TEMPORARY, msgspec.json.format(msgspec.json.encode(identity)) + b"\n")


def write_durably(path: Path, temporary_name: str, content: bytes) -> None:
    """Replace a small file: after a crash it has the old content or the new one. Raises ``OSError``."""
    temporary = path.with_name(temporary_name)
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
