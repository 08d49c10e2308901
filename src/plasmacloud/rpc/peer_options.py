"""What can be set about the transport between members, and what can be read from it."""

import msgspec

from plasmacloud.rpc.peer_wire import MAX_DATA_BYTES


class PeerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds, sizes in bytes. The defaults suit one site."""

    keepalive_s: float = 0.25
    dead_after_s: float = 2.0
    connect_timeout_s: float = 0.5
    handshake_timeout_s: float = 2.0
    retry_min_s: float = 0.01
    retry_max_s: float = 0.25
    refused_retry_min_s: float = 1.0
    refused_retry_max_s: float = 5.0
    send_buffer_bytes: int = 32 * 1024 * 1024
    max_frame_bytes: int = MAX_DATA_BYTES
    settle_s: float = 0.5  # at the start: wait this long for the verdict of everybody, before a word to anybody
    max_unauthenticated: int = 64  # connections without a finished handshake; the oldest gives way


class PeerState(msgspec.Struct, frozen=True, kw_only=True):
    """One peer as the transport sees it."""

    member_id: int
    address: str
    connected: bool  # our connection to it stands: `send` works
    incoming: bool  # its connection to us stands
    version: int | None = None
    last_error: str | None = None
    rtt_s: float | None = None
    buffered_bytes: int = 0
    frames_sent: int = 0  # on the current connection
    writes: int = 0  # on the current connection
