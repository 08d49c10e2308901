"""What the log does when the disk, or the power, fails: nothing acknowledged is lost, nothing altered is believed."""

import itertools
import random
import struct
import zlib
from pathlib import Path

import pytest
from fault_disk import SECTOR, FaultDisk, PowerLoss
from hypothesis import given, settings
from hypothesis import strategies as st
from log_model import DIRECTORY, Contents, contents, entries, entry, open_wal, recovered_contents

from plasmacloud.base.errors import ConfigError, StorageError
from plasmacloud.storage.entry import Entry, HardState
from plasmacloud.storage.wal_errors import CorruptLog, UnsupportedFormat, WriteFailed
from plasmacloud.storage.wal_format import GROUP_HEADER_BYTES, encode_group_header, salt_seed

Step = tuple[HardState | None, list[Entry]]


def segment_paths(disk: FaultDisk) -> list[Path]:
    return sorted(path for path in disk.names if path.name.endswith(".wal"))


def small_log(disk: FaultDisk, *, close: bool = False) -> tuple[Contents, Contents]:
    """Two segments; the last group spans several sectors. Returns the contents without and with that group."""
    wal = open_wal(disk, segment_bytes=4096)
    for i in range(1, 8):
        wal.append_blocking(HardState(1, 3, i - 1), [entry(i)])
    wal.mark_blocking(2, 1, b"conf", keep=2)
    wal.append_blocking(HardState(2, 1, 7), entries(7 + 1, 9, 2))
    before = contents(wal)
    wal.append_blocking(HardState(3, 0xAB << 56, 9), entries(9, 12, 3, padding=300))  # no zeros at its end
    assert len(segment_paths(disk)) == 2
    after = contents(wal)
    if close:
        wal.close()
    disk.kill_process()
    return before, after


def last_group(disk: FaultDisk) -> tuple[Path, int, bytes]:
    """File, offset and bytes of the last group of an unsealed log."""
    path = segment_paths(disk)[-1]
    data = bytes(disk.names[path].data)
    start = data.rfind(b"PGRP")
    payload_bytes = struct.unpack_from("<I", data, start + 24)[0]
    return path, start, data[start : start + GROUP_HEADER_BYTES + payload_bytes]


# --- a process that ends between a write and its sync -----------------------------------------------------------------


def written_and_not_synced(disk: FaultDisk, *, failed: bool) -> Contents:
    """A log whose last group is in memory only. Returns what the next process reads. ``failed``: the sync failed."""
    wal = open_wal(disk, segment_bytes=4096)
    wal.append_blocking(HardState(1, 1, 0), entries(1, 4, 1))
    path = segment_paths(disk)[-1]

    def fault(operation: str, _path: Path) -> None:
        if operation == "fdatasync":
            raise OSError(5, "Input/output error") if failed else PowerLoss

    disk.fault = fault
    with pytest.raises(WriteFailed if failed else PowerLoss):
        wal.append_blocking(HardState(2, 3, 3), entries(4, 6, 2))
    disk.fault = lambda operation, path: None
    if failed:
        disk.names[path].unsynced.clear()  # the pages are clean now, and their contents on no disk
    disk.kill_process()
    found = recovered_contents(disk)
    assert found.hard_state == HardState(2, 3, 3)
    return found


@pytest.mark.parametrize("failed", [False, True], ids=["killed", "sync failed"])
def test_what_the_next_process_reads_is_durable_before_it_is_believed(failed: bool) -> None:
    disk = FaultDisk()
    found = written_and_not_synced(disk, failed=failed)
    assert recovered_contents(disk.power_loss(lambda: False)) == found


# --- power loss ------------------------------------------------------------------------------------------------------


def test_every_combination_of_sectors_of_the_last_group_is_all_or_nothing() -> None:
    disk = FaultDisk()
    before, after = small_log(disk)
    path, start, group = last_group(disk)
    sectors = -(-len(group) // SECTOR)
    assert 3 <= sectors <= 5
    whole = 0
    for kept in itertools.product([False, True], repeat=sectors):
        image = disk.copy()
        for number, keep in enumerate(kept):
            if not keep:
                at = start + number * SECTOR
                image.names[path].data[at : at + SECTOR] = bytes(SECTOR)
        found = recovered_contents(image)
        assert found == (after if all(kept) else before)
        whole += found == after
        assert recovered_contents(image) == found  # cutting changes nothing the second time
    assert whole == 1


@pytest.mark.parametrize("rest", ["zeros", "garbage"])
def test_a_last_group_torn_at_any_byte_is_cut(rest: str) -> None:
    disk = FaultDisk()
    before, _ = small_log(disk)
    path, start, group = last_group(disk)
    chance = random.Random(1)
    for cut in range(len(group)):
        image = disk.copy()
        size = len(group) - cut
        image.names[path].data[start + cut : start + len(group)] = (
            bytes(size) if rest == "zeros" else bytes(b ^ chance.randrange(1, 256) for b in group[cut:])
        )
        assert recovered_contents(image) == before


def test_what_was_cut_is_reported_and_gone() -> None:
    disk = FaultDisk()
    before, _ = small_log(disk)
    path, start, group = last_group(disk)
    disk.names[path].data[start + 100] ^= 1
    wal = open_wal(disk)
    torn = wal.recovery.torn
    assert torn is not None
    assert (torn.file, torn.offset, torn.torn_bytes) == (path.name, start, len(group))
    assert not any(disk.names[path].durable[start + SECTOR :])  # behind the empty group that opening writes
    wal.append_blocking(None, [entry(10, 5)])
    after = contents(wal)
    assert after.entries == (*before.entries, entry(10, 5).record)
    wal.close()
    again = open_wal(disk)
    assert again.recovery.torn is None
    assert contents(again) == after


def test_a_clients_value_that_looks_like_a_group_is_not_taken_for_one() -> None:
    """Otherwise a torn write of such a value would be called corruption, and the member would not start."""
    disk = FaultDisk()
    wal = open_wal(disk)
    wal.append_blocking(None, [entry(1)])
    before = contents(wal)
    fake = encode_group_header(salt_seed(0), 1, 99, 0, 0).ljust(SECTOR, b"\0")
    value = bytes(SECTOR - GROUP_HEADER_BYTES - len(entry(2).record) + len(entry(2).data)) + fake * 3
    path = segment_paths(disk)[0]
    start = 2 * SECTOR  # behind the segment header and the first group
    wal.append_blocking(None, [entry(2, data=value)])
    disk.kill_process()
    data = disk.names[path].data
    assert [at for at in range(start, len(data), SECTOR) if data[at:].startswith(b"PGRP")] == [
        start + n * SECTOR for n in range(4)
    ]
    data[start : start + SECTOR] = bytes(SECTOR)  # the true header is lost, the false ones are there
    assert recovered_contents(disk) == before


def steps(chance: random.Random) -> list[Step]:
    """A history with batches, votes and cuts."""
    history: list[Step] = []
    last, term = 0, 1
    for _ in range(14):
        first = last + 1
        if last and chance.random() < 0.25:
            first, term = last - chance.randrange(min(last, 3)), term + 1
        batch = entries(first, first + chance.randrange(5), term, padding=chance.choice([0, 0, 80, 600]))
        history.append((HardState(term, 1, 0) if chance.random() < 0.5 else None, batch))
        last = batch[-1].index
    return history


def expected_contents(history: list[Step]) -> list[Contents]:
    """The contents after 0, 1, 2, ... steps, by an independent calculation."""
    found = []
    log: list[Entry] = []
    state = HardState()
    for hard_state, batch in [(None, []), *history]:
        if batch:
            log = log[: batch[0].index - 1] + batch
        state = hard_state or state
        found.append(Contents(state, open_wal(FaultDisk()).log_mark, len(log), tuple(e.record for e in log)))
    return found


@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=400, deadline=None)
def test_what_was_acknowledged_survives_a_power_loss_at_any_moment(seed: int, data: st.DataObject) -> None:
    """Also during recovery, preparation and change of segments, twice in a row."""
    chance = random.Random(seed)
    history = steps(chance)
    expected = expected_contents(history)
    disk = FaultDisk(seed)
    disk.lose_power_at(data.draw(st.integers(1, 130), label="first power loss"))
    acknowledged = 0
    try:
        wal = open_wal(disk, segment_bytes=4096)
        for hard_state, batch in history:
            wal.append_blocking(hard_state, batch)
            acknowledged += 1
    except PowerLoss:
        pass
    disk = disk.power_loss()
    disk.lose_power_at(data.draw(st.integers(1, 60), label="second power loss"))
    try:
        open_wal(disk, segment_bytes=4096)
    except PowerLoss:
        pass
    found = recovered_contents(disk.power_loss())
    assert found in expected[acknowledged : acknowledged + 2]


def test_power_loss_at_every_operation_of_a_segment_change() -> None:
    """Exhaustive over the operations; the surviving sectors and names are drawn."""
    history = [(HardState(1, 2, 0), entries(i, i, 1, padding=700)) for i in range(1, 9)]
    expected = expected_contents([*history])
    count = 0
    while True:
        count += 1
        disk = FaultDisk(count)
        disk.lose_power_at(count)
        acknowledged = 0
        try:
            wal = open_wal(disk, segment_bytes=4096)
            for hard_state, batch in history:
                wal.append_blocking(hard_state, batch)
                acknowledged += 1
        except PowerLoss:
            for attempt in range(8):
                disk.random.seed(attempt)
                found = recovered_contents(disk.power_loss())
                assert found in expected[acknowledged : acknowledged + 2]
        else:
            break
    assert count > 30  # several segments were made on the way
    assert {"create", "zero_fill", "fsync", "rename", "sync_directory", "pwritev", "fdatasync"} <= {
        operation for operation, _ in disk.operations
    }


def test_removing_old_segments_survives_a_power_loss_at_every_operation() -> None:
    count = 0
    while True:
        count += 1
        disk = FaultDisk(count)
        wal = open_wal(disk, segment_bytes=4096)
        for i in range(1, 60):
            wal.append_blocking(HardState(1, 1, i), [entry(i)])
        disk.lose_power_at(count)
        try:
            wal.mark_blocking(50, 1, b"c")
        except PowerLoss:
            for attempt in range(4):
                disk.random.seed(attempt)
                found = recovered_contents(disk.power_loss())
                assert found.last_index == 59
                assert found.hard_state == HardState(1, 1, 59)
        else:
            break
    assert count > 6


# --- altered bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["killed", "closed", "killed and opened"])
def test_a_flipped_bit_anywhere_is_refused_or_without_effect(ending: str) -> None:
    """Only inside the last write before a kill may it look like a torn write and be cut."""
    disk = FaultDisk()
    before, after = small_log(disk, close=ending == "closed")
    sealed = ending != "killed"
    if ending == "killed and opened":
        open_wal(disk)
        disk.kill_process()
    path, start, group = last_group(disk)
    refused = cut = harmless = 0
    for target in segment_paths(disk):
        for at in range(len(disk.names[target].data)):
            image = disk.copy()
            image.names[target].data[at] ^= 1 << at % 8
            try:
                found = recovered_contents(image)
            except CorruptLog:
                refused += 1
                continue
            if found == after:
                harmless += 1
            else:
                assert not sealed
                assert found == before
                assert target == path
                assert start <= at < start + len(group)
                cut += 1
    assert refused > 1000
    assert harmless > 1000  # the zeros behind the last group
    assert cut == (0 if sealed else len(group))


def test_damage_in_the_middle_is_refused_with_a_message_to_act_on() -> None:
    disk = FaultDisk()
    small_log(disk)
    path = segment_paths(disk)[0]
    disk.names[path].data[1024 + 40] ^= 0x10
    with pytest.raises(CorruptLog) as caught:
        open_wal(disk)
    assert f"{path}, byte 1024" in str(caught.value)
    assert "a later group follows" in str(caught.value) or "newer segments exist" in str(caught.value)
    assert caught.value.hint is not None
    assert "move this directory away" in caught.value.hint
    assert "last surviving member" in caught.value.hint


def test_an_entry_damaged_after_the_start_is_noticed_when_it_is_read() -> None:
    disk = FaultDisk()
    wal = open_wal(disk, window_bytes=0)
    wal.append_blocking(None, entries(1, 20))
    path, start, _ = last_group(disk)
    disk.names[path].data[start + GROUP_HEADER_BYTES + 26] ^= 1
    assert wal.entries(2, 3, 100) == [entry(2)]
    with pytest.raises(CorruptLog, match="an entry that was acknowledged is damaged"):
        wal.entries(1, 3, 100)


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("remaining", [0, 100, 511, 512, 1500, 4095])
def test_a_truncated_segment_is_refused(victim: int, remaining: int) -> None:
    disk = FaultDisk()
    small_log(disk)
    path = segment_paths(disk)[victim]
    del disk.names[path].data[remaining:]
    with pytest.raises(CorruptLog, match=r"truncated|the file ends|header"):
        open_wal(disk)


def three_segments() -> FaultDisk:
    disk = FaultDisk()
    wal = open_wal(disk, segment_bytes=4096)
    for i in range(1, 20):
        wal.append_blocking(HardState(1, 1, i), [entry(i)])
    assert len(segment_paths(disk)) == 3
    disk.kill_process()
    return disk


@pytest.mark.parametrize(("victim", "message"), [(0, "is missing"), (1, "is missing")])
def test_a_missing_segment_is_refused(victim: int, message: str) -> None:
    disk = three_segments()
    del disk.names[segment_paths(disk)[victim]]
    with pytest.raises(CorruptLog, match=message):
        open_wal(disk)


def test_a_missing_newest_segment_cannot_be_noticed_by_one_member_alone() -> None:
    """Documents the limit: a whole suffix that vanished looks like a log that ended earlier."""
    disk = three_segments()
    del disk.names[segment_paths(disk)[2]]
    assert 0 < open_wal(disk).last_index() < 19


def test_the_lost_end_of_an_older_segment_is_noticed() -> None:
    disk = three_segments()
    path = segment_paths(disk)[0]
    data = disk.names[path].data
    start = data.rfind(b"PGRP")
    data[start:] = bytes(len(data) - start)
    with pytest.raises(CorruptLog, match="groups are missing or damaged"):
        open_wal(disk)


def test_a_segment_from_another_place_is_refused() -> None:
    disk = three_segments()
    first, second, _ = segment_paths(disk)
    disk.names[second] = disk.names[first]
    with pytest.raises(CorruptLog, match="renamed or copied"):
        open_wal(disk)


def test_half_prepared_segments_are_removed_and_other_files_left_alone() -> None:
    disk = three_segments()
    disk.create(DIRECTORY / "prepare-3.tmp").pwritev([b"half"], 0)
    disk.create(DIRECTORY / "notes.txt").pwritev([b"the operator's"], 0)
    assert recovered_contents(disk).last_index == 19
    assert DIRECTORY / "prepare-3.tmp" not in disk.names
    assert DIRECTORY / "notes.txt" in disk.names


def test_a_newer_format_is_refused_without_calling_it_damage() -> None:
    disk = FaultDisk()
    open_wal(disk).close()
    data = disk.names[segment_paths(disk)[0]].data
    struct.pack_into("<I", data, 12, 2)
    size_bytes = struct.unpack_from("<I", data, 16)[0]
    struct.pack_into("<I", data, 8, zlib.crc32(data[12:size_bytes]))
    with pytest.raises(UnsupportedFormat, match="format 2"):
        open_wal(disk)


@given(st.binary(max_size=3000))
@settings(deadline=None)
def test_a_file_of_garbage_is_refused(garbage: bytes) -> None:
    disk = FaultDisk()
    disk.create(DIRECTORY / "0000000001.wal").pwritev([garbage], 0)
    with pytest.raises((StorageError, ConfigError)):
        open_wal(disk)


# --- failing operations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["pwritev", "fdatasync"])
def test_a_failed_write_or_sync_ends_the_log_for_good(operation: str) -> None:
    disk = FaultDisk()
    wal = open_wal(disk)
    wal.append_blocking(None, entries(1, 5))
    calls = 0

    def fault(name: str, path: Path) -> None:
        nonlocal calls
        calls += 1
        if name == operation and calls < 10:
            raise OSError(5, "Input/output error")

    disk.fault = fault
    with pytest.raises(WriteFailed, match="Input/output error"):
        wal.append_blocking(None, [entry(6)])
    disk.fault = lambda name, path: None  # the disk "works" again
    tried = len(disk.operations)
    for _ in range(3):
        with pytest.raises(WriteFailed, match="Input/output error"):
            wal.append_blocking(None, [entry(7)])
    wal.close()
    assert [name for name, _ in disk.operations[tried:] if name != "close"] == []


def test_failing_reads_during_recovery_are_reported_as_such() -> None:
    disk = FaultDisk()
    small_log(disk)

    def fault(name: str, path: Path) -> None:
        if name == "pread":
            raise OSError(5, "Input/output error")

    image = disk.copy()
    image.fault = fault
    with pytest.raises(StorageError, match="Input/output error"):
        open_wal(image)
    image.fault = lambda name, path: None
    assert recovered_contents(image).last_index == 12
