"""The client's side of a connection: opens streams, understands responses, notices a dead or leaving peer."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import TYPE_CHECKING, Final

from plasmacloud.base.tls_errors import describe_tls_error
from plasmacloud.rpc.client_call import ClientStreaming, ClientUnary, ResponseHead
from plasmacloud.rpc.deadlines import DeadlineWheel
from plasmacloud.rpc.grpc_framing import PREFIX, PREFIX_BYTES
from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.connection import Connection
from plasmacloud.rpc.h2.errors import ConnectionFault, ErrorCode, code_name
from plasmacloud.rpc.h2.frames import DATA, END_STREAM
from plasmacloud.rpc.h2.settings import Setting
from plasmacloud.rpc.h2.stream import HALF_CLOSED_LOCAL, Stream
from plasmacloud.rpc.limits import ChannelOptions, Limits

if TYPE_CHECKING:
    from plasmacloud.rpc.channel import Channel

_KEEPALIVE: Final = b"alive\0\0\0"
_MAX_CACHED_HEADS: Final = 256
_STREAM_ID_END: Final = 2**31 - 1


class ClientConnection(Connection):
    """One connection of a channel."""

    def __init__(self, channel: Channel, limits: Limits, options: ChannelOptions, wheel: DeadlineWheel) -> None:
        self._given_up = 0
        super().__init__(asyncio.get_running_loop(), limits)
        self.channel = channel
        self.options = options
        self.wheel = wheel
        self.established: asyncio.Future[None] = self.loop.create_future()
        self.gone: asyncio.Future[None] = self.loop.create_future()
        self.leaving = False  # GOAWAY received, or stream ids used up: no new calls
        self.next_stream_id = 1
        self.slots: deque[asyncio.Future[None]] = deque()  # calls that wait for a free stream
        self.lost_reason: str | None = None
        self._heads: dict[bytes, ResponseHead] = {}
        self._keepalive: asyncio.TimerHandle | None = None
        self._busy_since_s = 0.0
        self._ping_sent_s: float | None = None
        self._streaming = 0
        self._tick_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        settings: list[tuple[int, int]] = [
            (Setting.ENABLE_PUSH, 0),
            (Setting.INITIAL_WINDOW_SIZE, self.limits.stream_window_bytes),
            (Setting.MAX_HEADER_LIST_SIZE, self.limits.max_header_list_bytes),
        ]
        self.start_sending(settings, preface=frames.PREFACE)

    def on_settings(self) -> None:
        if not self.established.done():
            self.established.set_result(None)
        self.wake_slots()

    @property
    def usable(self) -> bool:
        """Whether a new call may be started here; it may still have to wait for a free stream."""
        return not (self.leaving or self.lost or self.failed)

    @property
    def has_slot(self) -> bool:
        """Whether the server allows one more concurrent stream."""
        return len(self.streams) < self.peer_settings.max_concurrent_streams

    # Starting calls

    def _next_id(self) -> int:
        stream_id = self.next_stream_id
        self.next_stream_id += 2
        if self.next_stream_id >= _STREAM_ID_END:
            self.leaving = True
            self.channel.connection_leaving(self)
        if self._keepalive is None:
            self._start_keepalive()
        return stream_id

    def start_unary(self, block: bytes, body: bytes, deadline_s: float) -> ClientUnary:
        """Send a whole unary request."""
        stream_id = self._next_id()
        call = ClientUnary(self, stream_id)
        self.streams[stream_id] = call
        call.bucket = self.wheel.add(call, deadline_s)
        self.write(self.headers_bytes(stream_id, block, False))
        size = len(body) + PREFIX_BYTES
        fits = size <= call.send_window and size <= self.send_window and size <= self.peer_max_frame
        if fits and not self._ready and not self._paused:
            self.send_window -= size
            self.out.append(frames.frame_header(size, DATA, END_STREAM, stream_id) + PREFIX.pack(0, len(body)))
            self.out.append(body)
            call.state = HALF_CLOSED_LOCAL
        else:
            call.whole = False
            self.send_data(call, PREFIX.pack(0, len(body)) + body)
            self.send_tail(call, frames.data_frame(stream_id, b"", end_stream=True))
            call.whole = not call.queued_bytes
        return call

    def start_stream(self, block: bytes, deadline_s: float | None) -> ClientStreaming:
        """Open a streaming call."""
        stream_id = self._next_id()
        call = ClientStreaming(self, stream_id)
        self.streams[stream_id] = call
        self._streaming += 1
        if deadline_s is not None:
            call.bucket = self.wheel.add(call, deadline_s)
        self.write(self.headers_bytes(stream_id, block, False))
        return call

    def _useful_frames(self) -> int:
        return super()._useful_frames() + 4 * self._given_up

    def send_reset(self, stream: Stream, code: int) -> None:
        self._given_up += 1  # the answer may be under way: its frames are no flood
        super().send_reset(stream, code)

    def forget(self, stream: Stream) -> None:
        if self.streams.get(stream.id) is stream and isinstance(stream, ClientStreaming):
            self._streaming -= 1
        super().forget(stream)
        self.ignore_rest_of(stream.id)
        if self.slots:
            self.wake_slots()
        if self.leaving and not self.streams:
            self.loop.call_soon(self.close)

    def wake_slots(self) -> None:
        """Let as many waiting calls go as there are free streams."""
        free = self.peer_settings.max_concurrent_streams - len(self.streams)
        while self.slots and (free > 0 or not self.usable):
            waiter = self.slots.popleft()
            if not waiter.done():
                waiter.set_result(None)
                free -= 1

    # Responses

    def on_block(self, stream_id: int, block: bytes, end_stream: bool) -> None:
        head = self._heads.get(block)
        if head is None:
            version = self.decoder.version
            fields = self.decoder.decode(block)
            if fields is None:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "response headers exceed the limit")
            head = ResponseHead(fields)
            if version != self.decoder.version:
                self._heads.clear()
            elif len(self._heads) < _MAX_CACHED_HEADS:
                self._heads[block] = head
        self._check_known(stream_id, "HEADERS")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._control.spend()
            return
        assert isinstance(stream, ClientUnary | ClientStreaming)
        self.requests += 1
        stream.on_response(head, end_stream)

    def is_idle(self, stream_id: int) -> bool:
        return stream_id >= self.next_stream_id or not stream_id & 1

    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        self.leaving = True
        if code == ErrorCode.ENHANCE_YOUR_CALM and debug == b"too_many_pings":
            self.channel.ping_less()
        if code != ErrorCode.NO_ERROR:
            detail = debug.decode("latin-1")[:200]
            self.lost_reason = f"{self.peer} closed the connection: {code_name(code)} {detail}".rstrip()
        self.channel.connection_leaving(self)
        for stream in [s for i, s in self.streams.items() if i > last_stream_id]:
            self.forget(stream)
            assert isinstance(stream, ClientUnary | ClientStreaming)
            stream.on_not_processed(f"{self.peer} is going away and did not process the call")
        self.wake_slots()
        if not self.streams:
            self.loop.call_soon(self.close)

    def shut_down(self, reason: str) -> None:
        """Close without waiting for anything; calls in flight fail now."""
        self.leaving = True
        self.lost_reason = reason
        if self.transport is not None:
            self.write(frames.goaway_frame(0, ErrorCode.NO_ERROR))
            self.flush()
            self.muted = True
            if self.transport.get_write_buffer_size():
                self.transport.abort()  # the peer does not read; closing would wait for it
            else:
                self.transport.close()
        for stream in list(self.streams.values()):
            self.forget(stream)
            stream.on_lost(reason)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.lost_reason is not None:
            exc = ConnectionError(self.lost_reason)
        elif isinstance(exc, ssl.SSLError):
            exc = ConnectionError(describe_tls_error(exc))
        super().connection_lost(exc)
        if not self.gone.done():
            self.gone.set_result(None)

    def on_close(self, reason: str) -> None:
        if self._keepalive is not None:
            self._keepalive.cancel()
        if not self.established.done():
            self.established.set_exception(ConnectionError(reason))
        self.wake_slots()
        self.channel.connection_gone(self)

    # Keepalive: one timer per connection, and only while calls are in flight.

    def _interval_s(self) -> float | None:
        unary = len(self.streams) > self._streaming
        options = self.options
        interval = options.keepalive_interval_s if unary else options.stream_keepalive_interval_s
        return None if interval is None else interval * self.channel.keepalive_factor

    def _start_keepalive(self) -> None:
        shortest = self.options.keepalive_interval_s or self.options.stream_keepalive_interval_s
        if shortest is None:
            return
        self._tick_s = shortest
        self._busy_since_s = self.loop.time()
        self._ping_sent_s = None
        self._keepalive = self.loop.call_later(shortest, self._check_alive)

    def _check_alive(self) -> None:
        self._keepalive = None
        interval_s = self._interval_s()
        if not self.streams or interval_s is None or self.lost:
            return
        now_s = self.loop.time()
        if self._ping_sent_s is not None and self.received_s < self._ping_sent_s:
            waited_s = now_s - self._ping_sent_s
            if waited_s >= self.options.keepalive_timeout_s:
                self.lost_reason = f"no answer to a keepalive ping for {waited_s:.1f} s"
                self.abort()
                return
            self._keepalive = self.loop.call_later(self.options.keepalive_timeout_s - waited_s, self._check_alive)
            return
        self._ping_sent_s = None
        quiet_s = now_s - max(self.received_s, self._busy_since_s)
        if quiet_s >= interval_s:
            self._ping_sent_s = now_s
            self.write(frames.ping_frame(_KEEPALIVE))
            wait_s = self.options.keepalive_timeout_s
        else:
            wait_s = min(interval_s - quiet_s, self._tick_s)  # unary calls may join streaming ones meanwhile
        self._keepalive = self.loop.call_later(wait_s, self._check_alive)
