"""Small files that are read and replaced whole: notes, identities, decisions."""

from pathlib import Path

from plasmacloud.storage.disk import Disk
from plasmacloud.storage.wal_errors import DiskFull


def read_file(path: Path, *, disk: Disk) -> bytes:
    """All of it. Raises ``OSError``, among them ``FileNotFoundError``."""
    file = disk.open(path)
    try:
        return file.pread(file.size_bytes(), 0)
    finally:
        file.close()


def read_durably(path: Path, *, disk: Disk) -> bytes:
    """The same for who relies on it: what is returned survives a loss of power. Raises ``OSError``.

    A process that died between giving a new file its name and syncing that leaves the name in memory only, where its
    successor finds it. The contents were synced before (`write_file`).
    """
    data = read_file(path, disk=disk)
    disk.sync_directory(path.parent)
    return data


def write_file(path: Path, data: bytes, *, disk: Disk, temporary: str) -> None:
    """Replace the file, durably: after a crash it has the old contents or the new. Raises ``OSError`` or `DiskFull`.

    ``temporary``: a name in the same directory, used meanwhile and left behind by a crash.
    """
    draft = path.with_name(temporary)
    if draft.name in disk.list_directory(path.parent):
        disk.remove(draft)
    file = disk.create(draft)
    try:
        if file.pwritev([data], 0) != len(data):
            raise DiskFull(f"writing {draft} failed: the disk is full", hint="free space, then try again")
        file.fsync()
    finally:
        file.close()
    disk.rename(draft, path)
    disk.sync_directory(path.parent)
