"""Waits of less than a millisecond, on both loops."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from plasmacloud.base.alarm import Alarm, AlarmFactory, KernelAlarm, LoopAlarm, best_alarm

DEADLINE_S = 20.0
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    runner: Run = request.param
    return runner


async def ringing(make: AlarmFactory, use: Callable[[Alarm], None]) -> float:
    """Seconds until the alarm rang."""
    rang = asyncio.Event()
    alarm = make(rang.set)
    start = time.monotonic()
    try:
        use(alarm)
        async with asyncio.timeout(DEADLINE_S):
            await rang.wait()
        return time.monotonic() - start
    finally:
        alarm.close()


def test_the_kernels_alarm_rings_when_it_is_time_and_not_before(run: Run) -> None:
    async def main() -> None:
        for delay_s in (0.0, 0.0003, 0.002, 0.0003):
            assert await ringing(KernelAlarm, lambda alarm, delay_s=delay_s: alarm.set(delay_s)) >= delay_s  # type: ignore[misc]

    run(main())


@pytest.mark.parametrize("make", [KernelAlarm, LoopAlarm])
def test_the_last_word_counts(run: Run, make: AlarmFactory) -> None:
    def use(alarm: Alarm) -> None:
        alarm.set(0.0005)
        alarm.cancel()
        alarm.set(3600.0)
        alarm.set(0.02)

    async def main() -> None:
        assert await ringing(make, use) >= 0.019  # a loop may count in milliseconds

    run(main())


@pytest.mark.parametrize("make", [KernelAlarm, LoopAlarm])
def test_it_rings_once(run: Run, make: AlarmFactory) -> None:
    async def main() -> None:
        rung: list[str] = []
        one, other = make(lambda: rung.append("one")), make(lambda: rung.append("other"))
        one.set(0.001)
        async with asyncio.timeout(DEADLINE_S):
            for count in range(1, 4):
                other.set(0.005)
                while rung.count("other") < count:
                    await asyncio.sleep(0.001)
        assert rung.count("one") == 1
        one.close()
        other.close()

    run(main())


@pytest.mark.parametrize("make", [KernelAlarm, LoopAlarm])
def test_a_cancelled_one_is_silent_also_when_it_was_due(run: Run, make: AlarmFactory) -> None:
    async def main() -> None:
        rung: list[str] = []
        one, other = make(lambda: rung.append("one")), make(lambda: rung.append("other"))
        one.set(0.001)
        time.sleep(0.01)  # it is due, and the loop has not looked
        one.cancel()
        other.set(0.001)
        async with asyncio.timeout(DEADLINE_S):
            while not rung:
                await asyncio.sleep(0.001)
        assert rung == ["other"]
        one.close()
        other.close()

    run(main())


def test_a_closed_one_keeps_nothing_open_and_can_be_closed_again(run: Run) -> None:
    async def main() -> None:
        before = set(os.listdir("/proc/self/fd"))
        alarm = KernelAlarm(lambda: pytest.fail("rang"))
        alarm.set(0.0)
        alarm.close()
        alarm.close()
        alarm.set(0.0)
        alarm.cancel()
        await asyncio.sleep(0.005)
        assert set(os.listdir("/proc/self/fd")) == before

    run(main())


def test_an_alarm_that_the_kernel_refuses_to_set_rings_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(alarm: Alarm) -> None:
        monkeypatch.setattr(alarm, "_settime", lambda *_: -1)
        alarm.set(3600.0)

    async def main() -> None:
        await ringing(KernelAlarm, use)

    run(main())


def test_where_the_kernel_has_none_the_loops_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoTimers:
        def __init__(self, *_: object, **__: object) -> None:
            pass

    async def main() -> None:
        assert isinstance(best_alarm(lambda: None), KernelAlarm)
        monkeypatch.setattr("ctypes.CDLL", NoTimers)
        assert isinstance(best_alarm(lambda: None), LoopAlarm)

    asyncio.run(main())
