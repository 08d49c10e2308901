"""The half of a call that both sides share: messages in with backpressure, messages out with backpressure.

Receiving: a stream's window is credited while its inbox is empty or as the application takes messages, so a slow
reader holds back its peer after one window (plus at most one message). Sending: ``send`` waits while more than
``Limits.send_buffer_bytes`` of the stream are queued.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from plasmacloud.rpc.grpc_framing import PREFIX_BYTES, MessageAssembler, encode_message
from plasmacloud.rpc.h2.frames import window_update_frame
from plasmacloud.rpc.h2.stream import CLOSED, HALF_CLOSED_LOCAL, Stream, StreamState
from plasmacloud.rpc.status import Execution, RpcError, StatusCode

if TYPE_CHECKING:
    from plasmacloud.rpc.h2.connection import Connection


class Inbound:
    """Assembles the messages of one stream and keeps its receive window; memory counts on the connection."""

    __slots__ = ("_assembler", "_closed", "_connection", "_counted", "_stream", "_unreleased", "_window")

    def __init__(self, stream: Stream, encoding: bytes) -> None:
        self._connection = stream.connection
        self._stream = stream
        self._assembler = MessageAssembler(self._connection.limits.max_recv_bytes, encoding)
        self._window = self._connection.receive_window(stream.id)
        self._counted = 0
        self._unreleased = 0
        self._closed = False

    def feed(self, data: bytes, frame_bytes: int) -> list[bytes]:
        """The messages that one DATA frame completes. Raises RpcError, StreamFault."""
        self._window.received(frame_bytes)
        self._unreleased += frame_bytes
        messages = self._assembler.feed(data)
        self._count()
        if self._connection.buffered_bytes > self._connection.limits.max_buffered_bytes:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED, "too many bytes of unfinished or unread messages on this connection"
            )
        return messages

    def _count(self) -> None:
        """What this stream occupies: its unfinished message, and messages that the application has not taken."""
        # The two overlap (an unfinished message may be unreleased); the larger is at least half of their union.
        held = max(self._assembler.partial_bytes, self._unreleased)
        self._connection.buffered_bytes += held - self._counted
        self._counted = held

    @property
    def incomplete(self) -> bool:
        """Whether part of a message has arrived."""
        return self._assembler.partial_bytes > 0

    def release(self, size: int | None = None) -> None:
        """Credit ``size`` bytes (None: all) back to the peer, when that is worth a frame."""
        size = self._unreleased if size is None else min(size, self._unreleased)
        self._unreleased -= size
        if self._closed:
            return
        self._count()
        self._window.release(size)
        state = self._stream.state
        if state is StreamState.OPEN or state is HALF_CLOSED_LOCAL:
            increment = self._window.take_update()
            if increment:
                self._connection.write(window_update_frame(self._stream.id, increment))

    def close(self) -> None:
        """Nothing more arrives: what is still held no longer counts."""
        self._closed = True
        self._connection.buffered_bytes -= self._counted
        self._counted = 0
        assert self._connection.buffered_bytes >= 0


class MessageStream(Stream):
    """A streaming call as its user sees it: ``async for message in call``, ``await call.send(message)``."""

    __slots__ = ("_drained", "_inbound", "_inbox", "_reader", "failure", "remote_ended")

    def __init__(self, connection: Connection, stream_id: int, state: StreamState) -> None:
        super().__init__(connection, stream_id, state)
        self._inbound: Inbound | None = None
        self._inbox: deque[bytes] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._drained: list[asyncio.Future[None]] = []
        self.remote_ended = False
        self.failure: RpcError | None = None  # why the call ended, if not well

    def deliver(self, data: bytes, frame_bytes: int, encoding: bytes) -> None:
        """Take one DATA payload in. Raises RpcError for messages that break a limit."""
        if self._inbound is None:
            self._inbound = Inbound(self, encoding)
        messages = self._inbound.feed(data, frame_bytes)
        if messages:
            self._inbox.extend(messages)
            self._wake_reader()
        elif not self._inbox:
            self._inbound.release()

    def deliver_end(self) -> None:
        """The peer will send nothing more."""
        if self._inbound is not None and self._inbound.incomplete:
            self.end_with(RpcError(StatusCode.INTERNAL, "the last message is incomplete"))
        self.remote_ended = True
        self._wake_reader()

    def end_with(self, failure: RpcError | None) -> None:
        """The call is over: readers and writers that wait learn why."""
        if self.failure is None:
            self.failure = failure
        self.remote_ended = True
        if self._inbound is not None:
            self._inbound.close()
        self._wake_reader()
        self.on_writable()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def on_writable(self) -> None:
        waiting, self._drained = self._drained, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def __aiter__(self) -> MessageStream:
        return self

    async def __anext__(self) -> bytes:
        """The next message. Raises RpcError if the call failed, StopAsyncIteration at its good end."""
        while not self._inbox:
            if self.failure is not None:
                raise self.failure
            if self.remote_ended:
                raise StopAsyncIteration
            assert self._reader is None, "a stream has one reader"
            self._reader = self.connection.loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        message = self._inbox.popleft()
        if self._inbound is not None:
            self._inbound.release(len(message) + PREFIX_BYTES if self._inbox else None)
        return message

    async def send(self, body: bytes) -> None:
        """Send one message; waits while the peer or the network is slower than we are.

        Raises RpcError once the call has ended or our side of it is closed.
        """
        if self.state is CLOSED or self.state is HALF_CLOSED_LOCAL or self.tail is not None:
            raise self.failure or RpcError(
                StatusCode.CANCELLED, "send on a call that has ended", executed=Execution.UNKNOWN
            )
        self.connection.send_data(self, self.pack(body))
        while self.queued_bytes > self.connection.send_buffer_bytes:
            future = self.connection.loop.create_future()
            self._drained.append(future)
            await future
        if self.failure is not None:
            raise self.failure

    def pack(self, body: bytes) -> bytes:
        """A message as it travels."""
        return encode_message(body)
