"""A member's data directory: what is in it, whose it is, and how often it has been opened.

::

    DATA_DIR/
      member.json   whose directory this is, and the incarnation of the last start
      wal/          the write-ahead log
      state/        the applied state

The *incarnation* numbers the lives of a member. Commands are numbered within an incarnation, so that a command of an
earlier life that surfaces late (from another member's log) is never confused with one of this life. It must grow with
every start, also when an old copy of the disk was restored: hence the larger of the counter and the wall clock.
"""

import os
from pathlib import Path

import msgspec

from plasmacloud.base.errors import ConfigError, StorageError

_FORMAT = 1
_TEMPORARY = "member.tmp"  # may be left by a crash during the very first start


class DataDir(msgspec.Struct, frozen=True):
    """An opened data directory."""

    path: Path
    incarnation: int

    @property
    def wal(self) -> Path:
        """Directory of the write-ahead log."""
        return self.path / "wal"

    @property
    def state(self) -> Path:
        """Directory of the applied state."""
        return self.path / "state"


class _Identity(msgspec.Struct):
    format: int
    name: str
    cluster_id: str
    member_id: str
    incarnation: int


def open_data_dir(path: Path, *, name: str, cluster_id: int, member_id: int, now_ns: int) -> DataDir:
    """Create the directory or check that it belongs to this member, and begin a new incarnation.

    ``now_ns`` is the wall clock in nanoseconds. Raises `ConfigError` when the directory belongs to another member or
    cluster, or is not a data directory at all; `StorageError` when the disk refuses.
    """
    identity_file = path / "member.json"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = _read(identity_file)
        if found is None and any(item.name != _TEMPORARY for item in path.iterdir()):
            raise ConfigError(
                f"{path} is not empty, and not a ChainFire data directory",
                hint="choose an empty or a new directory for --data-dir",
            )
        if found is not None:
            _check(found, path, name=name, cluster_id=cluster_id, member_id=member_id)
        incarnation = max(now_ns, found.incarnation + 1 if found else 1)
        _write(identity_file, _Identity(_FORMAT, name, f"{cluster_id:x}", f"{member_id:x}", incarnation))
    except OSError as error:
        raise StorageError(
            f"cannot use the data directory {path}: {error.strerror}",
            hint="the directory must be writable by the user that runs the server, on a disk with free space",
        ) from error
    return DataDir(path, incarnation)


def _read(identity_file: Path) -> _Identity | None:
    try:
        return msgspec.json.decode(identity_file.read_bytes(), type=_Identity)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise ConfigError(
            f"{identity_file} cannot be read: {error}",
            hint="the file says whose data this is; restore it from a backup, or use a new data directory",
        ) from error


def _check(found: _Identity, path: Path, *, name: str, cluster_id: int, member_id: int) -> None:
    if found.format != _FORMAT:
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
    temporary = identity_file.with_name(_TEMPORARY)
    with temporary.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(identity)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(identity_file)
    directory = os.open(identity_file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
