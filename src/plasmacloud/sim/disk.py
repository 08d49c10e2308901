"""A file system in memory that does what real ones do at the worst moment: power loss, full, failing, lying.

It keeps the promises of `plasmacloud.storage.disk.Disk` and no others. Of every file there are two images: what reads
return, and what is surely on the medium; the writes in between are a list, of which a power loss keeps any subset of
512-byte sectors. Of every directory likewise: names that were not synced survive in any combination, a rename whole or
not at all. A process that is killed loses nothing.

While a process dies in the middle of an operation, `cut_after` lets the disk die under it: of a write that comes then
some sectors are done, and everything behind it has no effect; all raise `PowerLoss`.
"""

import errno
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from plasmacloud.storage.disk import DirectoryLock, DiskFile
from plasmacloud.storage.wal_errors import DirectoryInUse

SECTOR_BYTES = 512
_LOG = "wal"  # the directory of it; a segment that was made in advance is open under another name

Keep = Callable[[], bool]
"""Decides for one unsynced sector or name whether a power loss spares it."""


class PowerLoss(BaseException):
    """The machine, or the process, ended in the middle of an operation."""


class Inode:
    """One file."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)  # what reads return
        self.durable = bytearray(data)  # what surely survives
        self.unsynced: list[tuple[int, bytes]] = []

    def write(self, offset: int, data: bytes) -> None:
        """Change what reads return."""
        _overwrite(self.data, offset, data)
        self.unsynced.append((offset, data))

    def sync(self) -> None:
        """Everything written is on the medium."""
        for offset, data in self.unsynced:
            _overwrite(self.durable, offset, data)
        self.unsynced.clear()

    def sync_last(self) -> None:
        """The last write is on the medium, whatever became of those before it."""
        offset, data = self.unsynced.pop()
        _overwrite(self.durable, offset, data)

    def fail_to_sync(self, keep: Keep) -> None:
        """Some of it reached the medium. Reads return all of it, and no later sync will try again."""
        self._write_out(keep)

    def lose_power(self, keep: Keep) -> None:
        """Only what is on the medium is left, and those unsynced sectors that ``keep`` accepts."""
        self._write_out(keep)
        self.data = bytearray(self.durable)

    def _write_out(self, keep: Keep) -> None:
        for offset, data in self.unsynced:
            at = 0
            while at < len(data):
                size = min(SECTOR_BYTES - (offset + at) % SECTOR_BYTES, len(data) - at)
                if keep():
                    _overwrite(self.durable, offset + at, data[at : at + size])
                at += size
        self.unsynced.clear()

    def is_durable(self, offset: int) -> bool:
        """Whether what is written at that place is on the medium."""
        return not any(start <= offset < start + len(data) for start, data in self.unsynced)

    def alter(self, offset: int, data: bytes) -> None:
        """The medium itself changes, and nobody did it."""
        for image in (self.data, self.durable):
            part = data[: max(0, len(image) - offset)]
            image[offset : offset + len(part)] = part

    def copy(self) -> "Inode":
        """What a copy of the medium would hold."""
        return Inode(bytes(self.durable))

    def size_bytes(self) -> int:
        """What it occupies."""
        return len(self.data)


class Folder:
    """One directory: names to files and directories."""

    def __init__(self) -> None:
        self.names: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}
        self.unsynced: list[dict[str, Node | None]] = []  # changes; each is kept or lost as a whole

    def change(self, change: "dict[str, Node | None]") -> None:
        """Give, replace and take names."""
        _apply(self.names, change)
        self.unsynced.append(change)

    def sync(self) -> None:
        """The names are on the medium."""
        self.durable = dict(self.names)
        self.unsynced.clear()

    def lose_power(self, keep: Keep) -> None:
        """Only the names on the medium are left, and those changes that ``keep`` accepts."""
        for change in self.unsynced:
            if keep():
                _apply(self.durable, change)
        self.unsynced.clear()
        self.names = dict(self.durable)
        for name in sorted(self.names):
            self.names[name].lose_power(keep)

    def copy(self) -> "Folder":
        """What a copy of the medium would hold."""
        copied = Folder()
        copied.names = {name: node.copy() for name, node in self.durable.items()}
        copied.durable = dict(copied.names)
        return copied

    def size_bytes(self) -> int:
        """What is in it occupies."""
        return sum(node.size_bytes() for node in self.names.values())


Node = Inode | Folder


class SimFile:
    """An open file."""

    def __init__(self, disk: "SimDisk", path: Path, inode: Inode) -> None:
        self._disk, self._path, self._inode = disk, path, inode

    def pread(self, size_bytes: int, offset: int) -> bytes:
        self._disk.step("read", self._path)
        return bytes(self._inode.data[offset : offset + size_bytes])

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> int:
        data = buffers[0] if len(buffers) == 1 else b"".join(buffers)
        disk, inode = self._disk, self._inode
        if disk.tears(self._path, len(data)):
            inode.write(offset, bytes(data))  # of which the loss of power keeps some sectors
            raise PowerLoss
        try:
            disk.step("write", self._path)
        except PowerLoss:
            if disk.dies_now and data:
                inode.write(offset, bytes(data[: SECTOR_BYTES * disk.rng.randrange(len(data) // SECTOR_BYTES + 1)]))
            raise
        growth = offset + len(data) - len(inode.data)
        if growth > 0:
            data = data[: max(0, len(data) - max(0, growth - disk.room(growth)))]
        if data:
            inode.write(offset, bytes(data))
        return len(data)

    def write_durably(self, buffers: Sequence[bytes], offset: int) -> int:
        accepted = self.pwritev(buffers, offset)
        self._sync()
        if accepted:
            self._inode.sync_last()
        return accepted

    def zero_fill(self, size_bytes: int) -> None:
        self._disk.step("write", self._path)
        if self._disk.room(size_bytes) < size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._inode.write(0, bytes(size_bytes))

    def fdatasync(self) -> None:
        self._sync()
        self._inode.sync()

    def _sync(self) -> None:
        try:
            self._disk.step("sync", self._path)
        except OSError:
            self._inode.fail_to_sync(self._disk.coin)
            raise

    fsync = fdatasync

    def size_bytes(self) -> int:
        return len(self._inode.data)

    def close(self) -> None:
        pass


class SimLock:
    """A held lock on a directory."""

    def __init__(self, held: set[Path], path: Path) -> None:
        self._held, self._path = held, path

    def release(self) -> None:
        self._held.discard(self._path)


class SimDisk:
    """Implements `Disk` for one machine. Paths are absolute.

    ``on_step(operation, path)`` is called before each operation of kind read, write, sync, name or open, and may raise
    ``OSError``. ``capacity_bytes``: None is as much as one likes.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.root = Folder()
        self.capacity_bytes: int | None = None
        self.on_step: Callable[[str, Path], None] | None = None
        self.steps = 0
        self._held: set[Path] = set()
        self.false_start: int | None = None  # the next opening of the member's data ends after so many operations
        self.false_install: int | None = (
            None  # the next one that installs a snapshot; below 0: before that change of a name
        )
        self.on_log_write: Callable[[], None] | None = None  # called once, in a write to the log that ends everything
        self.on_name: Callable[[Path], None] | None = None  # called before a name is given or taken
        self.least_torn_bytes = 0
        self._cut_after: int | None = None
        self._dead = False

    # What happens to it

    def step(self, operation: str, path: Path) -> None:
        """Something is about to be done."""
        self.steps += 1
        if self._cut_after is not None:
            self._cut_after -= 1
            if self._cut_after < 0:
                self._dead = True
        if self._dead:
            raise PowerLoss
        if operation == "name" and self.on_name is not None:
            self.on_name(path)
        if self.on_step is not None:
            self.on_step(operation, path)

    def tears(self, path: Path, size_bytes: int) -> bool:
        """Whether everything ends in the middle of this write."""
        told = self.on_log_write
        if told is None or path.parent.name != _LOG or size_bytes < self.least_torn_bytes:
            return False
        self.on_log_write, self._dead = None, True
        told()
        return True

    @property
    def dead(self) -> bool:
        """Whether nothing that is still tried has any effect."""
        return self._dead

    @property
    def dies_now(self) -> bool:
        """Whether it is the present operation in the middle of which everything ends."""
        return self._cut_after == -1

    def coin(self) -> bool:
        """Chance."""
        return self.rng.random() < 0.5

    def cut_after(self, steps: int | None) -> None:
        """Everything behind that many more operations comes too late; None: all that is still done is in time."""
        self._cut_after, self._dead = steps, False

    def end(self) -> None:
        """Nothing that the process still tries has any effect: it is dead, and only the simulation runs it on."""
        self._cut_after, self._dead = None, True

    def restart(self, *, power_lost: bool) -> None:
        """The process that used it is gone; after a power loss so is what was not synced."""
        self._cut_after, self._dead = None, False
        self.false_start = self.on_log_write = self.on_name = None
        self._held = set()  # a lock that is released late, by a process that is gone, is another one's
        if power_lost:
            share = self.rng.choice((0.0, 0.5, 0.9, 1.0))
            self.root.lose_power(lambda: self.rng.random() < share)

    def wipe(self) -> None:
        """Another, empty disk is put in its place."""
        self.root = Folder()

    def room(self, wanted_bytes: int) -> int:
        """How much of what is wanted there is."""
        if self.capacity_bytes is None:
            return wanted_bytes
        return max(0, min(wanted_bytes, self.capacity_bytes - self.root.size_bytes()))

    def would_survive(self, path: Path, offset: int) -> bool:
        """Whether a loss of power now would leave that file under its name, with what is written at that place."""
        node: Node | None = self.root
        for part in path.parts[1:]:
            if not isinstance(node, Folder) or any(part in change for change in node.unsynced):
                return False
            node = node.durable.get(part)
        return isinstance(node, Inode) and node.is_durable(offset)

    def surely(self, path: Path) -> bytes | None:
        """What is on the medium under that name and in that file; None: nothing."""
        node: Node | None = self.root
        for part in path.parts[1:]:
            node = node.durable.get(part) if isinstance(node, Folder) else None
        return bytes(node.durable) if isinstance(node, Inode) else None

    def inodes(self, path: Path) -> Iterator[tuple[Path, Inode]]:
        """Every file below a directory, in the order of their names."""
        node = self.find(path)
        if isinstance(node, Folder):
            for name in sorted(node.names):
                yield from self.inodes(path / name)
        elif node is not None:
            yield path, node

    # Names

    def find(self, path: Path) -> Node | None:
        """What has that name; None: nothing."""
        node: Node | None = self.root
        for part in path.parts[1:]:
            if not isinstance(node, Folder):
                return None
            node = node.names.get(part)
        return node

    def folder(self, path: Path) -> Folder:
        """The directory of that name. Raises ``FileNotFoundError`` or ``NotADirectoryError``."""
        node = self.find(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        if not isinstance(node, Folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        return node

    def add(self, path: Path, node: Node) -> None:
        """Give something a name; not durable."""
        self.folder(path.parent).change({path.name: node})

    # Disk

    def make_directory(self, path: Path) -> None:
        self.step("name", path)
        folder = self.root
        for part in path.parts[1:]:
            found = folder.names.get(part)
            if found is None:
                found = Folder()
                folder.change({part: found})
                folder.sync()
            if not isinstance(found, Folder):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
            folder = found

    def list_directory(self, path: Path) -> list[str]:
        return sorted(self.folder(path).names)

    def create(self, path: Path) -> DiskFile:
        self.step("name", path)
        folder = self.folder(path.parent)
        if path.name in folder.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        inode = Inode()
        folder.change({path.name: inode})
        return SimFile(self, path, inode)

    def open(self, path: Path) -> DiskFile:
        self.step("open", path)
        node = self.find(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        if isinstance(node, Folder):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        return SimFile(self, path, node)

    def rename(self, source: Path, target: Path) -> None:
        self.step("name", target)
        folder = self.folder(source.parent)
        node = folder.names.get(source.name)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        if isinstance(node, Folder) and self.find(target) is not None:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(target))
        if source.parent == target.parent:
            folder.change({source.name: None, target.name: node})
        else:
            self.folder(target.parent).change({target.name: node})
            folder.change({source.name: None})

    def remove(self, path: Path) -> None:
        self.step("name", path)
        folder = self.folder(path.parent)
        if path.name not in folder.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        folder.change({path.name: None})

    def remove_tree(self, path: Path) -> None:
        node = self.find(path)
        if isinstance(node, Folder):
            for name in sorted(node.names):
                self.remove_tree(path / name)
        if node is not None:
            self.remove(path)

    def sync_directory(self, path: Path) -> None:
        self.step("sync", path)
        self.folder(path).sync()

    def lock_directory(self, path: Path) -> DirectoryLock:
        self.folder(path)
        if path in self._held:
            raise DirectoryInUse(f"{path} is in use")
        self._held.add(path)
        return SimLock(self._held, path)

    def random_u64(self) -> int:
        return self.rng.getrandbits(64)

    def give_way(self) -> None:
        pass


def _overwrite(image: bytearray, offset: int, data: bytes) -> None:
    if len(image) < offset:
        image.extend(bytes(offset - len(image)))
    image[offset : offset + len(data)] = data


def _apply(names: dict[str, Node], change: dict[str, Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node
