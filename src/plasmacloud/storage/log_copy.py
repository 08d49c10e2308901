"""What recovery needs of a log that is not running: look at it without changing it, and make another one.

`inspect_log` reads a log as a start would, but writes nothing: a torn end stays where it is. `create_log` makes a log
that begins behind a log mark, for an owner that may be another one than before: how a member continues alone after its
cluster was lost, and how a new cluster begins with the state of a snapshot.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plasmacloud.base.errors import StorageError
from plasmacloud.storage.disk import Disk, OsDisk
from plasmacloud.storage.entry import Entry, HardState
from plasmacloud.storage.wal import DEFAULT_SEGMENT_BYTES, Wal
from plasmacloud.storage.wal_errors import write_error
from plasmacloud.storage.wal_format import Identity, LogMark
from plasmacloud.storage.wal_reader import SegmentReader
from plasmacloud.storage.wal_recovery import Recovered, list_segments, recover, segment_name

_READ_BYTES = 1024 * 1024


class InspectedLog:
    """A log at rest. Made by `inspect_log`, valid inside it."""

    def __init__(self, path: Path, recovered: Recovered, reader: SegmentReader) -> None:
        self.path = path
        self.identity: Identity = recovered.headers[-1].identity
        self.hard_state = recovered.hard_state
        self.mark = recovered.mark
        self.torn = recovered.report.torn
        self.segments = recovered.report.segments
        self.newest_segment: Path = path / segment_name(recovered.headers[-1].segment)
        self._index = recovered.index
        self._reader = reader

    @property
    def first_index(self) -> int:
        """The first index that can be read."""
        return self._index.base_index + 1

    @property
    def last_index(self) -> int:
        """The last entry of the log."""
        return self._index.last_index

    @property
    def last_term(self) -> int:
        """Its term."""
        return self._index.last_term

    def term(self, index: int) -> int:
        """Term of an entry, or of ``first_index - 1``; raises `Compacted` or `Unavailable`."""
        return self._index.term(index)

    def entries(self, first: int) -> Iterator[Entry]:
        """Every entry from ``first`` on, read from the disk and verified. Raises `CorruptLog`."""
        assert first >= self.first_index
        while first <= self.last_index:
            found = self._reader.read(self._index, first, self.last_index + 1, _READ_BYTES)
            yield from found
            first += len(found)


@contextmanager
def inspect_log(path: Path, *, disk: Disk | None = None) -> Iterator[InspectedLog]:
    """Lock a log and read it. Raises `DirectoryInUse` while its member runs, `CorruptLog` or `StorageError`."""
    disk = OsDisk() if disk is None else disk
    try:
        lock = disk.lock_directory(path)
    except OSError as error:
        raise StorageError(f"reading the log in {path} failed: {error.strerror or error}") from error
    try:
        numbers = list_segments(disk, path)
        if not numbers:
            raise StorageError(f"there is no log in {path}", hint="is it the data directory of a member?")
        recovered = recover(disk, path, numbers, None, 0, repair=False)
        reader = SegmentReader(disk, path)
        try:
            yield InspectedLog(path, recovered, reader)
        finally:
            reader.close()
    finally:
        lock.release()


def create_log(
    path: Path,
    *,
    identity: Identity,
    mark: LogMark,
    hard_state: HardState,
    disk: Disk | None = None,
    segment_bytes: int = DEFAULT_SEGMENT_BYTES,
) -> None:
    """Make a log in the new directory ``path`` that begins behind ``mark``; durable on return. Raises `StorageError`.

    ``hard_state`` may not have committed more than the mark covers.
    """
    assert hard_state.commit <= mark.index
    assert hard_state.term >= mark.term
    disk = OsDisk() if disk is None else disk
    wal = Wal.open(path, identity=identity, disk=disk, segment_bytes=segment_bytes, initial_mark=mark)
    try:
        assert wal.recovery.created, "a log was there already"
        wal.append_blocking(hard_state, ())
    finally:
        wal.close()
    try:
        disk.sync_directory(path.parent)
    except OSError as error:
        raise write_error(f"making the directory {path} durable", error) from error
