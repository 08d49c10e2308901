"""Empty segments, made before they are needed, and old ones, removed when nobody waits.

Both jobs are slow (writing and syncing zeros, freeing blocks) and neither may delay an append, so a background thread
does them. A segment under construction has a temporary name that recovery deletes; it gets its real name only after
its header is durable. A file with a segment's name is therefore always a whole segment, and anything else is damage.

A disk that fills up is noticed here first, one segment before an append would fail: `problem` is set and the callback
called, while appends go on into the space that is already reserved.
"""

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from plasmacloud.storage.disk import Disk, DiskFile
from plasmacloud.storage.wal_errors import WriteFailed, write_error

PREPARED_SUFFIX = ".tmp"
_RETRY_S = 2.0
_TAKE_TIMEOUT_S = 60.0


class PreparedSegment:
    """A zero-filled, synced file that has no segment name yet."""

    def __init__(self, path: Path, file: DiskFile) -> None:
        self.path = path
        self.file = file


class SegmentPool:
    """Prepares the next segment and removes old ones; inline until `start` is called."""

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
        self._thread: threading.Thread | None = None
        self._on_problem: Callable[[WriteFailed | None], None] | None = None
        self.problem: WriteFailed | None = None

    def remove_leftovers(self) -> None:
        """Delete what an earlier process was preparing when it died."""
        for name in self._disk.list_directory(self._directory):
            if name.endswith(PREPARED_SUFFIX):
                self._disk.remove(self._directory / name)

    def start(self, on_problem: Callable[[WriteFailed | None], None]) -> None:
        """Start the background thread. ``on_problem`` is called in it: an error, or None when it is over."""
        assert self._thread is None
        self._on_problem = on_problem
        self._thread = threading.Thread(target=self._run, name="wal-pool", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Stop the thread, finish removals, drop the prepared segment; False when the thread did not end in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
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
            self._changed.notify_all()
        return ready if ready is not None else self._prepare()

    def remove(self, paths: list[Path]) -> None:
        """Remove segments, oldest first; in the background once the thread runs."""
        with self._changed:
            self._doomed.extend(paths)
            self._changed.notify_all()
        if self._thread is None:
            self._remove_doomed()

    def _run(self) -> None:
        while True:
            with self._changed:
                idle = self._ready is not None and not self._doomed
                if not self._stopping and (idle or self.problem is not None):
                    self._changed.wait(None if self.problem is None else _RETRY_S)
                if self._stopping:
                    return
                self._preparing = self._ready is None
            try:
                self._remove_doomed()
                if self._preparing:
                    self._prepare_next()
            except WriteFailed as error:
                self._report(error)
            else:
                self._report(None)
            finally:
                with self._changed:
                    self._preparing = False
                    self._changed.notify_all()

    def _prepare_next(self) -> None:
        segment = self._prepare()
        with self._changed:
            self._ready = segment

    def _report(self, problem: WriteFailed | None) -> None:
        before, self.problem = self.problem, problem
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
