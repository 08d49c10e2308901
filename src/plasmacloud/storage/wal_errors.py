"""What can go wrong with a data directory, each as a class that says what is known and what to do."""

import errno
from pathlib import Path

from plasmacloud.base.errors import ConfigError, StorageError

_REJOIN = (
    "this member's log can no longer be trusted. If a majority of the other members is healthy, they hold the data: "
    "move this directory away, remove the member from the cluster and let it join again as a new one. "
    "Never do that with the last surviving member; restore a backup there"
)


class DirectoryInUse(ConfigError):
    """Another process holds the lock of the data directory."""


class WrongIdentity(ConfigError):
    """The data directory belongs to another cluster or member."""


class UnsupportedFormat(ConfigError):
    """The file is intact, but written by a version of PlasmaCloud that this one cannot read."""


class CorruptLog(StorageError):
    """Bytes that were acknowledged as durable are not what was written. Never repaired by guessing."""

    def __init__(self, file: str, offset: int, what: str, *, hint: str = _REJOIN) -> None:
        super().__init__(f"{file}, byte {offset}: {what}", hint=hint)
        self.file = file
        self.offset = offset
        self.what = what


class CorruptState(StorageError):
    """The state file is damaged, incomplete, or was not made by PlasmaCloud."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"state store {path}: {what}",
            hint="move this member's whole data directory away, remove the member from the cluster and let it join "
            "again as a new one; never do that with the last surviving member, restore a backup there",
        )


class WriteFailed(StorageError):
    """A write or sync failed. What reached the disk is unknown, so the process must end; a restart finds out."""


class DiskFull(WriteFailed):
    """A write failed because the disk, the quota or the file size limit is reached."""


class InvalidAppend(StorageError):
    """The caller asked for something that would make the log inconsistent. Nothing was written."""


def write_error(action: str, error: OSError) -> WriteFailed:
    """Translate an ``OSError`` of a write path. ``action`` says what was tried, to which file."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(f"{action} failed: {reason}", hint="free space or raise the limit, then start the member again")
    return WriteFailed(
        f"{action} failed: {reason}",
        hint="check the disk and the kernel log; start the member again only on a disk that works",
    )
