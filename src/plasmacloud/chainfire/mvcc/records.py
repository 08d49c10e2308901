"""Where records live between the moment they are applied and the moment they are on disk.

A *record* is the encoded ``mvccpb.KeyValue`` of one change, under a *record id*: main revision (8 bytes, big endian),
then twice the sub revision, plus one for a tombstone (4 bytes). Ids therefore sort in the order of the changes, which
is also the order in which they are written: good for a B+tree.

New records gather in a memtable. A checkpoint freezes it and starts a second one, so that a worker thread can commit
the first while writes go on; reads look through both and then into the store. Everything is dicts and bytes, which
the cyclic garbage collector does not traverse.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, cast

from plasmacloud.base.errors import StorageError

RECORD_ID = struct.Struct(">QI")
RECORD_ID_BYTES = RECORD_ID.size


class RecordStore(Protocol):
    """Durable records. Reads happen on the thread of the state machine, also while a commit runs on another."""

    def get(self, key: bytes, /) -> bytes | None: ...

    def get_many(self, keys: Sequence[bytes], /) -> Sequence[bytes | None]:
        """The values in the order of the keys."""

    def scan(self, start: bytes = b"", end: bytes | None = None, /) -> Iterator[tuple[bytes, bytes]]:
        """All pairs with start <= key < end in order of the keys."""

    def meta(self, name: str, /) -> bytes | None:
        """A value committed as meta data of a checkpoint."""


class EmptyRecordStore:
    """The store of a member that has never committed a checkpoint."""

    def get(self, key: bytes, /) -> bytes | None:
        return None

    def get_many(self, keys: Sequence[bytes], /) -> Sequence[bytes | None]:
        return [None] * len(keys)

    def scan(self, start: bytes = b"", end: bytes | None = None, /) -> Iterator[tuple[bytes, bytes]]:
        return iter(())

    def meta(self, name: str, /) -> bytes | None:
        return None


class RecordMissing(StorageError):
    """The index knows a record that the store does not have: the data directory is damaged."""


def record_id(main: int, sub: int, tombstone: bool) -> bytes:
    """The id of the change ``sub`` of revision ``main``."""
    return RECORD_ID.pack(main, sub << 1 | tombstone)


def is_tombstone(identity: bytes) -> bool:
    """Whether the id is that of a deletion."""
    return bool(identity[RECORD_ID_BYTES - 1] & 1)


class Records:
    """Two memtable generations over a `RecordStore`."""

    __slots__ = ("_base", "_deletes", "_frozen", "_gone_bytes", "_gone_count", "active", "active_bytes", "kept_before")

    def __init__(self, base: RecordStore) -> None:
        self._base = base
        self.active: dict[bytes, bytes] = {}
        self.active_bytes = 0  # record bytes in the active memtable; a reason to take a checkpoint
        self._frozen: dict[bytes, bytes] | None = None
        self._deletes: list[bytes] = []
        self._gone_count = 0  # records that were in an active memtable, and are there no more
        self._gone_bytes = 0
        self.kept_before = 0
        """Records that there were in the store at the start, less those dropped since."""

    @property
    def kept_count(self) -> int:
        """Records that a reader can reach."""
        return self.kept_before + self.added_count

    @property
    def added_count(self) -> int:
        """Records ever added."""
        return self._gone_count + len(self.active)

    @property
    def added_bytes(self) -> int:
        """Their bytes."""
        return self._gone_bytes + self.active_bytes

    def add(self, identity: bytes, record: bytes) -> None:
        """A new record."""
        self.active[identity] = record
        self.active_bytes += len(record)

    def get(self, identity: bytes) -> bytes:
        """One record. Raises `RecordMissing`."""
        record = self.active.get(identity)
        if record is None and self._frozen is not None:
            record = self._frozen.get(identity)
        if record is None:
            record = self._base.get(identity)
            if record is None:
                raise _missing(identity)
        return record

    def get_many(self, identities: list[bytes]) -> list[bytes]:
        """The records in the order of the ids. Raises `RecordMissing`."""
        found = list(map(self.active.get, identities))  # no record is empty, so truth means found
        if all(found):
            return cast(list[bytes], found)
        if self._frozen is not None:
            frozen = self._frozen.get
            found = [record or frozen(identity) for identity, record in zip(identities, found, strict=True)]
        wanted = [identity for identity, record in zip(identities, found, strict=True) if not record]
        if wanted:
            stored = iter(self._base.get_many(wanted))
            found = [record or next(stored) for record in found]
            if not all(found):
                raise _missing(next(i for i, record in zip(identities, found, strict=True) if not record))
        return cast(list[bytes], found)

    def stored(self) -> Iterator[tuple[bytes, bytes]]:
        """All records of the store, in the order of their ids; those in the memtables are not among them."""
        return self._base.scan()

    def drop(self, identities: Iterable[bytes]) -> None:
        """Forget records that no reader can reach any more."""
        active = self.active
        for identity in identities:
            self.kept_before -= 1
            record = active.pop(identity, None)
            if record is None:
                self._deletes.append(identity)  # it is, or is about to be, in the store
            else:
                self.active_bytes -= len(record)
                self._gone_bytes += len(record)
                self._gone_count += 1

    @property
    def checkpoint_running(self) -> bool:
        """Whether a frozen memtable is being committed."""
        return self._frozen is not None

    def freeze(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        """Start a new memtable; return the puts and deletes to commit. Neither changes any more."""
        assert self._frozen is None, "the previous checkpoint is still being committed"
        frozen, deletes = self.active, self._deletes
        self._frozen = frozen
        self._gone_count += len(frozen)
        self._gone_bytes += self.active_bytes
        self.active, self._deletes, self.active_bytes = {}, [], 0
        return frozen, deletes

    def commit_done(self) -> None:
        """What `freeze` returned is in the store."""
        assert self._frozen is not None, "no checkpoint is being committed"
        self._frozen = None


def _missing(identity: bytes) -> RecordMissing:
    main, sub = RECORD_ID.unpack(identity)
    return RecordMissing(
        f"revision {main}.{sub >> 1} is in the index but not in the store",
        hint="stop the member, remove its data directory and let it join again from the others",
    )
