"""Reading old entries back from the segments, verified.

A follower that fell behind, or a restart, reads entries that left the memory window long ago. Every record's
checksum, index and term are compared with what the log knows, because what is read here may be sent to other members.
"""

from collections import OrderedDict
from pathlib import Path

from plasmacloud.base.errors import StorageError
from plasmacloud.storage.disk import Disk, DiskFile
from plasmacloud.storage.entry import RECORD_HEADER, RECORD_HEADER_BYTES, CorruptRecord, Entry
from plasmacloud.storage.entry_codec import decode_entry
from plasmacloud.storage.wal_errors import CorruptLog
from plasmacloud.storage.wal_index import LogIndex, unpack_location
from plasmacloud.storage.wal_recovery import segment_name

_CHUNK_BYTES = 256 * 1024
_MAX_OPEN_FILES = 8


class SegmentReader:
    """Positioned reads in any segment. Owned by the thread that owns the index."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._directory = directory
        self._files: OrderedDict[int, DiskFile] = OrderedDict()

    def read(self, index: LogIndex, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries of [lo, hi), as many as fit ``max_bytes`` of records, at least one. Raises `CorruptLog`."""
        found: list[Entry] = []
        chunk, chunk_segment, chunk_at = b"", 0, 0
        left = max_bytes
        for wanted in range(lo, hi):
            segment, offset = unpack_location(index.location(wanted))
            at = offset - chunk_at
            if segment != chunk_segment or not 0 <= at <= len(chunk) - RECORD_HEADER_BYTES:
                chunk = self._pread(segment, min(max(left, 4096), _CHUNK_BYTES), offset)
                chunk_segment, chunk_at, at = segment, offset, 0
            if len(chunk) - at >= RECORD_HEADER_BYTES:
                size_bytes = RECORD_HEADER_BYTES + RECORD_HEADER.unpack_from(chunk, at)[1]
                if size_bytes > left and found:
                    break
                if at + size_bytes > len(chunk):
                    chunk = self._pread(segment, size_bytes, offset)
                    chunk_at, at = offset, 0
            entry = self._decode(chunk, at, segment, offset)
            if entry.index != wanted or entry.term != index.term(wanted):
                raise CorruptLog(
                    str(self._directory / segment_name(segment)),
                    offset,
                    f"holds entry {entry.index} of term {entry.term} where entry {wanted} of term "
                    f"{index.term(wanted)} was written",
                )
            found.append(entry)
            left -= len(entry.record)
            if left < 0:
                break
        return found

    def forget(self, segment: int) -> None:
        """Close the segment's file; it is about to be removed."""
        file = self._files.pop(segment, None)
        if file is not None:
            file.close()

    def close(self) -> None:
        """Close all files."""
        for segment in list(self._files):
            self.forget(segment)

    def _decode(self, chunk: bytes, at: int, segment: int, offset: int) -> Entry:
        try:
            return decode_entry(chunk, at)[0]
        except CorruptRecord as error:
            name = str(self._directory / segment_name(segment))
            raise CorruptLog(name, offset, f"an entry that was acknowledged is damaged: {error}") from None

    def _pread(self, segment: int, size_bytes: int, offset: int) -> bytes:
        try:
            return self._file(segment).pread(size_bytes, offset)
        except OSError as error:
            path = self._directory / segment_name(segment)
            raise StorageError(
                f"reading {size_bytes} bytes at byte {offset} of {path} failed: {error.strerror or error}",
                hint="check the disk and the kernel log",
            ) from error

    def _file(self, segment: int) -> DiskFile:
        file = self._files.get(segment)
        if file is None:
            file = self._files[segment] = self._disk.open(self._directory / segment_name(segment))
            if len(self._files) > _MAX_OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        else:
            self._files.move_to_end(segment)
        return file
