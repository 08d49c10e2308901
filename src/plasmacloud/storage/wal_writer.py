"""Composing and writing groups, and moving on to the next segment. One thread at a time.

The writer knows only what is on disk: the open segment, the place of the next group, and the state that the next
segment's header has to repeat. What the rest of the log looks like is not its business.
"""

from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from plasmacloud.storage.disk import Disk, DiskFile
from plasmacloud.storage.entry import Entry, HardState
from plasmacloud.storage.wal_errors import DiskFull, WriteFailed, write_error
from plasmacloud.storage.wal_format import (
    BLOCK_BYTES,
    GROUP_HEADER_BYTES,
    HARD_STATE_BYTES,
    Identity,
    LogMark,
    SegmentHeader,
    encode_group_header,
    encode_hard_state,
    encode_mark,
    encode_segment_header,
    group_size_bytes,
    salt_seed,
)
from plasmacloud.storage.wal_index import pack_location
from plasmacloud.storage.wal_metrics import WalMetrics
from plasmacloud.storage.wal_pool import PreparedSegment, SegmentPool
from plasmacloud.storage.wal_recovery import Recovered, segment_name

_JOIN_LIMIT_BYTES = 256 * 1024
_MAX_BUFFERS = 1000  # the kernel takes at most 1024
_ZEROS = bytes(BLOCK_BYTES)


class MarkChange(NamedTuple):
    """A new log mark; ``reset`` discards the whole log before it."""

    mark: LogMark
    reset: bool


class Request:
    """One append on its way to the disk. ``locations`` is filled by the writer, the rest is fixed but for ``live``."""

    __slots__ = ("entries", "finished", "hard_state", "live", "locations", "mark", "on_durable", "opened", "size_bytes")

    def __init__(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        mark: MarkChange | None,
        on_durable: Callable[[], None] | None,
        size_bytes: int,
    ) -> None:
        self.hard_state = hard_state
        self.entries = entries
        self.mark = mark
        self.on_durable = on_durable
        self.size_bytes = size_bytes  # of the entries' records
        self.live = len(entries)  # how many of the entries no later request has cut off; the index owner's field
        self.locations: array[int] | None = None
        self.opened: SegmentHeader | None = None  # a segment that was opened for this request's group
        self.finished: Callable[[], None] | None = None  # called by the flusher thread, also when it failed


class SegmentWriter:
    """Writes groups at the end of the newest segment."""

    def __init__(
        self,
        disk: Disk,
        directory: Path,
        identity: Identity,
        pool: SegmentPool,
        segment_bytes: int,
        metrics: WalMetrics,
        stopwatch: Callable[[], float],
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._identity = identity
        self._pool = pool
        self._segment_bytes = segment_bytes
        self._metrics = metrics
        self._stopwatch = stopwatch
        self._file: DiskFile | None = None
        self._segment = 0
        self._capacity = 0
        self._seed = 0
        self._offset = 0
        self._first_offset = 0
        self._sequence = 1
        self._last_index = 0
        self._last_term = 0
        self._hard_state = HardState()
        self._mark = LogMark()

    def create(self, mark: LogMark) -> SegmentHeader:
        """Start an empty log with its first segment."""
        self._mark = mark
        self._last_index, self._last_term = mark.index, mark.term
        return self._next_segment()

    def resume(self, recovered: Recovered) -> None:
        """Continue a recovered log."""
        header = recovered.headers[-1]
        path = self._directory / segment_name(header.segment)
        try:
            self._file = self._disk.open(path)
        except OSError as error:
            raise write_error(f"opening {path}", error) from error
        self._segment, self._seed = header.segment, salt_seed(header.salt)
        self._capacity = header.segment_bytes
        self._first_offset = header.padded_bytes
        self._offset = recovered.tail_offset
        self._sequence = recovered.next_sequence
        self._last_index, self._last_term = recovered.index.last_index, recovered.index.last_term
        self._hard_state, self._mark = recovered.hard_state, recovered.mark

    def seal(self) -> None:
        """Write an empty group, where there is room: bad bytes before it can then never pass as a torn end."""
        if self._offset + BLOCK_BYTES <= self._capacity:
            self._put(0, 0, [])

    def has_room(self, payload_bytes: int) -> bool:
        """Whether a group of so many bytes of entries fits the open segment."""
        return self._offset + group_size_bytes(payload_bytes + HARD_STATE_BYTES) <= self._capacity

    def write(self, requests: Sequence[Request]) -> None:
        """Make the requests durable with one write and one sync. Raises `WriteFailed`; the writer is then unusable."""
        buffers: list[bytes] = []
        hard_state: HardState | None = None
        for request in requests:
            if request.mark is not None:
                buffers.append(encode_mark(request.mark.mark, reset=request.mark.reset))
            if request.entries:
                buffers += [entry.record for entry in request.entries]
            if request.hard_state is not None:
                hard_state = request.hard_state
        if hard_state is not None:  # a group counts whole or not at all, so the last one is enough
            buffers.append(encode_hard_state(hard_state))
        if not buffers:
            return
        payload_bytes = sum(map(len, buffers))
        size_bytes = group_size_bytes(payload_bytes)
        if self._offset + size_bytes > self._capacity and self._offset > self._first_offset:
            requests[0].opened = self._next_segment()
        start = self._offset + GROUP_HEADER_BYTES
        self._put(payload_bytes, len(buffers), buffers)
        self._publish(requests, start)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _publish(self, requests: Sequence[Request], offset: int) -> None:
        """Note where the entries lie, and what the next segment header has to say."""
        for request in requests:
            if request.mark is not None:
                self._mark = request.mark.mark
                offset += len(encode_mark(request.mark.mark, reset=request.mark.reset))
                if request.mark.reset:
                    self._last_index, self._last_term = self._mark.index, self._mark.term
            if entries := request.entries:
                start = pack_location(self._segment, offset)
                places = array("Q", accumulate([len(entry.record) for entry in entries], initial=start))
                offset = places.pop() & 0xFFFFFFFF
                request.locations = places
                self._last_index, self._last_term = entries[-1].index, entries[-1].term
            if request.hard_state is not None:
                self._hard_state = request.hard_state

    def _put(self, payload_bytes: int, records: int, buffers: list[bytes]) -> None:
        """One group: one write, one sync."""
        assert self._file is not None
        size_bytes = group_size_bytes(payload_bytes)
        padding = _ZEROS[: size_bytes - GROUP_HEADER_BYTES - payload_bytes]
        header = encode_group_header(self._seed, self._segment, self._sequence, payload_bytes, records)
        parts = [header, *buffers, padding]
        if size_bytes <= _JOIN_LIMIT_BYTES or len(parts) > _MAX_BUFFERS:
            parts = [b"".join(parts)]
        self._sync_write(self._file, parts, self._offset, size_bytes, segment_name(self._segment))
        self._offset += size_bytes
        self._sequence += 1
        self._metrics.groups += 1
        self._metrics.group_bytes += size_bytes

    def _sync_write(self, file: DiskFile, parts: list[bytes], offset: int, size_bytes: int, name: str) -> None:
        before = self._stopwatch()
        try:
            written = file.write_durably(parts, offset)
        except OSError as error:
            action = f"writing and syncing {size_bytes} bytes at byte {offset} of {self._directory / name}"
            raise write_error(action, error) from error
        if written != size_bytes:
            raise DiskFull(
                f"writing at byte {offset} of {self._directory / name} failed: "
                f"the disk took only {written} of {size_bytes} bytes",
                hint="the disk is full or a quota or file size limit is reached; free space, then start again",
            )
        took_s = self._stopwatch() - before
        metrics = self._metrics
        metrics.syncs += 1
        metrics.sync_seconds += took_s
        metrics.last_sync_s = took_s
        metrics.sync_times.observe(took_s)
        metrics.max_sync_s = max(metrics.max_sync_s, took_s)

    def _next_segment(self) -> SegmentHeader:
        """Give the prepared segment its header, make that durable, and only then its name."""
        segment = self._pool.take()
        number = self._segment + 1
        header = SegmentHeader(
            number,
            self._segment_bytes,
            self._identity,
            self._disk.random_u64(),
            self._sequence,
            self._last_index,
            self._last_term,
            self._hard_state,
            self._mark,
        )
        raw = encode_segment_header(header)
        self._sync_write(segment.file, [raw], 0, len(raw), segment.path.name)
        self._name_segment(segment, number)
        self.close()
        self._file = segment.file
        self._segment, self._seed, self._capacity = number, salt_seed(header.salt), self._segment_bytes
        self._offset = self._first_offset = len(raw)
        self._metrics.segments_opened += 1
        return header

    def _name_segment(self, segment: PreparedSegment, number: int) -> None:
        target = self._directory / segment_name(number)
        try:
            self._disk.rename(segment.path, target)
            self._disk.sync_directory(self._directory)
        except OSError as error:
            raise write_error(f"naming the new log segment {target}", error) from error


__all__ = ["MarkChange", "Request", "SegmentWriter", "WriteFailed"]
