"""The server's side of a connection: requests come in, find their route, and become calls.

Header blocks repeat: a client sends the same few blocks all day. Whole blocks are therefore cached (bytes to parsed
request) as long as the decoder's dynamic table has not changed; behind that, field lists are cached without their
``grpc-timeout``, for clients that insert a new timeout with every request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from plasmacloud.base.logging import get_logger
from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.connection import Connection
from plasmacloud.rpc.h2.errors import ConnectionFault, ErrorCode
from plasmacloud.rpc.h2.frames import END_STREAM
from plasmacloud.rpc.h2.guard import FloodGuard
from plasmacloud.rpc.h2.headers import Field, encode_fields
from plasmacloud.rpc.h2.lifecycle import ConnectionEvent, ConnectionState
from plasmacloud.rpc.h2.settings import DEFAULT_WINDOW_BYTES, Setting
from plasmacloud.rpc.h2.stream import CLOSED, HALF_CLOSED_LOCAL, HALF_CLOSED_REMOTE, OPEN, Stream, StreamEvent
from plasmacloud.rpc.http1_connection import Http1Connection
from plasmacloud.rpc.patience import Overdue, Patience, Progress
from plasmacloud.rpc.request import (
    CONTINUE_BLOCK,
    Malformed,
    RequestHead,
    failure_block,
    pack_failure,
    parse_request,
    trailers_block,
)
from plasmacloud.rpc.routes import CallKind
from plasmacloud.rpc.service import StreamCall, UnaryCall
from plasmacloud.rpc.status import StatusCode
from plasmacloud.rpc.turns import SHARE_FRAMES
from plasmacloud.rpc.web_call import WebCall

if TYPE_CHECKING:
    from plasmacloud.rpc.server import Server

log = get_logger("rpc")

_MAX_CACHED_HEADS: Final = 512
_MAX_CACHED_BLOCK_BYTES: Final = 2048
_MAX_CACHE_BYTES: Final = 128 * 1024
_CALL_BYTES: Final = 1024  # of a call that waits for its message or its answer, roughly
_UNWANTED_S: Final = 2.0
_DRAIN_PING: Final = b"drain\0\0\0"
_ALIVE_PING: Final = b"alive\0\0\0"
_HTTP1_ANSWER: Final = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\ncontent-length: 36\r\n"
    b"connection: close\r\n\r\nThis port speaks gRPC over HTTP/2.\r\n"
)
_OVERSIZED = RequestHead((), "", None)
_OVERSIZED.refusal = (StatusCode.RESOURCE_EXHAUSTED, "the request's headers exceed the limit")


class UnwantedBody(Stream):
    """What is left of a call that was answered before its request had ended: the rest is read and dropped.

    Resetting at once would be legal (RFC 9113 section 8.1), but clients, curl among them, then lose the answer. What
    may still come is bounded by the stream's window, which is not credited any more, and by time.
    """

    __slots__ = ("_bucket", "_left_bytes", "_server_side")

    def __init__(self, connection: ServerConnection, stream_id: int) -> None:
        super().__init__(connection, stream_id, HALF_CLOSED_LOCAL)
        self._server_side = connection
        self._left_bytes = max(connection.limits.stream_window_bytes, DEFAULT_WINDOW_BYTES)
        self._bucket = connection.wheel.add(self, connection.received_s + _UNWANTED_S)

    def on_data(self, flags: int, data: bytes, start: int, stop: int, frame_bytes: int) -> None:
        self._left_bytes -= frame_bytes
        if flags & END_STREAM:
            self._end()
        elif self._left_bytes < 0:
            self.connection.reset(self.id, ErrorCode.NO_ERROR)

    def on_headers(self, fields: list[Field] | None, end_stream: bool) -> None:
        self._server_side.check_trailers(self, end_stream)
        self._end()

    def _end(self) -> None:
        self.state = CLOSED
        self.connection.forget(self)
        self._bucket.pop(self, None)

    def on_deadline(self) -> None:
        self.connection.reset(self.id, ErrorCode.NO_ERROR)

    def on_reset(self, code: int) -> None:
        self._bucket.pop(self, None)

    def on_lost(self, reason: str) -> None:
        self._bucket.pop(self, None)


class ServerConnection(Connection):
    """One accepted connection."""

    def __init__(self, server: Server) -> None:
        super().__init__(asyncio.get_running_loop(), server.limits)
        self.server = server
        self.wheel = server.wheel
        self._routes = server.services.routes
        self._batch_end = server.services.batch_end
        self._heads: dict[bytes, RequestHead] = {}
        self._templates: dict[tuple[Field, ...], RequestHead] = {}
        self.state = ConnectionState.GREETING
        self._cache_bytes = 0
        self._greeting = b""
        self._patience = Patience(self.limits, self.received_s)
        self._turns = server.turns
        self._in_line = False  # for a turn, and not read meanwhile
        self._arrived_in = 0  # the turn in which what is handled now has arrived
        self._late = False  # what is handled now has stood in line for too long
        self._writing_paused = False
        self._handshake: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None
        self._resets = FloodGuard(
            "too many stream resets", self.limits.reset_burst, self.limits.reset_per_s, self.loop.time, lambda: 0
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self.server.admit(self):
            self.abort()
            return
        self._handshake = self.loop.call_later(self.limits.handshake_timeout_s, self.abort)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "http/1.1":
            self._refuse_greeting()

    def data_received(self, data: bytes) -> None:
        if self.state is not ConnectionState.GREETING:
            super().data_received(data)
            return
        self._greeting += data
        preface = frames.PREFACE
        if self._greeting.startswith(preface):
            self._greet()
            rest = self._greeting[len(preface) :]
            self._greeting = b""
            if rest:
                super().data_received(rest)
        elif not preface.startswith(self._greeting):
            self._refuse_greeting()

    def _greet(self) -> None:
        self.move(ConnectionEvent.PREFACE)
        if self._handshake is not None:
            self._handshake.cancel()
        self.start_sending(
            [
                (Setting.MAX_CONCURRENT_STREAMS, self.limits.max_concurrent_streams),
                (Setting.INITIAL_WINDOW_SIZE, self.limits.stream_window_bytes),
                (Setting.MAX_HEADER_LIST_SIZE, self.limits.max_header_list_bytes),
            ]
        )
        if self.server.closing:
            self.drain()

    def _refuse_greeting(self) -> None:
        """No HTTP/2: HTTP/1.1 goes on elsewhere, anything else ends here."""
        greeting, self._greeting = self._greeting, b""
        if self._handshake is not None:
            self._handshake.cancel()
        web = self.server.web
        assert self.transport is not None
        if greeting and (greeting.startswith(b"PRI ") or not 0x41 <= greeting[0] <= 0x5A):  # no upper-case method
            hint = "this looks like TLS" if greeting[:2] == b"\x16\x03" else "not an HTTP/2 client"
            self.fail(ErrorCode.PROTOCOL_ERROR, f"invalid connection preface: {hint}")
        elif web is None:
            self.move(ConnectionEvent.FAULT)
            self.muted = True
            self.transport.write(_HTTP1_ANSWER)
            self.transport.close()
        else:
            successor = Http1Connection(self.server, web, self.transport, self.peer)
            self.server.succeed(self, successor)
            self.transport.set_protocol(successor)
            self.transport = None
            if greeting:
                successor.data_received(greeting)

    # Reading: in turns with the other connections, and not from a client that does not read its answers

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing_paused = True
        self._set_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writing_paused = False
        self._set_reading()

    def _set_reading(self) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        if self._in_line or self._writing_paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def handle_received(self) -> None:
        if self._in_line:  # the transport had more than it was asked for
            return
        self._arrived_in = self._turns.number
        if self._turns.may_begin():
            super().handle_received()
        else:
            self._stand_in_line()

    def _consume(self, data: bytes) -> int:
        position, more = self._handle_frames(data, 0, SHARE_FRAMES)
        while more and self._turns.may_go_on():
            position, more = self._handle_frames(data, position, SHARE_FRAMES)
        if more:
            self._stand_in_line()
        return position

    def _stand_in_line(self) -> None:
        self._in_line = True
        self._turns.join(self)
        self._set_reading()

    def take_turn(self) -> None:
        """The head of the line is reached: handle a share of what has arrived."""
        self._in_line = False
        if self.failed or self.transport is None:
            return
        self._late = (
            self._turns.number - self._arrived_in >= self.limits.max_line_turns
            and self.loop.time() - self.received_s > self.limits.max_line_s
        )
        super().handle_received()
        self._late = False
        if not self._in_line:
            self._set_reading()

    def on_batch_end(self) -> None:
        if self._batch_end is not None:
            try:
                self._batch_end()
            except Exception:  # the service's bug must not end the connection
                log.error("batch end callback failed", exc_info=True)

    # Requests

    def on_block(self, stream_id: int, block: bytes, end_stream: bool) -> None:
        head = self._heads.get(block)
        if head is None or stream_id <= self.last_peer_stream:
            fields = self._decode(block)
            if stream_id <= self.last_peer_stream:
                self._on_later_block(stream_id, fields, end_stream)
                return
            if not stream_id & 1:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a client cannot open stream {stream_id}")
            self.last_peer_stream = stream_id
            self.requests += 1
            try:
                head = self._understand(fields, len(block))
            except Malformed:
                self.requests_refused += 1
                self.reset(stream_id, ErrorCode.PROTOCOL_ERROR)
                self._control.spend()
                return
            if len(block) <= _MAX_CACHED_BLOCK_BYTES and self._cacheable:
                self._make_room(len(block))
                self._heads[block] = head
        else:
            if not stream_id & 1:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a client cannot open stream {stream_id}")
            self.last_peer_stream = stream_id
            self.requests += 1
        self._open(stream_id, head, end_stream)

    _cacheable = False

    def _decode(self, block: bytes) -> list[Field] | None:
        version = self.decoder.version
        fields = self.decoder.decode(block)
        self._cacheable = version == self.decoder.version
        if not self._cacheable and self._heads:
            self._heads.clear()
        return fields

    def _make_room(self, size: int) -> None:
        """Keep what the caches hold within bounds, however a client varies its headers."""
        self._cache_bytes += size
        if self._cache_bytes > _MAX_CACHE_BYTES or len(self._heads) + len(self._templates) >= _MAX_CACHED_HEADS:
            self._heads.clear()
            self._templates.clear()
            self._cache_bytes = size

    def _understand(self, fields: list[Field] | None, block_bytes: int) -> RequestHead:
        if fields is None:
            return _OVERSIZED
        timeout: bytes | None = None
        for position, field in enumerate(fields):
            if field[0] == b"grpc-timeout":
                timeout = field[1]
                del fields[position]
                break
        key = tuple(fields)
        template = self._templates.get(key)
        if template is None:
            template = parse_request(key, self._routes)
            if block_bytes <= _MAX_CACHED_BLOCK_BYTES:
                self._make_room(sum(len(name) + len(value) for name, value in key))
                self._templates[key] = template
        return template if timeout is None else template.with_timeout(timeout)

    def _open(self, stream_id: int, head: RequestHead, end_stream: bool) -> None:
        route = head.route
        if len(self.streams) >= self.limits.max_concurrent_streams or self._is_beyond_goaway(stream_id):
            self.requests_refused += 1
            self.reset(stream_id, ErrorCode.REFUSED_STREAM)
            self._control.spend()
            return
        if self.server.overloaded or self.is_congested:
            self.server.counters.refused += 1
            self.reset(stream_id, ErrorCode.REFUSED_STREAM)
            return
        if head.expects_continue and not end_stream:
            self.write(self.headers_bytes(stream_id, CONTINUE_BLOCK, False))
        if head.http_status in (405, 415) and self.server.web is not None:
            self.streams[stream_id] = web_call = WebCall(self, stream_id, head, self.server.web, self._late)
            if end_stream:
                web_call.advance(StreamEvent.RECV_END)
                web_call.on_request_end()
            return
        if route is None or head.refusal is not None or head.http_status != 200:
            self._refuse(stream_id, head, end_stream)
            return
        shedding = route.shedding
        if shedding is not None and (self._late or shedding.due()):
            self._shed(stream_id, shedding.message, end_stream)
            return
        call: UnaryCall | StreamCall
        if route.kind is CallKind.UNARY:
            self.streams[stream_id] = call = UnaryCall(self, stream_id, head)
        else:
            self.streams[stream_id] = call = StreamCall(self, stream_id, head)
            call.start()
        if head.timeout_s is not None:
            call.start_deadline(self.received_s + head.timeout_s)
        if end_stream:
            if isinstance(call, UnaryCall):
                call.advance(StreamEvent.RECV_END)
            call.on_request_end()

    def _is_beyond_goaway(self, stream_id: int) -> bool:
        return self.goaway_sent is not None and stream_id > self.goaway_sent

    def _refuse(self, stream_id: int, head: RequestHead, end_stream: bool) -> None:
        """Answer a request that has no call: a status in one header block, and no interest in its body."""
        if head.http_status != 200:
            fields = [(b":status", b"%d" % head.http_status)]
            if head.http_status == 405:
                fields.append((b"allow", b"POST"))
            block = encode_fields(fields)
        else:
            assert head.refusal is not None
            block = trailers_block(*head.refusal, alone=True)
        self._control.spend()
        self.end_call(Stream(self, stream_id, HALF_CLOSED_REMOTE if end_stream else OPEN), block)

    def _shed(self, stream_id: int, message: str, end_stream: bool) -> None:
        """Refuse a call because of load, for a fraction of what it would cost, body unseen: there are many of them."""
        self.server.counters.shed += 1
        block = failure_block(StatusCode.RESOURCE_EXHAUSTED, message)
        if self.table_update_due:
            self.end_call(Stream(self, stream_id, HALF_CLOSED_REMOTE if end_stream else OPEN), block)
            return
        pack_failure(self.out, stream_id, block)  # within `handle_received`, which flushes
        if not end_stream:
            self.streams[stream_id] = UnwantedBody(self, stream_id)

    def _on_later_block(self, stream_id: int, fields: list[Field] | None, end_stream: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.on_headers(fields, end_stream)
        elif self.was_reset(stream_id):
            self._control.spend()
        else:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"HEADERS on closed stream {stream_id}")

    def check_trailers(self, stream: Stream, end_stream: bool) -> None:
        """Trailers of a request: allowed once, as its end; their content means nothing in gRPC."""
        stream.advance(StreamEvent.RECV_HEADERS)
        if not end_stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"second HEADERS without END_STREAM on {stream.id}")
        stream.advance(StreamEvent.RECV_END)

    def end_call(self, stream: Stream, block: bytes) -> None:
        """Send the block that ends a call."""
        self.send_tail(stream, self.headers_bytes(stream.id, block, True))

    def on_local_end(self, stream: Stream) -> None:
        if stream.state is not CLOSED:
            self.streams[stream.id] = UnwantedBody(self, stream.id)

    def forget(self, stream: Stream) -> None:
        super().forget(stream)
        if self.goaway_sent is not None and not self.streams:
            self._settle_drain()

    def on_queued(self) -> None:
        most = 2 * self.limits.max_queued_bytes
        if self.queued_bytes > most and not self.failed and self._backlog_bytes() > most:
            reason = f"{self.queued_bytes} bytes of answers are not read"
            self.loop.call_soon(self.fail, ErrorCode.ENHANCE_YOUR_CALM, reason)

    @property
    def is_congested(self) -> bool:
        """Whether the client reads less than it asks for: another large answer would only wait in memory."""
        most = self.limits.max_queued_bytes
        return self.queued_bytes > most and self._backlog_bytes() > most

    def _backlog_bytes(self) -> int:
        """What waits to be sent, without the largest answer."""
        return self.queued_bytes - max([stream.queued_bytes for stream in self.streams.values()], default=0)

    def on_peer_reset(self) -> None:
        self._resets.spend()

    def is_idle(self, stream_id: int) -> bool:
        return stream_id > self.last_peer_stream or not stream_id & 1

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a handler in a task that the server knows."""
        return self.server.spawn(work)

    def note(self, event: str, **fields: str) -> None:
        self.server.noted.info(event, peer=self.peer, **fields)

    # Shutting down

    def drain(self) -> None:
        """Ask the client to open nothing more; streams that cross this on the wire are still served.

        The first GOAWAY announces, a PING makes sure the client has seen it, the second one is binding
        (RFC 9113 section 6.8).
        """
        if self.state is ConnectionState.GREETING or self.failed:
            self.abort()
            return
        self.move(ConnectionEvent.ANNOUNCE)
        self.write(frames.goaway_frame(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR))
        self.write(frames.ping_frame(_DRAIN_PING))

    def on_ping_ack(self, payload: bytes) -> None:
        if payload == _DRAIN_PING and self.state is ConnectionState.LEAVING:
            self.move(ConnectionEvent.BIND)
            self.goaway_sent = self.last_peer_stream
            self.write(frames.goaway_frame(self.last_peer_stream, ErrorCode.NO_ERROR))
            if not self.streams:
                self._settle_drain()

    def _settle_drain(self) -> None:
        self.loop.call_soon(self.close)  # after the flush that carries the last reply

    def check(self, now_s: float) -> None:
        """Look whether the client gets on; the server does so about once a second."""
        if self.transport is None or self.failed or self.state is ConnectionState.GREETING:
            return  # other timers watch these
        buffered = self.transport.get_write_buffer_size()
        excess = self.queued_bytes - self.limits.max_queued_bytes // 4
        seen = Progress(
            heard_s=self.received_s,
            consumed_bytes=self.bytes_received - len(self._partial),
            partial=bool(self._partial),
            block=self._assemblies if self._assembly is not None else 0,
            requests=self.requests,
            streams=len(self.streams),
            sent_bytes=self.bytes_sent - buffered,
            unsent_bytes=buffered + max(0, excess),
            settled=self.settings_acked,
        )
        overdue = self._patience.look(seen, now_s)
        if overdue is Overdue.SILENCE:
            self.write(frames.ping_frame(_ALIVE_PING))
        elif overdue is Overdue.IDLE:
            if self.state is ConnectionState.OPEN:
                self.drain()
        elif overdue is Overdue.PING or (overdue is Overdue.READER and buffered):
            self.note("connection given up", reason=overdue.value)
            self.abort()
        elif overdue is not None:
            code = ErrorCode.SETTINGS_TIMEOUT if overdue is Overdue.SETTINGS else ErrorCode.ENHANCE_YOUR_CALM
            self.fail(code, overdue.value)

    @property
    def held_bytes(self) -> int:
        """Memory that messages of this client, and answers to it, take up."""
        unsent = 0 if self.transport is None else self.transport.get_write_buffer_size()
        if self.failed:
            return unsent
        calls = _CALL_BYTES * len(self.streams)
        return len(self._partial) + self.buffered_bytes + self.queued_bytes + unsent + calls

    def relieve(self, reason: str) -> None:
        """Close, and let go of what is held. It is told why where it may still hear that."""
        if self.transport is not None and self.transport.get_write_buffer_size():
            self.abort()
        else:
            self.fail(ErrorCode.ENHANCE_YOUR_CALM, reason)

    def on_close(self, reason: str) -> None:
        if self._handshake is not None:
            self._handshake.cancel()
        self.server.dismiss(self)
