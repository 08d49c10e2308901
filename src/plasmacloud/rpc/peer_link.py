"""One TCP connection between two members: the dialling side, which sends, and the listening side, which receives.

A link knows its handshake, its outgoing queue and when it last heard from the other side. What a loss means, who may
call and when to dial again is decided by its owner, `plasmacloud.rpc.peer.PeerTransport`.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Protocol, cast

from plasmacloud.base.errors import PlasmaError
from plasmacloud.base.tls_errors import describe_tls_error
from plasmacloud.rpc.peer_frames import FRAME_HEADER, FrameParser, FrameType
from plasmacloud.rpc.peer_passport import Passport, read_passport
from plasmacloud.rpc.peer_wire import (
    DIALER_GREETING,
    DIALER_OPEN,
    LISTENER_GREETING,
    MAX_DATA_BYTES,
    NOTHING,
    Hello,
    Identity,
    Refusal,
    Welcome,
    decode_hello,
    decode_refusal,
    decode_stamp,
    decode_welcome,
    encode_hello,
    encode_refusal,
    encode_stamp,
    encode_welcome,
    listener_open,
)

_JOIN_BELOW_BYTES = 256 * 1024  # up to here one buffer is cheaper for the kernel than a list of small ones
_TCP_THIN_LINEAR_TIMEOUTS = 16  # linux/tcp.h; the socket module does not name it
_MAX_PONG_BACKLOG_BYTES = 64 * 1024
_ALIVE = encode_stamp(FrameType.PONG, 0)


class LinkOwner(Protocol):
    """What a link tells the transport. All calls come from the event loop."""

    on_frame: Callable[[int, bytes], None]  # a DATA frame arrived from this member
    on_batch_end: Callable[[], None]  # all DATA frames of one read were handed over

    def link_made(self, link: "PeerLink") -> None:
        """The TCP connection exists; the handshake begins."""

    def link_greeted(self, link: "IncomingLink", hello: Hello) -> None:
        """Decide about a caller: call ``link.accept`` or ``link.refuse``, now or later."""

    def link_welcomed(self, link: "OutgoingLink", welcome: Welcome) -> None:
        """Decide about the member that answered: call ``link.accept`` or ``link.refuse``, now or later."""

    def link_refused(self, link: "PeerLink", refusal: Refusal) -> None:
        """The other side does not accept us. The link is over."""

    def link_open(self, link: "PeerLink") -> None:
        """The handshake succeeded; ``link.member_id`` and ``link.incarnation`` are known."""

    def link_measured(self, link: "PeerLink", took_s: float) -> None:
        """A ping came back after so many seconds, at ``link.last_received``."""

    def link_lost(self, link: "PeerLink", reason: str) -> None:
        """The connection is over and it was not us who ended it. Called at most once."""

    def link_closed(self, link: "PeerLink") -> None:
        """The transport is gone, whoever ended it. Called exactly once for each `link_made`."""


class PeerLink(asyncio.Protocol):
    """What both sides have in common."""

    def __init__(self, owner: LinkOwner, loop: asyncio.AbstractEventLoop, parser: FrameParser) -> None:
        self.member_id = 0
        self.incarnation = 0
        self.open = False
        self.over = False  # lost or given up; nothing is sent or delivered any more
        self.version = 0
        self.made_at = loop.time()
        self.last_received = self.made_at
        self.covered_since: float | None = None  # its member was reported lost while this link still stood
        self.ended: asyncio.Future[None] = loop.create_future()  # as soon as the link is over
        self.remote = "?"
        self.passport: Passport | None = None  # None: without TLS
        self._owner = owner
        self._loop = loop
        self._parser = parser
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        _tune(transport.get_extra_info("socket"))
        self.remote = format_address(transport.get_extra_info("peername"))
        secured = transport.get_extra_info("ssl_object")
        self.passport = None if secured is None else read_passport(secured)
        self.made_at = self.last_received = self._loop.time()
        self._owner.link_made(self)
        if self.over:  # given up while the connection was being made
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.over:
            return
        self.last_received = self._loop.time()
        try:
            self._receive(data)
        except PlasmaError as error:  # not this protocol, or a frame whose content the receiver refused
            self.lose(str(error))

    def eof_received(self) -> bool:
        self.lose("closed by the other side")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose("connection closed" if exc is None else describe_tls_error(exc))
        self._owner.link_closed(self)

    def lose(self, reason: str) -> None:
        """The link is of no use any more: tell the owner, drop the connection."""
        if not self.over:
            self.over = True
            self._end()
            self._owner.link_lost(self, reason)

    def give_up(self) -> None:
        """Drop the connection without a word to the owner. What is still queued is lost."""
        self.over = True
        self._end()

    def finish(self) -> None:
        """As `give_up`, but let what is queued leave first. Follow with `give_up` after a while."""
        self.over = True
        self._set_ended()
        if self._transport is not None:
            self._transport.close()

    def refuse(self, refusal: Refusal) -> None:
        """Tell the other side why it is not accepted, and end the connection."""
        assert self._transport is not None
        if not self.over:
            self._transport.write(encode_refusal(refusal))
            self.finish()

    def buffered_bytes(self) -> int:
        """Bytes accepted for sending that the kernel has not taken."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def _receive(self, data: bytes) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        self._set_ended()
        if self._transport is not None:
            self._transport.abort()

    def _set_ended(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class OutgoingLink(PeerLink):
    """The dialling side. ``refusal`` is set when one of the two sides said no."""

    def __init__(
        self,
        owner: LinkOwner,
        loop: asyncio.AbstractEventLoop,
        identity: Identity,
        receiver_id: int,
        buffer_bytes: int,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        super().__init__(owner, loop, FrameParser(DIALER_GREETING, magic=False))
        self.member_id = receiver_id
        self.refusal: Refusal | None = None
        self.decided: asyncio.Future[None] = loop.create_future()  # open, refused or over
        self.rtt_s: float | None = None  # smoothed
        self.frames_sent = 0
        self.writes = 0
        self._identity = identity
        self._buffer_bytes = buffer_bytes
        self._clock_ns = clock_ns
        self._queue: list[bytes] = []
        self._queued_bytes = 0
        self._room_bytes = 0  # for what may still be queued before the next flush

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._transport is not None and not self.over:
            self._transport.write(encode_hello(self._identity.hello_to(self.member_id)))

    def send(self, frame: bytes) -> bool:
        """Queue one DATA frame; False when what already waits has reached the limit, whatever the size of this one."""
        if self.over or self._transport is None:
            return False
        queue = self._queue
        if not queue:
            self._room_bytes = self._buffer_bytes - self._transport.get_write_buffer_size()
        if self._queued_bytes >= self._room_bytes:
            return False
        if not queue:
            self._loop.call_soon(self.flush)
        size = len(frame)
        queue.append(FRAME_HEADER.pack(size, FrameType.DATA))
        queue.append(frame)
        self._queued_bytes += size
        self.frames_sent += 1
        return True

    def flush(self) -> None:
        """Hand what is queued to the transport in one write."""
        queue = self._queue
        if not queue:
            return
        self._queue = []
        small = self._queued_bytes < _JOIN_BELOW_BYTES
        self._queued_bytes = 0
        if self.over or self._transport is None:
            return
        self.writes += 1
        if small:
            self._transport.write(b"".join(queue))
        else:
            self._transport.writelines(queue)

    def finish(self) -> None:
        self.flush()
        super().finish()

    def ping(self) -> None:
        """Ask for a sign of life, unless bytes already wait: those will show whether the other side lives."""
        if self._transport is not None and not self.over and not self.buffered_bytes():
            self._transport.write(encode_stamp(FrameType.PING, self._clock_ns()))

    def _receive(self, data: bytes) -> None:
        for kind, payload in self._parser.feed(data):
            if self.over:
                return
            if kind == FrameType.PONG:
                self._pong(decode_stamp(payload))
            elif kind == FrameType.WELCOME:
                welcome = decode_welcome(payload)
                self._identity.check_welcome(welcome, self.member_id)
                self._parser.expected = NOTHING
                self._owner.link_welcomed(self, welcome)
            else:
                self.refusal = decode_refusal(payload)
                self.give_up()
                self._owner.link_refused(self, self.refusal)

    def accept(self, welcome: Welcome) -> None:
        """The member that answered may be heard and spoken to."""
        assert not self.over
        self._parser.expected = DIALER_OPEN
        self.incarnation = welcome.incarnation
        self.version = welcome.version
        self.open = True
        self._owner.link_open(self)
        self._decide()

    def refuse(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().refuse(refusal)

    def _pong(self, stamp: int) -> None:
        sample_s = (self._clock_ns() - stamp) / 1e9
        if stamp and 0 <= sample_s < 60:
            self.rtt_s = sample_s if self.rtt_s is None else self.rtt_s + (sample_s - self.rtt_s) / 8
            self._owner.link_measured(self, sample_s)

    def _set_ended(self) -> None:
        super()._set_ended()
        self._decide()

    def _decide(self) -> None:
        if not self.decided.done():
            self.decided.set_result(None)


class IncomingLink(PeerLink):
    """The listening side."""

    def __init__(self, owner: LinkOwner, loop: asyncio.AbstractEventLoop, max_data_bytes: int = MAX_DATA_BYTES) -> None:
        super().__init__(owner, loop, FrameParser(LISTENER_GREETING, magic=True))
        self.name = ""
        self.address = ""  # where it says that it can be dialled
        self.greeted = False  # its HELLO has come; whether it may speak is decided or being decided
        self._max_data_bytes = max_data_bytes
        self._heard = False  # since our last answer

    def show_life(self) -> None:
        """Tell a sender whose pings are stuck behind a long frame that its bytes are arriving."""
        if self.open and self._heard:
            self._answer(_ALIVE)

    def _receive(self, data: bytes) -> None:
        self._heard = True
        got_frames = False
        member_id = self.member_id
        deliver = self._owner.on_frame
        try:
            for kind, payload in self._parser.feed(data):
                if self.over:
                    return
                if kind == FrameType.DATA:
                    got_frames = True
                    deliver(member_id, payload)
                elif kind == FrameType.PING:
                    self._answer(encode_stamp(FrameType.PONG, decode_stamp(payload)))
                elif kind == FrameType.HELLO:
                    self._greeted(decode_hello(payload))
                    member_id = self.member_id
                else:
                    refusal = decode_refusal(payload)
                    self.lose(f"refused: {refusal.reason}")
                    self._owner.link_refused(self, refusal)
        finally:
            if got_frames:
                self._owner.on_batch_end()

    def _greeted(self, hello: Hello) -> None:
        self._parser.expected = NOTHING
        self.greeted = True
        self.member_id = hello.member_id
        self.incarnation = hello.incarnation
        self.name = hello.name
        self.address = hello.address
        self._owner.link_greeted(self, hello)

    def accept(self, welcome: Welcome) -> None:
        """The caller may be heard."""
        assert not self.over
        self._parser.expected = listener_open(self._max_data_bytes)
        self.version = welcome.version
        self.open = True
        self._answer(encode_welcome(welcome))
        self._owner.link_open(self)

    def pause(self) -> None:
        """Take nothing more from the other side until `resume`; what it sends waits in the kernel."""
        self._parser.expected = NOTHING
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on after `pause`."""
        self._parser.expected = listener_open(self._max_data_bytes)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _answer(self, frame: bytes) -> None:
        """A sender that does not read its answers gets no more of them: the backlog stays bounded."""
        if self._transport is not None and not self.over and self.buffered_bytes() < _MAX_PONG_BACKLOG_BYTES:
            self._heard = False
            self._transport.write(frame)


def _tune(sock: socket.socket | None) -> None:
    """No delay for small frames; and lost ones are sent again at an even pace, since heartbeats are few and urgent."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):  # a kernel may lack it
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_THIN_LINEAR_TIMEOUTS, 1)


def format_address(address: object) -> str:
    """``host:port`` of a socket name or a (host, port) pair, IPv6 in brackets."""
    if not isinstance(address, tuple) or len(address) < 2:
        return "?"
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
