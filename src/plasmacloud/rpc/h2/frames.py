"""HTTP/2 frames as bytes (RFC 9113 sections 4 and 6): one header struct, builders, and payload parsers.

Builders return complete frames; the connection's read loop parses frame headers itself, with ``FRAME_HEADER``.
"""

import struct
from collections.abc import Sequence
from typing import Final

from plasmacloud.rpc.h2.errors import ConnectionFault, ErrorCode

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITIZED: Final = 0x20

FRAME_HEADER_BYTES: Final = 9
DEFAULT_MAX_FRAME_BYTES: Final = 16_384
MAX_STREAM_ID: Final = 0x7FFF_FFFF

# Length is 24 bits: its upper 16 and lower 8 are two fields, so that one precompiled struct reads all of it.
FRAME_HEADER: Final = struct.Struct(">HBBBI")
_U32: Final = struct.Struct(">I")
_SETTING: Final = struct.Struct(">HI")
_GOAWAY: Final = struct.Struct(">II")
_pack = FRAME_HEADER.pack


def frame_header(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The nine bytes that precede a payload of ``length`` bytes."""
    return _pack(length >> 8, length & 0xFF, kind, flags, stream_id)


def settings_frame(pairs: Sequence[tuple[int, int]]) -> bytes:
    """SETTINGS with (identifier, value) pairs."""
    payload = b"".join(_SETTING.pack(name, value) for name, value in pairs)
    return frame_header(len(payload), SETTINGS, 0, 0) + payload


SETTINGS_ACK: Final = frame_header(0, SETTINGS, ACK, 0)


def ping_frame(payload: bytes, *, ack: bool = False) -> bytes:
    """PING; ``payload`` is exactly eight opaque bytes."""
    assert len(payload) == 8
    return frame_header(8, PING, ACK if ack else 0, 0) + payload


def goaway_frame(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    """GOAWAY: streams above ``last_stream_id`` were not and will not be processed."""
    return frame_header(8 + len(debug), GOAWAY, 0, 0) + _GOAWAY.pack(last_stream_id, code) + debug


def rst_stream_frame(stream_id: int, code: int) -> bytes:
    """RST_STREAM: the sender gives up this stream."""
    return frame_header(4, RST_STREAM, 0, stream_id) + _U32.pack(code)


def window_update_frame(stream_id: int, increment: int) -> bytes:
    """WINDOW_UPDATE; stream 0 is the connection's own window."""
    assert 0 < increment <= MAX_STREAM_ID
    return frame_header(4, WINDOW_UPDATE, 0, stream_id) + _U32.pack(increment)


def data_frame(stream_id: int, payload: bytes, *, end_stream: bool = False) -> bytes:
    """One DATA frame without padding."""
    return frame_header(len(payload), DATA, END_STREAM if end_stream else 0, stream_id) + payload


def headers_frames(stream_id: int, block: bytes, *, end_stream: bool, max_frame_bytes: int) -> bytes:
    """A header block as HEADERS and as many CONTINUATION frames as it needs."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= max_frame_bytes:
        return frame_header(len(block), HEADERS, flags | END_HEADERS, stream_id) + block
    parts = [frame_header(max_frame_bytes, HEADERS, flags, stream_id), block[:max_frame_bytes]]
    for start in range(max_frame_bytes, len(block), max_frame_bytes):
        piece = block[start : start + max_frame_bytes]
        last = start + max_frame_bytes >= len(block)
        parts += (frame_header(len(piece), CONTINUATION, END_HEADERS if last else 0, stream_id), piece)
    return b"".join(parts)


def strip_padding(flags: int, data: bytes, start: int, stop: int, *, headers: bool) -> tuple[int, int]:
    """The bounds of the content of a padded and/or prioritised payload ``data[start:stop]``.

    Raises ConnectionFault when padding or priority fields do not fit (RFC 9113 sections 6.1 and 6.2).
    """
    padding = 0
    if flags & PADDED:
        if start == stop:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "padded frame without a pad length")
        padding = data[start]
        start += 1
    if headers and flags & PRIORITIZED:
        start += 5
    if start > stop:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "frame too short for its flags")
    if start + padding > stop:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding longer than the frame")
    return start, stop - padding


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """The (identifier, value) pairs of a SETTINGS payload, in order."""
    if len(payload) % 6:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
    return list(_SETTING.iter_unpack(payload))


def parse_u32(payload: bytes, what: str) -> int:
    """The single 32-bit field of RST_STREAM or WINDOW_UPDATE."""
    if len(payload) != 4:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"{what} of {len(payload)} bytes")
    value: int = _U32.unpack(payload)[0]
    return value


def parse_goaway(payload: bytes) -> tuple[int, int, bytes]:
    """(last stream id, error code, debug data) of a GOAWAY payload."""
    if len(payload) < 8:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} bytes")
    last, code = _GOAWAY.unpack_from(payload)
    return last & MAX_STREAM_ID, code, payload[8:]
