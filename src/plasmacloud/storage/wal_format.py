"""The bytes of the write-ahead log: segments, groups, records. Pure: bytes in, values out.

A **segment** is a file of fixed size, filled with zeros before use. It starts with a header that names its owner and
repeats the state of the log at that point (hard state, log mark, last index), so that any run of newest segments can
be understood without the older ones. Behind the header come **groups**. A group is one write followed by one sync; it
is therefore the unit that a power loss can tear. A group holds **records**: log entries exactly as `storage.entry`
encodes them, and state records in the same frame with kinds of their own. Every record carries its CRC-32.

Groups start on 512-byte boundaries, so a write never touches a sector that holds acknowledged bytes.

Each segment draws a random **salt** that goes into the checksum of its group headers. Only this segment's writer can
produce a valid group header, which makes two decisions of the recovery safe: bytes of a client's value that look like
a group are never taken for one, and a valid header found behind damaged bytes proves that a later group was written,
hence that the damaged one had been acknowledged.

All integers are little endian.
"""

import struct
from typing import NamedTuple

import msgspec

from plasmacloud.base.checksum import crc32
from plasmacloud.base.errors import StorageError
from plasmacloud.storage.entry import RECORD_HEADER, RECORD_HEADER_BYTES, EntryKind, HardState

BLOCK_BYTES = 512
FORMAT_VERSION = 1
SEGMENT_MAGIC = b"PLASMWAL"
GROUP_MAGIC = b"PGRP"
MAX_CONF_BYTES = 1024 * 1024

KIND_HARD_STATE = 0x80
KIND_MARK = 0x81  # the log goes on
KIND_RESET = 0x82  # a mark that discards the whole log, which continues behind it

# magic, crc, version, header bytes | segment, segment bytes, cluster, member, salt, first sequence, last index, last
# term | hard state term, vote, commit | mark index, term; the conf follows
_SEGMENT_HEADER = struct.Struct("<8sIII4x8Q3Q2Q")
_SEGMENT_CRC_FROM = 12
# magic, crc | segment, sequence, payload bytes, records
_GROUP_HEADER = struct.Struct("<4sIQQII")
_GROUP_BODY = struct.Struct("<QQII")
GROUP_HEADER_BYTES = _GROUP_HEADER.size
SEGMENT_HEADER_BYTES = _SEGMENT_HEADER.size
_RECORD_BODY = struct.Struct("<IQQB")
_U64 = struct.Struct("<Q")

_STATE_KINDS = (KIND_HARD_STATE, KIND_MARK, KIND_RESET)

assert GROUP_HEADER_BYTES <= BLOCK_BYTES


class BadBytes(StorageError):
    """The bytes are not what they should be; the message says why. The caller knows the file and what follows."""


class Identity(msgspec.Struct, frozen=True):
    """Who owns a data directory."""

    cluster_id: int
    member_id: int


class LogMark(msgspec.Struct, frozen=True):
    """The state up to and including ``index`` is durable elsewhere; ``conf`` is the configuration at that index."""

    index: int = 0
    term: int = 0
    conf: bytes = b""


class SegmentHeader(msgspec.Struct, frozen=True):
    """The first bytes of a segment: its owner, and the state of the log before the segment's first group."""

    segment: int
    segment_bytes: int
    identity: Identity
    salt: int
    first_sequence: int
    last_index: int
    last_term: int
    hard_state: HardState
    mark: LogMark

    @property
    def padded_bytes(self) -> int:
        """Where the first group starts."""
        return padded(SEGMENT_HEADER_BYTES + len(self.mark.conf))


class GroupHeader(NamedTuple):
    """What a valid group header says."""

    sequence: int
    payload_bytes: int
    records: int


class Record(NamedTuple):
    """One record of a group: where it lies and what it says. ``data`` is empty for entries, which stay on disk."""

    kind: int
    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index
    data: bytes
    offset: int
    size_bytes: int


def padded(size_bytes: int) -> int:
    """The size rounded up to whole blocks."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The header with its padding."""
    conf = header.mark.conf
    assert len(conf) <= MAX_CONF_BYTES
    size_bytes = SEGMENT_HEADER_BYTES + len(conf)
    state, mark = header.hard_state, header.mark
    raw = bytearray(padded(size_bytes))
    _SEGMENT_HEADER.pack_into(
        raw, 0, SEGMENT_MAGIC, 0, FORMAT_VERSION, size_bytes,
        header.segment, header.segment_bytes, header.identity.cluster_id, header.identity.member_id, header.salt,
        header.first_sequence, header.last_index, header.last_term,
        state.term, state.vote, state.commit, mark.index, mark.term,
    )  # fmt: skip
    raw[SEGMENT_HEADER_BYTES:size_bytes] = conf
    struct.pack_into("<I", raw, 8, crc32(memoryview(raw)[_SEGMENT_CRC_FROM:size_bytes]))
    return bytes(raw)


def decode_segment_header(data: bytes) -> tuple[int, SegmentHeader | None]:
    """The format version, and the header when this code can read that version; raises `BadBytes`.

    Magic, checksum, version and header size keep their place in every version.
    """
    if len(data) < SEGMENT_HEADER_BYTES:
        raise BadBytes(f"the file ends inside the segment header ({len(data)} bytes)")
    fields = _SEGMENT_HEADER.unpack_from(data)
    magic, crc, version, size_bytes = fields[:4]
    if magic != SEGMENT_MAGIC:
        raise BadBytes("not a log segment: the magic bytes are wrong")
    if not _SEGMENT_CRC_FROM < size_bytes <= len(data):
        raise BadBytes(f"the segment header claims {size_bytes} bytes")
    if crc32(memoryview(data)[_SEGMENT_CRC_FROM:size_bytes]) != crc:
        raise BadBytes("the segment header has a wrong checksum")
    if version != FORMAT_VERSION:
        return version, None
    segment, segment_bytes, cluster, member, salt, sequence, last_index, last_term = fields[4:12]
    term, vote, commit, mark_index, mark_term = fields[12:]
    return version, SegmentHeader(
        segment, segment_bytes, Identity(cluster, member), salt, sequence, last_index, last_term,
        HardState(term, vote, commit), LogMark(mark_index, mark_term, data[SEGMENT_HEADER_BYTES:size_bytes]),
    )  # fmt: skip


def salt_seed(salt: int) -> int:
    """Start value of the group header checksums of a segment."""
    return crc32(_U64.pack(salt))


def encode_group_header(seed: int, segment: int, sequence: int, payload_bytes: int, records: int) -> bytes:
    """Header of a group; the payload follows at once, then zeros up to the next block."""
    body = _GROUP_BODY.pack(segment, sequence, payload_bytes, records)
    return GROUP_MAGIC + crc32(body, seed).to_bytes(4, "little") + body


def decode_group_header(data: bytes, offset: int, seed: int, segment: int) -> GroupHeader | None:
    """The group header at ``offset``, or None when there is no valid one of this segment."""
    if offset + GROUP_HEADER_BYTES > len(data):
        return None
    magic, crc, number, sequence, payload_bytes, records = _GROUP_HEADER.unpack_from(data, offset)
    if magic != GROUP_MAGIC or number != segment or crc32(data[offset + 8 : offset + GROUP_HEADER_BYTES], seed) != crc:
        return None
    return GroupHeader(sequence, payload_bytes, records)


def group_size_bytes(payload_bytes: int) -> int:
    """Bytes a group takes in its segment."""
    return padded(GROUP_HEADER_BYTES + payload_bytes)


def encode_hard_state(state: HardState) -> bytes:
    """A hard state record: commit in the place of the index, the vote as data."""
    return _record(KIND_HARD_STATE, state.term, state.commit, _U64.pack(state.vote))


def decode_hard_state(record: Record) -> HardState:
    """The hard state of a record of kind `KIND_HARD_STATE`."""
    if len(record.data) != _U64.size:
        raise BadBytes(f"the hard state record at byte {record.offset} has {len(record.data)} bytes of data")
    return HardState(record.term, _U64.unpack(record.data)[0], record.index)


def encode_mark(mark: LogMark, *, reset: bool) -> bytes:
    """A log mark record."""
    assert len(mark.conf) <= MAX_CONF_BYTES
    return _record(KIND_RESET if reset else KIND_MARK, mark.term, mark.index, mark.conf)


def decode_payload(data: bytes, offset: int, group: GroupHeader) -> list[Record]:
    """The records of the group whose payload starts at ``offset``, checksums verified; raises `BadBytes`."""
    end = offset + group.payload_bytes
    if end > len(data):
        raise BadBytes(f"group {group.sequence} claims {group.payload_bytes} bytes, which are not in the file")
    records: list[Record] = []
    view = memoryview(data)
    unpack = RECORD_HEADER.unpack_from
    while offset < end:
        body_at = offset + RECORD_HEADER_BYTES
        if body_at > end:
            raise BadBytes(f"group {group.sequence}: a record header at byte {offset} is cut short")
        crc, size, term, index, kind = unpack(data, offset)
        after = body_at + size
        if after > end:
            raise BadBytes(f"group {group.sequence}: the record at byte {offset} claims {size} bytes of data")
        if crc32(view[offset + 4 : after]) != crc:
            raise BadBytes(f"group {group.sequence}: the record at byte {offset} has a wrong checksum")
        if kind > EntryKind.MEMBERSHIP and kind not in _STATE_KINDS:
            raise BadBytes(f"group {group.sequence}: the record at byte {offset} has the unknown kind {kind}")
        content = b"" if kind <= EntryKind.MEMBERSHIP else data[body_at:after]
        records.append(Record(kind, term, index, content, offset, after - offset))
        offset = after
    if len(records) != group.records:
        raise BadBytes(f"group {group.sequence} has {len(records)} records instead of {group.records}")
    return records


def _record(kind: int, term: int, index: int, data: bytes) -> bytes:
    body = _RECORD_BODY.pack(len(data), term, index, kind) + data
    return crc32(body).to_bytes(4, "little") + body


HARD_STATE_BYTES = len(encode_hard_state(HardState()))
