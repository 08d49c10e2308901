"""A real directory tree whose name changes a power loss may take back, stopped at any operation."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from plasmacloud.storage.disk import DirectoryLock, DiskFile, OsDisk


class Stopped(BaseException):
    """The process or the machine stopped here."""


class TreeFile:
    """A file of a `TreeDisk`: a stop comes before the write, so its bytes are lost."""

    def __init__(self, file: DiskFile, step: Callable[[str], None], name: str) -> None:
        self._file, self._step, self._name = file, step, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> int:
        self._step(f"write {self._name}")
        return self._file.pwritev(buffers, offset)

    def zero_fill(self, size_bytes: int) -> None:
        os.ftruncate(self._file._fd, size_bytes)  # type: ignore[attr-defined]  # a hole will do, and is quick

    def write_durably(self, buffers: Sequence[bytes], offset: int) -> int:
        self._step(f"write {self._name}")
        return self._file.write_durably(buffers, offset)


class TreeDisk(OsDisk):
    """`OsDisk` that counts operations, stops at one of them, and then undoes name changes that were never synced."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.operations: list[str] = []
        self._stop_at = stop_at
        self._undo: list[Callable[[], None]] = []
        self._locks: list[DirectoryLock] = []

    def _step(self, what: str) -> None:
        self.operations.append(what)
        if self._stop_at is not None and len(self.operations) >= self._stop_at:
            raise Stopped(what)

    def lose_names(self) -> None:
        """What a power loss does: everything since the last sync of the directory is gone."""
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def die(self) -> None:
        """What the end of the process does: its locks are gone."""
        for lock in self._locks:
            lock.release()

    def lock_directory(self, path: Path) -> DirectoryLock:
        self._locks.append(super().lock_directory(path))
        return self._locks[-1]

    def create(self, path: Path) -> DiskFile:
        file = super().create(path)
        self._undo.append(lambda: path.unlink(missing_ok=True))
        self._step(f"create {path.name}")
        return TreeFile(file, self._step, path.name)  # type: ignore[return-value]

    def open(self, path: Path) -> DiskFile:
        return TreeFile(super().open(path), self._step, path.name)  # type: ignore[return-value]

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._undo.append(lambda: os.rename(target, source))
        self._step(f"rename {source.name} {target.name}")

    def remove(self, path: Path) -> None:
        grave = path.with_name(f"grave-{path.name}")
        os.link(path, grave)
        super().remove(path)
        self._undo.append(lambda: os.rename(grave, path))
        self._step(f"remove {path.name}")

    def remove_tree(self, path: Path) -> None:
        if path.is_dir():
            inside = sorted(path.iterdir())
            if inside:
                inside[0].unlink()  # half of it is gone
                self._step(f"remove half of {path.name}")
        super().remove_tree(path)
        self._step(f"remove {path.name}")

    def sync_directory(self, path: Path) -> None:
        self._step(f"sync {path.name}")
        super().sync_directory(path)
        for grave in path.glob("grave-*"):
            grave.unlink()
        self._undo.clear()


def copy_tree(source: Path, target: Path) -> Path:
    """A fresh copy to break."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)
    return target
