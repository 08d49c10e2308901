"""The protocol between cluster members, as bytes and decisions: no socket, no clock.

A member that wants to send opens a TCP connection, writes eight magic bytes and a HELLO; the other side answers
WELCOME or REFUSAL and, after a WELCOME, only listens and answers pings. Everything is a frame (little endian)::

    u32 size     length of the payload
    u8  type     FrameType
    ... payload

Which frames may come next is a table per side and phase (`LISTENER_GREETING` …); a frame that is not in the table, or
too long for it, is refused when its header is read, before anything is buffered for it. Payloads::

    HELLO    u16 version_min  u16 version_max  u64 cluster  u64 member  u64 incarnation  u64 receiver  u8 len  name
             u64 birth  u8 count  count times u64 earlier incarnation, newest first      (since version 2)
             u8 len  address, where the caller can be dialled; may be missing
    WELCOME  u16 version  u64 cluster  u64 member  u64 incarnation
             u64 birth  u8 count  count times u64 earlier incarnation, newest first      (since version 2)
    REFUSAL  u8 code  reason (UTF-8)
    DATA     what the sender passed
    PING     u64 of the sender's choice        PONG  the same u64; 0: "no ping, but your bytes are arriving"

The layouts of HELLO, WELCOME and REFUSAL stay as they are in every version, so that any two versions can tell each
other why they disagree; bytes behind the known fields are ignored. DATA carries no checksum: the log records inside
have their own.

Who may speak is decided on both sides: the listener answers a HELLO that it does not accept with a REFUSAL, and the
dialler a WELCOME. In both cases not a single DATA frame has passed.
"""

import struct
from enum import IntEnum

import msgspec

from plasmacloud.rpc.peer_frames import FRAME_HEADER, MAGIC, Expected, FrameType, PeerProtocolError

PROTOCOL_VERSION = 2
"""2: members say which data directory they have (`birth`) and which lives came before this one."""
MAX_NAME_BYTES = 255
MAX_REASON_BYTES = 1024
MAX_GREETING_BYTES = 2048
MAX_EARLIER = 200
"""As many earlier lives as fit into a greeting; older ones are left out."""
MAX_DATA_BYTES = 128 * 1024 * 1024

_HELLO = struct.Struct("<HHQQQQB")
_WELCOME = struct.Struct("<HQQQ")
_LIFE = struct.Struct("<QB")
_LIFE_SINCE = 2
_STAMP = struct.Struct("<Q")


class RefusalCode(IntEnum):
    """Why a HELLO or a WELCOME was not accepted."""

    OTHER = 0  # a code of a later version
    VERSION = 1
    CLUSTER = 2
    RECEIVER = 3  # the sender thinks that somebody else lives here
    SENDER = 4  # the sender carries an impossible member id, or ours
    REMOVED = 5  # the sender is no longer a member
    AMNESIA = 6  # the sender's disk has forgotten what this member remembers of it
    CERTIFICATE = 7  # the sender's certificate is not that of the member it says it is


FINAL = frozenset({RefusalCode.REMOVED, RefusalCode.AMNESIA})
"""Codes that are about the sender itself: it must not go on, here or with anybody else."""


LISTENER_GREETING: Expected = {FrameType.HELLO: (_HELLO.size, MAX_GREETING_BYTES)}
DIALER_GREETING: Expected = {
    FrameType.WELCOME: (_WELCOME.size, MAX_GREETING_BYTES),
    FrameType.REFUSAL: (1, MAX_GREETING_BYTES),
}
NOTHING: Expected = {}  # while a greeting is being judged
DIALER_OPEN: Expected = {FrameType.PONG: (_STAMP.size, _STAMP.size)}


def listener_open(max_data_bytes: int) -> Expected:
    """What a listener expects after its WELCOME."""
    return {
        FrameType.DATA: (0, max_data_bytes),
        FrameType.PING: (_STAMP.size, _STAMP.size),
        FrameType.REFUSAL: (1, MAX_GREETING_BYTES),  # the dialler does not accept our WELCOME
    }


class PeerClaim(msgspec.Struct, frozen=True):
    """Who the other side says it is. Whether that can be is for a judge who remembers."""

    member_id: int
    birth: int  # drawn at random when its data directory was made
    incarnation: int  # of this life; grows from life to life of one data directory
    earlier: tuple[int, ...] = ()  # incarnations of the lives before, as its disk has them; newest first
    certified: str = ""  # the name on the certificate that it has shown; empty without TLS


class Hello(msgspec.Struct, frozen=True):
    """The first frame on a connection: who calls, from which cluster, and whom."""

    version_min: int
    version_max: int
    cluster_id: int
    member_id: int
    incarnation: int  # another one per process start: two of them never belong to one living process
    receiver_id: int
    name: str = ""  # with TLS the one on its certificate; without, for log lines only
    birth: int = 0
    earlier: tuple[int, ...] = ()
    address: str = ""  # host:port where the caller listens; empty when it does not say

    @property
    def claim(self) -> PeerClaim:
        """Who the caller says it is."""
        return PeerClaim(self.member_id, self.birth, self.incarnation, self.earlier)


class Welcome(msgspec.Struct, frozen=True):
    """The answer that opens the connection."""

    version: int
    cluster_id: int
    member_id: int
    incarnation: int
    birth: int = 0
    earlier: tuple[int, ...] = ()

    @property
    def claim(self) -> PeerClaim:
        """Who the answering side says it is."""
        return PeerClaim(self.member_id, self.birth, self.incarnation, self.earlier)


class Refusal(msgspec.Struct, frozen=True):
    """The answer that closes it, in words for an operator."""

    code: RefusalCode
    reason: str


def encode_frame(kind: FrameType, payload: bytes) -> bytes:
    """One frame with its header."""
    return FRAME_HEADER.pack(len(payload), kind) + payload


def encode_hello(hello: Hello) -> bytes:
    """Magic bytes and HELLO frame."""
    name = _clip(hello.name, MAX_NAME_BYTES)
    fixed = _HELLO.pack(
        hello.version_min,
        hello.version_max,
        hello.cluster_id,
        hello.member_id,
        hello.incarnation,
        hello.receiver_id,
        len(name),
    )
    payload = fixed + name + _encode_life(hello.birth, hello.earlier)
    address = hello.address.encode(errors="replace")
    if address and len(address) < 256 and len(payload) + 1 + len(address) <= MAX_GREETING_BYTES:
        payload += bytes([len(address)]) + address
    return MAGIC + encode_frame(FrameType.HELLO, payload)


def decode_hello(payload: bytes) -> Hello:
    """Raises `PeerProtocolError` when the payload is no HELLO."""
    if len(payload) < _HELLO.size:
        raise PeerProtocolError("HELLO is cut short")
    version_min, version_max, cluster_id, member_id, incarnation, receiver_id, name_bytes = _HELLO.unpack_from(payload)
    name = payload[_HELLO.size : _HELLO.size + name_bytes]
    if len(name) < name_bytes:
        raise PeerProtocolError("HELLO is cut short inside the name")
    if not 0 < version_min <= version_max:
        raise PeerProtocolError(f"HELLO with impossible versions {version_min} to {version_max}")
    life_at = _HELLO.size + name_bytes
    birth, earlier = _decode_life("HELLO", payload, life_at, version_max)
    address = _decode_address(payload, life_at + _LIFE.size + 8 * len(earlier)) if version_max >= _LIFE_SINCE else ""
    return Hello(
        version_min,
        version_max,
        cluster_id,
        member_id,
        incarnation,
        receiver_id,
        _printable(name),
        birth,
        earlier,
        address,
    )


def _decode_address(payload: bytes, at: int) -> str:
    if at >= len(payload) or len(payload) < at + 1 + payload[at]:
        return ""
    return _printable(payload[at + 1 : at + 1 + payload[at]])


def _encode_life(birth: int, earlier: tuple[int, ...]) -> bytes:
    listed = earlier[:MAX_EARLIER]
    return _LIFE.pack(birth, len(listed)) + struct.pack(f"<{len(listed)}Q", *listed)


def _decode_life(what: str, payload: bytes, at: int, version: int) -> tuple[int, tuple[int, ...]]:
    if version < _LIFE_SINCE:
        return 0, ()
    if len(payload) >= at + _LIFE.size:
        birth, count = _LIFE.unpack_from(payload, at)
        if len(payload) >= at + _LIFE.size + 8 * count:
            return birth, struct.unpack_from(f"<{count}Q", payload, at + _LIFE.size)
    raise PeerProtocolError(f"{what} is cut short behind the fields of version 1")


def encode_welcome(welcome: Welcome) -> bytes:
    """WELCOME frame."""
    payload = _WELCOME.pack(welcome.version, welcome.cluster_id, welcome.member_id, welcome.incarnation)
    return encode_frame(FrameType.WELCOME, payload + _encode_life(welcome.birth, welcome.earlier))


def decode_welcome(payload: bytes) -> Welcome:
    """Raises `PeerProtocolError` when the payload is no WELCOME."""
    if len(payload) < _WELCOME.size:
        raise PeerProtocolError("WELCOME is cut short")
    version, cluster_id, member_id, incarnation = _WELCOME.unpack_from(payload)
    return Welcome(
        version, cluster_id, member_id, incarnation, *_decode_life("WELCOME", payload, _WELCOME.size, version)
    )


def encode_refusal(refusal: Refusal) -> bytes:
    """REFUSAL frame."""
    return encode_frame(FrameType.REFUSAL, bytes([refusal.code]) + _clip(refusal.reason, MAX_REASON_BYTES))


def decode_refusal(payload: bytes) -> Refusal:
    """Raises `PeerProtocolError` when the payload is no REFUSAL."""
    if not payload:
        raise PeerProtocolError("REFUSAL is empty")
    code = RefusalCode(payload[0]) if payload[0] <= max(RefusalCode) else RefusalCode.OTHER
    return Refusal(code, _printable(payload[1:]))


def encode_stamp(kind: FrameType, stamp: int) -> bytes:
    """PING or PONG frame."""
    assert kind in (FrameType.PING, FrameType.PONG)
    return encode_frame(kind, _STAMP.pack(stamp))


def decode_stamp(payload: bytes) -> int:
    """The number inside a PING or PONG, whose length the parser has checked."""
    (stamp,) = _STAMP.unpack(payload)
    assert isinstance(stamp, int)
    return stamp


def _printable(text: bytes) -> str:
    """Text of a stranger, safe to show on a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text.decode(errors="replace"))


def _clip(text: str, limit_bytes: int) -> bytes:
    """UTF-8, cut at a whole character."""
    return text.encode(errors="replace")[:limit_bytes].decode(errors="ignore").encode()


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who we are in the handshake."""

    cluster_id: int
    member_id: int
    incarnation: int
    version_min: int
    version_max: int
    name: str = ""
    birth: int = 0
    earlier: tuple[int, ...] = ()
    address: str = ""

    def hello_to(self, receiver_id: int) -> Hello:
        """The greeting for one peer."""
        return Hello(
            version_min=self.version_min,
            version_max=self.version_max,
            cluster_id=self.cluster_id,
            member_id=self.member_id,
            incarnation=self.incarnation,
            receiver_id=receiver_id,
            name=self.name,
            birth=self.birth,
            earlier=self.earlier,
            address=self.address,
        )

    def judge_hello(self, hello: Hello, *, sender_removed: bool = False) -> Welcome | Refusal:
        """Accept a caller, or say why not. The highest version that both speak is chosen."""
        version = min(self.version_max, hello.version_max)
        if version < max(self.version_min, hello.version_min):
            return Refusal(
                RefusalCode.VERSION,
                f"protocol versions {self.version_min} to {self.version_max} are spoken here, the caller speaks "
                f"{hello.version_min} to {hello.version_max}",
            )
        if hello.cluster_id != self.cluster_id:
            return Refusal(
                RefusalCode.CLUSTER,
                f"this is cluster {self.cluster_id:016x}, the caller belongs to cluster {hello.cluster_id:016x}",
            )
        if hello.receiver_id != self.member_id:
            return Refusal(
                RefusalCode.RECEIVER,
                f"this is member {self.member_id:016x}, the caller looked for member {hello.receiver_id:016x}",
            )
        if hello.member_id in (0, self.member_id):
            return Refusal(
                RefusalCode.SENDER, f"the caller calls itself member {hello.member_id:016x}, which it cannot be"
            )
        if sender_removed:
            return Refusal(RefusalCode.REMOVED, f"member {hello.member_id:016x} was removed from the cluster")
        return Welcome(version, self.cluster_id, self.member_id, self.incarnation, self.birth, self.earlier)

    def check_welcome(self, welcome: Welcome, expected_member: int) -> None:
        """Raises `PeerProtocolError` when the answer contradicts what our HELLO asked for."""
        if (
            welcome.cluster_id != self.cluster_id
            or welcome.member_id != expected_member
            or not self.version_min <= welcome.version <= self.version_max
        ):
            raise PeerProtocolError(
                f"WELCOME of member {welcome.member_id:016x} in cluster {welcome.cluster_id:016x} with version "
                f"{welcome.version}, expected member {expected_member:016x} in cluster {self.cluster_id:016x}"
            )
