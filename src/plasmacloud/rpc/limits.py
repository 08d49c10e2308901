"""The numbers that bound what one connection may cost us. Sizes in bytes, times in seconds."""

import msgspec

KIB = 1024
MIB = 1024 * KIB


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one HTTP/2 connection, unless one says otherwise; used by both the server and the client side."""

    max_recv_bytes: int = 2 * MIB
    """Largest message accepted, after decompression: etcd's request limit (1.5 MiB) plus its slack."""
    max_header_list_bytes: int = 16 * KIB
    """Largest decoded header list, counted as RFC 7541 section 4.1 does; larger ones are refused."""
    max_concurrent_streams: int = 1024
    stream_window_bytes: int = 1 * MIB
    connection_window_bytes: int = 16 * MIB
    max_buffered_bytes: int = 64 * MIB
    """Total of all partly received and unread messages of one connection; the call that passes it is refused."""
    max_queued_bytes: int = 32 * MIB
    """Answers that wait for the client's windows, without the largest: one may be as large as it is. Above it new calls
    are refused, above twice of it the connection is closed. Both are the client's doing: it asks for more than it
    reads."""
    max_held_bytes: int = 2048 * MIB
    """Unfinished messages and unread answers of *all* connections of a server: above it those that hold the most are
    closed. It is looked at every second, more often from half of it on."""
    send_buffer_bytes: int = 64 * KIB
    """A streaming ``send`` waits while more than this is queued on its stream."""
    write_buffer_bytes: int = 1 * MIB
    """Unsent bytes in the transport above which the server stops reading that connection."""
    control_burst: int = 2000
    control_per_s: float = 500.0
    """SETTINGS, empty and ignored frames tolerated beyond those that useful traffic justifies."""
    ping_burst: int = 100
    ping_per_s: float = 1.0
    """The same for PING; a client that passes it is told ``too_many_pings``, and gRPC clients then ping less often."""
    reset_burst: int = 2000
    reset_per_s: float = 200.0
    """Streams that the peer may open and reset again (CVE-2023-44487)."""
    handshake_timeout_s: float = 10.0
    settings_timeout_s: float = 30.0
    """How long the peer may take to acknowledge our SETTINGS."""
    frame_timeout_s: float = 30.0
    """How long one frame, one header block or one HTTP/1.1 request may take to arrive."""
    stall_timeout_s: float = 60.0
    """How long the peer may read nothing of what waits for it."""
    keepalive_interval_s: float = 60.0
    """Silence after which a server asks whether the client is still there."""
    keepalive_timeout_s: float = 20.0
    """How long the answer may take."""
    idle_timeout_s: float = 3600.0
    """After so long without a call a connection is told to go away; gRPC clients come back when they need to."""
    http1_idle_timeout_s: float = 75.0
    """The same between two HTTP/1.1 requests."""
    max_connections: int = 4096
    max_line_s: float = 0.1
    """Under load, connections are read in turns; what has waited for its turn for longer than this is refused where
    the service allows that (`Shedding`)."""
    max_line_turns: int = 4
    """But not before so many turns of the loop have passed: a process that stood still is not overloaded."""


class ChannelOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a client channel connects and notices a dead peer."""

    keepalive_interval_s: float | None = 2.0
    """Silence after which a PING is sent while unary calls wait; None: never."""
    stream_keepalive_interval_s: float | None = 10.0
    """The same while only streaming calls are open. etcd punishes pings more frequent than 5 s."""
    keepalive_timeout_s: float = 2.0
    """Silence after the PING that closes the connection."""
    connect_timeout_s: float = 3.0
    backoff_initial_s: float = 0.02
    backoff_max_s: float = 0.5
    backoff_factor: float = 2.0


CLIENT_LIMITS = Limits(max_recv_bytes=2048 * MIB - 1, max_buffered_bytes=4096 * MIB, control_burst=200_000)
"""A client trusts its server with larger answers (a range of a whole store is one message, and this the most that a
server sends), and with the frames of thousands of answers that come after their deadlines."""
