"""The simulated disk keeps the promises of a disk, and not one more."""

import errno
import random
from pathlib import Path

import pytest

from plasmacloud.sim.disk import SECTOR_BYTES, PowerLoss, SimDisk
from plasmacloud.sim.process import DiskOptions, Job, Workshop
from plasmacloud.storage.disk import Disk
from plasmacloud.storage.wal_errors import DirectoryInUse

HOME = Path("/data")
FILE = HOME / "file"


def disk_with_file(seed: int = 1, content: bytes = b"") -> SimDisk:
    disk = SimDisk(random.Random(seed))
    disk.make_directory(HOME)
    file = disk.create(FILE)
    file.pwritev([content], 0)
    file.fsync()
    disk.sync_directory(HOME)
    return disk


def content(disk: SimDisk, path: Path = FILE) -> bytes:
    file = disk.open(path)
    return file.pread(file.size_bytes(), 0)


def test_it_is_a_disk() -> None:
    disk: Disk = SimDisk(random.Random(1))
    assert disk.random_u64() == SimDisk(random.Random(1)).random_u64()


def test_a_killed_process_loses_nothing() -> None:
    disk = disk_with_file()
    disk.open(FILE).pwritev([b"ab", b"cd"], 0)
    disk.restart(power_lost=False)
    assert content(disk) == b"abcd"


def test_synced_bytes_survive_a_power_loss() -> None:
    for seed in range(20):
        disk = disk_with_file(seed)
        file = disk.open(FILE)
        file.pwritev([b"x" * 5000], 0)
        file.fdatasync()
        disk.restart(power_lost=True)
        assert content(disk) == b"x" * 5000


def test_unsynced_bytes_survive_by_the_sector_and_in_any_combination() -> None:
    images = set()
    for seed in range(200):
        disk = disk_with_file(seed, bytes(4 * SECTOR_BYTES))
        disk.open(FILE).pwritev([b"x" * (2 * SECTOR_BYTES)], SECTOR_BYTES)
        disk.restart(power_lost=True)
        image = content(disk)
        sectors = [image[at : at + SECTOR_BYTES] for at in range(0, len(image), SECTOR_BYTES)]
        assert set(sectors) <= {bytes(SECTOR_BYTES), b"x" * SECTOR_BYTES}
        images.add(tuple(bool(sector.strip(b"\0")) for sector in sectors))
    assert images == {
        (False, False, False, False),
        (False, True, False, False),
        (False, False, True, False),
        (False, True, True, False),
    }


def test_names_that_were_not_synced_may_be_lost() -> None:
    found = set()
    for seed in range(100):
        disk = disk_with_file(seed, b"old")
        file = disk.create(HOME / "draft")
        file.pwritev([b"new"], 0)
        file.fsync()
        disk.rename(HOME / "draft", FILE)
        disk.restart(power_lost=True)
        found.add((tuple(disk.list_directory(HOME)), content(disk)))
    # The rename happens whole or not at all; the file is never without a name, and never empty.
    assert found == {(("file",), b"old"), (("draft", "file"), b"old"), (("file",), b"new")}


def test_a_renamed_directory_keeps_what_is_in_it() -> None:
    disk = disk_with_file(1, b"content")
    disk.rename(HOME, Path("/elsewhere"))
    assert content(disk, Path("/elsewhere/file")) == b"content"
    with pytest.raises(FileNotFoundError):
        disk.list_directory(HOME)


def test_a_tree_is_removed_with_everything_in_it() -> None:
    disk = disk_with_file()
    disk.make_directory(HOME / "a" / "b")
    disk.remove_tree(HOME)
    disk.remove_tree(HOME)
    assert disk.list_directory(Path("/")) == []


def test_errors_are_those_of_an_operating_system() -> None:
    disk = disk_with_file()
    with pytest.raises(FileExistsError):
        disk.create(FILE)
    with pytest.raises(FileNotFoundError):
        disk.open(HOME / "nothing")
    with pytest.raises(FileNotFoundError):
        disk.remove(HOME / "nothing")
    with pytest.raises(IsADirectoryError):
        disk.open(HOME)
    with pytest.raises(NotADirectoryError):
        disk.list_directory(FILE)
    lock = disk.lock_directory(HOME)
    with pytest.raises(DirectoryInUse):
        disk.lock_directory(HOME)
    lock.release()
    disk.lock_directory(HOME)
    disk.restart(power_lost=False)
    disk.lock_directory(HOME)


def test_a_full_disk_takes_what_fits() -> None:
    disk = disk_with_file(1, b"12345")
    disk.capacity_bytes = 8
    file = disk.open(FILE)
    assert file.pwritev([b"abcdef"], 5) == 3
    assert file.pwritev([b"ABC"], 0) == 3
    assert content(disk) == b"ABC45abc"
    with pytest.raises(OSError, match="No space") as caught:
        disk.create(HOME / "more").zero_fill(10)
    assert caught.value.errno == errno.ENOSPC


def test_a_failed_sync_says_nothing_about_what_is_on_the_medium() -> None:
    outcomes = set()
    for seed in range(50):
        disk = disk_with_file(seed, b"-")
        file = disk.open(FILE)
        file.pwritev([b"x"], 0)

        def fail(operation: str, path: Path) -> None:
            if operation == "sync":
                raise OSError(errno.EIO, "no", str(path))

        disk.on_step = fail
        with pytest.raises(OSError, match="no"):
            file.fdatasync()
        assert content(disk) == b"x"  # reads know nothing of it
        disk.on_step = None
        file.fdatasync()
        disk.restart(power_lost=True)
        outcomes.add(content(disk))
    assert outcomes == {b"-", b"x"}


def test_a_durable_write_says_nothing_about_the_writes_before_it() -> None:
    found = set()
    for seed in range(50):
        disk = disk_with_file(seed, bytes(2 * SECTOR_BYTES))
        file = disk.open(FILE)
        file.pwritev([b"1"], 0)
        file.write_durably([b"2"], SECTOR_BYTES)
        disk.restart(power_lost=True)
        found.add((content(disk)[0], content(disk)[SECTOR_BYTES]))
    assert found == {(0, ord("2")), (ord("1"), ord("2"))}


def test_a_process_may_die_in_the_middle_of_a_piece_of_work() -> None:
    reached = set()
    for seed in range(60):
        disk = disk_with_file(seed)
        workshop = Workshop(None, disk, DiskOptions(), random.Random(seed))  # type: ignore[arg-type]  # no time passes

        def work(disk: SimDisk = disk) -> None:
            file = disk.open(FILE)
            for number in range(4):
                file.pwritev([b"%d" % number], number)

        job = Job(work)
        workshop._jobs[job] = None
        workshop.die()
        with pytest.raises(PowerLoss):
            disk.open(FILE)
        disk.restart(power_lost=False)
        reached.add(content(disk))
    assert reached >= {b"", b"0", b"01", b"012", b"0123"}


def test_a_write_in_which_everything_ends_is_done_in_part() -> None:
    found = set()
    for seed in range(60):
        disk = disk_with_file(seed)
        file = disk.open(FILE)
        disk.cut_after(0)
        with pytest.raises(PowerLoss):
            file.pwritev([b"x" * (3 * SECTOR_BYTES)], 0)
        with pytest.raises(PowerLoss):
            file.pwritev([b"never"], 0)
        disk.restart(power_lost=False)
        found.add(len(content(disk)))
    assert found == {0, SECTOR_BYTES, 2 * SECTOR_BYTES, 3 * SECTOR_BYTES}


def test_what_a_dead_process_still_tries_has_no_effect() -> None:
    """Its threads were each somewhere when it died; the code that tidies up behind them runs in the simulation only."""
    for seed in range(30):
        disk = disk_with_file(seed)
        file = disk.open(FILE)
        disk.cut_after(0)
        with pytest.raises(PowerLoss):
            file.pwritev([b"x"], 0)
        disk.end()
        with pytest.raises(PowerLoss):
            file.pwritev([b"y" * SECTOR_BYTES], 0)
        disk.restart(power_lost=False)
        assert content(disk) == b""
