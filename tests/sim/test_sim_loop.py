"""Virtual time: asyncio code runs unchanged on a simulated loop, and a process can stop, wait and die in it."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from plasmacloud.sim.clock import NS_PER_S, World
from plasmacloud.sim.disk import SimDisk
from plasmacloud.sim.loop import SimLoop
from plasmacloud.sim.network import Network, NetworkOptions
from plasmacloud.sim.process import DiskOptions, SimWorker, Workshop
from plasmacloud.sim.trace import Trace


class Machine:
    """A world with one process in it."""

    def __init__(self, rate: float = 1.0) -> None:
        self.world = World()
        network = Network(self.world, NetworkOptions(), random.Random(1), Trace(self.world), lambda _: True)
        self.disk = SimDisk(random.Random(2))
        self.workshop = Workshop(self.world, self.disk, DiskOptions(least_s=0.01, mean_s=0.0), random.Random(3))
        self.turns = 0
        self.loop = SimLoop(self.world, net=network, executor=self.workshop, on_turn=self.count, rate=rate)
        self.workshop.loop = self.loop

    def count(self) -> None:
        self.turns += 1

    def run(self, main: Coroutine[Any, Any, Any], seconds: float = 10.0) -> "asyncio.Task[Any]":
        tasks: list[asyncio.Task[Any]] = []
        self.loop.enter(lambda: tasks.append(self.loop.create_task(main)))
        self.world.run(round(seconds * NS_PER_S))
        return tasks[0]


def test_sleeping_takes_virtual_time_only() -> None:
    machine = Machine()
    loop = machine.loop

    async def main() -> list[float]:
        times = [loop.time()]
        await asyncio.sleep(3600)
        times.append(loop.time())
        async with asyncio.timeout(5):
            await asyncio.gather(asyncio.sleep(1), asyncio.sleep(2))
        times.append(loop.time())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.Event().wait()
        times.append(loop.time())
        return times

    task = machine.run(main(), 4000)
    assert task.result() == [0.0, 3600.0, 3602.0, 3602.5]
    assert machine.world.now_s == 4000


def test_a_clock_that_runs_fast_reaches_its_timers_early() -> None:
    machine = Machine(rate=1.01)

    async def main() -> int:
        await asyncio.sleep(1.01)
        return machine.world.now_ns

    assert machine.run(main()).result() == NS_PER_S


def test_everything_of_one_moment_is_one_turn() -> None:
    machine = Machine()
    seen: list[str] = []

    def event(name: str) -> None:
        seen.append(name)
        machine.loop.call_soon(seen.append, f"after {name}")

    for name in "ab":
        machine.world.at(5, machine.loop, event, name)
    machine.world.run(5)
    assert seen == ["a", "b", "after a", "after b"]
    assert machine.turns == 1


def test_blocking_calls_end_after_the_time_of_the_disk() -> None:
    machine = Machine()

    def fail() -> None:
        raise OSError("no")

    async def main() -> tuple[int, float]:
        result = await machine.loop.run_in_executor(None, lambda: 42)
        with pytest.raises(OSError, match="no"):
            await machine.loop.run_in_executor(None, fail)
        return result, machine.loop.time()

    result, time_s = machine.run(main()).result()
    assert result == 42
    assert time_s == pytest.approx(0.02)


def test_a_worker_does_one_piece_at_a_time_and_reports_behind_it() -> None:
    machine = Machine()
    queue = [1, 2, 3]
    done: list[tuple[int, float]] = []

    def work() -> Callable[[], None] | None:
        if not queue:
            return None
        item = queue.pop(0)
        return lambda: done.append((item, machine.world.now_s))

    worker = SimWorker(machine.workshop, work)
    worker.wake()
    worker.wake()
    machine.world.run(NS_PER_S)
    assert done == [(1, 0.01)]
    worker.wake()
    assert worker.stop(1.0)
    worker.wake()
    machine.world.run(2 * NS_PER_S)
    assert [item for item, _ in done] == [1, 2, 3]


def test_a_paused_process_misses_nothing_and_is_late() -> None:
    machine = Machine()
    woken: list[float] = []

    async def main() -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            woken.append(machine.loop.time())

    machine.world.at(NS_PER_S // 2, None, machine.loop.pause)
    machine.world.at(5 * NS_PER_S, None, machine.loop.resume)
    machine.run(main())
    assert woken == [5.0, 6.0, 7.0]


def test_a_dead_process_is_quiet() -> None:
    """Its coroutines end without a warning, even those that want to wait for something on their way out."""
    machine = Machine()
    said: list[str] = []

    async def main() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            said.append("on the way out")
            await asyncio.sleep(1)
            said.append("never")

    machine.world.at(NS_PER_S, None, machine.loop.kill)
    task = machine.run(main())
    assert said == ["on the way out"]
    assert not task.done()
    turns = machine.turns
    machine.loop.call_soon(said.append, "never")
    machine.loop.call_later(1.0, said.append, "never")
    machine.world.run(20 * NS_PER_S)
    assert machine.turns == turns
    assert said == ["on the way out"]


def test_an_exception_in_a_callback_is_kept_and_the_others_go_on() -> None:
    machine = Machine()
    seen: list[int] = []

    def fail() -> None:
        raise ValueError("defect")

    def event() -> None:
        machine.loop.call_soon(fail)
        machine.loop.call_soon(seen.append, 1)

    machine.world.at(1, machine.loop, event)
    machine.world.run(2)
    assert seen == [1]
    assert [str(context["exception"]) for context in machine.loop.errors] == ["defect"]


def test_no_loop_is_running_behind_a_run() -> None:
    machine = Machine()
    machine.run(asyncio.sleep(1))
    assert asyncio._get_running_loop() is None
