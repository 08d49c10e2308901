"""The bytes of a snapshot file. Pure: bytes in, values out.

::

    header    magic, crc, version, length | MessagePack of `SnapshotHeader`, zeros up to a sector
    blocks    each: magic, crc, payload bytes, records, number | the records
    zeros     up to a sector
    footer    one sector: magic, crc | size of the file, records, blocks, where the blocks end
    32 bytes  the SHA-256 of everything before

A record is its key length (u16), the length of its sealed value (u32), the key, the sealed value: the bytes that lie in
the state store, with their checksum, which therefore covers the whole way into the store of another member.

Everything is checked three ways, each for a question of its own. A record's checksum: is this what was written once?
A block's: how much of a file that arrived in part is good, so that its transfer goes on from there? The SHA-256: is
the file complete, and the one that was offered? The size leaves 32 when divided by 512, which is how `etcdctl snapshot
save` recognises a snapshot with its checksum at the end. All integers are little endian.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from plasmacloud.base.checksum import crc32
from plasmacloud.base.errors import StorageError
from plasmacloud.storage.record_store import Sealed

SECTOR_BYTES = 512
SHA_BYTES = hashlib.sha256().digest_size
FORMAT_VERSION = 1
MAX_HEADER_BYTES = 64 * 1024 * 1024
MAX_PAYLOAD_BYTES = 1024 * 1024 * 1024

_MAGIC = b"PLASMSNP"
_BLOCK_MAGIC = b"PSBK"
_FOOTER_MAGIC = b"PSND"
_HEADER = struct.Struct("<8sIII")  # crc over everything behind it, up to the end of the MessagePack
_HEADER_CRC_FROM = 12
_BLOCK = struct.Struct("<4sIIIQ")
_BLOCK_CRC_FROM = 8
_FOOTER = struct.Struct("<4sIQQQQ")
_RECORD = struct.Struct("<HI")
HEADER_START_BYTES = _HEADER.size
BLOCK_HEADER_BYTES = _BLOCK.size
MIN_FILE_BYTES = 2 * SECTOR_BYTES + SHA_BYTES


class BadSnapshotBytes(StorageError):
    """The bytes are not what they should be; the message says why."""


class SnapshotHeader(msgspec.Struct, frozen=True):
    """What a snapshot is of. Known before the first record is read."""

    cluster_id: int
    index: int  # the state contains the log up to here
    term: int  # of the entry at ``index``
    conf: bytes  # the configuration as of ``index``
    meta: dict[str, bytes]  # the named values of the state store
    records: int


class BlockHeader(NamedTuple):
    """The fixed part in front of a block's records."""

    crc: int
    payload_bytes: int
    records: int
    number: int


class Footer(NamedTuple):
    """The end of the file in numbers."""

    size_bytes: int
    records: int
    blocks: int
    blocks_end: int


def padding(size_bytes: int) -> bytes:
    """Zeros up to the next sector."""
    return bytes(-size_bytes % SECTOR_BYTES)


def encode_header(header: SnapshotHeader) -> bytes:
    """The header with its padding."""
    body = msgspec.msgpack.encode(header)
    if len(body) > MAX_HEADER_BYTES:
        raise BadSnapshotBytes(f"the named values have {len(body)} bytes, which is too much for a snapshot")
    rest = struct.pack("<II", FORMAT_VERSION, len(body)) + body
    raw = _MAGIC + crc32(rest).to_bytes(4, "little") + rest
    return raw + padding(len(raw))


def header_size(start: bytes) -> int:
    """Size of the padded header whose first `HEADER_START_BYTES` are given. Raises `BadSnapshotBytes`."""
    if len(start) < HEADER_START_BYTES:
        raise BadSnapshotBytes("the file is too short for a snapshot")
    magic, _, version, body_bytes = _HEADER.unpack_from(start)
    if magic != _MAGIC:
        raise BadSnapshotBytes("not a snapshot of PlasmaCloud")
    if version != FORMAT_VERSION:
        raise BadSnapshotBytes(f"snapshot format {version}; this version reads format {FORMAT_VERSION}")
    if body_bytes > MAX_HEADER_BYTES:
        raise BadSnapshotBytes(f"the header claims {body_bytes} bytes")
    size_bytes: int = HEADER_START_BYTES + body_bytes
    return size_bytes + len(padding(size_bytes))


def decode_header(data: bytes) -> SnapshotHeader:
    """The header of a file that starts with ``data``. Raises `BadSnapshotBytes`."""
    if len(data) < header_size(data):
        raise BadSnapshotBytes("the file ends inside its header")
    _, crc, _, body_bytes = _HEADER.unpack_from(data)
    if crc32(data[_HEADER_CRC_FROM : HEADER_START_BYTES + body_bytes]) != crc:
        raise BadSnapshotBytes("the header has a wrong checksum")
    try:
        return msgspec.msgpack.decode(
            memoryview(data)[HEADER_START_BYTES : HEADER_START_BYTES + body_bytes], type=SnapshotHeader
        )
    except msgspec.MsgspecError as error:
        raise BadSnapshotBytes(f"the header cannot be read: {error}") from error


def encode_block(number: int, chunk: Sequence[Sealed]) -> bytes:
    """One block of records."""
    parts: list[bytes] = [b""]
    pack = _RECORD.pack
    for key, sealed in chunk:
        parts += (pack(len(key), len(sealed)), key, sealed)
    payload = b"".join(parts)
    rest = struct.pack("<IIQ", len(payload), len(chunk), number)
    return b"".join((_BLOCK_MAGIC, crc32(payload, crc32(rest)).to_bytes(4, "little"), rest, payload))


def decode_block_header(data: bytes) -> BlockHeader:
    """Raises `BadSnapshotBytes`."""
    if len(data) < BLOCK_HEADER_BYTES:
        raise BadSnapshotBytes("a block header is cut short")
    magic, crc, payload_bytes, records, number = _BLOCK.unpack_from(data)
    if magic != _BLOCK_MAGIC or payload_bytes > MAX_PAYLOAD_BYTES:
        raise BadSnapshotBytes("there is no block where one should be")
    return BlockHeader(crc, payload_bytes, records, number)


def check_block(header: BlockHeader, raw: bytes) -> None:
    """``raw``: the whole block. Raises `BadSnapshotBytes` when it is not the one that was written."""
    view = memoryview(raw)
    crc = crc32(view[BLOCK_HEADER_BYTES:], crc32(view[_BLOCK_CRC_FROM:BLOCK_HEADER_BYTES]))
    if len(raw) != BLOCK_HEADER_BYTES + header.payload_bytes or crc != header.crc:
        raise BadSnapshotBytes(f"block {header.number} is damaged or cut short")


def decode_records(header: BlockHeader, raw: bytes) -> list[Sealed]:
    """The records of a block that `check_block` has accepted. Raises `BadSnapshotBytes`."""
    found: list[Sealed] = []
    at, end = BLOCK_HEADER_BYTES, len(raw)
    unpack = _RECORD.unpack_from
    while at + _RECORD.size <= end:
        key_bytes, sealed_bytes = unpack(raw, at)
        key_at = at + _RECORD.size
        value_at = key_at + key_bytes
        at = value_at + sealed_bytes
        found.append((raw[key_at:value_at], raw[value_at:at]))
    if at != end or len(found) != header.records:
        raise BadSnapshotBytes(f"the records of block {header.number} make no sense")
    return found


def encode_footer(footer: Footer) -> bytes:
    """The last sector before the hash."""
    rest = struct.pack("<QQQQ", *footer)
    raw = _FOOTER_MAGIC + crc32(rest).to_bytes(4, "little") + rest
    return raw + padding(len(raw))


def decode_footer(data: bytes) -> Footer:
    """Raises `BadSnapshotBytes`."""
    if len(data) != SECTOR_BYTES:
        raise BadSnapshotBytes("the file ends before its footer")
    magic, crc, *numbers = _FOOTER.unpack_from(data)
    if magic != _FOOTER_MAGIC or crc32(data[8 : _FOOTER.size]) != crc:
        raise BadSnapshotBytes("the footer is missing or damaged: the file is not complete")
    return Footer(*numbers)


def plain_meta(meta: Mapping[str, bytes]) -> dict[str, bytes]:
    """Named values in an order that does not depend on who wrote them."""
    return dict(sorted(meta.items()))
