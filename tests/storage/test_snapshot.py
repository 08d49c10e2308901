"""Snapshots: one moment, whole or absent, and any altered byte is noticed."""

import hashlib
import random
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from fault_disk import FaultDisk, PowerLoss
from hypothesis import given, settings
from hypothesis import strategies as st

from plasmacloud.base.errors import StorageError
from plasmacloud.storage.pinned import PinLost
from plasmacloud.storage.snapshot import (
    DamagedSnapshot,
    SnapshotInfo,
    SnapshotReader,
    read_info,
    restore_state,
    valid_prefix,
    verify,
    write_snapshot,
)
from plasmacloud.storage.snapshot_format import encode_block
from plasmacloud.storage.state import CorruptState, StateStore
from plasmacloud.storage.wal_errors import DiskFull, WriteFailed
from plasmacloud.storage.wal_format import Identity, LogMark

SMALL_MAP_BYTES = 1 << 20
IDENTITY = Identity(0xC1, 7)
OTHER = Identity(0xC1, 8)


def describe(meta: Mapping[str, bytes]) -> LogMark:
    """The tests keep the applied index under "applied"."""
    return LogMark(int(meta["applied"]), 3, b"conf")


def filled(path: Path, count: int, size_bytes: int = 100, map_bytes: int = SMALL_MAP_BYTES) -> StateStore:
    store = StateStore.open(path, identity=IDENTITY, map_bytes=map_bytes)
    store.commit(records(0, count, size_bytes), [], {"applied": b"1", "sessions": b"all of them"})
    return store


def records(first: int, count: int, size_bytes: int = 100) -> list[tuple[bytes, bytes]]:
    return [(b"%012d" % i, random.Random(i).randbytes(size_bytes)) for i in range(first, first + count)]


def take(store: StateStore, path: Path, **options: object) -> SnapshotInfo:
    return write_snapshot(store, path, cluster_id=0xC1, describe=describe, **options)  # type: ignore[arg-type]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A snapshot of a few blocks."""
    store = filled(tmp_path / "state", 4500, 200, map_bytes=1 << 24)
    take(store, tmp_path / "snapshot")
    store.close()
    return tmp_path / "snapshot"


# --- there and back --------------------------------------------------------------------------------------------------


def test_a_snapshot_comes_back_as_an_equal_store_of_another_member(tmp_path: Path) -> None:
    store = filled(tmp_path / "state", 5000)
    info = take(store, tmp_path / "snapshot")
    assert (info.cluster_id, info.index, info.term, info.conf) == (0xC1, 1, 3, b"conf")
    assert info.meta == {"applied": b"1", "sessions": b"all of them"}
    assert info.records == 5000
    assert info.size_bytes == (tmp_path / "snapshot").stat().st_size
    assert info.mark == LogMark(1, 3, b"conf")
    assert read_info(tmp_path / "snapshot") == verify(tmp_path / "snapshot") == info

    assert restore_state(tmp_path / "snapshot", tmp_path / "restored", identity=OTHER) == info
    restored = StateStore.open(tmp_path / "restored", identity=OTHER)
    assert list(restored.scan()) == list(store.scan())
    assert restored.meta("sessions") == b"all of them"
    restored.close()
    store.close()


def test_equal_states_give_equal_files_whatever_their_history(tmp_path: Path) -> None:
    store = filled(tmp_path / "state", 500)
    other = StateStore.open(tmp_path / "other", identity=OTHER)
    other.commit(records(100, 700), [], {"sessions": b"all of them"})
    other.commit(records(0, 100), [key for key, _ in records(500, 300)], {"applied": b"1"})
    first, second = take(store, tmp_path / "a"), take(other, tmp_path / "b")
    assert first == second
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    store.close()
    other.close()


@pytest.mark.parametrize("count", [0, 1, 257, 4000])
def test_the_size_is_the_one_by_which_etcdctl_recognises_a_hash_at_the_end(tmp_path: Path, count: int) -> None:
    store = filled(tmp_path / "state", count)
    info = take(store, tmp_path / "snapshot")
    data = (tmp_path / "snapshot").read_bytes()
    assert len(data) % 512 == 32
    assert hashlib.sha256(data[:-32]).digest() == data[-32:] == info.sha256
    assert verify(tmp_path / "snapshot").records == count
    store.close()


@given(st.dictionaries(st.binary(min_size=1, max_size=511), st.binary(max_size=2000), max_size=30))
@settings(max_examples=30, deadline=None)
def test_any_records_survive_the_way_through_a_file(
    tmp_path_factory: pytest.TempPathFactory, kv: dict[bytes, bytes]
) -> None:
    directory = tmp_path_factory.mktemp("any")
    store = StateStore.open(directory / "state", identity=IDENTITY, map_bytes=SMALL_MAP_BYTES)
    store.commit(list(kv.items()), [], {"applied": b"9"})
    take(store, directory / "snapshot")
    restore_state(directory / "snapshot", directory / "restored", identity=OTHER)
    restored = StateStore.open(directory / "restored", map_bytes=SMALL_MAP_BYTES)
    assert dict(restored.scan()) == kv
    restored.close()
    store.close()


def test_restored_for_a_new_cluster_the_named_values_can_be_others(tmp_path: Path, small: Path) -> None:
    restore_state(small, tmp_path / "r", identity=OTHER, change_meta=lambda info: {"applied": b"%d" % (info.index + 1)})
    restored = StateStore.open(tmp_path / "r")
    assert restored.meta("applied") == b"2"
    assert restored.meta("sessions") is None
    restored.close()


# --- one moment ------------------------------------------------------------------------------------------------------


def test_commits_that_finish_meanwhile_are_not_in_the_snapshot_and_its_index_is_of_its_records(tmp_path: Path) -> None:
    store = filled(tmp_path / "state", 6000, map_bytes=1 << 26)
    commits = 0

    def commit(_: int) -> None:
        nonlocal commits
        commits += 1
        at = b"%d" % (commits + 1)
        store.commit(records(commits * 10_000, 50), [key for key, _ in records(5950 - commits, 1)], {"applied": at})

    before = list(store.scan())
    info = take(store, tmp_path / "snapshot", pace=commit)
    assert commits > 2
    assert info.index == 1
    with SnapshotReader(tmp_path / "snapshot") as reader:
        assert [(key, sealed[:-4]) for chunk in reader.chunks() for key, sealed in chunk] == before
    assert take(store, tmp_path / "next").index == commits + 1
    store.close()


def test_snapshots_beside_a_committing_thread_are_each_one_checkpoint(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path / "state", map_bytes=SMALL_MAP_BYTES)  # it has to grow, too
    store.commit([], [], {"applied": b"0"})
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            puts = [(b"%06d/%03d" % (number % 40, i), b"%d" % number * 20) for i in range(100)]
            store.commit([*puts, (b"now", b"%d" % number)], [], {"applied": b"%d" % number})

    writer = threading.Thread(target=write)
    writer.start()
    whole = 0
    try:
        while whole < 20:
            try:
                info = take(store, tmp_path / "snapshot")
            except PinLost:
                continue  # the map grew
            with SnapshotReader(tmp_path / "snapshot") as reader:
                found = {key: sealed[:-4] for chunk in reader.chunks() for key, sealed in chunk}
            assert int(found.get(b"now", b"0")) == info.index
            for number in range(max(info.index - 39, 1), info.index + 1):
                assert found[b"%06d/000" % (number % 40)] == found[b"%06d/099" % (number % 40)] == b"%d" % number * 20
            whole += 1
    finally:
        stop.set()
        writer.join()
    store.close()


def test_a_store_that_must_grow_does_not_wait_for_a_snapshot(tmp_path: Path) -> None:
    store = filled(tmp_path / "state", 4000)
    grown = False

    def commit_much(_: int) -> None:
        nonlocal grown
        grown = True
        store.commit(records(10_000, 30_000), [], {"applied": b"2"})

    with pytest.raises(PinLost, match="had to grow"):
        take(store, tmp_path / "snapshot", pace=commit_much)
    assert grown
    assert {path.name for path in tmp_path.iterdir()} == {"state"}
    assert take(store, tmp_path / "snapshot").records == 34_000
    store.close()


def test_a_reader_that_is_stuck_loses_its_moment_with_the_next_commit(tmp_path: Path) -> None:
    store = filled(tmp_path / "state", 4000)
    with store.pin(max_age_s=0.0) as stuck:
        chunks = stuck.chunks(1000)
        next(chunks)
        store.commit([(b"new", b"")], [], {"applied": b"2"})
        with pytest.raises(PinLost, match="commits need the space"):
            list(chunks)
    assert store.longest_pin_s > 0
    store.close()


def test_closing_the_store_ends_a_pin(tmp_path: Path) -> None:
    store = filled(tmp_path / "state", 1000)
    with store.pin() as pinned:
        store.close()
        with pytest.raises(PinLost, match="closed"):
            list(pinned.chunks(1000))


def test_pages_freed_during_a_pin_are_reused_afterwards(tmp_path: Path) -> None:
    store = filled(tmp_path / "state", 2000, map_bytes=1 << 26)

    def churn() -> int:
        for _ in range(20):
            store.commit(records(0, 2000), [], {})
        return store.size_bytes()

    free = churn()
    assert churn() == free
    with store.pin():
        pinned = churn()
    assert pinned > 2 * free
    assert churn() == pinned
    store.close()


def test_the_pace_is_asked_for_every_block_and_given_up_when_the_pin_gets_old(tmp_path: Path) -> None:
    store = filled(tmp_path / "state", 6000, 200, map_bytes=1 << 24)
    asked: list[int] = []
    info = take(store, tmp_path / "snapshot", pace=asked.append)
    assert len(asked) >= 4
    assert 0 < info.size_bytes - sum(asked) < 4096
    asked.clear()
    assert take(store, tmp_path / "snapshot", pace=asked.append, max_age_s=0.0) == info
    assert asked == []
    store.close()


# --- whole or absent -------------------------------------------------------------------------------------------------


def test_a_damaged_record_stops_the_snapshot_and_leaves_the_old_one(tmp_path: Path) -> None:
    store = filled(tmp_path / "state", 1000)
    old = take(store, tmp_path / "snapshot")
    store.close()
    file = tmp_path / "state" / "data.mdb"
    data = bytearray(file.read_bytes())
    data[data.index(records(700, 1)[0][1])] ^= 1
    file.write_bytes(data)
    store = StateStore.open(tmp_path / "state")
    with pytest.raises(CorruptState, match="wrong checksum"):
        take(store, tmp_path / "snapshot")
    assert verify(tmp_path / "snapshot") == old
    assert {path.name for path in tmp_path.iterdir()} == {"state", "snapshot"}
    store.close()


def test_a_power_loss_at_any_operation_leaves_the_old_snapshot_or_the_new(tmp_path: Path) -> None:
    store = filled(tmp_path / "state", 600, 2000, map_bytes=1 << 23)
    target = Path("/data/snapshot")
    disk = FaultDisk()
    old = take(store, target, disk=disk)
    store.commit([], [], {"applied": b"2"})
    before = disk.copy()
    new, at = None, 0
    while new is None:
        at += 1
        disk = before.copy()
        disk.lose_power_at(at)
        try:
            new = take(store, target, disk=disk)
        except PowerLoss:
            pass
        for seed in range(3):
            disk.random.seed(seed)
            after = disk.power_loss()
            found = verify(target, disk=after)
            assert found.index in (1, 2)
            assert new is None or found == new
            assert take(store, target, disk=after).index == 2  # whatever lies about
    assert at > 8
    assert old.index == 1
    store.close()


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path / "state", 1000)
    disk = FaultDisk()
    disk.free_bytes = 20_000
    with pytest.raises(DiskFull, match="took only"):
        take(store, Path("/data/snapshot"), disk=disk)
    assert disk.names == {}

    def fault(operation: str, path: Path) -> None:
        if operation == "fsync":
            raise OSError(5, "Input/output error")

    disk = FaultDisk()
    disk.fault = fault
    with pytest.raises(WriteFailed, match="Input/output error"):
        take(store, Path("/data/snapshot"), disk=disk)
    assert disk.names == {}
    store.close()


# --- damage ----------------------------------------------------------------------------------------------------------


def test_any_altered_byte_is_noticed(tmp_path: Path) -> None:
    store = filled(tmp_path / "state", 40, 50)
    take(store, tmp_path / "snapshot")
    store.close()
    disk = FaultDisk()
    data = (tmp_path / "snapshot").read_bytes()
    path = Path("/data/snapshot")
    for at in range(len(data)):
        altered = bytearray(data)
        altered[at] ^= 1 << at % 8
        disk.names.clear()
        disk.create(path).pwritev([bytes(altered)], 0)
        with pytest.raises(DamagedSnapshot):
            verify(path, disk=disk)


def test_any_truncation_is_noticed_from_the_ends_alone(small: Path) -> None:
    data = small.read_bytes()
    disk = FaultDisk()
    sizes = {0, 1, 19, 20, 511, 512, *range(32, len(data), 512), *random.Random(1).sample(range(len(data)), 200)}
    for size in sizes:
        disk.names.clear()
        disk.create(Path("/data/s")).pwritev([data[:size]], 0)
        with pytest.raises(DamagedSnapshot):
            read_info(Path("/data/s"), disk=disk)


def test_exchanged_blocks_and_longer_files_are_noticed(small: Path) -> None:
    data = small.read_bytes()
    first = data.index(b"PSBK")
    second = data.index(b"PSBK", first + 1)
    third = data.index(b"PSBK", second + 1)
    for altered in (
        data[:first] + data[second:third] + data[first:second] + data[third:],
        data + bytes(512),
        data[:first] + data[second:],
        b"\0" * len(data),
    ):
        small.write_bytes(altered)
        with pytest.raises(DamagedSnapshot):
            verify(small)


def test_a_damaged_snapshot_becomes_no_usable_store(tmp_path: Path, small: Path) -> None:
    data = bytearray(small.read_bytes())
    data[-1] ^= 1  # only the last check finds it
    small.write_bytes(data)
    with pytest.raises(DamagedSnapshot, match="SHA-256"):
        restore_state(small, tmp_path / "restored", identity=OTHER)
    leftover = StateStore.open(tmp_path / "restored")
    assert leftover.meta("applied") is None
    leftover.close()


@given(st.binary(max_size=2000))
@settings(deadline=None)
def test_garbage_is_refused(garbage: bytes) -> None:
    disk = FaultDisk()
    disk.create(Path("/data/s")).pwritev([garbage], 0)
    with pytest.raises(StorageError):
        verify(Path("/data/s"), disk=disk)
    assert valid_prefix(Path("/data/s"), disk=disk) == 0


def test_the_good_beginning_of_a_partial_file_ends_with_a_whole_block(small: Path) -> None:
    data = small.read_bytes()
    blocks = [at for at in range(len(data)) if data.startswith(b"PSBK", at)]
    end = len(data.rstrip(b"\0"))
    disk = FaultDisk()
    path = Path("/data/part")

    def prefix(contents: bytes) -> int:
        disk.names.clear()
        disk.create(path).pwritev([contents], 0)
        return valid_prefix(path, disk=disk)

    assert prefix(data[: blocks[0] - 1]) == 0
    assert prefix(data[: blocks[0]]) == blocks[0]
    assert prefix(data[: blocks[2] - 1]) == blocks[1]
    assert prefix(data[: blocks[2] + 5]) == blocks[2]
    torn = bytearray(data[: blocks[3]])
    torn[blocks[2] + 100 :] = bytes(len(torn) - blocks[2] - 100)
    assert prefix(bytes(torn)) == blocks[2]
    assert blocks[-1] < prefix(data) < end


def test_records_that_come_out_of_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptState, match="out of order"):
        StateStore.build(tmp_path, [[(b"b", b"x"), (b"a", b"x")]], {}, identity=IDENTITY)
    assert encode_block(0, []) != encode_block(1, [])
