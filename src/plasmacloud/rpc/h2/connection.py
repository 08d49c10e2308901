"""One HTTP/2 connection, either side: the read loop, control frames, and the rules of RFC 9113 that span streams.

``data_received`` parses the complete frames of a read in one pass (a server's in shares, see ``rpc/turns.py``);
whatever that produced leaves in one write at its end. A fault of the peer ends its stream or its connection with the
code the RFC asks for, and nothing else. The two sides differ in who opens streams: see ``rpc/server_connection.py`` and
``rpc/client_connection.py``.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final, cast

from plasmacloud.base.logging import get_logger
from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.errors import ConnectionFault, ErrorCode, StreamFault, code_name
from plasmacloud.rpc.h2.flow import ReceiveWindow
from plasmacloud.rpc.h2.frames import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS
from plasmacloud.rpc.h2.guard import FloodGuard
from plasmacloud.rpc.h2.headers import TABLE_SIZE_ZERO, HeaderDecoder
from plasmacloud.rpc.h2.lifecycle import ConnectionEvent, ConnectionState, next_connection_state
from plasmacloud.rpc.h2.outbound import Outbound
from plasmacloud.rpc.h2.settings import DEFAULT_TABLE_BYTES, DEFAULT_WINDOW_BYTES, PeerSettings, Setting
from plasmacloud.rpc.h2.stream import OPEN, IllegalStreamEvent, Stream, StreamEvent
from plasmacloud.rpc.limits import Limits

log = get_logger("rpc")

_LINGER_S: Final = 1.0  # how long a failed connection is read (and ignored), so that the GOAWAY arrives
_RECENT_RESETS: Final = 1024
_unpack_header = frames.FRAME_HEADER.unpack_from


class Connection(Outbound):
    """The protocol machine shared by client and server; subclasses decide what a header block means."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        super().__init__(loop, limits.send_buffer_bytes)
        self.limits = limits
        self.peer = ""
        self.peer_settings = PeerSettings()
        self.decoder = HeaderDecoder(limits.max_header_list_bytes)
        self.last_peer_stream = 0  # highest stream id the peer has opened
        self.state = ConnectionState.SETTLING
        self.failed = False  # the state is FAILED or CLOSED
        self.lost = False  # the state is CLOSED
        self.goaway_sent: int | None = None  # last stream id of the GOAWAY we sent
        self.received_s = loop.time()
        self.table_update_due = False  # we owe the peer's decoder a size update
        self.settings_acked = False
        self.buffered_bytes = 0  # in partly received messages
        self.requests = 0
        self.requests_refused = 0  # those that the peer should not have made
        self.bytes_received = 0
        self.max_block_bytes = 2 * limits.max_header_list_bytes
        self._partial = b""
        self._window_bytes = max(limits.connection_window_bytes, DEFAULT_WINDOW_BYTES)
        self._unacknowledged = 0  # DATA bytes received and not credited back on the connection
        self._assembly: tuple[int, int, bytearray] | None = None  # stream id, flags, block before END_HEADERS
        self._assemblies = 0
        self._recent_resets: dict[int, None] = {}  # in the order in which they were reset
        self._linger: asyncio.TimerHandle | None = None
        self._control = FloodGuard(
            "too many control frames", limits.control_burst, limits.control_per_s, loop.time, self._useful_frames
        )
        self._pings = FloodGuard("too_many_pings", limits.ping_burst, limits.ping_per_s, loop.time, self._useful_frames)

    def move(self, event: ConnectionEvent) -> None:
        """Move along the table of the connection's states."""
        self.state = state = next_connection_state(self.state, event)
        self.failed = state >= ConnectionState.FAILED
        self.lost = state is ConnectionState.CLOSED

    def _useful_frames(self) -> int:
        return 2 * (self.requests - self.requests_refused + self.frames_sent) + self.bytes_received // 4096

    # What the two sides implement.

    def on_block(self, stream_id: int, block: bytes, end_stream: bool) -> None:
        """A complete header block arrived."""
        raise NotImplementedError

    def on_batch_end(self) -> None:
        """Everything of one read has been dispatched; must not raise."""

    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        """The peer will not process streams above ``last_stream_id``."""

    def on_ping_ack(self, payload: bytes) -> None:
        """The peer answered one of our PINGs."""

    def on_settings(self) -> None:
        """The peer's settings changed."""

    def on_close(self, reason: str) -> None:
        """The connection is gone; all streams have been told."""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert hasattr(transport, "write")  # uvloop's transports are no subclass of asyncio.Transport
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=self.limits.write_buffer_bytes)
        address = transport.get_extra_info("peername")
        self.peer = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)

    def data_received(self, data: bytes) -> None:
        if self.failed:
            return
        self.received_s = self.loop.time()
        self.bytes_received += len(data)
        self._partial = self._partial + data if self._partial else data
        self.handle_received()

    def handle_received(self) -> None:
        """Handle what has arrived and is not handled yet; an incomplete frame stays."""
        data, self._partial = self._partial, b""
        self.flush_pending = True  # this method flushes
        try:
            if self.state is ConnectionState.SETTLING:
                _check_first_frame(data)
            consumed = self._consume(data)
            if consumed < len(data):
                self._partial = data[consumed:]
        except ConnectionFault as fault:
            self.fail(fault.code, str(fault))
        except Exception:  # a bug of ours must end this connection only
            log.error("connection failed", peer=self.peer, exc_info=True)
            self.fail(ErrorCode.INTERNAL_ERROR, "internal error")
        self.on_batch_end()  # also after a fault: what was dispatched before it counts
        if self._unacknowledged * 2 >= self._window_bytes:
            self.out.append(frames.window_update_frame(0, self._unacknowledged))
            self._unacknowledged = 0
        self.flush()

    def eof_received(self) -> bool:
        return False  # closes the transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.move(ConnectionEvent.LOST)
        self.transport = None
        if self._linger is not None:
            self._linger.cancel()
        reason = f"connection to {self.peer} lost" + (f": {exc}" if exc else "")
        for stream in list(self.streams.values()):
            self.forget(stream)
            stream.on_lost(reason)
        self.on_close(reason)

    def pause_writing(self) -> None:
        self.set_paused(True)

    def resume_writing(self) -> None:
        self.set_paused(False)

    # The read loop

    def _consume(self, data: bytes) -> int:
        """Handle every complete frame in ``data``; returns how many bytes that were."""
        return self._handle_frames(data, 0, sys.maxsize)[0]

    def _handle_frames(self, data: bytes, position: int, limit: int) -> tuple[int, bool]:
        """Handle the complete frames from ``position``, up to ``limit`` of them; where that ended, and whether there
        may be more."""
        end = len(data)
        while limit:
            limit -= 1
            start = position + 9
            if start > end:
                return position, False
            high, low, kind, flags, stream_id = _unpack_header(data, position)
            length = high << 8 | low
            if length > 16_384:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"frame of {length} bytes")
            stop = start + length
            if stop > end:
                return position, False
            position = stop
            if self._assembly is not None and kind != CONTINUATION:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "header block interrupted by another frame")
            try:
                if kind == DATA:
                    self._on_data(stream_id & 0x7FFF_FFFF, flags, data, start, stop)
                elif kind == HEADERS:
                    self._on_headers(stream_id & 0x7FFF_FFFF, flags, data, start, stop)
                else:
                    self._on_control(kind, stream_id & 0x7FFF_FFFF, flags, data[start:stop])
            except StreamFault as fault:
                self.reset(fault.stream_id, fault.code)
            except IllegalStreamEvent as illegal:
                if kind == DATA:
                    self.reset(stream_id & 0x7FFF_FFFF, ErrorCode.STREAM_CLOSED)
                    continue
                code = ErrorCode.STREAM_CLOSED if illegal.state > OPEN else ErrorCode.PROTOCOL_ERROR
                raise ConnectionFault(code, f"stream {stream_id}: {illegal}") from illegal
            if self.failed:
                return end, False
        return position, position < end

    def _on_data(self, stream_id: int, flags: int, data: bytes, start: int, stop: int) -> None:
        size = stop - start
        self._unacknowledged += size
        if self._unacknowledged > self._window_bytes:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection window allows")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._on_stray_data(stream_id)
            return
        if flags & frames.PADDED:
            start, stop = frames.strip_padding(flags, data, start, stop, headers=False)
        if start == stop and not flags & END_STREAM:
            self._control.spend()
        stream.on_data(flags, data, start, stop, size)

    def _on_stray_data(self, stream_id: int) -> None:
        self._check_known(stream_id, "DATA")
        self._control.spend()
        if stream_id not in self._recent_resets:
            self.write(frames.rst_stream_frame(stream_id, ErrorCode.STREAM_CLOSED))
            self.ignore_rest_of(stream_id)

    def _on_headers(self, stream_id: int, flags: int, data: bytes, start: int, stop: int) -> None:
        if flags & (frames.PADDED | frames.PRIORITIZED):
            start, stop = frames.strip_padding(flags, data, start, stop, headers=True)
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & END_HEADERS:
            self.on_block(stream_id, data[start:stop], flags & END_STREAM != 0)
        else:
            self._assemblies += 1
            self._assembly = (stream_id, flags, bytearray(data[start:stop]))

    def _on_continuation(self, stream_id: int, flags: int, payload: bytes) -> None:
        if self._assembly is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        opened, first_flags, block = self._assembly
        if opened != stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of another stream")
        self._control.spend()
        block += payload
        if len(block) > self.max_block_bytes:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"header block of more than {len(block)} bytes")
        if flags & END_HEADERS:
            self._assembly = None
            self.on_block(stream_id, bytes(block), first_flags & END_STREAM != 0)

    # Control frames

    def _on_control(self, kind: int, stream_id: int, flags: int, payload: bytes) -> None:
        handler = _CONTROL_HANDLERS.get(kind)
        if handler is not None:
            handler(self, stream_id, flags, payload)
        else:
            self._control.spend()  # an extension we do not know: ignored

    def _on_priority(self, stream_id: int, flags: int, payload: bytes) -> None:
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._control.spend()
        if len(payload) != 5:
            raise StreamFault(stream_id, ErrorCode.FRAME_SIZE_ERROR, f"PRIORITY of {len(payload)} bytes")

    def _on_rst_stream(self, stream_id: int, flags: int, payload: bytes) -> None:
        code = frames.parse_u32(payload, "RST_STREAM")
        self._check_known(stream_id, "RST_STREAM")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._control.spend()
            return
        self.on_peer_reset()
        self.forget(stream)
        stream.on_reset(code)

    def on_peer_reset(self) -> None:
        """The peer gave up a live stream; the server watches how often."""

    def _on_settings(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
            self.settings_acked = True
            return
        self._control.spend()
        for name, value in frames.parse_settings(payload):
            self.peer_settings.apply(name, value)
            if name == Setting.INITIAL_WINDOW_SIZE:
                self._move_initial_window(value)
            elif name == Setting.MAX_FRAME_SIZE:
                self.peer_max_frame = value
            elif name == Setting.HEADER_TABLE_SIZE and value < DEFAULT_TABLE_BYTES:
                self.table_update_due = True
        if self.state is ConnectionState.SETTLING:
            self.move(ConnectionEvent.SETTINGS)
        self.write(frames.SETTINGS_ACK)
        self.on_settings()

    def _move_initial_window(self, value: int) -> None:
        delta = value - self.peer_initial_window
        self.peer_initial_window = value
        for stream in list(self.streams.values()):
            if not self.credit_stream(stream, delta):
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS push a window over 2^31-1")

    def _on_ping(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"PING of {len(payload)} bytes")
        if flags & frames.ACK:
            self.on_ping_ack(payload)
        else:
            self._pings.spend()
            self.write(frames.ping_frame(payload, ack=True))

    def _on_goaway(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        self._control.spend()
        self.on_goaway(*frames.parse_goaway(payload))

    def _on_window_update(self, stream_id: int, flags: int, payload: bytes) -> None:
        increment = frames.parse_u32(payload, "WINDOW_UPDATE") & 0x7FFF_FFFF
        self._control.spend()
        if not stream_id:
            if not increment:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            if not self.credit_connection(increment):
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "connection window over 2^31-1")
            return
        self._check_known(stream_id, "WINDOW_UPDATE")
        if not increment:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        stream = self.streams.get(stream_id)
        if stream is not None and not self.credit_stream(stream, increment):
            raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "stream window over 2^31-1")

    def _on_push_promise(self, stream_id: int, flags: int, payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, though push is disabled")

    def _check_known(self, stream_id: int, what: str) -> None:
        """Frames other than HEADERS and PRIORITY must not arrive on idle streams."""
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} on stream 0")
        if self.is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} on idle stream {stream_id}")

    def is_idle(self, stream_id: int) -> bool:
        """Whether nobody has opened this stream yet."""
        raise NotImplementedError

    # Sending

    def start_sending(self, settings: list[tuple[int, int]], preface: bytes = b"") -> None:
        """Our side's first flight: SETTINGS, and the connection window beyond the RFC's default."""
        self.write(preface + frames.settings_frame(settings))
        if self._window_bytes > DEFAULT_WINDOW_BYTES:
            self.write(frames.window_update_frame(0, self._window_bytes - DEFAULT_WINDOW_BYTES))

    def send_headers(self, stream: Stream, block: bytes, *, end_stream: bool = False) -> None:
        """Send a header block; with ``end_stream`` it leaves behind the stream's queued DATA."""
        encoded = self.headers_bytes(stream.id, block, end_stream)
        if end_stream:
            self.send_tail(stream, encoded)
        else:
            self.write(encoded)
            stream.advance(StreamEvent.SEND_HEADERS)

    def headers_bytes(self, stream_id: int, block: bytes, end_stream: bool) -> bytes:
        """The frames of a header block, led by the table size update if we owe one."""
        if self.table_update_due:
            self.table_update_due = False
            block = TABLE_SIZE_ZERO + block
        return frames.headers_frames(stream_id, block, end_stream=end_stream, max_frame_bytes=self.peer_max_frame)

    def receive_window(self, stream_id: int) -> ReceiveWindow:
        """A fresh receive window for one stream."""
        size = self.limits.stream_window_bytes
        return ReceiveWindow(stream_id, size, overrun_bytes=0 if self.settings_acked else DEFAULT_WINDOW_BYTES)

    def reset(self, stream_id: int, code: int) -> None:
        """Give up a stream, known or not, and tell its owner if there is one."""
        stream = self.streams.get(stream_id)
        self.ignore_rest_of(stream_id)
        if stream is None:
            self.write(frames.rst_stream_frame(stream_id, code))
            return
        self.send_reset(stream, code)
        stream.on_reset(code)

    def ignore_rest_of(self, stream_id: int) -> None:
        """Frames still under way on a stream that we ended early are no fault."""
        resets = self._recent_resets
        resets[stream_id] = None
        if len(resets) > _RECENT_RESETS:
            del resets[next(iter(resets))]

    def was_reset(self, stream_id: int) -> bool:
        return stream_id in self._recent_resets

    # Ending

    def fail(self, code: ErrorCode, message: str) -> None:
        """End this connection because of the peer's fault (or our own): GOAWAY, then close."""
        if self.failed or self.transport is None:
            return
        self.move(ConnectionEvent.FAULT)
        self._partial = b""
        self._assembly = None
        if code is not ErrorCode.NO_ERROR:
            self.note("connection refused further service", code=code_name(code), reason=message)
        self.out.append(frames.goaway_frame(self.last_peer_stream, code, message.encode()[:200]))
        self.flush_pending = True
        self.flush()
        self.muted = True
        for stream in list(self.streams.values()):
            self.forget(stream)
            stream.on_lost(f"connection to {self.peer} failed: {message}")
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._linger = self.loop.call_later(_LINGER_S, self.abort)
        else:
            self.transport.close()

    def note(self, event: str, **fields: str) -> None:
        """Log what happened to this connection."""
        log.info(event, peer=self.peer, **fields)

    def close(self) -> None:
        """Close politely: what is queued in the transport still leaves."""
        if self.transport is not None:
            self.flush()
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abort()


def _check_first_frame(data: bytes) -> None:
    """The peer's preface ends with SETTINGS (RFC 9113 section 3.4). ``data`` begins with its first frame."""
    if len(data) >= frames.FRAME_HEADER_BYTES and (data[3] != frames.SETTINGS or data[4] & frames.ACK):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")


_CONTROL_HANDLERS: Final[dict[int, Any]] = {
    frames.PRIORITY: Connection._on_priority,
    frames.RST_STREAM: Connection._on_rst_stream,
    frames.SETTINGS: Connection._on_settings,
    frames.PUSH_PROMISE: Connection._on_push_promise,
    frames.PING: Connection._on_ping,
    frames.GOAWAY: Connection._on_goaway,
    frames.WINDOW_UPDATE: Connection._on_window_update,
    frames.CONTINUATION: Connection._on_continuation,
}
