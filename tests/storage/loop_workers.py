"""Workers without threads: pieces of work on the event loop, each cut in two by some turns of the loop."""

import asyncio
import random
from collections.abc import Callable

from plasmacloud.storage.workers import Report, Work, Worker


class LoopWorker:
    """Lets ``turns()`` turns of the loop pass before a piece, and as many again before its report."""

    def __init__(self, work: Work, turns: Callable[[], int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._work = work
        self._turns = turns
        self._wanted = False  # woken, and no piece has begun since
        self._busy = False
        self._unreported: Report | None = None
        self._stopped = False

    def wake(self, after_s: float = 0.0) -> None:
        if after_s:
            self._loop.call_later(after_s, self.wake)
            return
        self._wanted = True
        if not self._busy:
            self._busy = True
            self._later(self._turns(), self._begin)

    def stop(self, timeout_s: float) -> bool:
        self._stopped = True
        report = self._unreported or self._work()
        while report is not None:
            report()
            report = self._work()
        return True

    def _later(self, turns: int, call: Callable[[], None]) -> None:
        if not self._stopped:
            self._loop.call_soon(call if turns == 0 else lambda: self._later(turns - 1, call))

    def _begin(self) -> None:
        if self._stopped:
            return
        self._wanted = False
        self._unreported = self._work()
        self._later(self._turns(), self._finish)

    def _finish(self) -> None:
        if self._stopped:
            return
        report, self._unreported = self._unreported, None
        if report is not None:
            report()
        self._busy = False
        if self._wanted:
            self.wake()


class LoopWorkers:
    """The same seed makes the same run."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def start(self, name: str, work: Work) -> Worker:
        return LoopWorker(work, lambda: self._random.randrange(4))
