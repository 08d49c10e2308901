"""The file that a snapshot is received into, piece by piece, over as many connections and starts as it takes.

Two files in a directory of their own: what has arrived so far, and a note which snapshot that is. Nothing is synced
while it arrives, so that receiving costs the event loop no more than a copy into the page cache. A start therefore
trusts only what proves itself: whole blocks from the beginning, by the checksums of the format (`valid_prefix`).
"""

import contextlib
from pathlib import Path

import msgspec

from plasmacloud.base.errors import StorageError
from plasmacloud.storage.disk import Disk, DiskFile, OsDisk
from plasmacloud.storage.small_files import read_file, write_file
from plasmacloud.storage.snapshot import DamagedSnapshot, SnapshotInfo, valid_prefix, verify
from plasmacloud.storage.wal_errors import DiskFull, write_error

_PART = "incoming.part"
_NOTE = "incoming.json"
_NOTE_TEMPORARY = "incoming.tmp"
COMPLETE = "incoming.snapshot"


class _Note(msgspec.Struct, frozen=True):
    sha256: str
    size_bytes: int


class IncomingFile:
    """Owned by one thread, but for `finish`, during which nobody may write."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        """Use `open`."""
        self.directory = directory
        self._disk = disk
        self._note: _Note | None = None
        self._file: DiskFile | None = None
        self.position = 0

    @classmethod
    def open(cls, directory: Path, *, disk: Disk | None = None) -> "IncomingFile":
        """Find out what an earlier life has received. Blocks: reads it. Raises `StorageError`."""
        incoming = cls(directory, OsDisk() if disk is None else disk)
        try:
            incoming._disk.make_directory(directory)
            incoming._resume()
        except OSError as error:
            raise write_error(f"opening {directory}", error) from error
        return incoming

    def begin(self, sha256: bytes, size_bytes: int) -> int:
        """Be ready to receive this snapshot; returns from which byte on. What there is of another one is discarded."""
        note = _Note(sha256.hex(), size_bytes)
        if note != self._note:
            try:
                self._start(note)
            except OSError as error:
                raise write_error(f"preparing to receive a snapshot in {self.directory}", error) from error
        return self.position

    def write(self, data: bytes) -> None:
        """The bytes at `position`. Raises `WriteFailed` or `DiskFull`; `position` then stays where it was."""
        assert self._file is not None
        assert self._note is not None
        assert self.position + len(data) <= self._note.size_bytes
        try:
            written = self._file.pwritev([data], self.position)
        except OSError as error:
            raise write_error(f"writing {self.directory / _PART}", error) from error
        if written != len(data):
            raise DiskFull(f"writing {self.directory / _PART} failed: the disk is full", hint="free space")
        self.position += len(data)

    def finish(self) -> tuple[Path, SnapshotInfo]:
        """Sync and verify what was received; it then has a name of its own. Blocks: worker thread.

        Raises `DamagedSnapshot` when it is not what was offered; then everything received is discarded.
        """
        assert self._file is not None
        assert self._note is not None
        part, complete = self.directory / _PART, self.directory / COMPLETE
        try:
            self._file.fsync()
            try:
                info = verify(part, disk=self._disk)
                if info.sha256.hex() != self._note.sha256:
                    raise DamagedSnapshot(part, info.size_bytes, "this is another snapshot than the one offered")
            except DamagedSnapshot:
                self.discard()
                raise
            self._close()
            self._disk.rename(part, complete)
            self._disk.sync_directory(self.directory)
            self._forget()
        except OSError as error:
            raise write_error(f"completing {part}", error) from error
        return complete, info

    def discard(self) -> None:
        """Forget what was received."""
        self._close()
        with contextlib.suppress(OSError):
            self._forget()

    def close(self) -> None:
        """Stop receiving; what has arrived stays for the next start."""
        self._close()
        self._note = None

    def _start(self, note: _Note) -> None:
        self._close()
        self._forget()
        self._file = self._disk.create(self.directory / _PART)
        write_file(
            self.directory / _NOTE, msgspec.json.encode(note), disk=self._disk, temporary=_NOTE_TEMPORARY
        )  # fmt: skip
        self._note = note

    def _forget(self) -> None:
        """Remove the note first: a part without a note is nothing."""
        self._note, self.position = None, 0
        names = self._disk.list_directory(self.directory)
        for name in (_NOTE, _NOTE_TEMPORARY, _PART):
            if name in names:
                self._disk.remove(self.directory / name)
                self._disk.sync_directory(self.directory)

    def _resume(self) -> None:
        names = self._disk.list_directory(self.directory)
        if _NOTE not in names or _PART not in names:
            self._forget()
            return
        try:
            note = msgspec.json.decode(read_file(self.directory / _NOTE, disk=self._disk), type=_Note)
        except msgspec.MsgspecError:
            self._forget()
            return
        try:
            self.position = valid_prefix(self.directory / _PART, disk=self._disk)
        except StorageError:
            self._forget()
            return
        self._note = note
        self._file = self._disk.open(self.directory / _PART)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
