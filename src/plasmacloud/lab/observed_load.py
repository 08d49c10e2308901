"""What every rig does beside its own faults: record, tell the live display, and wait for what its clients see."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from plasmacloud.lab.plan import Plan
from plasmacloud.lab.recorder import Recorder
from plasmacloud.verify.events import AnyEvent, LoopStall, ServiceResumed

_TRAFFIC_S = 30.0
_TURN_S = 0.01
_STALL_S = 0.025


class Progress(msgspec.Struct):
    """What the live display shows about the scenario under way."""

    doing: str = ""
    trial: int = 0
    last_rto_ms: float | None = None


class Load(Protocol):
    """Clients that write, as far as they are waited for."""

    acknowledged: int
    newest_invoke_acknowledged_ns: int
    """When the newest of all acknowledged writes was sent."""

    async def wait(self, condition: Callable[[], bool], *, timeout: float) -> bool:
        """Wait until it holds; returns whether it did within ``timeout`` seconds."""


class ObservedLoad:
    """A plan that is carried out under load, and the record of it. ``trial`` is what events are counted for."""

    workload: Load

    def __init__(self, plan: Plan, recorder: Recorder) -> None:
        self.plan = plan
        self.recorder = recorder
        self.progress = Progress()
        self.trial = 0

    def record(self, make: Callable[..., AnyEvent], *, at_ns: int | None = None, **facts: object) -> AnyEvent:
        """Record an event of the current trial, now or at the given time."""
        event = make(at_ns=time.monotonic_ns() if at_ns is None else at_ns, trial=self.trial, **facts)
        self.recorder.event(event)
        return event

    def doing(self, what: str) -> None:
        """Tell the live display."""
        self.progress.doing = what

    async def traffic(self, count: int, *, timeout: float = _TRAFFIC_S) -> None:
        """Wait for ``count`` more acknowledged writes. Being late is not an error here: the judge counts."""
        target = self.workload.acknowledged + count
        await self.workload.wait(lambda: self.workload.acknowledged >= target, timeout=timeout)

    async def resumed(self, after_ns: int) -> bool:
        """Wait until a write that was sent after ``after_ns`` has been acknowledged; records it either way."""
        workload = self.workload
        ok = await workload.wait(
            lambda: workload.newest_invoke_acknowledged_ns > after_ns, timeout=self.plan.recovery_deadline_s
        )
        self.record(ServiceResumed, ok=ok, waited_ms=(time.monotonic_ns() - after_ns) / 1e6)
        return ok

    async def watch_stalls(self) -> None:
        """Record when the lab's own event loop was late: that limits what it can have measured. Never ends."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _TURN_S
            await asyncio.sleep(_TURN_S)
            late_s = loop.time() - due
            if late_s > _STALL_S:
                self.record(LoopStall, late_ms=late_s * 1e3)
