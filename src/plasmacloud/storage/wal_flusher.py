"""The job that waits for the disk, so that the event loop does not.

Requests go in through a queue; each piece of work takes everything that is there and writes it as one group, and its
report hands the finished requests back with one wake-up of the event loop. While a sync runs, the next group collects:
that is group commit, and it adapts to the speed of the disk by itself.

After a failed write or sync nothing is known about what is on the disk, and on Linux a second fsync may report
success for data that was dropped. So the first failure ends the job: no later request is written or acknowledged.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from plasmacloud.storage.wal_errors import WriteFailed
from plasmacloud.storage.wal_writer import Request
from plasmacloud.storage.workers import Report, Workers

_MAX_GROUP_BYTES = 4 * 1024 * 1024


class Flusher:
    """Has a worker run ``write``. ``done`` holds finished requests in order until the owner takes them."""

    def __init__(
        self, write: Callable[[Sequence[Request]], None], notify: Callable[[], None], workers: Workers
    ) -> None:
        self._write = write
        self._notify = notify
        self._queue: deque[Request] = deque()
        self._group: list[Request] = []  # written, not yet reported
        self._problem: WriteFailed | None = None
        self.done: deque[Request] = deque()
        self.failure: WriteFailed | None = None  # set once, by the worker, before `notify`
        self._worker = workers.start("wal-flusher", self._write_group)

    def submit(self, request: Request) -> None:
        """Hand over a request; returns at once."""
        self._queue.append(request)
        self._worker.wake()

    def wait(self, request: Request, timeout_s: float) -> None:
        """Submit a request and wait until it was written or the flusher failed; raises `WriteFailed`."""
        finished = threading.Event()
        request.finished = finished.set
        self.submit(request)
        deadline = time.monotonic() + timeout_s
        while not finished.wait(0.05):
            if self.failure is not None:  # it may have died without seeing this request
                break
            if time.monotonic() > deadline:
                raise WriteFailed(f"the log was not written within {timeout_s:g} s", hint="check the disk")
        if self.failure is not None:
            raise self.failure

    def stop(self, timeout_s: float) -> bool:
        """Write what is queued, then end; False when that took longer than ``timeout_s``."""
        return self._worker.stop(timeout_s)

    def _write_group(self) -> Report | None:
        queue = self._queue
        if not queue or self._problem is not None:
            return None
        group: list[Request] = []
        size_bytes = 0
        while queue and size_bytes < _MAX_GROUP_BYTES:
            request = queue.popleft()
            group.append(request)
            size_bytes += request.size_bytes
        try:
            self._write(group)
        except WriteFailed as error:
            self._problem = error
        except Exception as error:  # noqa: BLE001 - a bug must stop acknowledgements exactly like a broken disk
            self._problem = WriteFailed(f"internal error in the log writer: {error!r}")
            self._problem.__cause__ = error
        self._group = group
        return self._report

    def _report(self) -> None:
        group, self._group = self._group, []
        self.failure = self._problem
        if self.failure is None:
            self.done.extend(group)
        for request in group:
            if request.finished is not None:
                request.finished()
        self._notify()
        if self._queue:  # more than one group was waiting
            self._worker.wake()
