"""Empty segments, made before they are needed, and old ones, removed when nobody waits.

Both jobs are slow (writing and syncing zeros, freeing blocks) and neither may delay an append, so a worker in the
background does them. A segment under construction has a temporary name that recovery deletes; it gets its real name
only after its header is durable. A file with a segment's name is therefore always a whole segment, and anything else
is damage.

A disk that fills up is noticed here first, one segment before an append would fail: `problem` is set and the callback
called, while appends go on into the space that is already reserved.
"""

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from plasmacloud.storage.disk import Disk, DiskFile
from plasmacloud.storage.wal_errors import WriteFailed, write_error
from plasmacloud.storage.workers import Report, Worker, Workers

PREPARED_SUFFIX = ".tmp"
_RETRY_S = 2.0
_TAKE_TIMEOUT_S = 60.0


class PreparedSegment:
    """A zero-filled, synced file that has no segment name yet."""

    def __init__(self, path: Path, file: DiskFile) -> None:
        self.path = path
        self.file = file


class SegmentPool:
    """Prepares the next segment and removes old ones; inline until `start` is called. Any thread."""

    def __init__(self, disk: Disk, directory: Path, segment_bytes: int) -> None:
        self._disk = disk
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._counter = 0
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._ready: PreparedSegment | None = None
        self._preparing = False
        self._stopping = False
        self._doomed: deque[Path] = deque()
        self._worker: Worker | None = None
        self._on_problem: Callable[[WriteFailed | None], None] | None = None
        self.problem: WriteFailed | None = None

    def remove_leftovers(self) -> None:
        """Delete what an earlier process was preparing when it died."""
        for name in self._disk.list_directory(self._directory):
            if name.endswith(PREPARED_SUFFIX):
                self._disk.remove(self._directory / name)

    def start(self, workers: Workers, on_problem: Callable[[WriteFailed | None], None]) -> None:
        """Work in the background from now on. ``on_problem`` is called there: an error, or None when it is over."""
        assert self._worker is None
        self._on_problem = on_problem
        self._worker = workers.start("wal-pool", self._work)
        self._worker.wake()

    def stop(self, timeout_s: float) -> bool:
        """Stop the worker, finish removals, drop the prepared segment; False when the worker did not end in time."""
        with self._changed:
            self._stopping = True
        if self._worker is not None and not self._worker.stop(timeout_s):
            return False
        try:
            self._remove_doomed()
        except WriteFailed:
            pass  # they are removed after the next start's first mark
        if self._ready is not None:
            self._ready.file.close()
            try:
                self._disk.remove(self._ready.path)
            except OSError:
                pass  # the next start removes it
            self._ready = None
        return True

    def take(self) -> PreparedSegment:
        """A prepared segment; makes one in the calling thread when none is ready. Raises `WriteFailed`."""
        with self._changed:
            if self._preparing and not self._changed.wait_for(lambda: not self._preparing, _TAKE_TIMEOUT_S):
                raise WriteFailed(f"preparing a log segment in {self._directory} took over {_TAKE_TIMEOUT_S:.0f} s")
            ready, self._ready = self._ready, None
        self._wake()
        return ready if ready is not None else self._prepare()

    def remove(self, paths: list[Path]) -> None:
        """Remove segments, oldest first; in the background once that works."""
        with self._changed:
            self._doomed.extend(paths)
        if self._worker is None:
            self._remove_doomed()
        self._wake()

    def _wake(self) -> None:
        if self._worker is not None:
            self._worker.wake()

    def _work(self) -> Report | None:
        with self._changed:
            if self._stopping or (self._ready is not None and not self._doomed):
                return None
            self._preparing = self._ready is None
        problem: WriteFailed | None = None
        try:
            self._remove_doomed()
            if self._preparing:
                self._prepare_next()
        except WriteFailed as error:
            problem = error
        finally:
            with self._changed:
                self._preparing = False
                self._changed.notify_all()
        return partial(self._report, problem)

    def _prepare_next(self) -> None:
        segment = self._prepare()
        with self._changed:
            self._ready = segment

    def _report(self, problem: WriteFailed | None) -> None:
        before, self.problem = self.problem, problem
        if problem is not None and self._worker is not None:
            self._worker.wake(_RETRY_S)
        if self._on_problem is not None and (before is None) != (problem is None):
            self._on_problem(problem)

    def _prepare(self) -> PreparedSegment:
        with self._changed:
            self._counter += 1
            path = self._directory / f"prepare-{self._counter}{PREPARED_SUFFIX}"
        file: DiskFile | None = None
        try:
            file = self._disk.create(path)
            file.zero_fill(self._segment_bytes)
            file.fsync()
        except OSError as error:
            self._discard(path, file)
            raise write_error(
                f"preparing a log segment of {self._segment_bytes} bytes in {self._directory}", error
            ) from error
        return PreparedSegment(path, file)

    def _discard(self, path: Path, file: DiskFile | None) -> None:
        if file is None:
            return
        file.close()
        try:
            self._disk.remove(path)
        except OSError:
            pass  # the next start removes it

    def _remove_doomed(self) -> None:
        """Each removal is made durable before the next, so that a crash leaves no hole in the sequence."""
        while True:
            with self._changed:
                if not self._doomed:
                    return
                path = self._doomed[0]
            try:
                self._disk.remove(path)
                self._disk.sync_directory(self._directory)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise write_error(f"removing the old log segment {path}", error) from error
            with self._changed:
                self._doomed.popleft()
