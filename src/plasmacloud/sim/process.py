"""Blocking work of a simulated process: it takes drawn time, and the process may die in the middle of it.

A piece of work happens at one moment: that of a worker in the middle of its time, at the end of which it is reported,
and any other at its end. If the process ends before, a part of the piece may have happened all the same: it is carried
out then, with a disk that dies at one of its operations.
"""

import random
from collections.abc import Callable
from typing import Any

import msgspec

from plasmacloud.sim.clock import NS_PER_S, World
from plasmacloud.sim.disk import PowerLoss, SimDisk
from plasmacloud.sim.loop import SimLoop
from plasmacloud.storage.workers import Report, Work, Worker

_MAX_CUT_STEPS = 12
_CUT_RATE = 0.5  # most pieces have two operations, a write and its sync


class DiskOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How long the disk takes for a piece of work: at least, and the mean of what comes on top. Seconds."""

    least_s: float = 0.0001
    mean_s: float = 0.0004


class Job:
    """A piece of work under way."""

    __slots__ = ("call", "finished", "is_done", "share")

    def __init__(
        self,
        call: Callable[[], Any],
        finished: Callable[[Any, BaseException | None], None] | None = None,
        *,
        share: float = 1.0,
        is_done: bool = False,
    ) -> None:
        """``share``: of the time that the disk takes. ``is_done``: there is only to be told that it is."""
        self.call = call
        self.finished = finished
        self.share = share
        self.is_done = is_done


class Workshop:
    """Everything of one process that happens beside its event loop."""

    def __init__(self, world: World, disk: SimDisk, options: DiskOptions, rng: random.Random) -> None:
        self.loop: SimLoop | None = None  # set as soon as there is one
        self.factor = 1.0
        self.disk = disk
        self._world = world
        self._options = options
        self._rng = rng
        self._jobs: dict[Job, None] = {}
        self.on_begin: Callable[[float], None] | None = None  # told once how long the next piece will take

    def submit(self, call: Callable[[], Any], finished: Callable[[Any, BaseException | None], None]) -> None:
        """Carry out a call, for `SimLoop.run_in_executor`."""
        self.schedule(Job(call, finished), 0.0)

    def schedule(self, job: Job, after_s: float) -> None:
        """A piece of work begins so late, and ends some time after."""
        options = self._options
        takes_s = (options.least_s + options.mean_s * self._rng.expovariate(1.0)) * self.factor
        delay_s = after_s + takes_s * job.share
        self._jobs[job] = None
        if self.on_begin is not None:
            on_begin, self.on_begin = self.on_begin, None
            on_begin(delay_s)
        self._world.at(self._world.now_ns + round(delay_s * NS_PER_S), self.loop, self._run, job)

    def _run(self, job: Job) -> None:
        if job not in self._jobs:
            return
        del self._jobs[job]
        try:
            result = job.call()
        except PowerLoss:
            return  # nobody is left to be told
        except Exception as error:
            if job.finished is None:
                raise
            job.finished(None, error)
            return
        if job.finished is not None:
            job.finished(result, None)

    def set_factor(self, factor: float) -> None:
        """The disk is so many times slower than usual from now on; what waited for a slower one does not wait on."""
        faster, self.factor = factor < self.factor, factor
        for job in list(self._jobs) if faster else ():
            self.schedule(job, 0.0)

    def cancel(self, job: Job) -> None:
        """It is not wanted any more."""
        self._jobs.pop(job, None)

    def die(self) -> None:
        """The process ends: some of what was under way has happened, some has begun, the rest has not."""
        jobs, self._jobs = list(self._jobs), {}
        rng = self._rng
        rng.shuffle(jobs)
        for job in jobs:
            fate = rng.random()
            if fate < 0.3 or job.is_done:
                continue
            self.disk.cut_after(min(int(rng.expovariate(_CUT_RATE)), _MAX_CUT_STEPS) if fate < 0.8 else None)
            try:
                job.call()
            except BaseException:  # noqa: BLE001, S110 - nobody is left to be told
                pass
        self.disk.end()


class SimWorker:
    """Implements `Worker`."""

    def __init__(self, workshop: Workshop, work: Work) -> None:
        self._workshop = workshop
        self._work = work
        self._job: Job | None = None
        self._report: Report | None = None  # of the piece that has happened
        self._woken = False  # while the piece before was about to be reported
        self._deferred = False  # the job waits for a time set by `wake`
        self._stopped = False

    def wake(self, after_s: float = 0.0) -> None:
        if self._stopped:
            return
        if self._job is not None and self._deferred and after_s <= 0:
            self._workshop.cancel(self._job)
            self._job = None
        if self._report is not None:
            self._woken = self._woken or after_s <= 0
            return
        if self._job is not None:
            return  # it will find everything that is there at its end
        self._deferred = after_s > 0
        self._job = Job(self._piece, share=0.5)
        self._workshop.schedule(self._job, after_s)

    def _piece(self) -> None:
        """What comes to be done between here and the report is for the next piece."""
        self._job, self._deferred = None, False
        self._report = self._work()
        if self._report is not None:
            self._job = Job(self._tell, share=0.5, is_done=True)
            self._workshop.schedule(self._job, 0.0)

    def _tell(self) -> None:
        self._job = None
        report, self._report = self._report, None
        woken, self._woken = self._woken, False
        if report is not None:
            report()
        if woken:
            self.wake()

    def stop(self, timeout_s: float) -> bool:
        del timeout_s
        self._stopped = True
        if self._job is not None:
            self._workshop.cancel(self._job)
            self._tell()
        while (report := self._work()) is not None:
            report()
        return True


class SimWorkers:
    """Implements `Workers`."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    def start(self, name: str, work: Work) -> Worker:
        del name
        return SimWorker(self._workshop, work)
