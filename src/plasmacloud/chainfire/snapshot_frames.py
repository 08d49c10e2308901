"""What two members say to each other while one sends the other a snapshot: frames as bytes.

A frame is its kind (u8), the CRC-32 of kind and rest (u32), and the rest; integers are little endian::

    OFFER    u64 transfer  u64 size  32 bytes SHA-256  u64 index  u64 term
    REQUEST  u64 transfer  u64 offset  u64 window  u8 again
    CHUNK    u64 transfer  u64 offset  bytes
    DONE     u64 transfer
    ABORT    u64 transfer  reason (UTF-8)

The transfer's number is the beginning of the snapshot's SHA-256, so that both sides recognise an earlier one.
"""

import struct
from enum import IntEnum

import msgspec

from plasmacloud.base.checksum import crc32
from plasmacloud.base.errors import PlasmaError

MAX_CHUNK_BYTES = 1024 * 1024
MAX_REASON_BYTES = 500
_HEAD = struct.Struct("<BI")
_OFFER = struct.Struct("<QQ32sQQ")
_REQUEST = struct.Struct("<QQQB")
_CHUNK = struct.Struct("<QQ")
_TRANSFER = struct.Struct("<Q")


class BadFrame(PlasmaError):
    """The bytes are no frame of a transfer."""


class FrameKind(IntEnum):
    """The first byte."""

    OFFER = 1
    REQUEST = 2
    CHUNK = 3
    DONE = 4
    ABORT = 5


class Offer(msgspec.Struct, frozen=True):
    """There is this snapshot. Repeated until it is answered."""

    size_bytes: int
    sha256: bytes
    index: int
    term: int

    @property
    def transfer(self) -> int:
        """The number that the other frames carry."""
        return int.from_bytes(self.sha256[:8], "little")


class Request(msgspec.Struct, frozen=True):
    """Everything before ``offset`` is here; send up to ``window`` bytes from there. ``again``: begin at it anew."""

    transfer: int
    offset: int
    window_bytes: int
    again: bool


class Chunk(msgspec.Struct, frozen=True):
    """A piece of the file."""

    transfer: int
    offset: int
    data: bytes


class Done(msgspec.Struct, frozen=True):
    """The file is complete and verified."""

    transfer: int


class Abort(msgspec.Struct, frozen=True):
    """There will be no more frames of this transfer from this side."""

    transfer: int
    reason: str


Frame = Offer | Request | Chunk | Done | Abort


def encode_frame(frame: Frame) -> bytes:
    """The frame as bytes."""
    if isinstance(frame, Chunk):
        return _frame(FrameKind.CHUNK, _CHUNK.pack(frame.transfer, frame.offset) + frame.data)
    if isinstance(frame, Request):
        body = _REQUEST.pack(frame.transfer, frame.offset, frame.window_bytes, frame.again)
        return _frame(FrameKind.REQUEST, body)
    if isinstance(frame, Offer):
        body = _OFFER.pack(frame.transfer, frame.size_bytes, frame.sha256, frame.index, frame.term)
        return _frame(FrameKind.OFFER, body)
    if isinstance(frame, Done):
        return _frame(FrameKind.DONE, _TRANSFER.pack(frame.transfer))
    reason = frame.reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore").encode()
    return _frame(FrameKind.ABORT, _TRANSFER.pack(frame.transfer) + reason)


def decode_frame(data: bytes) -> Frame:
    """Raises `BadFrame` for anything that `encode_frame` does not make, altered frames included."""
    try:
        kind, crc = _HEAD.unpack_from(data)
        body = data[_HEAD.size :]
        if crc32(body, kind) != crc:
            raise BadFrame(f"a frame of a snapshot transfer of {len(data)} bytes is damaged")
        return _decode(FrameKind(kind), body)
    except (struct.error, ValueError) as error:
        raise BadFrame(f"no frame of a snapshot transfer: {error}") from None


def _frame(kind: FrameKind, body: bytes) -> bytes:
    return _HEAD.pack(kind, crc32(body, kind)) + body


def _decode(kind: FrameKind, body: bytes) -> Frame:
    if kind is FrameKind.CHUNK:
        transfer, offset = _CHUNK.unpack_from(body)
        data = body[_CHUNK.size :]
        if not 0 < len(data) <= MAX_CHUNK_BYTES:
            raise BadFrame(f"a piece of a snapshot has {len(data)} bytes")
        return Chunk(transfer, offset, data)
    if kind is FrameKind.REQUEST:
        transfer, offset, window_bytes, again = _REQUEST.unpack(body)
        return Request(transfer, offset, window_bytes, bool(again))
    if kind is FrameKind.OFFER:
        transfer, size_bytes, sha256, index, term = _OFFER.unpack(body)
        offer = Offer(size_bytes, sha256, index, term)
        if offer.transfer != transfer:
            raise BadFrame("an offer contradicts itself")
        return offer
    (transfer,) = _TRANSFER.unpack_from(body)
    if kind is FrameKind.DONE:
        return Done(transfer)
    reason = body[_TRANSFER.size :].decode(errors="replace")
    return Abort(transfer, "".join(c if c.isprintable() else "?" for c in reason))
