"""The log entry and its one encoding.

The bytes of a record in the write-ahead log are the bytes of the entry in an AppendEntries frame: the leader encodes
an entry once (`entry_codec`), and followers write to disk exactly what they received. The CRC-32 travels with the
entry, so that a flipped bit on any disk is noticed before it spreads.

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
from enum import IntEnum
from typing import NamedTuple

import msgspec

from plasmacloud.base.errors import StorageError

RECORD_HEADER = struct.Struct("<IIQQB")
RECORD_HEADER_BYTES = RECORD_HEADER.size
MAX_ENTRY_DATA_BYTES = 64 * 1024 * 1024


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
