"""The log entry and its one encoding.

The bytes of a record in the write-ahead log are the bytes of the entry in an AppendEntries frame: the leader encodes
an entry once, and followers write to disk exactly what they received. The CRC-32 travels with the entry, so that a
flipped bit on any disk is noticed before it spreads.

Record layout (little endian)::

    u32 crc     CRC-32 of everything after this field
    u32 size    length of data in bytes
    u64 term
    u64 index
    u8  kind    EntryKind
    ... data

This module is pure: no file, no clock.
"""

import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

import msgspec

from plasmacloud.base.errors import StorageError

RECORD_HEADER = struct.Struct("<IIQQB")
RECORD_HEADER_BYTES = RECORD_HEADER.size
MAX_ENTRY_DATA_BYTES = 64 * 1024 * 1024

_BODY_HEADER = struct.Struct("<IQQB")


class CorruptRecord(StorageError):
    """The bytes are not a whole, unaltered record."""


class Compacted(StorageError):
    """The index lies at or below the point up to which the log was discarded."""


class Unavailable(StorageError):
    """The index lies behind the end of the log."""


class EntryKind(IntEnum):
    """What the data of an entry means."""

    EMPTY = 0  # the entry by which a new leader commits its predecessors' entries
    COMMANDS = 1  # a batch of state machine commands
    MEMBERSHIP = 2  # a configuration change


class Entry(NamedTuple):
    """One log entry. ``record`` is the encoded form and contains the other fields."""

    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody misses here
    kind: EntryKind
    data: bytes
    record: bytes

    @property
    def size_bytes(self) -> int:
        """Size of the record, as it counts against windows and limits."""
        return len(self.record)


class HardState(msgspec.Struct, frozen=True, gc=False):
    """What must be durable before any message of the term leaves. ``vote`` 0 means none."""

    term: int = 0
    vote: int = 0
    commit: int = 0


def make_entry(term: int, index: int, kind: EntryKind, data: bytes) -> Entry:
    """Encode an entry."""
    assert term > 0
    assert index > 0
    assert len(data) <= MAX_ENTRY_DATA_BYTES
    body = _BODY_HEADER.pack(len(data), term, index, kind) + data
    return Entry(term, index, kind, data, zlib.crc32(body).to_bytes(4, "little") + body)


def decode_entry(buffer: bytes | memoryview, offset: int = 0) -> tuple[Entry, int]:
    """Decode the record at ``offset``; return the entry and the offset behind it.

    Raises `CorruptRecord` when the bytes are short, damaged or no record.
    """
    body_at = offset + RECORD_HEADER_BYTES
    if body_at > len(buffer):
        raise CorruptRecord(f"record header at byte {offset} is cut short")
    crc, size, term, index, kind = RECORD_HEADER.unpack_from(buffer, offset)
    end = body_at + size
    if size > MAX_ENTRY_DATA_BYTES or end > len(buffer):
        raise CorruptRecord(f"record at byte {offset} claims {size} bytes of data, which are not there")
    record = bytes(buffer[offset:end])
    if zlib.crc32(memoryview(record)[4:]) != crc:
        raise CorruptRecord(f"record at byte {offset} (index {index}) has a wrong checksum")
    if term == 0 or index == 0 or kind > EntryKind.MEMBERSHIP:
        raise CorruptRecord(f"record at byte {offset} has impossible fields: term {term}, index {index}, kind {kind}")
    return Entry(term, index, EntryKind(kind), record[RECORD_HEADER_BYTES:], record), end
