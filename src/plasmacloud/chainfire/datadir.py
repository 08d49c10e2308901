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
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from plasmacloud.base.errors import ConfigError, StorageError
from plasmacloud.rpc.peer_wire import MAX_EARLIER
from plasmacloud.storage.disk import DirectoryLock, Disk, OsDisk
from plasmacloud.storage.install import PENDING_NAME
from plasmacloud.storage.small_files import read_file, write_file

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
    disk: Disk

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
        with contextlib.suppress(OSError, ConfigError, StorageError):
            found = _read(identity_file, self.disk)
            if found is not None and found.incarnation == self.life.incarnation:
                found.withdrawn = True
                _write(identity_file, found, self.disk)

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
    disk: Disk | None = None,
    randbits: Callable[[int], int] = secrets.randbits,
) -> DataDir:
    """Create the directory or check that it belongs to this member, and begin a new incarnation.

    ``now_ns`` is the wall clock in nanoseconds, ``randbits(n)`` gives n random bits. ``repair`` is called with the path
    under the directory's lock, before anything in it is believed, to finish what a crash interrupted. Raises
    `ConfigError` when the directory belongs to another member or cluster, is not a data directory at all, or is in use;
    `StorageError` when the disk refuses.
    """
    disk = OsDisk() if disk is None else disk
    identity_file = path / _IDENTITY
    with contextlib.ExitStack() as undo:
        try:
            disk.make_directory(path)
            names = disk.list_directory(path)
            if not (_IDENTITY in names or PENDING_NAME in names or _is_fresh(names)):
                raise ConfigError(
                    f"{path} is not empty, and not a ChainFire data directory",
                    hint="choose an empty or a new directory for --data-dir",
                )
            lock = disk.lock_directory(path)
            undo.callback(lock.release)
            if repair is not None:
                repair(path)
            found = _read(identity_file, disk)
            if found is not None:
                _check(found, path, name=name, cluster_id=cluster_id, member_id=member_id)
            life = next_life(
                found.life if found else None,
                has_log=_has_log(path / "wal", disk),
                withdrawn=found is not None and found.withdrawn,
                now_ns=now_ns,
                randbits=randbits,
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
                disk,
            )
        except OSError as error:
            raise StorageError(
                f"cannot use the data directory {path}: {error.strerror}",
                hint="the directory must be writable by the user that runs the server, on a disk with free space",
            ) from error
        undo.pop_all()
    return DataDir(path, life, lock, disk)


class Place(NamedTuple):
    """Whose data directory this is."""

    name: str
    cluster_id: int
    member_id: int


def read_place(path: Path, *, disk: Disk | None = None) -> Place | None:
    """Whose data directory ``path`` is; None when it is nobody's yet. Raises `ConfigError` when it cannot be read."""
    try:
        found = _read(path / _IDENTITY, OsDisk() if disk is None else disk)
    except OSError as error:
        raise ConfigError(
            f"{path / _IDENTITY} cannot be read: {error.strerror}",
            hint="is --data-dir the right directory, and may the user that runs the server read it?",
        ) from error
    return None if found is None else Place(found.name, int(found.cluster_id, 16), int(found.member_id, 16))


def write_note(path: Path, name: str, content: bytes, *, disk: Disk | None = None) -> None:
    """Keep a note in a data directory that is still to be made, durably. Raises `ConfigError` or `StorageError`."""
    disk = OsDisk() if disk is None else disk
    try:
        disk.make_directory(path)
        if not _is_fresh(disk.list_directory(path)):
            raise ConfigError(
                f"{path} is not empty, and not a ChainFire data directory",
                hint="choose an empty or a new directory for --data-dir",
            )
        write_file(path / name, content, disk=disk, temporary=_TEMPORARY)
    except OSError as error:
        raise StorageError(f"cannot use the data directory {path}: {error.strerror}") from error


def _is_fresh(names: Sequence[str]) -> bool:
    return all(name in (_TEMPORARY, _LOCK, JOIN_NOTE, PROMISE_NOTE) for name in names)


def _has_log(directory: Path, disk: Disk) -> bool:
    try:
        return any(name.endswith(".wal") for name in disk.list_directory(directory))
    except FileNotFoundError:
        return False


def next_life(
    last: Life | None,
    *,
    has_log: bool,
    withdrawn: bool = False,
    now_ns: int,
    randbits: Callable[[int], int] = secrets.randbits,
) -> Life:
    """The life that begins on a disk that ``last`` was written to, if any."""
    if last is None:
        return Life(_draw_birth(randbits), max(now_ns, 1), ())
    incarnation = now_ns
    if now_ns <= last.incarnation:
        incarnation = last.incarnation + 1 + randbits(_JUMP_BITS)
    if not last.birth or not has_log:
        # Without its log the member has forgotten what it promised, whatever member.json says; and before there was
        # one it promised nothing, so that nobody will miss the birth before.
        return Life(_draw_birth(randbits), incarnation, ())
    past = last.earlier if withdrawn else (last.incarnation, *last.earlier)
    return Life(last.birth, incarnation, past[:MAX_EARLIER])


def _draw_birth(randbits: Callable[[int], int]) -> int:
    return randbits(64) or 1


def _read(identity_file: Path, disk: Disk) -> _Identity | None:
    try:
        found = msgspec.json.decode(read_file(identity_file, disk=disk), type=_Identity)
        if any(old <= older for old, older in itertools.pairwise((found.incarnation, *found.earlier))):
            raise ValueError("the incarnations do not grow")
        _ = found.life, int(found.cluster_id, 16), int(found.member_id, 16)
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


def _write(identity_file: Path, identity: _Identity, disk: Disk) -> None:
    content = msgspec.json.format(msgspec.json.encode(identity)) + b"\n"
    write_file(identity_file, content, disk=disk, temporary=_TEMPORARY)
