"""The log as its users see it: append, read back, mark, compact, reopen."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from fault_disk import FaultDisk
from log_model import ALL, DIRECTORY, IDENTITY, contents, entries, entry, open_wal

from plasmacloud.base.errors import ConfigError
from plasmacloud.storage.entry import Compacted, HardState, Unavailable
from plasmacloud.storage.wal import Wal
from plasmacloud.storage.wal_errors import DirectoryInUse, InvalidAppend, WriteFailed, WrongIdentity
from plasmacloud.storage.wal_format import Identity, LogMark


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(bounded())


async def durable(wal: Wal) -> None:
    """Wait until everything appended so far is durable."""
    done = asyncio.Event()
    wal.append(None, [], done.set)
    await done.wait()


def test_a_new_log_is_empty_and_holds_the_initial_configuration(tmp_path: Path) -> None:
    mark = LogMark(0, 0, b"three voters")
    wal = Wal.open(tmp_path / "n1" / "wal", identity=IDENTITY, initial_mark=mark, segment_bytes=8192)
    assert (wal.first_index(), wal.last_index(), wal.term(0)) == (1, 0, 0)
    assert wal.recovery.created
    wal.close()
    wal = Wal.open(tmp_path / "n1" / "wal", identity=IDENTITY, segment_bytes=8192)
    assert wal.log_mark == mark
    assert wal.hard_state == HardState()
    assert not wal.recovery.created
    wal.close()


def test_what_was_appended_is_there_after_a_restart(tmp_path: Path) -> None:
    wal = Wal.open(tmp_path, identity=IDENTITY, segment_bytes=8192)
    wal.append_blocking(HardState(1, 7, 0), entries(1, 50, 1))
    wal.append_blocking(HardState(2, 3, 40), entries(51, 200, 2, padding=100))
    before = contents(wal)
    wal.close()
    wal = Wal.open(tmp_path, identity=IDENTITY, segment_bytes=8192)
    assert contents(wal) == before
    assert wal.hard_state == HardState(2, 3, 40)
    assert (wal.term(50), wal.term(51), wal.last_index()) == (1, 2, 200)
    assert wal.recovery.segments > 1
    assert wal.recovery.torn is None
    wal.close()


def test_an_entry_that_exists_cuts_the_log_there_also_after_a_restart() -> None:
    disk = FaultDisk()
    wal = open_wal(disk)
    wal.append_blocking(None, entries(1, 10, 1))
    wal.append_blocking(None, entries(6, 7, 2))
    before = contents(wal)
    assert (wal.last_index(), wal.term(5), wal.term(6)) == (7, 1, 2)
    wal.close()
    assert contents(open_wal(disk)) == before


@pytest.mark.parametrize(
    ("hard_state", "first", "last", "term"),
    [
        (None, 12, 12, 1),  # a gap
        (None, 11, 11, 0),  # no term
        (None, 3, 3, 1),  # below the mark
        (HardState(1, 0, 11), 11, 10, 1),  # commits what is not there
        (HardState(0, 0, 0), 11, 10, 1),  # the term goes back
    ],
)
def test_an_append_that_makes_no_sense_is_refused_and_changes_nothing(
    hard_state: HardState | None, first: int, last: int, term: int
) -> None:
    wal = open_wal(FaultDisk())
    wal.append_blocking(HardState(1, 2, 4), entries(1, 10))
    wal.mark_blocking(5, 1, b"")
    before = contents(wal)
    bad = [entry(first)._replace(term=term)] if first <= last else []
    with pytest.raises(InvalidAppend):
        wal.append_blocking(hard_state, bad)
    assert contents(wal) == before
    wal.append_blocking(None, [entry(11)])
    assert wal.last_index() == 11


def test_reads_outside_the_log_say_why() -> None:
    wal = open_wal(FaultDisk())
    wal.append_blocking(None, entries(1, 10))
    wal.mark_blocking(4, 1, b"")
    assert wal.term(4) == 1
    with pytest.raises(Compacted):
        wal.term(3)
    with pytest.raises(Compacted):
        wal.entries(4, 6, ALL)
    with pytest.raises(Unavailable):
        wal.term(11)
    with pytest.raises(Unavailable):
        wal.entries(9, 12, ALL)


def test_reads_respect_the_limit_but_return_at_least_one_entry() -> None:
    wal = open_wal(FaultDisk(), window_bytes=2000)
    batch = entries(1, 40, padding=100)
    wal.append_blocking(None, batch)
    size_bytes = batch[9].size_bytes
    in_memory = wal._index.window.first_index
    assert 1 < in_memory < 40
    for lo in (1, in_memory - 2, in_memory - 1, in_memory):  # on disk, across the border, in memory
        assert [e.index for e in wal.entries(lo, 41, 0)] == [lo]
        assert [e.index for e in wal.entries(lo, lo + 2, ALL)] == [lo, lo + 1]
    assert len(wal.entries(10, 41, 3 * size_bytes)) == 3
    assert len(wal.entries(10, 41, 4 * size_bytes - 1)) == 3
    assert wal.entries(1, 41, ALL) == batch


def test_a_large_entry_gets_a_segment_of_its_own_and_comes_back() -> None:
    disk = FaultDisk()
    wal = open_wal(disk, window_bytes=0)
    big = entry(2, data=bytes(range(256)) * 200)
    for e in (entry(1), big, entry(3)):
        wal.append_blocking(None, [e])
    assert wal.entries(1, 4, ALL) == [entry(1), big, entry(3)]
    wal.close()
    wal = open_wal(disk)
    assert wal.entries(1, 4, ALL) == [entry(1), big, entry(3)]


def test_callbacks_run_in_order_on_the_loop_and_only_when_durable(tmp_path: Path) -> None:
    async def main() -> None:
        wal = Wal.open(tmp_path, identity=IDENTITY, segment_bytes=8192)
        loop_thread = threading.get_ident()
        seen: list[int] = []

        def acknowledge(index: int) -> Callable[[], None]:
            def callback() -> None:
                assert threading.get_ident() == loop_thread
                assert wal.durable_index >= index
                seen.append(index)

            return callback

        for i in range(1, 301):
            kind = i % 3
            wal.append(HardState(1, 0, i - 1) if kind else None, [entry(i)], acknowledge(i))
            assert wal.last_index() == i
            assert wal.entries(i, i + 1, ALL) == [entry(i)]
            if kind == 0:
                wal.append(None, [], acknowledge(i))
                wal.append(HardState(1, 1, i), [], acknowledge(i))
                await asyncio.sleep(0)
        await durable(wal)
        assert seen == sorted(seen)
        assert len(seen) == 500
        assert wal.metrics.syncs >= wal.metrics.groups > 0
        before = contents(wal)
        wal.close()
        wal = Wal.open(tmp_path, identity=IDENTITY, segment_bytes=8192)
        assert contents(wal) == before
        wal.close()

    run(main)


def test_everything_queued_during_a_sync_becomes_one_group() -> None:
    async def main() -> None:
        disk = FaultDisk()
        wal = open_wal(disk, segment_bytes=65536)
        wal.append(None, [entry(1)])
        await durable(wal)
        syncing, release = threading.Event(), threading.Event()

        def fault(operation: str, path: Path) -> None:
            if operation == "fdatasync":
                syncing.set()
                assert release.wait(10)

        disk.fault = fault
        groups = wal.metrics.groups
        seen: list[int] = []
        wal.append(None, [entry(2)], lambda: seen.append(2))
        await asyncio.to_thread(syncing.wait, 10)
        for i in range(3, 53):
            wal.append(None, [entry(i)], lambda i=i: seen.append(i))  # type: ignore[misc]
        assert seen == []
        assert wal.durable_index == 1
        release.set()
        await durable(wal)
        assert seen == list(range(2, 53))
        assert wal.metrics.groups == groups + 2
        wal.close()

    run(main)


def test_cutting_the_log_while_older_writes_are_under_way() -> None:
    async def main() -> None:
        disk = FaultDisk()
        wal = open_wal(disk, window_bytes=0)
        gate = threading.Semaphore(0)
        disk.fault = lambda operation, path: None if operation != "fdatasync" else _must(gate.acquire(timeout=10))
        wal.append(None, entries(1, 5, 1))
        wal.append(None, entries(6, 10, 1))
        wal.append(None, entries(8, 12, 2))  # cuts the second
        wal.append(None, entries(4, 4, 3))  # cuts the first, and all others
        wal.append(None, entries(5, 9, 3))
        expected = entries(1, 3, 1) + entries(4, 9, 3)
        assert wal.entries(1, 10, ALL) == expected
        for _ in range(20):
            gate.release()
        await durable(wal)
        assert wal.durable_index == 9
        assert wal.entries(1, 10, ALL) == expected
        assert wal._index.window.first_index == 10  # so they came from the disk
        wal.close()
        assert contents(open_wal(disk)).entries == tuple(e.record for e in expected)

    run(main)


def _must(ok: bool) -> None:
    assert ok


def test_a_failing_callback_does_not_lose_the_others(tmp_path: Path) -> None:
    async def main() -> None:
        wal = Wal.open(tmp_path, identity=IDENTITY, segment_bytes=8192)
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        seen: list[int] = []
        wal.append(None, [entry(1)], lambda: seen.append(1 // 0))
        wal.append(None, [entry(2)], lambda: seen.append(2))
        await durable(wal)
        assert seen == [2]
        assert isinstance(complaints[0]["exception"], ZeroDivisionError)
        wal.close()

    run(main)


def test_a_mark_lets_entries_and_segments_go_but_keeps_what_was_asked_for() -> None:
    disk = FaultDisk()
    wal = open_wal(disk, segment_bytes=4096)
    for i in range(1, 101):
        wal.append_blocking(HardState(1, 0, i), [entry(i)])
    segments, size_bytes = len(disk.names), wal.size_bytes()
    assert segments > 5
    wal.mark_blocking(80, 1, b"c80", keep=30)
    assert (wal.first_index(), wal.last_index()) == (51, 100)
    assert wal.log_mark == LogMark(80, 1, b"c80")
    assert [e.index for e in wal.entries(51, 101, ALL)] == list(range(51, 101))
    assert len(disk.names) < segments
    assert wal.size_bytes() < size_bytes
    wal.compact(90)  # not beyond the mark
    assert wal.first_index() == 81
    wal.mark_blocking(100, 1, b"c100")
    assert (wal.first_index(), wal.last_index(), wal.term(100)) == (101, 100, 1)
    assert len(disk.names) >= 1
    wal.close()
    wal = open_wal(disk, segment_bytes=4096)
    assert contents(wal) == (HardState(1, 0, 100), LogMark(100, 1, b"c100"), 100, ())
    wal.append_blocking(None, [entry(101, 2)])
    assert wal.term(101) == 2


def test_a_mark_behind_the_end_replaces_the_log_as_a_snapshot_does() -> None:
    disk = FaultDisk()
    wal = open_wal(disk, segment_bytes=4096)
    wal.append_blocking(HardState(1, 0, 10), entries(1, 60))
    wal.mark_blocking(500, 3, b"snapshot")
    assert (wal.first_index(), wal.last_index(), wal.term(500)) == (501, 500, 3)
    wal.append_blocking(HardState(3, 0, 500), entries(501, 505, 3))
    before = contents(wal)
    wal.close()
    wal = open_wal(disk, segment_bytes=4096)
    assert contents(wal) == before
    assert wal.first_index() == 501


def test_a_mark_of_another_term_than_the_entry_replaces_the_log() -> None:
    disk = FaultDisk()
    wal = open_wal(disk)
    wal.append_blocking(None, entries(1, 60, 1))
    wal.mark_blocking(50, 2, b"")
    assert (wal.first_index(), wal.last_index(), wal.term(50)) == (51, 50, 2)
    wal.close()
    assert contents(open_wal(disk)) == (HardState(), LogMark(50, 2, b""), 50, ())


def test_a_snapshot_mark_overtakes_writes_under_way() -> None:
    async def main() -> None:
        disk = FaultDisk()
        wal = open_wal(disk, window_bytes=0)
        wal.append(None, entries(1, 30, 1))
        wal.mark(100, 4, b"s")
        wal.append(HardState(4, 0, 100), entries(101, 110, 4))
        assert wal.entries(101, 111, ALL) == entries(101, 110, 4)
        await durable(wal)
        before = contents(wal)
        assert before.entries == tuple(e.record for e in entries(101, 110, 4))
        wal.close()
        assert contents(open_wal(disk)) == before

    run(main)


def test_marks_never_go_back() -> None:
    wal = open_wal(FaultDisk())
    wal.append_blocking(None, entries(1, 10))
    wal.mark_blocking(5, 1, b"")
    with pytest.raises(InvalidAppend, match="cannot go back"):
        wal.mark_blocking(4, 1, b"")
    wal.mark_blocking(5, 1, b"other conf")
    assert wal.log_mark.conf == b"other conf"


def test_a_second_process_is_locked_out_and_told_by_whom(tmp_path: Path) -> None:
    wal = Wal.open(tmp_path, identity=IDENTITY, segment_bytes=8192)
    with pytest.raises(DirectoryInUse, match=f"in use by process {os.getpid()}"):
        Wal.open(tmp_path, identity=IDENTITY, segment_bytes=8192)
    wal.close()
    Wal.open(tmp_path, identity=IDENTITY, segment_bytes=8192).close()


def test_another_members_directory_is_refused_and_not_left_locked() -> None:
    disk = FaultDisk()
    open_wal(disk).close()
    with pytest.raises(WrongIdentity, match="belongs to cluster c1, member 7, not to cluster c1, member 8"):
        Wal.open(DIRECTORY, identity=Identity(0xC1, 8), disk=disk)
    open_wal(disk).close()


def test_impossible_segment_sizes_are_refused(tmp_path: Path) -> None:
    for size_bytes in (0, 4097, 1 << 31):
        with pytest.raises(ConfigError):
            Wal.open(tmp_path, identity=IDENTITY, segment_bytes=size_bytes)


def test_close_writes_what_is_queued_and_nothing_can_be_appended_afterwards() -> None:
    async def main() -> None:
        disk = FaultDisk()
        wal = open_wal(disk)
        seen: list[int] = []
        for i in range(1, 20):
            wal.append(None, [entry(i)], lambda i=i: seen.append(i))  # type: ignore[misc]
        wal.close()
        assert seen == list(range(1, 20))
        with pytest.raises(InvalidAppend, match="closed"):
            wal.append(None, [entry(20)])
        wal.close()
        assert open_wal(disk).last_index() == 19

    run(main)


def test_close_gives_up_after_its_deadline_and_keeps_the_directory_locked() -> None:
    async def main() -> None:
        disk = FaultDisk()
        wal = open_wal(disk)
        wal.append(None, [entry(1)])
        await durable(wal)
        release = threading.Event()
        disk.fault = lambda operation, path: _must(operation != "fdatasync" or release.wait(10))
        wal.append(None, [entry(2)])
        with pytest.raises(WriteFailed, match=r"within 0\.01 s"):
            wal.close(timeout_s=0.01)
        with pytest.raises(DirectoryInUse):
            open_wal(disk)
        release.set()

    run(main)


def test_blocking_appends_keep_their_place_among_the_others(tmp_path: Path) -> None:
    async def main() -> None:
        wal = Wal.open(tmp_path, identity=IDENTITY, segment_bytes=8192)
        seen: list[int] = []
        wal.append(None, [entry(1)], lambda: seen.append(1))
        wal.append_blocking(HardState(1, 1, 1), [entry(2)])
        assert seen == [1]
        assert wal.durable_index == 2
        wal.mark_blocking(1, 1, b"")
        wal.append(None, [entry(3)])
        await durable(wal)
        wal.close()

    run(main)


def test_a_group_beyond_the_end_of_its_segment_may_have_lost_its_padding(tmp_path: Path) -> None:
    """A crash in the middle of a write that makes the file longer leaves the group whole and the file unaligned."""
    wal = Wal.open(tmp_path / "before", identity=IDENTITY, segment_bytes=8192)
    wal.append_blocking(HardState(1, 7, 0), entries(1, 3, 1))
    wal.append_blocking(None, entries(4, 40, 1, padding=300))
    before = contents(wal)
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for segment in sorted((tmp_path / "before").glob("*.wal")):
        (crashed / segment.name).write_bytes(segment.read_bytes())
    wal.close()
    newest = crashed / segment.name
    whole = newest.read_bytes()
    newest.write_bytes(whole.rstrip(b"\0"))
    assert 8192 < newest.stat().st_size < len(whole)
    for _ in range(2):
        wal = Wal.open(crashed, identity=IDENTITY, segment_bytes=8192)
        assert contents(wal) == before
        wal.close()
