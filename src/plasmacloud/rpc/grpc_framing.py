"""gRPC over HTTP/2: length-prefixed messages, timeouts, percent-encoded status texts, binary metadata.

Specification: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Sequence
from typing import Final

from plasmacloud.rpc.h2.headers import Field
from plasmacloud.rpc.status import Metadata, RpcError, StatusCode

PREFIX: Final = struct.Struct(">BI")  # compressed flag, length
PREFIX_BYTES: Final = 5
ACCEPTED: Final = b"identity,deflate,gzip"

_WBITS: Final = {b"gzip": 31, b"deflate": 15}  # "deflate" is the zlib format (RFC 1950), as everywhere in HTTP
_WORTH_COMPRESSING: Final = 1024  # bytes
MAX_COMPRESSED_BYTES: Final = 256 * 1024
"""Larger messages are sent as they are: to compress them would keep the event loop for more than a few milliseconds."""
MAX_MESSAGE_BYTES: Final = 2**31 - 1
"""What clients can be told to take; a prefix has room for twice as much."""

_TIMEOUT_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_TIMEOUT_DIGITS: Final = 8
_RESERVED: Final = frozenset(
    [b"te", b"content-type", b"user-agent", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"]
)


def encode_message(body: bytes, encoding: bytes | None = None) -> bytes:
    """One message with its prefix, compressed if an encoding was agreed on and the message is worth it."""
    if encoding is not None and _WORTH_COMPRESSING <= len(body) <= MAX_COMPRESSED_BYTES:
        deflater = zlib.compressobj(1, wbits=_WBITS[encoding])
        packed = deflater.compress(body) + deflater.flush()
        if len(packed) < len(body):
            return PREFIX.pack(1, len(packed)) + packed
    return PREFIX.pack(0, len(body)) + body


def answer_encoding(encoding: bytes, accepted: bytes) -> bytes | None:
    """How to compress answers: as the client compresses, if it says that it understands that; None: not at all."""
    if encoding in _WBITS and encoding in [name.strip() for name in accepted.split(b",")]:
        return encoding
    return None


class MessageAssembler:
    """Cuts a stream of DATA payloads into messages.

    ``feed`` raises RpcError as soon as a prefix announces a message above ``max_bytes``: before it is buffered.
    """

    __slots__ = ("_buffer", "_encoding", "_max_bytes")

    def __init__(self, max_bytes: int, encoding: bytes = b"identity") -> None:
        self._max_bytes = max_bytes
        self._encoding = encoding
        self._buffer = bytearray()

    @property
    def partial_bytes(self) -> int:
        """Bytes held of a message that is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that ``data`` completes, decompressed, in order."""
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        position = 0
        while len(buffer) - position >= PREFIX_BYTES:
            flag, length = PREFIX.unpack_from(buffer, position)
            check_size(length, self._max_bytes)
            if flag > 1:
                raise RpcError(StatusCode.INTERNAL, f"message with compression flag {flag}")
            stop = position + PREFIX_BYTES + length
            if stop > len(buffer):
                break
            body = bytes(memoryview(buffer)[position + PREFIX_BYTES : stop])
            messages.append(decompress(body, self._encoding, self._max_bytes) if flag else body)
            position = stop
        if position:
            del buffer[:position]
        return messages


def check_size(length: int, max_bytes: int) -> None:
    """Raises RESOURCE_EXHAUSTED for a message above the limit."""
    if length > max_bytes:
        raise RpcError(
            StatusCode.RESOURCE_EXHAUSTED, f"message of {length} bytes exceeds the limit of {max_bytes} bytes"
        )


def decompress(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """Inflate one message; never produces more than ``max_bytes``."""
    if encoding == b"identity":
        raise RpcError(StatusCode.INTERNAL, "compressed message on a stream without grpc-encoding")
    if encoding not in _WBITS:
        raise RpcError(
            StatusCode.UNIMPLEMENTED,
            f"grpc-encoding {encoding.decode('latin-1')!r} is not supported",
            metadata=[("grpc-accept-encoding", ACCEPTED)],
        )
    name = encoding.decode()
    inflater = zlib.decompressobj(wbits=_WBITS[encoding])
    try:
        plain = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise RpcError(StatusCode.INTERNAL, f"message is not valid {name}: {error}") from error
    check_size(len(plain), max_bytes)
    if not inflater.eof:
        raise RpcError(StatusCode.INTERNAL, f"message is truncated {name}")
    if inflater.unused_data:
        raise RpcError(StatusCode.INTERNAL, f"bytes behind the end of a {name} message")
    return plain


def parse_timeout(value: bytes) -> float | None:
    """Seconds of a ``grpc-timeout`` value such as ``b"250m"``; None if it is malformed."""
    unit = _TIMEOUT_UNITS.get(value[-1:])
    digits = value[:-1]
    if unit is None or not digits.isdigit() or len(digits) > _MAX_TIMEOUT_DIGITS:
        return None
    return int(digits) * unit


def format_timeout(timeout_s: float) -> bytes:
    """The ``grpc-timeout`` value of a timeout, rounded up by at most 1 %.

    Coarser than it could be, so that equal calls have equal header blocks, which the server's cache recognises.
    """
    if timeout_s <= 0:
        return b"1n"
    for unit, name in ((1e-6, b"u"), (1e-3, b"m"), (1.0, b"S"), (60.0, b"M")):
        count = int(timeout_s / unit)
        if count * unit < timeout_s:
            count += 1
        if count < 10**_MAX_TIMEOUT_DIGITS and (unit >= 1e-3 or timeout_s < 0.1):
            return b"%d%s" % (count, name)
    return b"99999999H"


def percent_encode(message: str) -> bytes:
    """A status text as it travels in ``grpc-message``: printable ASCII, the rest as %XX of UTF-8."""
    raw = message.encode("utf-8", "replace")
    if raw.isascii() and message.isprintable() and b"%" not in raw:
        return raw
    return b"".join([bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in raw])


def percent_decode(value: bytes) -> str:
    """The inverse; malformed escapes stay as they are."""
    if b"%" in value:
        parts = value.split(b"%")
        out = bytearray(parts[0])
        for part in parts[1:]:
            try:
                out += binascii.unhexlify(part[:2]) + part[2:]
            except binascii.Error:
                out += b"%" + part
        value = bytes(out)
    return value.decode("utf-8", "replace")


def encode_metadata(metadata: Metadata) -> list[Field]:
    """Metadata as header fields: lower-case names; values of ``-bin`` names in base64.

    Raises ValueError for names and values that HTTP/2 cannot carry.
    """
    fields: list[Field] = []
    for key, value in metadata:
        name = key.lower().encode("ascii")
        raw = value.encode("utf-8" if name.endswith(b"-bin") else "ascii") if isinstance(value, str) else value
        if name.endswith(b"-bin"):
            raw = base64.b64encode(raw).rstrip(b"=")
        elif any(byte < 0x20 or byte > 0x7E for byte in raw):
            raise ValueError(f"metadata {key!r} holds bytes that need a name ending in -bin")
        if not name or not all(_is_name_byte(byte) for byte in name):
            raise ValueError(f"metadata name {key!r} is not allowed")
        fields.append((name, raw))
    return fields


def _is_name_byte(byte: int) -> bool:
    return 0x61 <= byte <= 0x7A or 0x30 <= byte <= 0x39 or byte in b"-_."


def decode_metadata(fields: Sequence[Field]) -> list[tuple[str, bytes | str]]:
    """The custom metadata among header fields: text, or bytes for ``-bin`` names (comma-joined values split)."""
    metadata: list[tuple[str, bytes | str]] = []
    for name, value in fields:
        if name.startswith(b":") or name in _RESERVED:
            continue
        key = name.decode("latin-1")
        if name.endswith(b"-bin"):
            for part in value.split(b","):
                part = part.strip()
                try:
                    metadata.append((key, base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)))
                except binascii.Error:
                    continue  # not base64: the specification leaves it undefined; one bad value is dropped
        else:
            metadata.append((key, value.decode("latin-1")))
    return metadata
