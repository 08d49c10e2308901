"""The frames between members: cutting them out of a stream of bytes (see `peer_wire` for what they say)."""

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum

from plasmacloud.base.errors import PlasmaError

MAGIC = b"\x89PLASMA\n"
FRAME_HEADER = struct.Struct("<IB")

_HEADER_BYTES = FRAME_HEADER.size

Expected = Mapping[int, tuple[int, int]]
"""Frames that may come next: type -> shortest and longest payload, in bytes."""


class PeerProtocolError(PlasmaError):
    """What arrived is not this protocol, or not allowed at this point. The connection has to be closed."""


class FrameType(IntEnum):
    """The type byte of a frame."""

    HELLO = 1
    WELCOME = 2
    REFUSAL = 3
    DATA = 4
    PING = 5
    PONG = 6


class FrameParser:
    """Bytes in any slicing -> frames. Never holds more than one unfinished frame of an expected type and size."""

    def __init__(self, expected: Expected, *, magic: bool) -> None:
        self.expected = expected  # may be replaced between two frames, also in the middle of a `feed`
        self._magic_missing = magic
        self._partial = bytearray()
        self._need = 0  # no decision is possible before _partial has this many bytes
        self._failure: str | None = None

    @property
    def buffered_bytes(self) -> int:
        """Bytes kept of an unfinished frame."""
        return len(self._partial)

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield (type, payload) of every frame that ``data`` completes. Run it to its end before the next call.

        Raises `PeerProtocolError` behind the last good frame; from then on every call raises it.
        """
        if self._failure is not None:
            raise PeerProtocolError(self._failure)
        buffer: bytes | memoryview = data
        if self._partial:
            self._partial += data
            if len(self._partial) < self._need:
                return
            buffer = memoryview(self._partial)
            self._partial = bytearray()
        end = len(buffer)
        at = 0
        if self._magic_missing and not (at := self._check_magic(buffer)):
            return
        while True:
            body_at = at + _HEADER_BYTES
            if body_at > end:
                self._need = _HEADER_BYTES
                break
            size, kind = FRAME_HEADER.unpack_from(buffer, at)
            limits = self.expected.get(kind)
            if limits is None or not limits[0] <= size <= limits[1]:
                raise self._fail(_describe_refused_header(kind, size, limits))
            if body_at + size > end:
                self._need = _HEADER_BYTES + size
                break
            at = body_at + size
            yield kind, bytes(buffer[body_at:at])
        assert not self._partial, "a feed was not run to its end"
        if at < end:
            self._partial += buffer[at:]

    def _check_magic(self, buffer: bytes | memoryview) -> int:
        """Offset behind the magic bytes; 0 while some are missing."""
        head = bytes(buffer[: len(MAGIC)])
        if head != MAGIC[: len(head)]:
            raise self._fail("the first bytes are not a member's greeting")
        if len(head) < len(MAGIC):
            self._partial += head
            self._need = len(MAGIC)
            return 0
        self._magic_missing = False
        return len(MAGIC)

    def _fail(self, text: str) -> PeerProtocolError:
        self._failure = text
        return PeerProtocolError(text)


def _describe_refused_header(kind: int, size: int, limits: tuple[int, int] | None) -> str:
    try:
        name = FrameType(kind).name
    except ValueError:
        return f"frame of unknown type {kind}"
    if limits is None:
        return f"{name} frame where none is allowed"
    return f"{name} frame of {size} bytes, allowed are {limits[0]} to {limits[1]}"
