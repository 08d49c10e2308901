"""Every file operation the storage room needs, behind one small interface.

The log's promises rest on what a disk does when the power goes, when it is full and when it lies. Those cases cannot be
produced with a real disk in a test, so the log talks to a `Disk`: `OsDisk` in production, a simulated one in the fault
tests and in the simulator. Methods raise plain ``OSError``; the callers know what the failure means and translate.

What a `Disk` promises, and nothing more:

- bytes written are durable only after ``fdatasync`` or ``fsync`` of that file returned;
- a created, renamed or removed name is durable only after ``sync_directory`` of its directory returned;
- before that, any subset of the written 512-byte sectors and of the name changes may survive a power loss.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from plasmacloud.storage.wal_errors import DirectoryInUse

PAUSE_S = 50e-6
"""So long a thread that works in bulk pauses, so that the event loop gets the interpreter lock."""
_ZEROS = bytes(256 * 1024)


class DiskFile(Protocol):
    """One open file. Reads may run in one thread while another writes elsewhere in the file."""

    def pread(self, size_bytes: int, offset: int) -> bytes:
        """Up to ``size_bytes`` bytes at ``offset``; shorter only at the end of the file."""

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> int:
        """Write the buffers one after the other; return how many bytes the disk took."""

    def write_durably(self, buffers: Sequence[bytes], offset: int) -> int:
        """`pwritev` and `fdatasync` of these bytes in one step; return how many bytes are durable."""

    def zero_fill(self, size_bytes: int) -> None:
        """Make the file ``size_bytes`` long, every byte written as zero, so that later writes change no metadata."""

    def fdatasync(self) -> None:
        """Make the written bytes durable."""

    def fsync(self) -> None:
        """Make the written bytes and all metadata durable."""

    def size_bytes(self) -> int:
        """Length of the file."""

    def close(self) -> None:
        """Release the file; says nothing about durability."""


class DirectoryLock(Protocol):
    """A held lock on a directory."""

    def release(self) -> None:
        """Give the directory free; idempotent."""


class Disk(Protocol):
    """A file system."""

    def make_directory(self, path: Path) -> None:
        """Create the directory and its parents where missing, durably."""

    def list_directory(self, path: Path) -> list[str]:
        """Names in the directory, in any order."""

    def create(self, path: Path) -> DiskFile:
        """Create a new file for reading and writing; ``FileExistsError`` when the name is taken."""

    def open(self, path: Path) -> DiskFile:
        """Open an existing file for reading and writing."""

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, an existing target is replaced; or a directory one that is free."""

    def remove(self, path: Path) -> None:
        """Remove a name."""

    def remove_tree(self, path: Path) -> None:
        """Remove a directory or file with everything in it, in any order; nothing happens when it is not there."""

    def sync_directory(self, path: Path) -> None:
        """Make the names in the directory durable."""

    def lock_directory(self, path: Path) -> DirectoryLock:
        """Lock the directory for one process; raises `DirectoryInUse`."""

    def give_way(self) -> None:
        """Called on worker threads between two pieces of bulk work: whoever waits for the processor may go first."""

    def random_u64(self) -> int:
        """Entropy of the environment; a simulator makes it repeatable."""


class OsFile:
    """A `DiskFile` on a file descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def pread(self, size_bytes: int, offset: int) -> bytes:
        data = os.pread(self._fd, size_bytes, offset)
        if len(data) == size_bytes or not data:
            return data
        parts = [data]  # the kernel cuts reads at 2 GiB and at signals
        while (size_bytes := size_bytes - len(parts[-1])) > 0:
            offset += len(parts[-1])
            more = os.pread(self._fd, size_bytes, offset)
            if not more:
                break
            parts.append(more)
        return b"".join(parts)

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> int:
        if len(buffers) == 1:
            return os.pwrite(self._fd, buffers[0], offset)
        return os.pwritev(self._fd, buffers, offset)

    def write_durably(self, buffers: Sequence[bytes], offset: int) -> int:
        # One system call, so that the thread has to win the interpreter lock back once and not twice: on a busy event
        # loop that is the larger part of the wait.
        try:
            return os.pwritev(self._fd, buffers, offset, os.RWF_DSYNC)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise
        written = self.pwritev(buffers, offset)
        os.fdatasync(self._fd)
        return written

    def zero_fill(self, size_bytes: int) -> None:
        # The reservation makes the file contiguous and fails before anything is written when the disk is too full.
        # The zeros then turn reserved blocks into written ones: without them every append would still be a change of
        # metadata, which costs a journal commit (measured: 162 us instead of 93 us per synced append). They are synced
        # piece by piece, so that a sync of the log next door never has to wait for tens of megabytes.
        try:
            os.posix_fallocate(self._fd, 0, size_bytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
        for offset in range(0, size_bytes, len(_ZEROS)):
            wanted = min(len(_ZEROS), size_bytes - offset)
            written = os.pwrite(self._fd, _ZEROS[:wanted], offset)
            if written != wanted:
                raise OSError(errno.ENOSPC, f"the disk took {written} of {wanted} bytes")
            os.fdatasync(self._fd)

    def fdatasync(self) -> None:
        os.fdatasync(self._fd)

    def fsync(self) -> None:
        os.fsync(self._fd)

    def size_bytes(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class OsDirectoryLock:
    """``flock`` on the file LOCK. The kernel frees it when the process dies, however it dies."""

    def __init__(self, directory: Path) -> None:
        path = directory / "LOCK"
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip("\0\n ") or "unknown"
            self.release()
            raise DirectoryInUse(
                f"data directory {directory} is in use by process {holder}",
                hint="stop that process first, or give this member its own data directory",
            ) from None
        except OSError:
            self.release()
            raise
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class OsDisk:
    """The operating system's files. Stateless."""

    def make_directory(self, path: Path) -> None:
        missing = []
        while not path.exists():
            missing.append(path)
            path = path.parent
        for directory in reversed(missing):
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=0o700)
            self.sync_directory(directory.parent)
        if missing and not missing[0].is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(missing[0]))

    def list_directory(self, path: Path) -> list[str]:
        return os.listdir(path)

    def create(self, path: Path) -> DiskFile:
        return OsFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def open(self, path: Path) -> DiskFile:
        return OsFile(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def remove(self, path: Path) -> None:
        os.unlink(path)

    def remove_tree(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def lock_directory(self, path: Path) -> DirectoryLock:
        return OsDirectoryLock(path)

    def give_way(self) -> None:
        time.sleep(PAUSE_S)  # without it the event loop may wait 5 ms for the interpreter lock

    def random_u64(self) -> int:
        return int.from_bytes(os.urandom(8), "little")
