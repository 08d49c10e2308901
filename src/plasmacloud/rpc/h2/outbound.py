"""What leaves a connection: one write per loop iteration, DATA as far as windows and transport allow, fairly.

Frames collect in ``out`` and leave in a single ``transport.write``. DATA that does not fit a window right now waits
in its stream's queue; streams with something to send take turns, one frame each, so that a large answer cannot
starve a small one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from plasmacloud.rpc.h2.frames import (
    DATA,
    DEFAULT_MAX_FRAME_BYTES,
    MAX_STREAM_ID,
    frame_header,
    rst_stream_frame,
)
from plasmacloud.rpc.h2.settings import DEFAULT_WINDOW_BYTES
from plasmacloud.rpc.h2.stream import CLOSED, Stream, StreamEvent

_WRITE_BUDGET_BYTES: Final = 256 * 1024  # DATA of one loop iteration; the loop gets its turn between two of them


class Outbound(asyncio.Protocol):
    """The sending half of a connection; ``Connection`` adds the receiving half."""

    def __init__(self, loop: asyncio.AbstractEventLoop, send_buffer_bytes: int) -> None:
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.out: list[bytes | memoryview] = []
        self.flush_pending = False
        self.send_window = DEFAULT_WINDOW_BYTES
        self.peer_initial_window = DEFAULT_WINDOW_BYTES
        self.peer_max_frame = DEFAULT_MAX_FRAME_BYTES
        self.send_buffer_bytes = send_buffer_bytes
        self.streams: dict[int, Stream] = {}
        self.frames_sent = 0
        self.flushes = 0
        self.bytes_sent = 0
        self.queued_bytes = 0  # in all streams' queues together
        self.muted = False  # our side of the socket is closed: nothing more may be written
        self._ready: deque[Stream] = deque()
        self._paused = False
        self._budget = _WRITE_BUDGET_BYTES

    def write(self, frame: bytes) -> None:
        """Send complete frames that need no window, with everything else of this loop iteration."""
        self.out.append(frame)
        if not self.flush_pending:
            self.schedule_flush()

    def schedule_flush(self) -> None:
        self.flush_pending = True
        self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Hand everything that may leave now to the transport, in one write."""
        self.flush_pending = False
        transport = self.transport
        if transport is None or self.muted:
            self.out.clear()
            return
        if self._ready and not self._paused:
            self._pump()
        if self.out:
            chunk = b"".join(self.out) if len(self.out) > 1 else self.out[0]
            self.out.clear()
            self.flushes += 1
            self.bytes_sent += len(chunk)
            transport.write(chunk)
        self._budget = _WRITE_BUDGET_BYTES
        if self._ready and self.send_window > 0 and not self._paused and not self.flush_pending:
            self.schedule_flush()

    def send_data(self, stream: Stream, payload: bytes) -> None:
        """Send ``payload`` as DATA, now if the windows allow, else when they do; order is kept.

        ``stream.queued_bytes`` tells how much waits: a well-behaved sender waits for ``on_writable`` above
        ``send_buffer_bytes``.
        """
        assert payload
        size = len(payload)
        if (
            not stream.queued_bytes
            and size <= stream.send_window
            and size <= self.send_window
            and size <= self.peer_max_frame
            and size <= self._budget
            and not self._paused
            and not self._ready
        ):
            stream.send_window -= size
            self.send_window -= size
            self._budget -= size
            self.out.append(frame_header(size, DATA, 0, stream.id))
            self.frames_sent += 1
            self.write(payload)
            return
        self.send_pieces(stream, [payload], size)

    def send_pieces(self, stream: Stream, pieces: list[bytes], size: int) -> None:
        """Send ``pieces``, together ``size`` bytes, as DATA when the windows allow it."""
        if stream.queue is None:
            stream.queue = deque()
        stream.queue.extend(pieces)
        stream.queued_bytes += size
        self.queued_bytes += size
        self._enqueue(stream)
        self.on_queued()

    def send_tail(self, stream: Stream, frames: bytes) -> None:
        """End our side of ``stream`` with ``frames`` (they carry END_STREAM), behind all queued DATA."""
        assert stream.tail is None
        if stream.queued_bytes:
            stream.tail = frames
        else:
            self.write(frames)
            self._local_end(stream)

    def send_reset(self, stream: Stream, code: int) -> None:
        """Give a stream up: RST_STREAM; queued DATA is dropped."""
        if stream.state is CLOSED:
            return
        self.write(rst_stream_frame(stream.id, code))
        stream.advance(StreamEvent.SEND_RESET)
        self.forget(stream)

    def forget(self, stream: Stream) -> None:
        """Drop a closed stream and whatever it still had to send."""
        self.streams.pop(stream.id, None)
        stream.state = CLOSED
        self.queued_bytes -= stream.queued_bytes
        stream.queue = None
        stream.queued_bytes = 0
        stream.tail = None

    def credit_stream(self, stream: Stream, increment: int) -> bool:
        """Grow (or, after a SETTINGS change, shrink) a stream's send window; False if it passes 2**31-1."""
        stream.send_window += increment
        if stream.send_window > MAX_STREAM_ID:
            return False
        if stream.queued_bytes:
            self._enqueue(stream)
        return True

    def credit_connection(self, increment: int) -> bool:
        """Grow the connection's send window; False if it passes 2**31-1."""
        self.send_window += increment
        if self._ready and not self.flush_pending:
            self.schedule_flush()
        return self.send_window <= MAX_STREAM_ID

    def set_paused(self, paused: bool) -> None:
        """The transport's buffer is full (or has room again): hold DATA back meanwhile."""
        self._paused = paused
        if not paused and not self.flush_pending:
            self.schedule_flush()

    def _enqueue(self, stream: Stream) -> None:
        if not stream.ready and stream.send_window > 0:
            stream.ready = True
            self._ready.append(stream)
            if self.send_window > 0 and not self._paused and not self.flush_pending:
                self.schedule_flush()

    def _pump(self) -> None:
        ready = self._ready
        while ready and self.send_window > 0 and self._budget > 0:
            stream = ready.popleft()
            if stream.queued_bytes and stream.send_window > 0:
                self._send_one_frame(stream)
            if stream.queued_bytes and stream.send_window > 0:
                ready.append(stream)
            else:
                stream.ready = False

    def _send_one_frame(self, stream: Stream) -> None:
        queue = stream.queue
        assert queue
        size = min(self.peer_max_frame, self.send_window, stream.send_window)
        piece = queue[0]
        if len(piece) <= size:
            queue.popleft()
        else:
            rest = memoryview(piece)
            piece = rest[:size]
            queue[0] = rest[size:]
        size = len(piece)
        self.out.append(frame_header(size, DATA, 0, stream.id))
        self.out.append(piece)
        self.frames_sent += 1
        self._budget -= size
        self.send_window -= size
        stream.send_window -= size
        before = stream.queued_bytes
        stream.queued_bytes -= size
        self.queued_bytes -= size
        assert 0 <= stream.queued_bytes <= self.queued_bytes
        assert self.send_window >= 0
        assert stream.send_window >= 0
        if not stream.queued_bytes and stream.tail is not None:
            self.out.append(stream.tail)
            stream.tail = None
            self._local_end(stream)
            stream.on_writable()
        elif before > self.send_buffer_bytes >= stream.queued_bytes:
            stream.on_writable()

    def _local_end(self, stream: Stream) -> None:
        stream.advance(StreamEvent.SEND_END)
        if stream.state is CLOSED:
            self.forget(stream)
        self.on_local_end(stream)

    def on_local_end(self, stream: Stream) -> None:
        """Our side of ``stream`` has left entirely."""

    def on_queued(self) -> None:
        """More waits for the peer's windows than before."""
