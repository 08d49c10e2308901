"""Where the log's work is done must not matter: threads, and pieces on the event loop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from fault_disk import FaultDisk
from log_model import DIRECTORY, IDENTITY, contents, entry, recovered_contents
from loop_workers import LoopWorkers

from plasmacloud.base.errors import StorageError
from plasmacloud.storage import wal_pool
from plasmacloud.storage.entry import HardState
from plasmacloud.storage.wal import Wal
from plasmacloud.storage.wal_errors import DiskFull, WriteFailed
from plasmacloud.storage.workers import Report, ThreadWorker


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(bounded())


def open_on_the_loop(disk: FaultDisk, seed: int = 0) -> Wal:
    return Wal.open(
        DIRECTORY, identity=IDENTITY, disk=disk, workers=LoopWorkers(seed), segment_bytes=4096, window_bytes=1 << 20
    )


async def fill(wal: Wal, last: int, acknowledged: list[int]) -> None:
    for i in range(1, last + 1):
        wal.append(HardState(1, 0, i - 1), [entry(i)], lambda i=i: acknowledged.append(i))  # type: ignore[misc]
        if i % 3 == 0:
            await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(5))
def test_on_the_loop_everything_is_written_in_order_and_no_thread_is_started(seed: int) -> None:
    async def main() -> None:
        before = threading.active_count()
        disk, acknowledged = FaultDisk(seed), list[int]()
        wal = open_on_the_loop(disk, seed)
        await fill(wal, 200, acknowledged)
        assert len(acknowledged) < 200, "nothing was waited for"
        await until(lambda: len(acknowledged) == 200)
        assert acknowledged == list(range(1, 201))
        assert wal.metrics.groups < 200, "what gathers while a group is written is the next group"
        assert recovered_contents(disk.power_loss(lambda: False)) == contents(wal)
        wal.mark(190, 1, b"conf")
        wal.close()
        assert recovered_contents(disk).mark.index == 190
        assert threading.active_count() == before

    run(main)


def test_closing_writes_and_reports_what_was_under_way() -> None:
    async def main() -> None:
        disk, acknowledged = FaultDisk(), list[int]()
        wal = open_on_the_loop(disk)
        await fill(wal, 7, acknowledged)
        wal.close()
        assert acknowledged == list(range(1, 8))
        assert recovered_contents(disk).last_index == 7

    run(main)


def test_on_the_loop_the_first_failure_is_the_last_write_too() -> None:
    async def main() -> None:
        disk, acknowledged, fatal = FaultDisk(), list[int](), list[StorageError]()
        wal = open_on_the_loop(disk)
        wal.on_fatal = fatal.append
        await fill(wal, 3, acknowledged)
        await until(lambda: len(acknowledged) == 3)

        def fail_once(name: str, path: Path) -> None:
            if name == "fdatasync":
                disk.fault = lambda name, path: None
                raise OSError(5, "Input/output error")

        disk.fault = fail_once
        for i in range(4, 20):
            wal.append(None, [entry(i)], lambda i=i: acknowledged.append(i))  # type: ignore[misc]
        await until(lambda: bool(fatal))
        syncs = wal.metrics.syncs
        with pytest.raises(WriteFailed, match="Input/output"):
            wal.append(None, [entry(20)])
        wal.close()
        assert (acknowledged, len(fatal), wal.metrics.syncs) == ([1, 2, 3], 1, syncs)

    run(main)


def test_on_the_loop_a_full_disk_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_pool, "_RETRY_S", 0.001)

    async def main() -> None:
        disk, space = FaultDisk(), list[StorageError | None]()
        wal = open_on_the_loop(disk)
        wal.on_space = space.append
        disk.free_bytes = 100
        wal.append(None, [entry(1)])
        await until(lambda: bool(space))
        assert isinstance(space[0], DiskFull)
        disk.free_bytes = 10_000
        await until(lambda: len(space) == 2)
        assert space[1] is None
        wal.close()

    run(main)


def test_a_thread_does_a_piece_for_every_wake_that_comes_too_late_for_the_last() -> None:
    todo, done = list[int](), list[list[int]]()
    begun, go_on, reported = threading.Event(), threading.Event(), threading.Semaphore(0)

    def work() -> Report | None:
        piece, todo[:] = todo[:], []
        if not piece:
            return None
        begun.set()
        assert go_on.wait(10)
        done.append(piece)
        return reported.release

    worker = ThreadWorker("test", work)
    todo.append(1)
    worker.wake()
    assert begun.wait(10)
    todo.extend([2, 3])
    worker.wake()
    worker.wake()
    go_on.set()
    assert reported.acquire(timeout=10)
    assert reported.acquire(timeout=10)
    assert done == [[1], [2, 3]]
    todo.append(4)  # nobody is woken for it: the end finds it
    assert worker.stop(10)
    assert done == [[1], [2, 3], [4]]
    assert "test" not in [thread.name for thread in threading.enumerate()]


def test_a_thread_tries_again_after_the_time_that_its_report_has_named() -> None:
    tries: list[int] = []
    enough = threading.Event()

    def work() -> Report | None:
        tries.append(1)
        if len(tries) >= 3:
            enough.set()
            return None
        return lambda: worker.wake(0.001)

    worker = ThreadWorker("test", work)
    worker.wake()
    assert enough.wait(10)
    assert worker.stop(10)
