"""The store of the applied state on a simulated disk: the interface of the real one, and what it does in a crash.

The real store is LMDB: a commit is on the disk whole or not at all, and readers see the last finished one. So one is a
file whose contents are two tables and which needs no log. It is subject to the disk's faults: a commit may fail for
lack of space and be repeated, or fail for good.
"""

import errno
import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from plasmacloud.base.errors import StorageError
from plasmacloud.sim.disk import Inode, Keep, PowerLoss, SimDisk
from plasmacloud.storage.pinned import CRC_BYTES, intact, seal
from plasmacloud.storage.record_store import DEFAULT_PIN_S, RecordStore, Sealed
from plasmacloud.storage.wal_errors import CorruptState, DiskFull, WriteFailed, WrongIdentity
from plasmacloud.storage.wal_format import Identity

_FILE = "data.mdb"
_RECORD_OVERHEAD_BYTES = 24
_CHUNK_RECORDS = 256


class Tables(Inode):
    """The file: records and named values as of the last commit. There is nothing unsynced in it, ever."""

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[bytes, bytes] = {}
        self.meta: dict[str, bytes] = {}
        self.owner: Identity | None = None
        self.damaged: set[bytes] = set()  # records that do not pass their checksum any more
        self.bytes = 0
        self._keys: list[bytes] | None = []

    def keys(self) -> list[bytes]:
        """All keys in their order."""
        if self._keys is None:
            self._keys = sorted(self.records)
        return self._keys

    def commit(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes], meta: Mapping[str, bytes]) -> None:
        """Change everything at once."""
        records = self.records
        for key in deletes:
            old = records.pop(key, None)
            if old is not None:
                self.bytes -= len(key) + len(old) + _RECORD_OVERHEAD_BYTES
                self.damaged.discard(key)
        for key, value in puts:
            self.bytes += len(value) - len(records.get(key, b""))
            if key not in records:
                self.bytes += len(key) + _RECORD_OVERHEAD_BYTES
            records[key] = value
            self.damaged.discard(key)
        self.meta.update(meta)
        self._keys = None

    def lose_power(self, keep: Keep) -> None:
        pass

    def copy(self) -> "Tables":
        copied = Tables()
        copied.records, copied.meta = dict(self.records), dict(self.meta)
        copied.owner, copied.damaged = self.owner, set(self.damaged)
        copied.bytes, copied._keys = self.bytes, None
        return copied

    def size_bytes(self) -> int:
        return self.bytes


class SimPin:
    """One commit, held still."""

    def __init__(self, path: Path, tables: Tables) -> None:
        self.records = len(tables.records)
        self.age_s = 0.0
        self._path = path
        self._items = [(key, tables.records[key]) for key in tables.keys()]  # noqa: SIM118 - a method
        self._meta = dict(tables.meta)
        self._damaged = set(tables.damaged)

    def meta(self) -> Mapping[str, bytes]:
        return self._meta

    def chunks(self, size_bytes: int) -> Iterator[list[Sealed]]:
        chunk: list[Sealed] = []
        found_bytes = 0
        for key, value in self._items:
            if key in self._damaged:
                raise CorruptState(self._path, f"the record {key!r} has a wrong checksum")
            sealed = seal(key, value)
            chunk.append((key, sealed))
            found_bytes += len(key) + len(sealed)
            if found_bytes >= size_bytes or len(chunk) >= _CHUNK_RECORDS:
                yield chunk
                chunk, found_bytes = [], 0
        if chunk:
            yield chunk


class SimStore:
    """Implements `RecordStore`."""

    def __init__(self, disk: SimDisk, path: Path, tables: Tables) -> None:
        self.path = path
        self._disk = disk
        self._tables = tables
        self._failure: StorageError | None = None
        self._closed = False

    def get(self, key: bytes, /) -> bytes | None:
        tables = self._tables
        if tables.damaged and key in tables.damaged:
            raise CorruptState(self.path, f"the record {key!r} has a wrong checksum")
        return tables.records.get(key)

    def get_many(self, keys: Sequence[bytes], /) -> list[bytes | None]:
        return [self.get(key) for key in keys]

    def scan(self, start: bytes = b"", end: bytes | None = None, /) -> Iterator[tuple[bytes, bytes]]:
        keys = self._tables.keys()
        last = len(keys) if end is None else bisect_left(keys, end)
        for key in keys[bisect_left(keys, start) : last]:
            value = self.get(key)
            if value is not None:
                yield key, value

    def meta(self, name: str, /) -> bytes | None:
        return self._tables.meta.get(name)

    def size_bytes(self) -> int:
        return self._tables.size_bytes()

    def in_use_bytes(self) -> int:
        return self._tables.size_bytes()

    def count(self) -> int:
        """Number of records."""
        return len(self._tables.records)

    @contextmanager
    def pin(self, *, max_age_s: float = DEFAULT_PIN_S) -> Iterator[SimPin]:
        del max_age_s
        yield SimPin(self.path, self._tables)

    def commit(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes], meta: Mapping[str, bytes]) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise StorageError(f"state store {self.path} is closed")
        growth = sum(len(key) + len(value) + _RECORD_OVERHEAD_BYTES for key, value in puts)
        disk = self._disk
        if growth and disk.room(growth) < growth:
            raise DiskFull(f"committing to state store {self.path} failed: no space", hint="free space")
        try:
            disk.step("write", self.path)
            disk.step("sync", self.path)
        except OSError as error:
            if disk.coin():  # nobody knows
                self._tables.commit(puts, deletes, meta)
            if error.errno == errno.ENOSPC:
                raise DiskFull(f"committing to state store {self.path} failed: {error}") from error
            self._failure = WriteFailed(f"committing to state store {self.path} failed: {error}", hint="check the disk")
            raise self._failure from error
        self._tables.commit(puts, deletes, meta)
        try:
            disk.step("sync", self.path)  # it is on the medium, and the process may still die before it hears of it
        except OSError:
            pass

    def close(self) -> None:
        self._closed = True


class SimStores:
    """Implements `RecordStores`: the stores on one disk."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk

    def open(self, path: Path, *, identity: Identity | None = None) -> RecordStore:
        return self._open(path, identity)

    def _open(self, path: Path, identity: Identity | None) -> SimStore:
        disk = self._disk
        try:
            disk.make_directory(path)
            tables = disk.find(path / _FILE)
            if tables is None:
                tables = Tables()
                tables.owner = identity
                disk.add(path / _FILE, tables)
                disk.sync_directory(path)
        except OSError as error:
            raise WriteFailed(f"opening state store {path} failed: {error}", hint="check the disk") from error
        assert isinstance(tables, Tables)
        if identity is not None and tables.owner is not None and tables.owner != identity:
            raise WrongIdentity(f"state store {path} belongs to {tables.owner}, not {identity}", hint="")
        return SimStore(disk, path, tables)

    def build(
        self, path: Path, chunks: Iterable[Sequence[Sealed]], meta: Mapping[str, bytes], *, identity: Identity
    ) -> None:
        store = self._open(path, identity)
        for chunk in chunks:
            for key, sealed in chunk:
                if not intact(key, sealed):
                    raise CorruptState(path, f"the record {key!r} has a wrong checksum")
            store.commit([(key, sealed[:-CRC_BYTES]) for key, sealed in chunk], (), {})
        store.commit((), (), meta)
        store.close()


def damage(tables: Tables, rng: random.Random) -> bool:
    """Alter a record on the medium; False when there is none."""
    keys = tables.keys()
    if keys:
        tables.damaged.add(rng.choice(keys))
    return bool(keys)


__all__ = ["PowerLoss", "SimStore", "SimStores", "Tables", "damage"]
