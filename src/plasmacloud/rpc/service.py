"""What a server offers: paths with handlers, and the calls that handlers see.

A unary handler is a plain function called from the socket's read callback: it answers at once or keeps the call and
answers later. That is the hot path; everything else (``unary_async``, ``stream``) runs in a task per call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from plasmacloud.base.logging import get_logger
from plasmacloud.rpc.deadlines import Bucket
from plasmacloud.rpc.exchange import Inbound, MessageStream
from plasmacloud.rpc.grpc_framing import (
    MAX_COMPRESSED_BYTES,
    MAX_MESSAGE_BYTES,
    PREFIX,
    PREFIX_BYTES,
    encode_message,
    encode_metadata,
)
from plasmacloud.rpc.h2.frames import DEFAULT_MAX_FRAME_BYTES, END_STREAM
from plasmacloud.rpc.h2.headers import Field, encode_fields
from plasmacloud.rpc.h2.stream import CLOSED, HALF_CLOSED_REMOTE, OPEN, Stream, StreamEvent
from plasmacloud.rpc.request import RequestHead, failure_block, pack_failure, pack_reply, trailers_block
from plasmacloud.rpc.routes import Call, CallKind, Route, Shedding, StreamHandler, UnaryAsyncHandler, UnaryHandler
from plasmacloud.rpc.status import Metadata, RpcError, StatusCode

if TYPE_CHECKING:
    from plasmacloud.rpc.server_connection import ServerConnection

log = get_logger("rpc")


class ServiceTable:
    """The paths of a server. Fill it before the server starts; paths look like ``/etcdserverpb.KV/Put``."""

    def __init__(self) -> None:
        self.routes: dict[bytes, Route] = {}
        self.batch_end: Callable[[], None] | None = None

    def unary(self, path: str, handler: UnaryHandler, shedding: Shedding | None = None) -> None:
        """Serve ``path`` with a function called synchronously from the socket's read callback.

        It must, now or later, call exactly one of ``call.reply`` and ``call.fail``. Raising answers too:
        RpcError with its status, anything else with INTERNAL (and a log line).
        """
        self._add(Route(path, CallKind.UNARY, unary=handler, shedding=shedding))

    def unary_async(self, path: str, handler: UnaryAsyncHandler) -> None:
        """Serve ``path`` with a coroutine function that returns the reply; it is cancelled with the call."""

        def start(call: Call, body: bytes) -> None:
            call.run(_run_unary(call, handler, body))

        self._add(Route(path, CallKind.UNARY, unary=start))

    def stream(self, path: str, handler: StreamHandler) -> None:
        """Serve a client-, server- or bidirectional-streaming ``path``; returning ends the call with OK."""
        self._add(Route(path, CallKind.STREAM, stream=handler))

    def set_batch_end(self, callback: Callable[[], None]) -> None:
        """``callback`` runs after the requests of one socket read were dispatched, before replies leave."""
        self.batch_end = callback

    def _add(self, route: Route) -> None:
        key = route.path.encode("ascii")
        assert key.startswith(b"/"), route.path
        assert key not in self.routes, route.path
        self.routes[key] = route


async def _run_unary(call: Call, handler: UnaryAsyncHandler, body: bytes) -> None:
    try:
        call.reply(await handler(call, body))
    except asyncio.CancelledError:
        call.fail(StatusCode.UNAVAILABLE, "the call was cancelled by the server")
        raise
    except Exception as error:  # noqa: BLE001 - whatever a handler raises becomes a status
        call.fail_with(error)


def status_of(error: Exception, path: str) -> RpcError:
    """The status that an exception of a handler becomes; unexpected ones are logged and hidden."""
    if isinstance(error, RpcError):
        return error
    log.error("handler failed", path=path, exc_info=error)
    return RpcError(StatusCode.INTERNAL, f"internal error: {type(error).__name__}")


class UnaryCall(Stream):
    """One unary call, seen by its handler. Also the HTTP/2 stream itself: there is no other object per call."""

    __slots__ = ("_bucket", "_inbound", "_pending", "_server_side", "deadline", "head", "on_cancel", "task")

    def __init__(self, connection: ServerConnection, stream_id: int, head: RequestHead) -> None:
        # Spelled out instead of super().__init__: this runs once per request.
        self.connection = self._server_side = connection
        self.id = stream_id
        self.state = OPEN
        self.send_window = connection.peer_initial_window
        self.queue = None
        self.queued_bytes = 0
        self.ready = False
        self.tail = None
        self.head = head
        self.deadline: float | None = None
        """When the client gives up, in ``loop.time()`` seconds; None: never."""
        self.on_cancel: Callable[[], None] | None = None
        """Called once if the client resets the call, its deadline passes, or its connection dies."""
        self.task: asyncio.Task[None] | None = None
        self._bucket: Bucket | None = None
        self._inbound: Inbound | None = None
        self._pending: bytes | None = None

    @property
    def done(self) -> bool:
        """Answered, or no longer wanted by the client; a later reply is ignored."""
        return self.state is CLOSED or self.tail is not None

    @property
    def path(self) -> str:
        return self.head.path

    @property
    def peer(self) -> str:
        """Address of the client, ``host:port``."""
        return self.connection.peer

    @property
    def metadata(self) -> list[tuple[str, bytes | str]]:
        """The client's metadata; values of names ending in ``-bin`` are bytes. Decoded on each access."""
        return self.head.metadata()

    @property
    def congested(self) -> bool:
        """The client reads less than it asks for: a large answer would only wait in memory."""
        return self._server_side.is_congested

    @property
    def occupied(self) -> bool:
        """A large answer is on its way to the client: another one had better wait until it is read."""
        connection = self.connection
        return connection.queued_bytes > connection.limits.max_queued_bytes

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the handler's coroutine in a task, which is cancelled with the call."""
        self.task = self._server_side.spawn(work)

    def start_deadline(self, deadline_s: float) -> None:
        self.deadline = deadline_s
        self._bucket = self._server_side.wheel.add(self, deadline_s)

    def reply(self, body: bytes, trailers: Metadata = ()) -> None:
        """Answer OK with a serialised message. Ignored if the call is already done."""
        state = self.state
        if state is CLOSED:
            return
        connection = self.connection
        size = len(body) + PREFIX_BYTES
        if (
            size > self.send_window
            or size > connection.send_window
            or size > DEFAULT_MAX_FRAME_BYTES
            or state is not HALF_CLOSED_REMOTE
            or trailers
            or connection.table_update_due
            or self.head.answer_encoding is not None
        ):
            self._reply_slowly(body, trailers)
            return
        connection.send_window -= size
        pack_reply(connection.out, self.id, body)
        if not connection.flush_pending:
            connection.schedule_flush()
        self.state = CLOSED
        del connection.streams[self.id]
        if self._bucket is not None:
            self._bucket.pop(self, None)

    def _reply_slowly(self, body: bytes, trailers: Metadata) -> None:
        if self.done:
            return
        self._settle()
        connection = self.connection
        connection.send_headers(self, self.head.response_block)
        connection.send_data(self, encode_message(body, self.head.answer_encoding))
        self._end(trailers_block(StatusCode.OK, "", trailers))

    def reply_in_pieces(self, pieces: list[bytes]) -> None:
        """`reply` with a message that is not put together: that would take as long as the message is large."""
        size = sum(map(len, pieces))
        if size <= MAX_COMPRESSED_BYTES:
            self.reply(b"".join(pieces))
        elif size > MAX_MESSAGE_BYTES:
            self.fail(StatusCode.RESOURCE_EXHAUSTED, f"the answer has {size} bytes, ask for a part of it")
        elif not self.done:
            self._settle()
            connection = self.connection
            connection.send_headers(self, self.head.response_block)
            connection.send_pieces(self, [PREFIX.pack(0, size), *pieces], PREFIX_BYTES + size)
            self._end(trailers_block(StatusCode.OK, "", ()))

    def fail(self, code: StatusCode, message: str, metadata: Metadata = ()) -> None:
        """Answer with a status other than OK. Ignored if the call is already done."""
        if self.done:
            return
        self._settle()
        if metadata:
            self._end(trailers_block(code, message, metadata, alone=True))
        elif self.state is HALF_CLOSED_REMOTE and not self.connection.table_update_due:
            # The way of refusals under load: as short as that of replies.
            connection = self.connection
            pack_failure(connection.out, self.id, failure_block(code, message))
            if not connection.flush_pending:
                connection.schedule_flush()
            connection.forget(self)
        else:
            self._end(failure_block(code, message))

    def fail_with(self, error: Exception) -> None:
        """Answer with the status of an exception."""
        status = status_of(error, self.path)
        self.fail(status.code, status.message, status.metadata)

    def _end(self, block: bytes) -> None:
        self._server_side.end_call(self, block)

    def _settle(self) -> None:
        if self._bucket is not None:
            self._bucket.pop(self, None)
            self._bucket = None
        if self._inbound is not None:
            self._inbound.close()
            self._inbound = None

    def on_data(self, flags: int, data: bytes, start: int, stop: int, frame_bytes: int) -> None:
        if flags & END_STREAM and self._inbound is None and self.state is OPEN and stop - start >= PREFIX_BYTES:
            flag, length = PREFIX.unpack_from(data, start)
            if not flag and length == stop - start - PREFIX_BYTES <= self.connection.limits.max_recv_bytes:
                self.state = HALF_CLOSED_REMOTE
                self.dispatch(data[start + PREFIX_BYTES : stop])
                return
        self._on_fragment(flags, data[start:stop], frame_bytes)

    def _on_fragment(self, flags: int, payload: bytes, frame_bytes: int) -> None:
        self.advance(StreamEvent.RECV_DATA)
        if self._inbound is None:
            self._inbound = Inbound(self, self.head.encoding)
        try:
            messages = self._inbound.feed(payload, frame_bytes)
            if messages:
                if self._pending is not None or len(messages) > 1:
                    raise RpcError(StatusCode.INTERNAL, "more than one message in a unary call")
                self._pending = messages[0]
        except RpcError as error:
            if flags & END_STREAM:
                self.advance(StreamEvent.RECV_END)
            self.fail_with(error)
            return
        if flags & END_STREAM:
            self.advance(StreamEvent.RECV_END)
            self.on_request_end()
        else:
            self._inbound.release()

    def on_request_end(self) -> None:
        """The client has sent everything: run the handler if that was one message."""
        body, self._pending = self._pending, None
        inbound, self._inbound = self._inbound, None
        if inbound is not None:
            inbound.close()
        if body is None or (inbound is not None and inbound.incomplete):
            self.fail(StatusCode.INTERNAL, "a unary call needs exactly one whole message")
            return
        self.dispatch(body)

    def dispatch(self, body: bytes) -> None:
        route = self.head.route
        assert route is not None
        assert route.unary is not None
        try:
            route.unary(self, body)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises becomes a status
            self.fail_with(error)

    def on_headers(self, fields: list[Field] | None, end_stream: bool) -> None:
        self._server_side.check_trailers(self, end_stream)
        self.on_request_end()

    def on_deadline(self) -> None:
        self._bucket = None
        self.fail(StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the call was answered")
        self._cancelled()

    def on_reset(self, code: int) -> None:
        self._settle()
        self._cancelled()

    def on_lost(self, reason: str) -> None:
        self._settle()
        self._cancelled()

    def _cancelled(self) -> None:
        if self.task is not None:
            self.task.cancel()
        callback, self.on_cancel = self.on_cancel, None
        if callback is not None:
            try:
                callback()
            except Exception:  # a handler's bug stays the handler's
                log.error("on_cancel failed", path=self.path, exc_info=True)


class StreamCall(MessageStream):
    """One streaming call, seen by its handler: ``async for body in call``, ``await call.send(body)``."""

    __slots__ = ("_bucket", "_server_side", "_started", "_task", "_trailers", "deadline", "head")

    def __init__(self, connection: ServerConnection, stream_id: int, head: RequestHead) -> None:
        super().__init__(connection, stream_id, OPEN)
        self._server_side = connection
        self.head = head
        self.deadline: float | None = None
        self._bucket: Bucket | None = None
        self._started = False
        self._trailers: Metadata = ()
        self._task: asyncio.Task[None] | None = None

    @property
    def done(self) -> bool:
        """Ended, by us or by the client."""
        return self.state is CLOSED or self.tail is not None

    @property
    def path(self) -> str:
        return self.head.path

    @property
    def peer(self) -> str:
        """Address of the client, ``host:port``."""
        return self.connection.peer

    @property
    def metadata(self) -> list[tuple[str, bytes | str]]:
        """The client's metadata; values of names ending in ``-bin`` are bytes."""
        return self.head.metadata()

    def start_deadline(self, deadline_s: float) -> None:
        self.deadline = deadline_s
        self._bucket = self._server_side.wheel.add(self, deadline_s)

    def start(self) -> None:
        """Run the handler in its task."""
        self._task = self._server_side.spawn(self._run())

    def send_headers(self, metadata: Metadata = ()) -> None:
        """Send the initial metadata now; otherwise the first ``send`` does, without any."""
        assert not self._started, "initial metadata is sent once"
        if not self.done:
            self._started = True
            block = self.head.response_block + encode_fields(encode_metadata(metadata))
            self.connection.send_headers(self, block)

    def set_trailers(self, metadata: Metadata) -> None:
        """The trailing metadata to send with an OK status."""
        self._trailers = metadata

    async def send(self, body: bytes) -> None:
        if not self._started:
            self.send_headers()
        await super().send(body)

    def pack(self, body: bytes) -> bytes:
        return encode_message(body, self.head.answer_encoding)

    async def _run(self) -> None:
        route = self.head.route
        assert route is not None
        assert route.stream is not None
        try:
            await route.stream(self)
        except asyncio.CancelledError:
            self.finish(StatusCode.UNAVAILABLE, "the call was cancelled by the server")
            raise
        except Exception as error:  # noqa: BLE001 - whatever a handler raises becomes a status
            if not self.done:
                status = status_of(error, self.path)
                self.finish(status.code, status.message, status.metadata)
        else:
            self.finish(StatusCode.OK, "", self._trailers)

    def finish(self, code: StatusCode, message: str, metadata: Metadata = ()) -> None:
        """End the call with a status; ignored if it has ended."""
        if self.done:
            return
        self._settle()
        if code is StatusCode.OK and not self._started:
            self.send_headers()
        self._server_side.end_call(self, trailers_block(code, message, metadata, alone=not self._started))

    def _settle(self) -> None:
        if self._bucket is not None:
            self._bucket.pop(self, None)
            self._bucket = None
        if self._inbound is not None:
            self._inbound.close()

    def on_data(self, flags: int, data: bytes, start: int, stop: int, frame_bytes: int) -> None:
        self.advance(StreamEvent.RECV_DATA)
        try:
            self.deliver(data[start:stop], frame_bytes, self.head.encoding)
        except RpcError as error:
            if flags & END_STREAM:
                self.advance(StreamEvent.RECV_END)
            self._stop(error)
            return
        if flags & END_STREAM:
            self.on_request_end()

    def on_request_end(self) -> None:
        self.advance(StreamEvent.RECV_END)
        if self.state is CLOSED:
            self.connection.forget(self)
        self.deliver_end()

    def on_headers(self, fields: list[Field] | None, end_stream: bool) -> None:
        self._server_side.check_trailers(self, end_stream)
        self.deliver_end()

    def _stop(self, error: RpcError) -> None:
        """End the call from outside its handler, which is cancelled."""
        self.finish(error.code, error.message, error.metadata)
        self.end_with(error)
        if self._task is not None:
            self._task.cancel()

    def on_deadline(self) -> None:
        self._bucket = None
        self._stop(RpcError(StatusCode.DEADLINE_EXCEEDED, "the deadline of the call passed"))

    def on_reset(self, code: int) -> None:
        self._settle()
        self._stop(RpcError(StatusCode.CANCELLED, "the client cancelled the call"))

    def on_lost(self, reason: str) -> None:
        self._settle()
        self._stop(RpcError(StatusCode.CANCELLED, reason))
