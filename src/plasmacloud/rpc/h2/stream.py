"""A stream's life as a table (RFC 9113 section 5.1), and what the connection keeps per stream.

An event that the table does not list is a protocol error and changes nothing. Push is disabled on both sides, so
the reserved states do not exist here.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from plasmacloud.rpc.h2.connection import Connection


class StreamState(IntEnum):
    """Where a stream is; "local" is our side."""

    IDLE = 0
    OPEN = 1
    HALF_CLOSED_LOCAL = 2
    HALF_CLOSED_REMOTE = 3
    CLOSED = 4


class StreamEvent(IntEnum):
    """What can happen to a stream."""

    SEND_HEADERS = 0
    RECV_HEADERS = 1
    SEND_DATA = 2
    RECV_DATA = 3
    SEND_END = 4
    RECV_END = 5
    SEND_RESET = 6
    RECV_RESET = 7


class IllegalStreamEvent(Exception):
    """An event that the state does not allow; the connection turns it into the right error code."""

    def __init__(self, state: StreamState, event: StreamEvent) -> None:
        super().__init__(f"{event.name} in state {state.name}")
        self.state = state
        self.event = event


IDLE: Final = StreamState.IDLE
OPEN: Final = StreamState.OPEN
HALF_CLOSED_LOCAL: Final = StreamState.HALF_CLOSED_LOCAL
HALF_CLOSED_REMOTE: Final = StreamState.HALF_CLOSED_REMOTE
CLOSED: Final = StreamState.CLOSED

TRANSITIONS: Final[dict[tuple[StreamState, StreamEvent], StreamState]] = {
    (IDLE, StreamEvent.SEND_HEADERS): OPEN,
    (IDLE, StreamEvent.RECV_HEADERS): OPEN,
    (OPEN, StreamEvent.SEND_HEADERS): OPEN,  # response headers, trailers
    (OPEN, StreamEvent.RECV_HEADERS): OPEN,
    (OPEN, StreamEvent.SEND_DATA): OPEN,
    (OPEN, StreamEvent.RECV_DATA): OPEN,
    (OPEN, StreamEvent.SEND_END): HALF_CLOSED_LOCAL,
    (OPEN, StreamEvent.RECV_END): HALF_CLOSED_REMOTE,
    (OPEN, StreamEvent.SEND_RESET): CLOSED,
    (OPEN, StreamEvent.RECV_RESET): CLOSED,
    (HALF_CLOSED_LOCAL, StreamEvent.RECV_HEADERS): HALF_CLOSED_LOCAL,
    (HALF_CLOSED_LOCAL, StreamEvent.RECV_DATA): HALF_CLOSED_LOCAL,
    (HALF_CLOSED_LOCAL, StreamEvent.RECV_END): CLOSED,
    (HALF_CLOSED_LOCAL, StreamEvent.SEND_RESET): CLOSED,
    (HALF_CLOSED_LOCAL, StreamEvent.RECV_RESET): CLOSED,
    (HALF_CLOSED_REMOTE, StreamEvent.SEND_HEADERS): HALF_CLOSED_REMOTE,
    (HALF_CLOSED_REMOTE, StreamEvent.SEND_DATA): HALF_CLOSED_REMOTE,
    (HALF_CLOSED_REMOTE, StreamEvent.SEND_END): CLOSED,
    (HALF_CLOSED_REMOTE, StreamEvent.SEND_RESET): CLOSED,
    (HALF_CLOSED_REMOTE, StreamEvent.RECV_RESET): CLOSED,
    (CLOSED, StreamEvent.SEND_RESET): CLOSED,
    (CLOSED, StreamEvent.RECV_RESET): CLOSED,  # crossed on the wire with our own end
}


def next_state(state: StreamState, event: StreamEvent) -> StreamState:
    """The state after ``event``; raises IllegalStreamEvent."""
    after = TRANSITIONS.get((state, event))
    if after is None:
        raise IllegalStreamEvent(state, event)
    return after


class Stream:
    """One stream of a connection: its state, its send window, and the bytes that wait for that window.

    Calls of both sides derive from it. The connection calls the ``on_*`` methods; they must not raise for anything
    that the peer does, except StreamFault and ConnectionFault.
    """

    __slots__ = ("__weakref__", "connection", "id", "queue", "queued_bytes", "ready", "send_window", "state", "tail")

    def __init__(self, connection: Connection, stream_id: int, state: StreamState) -> None:
        self.connection = connection
        self.id = stream_id
        self.state = state
        self.send_window = connection.peer_initial_window
        self.queue: deque[bytes | memoryview] | None = None  # DATA payload that waits for a window
        self.queued_bytes = 0
        self.ready = False  # in the connection's round-robin
        self.tail: bytes | None = None  # frames with END_STREAM, to leave right behind the queue

    def advance(self, event: StreamEvent) -> None:
        """Move along the table; raises IllegalStreamEvent and changes nothing if it cannot."""
        self.state = next_state(self.state, event)

    def on_data(self, flags: int, data: bytes, start: int, stop: int, frame_bytes: int) -> None:
        """DATA arrived: ``data[start:stop]``; ``frame_bytes`` counts against the receive windows."""
        raise NotImplementedError

    def on_headers(self, fields: list[tuple[bytes, bytes]] | None, end_stream: bool) -> None:
        """A header block after the one that opened the stream; None if it exceeded the limit."""
        raise NotImplementedError

    def on_reset(self, code: int) -> None:
        """The peer sent RST_STREAM; the stream is already closed and forgotten by the connection."""
        raise NotImplementedError

    def on_lost(self, reason: str) -> None:
        """The connection is gone; the stream is closed."""
        raise NotImplementedError

    def on_writable(self) -> None:
        """The queue fell below the send buffer limit, or everything including ``tail`` has left."""
