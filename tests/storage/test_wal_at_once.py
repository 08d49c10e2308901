"""Writing on the calling thread: when it happens, when it does not, and that it promises the same."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from fault_disk import FaultDisk
from log_model import DIRECTORY, IDENTITY, contents, entries, entry, open_wal

from plasmacloud.storage.entry import HardState
from plasmacloud.storage.wal import Wal
from plasmacloud.storage.wal_errors import InvalidAppend, WriteFailed


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(bounded())


def quick_wal(disk: FaultDisk, *, sync_s: float = 0.0, segment_bytes: int = 8192) -> Wal:
    """A log on a disk whose every write seems to take ``sync_s``."""
    clock = iter(range(10**6))
    return Wal.open(
        DIRECTORY, identity=IDENTITY, disk=disk, segment_bytes=segment_bytes, stopwatch=lambda: next(clock) * sync_s
    )


async def durable(wal: Wal) -> None:
    done = asyncio.Event()
    wal.append(None, [], done.set)
    await done.wait()


async def started(wal: Wal) -> Wal:
    wal.append(HardState(1, 1, 0), [entry(1, 1)])
    await durable(wal)
    return wal


def test_what_was_written_at_once_survives_a_power_loss() -> None:
    async def main() -> None:
        disk = FaultDisk()
        wal = await started(quick_wal(disk))
        assert wal.append_now(HardState(2, 3, 1), entries(2, 4, 2))
        assert wal.durable_index == 4
        before = contents(wal)
        survivor = disk.power_loss(lambda: False)
        again = open_wal(survivor)
        assert contents(again) == before
        assert again.hard_state == HardState(2, 3, 1)
        wal.close()

    run(main)


def test_not_before_the_log_is_in_use_nor_beside_a_write_under_way() -> None:
    async def main() -> None:
        wal = quick_wal(FaultDisk())
        assert not wal.append_now(None, [entry(1, 1)])
        assert wal.last_index() == 0, "nothing was changed"
        wal.append(HardState(1, 1, 0), [entry(1, 1)])
        assert not wal.append_now(None, [entry(2, 1)])
        assert wal.last_index() == 1
        await durable(wal)
        assert wal.append_now(None, [entry(2, 1)])
        wal.close()

    run(main)


def test_not_on_a_disk_that_was_slow_the_last_time() -> None:
    async def main() -> None:
        wal = await started(quick_wal(FaultDisk(), sync_s=0.5))
        assert not wal.append_now(None, [entry(2, 1)])
        wal.close()

    run(main)


def test_not_when_a_new_segment_has_to_be_opened() -> None:
    async def main() -> None:
        disk = FaultDisk()
        wal = await started(quick_wal(disk, segment_bytes=4096))
        at_once = 0
        for index in range(2, 60):
            fresh = [entry(index, 1, b"x" * 300)] if index % 2 else entries(index, index, 1, padding=300)
            if wal.append_now(None, fresh):
                at_once += 1
            else:
                wal.append(None, fresh)
                await durable(wal)
        assert 0 < at_once < 58, "both ways were taken"
        before = contents(wal)
        wal.close()
        assert contents(open_wal(disk)) == before

    run(main)


def test_a_failed_write_is_the_last_one() -> None:
    async def main() -> None:
        disk = FaultDisk()
        wal = await started(quick_wal(disk))

        def broken(operation: str, _path: object) -> None:
            if operation in ("pwritev", "fdatasync", "write_durably"):
                raise OSError(5, "Input/output error")

        disk.fault = broken
        with pytest.raises(WriteFailed):
            wal.append_now(None, [entry(2, 1)])
        disk.fault = lambda operation, path: None
        with pytest.raises(WriteFailed):
            wal.append_now(None, [entry(3, 1)])
        with pytest.raises(WriteFailed):
            wal.append(None, [entry(3, 1)])
        wal.close()

    run(main)


def test_what_cannot_follow_is_refused_as_ever() -> None:
    async def main() -> None:
        wal = await started(quick_wal(FaultDisk()))
        with pytest.raises(InvalidAppend):
            wal.append_now(None, [entry(9, 1)])
        assert wal.append_now(None, [entry(2, 1)])
        wal.close()

    run(main)
