"""The log with its threads, on a disk that fails under it."""

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from fault_disk import FaultDisk
from log_model import ALL, contents, entries, entry, open_wal, recovered_contents

from plasmacloud.base.errors import StorageError
from plasmacloud.storage import wal_pool
from plasmacloud.storage.entry import Entry, HardState
from plasmacloud.storage.wal import Wal
from plasmacloud.storage.wal_errors import DiskFull, WriteFailed


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(bounded())


class Listener:
    """Records what the log reports on the event loop."""

    def __init__(self, wal: Wal) -> None:
        self.fatal: list[StorageError] = []
        self.space: list[StorageError | None] = []
        self.changed = asyncio.Event()
        wal.on_fatal = self._on_fatal
        wal.on_space = self._on_space

    def _on_fatal(self, error: StorageError) -> None:
        self.fatal.append(error)
        self.changed.set()

    def _on_space(self, error: StorageError | None) -> None:
        self.space.append(error)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


@pytest.mark.parametrize("operation", ["pwritev", "fdatasync"])
def test_a_failure_is_fatal_once_and_nothing_is_acknowledged_afterwards(operation: str) -> None:
    async def main() -> None:
        disk = FaultDisk()
        wal = open_wal(disk)
        listener = Listener(wal)
        acknowledged: list[int] = []
        started, release = threading.Event(), threading.Event()

        def fault(name: str, path: Path) -> None:
            if name == operation:
                started.set()
                assert release.wait(10)
                disk.fault = lambda name, path: None  # a second try would succeed: there must be none
                raise OSError(5, "Input/output error")

        wal.append(None, [entry(1)], lambda: acknowledged.append(1))
        while not acknowledged:
            await asyncio.sleep(0)
        disk.fault = fault
        for i in range(2, 10):
            wal.append(None, [entry(i)], lambda i=i: acknowledged.append(i))  # type: ignore[misc]
        await asyncio.to_thread(started.wait, 10)
        syncs = wal.metrics.syncs
        release.set()
        await listener.until(lambda: bool(listener.fatal))
        with pytest.raises(WriteFailed, match="Input/output error"):
            wal.append(None, [entry(10)])
        with pytest.raises(WriteFailed, match="Input/output error"):
            wal.append_blocking(None, [entry(10)])
        with pytest.raises(WriteFailed, match="Input/output error"):
            wal.mark(1, 1, b"")
        wal.close()
        for _ in range(5):
            await asyncio.sleep(0)
        assert acknowledged == [1]
        assert len(listener.fatal) == 1
        assert wal.metrics.syncs == syncs
        found = recovered_contents(disk.power_loss())
        assert 1 <= found.last_index < 10

    run(main)


def test_a_short_write_is_fatal_and_named() -> None:
    async def main() -> None:
        disk = FaultDisk()
        wal = open_wal(disk, segment_bytes=4096)
        listener = Listener(wal)
        disk.free_bytes = 1000
        acknowledged: list[int] = []
        wal.append(None, [entry(1, data=bytes(6000))], lambda: acknowledged.append(1))
        await listener.until(lambda: bool(listener.fatal))
        assert isinstance(listener.fatal[0], DiskFull)
        assert "took only" in str(listener.fatal[0])
        assert acknowledged == []
        wal.close()

    run(main)


def test_a_filling_disk_warns_before_it_kills_and_the_warning_ends_with_the_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wal_pool, "_RETRY_S", 0.02)

    async def main() -> None:
        disk = FaultDisk()
        wal = open_wal(disk, segment_bytes=4096)
        listener = Listener(wal)
        disk.free_bytes = 100
        acknowledged: list[int] = []

        def append(index: int) -> None:
            wal.append(HardState(1, 0, index - 1), [entry(index)], lambda: acknowledged.append(index))

        append(1)
        await listener.until(lambda: bool(listener.space))
        assert isinstance(listener.space[0], DiskFull)
        assert isinstance(wal.space_problem, DiskFull)
        for i in range(2, 6):  # reserved space is left in the segment
            append(i)
            while acknowledged[-1:] != [i]:
                await asyncio.sleep(0)
        assert listener.fatal == []
        disk.free_bytes = 20_000  # the operator makes room
        await listener.until(lambda: listener.space[-1] is None)
        assert wal.space_problem is None
        for i in range(6, 20):
            append(i)
            while acknowledged[-1:] != [i]:
                await asyncio.sleep(0)
        disk.free_bytes = 0
        last = 19
        while not listener.fatal:
            last += 1
            try:
                append(last)
            except WriteFailed:
                break
            await asyncio.sleep(0)
        await listener.until(lambda: bool(listener.fatal))
        assert isinstance(listener.fatal[0], DiskFull)
        assert acknowledged == list(range(1, len(acknowledged) + 1))
        wal.close()
        disk.free_bytes = None
        assert recovered_contents(disk).last_index >= acknowledged[-1]

    run(main)


def test_segments_stay_until_the_mark_that_lets_them_go_is_durable() -> None:
    async def main() -> None:
        disk = FaultDisk()
        wal = open_wal(disk, segment_bytes=4096)
        for i in range(1, 41):
            wal.append_blocking(HardState(1, 0, i), [entry(i)])
        segments = len(list(disk.names))
        assert segments > 3
        syncing, release = threading.Event(), threading.Event()

        def fault(name: str, path: Path) -> None:
            if name == "fdatasync":
                syncing.set()
                assert release.wait(10)

        disk.fault = fault
        wal.mark(40, 1, b"c")
        wal.compact(40)
        await asyncio.to_thread(syncing.wait, 10)
        assert wal.first_index() == 41
        assert sum(path.suffix == ".wal" for path in list(disk.names)) == segments
        lost = disk.power_loss(lambda: False)  # the mark did not make it
        assert recovered_contents(lost).last_index == 40
        release.set()
        wal.close()
        assert recovered_contents(disk).mark.index == 40
        assert sum(path.suffix == ".wal" for path in list(disk.names)) < segments

    run(main)


@pytest.mark.parametrize("seed", range(12))
def test_pipelined_appends_cuts_and_marks_against_a_list(seed: int) -> None:
    """Nothing waits for anything; reads must always show what was handed over, the disk what was acknowledged."""

    async def main() -> None:
        chance = random.Random(seed)
        disk = FaultDisk(seed)
        wal = open_wal(disk, segment_bytes=4096, window_bytes=2000)
        log: list[Entry] = []
        term, mark, acknowledged, requests = 1, 0, 0, 0

        def acknowledge(number: int) -> Callable[[], None]:
            def callback() -> None:
                nonlocal acknowledged
                assert number == acknowledged + 1
                acknowledged = number

            return callback

        for _ in range(400):
            action = chance.random()
            requests += 1
            if action < 0.85:
                first = len(log) + 1
                if action < 0.15 and len(log) > mark:
                    first, term = chance.randint(max(mark + 1, len(log) - 6), len(log)), term + 1
                batch = entries(first, first + chance.randrange(4), term, padding=chance.choice([0, 50, 800]))
                wal.append(HardState(term, 1, mark), batch, acknowledge(requests))
                log[first - 1 :] = batch
            else:
                mark = chance.randint(mark, max(mark, min(wal.durable_index, len(log))))
                mark_term = log[mark - 1].term if mark else 0
                wal.mark(mark, mark_term, b"%d" % mark, keep=chance.randrange(5), on_durable=acknowledge(requests))
            first = wal.first_index()
            assert first <= mark + 1
            assert wal.last_index() == len(log)
            if first <= len(log):
                lo = chance.randint(first, len(log))
                assert wal.entries(lo, len(log) + 1, ALL) == log[lo - 1 :]
                assert wal.term(lo) == log[lo - 1].term
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        while acknowledged < requests:
            await asyncio.sleep(0)
        assert wal.durable_index == len(log)
        assert wal.entries(wal.first_index(), len(log) + 1, ALL) == log[wal.first_index() - 1 :]
        expected = contents(wal)
        lost = disk.power_loss()
        assert recovered_contents(lost) == expected
        wal.close()

    run(main)
