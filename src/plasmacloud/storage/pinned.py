"""One moment of the applied state, held still while commits go on: what a snapshot is read from.

An LMDB read transaction sees the state as of its beginning for as long as it lives, at no cost to the writer but one:
pages that were freed since then cannot be reused, so the file grows. And while one lives, the memory map may not move.
So the life of a pin is bounded from outside. The store lets go of it, whatever its reader is doing at that moment,
when it is older than it may be or when the map has to grow; the reader is told with the next read (`PinLost`) and
starts again. Reading never holds the lock for longer than one small chunk.

Records come out as they lie in the store, with their checksum (CRC-32 of key and value, behind the value): it is
verified here and travels on, so that it covers the way from one member's disk to another's.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import lmdb

from plasmacloud.base.checksum import crc32
from plasmacloud.base.errors import StorageError
from plasmacloud.base.units import format_duration
from plasmacloud.storage.disk import PAUSE_S
from plasmacloud.storage.record_store import Sealed
from plasmacloud.storage.wal_errors import CorruptState

CRC_BYTES = 4
RECORDS_PER_TURN = 256
"""After so many records a thread that works in bulk lets the event loop have the interpreter lock."""
_RESIDUE = 0x2144DF1C  # the CRC-32 of anything followed by its own CRC-32
_PAUSE_BYTES = 256 * 1024


class PinLost(StorageError):
    """The store let go of the moment that was held; begin again."""


def seal(key: bytes, value: bytes) -> bytes:
    """The value with the checksum of key and value behind it."""
    return value + crc32(value, crc32(key)).to_bytes(CRC_BYTES, "little")


def intact(key: bytes, sealed: bytes) -> bool:
    """Whether key and value are what was sealed."""
    return crc32(sealed, crc32(key)) == _RESIDUE and len(sealed) >= CRC_BYTES


class PinnedState:
    """The records and named values of one commit. Made by `StateStore.pin`, read by one thread."""

    def __init__(self, path: Path, txn: lmdb.Transaction, kv: "lmdb._Database", meta: "lmdb._Database") -> None:
        self.path = path
        self.records: int = txn.stat(kv)["entries"]
        self.began_s = time.monotonic()
        self._mutex = threading.Lock()  # held while reading, and to let go
        self._txn: lmdb.Transaction | None = txn
        self._lost = "the pin was released"
        with txn.cursor(meta) as cursor:
            self._meta = cast(list[Sealed], list(cursor.iternext()))
        self._cursor = txn.cursor(kv)
        self._more = self._cursor.first()

    @property
    def age_s(self) -> float:
        """Seconds since it was taken."""
        return time.monotonic() - self.began_s

    def meta(self) -> Mapping[str, bytes]:
        """The named values, without the store's own marks. Raises `StorageError` when one is damaged."""
        found: dict[str, bytes] = {}
        for name, sealed in self._meta:
            if not name.startswith(b"\0"):
                self._check(name, sealed)
                found[name.decode()] = sealed[:-CRC_BYTES]
        return found

    def chunks(self, size_bytes: int) -> Iterator[list[Sealed]]:
        """All records in key order, in chunks of about ``size_bytes``.

        Raises `PinLost`, or `StorageError` for a record whose checksum is wrong.
        """
        chunk: list[Sealed] = []
        found_bytes = 0
        while turn := self._turn():
            for key, sealed in turn:
                self._check(key, sealed)
                found_bytes += len(key) + len(sealed)
            chunk += turn
            if found_bytes >= size_bytes:
                yield chunk
                chunk, found_bytes = [], 0
            time.sleep(PAUSE_S)
        if chunk:
            yield chunk

    def let_go(self, why: str) -> None:
        """End the read transaction, from any thread; idempotent."""
        with self._mutex:
            if self._txn is not None:
                self._lost = why
                self._cursor.close()
                self._txn.abort()
                self._txn = None

    def _turn(self) -> list[Sealed]:
        """The next few records."""
        found: list[Sealed] = []
        with self._mutex:
            if self._txn is None:
                raise PinLost(
                    f"reading state store {self.path} at one moment was cut short after "
                    f"{format_duration(self.age_s)}: {self._lost}"
                )
            cursor, left_bytes = self._cursor, _PAUSE_BYTES
            while self._more and len(found) < RECORDS_PER_TURN and left_bytes > 0:
                item = cast(Sealed, cursor.item())
                found.append(item)
                left_bytes -= len(item[1])
                self._more = cursor.next()
        return found

    def _check(self, key: bytes, sealed: bytes) -> None:
        if not intact(key, sealed):
            raise CorruptState(self.path, f"the record {key!r} has a wrong checksum")
