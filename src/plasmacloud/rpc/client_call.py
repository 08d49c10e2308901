"""A call as the client sees it, from its first frame to its status, with exact knowledge of what was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from plasmacloud.rpc.deadlines import Bucket
from plasmacloud.rpc.exchange import Inbound, MessageStream
from plasmacloud.rpc.grpc_framing import PREFIX, PREFIX_BYTES, decode_metadata, percent_decode
from plasmacloud.rpc.h2.errors import ErrorCode, code_name
from plasmacloud.rpc.h2.frames import END_STREAM, data_frame
from plasmacloud.rpc.h2.headers import Field
from plasmacloud.rpc.h2.stream import CLOSED, OPEN, Stream, StreamEvent
from plasmacloud.rpc.status import Execution, RpcError, StatusCode

if TYPE_CHECKING:
    from plasmacloud.rpc.client_connection import ClientConnection

# What a gRPC client makes of an HTTP status that came without a grpc-status.
_HTTP_STATUS: Final = {
    400: StatusCode.INTERNAL,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    429: StatusCode.UNAVAILABLE,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.UNAVAILABLE,
}
_RESET_STATUS: Final = {
    ErrorCode.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
}


class ResponseHead:
    """What one header block of a response says. Shared by identical blocks; immutable."""

    __slots__ = ("encoding", "fields", "grpc_status", "http_status", "message")

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = fields
        self.http_status: int | None = None
        self.grpc_status: int | None = None
        self.message = ""
        self.encoding = b"identity"
        for name, value in fields:
            if name == b":status":
                self.http_status = int(value) if value.isdigit() else 0
            elif name == b"grpc-status":
                self.grpc_status = int(value) if value.isdigit() else StatusCode.UNKNOWN
            elif name == b"grpc-message":
                self.message = percent_decode(value)
            elif name == b"grpc-encoding":
                self.encoding = value

    def error(self) -> RpcError | None:
        """The failure that this block reports as the end of a call; None for grpc-status 0."""
        if self.grpc_status is not None:
            if self.grpc_status == 0:
                return None
            known = self.grpc_status in StatusCode._value2member_map_
            code = StatusCode(self.grpc_status) if known else StatusCode.UNKNOWN
            return RpcError(code, self.message, metadata=trailing_metadata(self.fields))
        if self.http_status is not None and self.http_status != 200:
            code = _HTTP_STATUS.get(self.http_status, StatusCode.UNKNOWN)
            return RpcError(code, f"HTTP status {self.http_status} without gRPC", executed=Execution.UNKNOWN)
        return RpcError(StatusCode.UNKNOWN, "the response ended without a grpc-status", executed=Execution.UNKNOWN)


def trailing_metadata(fields: Sequence[Field]) -> list[tuple[str, bytes | str]]:
    """Metadata without the status itself."""
    return [(k, v) for k, v in decode_metadata(fields) if k not in ("grpc-status", "grpc-message")]


def _reset_error(code: int) -> RpcError:
    refused = code == ErrorCode.REFUSED_STREAM
    return RpcError(
        _RESET_STATUS.get(ErrorCode(code), StatusCode.INTERNAL)
        if code in ErrorCode._value2member_map_
        else StatusCode.INTERNAL,
        f"the server reset the stream: {code_name(code)}",
        executed=Execution.NOT_EXECUTED if refused else Execution.UNKNOWN,
    )


def _known_of(error: RpcError) -> Execution:
    """What an answer that breaks a limit or a rule says. One that is too large would be the same if asked for again."""
    return Execution.ANSWERED if error.code is StatusCode.RESOURCE_EXHAUSTED else Execution.UNKNOWN


class ClientUnary(Stream):
    """A unary call under way; ``future`` gets the reply or an RpcError."""

    __slots__ = ("_body", "_encoding", "_inbound", "_seen_headers", "bucket", "flush_mark", "future", "whole")

    def __init__(self, connection: ClientConnection, stream_id: int) -> None:
        super().__init__(connection, stream_id, OPEN)
        self.future: asyncio.Future[bytes] = connection.loop.create_future()
        self.bucket: Bucket | None = None
        self.flush_mark = connection.flushes
        self.whole = True  # all of the request has been handed over for sending
        self._body: bytes | None = None
        self._inbound: Inbound | None = None
        self._encoding = b"identity"
        self._seen_headers = False

    def _finish(self, error: RpcError | None) -> None:
        if self.bucket is not None:
            self.bucket.pop(self, None)
            self.bucket = None
        if self._inbound is not None:
            self._inbound.close()
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        elif self._body is None:
            self.future.set_exception(RpcError(StatusCode.INTERNAL, "the server answered OK without a message"))
        else:
            self.future.set_result(self._body)

    def on_response(self, head: ResponseHead, end_stream: bool) -> None:
        if not end_stream:
            if head.http_status is not None and 100 <= head.http_status < 200:
                return
            if self._seen_headers or head.http_status != 200:
                self.connection.send_reset(self, ErrorCode.CANCEL)
                self._finish(ResponseHead(head.fields).error())
                return
            self._seen_headers = True
            self._encoding = head.encoding
            return
        self.remote_end()
        self._finish(head.error())

    def remote_end(self) -> None:
        self.advance(StreamEvent.RECV_END)
        if self.state is not CLOSED:  # answered before it had read the whole request
            self.connection.send_reset(self, ErrorCode.NO_ERROR)
        else:
            self.connection.forget(self)

    def on_data(self, flags: int, data: bytes, start: int, stop: int, frame_bytes: int) -> None:
        if not flags and self._inbound is None and self._body is None and stop - start >= PREFIX_BYTES:
            flag, length = PREFIX.unpack_from(data, start)
            if not flag and length == stop - start - PREFIX_BYTES <= self.connection.limits.max_recv_bytes:
                self._body = data[start + PREFIX_BYTES : stop]
                return
        self.advance(StreamEvent.RECV_DATA)
        if self._inbound is None:
            self._inbound = Inbound(self, self._encoding)
        try:
            for message in self._inbound.feed(data[start:stop], frame_bytes):
                if self._body is not None:
                    raise RpcError(StatusCode.INTERNAL, "more than one message answers a unary call")
                self._body = message
        except RpcError as error:
            error.executed = _known_of(error)
            self.connection.send_reset(self, ErrorCode.CANCEL)
            self._finish(error)
            return
        if flags & END_STREAM:
            self.remote_end()
            self._finish(ResponseHead(()).error())
        else:
            self._inbound.release()

    def on_writable(self) -> None:
        if not self.queued_bytes and self.tail is None:
            self.whole = True

    def cancel(self) -> None:
        """The caller no longer waits."""
        self.connection.send_reset(self, ErrorCode.CANCEL)
        self._finish(None)

    def on_deadline(self) -> None:
        self.bucket = None
        executed = Execution.UNKNOWN if self.whole else Execution.NOT_EXECUTED
        self.connection.send_reset(self, ErrorCode.CANCEL)
        self._finish(
            RpcError(StatusCode.DEADLINE_EXCEEDED, f"no answer from {self.connection.peer} in time", executed=executed)
        )

    def on_reset(self, code: int) -> None:
        self._finish(_reset_error(code))

    def on_lost(self, reason: str) -> None:
        left = self.whole and self.connection.flushes != self.flush_mark
        executed = Execution.UNKNOWN if left else Execution.NOT_EXECUTED
        self._finish(RpcError(StatusCode.UNAVAILABLE, reason, executed=executed))

    def on_not_processed(self, reason: str) -> None:
        self._finish(RpcError(StatusCode.UNAVAILABLE, reason, executed=Execution.NOT_EXECUTED))


class ClientStreaming(MessageStream):
    """A streaming call under way; ``channel.ClientStream`` is what users hold."""

    __slots__ = ("_encoding", "bucket", "finished", "flush_mark", "headers", "initial", "trailers")

    def __init__(self, connection: ClientConnection, stream_id: int) -> None:
        super().__init__(connection, stream_id, OPEN)
        self.bucket: Bucket | None = None
        self.flush_mark = connection.flushes
        self.headers: asyncio.Future[None] | None = None
        self.initial: ResponseHead | None = None
        self.trailers: ResponseHead | None = None
        self.finished = False
        self._encoding = b"identity"

    def _finish(self, error: RpcError | None) -> None:
        if self.finished:
            return
        self.finished = True
        if self.bucket is not None:
            self.bucket.pop(self, None)
            self.bucket = None
        self.end_with(error)
        if self.headers is not None and not self.headers.done():
            self.headers.set_result(None)

    def on_response(self, head: ResponseHead, end_stream: bool) -> None:
        if not end_stream:
            if head.http_status is not None and 100 <= head.http_status < 200:
                return
            if self.initial is not None or head.http_status != 200:
                self.connection.send_reset(self, ErrorCode.CANCEL)
                self._finish(ResponseHead(head.fields).error())
                return
            self.initial = head
            self._encoding = head.encoding
            if self.headers is not None and not self.headers.done():
                self.headers.set_result(None)
            return
        self.trailers = head
        error = head.error()
        if error is None:
            self.deliver_end()
        self._remote_end()
        self._finish(error)

    def _remote_end(self) -> None:
        self.advance(StreamEvent.RECV_END)
        if self.state is CLOSED:
            self.connection.forget(self)
        else:
            self.connection.send_reset(self, ErrorCode.NO_ERROR)

    def on_data(self, flags: int, data: bytes, start: int, stop: int, frame_bytes: int) -> None:
        self.advance(StreamEvent.RECV_DATA)
        try:
            self.deliver(data[start:stop], frame_bytes, self._encoding)
        except RpcError as error:
            error.executed = _known_of(error)
            self.connection.send_reset(self, ErrorCode.CANCEL)
            self._finish(error)
            return
        if flags & END_STREAM:
            self._remote_end()
            self._finish(ResponseHead(()).error())

    def done_sending(self) -> None:
        """Close our side; idempotent."""
        if self.state is OPEN and self.tail is None:
            self.connection.send_tail(self, data_frame(self.id, b"", end_stream=True))

    def cancel(self) -> None:
        """Give the call up, if it has not ended."""
        self.connection.send_reset(self, ErrorCode.CANCEL)
        self._finish(RpcError(StatusCode.CANCELLED, "the call was cancelled", executed=Execution.UNKNOWN))

    def on_deadline(self) -> None:
        self.bucket = None
        self.connection.send_reset(self, ErrorCode.CANCEL)
        self._finish(
            RpcError(
                StatusCode.DEADLINE_EXCEEDED,
                f"the call to {self.connection.peer} did not end in time",
                executed=Execution.UNKNOWN,
            )
        )

    def on_reset(self, code: int) -> None:
        self._finish(_reset_error(code))

    def on_lost(self, reason: str) -> None:
        left = self.connection.flushes != self.flush_mark
        executed = Execution.UNKNOWN if left else Execution.NOT_EXECUTED
        self._finish(RpcError(StatusCode.UNAVAILABLE, reason, executed=executed))

    def on_not_processed(self, reason: str) -> None:
        self._finish(RpcError(StatusCode.UNAVAILABLE, reason, executed=Execution.NOT_EXECUTED))
