"""The thread that waits for the disk, so that the event loop does not.

Requests go in through a queue; the thread takes everything that is there, writes it as one group, and hands the
finished requests back with one wake-up of the event loop. While a sync runs, the next group collects: that is group
commit, and it adapts to the speed of the disk by itself.

After a failed write or sync nothing is known about what is on the disk, and on Linux a second fsync may report
success for data that was dropped. So the first failure ends the thread: no later request is written or acknowledged.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from plasmacloud.storage.wal_errors import WriteFailed
from plasmacloud.storage.wal_writer import Request

_MAX_GROUP_BYTES = 4 * 1024 * 1024


class Flusher:
    """Runs ``write`` on a thread. ``done`` holds finished requests in order until the owner takes them."""

    def __init__(self, write: Callable[[Sequence[Request]], None], notify: Callable[[], None]) -> None:
        self._write = write
        self._notify = notify
        self._queue: SimpleQueue[Request | None] = SimpleQueue()
        self.done: deque[Request] = deque()
        self.failure: WriteFailed | None = None  # set once, by the thread, before `notify`
        self._thread = threading.Thread(target=self._run, name="wal-flusher", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Hand over a request; returns at once."""
        self._queue.put(request)

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
        """Write what is queued, then end the thread; False when that took longer than ``timeout_s``."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        queue = self._queue
        stopping = False
        while not stopping:
            request = queue.get()
            batch: list[Request] = []
            size_bytes = 0
            while True:
                if request is None:
                    stopping = True
                    break
                batch.append(request)
                size_bytes += request.size_bytes
                if size_bytes >= _MAX_GROUP_BYTES:
                    break
                try:
                    request = queue.get_nowait()
                except Empty:
                    break
            if batch and not self._flush(batch):
                return

    def _flush(self, batch: list[Request]) -> bool:
        try:
            self._write(batch)
        except WriteFailed as error:
            self.failure = error
        except Exception as error:  # noqa: BLE001 - a bug must stop acknowledgements exactly like a broken disk
            self.failure = WriteFailed(f"internal error in the log writer: {error!r}")
            self.failure.__cause__ = error
        else:
            self.done.extend(batch)
        for request in batch:
            if request.finished is not None:
                request.finished()
        self._notify()
        return self.failure is None
