"""A disk in memory that does what real ones do at the worst moment: power loss, full, failing, lying."""

import errno
import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from plasmacloud.storage.disk import DirectoryLock, DiskFile
from plasmacloud.storage.wal_errors import DirectoryInUse

SECTOR = 512


class PowerLoss(BaseException):
    """The machine lost power in the middle of an operation."""


class Inode:
    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)  # what reads return
        self.durable = bytes(data)  # what surely survives
        self.unsynced: list[tuple[int, bytes]] = []

    def write(self, offset: int, data: bytes) -> None:
        if len(self.data) < offset:
            self.data.extend(bytes(offset - len(self.data)))
        self.data[offset : offset + len(data)] = data
        self.unsynced.append((offset, data))

    def sync(self) -> None:
        if self.unsynced:
            self.durable = bytes(self.data)
            self.unsynced.clear()

    def sync_last(self) -> None:
        """Only the last write is durable."""
        offset, data = self.unsynced.pop()
        durable = bytearray(self.durable)
        if len(durable) < offset:
            durable.extend(bytes(offset - len(durable)))
        durable[offset : offset + len(data)] = data
        self.durable = bytes(durable)

    def sectors(self) -> list[tuple[int, bytes]]:
        """The unsynced writes, cut at sector boundaries."""
        pieces = []
        for offset, data in self.unsynced:
            at = 0
            while at < len(data):
                size = min(SECTOR - (offset + at) % SECTOR, len(data) - at)
                pieces.append((offset + at, data[at : at + size]))
                at += size
        return pieces

    def after_power_loss(self, keep: Callable[[int], bool]) -> bytes:
        """Contents with those unsynced sectors whose number ``keep`` accepts."""
        image = bytearray(self.durable)
        for number, (offset, data) in enumerate(self.sectors()):
            if keep(number):
                if len(image) < offset:
                    image.extend(bytes(offset - len(image)))
                image[offset : offset + len(data)] = data
        return bytes(image)


class FaultFile:
    def __init__(self, disk: "FaultDisk", path: Path, inode: Inode) -> None:
        self._disk, self._path, self._inode = disk, path, inode

    def pread(self, size_bytes: int, offset: int) -> bytes:
        self._disk.step("pread", self._path)
        return bytes(self._inode.data[offset : offset + size_bytes])

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> int:
        data = b"".join(buffers)
        accepted = self._disk.accept(offset + len(data) - len(self._inode.data), len(data))
        if accepted:
            self._inode.write(offset, data[:accepted])
        self._disk.step("pwritev", self._path)
        return accepted

    def write_durably(self, buffers: Sequence[bytes], offset: int) -> int:
        accepted = self.pwritev(buffers, offset)
        self._disk.step("fdatasync", self._path)
        if accepted:
            self._inode.sync_last()
        return accepted

    def zero_fill(self, size_bytes: int) -> None:
        if self._disk.accept(size_bytes, size_bytes) < size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._inode.write(0, bytes(size_bytes))
        self._disk.step("zero_fill", self._path)

    def fdatasync(self) -> None:
        self._disk.step("fdatasync", self._path)
        self._inode.sync()

    def fsync(self) -> None:
        self._disk.step("fsync", self._path)
        self._inode.sync()

    def size_bytes(self) -> int:
        return len(self._inode.data)

    def close(self) -> None:
        pass


class FaultLock:
    def __init__(self, held: set[Path], path: Path) -> None:
        self._held, self._path = held, path

    def release(self) -> None:
        self._held.discard(self._path)


class FaultDisk:
    """Implements `Disk`. ``fault(operation, path)`` runs at each step and may raise; ``operations`` counts them."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.names: dict[Path, Inode] = {}
        self.durable_names: dict[Path, Inode] = {}
        self.held: set[Path] = set()
        self.free_bytes: int | None = None
        self.operations: list[tuple[str, str]] = []
        self.fault: Callable[[str, Path], None] = lambda operation, path: None
        self._mutex = threading.Lock()

    # --- faults ---

    def step(self, operation: str, path: Path) -> None:
        with self._mutex:
            self.operations.append((operation, path.name))
        self.fault(operation, path)

    def lose_power_at(self, count: int) -> None:
        """Raise `PowerLoss` in the operation with that number, counted from now."""
        start = len(self.operations)

        def fault(operation: str, path: Path) -> None:
            if len(self.operations) - start >= count:
                raise PowerLoss

        self.fault = fault

    def kill_process(self) -> None:
        """The process that used the disk is gone, and its locks with it."""
        self.held.clear()

    def accept(self, growth: int, wanted: int) -> int:
        if growth <= 0 or self.free_bytes is None:
            return wanted
        with self._mutex:
            if self.free_bytes >= growth:
                self.free_bytes -= growth
                return wanted
            return max(wanted - (growth - self.free_bytes), 0)

    def power_loss(self, keep: Callable[[], bool] | None = None) -> "FaultDisk":
        """The disk as the next start finds it. ``keep`` decides for each unsynced sector and each unsynced name."""
        choose = keep if keep is not None else lambda: self.random.random() < 0.5
        images: dict[int, Inode] = {}
        after = FaultDisk(self.random.getrandbits(32))
        current, durable = dict(self.names), dict(self.durable_names)  # other threads may go on
        for path in sorted(current.keys() | durable.keys()):
            old, new = durable.get(path), current.get(path)
            inode = new if old is new or choose() else old
            if inode is not None:
                if id(inode) not in images:
                    images[id(inode)] = Inode(inode.after_power_loss(lambda _: choose()))
                after.names[path] = after.durable_names[path] = images[id(inode)]
        return after

    def copy(self) -> "FaultDisk":
        """The same contents, all durable: a clean restart."""
        after = FaultDisk(self.random.getrandbits(32))
        for path, inode in self.names.items():
            after.names[path] = after.durable_names[path] = Inode(bytes(inode.data))
        return after

    # --- Disk ---

    def make_directory(self, path: Path) -> None:
        self.step("make_directory", path)

    def list_directory(self, path: Path) -> list[str]:
        return [name.name for name in self.names if name.parent == path]

    def create(self, path: Path) -> DiskFile:
        if path in self.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        self.names[path] = Inode()
        self.step("create", path)
        return FaultFile(self, path, self.names[path])

    def open(self, path: Path) -> DiskFile:
        self.step("open", path)
        try:
            return FaultFile(self, path, self.names[path])
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None

    def rename(self, source: Path, target: Path) -> None:
        self.names[target] = self.names.pop(source)
        self.step("rename", target)

    def remove(self, path: Path) -> None:
        inode = self.names.pop(path)
        if self.free_bytes is not None:
            self.free_bytes += len(inode.data)
        self.step("remove", path)

    def remove_tree(self, path: Path) -> None:
        for name in [name for name in self.names if name == path or path in name.parents]:
            self.remove(name)

    def sync_directory(self, path: Path) -> None:
        self.step("sync_directory", path)
        self.durable_names = dict(self.names)

    def lock_directory(self, path: Path) -> DirectoryLock:
        if path in self.held:
            raise DirectoryInUse(f"{path} is in use")
        self.held.add(path)
        return FaultLock(self.held, path)

    def give_way(self) -> None:
        pass

    def random_u64(self) -> int:
        return self.random.getrandbits(64)
