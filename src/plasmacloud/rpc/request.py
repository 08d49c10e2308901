"""The header blocks of gRPC: what a request's fields mean, and the prepared blocks of replies."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from plasmacloud.base.logging import get_logger
from plasmacloud.rpc.grpc_framing import (
    answer_encoding,
    decode_metadata,
    encode_metadata,
    parse_timeout,
    percent_encode,
)
from plasmacloud.rpc.h2.frames import DATA, END_HEADERS, END_STREAM, HEADERS, frame_header
from plasmacloud.rpc.h2.headers import Field, encode_fields
from plasmacloud.rpc.status import Metadata, StatusCode

if TYPE_CHECKING:
    from plasmacloud.rpc.routes import Route

log = get_logger("rpc")

RESPONSE_BLOCK: Final = encode_fields([(b":status", b"200"), (b"content-type", b"application/grpc")])
ENCODED_RESPONSE_BLOCKS: Final = {
    encoding: RESPONSE_BLOCK + encode_fields([(b"grpc-encoding", encoding)]) for encoding in (b"gzip", b"deflate")
}
CONTINUE_BLOCK: Final = encode_fields([(b":status", b"100")])
_OK_TRAILERS: Final = encode_fields([(b"grpc-status", b"0")])
_OK_TRAILERS_HEAD: Final = frame_header(len(_OK_TRAILERS), HEADERS, END_HEADERS | END_STREAM, 0)[:5]
_RESPONSE_HEAD: Final = frame_header(len(RESPONSE_BLOCK), HEADERS, END_HEADERS, 0)[:5]
# HEADERS frame, DATA frame header, message prefix, of a unary reply: everything before its body.
_pack_head = struct.Struct(f">5sI{len(RESPONSE_BLOCK)}sHBBBIBI").pack
_pack_trailers = struct.Struct(f">5sI{len(_OK_TRAILERS)}s").pack

_FORBIDDEN: Final = frozenset([b"connection", b"transfer-encoding", b"upgrade", b"keep-alive", b"proxy-connection"])
_PSEUDO: Final = frozenset([b":method", b":scheme", b":path", b":authority"])


def pack_reply(out: list[bytes | memoryview], stream_id: int, body: bytes) -> None:
    """Append the three frames of a successful unary reply; ``body`` and its prefix fit one frame."""
    size = len(body) + 5
    out.append(
        _pack_head(_RESPONSE_HEAD, stream_id, RESPONSE_BLOCK, size >> 8, size & 0xFF, DATA, 0, stream_id, 0, size - 5)
    )
    out.append(body)
    out.append(_pack_trailers(_OK_TRAILERS_HEAD, stream_id, _OK_TRAILERS))


def pack_failure(out: list[bytes | memoryview], stream_id: int, block: bytes) -> None:
    """Append the one frame of a failed call; ``block`` is short enough for it."""
    out.append(frame_header(len(block), HEADERS, END_HEADERS | END_STREAM, stream_id) + block)


@lru_cache(maxsize=256)
def failure_block(code: StatusCode, message: str) -> bytes:
    """The whole answer of a call that failed without metadata; refusals under load are many and alike."""
    return trailers_block(code, message, alone=True)


def trailers_block(code: StatusCode, message: str, metadata: Metadata = (), *, alone: bool = False) -> bytes:
    """The block that ends a reply; ``alone``: no response headers went before (trailers-only).

    The status must arrive: metadata that HTTP/2 cannot carry is logged and left out.
    """
    fields: list[Field] = [(b"grpc-status", b"%d" % code)]
    if message:
        fields.append((b"grpc-message", percent_encode(message)))
    try:
        fields += encode_metadata(metadata)
    except ValueError as error:
        log.error("trailing metadata dropped", reason=str(error))
    block = encode_fields(fields)
    return RESPONSE_BLOCK + block if alone else block


class Malformed(Exception):
    """A request that is not valid HTTP/2 (RFC 9113 section 8.1.1): a stream error, not an answer."""


class RequestHead:
    """What the header block of a request means. Shared by all requests with the same block; immutable."""

    __slots__ = (
        "answer_encoding",
        "encoding",
        "expects_continue",
        "fields",
        "http_status",
        "path",
        "refusal",
        "route",
        "timeout_s",
    )

    def __init__(self, fields: Sequence[Field], path: str, route: Route | None) -> None:
        self.fields = fields
        self.path = path
        self.route = route
        self.timeout_s: float | None = None
        self.encoding = b"identity"
        self.http_status = 200  # other: answered with this status and no gRPC
        self.refusal: tuple[StatusCode, str] | None = None
        self.expects_continue = False
        self.answer_encoding: bytes | None = None

    @property
    def response_block(self) -> bytes:
        """The header block that begins an answer."""
        return RESPONSE_BLOCK if self.answer_encoding is None else ENCODED_RESPONSE_BLOCKS[self.answer_encoding]

    def metadata(self) -> list[tuple[str, bytes | str]]:
        return decode_metadata(self.fields)

    def with_timeout(self, value: bytes) -> RequestHead:
        """The same request with a ``grpc-timeout``."""
        head = RequestHead(self.fields, self.path, self.route)
        head.encoding, head.http_status, head.refusal = self.encoding, self.http_status, self.refusal
        head.expects_continue, head.answer_encoding = self.expects_continue, self.answer_encoding
        head.timeout_s = parse_timeout(value)
        if head.timeout_s is None and head.refusal is None:
            head.refusal = (StatusCode.INTERNAL, "malformed grpc-timeout")
        return head


def parse_request(fields: Sequence[Field], routes: Mapping[bytes, Route]) -> RequestHead:
    """Understand a request's fields (without ``grpc-timeout``). Raises Malformed."""
    pseudo: dict[bytes, bytes] = {}
    content_type = b""
    encoding = b"identity"
    accepted = b""
    expects_continue = False
    regular = False
    for name, value in fields:
        if name[:1] == b":":
            if regular or name in pseudo or name not in _PSEUDO:
                raise Malformed(f"pseudo-header {name!r} unknown, repeated or late")
            pseudo[name] = value
            continue
        regular = True
        if name != name.lower() or not name or name in _FORBIDDEN or (name == b"te" and value != b"trailers"):
            raise Malformed(f"header {name!r} is not allowed in HTTP/2")
        if name == b"content-type":
            content_type = value
        elif name == b"grpc-encoding":
            encoding = value
        elif name == b"grpc-accept-encoding":
            accepted = value
        elif name == b"expect":
            expects_continue = value.lower() == b"100-continue"
    if b":method" not in pseudo or b":scheme" not in pseudo or not pseudo.get(b":path"):
        raise Malformed("a pseudo-header is missing")
    raw_path = pseudo[b":path"]
    head = RequestHead(fields, raw_path.decode("latin-1"), routes.get(raw_path))
    head.encoding = encoding
    head.answer_encoding = answer_encoding(encoding, accepted)
    head.expects_continue = expects_continue
    if pseudo[b":method"] != b"POST":
        head.http_status = 405
    elif content_type[:16] != b"application/grpc" or content_type[16:17] not in (b"", b"+", b";"):
        head.http_status = 415
    elif head.route is None:
        head.refusal = (StatusCode.UNIMPLEMENTED, f"unknown method {head.path}")
    return head
