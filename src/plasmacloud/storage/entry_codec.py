"""Entries to records and back; see `entry` for the layout."""

import struct

from plasmacloud.base.checksum import crc32
from plasmacloud.storage.entry import (
    MAX_ENTRY_DATA_BYTES,
    RECORD_HEADER,
    RECORD_HEADER_BYTES,
    CorruptRecord,
    Entry,
    EntryKind,
)

_BODY_HEADER = struct.Struct("<IQQB")
_KINDS: dict[int, EntryKind] = {int(kind): kind for kind in EntryKind}


def make_entry(term: int, index: int, kind: EntryKind, data: bytes) -> Entry:
    """Encode an entry."""
    assert term > 0
    assert index > 0
    assert len(data) <= MAX_ENTRY_DATA_BYTES
    body = _BODY_HEADER.pack(len(data), term, index, kind) + data
    return Entry(term, index, kind, data, crc32(body).to_bytes(4, "little") + body)


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
    if crc32(memoryview(record)[4:]) != crc:
        raise CorruptRecord(f"record at byte {offset} (index {index}) has a wrong checksum")
    if term == 0 or index == 0 or kind > EntryKind.MEMBERSHIP:
        raise CorruptRecord(f"record at byte {offset} has impossible fields: term {term}, index {index}, kind {kind}")
    return Entry(term, index, _KINDS[kind], record[RECORD_HEADER_BYTES:], record), end
