"""The write-ahead log: what a member has promised to its cluster.

Raft entries, the hard state (term, vote, commit) and the log mark go through here, and nobody is answered before they
are durable. The pieces: `wal_format` (bytes), `wal_recovery` (reading back, torn end or damage), `wal_writer`
(groups, segments), `wal_pool` (segments made in advance), `wal_flusher` (the writing job), `wal_index` (terms and
places), `wal_reader`. This file ties them together and is the only one the rest of the house needs.

**Threads.** The *owner thread* (the event loop's) calls every method of `Wal` and owns the index, the window and the
reader. The *flusher thread* owns the writer: the open file, offsets, sequence numbers. They share two queues only,
requests going in and finished requests coming back (`deque`, each with one producer and one consumer). A request
belongs to exactly one of the two threads at any time; only its field ``live`` stays with the owner. The *pool thread*
shares the pool's own lock with the flusher. So no state of the log is locked, and none is touched by two threads.
Reads (`pread`) never overlap bytes being written: an entry is read from disk only after its request came back. The
threads are `workers.ThreadWorkers`; other `Workers` may do the same pieces of work elsewhere, one at a time.

**Order.** Requests are written in the order of `append`, callbacks run in that order on the event loop, and a group
counts on disk whole or not at all. Therefore what survives a crash is always a prefix of the requests, and contains
every acknowledged one.
"""

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from plasmacloud.base.errors import ConfigError, StorageError
from plasmacloud.storage.disk import DirectoryLock, Disk, OsDisk
from plasmacloud.storage.entry import Compacted, Entry, HardState, Unavailable
from plasmacloud.storage.wal_errors import InvalidAppend, WriteFailed, write_error
from plasmacloud.storage.wal_flusher import Flusher
from plasmacloud.storage.wal_format import MAX_CONF_BYTES, Identity, LogMark, SegmentHeader
from plasmacloud.storage.wal_index import LogIndex
from plasmacloud.storage.wal_metrics import WalMetrics
from plasmacloud.storage.wal_pool import SegmentPool
from plasmacloud.storage.wal_reader import SegmentReader
from plasmacloud.storage.wal_recovery import RecoveryReport, list_segments, recover, segment_name
from plasmacloud.storage.wal_writer import MarkChange, Request, SegmentWriter
from plasmacloud.storage.workers import ThreadWorkers, Workers

DEFAULT_SEGMENT_BYTES = 32 * 1024 * 1024
MIN_SEGMENT_BYTES = 4096
MAX_SEGMENT_BYTES = 1024 * 1024 * 1024
DEFAULT_WINDOW_BYTES = 32 * 1024 * 1024
DEFAULT_QUICK_S = 0.001
_BLOCKING_TIMEOUT_S = 60.0


class Wal:
    """One member's log in one locked directory. Implements the raft core's ``StableLog``.

    ``on_fatal(error)`` is called once, on the event loop, after a failed write or sync; the log is then dead and the
    process should end. ``on_space(error | None)`` is called on the event loop when the next segment cannot be prepared
    (a warning: appends still have reserved space), and with None when it can again.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity,
        disk: Disk,
        lock: DirectoryLock,
        workers: Workers,
        stopwatch: Callable[[], float],
        quick_s: float,
        segment_bytes: int,
        window_bytes: int,
    ) -> None:
        """Use `open`."""
        self.path = path
        self.identity = identity
        self.on_fatal: Callable[[StorageError], None] = _ignore
        self.on_space: Callable[[StorageError | None], None] = _ignore
        self.metrics = WalMetrics()
        self.recovery = RecoveryReport()
        self._window_bytes = window_bytes
        self._quick_s = quick_s
        self._lock = lock
        self._workers = workers
        self._pool = SegmentPool(disk, path, segment_bytes)
        self._writer = SegmentWriter(disk, path, identity, self._pool, segment_bytes, self.metrics, stopwatch)
        self._reader = SegmentReader(disk, path)
        self._index = LogIndex(0, 0, window_bytes)
        self._hard_state = HardState()
        self._mark = LogMark()
        self._durable_mark = 0
        self._segments: deque[SegmentHeader] = deque()
        self._pending: deque[Request] = deque()
        self._flusher: Flusher | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: WriteFailed | None = None
        self._fatal_reported = False
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        identity: Identity,
        disk: Disk | None = None,
        workers: Workers | None = None,
        stopwatch: Callable[[], float] = time.perf_counter,
        quick_s: float = DEFAULT_QUICK_S,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
        window_bytes: int = DEFAULT_WINDOW_BYTES,
        initial_mark: LogMark | None = None,
    ) -> Self:
        """Create the log, or recover it. Blocks; a large log takes about a second per million entries.

        ``initial_mark`` goes into the first header of a log that is created now: it holds the initial configuration at
        index 0. Ignored when the log exists. ``stopwatch``: seconds of any clock, for the metrics; any thread.
        ``quick_s``: see `append_now`; 0 for never.
        Raises `DirectoryInUse`, `WrongIdentity`, `UnsupportedFormat`, `CorruptLog`, `DiskFull` or `WriteFailed`.
        """
        if not MIN_SEGMENT_BYTES <= segment_bytes <= MAX_SEGMENT_BYTES or segment_bytes % 512:
            raise ConfigError(f"log segments of {segment_bytes} bytes: allowed are multiples of 512, 4 KiB to 1 GiB")
        disk = OsDisk() if disk is None else disk
        try:
            disk.make_directory(path)
            lock = disk.lock_directory(path)
        except OSError as error:
            raise write_error(f"opening the data directory {path}", error) from error
        wal = cls(
            path, identity, disk, lock, workers or ThreadWorkers(), stopwatch, quick_s, segment_bytes, window_bytes
        )
        try:
            wal._recover(disk, LogMark() if initial_mark is None else initial_mark)
        except BaseException:
            wal._writer.close()
            lock.release()
            raise
        return wal

    def _recover(self, disk: Disk, initial_mark: LogMark) -> None:
        numbers = list_segments(disk, self.path)
        try:
            self._pool.remove_leftovers()
        except OSError as error:
            raise write_error(f"removing unfinished segments in {self.path}", error) from error
        if not numbers:
            self._mark = initial_mark
            self._index = LogIndex(initial_mark.index, initial_mark.term, self._window_bytes)
            self._segments.append(self._writer.create(initial_mark))
            self.recovery.created = True
        else:
            recovered = recover(disk, self.path, numbers, self.identity, self._window_bytes)
            self._index = recovered.index
            self._hard_state = recovered.hard_state
            self._mark = recovered.mark
            self._segments.extend(recovered.headers)
            self.recovery = recovered.report
            self._writer.resume(recovered)
            self._writer.seal()
        self._durable_mark = self._mark.index

    # --- what is in the log -------------------------------------------------------------------------------------

    @property
    def hard_state(self) -> HardState:
        """The newest hard state handed over, or the recovered one."""
        return self._hard_state

    @property
    def log_mark(self) -> LogMark:
        """The newest mark handed over, or the recovered one."""
        return self._mark

    @property
    def durable_index(self) -> int:
        """The last index that is known to be on disk."""
        return self._index.located_last

    @property
    def durable_mark(self) -> int:
        """Index of the newest log mark that is known to be on disk."""
        return self._durable_mark

    def first_index(self) -> int:
        """The first index that can be read."""
        return self._index.base_index + 1

    def last_index(self) -> int:
        """The last index handed over; ``first_index() - 1`` when the log is empty."""
        return self._index.last_index

    def term(self, index: int) -> int:
        """Term of an entry, or of ``first_index() - 1``; raises `Compacted` or `Unavailable`."""
        return self._index.term(index)

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries of [lo, hi), as many as fit ``max_bytes`` of records, at least one.

        Raises `Compacted`, `Unavailable`, or `CorruptLog` when what the disk returns is not what was written.
        """
        index = self._index
        if lo <= index.base_index:
            raise Compacted(f"entry {lo} was compacted; the log starts behind {index.base_index}")
        if hi > index.last_index + 1:
            raise Unavailable(f"entry {hi - 1} is behind the end of the log, {index.last_index}")
        assert lo < hi
        in_memory = index.window.first_index
        if lo >= in_memory:
            return index.window.get(lo, hi, max_bytes)
        found = self._reader.read(index, lo, min(hi, in_memory), max_bytes)
        left = max_bytes - sum(len(entry.record) for entry in found)
        after = lo + len(found)
        if after == in_memory and after < hi and left >= len(index.window.get(after, after + 1, 1)[0].record):
            found += index.window.get(after, hi, left)
        return found

    # --- changing it --------------------------------------------------------------------------------------------

    def append(
        self, hard_state: HardState | None, entries: Sequence[Entry], on_durable: Callable[[], None] | None = None
    ) -> None:
        """Queue for writing and return at once; the entries are readable from now on. Call on the event loop.

        An entry whose index is not behind the end cuts the log there first. ``on_durable`` runs on the event loop once
        everything given here, and before, is on disk; after a failure it never runs. Raises `InvalidAppend` (nothing
        changed) or the `WriteFailed` that killed the log.
        """
        flusher = self._flusher or self._start()
        self._submit(flusher, self._request(hard_state, entries, None, on_durable))

    def append_now(self, hard_state: HardState | None, entries: Sequence[Entry]) -> bool:
        """Write at once on the calling thread, if that will be quick; everything is on disk then. Else change nothing.

        Handing a request to another thread and being woken by it costs about as much as a fast disk takes to write it.
        It is quick when nothing is under way, no segment has to be opened, and the disk took less than ``quick_s`` the
        last time. What a disk that turns slow can hold up is therefore one write. For those who have nothing better to
        do meanwhile: a follower has not, a leader only while little is under way.

        Raises what `append` raises, and `WriteFailed`.
        """
        self._check_alive()
        if self._pending or self.metrics.last_sync_s >= self._quick_s or self._flusher is None:
            return False
        if not self._writer.has_room(sum([len(entry.record) for entry in entries])):
            return False
        request = self._request(hard_state, entries, None, None)
        self._pending.append(request)
        try:
            self._writer.write([request])
        except WriteFailed as error:
            self._failure = error
            raise
        self._complete(request)
        return True

    def append_blocking(
        self, hard_state: HardState | None, entries: Sequence[Entry], timeout_s: float = _BLOCKING_TIMEOUT_S
    ) -> None:
        """Like `append`, but returns when everything is on disk. Without a running flusher it writes inline."""
        self._write_blocking(self._request(hard_state, entries, None, None), timeout_s)

    def mark(
        self, index: int, term: int, conf: bytes, *, keep: int = 0, on_durable: Callable[[], None] | None = None
    ) -> None:
        """Record that the state up to ``index`` is durable elsewhere, and let the log before it go. Returns at once.

        All but the last ``keep`` entries up to ``index`` disappear from the log now, their segments once the mark is
        durable. A mark behind the end, or with another term than the entry there, discards the whole log (that is
        what installing a snapshot does).
        """
        flusher = self._flusher or self._start()
        self._submit(flusher, self._mark_request(LogMark(index, term, conf), keep, on_durable))

    def mark_blocking(self, index: int, term: int, conf: bytes, *, keep: int = 0) -> None:
        """Like `mark`, but returns when the mark is on disk."""
        self._write_blocking(self._mark_request(LogMark(index, term, conf), keep, None), _BLOCKING_TIMEOUT_S)

    def compact(self, index: int) -> None:
        """Let the entries up to and including ``index`` go, at most up to the mark."""
        self._index.compact(min(index, self._mark.index))
        self._drop_segments()

    def size_bytes(self) -> int:
        """Disk space of the segments that are in use."""
        return sum(header.segment_bytes for header in self._segments)

    @property
    def space_problem(self) -> StorageError | None:
        """Why the next segment cannot be prepared, if it cannot."""
        return self._pool.problem

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what is queued, run the callbacks, release the directory. Blocks up to ``timeout_s``; idempotent.

        Raises `WriteFailed` when the disk does not answer in time: the directory then stays locked until the process
        ends, because the write may still be under way.
        """
        if self._closed:
            return
        self._closed = True
        if self._flusher is not None and not self._flusher.stop(timeout_s):
            raise WriteFailed(
                f"the log in {self.path} could not be written within {timeout_s:g} s", hint="check the disk"
            )
        self._reap()
        if self._failure is None and (self._flusher is None or self._flusher.failure is None):
            self._writer.seal()
        stopped = self._pool.stop(timeout_s)
        self._writer.close()
        self._reader.close()
        if not stopped:
            raise WriteFailed(f"a segment in {self.path} is still being prepared after {timeout_s:g} s")
        self._lock.release()

    # --- requests -----------------------------------------------------------------------------------------------

    def _request(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        mark: MarkChange | None,
        on_durable: Callable[[], None] | None,
    ) -> Request:
        """Check, then take into the index: from here on the request is part of the log."""
        self._check_alive()
        last = self._index.last_index
        if entries:
            self._check_entries(entries)
            last = entries[-1].index
        if hard_state is not None:
            if hard_state.commit > last:
                raise InvalidAppend(f"the commit index {hard_state.commit} is behind the end of the log, {last}")
            if hard_state.term < self._hard_state.term:
                raise InvalidAppend(f"the term cannot go back from {self._hard_state.term} to {hard_state.term}")
            self._hard_state = hard_state
        size_bytes = 0
        if entries:
            if entries[0].index <= self._index.last_index:
                self._disown(entries[0].index)
            size_bytes = sum([len(entry.record) for entry in entries])
            self._index.append(entries, size_bytes)
        return Request(hard_state, entries, mark, on_durable, size_bytes)

    def _check_entries(self, entries: Sequence[Entry]) -> None:
        first, last = entries[0].index, self._index.last_index
        if not self._mark.index < first <= last + 1:
            raise InvalidAppend(f"entry {first} cannot follow entry {last} (log mark at {self._mark.index})")
        term = self._index.term(first - 1)
        for expected, entry in enumerate(entries, first):
            if entry.index != expected or entry.term < term:
                raise InvalidAppend(
                    f"entry {entry.index} of term {entry.term} cannot follow entry {expected - 1} of term {term}"
                )
            term = entry.term

    def _mark_request(self, mark: LogMark, keep: int, on_durable: Callable[[], None] | None) -> Request:
        if mark.index < self._mark.index:
            raise InvalidAppend(f"the log mark cannot go back from {self._mark.index} to {mark.index}")
        if len(mark.conf) > MAX_CONF_BYTES:
            raise InvalidAppend(f"a configuration of {len(mark.conf)} bytes is too large")
        log = self._index
        keeps_log = log.base_index <= mark.index <= log.last_index and log.term(mark.index) == mark.term
        request = self._request(None, (), MarkChange(mark, reset=not keeps_log), on_durable)
        self._mark = mark
        if keeps_log:
            log.compact(mark.index - keep)
        else:
            for pending in self._pending:
                pending.live = 0
            log.reset(mark.index, mark.term)
        return request

    def _disown(self, index: int) -> None:
        """Entries from ``index`` on are cut off: those still on their way will never get a place in the index."""
        for request in reversed(self._pending):
            if not request.live:
                continue
            first = request.entries[0].index
            request.live = min(request.live, max(index - first, 0))
            if first < index:
                break

    def _submit(self, flusher: Flusher, request: Request) -> None:
        self._pending.append(request)
        flusher.submit(request)

    def _write_blocking(self, request: Request, timeout_s: float) -> None:
        self._pending.append(request)
        if self._flusher is not None:
            try:
                self._flusher.wait(request, timeout_s)
            except WriteFailed as error:
                self._failure = error
                raise
            self._reap()
            return
        try:
            self._writer.write([request])
        except WriteFailed as error:
            self._failure = error
            raise
        self._complete(request)

    def _start(self) -> Flusher:
        """The first `append` starts the workers and binds the log to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._pool.start(self._workers, self._space_changed)
        self._flusher = Flusher(self._writer.write, self._wake, self._workers)
        return self._flusher

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._flusher is not None and self._flusher.failure is not None:
            raise self._flusher.failure
        if self._closed:
            raise InvalidAppend(f"the log in {self.path} is closed")

    # --- completions --------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Called by the flusher thread after each group, and after its failure."""
        self._call_owner(self._reap)

    def _space_changed(self, problem: WriteFailed | None) -> None:
        """Called by the pool thread."""
        self._call_owner(lambda: self.on_space(problem))

    def _call_owner(self, call: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            pass  # the loop is closed: nobody is left to be told

    def _reap(self) -> None:
        """Take finished requests back, in order, and run their callbacks. Runs on the owner thread."""
        flusher = self._flusher
        if flusher is None:
            return
        done = flusher.done
        while done:
            request = done.popleft()
            self._complete(request)
            if request.on_durable is not None:
                try:
                    request.on_durable()
                except BaseException:
                    self._wake()  # the rest must not wait for the next group
                    raise
        if flusher.failure is not None and not self._fatal_reported:
            self._fatal_reported = True
            self._failure = flusher.failure
            self.on_fatal(flusher.failure)

    def _complete(self, request: Request) -> None:
        """A request is durable: its entries get their places, a mark takes effect on the segments."""
        assert self._pending[0] is request
        self._pending.popleft()
        if request.opened is not None:
            self._segments.append(request.opened)
        if request.live:
            assert request.locations is not None
            self._locate(request, request.locations)
        if request.mark is not None:
            self._durable_mark = request.mark.mark.index
            self._drop_segments()

    def _locate(self, request: Request, locations: "array[int]") -> None:
        if request.live < len(locations):
            locations = locations[: request.live]
        self._index.locate(locations)

    def _drop_segments(self) -> None:
        """Remove the segments all of whose entries are compacted. The newest is never removed.

        A segment may go when the log, at the moment its successor was opened, ended at or below the compaction point:
        then nothing that is still needed lies in it, and the successor's header repeats the rest. The mark that says
        so must be durable first.
        """
        limit = min(self._index.base_index, self._durable_mark)
        doomed: list[Path] = []
        while len(self._segments) > 1 and self._segments[1].last_index <= limit:
            number = self._segments.popleft().segment
            self._reader.forget(number)
            doomed.append(self.path / segment_name(number))
        if doomed:
            self._pool.remove(doomed)


def _ignore(_: StorageError | None) -> None:
    """No listener."""
