"""Work beside the event loop: pieces that wait for a disk, one after the other, and what is told when one is done.

The log has two such jobs (`wal_flusher`, `wal_pool`). What they do is theirs; where and when it happens is a matter of
the `Workers` they are given. In production each job has a thread. Where time is virtual, a piece runs on the event loop
instead, and the time that its disk would have taken passes before it or between it and its report.
"""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Protocol

Report = Callable[[], None]
"""Tells the owner what a piece of work has done. Called once, behind it."""
Work = Callable[[], Report | None]
"""One piece of work, which may block. None when there was nothing to do. Never raises what it can report."""


class Worker(Protocol):
    """Does the pieces of one job, never two at a time, and each one's report before the next piece."""

    def wake(self, after_s: float = 0.0) -> None:
        """Do a piece: now, or behind the one under way. Any thread; many calls may lead to one piece.

        With ``after_s``, which only a report of this job may give: in so many seconds, unless it is woken before.
        """

    def stop(self, timeout_s: float) -> bool:
        """Do what is left, until a piece finds nothing to do, and end. False when that takes longer than the timeout.

        Blocks; on return nothing is under way, and nothing will ever be.
        """


class Workers(Protocol):
    """Where jobs are done."""

    def start(self, name: str, work: Work) -> Worker:
        """A worker for this job. Does nothing before it is woken."""


class ThreadWorker:
    """A thread of its own."""

    def __init__(self, name: str, work: Work) -> None:
        self._work = work
        self._calls: SimpleQueue[bool] = SimpleQueue()  # False: the last one
        self._woken = False
        self._again_s: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wake(self, after_s: float = 0.0) -> None:
        if after_s > 0:
            self._again_s = after_s
        elif not self._woken:  # a call that was made and not taken yet will see everything that is there now
            self._woken = True
            self._calls.put(True)

    def stop(self, timeout_s: float) -> bool:
        self._calls.put(False)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        work, calls = self._work, self._calls
        goes_on = True
        while goes_on:
            try:
                goes_on = calls.get(timeout=self._again_s)
            except Empty:
                pass  # the time has come
            self._again_s = None
            self._woken = False
            report = work()
            while report is not None:
                report()
                report = None if goes_on else work()


class ThreadWorkers:
    """A thread for each job. Stateless."""

    def start(self, name: str, work: Work) -> Worker:
        return ThreadWorker(name, work)
