"""The transport between the members of one cluster: frames over TCP, and a prompt word when a member is gone.

Each member dials every other one and sends on the connection it dialled; it receives on the connections that others
dialled. A process that dies closes its sockets, so a closed connection is the earliest sign of a dead member:
`on_lost` reports it in the same loop iteration, once per loss, whichever of the two directions broke first.

Plain connection failures are retried within milliseconds, because the time to rejoin counts; refusals (another
cluster, another protocol, a removed member) are retried slowly and logged once, because only an operator can end them.

Who may come in is decided by the `plasmacloud.rpc.peer_door`, in both directions, before a frame passes.
"""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Callable

from plasmacloud.base.logging import get_logger
from plasmacloud.base.tls import ClientTls, ServerTls
from plasmacloud.rpc.peer_door import Door, Judge
from plasmacloud.rpc.peer_frames import PeerProtocolError
from plasmacloud.rpc.peer_link import IncomingLink, OutgoingLink, PeerLink, format_address
from plasmacloud.rpc.peer_listener import Listening, describe, listen, listen_refused
from plasmacloud.rpc.peer_notes import OncePerReason, Takeovers
from plasmacloud.rpc.peer_options import PeerOptions, PeerState
from plasmacloud.rpc.peer_wire import FINAL, PROTOCOL_VERSION, Hello, Identity, Refusal, Welcome
from plasmacloud.rpc.tls_dial import connect, secure

__all__ = ["PeerOptions", "PeerState", "PeerTransport"]

_CLOSE_GRACE_S = 0.5
_STEADY_S = 1.0  # a connection that lasted this long ends the growth of the retry delay

log = get_logger("peer")


class _Peer:
    """A member we dial."""

    def __init__(self, member_id: int, host: str, port: int) -> None:
        self.member_id = member_id
        self.host = host
        self.port = port
        self.link: OutgoingLink | None = None  # open only
        self.dialling: OutgoingLink | None = None  # open or on its way
        self.task: asyncio.Task[None] | None = None
        self.last_error: str | None = None
        self.wake = asyncio.Event()

    @property
    def address(self) -> str:
        return format_address((self.host, self.port))


class PeerTransport:
    """Frames to and from the other members. Belongs to one event loop; every callback is called on it.

    ``on_frame(member, frame)``, then ``on_batch_end()`` behind the last frame of one read. ``on_connected(member)``:
    from now on `send` to it works. ``on_lost(member)``: a connection with it, in either direction, ended without our
    doing (closed, reset, silent for ``dead_after_s``, or answered by a newer process). Frames sent before may not
    have arrived. The loss of the second direction is the same loss and not reported again. A `PlasmaError` raised by
    ``on_frame`` ends that connection.

    ``on_stranger(member, address)``: a member that is none of the peers was let in, and says where it can be dialled
    (``host:port``, unchecked). ``address`` is what this member says of itself.
    ``on_round_trip(member, received_at, took_s)``, an attribute: a ping was answered, at that time of the loop.

    ``judge`` is asked about the other side of every connection, see `peer_door.Judge`. ``on_refused(member, refusal)``:
    that member says, with one of the `FINAL` codes, that *we* are the problem. Peers set before `start` are waited for
    (at most ``settle_s``): until each has given its verdict or is out of reach, no frame passes. Without ``birth`` and
    ``incarnation`` they are drawn at random, which suits tests. ``rng`` spreads the attempts to dial, ``clock_ns``
    stamps the pings, to measure round trips: the clock of a loop may only tick in milliseconds. ``server_tls`` has
    to ask for certificates: by them the two sides are told apart (`peer_passport`), not by the addresses dialled.
    """

    def __init__(
        self,
        *,
        cluster_id: int,
        member_id: int,
        on_frame: Callable[[int, bytes], None],
        on_batch_end: Callable[[], None],
        on_lost: Callable[[int], None],
        on_connected: Callable[[int], None],
        version: int = PROTOCOL_VERSION,
        version_min: int = PROTOCOL_VERSION,
        name: str = "",
        birth: int | None = None,
        incarnation: int | None = None,
        earlier: tuple[int, ...] = (),
        address: str = "",
        judge: Judge | None = None,
        on_refused: Callable[[int, Refusal], None] | None = None,
        on_stranger: Callable[[int, str], None] | None = None,
        options: PeerOptions | None = None,
        rng: random.Random | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        server_tls: ServerTls | None = None,
        client_tls: ClientTls | None = None,
    ) -> None:
        assert member_id > 0
        assert 0 < version_min <= version
        self._identity = Identity(
            cluster_id=cluster_id,
            member_id=member_id,
            incarnation=secrets.randbits(64) if incarnation is None else incarnation,
            version_min=version_min,
            version_max=version,
            name=name,
            birth=secrets.randbits(64) if birth is None else birth,
            earlier=earlier,
            address=address,
        )
        self.options = options or PeerOptions()
        self.on_frame = on_frame
        self.on_batch_end = on_batch_end
        self._on_lost = on_lost
        self._on_connected = on_connected
        self._on_refused = on_refused
        self._on_stranger = on_stranger
        self.on_round_trip: Callable[[int, float, float], None] | None = None
        self._server_tls = server_tls
        self._client_tls = client_tls
        self._peers: dict[int, _Peer] = {}
        self._incoming: dict[int, IncomingLink] = {}
        self._links: dict[PeerLink, None] = {}  # every connection that exists, oldest first
        self._logged = OncePerReason()
        self._door = Door(self._identity, judge, self._logged, self._opened)
        self._takeovers = Takeovers()
        self._random = rng or random.Random()
        self._clock_ns = clock_ns
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Listening | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._settler: asyncio.TimerHandle | None = None
        self._ticked_at = 0.0
        self._dials: dict[asyncio.Task[None], None] = {}  # oldest first
        self._all_closed: asyncio.Event | None = None

    @property
    def keepalive_s(self) -> float:
        """How often each member is asked for a sign of life, in seconds."""
        return self.options.keepalive_s

    # Life

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen, and dial the peers known so far. Returns the address in use (port 0: one is chosen).

        Raises `ConfigError` when the address cannot be used.
        """
        assert self._loop is None, "a transport starts once"
        loop = asyncio.get_running_loop()
        try:
            self._server, address = await listen(
                lambda: IncomingLink(self, loop, self.options.max_frame_bytes),
                host,
                port,
                tls=self._server_tls,
                options=self.options,
                on_refused=self._note_stranger,
            )
        except OSError as error:
            raise listen_refused(host, port, error) from error
        self._loop = loop
        self._ticked_at = loop.time()
        self._ticker = loop.call_later(self.options.keepalive_s, self._tick)
        self._door.wait_for(self._peers)
        self._settler = loop.call_later(self.options.settle_s, self._door.settle)
        for peer in self._peers.values():
            self._start_dialling(peer)
        return address

    async def close(self) -> None:
        """Stop listening and dialling, let queued frames leave for a moment, close everything. No callback comes."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for timer in (self._ticker, self._settler):
            if timer is not None:
                timer.cancel()
        dials = list(self._dials)
        for task in dials:
            task.cancel()
        self._all_closed = asyncio.Event()
        for link in list(self._links):
            link.finish()
        await asyncio.gather(*dials, return_exceptions=True)
        await self._wait_all_closed(_CLOSE_GRACE_S)
        for link in list(self._links):
            link.give_up()
        await self._wait_all_closed(_CLOSE_GRACE_S)
        await server.wait_closed()

    async def _wait_all_closed(self, timeout_s: float) -> None:
        assert self._all_closed is not None
        if self._links:
            self._all_closed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._all_closed.wait()

    @property
    def _running(self) -> bool:
        return self._server is not None

    # Peers

    def set_peer(self, member_id: int, host: str, port: int) -> None:
        """Add a peer, or change its address. A changed address ends the present connection without a report."""
        assert member_id not in (0, self._identity.member_id), "a member does not dial itself"
        assert 0 < port < 65536
        self._door.removed.discard(member_id)
        old = self._peers.get(member_id)
        if old is not None and (old.host, old.port) == (host, port):
            return
        if old is not None:
            self._stop_dialling(old)
        peer = self._peers[member_id] = _Peer(member_id, host, port)
        if self._running:
            self._start_dialling(peer)
            self._door.heard_from(member_id)

    def remove_peer(self, member_id: int) -> None:
        """Forget a member: end its connections without a report, refuse its calls until `set_peer` names it again."""
        self._door.removed.add(member_id)
        peer = self._peers.pop(member_id, None)
        if peer is not None:
            self._stop_dialling(peer)
        incoming = self._incoming.pop(member_id, None)
        if incoming is not None:
            incoming.give_up()
        self._door.drop(member_id)
        self._door.heard_from(member_id)

    def is_connected(self, member_id: int) -> bool:
        """Whether our connection to the member stands, so that `send` works."""
        peer = self._peers.get(member_id)
        return peer is not None and peer.link is not None

    def peers(self) -> list[PeerState]:
        """The peers that were set, by member id."""
        return [self._state(self._peers[member_id]) for member_id in sorted(self._peers)]

    def _state(self, peer: _Peer) -> PeerState:
        link = peer.link
        return PeerState(
            member_id=peer.member_id,
            address=peer.address,
            connected=link is not None,
            incoming=peer.member_id in self._incoming,
            version=link.version if link else None,
            last_error=peer.last_error,
            rtt_s=link.rtt_s if link else None,
            buffered_bytes=link.buffered_bytes() if link else 0,
            frames_sent=link.frames_sent if link else 0,
            writes=link.writes if link else 0,
        )

    # Sending

    def send(self, member_id: int, frame: bytes) -> bool:
        """Queue a frame; the frames of one loop iteration leave in one write.

        False, and the frame is dropped, when there is no connection or its buffer is full. Raises
        `PeerProtocolError` for a frame above ``max_frame_bytes``, which no receiver would take.
        """
        peer = self._peers.get(member_id)
        if peer is None or peer.link is None:
            return False
        if len(frame) > self.options.max_frame_bytes:
            raise PeerProtocolError(f"a frame of {len(frame)} bytes is above {self.options.max_frame_bytes}")
        return peer.link.send(frame)

    def flush(self) -> None:
        """Write out now what is queued, instead of in the next loop iteration."""
        for peer in self._peers.values():
            if peer.link is not None:
                peer.link.flush()

    # Dialling

    def _start_dialling(self, peer: _Peer) -> None:
        assert self._loop is not None
        peer.task = self._loop.create_task(self._dial_forever(peer), name=f"dial-{peer.member_id:x}")
        self._dials[peer.task] = None
        peer.task.add_done_callback(self._dial_ended)

    def _dial_ended(self, task: asyncio.Task[None]) -> None:
        self._dials.pop(task, None)
        if not task.cancelled():
            task.result()  # a dial never returns: an error nobody foresaw goes to the loop's exception handler

    def _stop_dialling(self, peer: _Peer) -> None:
        peer.link = None
        if peer.dialling is not None:
            peer.dialling.give_up()
        if peer.task is not None:
            peer.task.cancel()

    async def _dial_forever(self, peer: _Peer) -> None:
        options = self.options
        delay_s = 0.0
        refused_before = False
        while True:
            link = await self._dial(peer)
            refused = link.refusal is not None
            steady = link.open and link.last_received - link.made_at >= _STEADY_S
            low, high = (
                (options.refused_retry_min_s, options.refused_retry_max_s)
                if refused
                else (options.retry_min_s, options.retry_max_s)
            )
            delay_s = low if steady or refused != refused_before else min(high, max(low, delay_s * 1.6))
            refused_before = refused
            with contextlib.suppress(TimeoutError):  # not wait_for: before Python 3.12 it can swallow a cancellation
                async with asyncio.timeout(delay_s * self._random.uniform(0.75, 1.0)):
                    await peer.wake.wait()
            peer.wake.clear()

    async def _dial(self, peer: _Peer) -> OutgoingLink:
        """One connection, from dialling to its end."""
        assert self._loop is not None
        link = OutgoingLink(
            self,
            self._loop,
            self._identity,
            peer.member_id,
            self.options.send_buffer_bytes,
            clock_ns=self._clock_ns,
        )
        peer.dialling = link
        try:
            if self._client_tls is None:
                async with asyncio.timeout(self.options.connect_timeout_s):
                    await self._loop.create_connection(lambda: link, peer.host, peer.port)
            else:
                async with asyncio.timeout(self.options.connect_timeout_s):
                    connection = await connect(peer.host, peer.port)
                async with asyncio.timeout(self.options.handshake_timeout_s):
                    await secure(connection, link, self._client_tls)
            async with asyncio.timeout(self.options.handshake_timeout_s):
                await link.decided
            self._door.heard_from(peer.member_id)
            if link.open:
                await link.ended
            elif link.refusal is not None:
                self._note_error(peer, f"refused: {link.refusal.reason}", refusal=True)
        except TimeoutError:
            self._note_error(peer, "no greeting in time" if link.remote != "?" else "no connection in time")
        except (OSError, UnicodeError) as error:  # the latter: a host name that cannot be one
            self._note_error(peer, describe(error))
        finally:
            if not link.over:
                link.give_up()
            self._door.heard_from(peer.member_id)
        return link

    def _note_error(self, peer: _Peer, text: str, *, refusal: bool = False) -> None:
        peer.last_error = text
        if self._logged.is_new(peer.member_id, "dial", text):
            write = log.warning if refusal else log.info
            write("cannot connect to peer", member=f"{peer.member_id:016x}", address=peer.address, reason=text)

    # What the links report

    def link_made(self, link: PeerLink) -> None:
        if not self._running:
            link.give_up()
        self._links[link] = None
        waiting = [x for x in self._links if isinstance(x, IncomingLink) and not x.open and not x.over]
        if len(waiting) > self.options.max_unauthenticated:
            waiting[0].give_up()

    def link_greeted(self, link: IncomingLink, hello: Hello) -> None:
        self._door.greeted(link, hello)

    def link_welcomed(self, link: OutgoingLink, welcome: Welcome) -> None:
        self._door.welcomed(link, welcome)

    def link_refused(self, link: PeerLink, refusal: Refusal) -> None:
        if refusal.code in FINAL and self._running and self._on_refused is not None:
            self._on_refused(link.member_id, refusal)

    def link_open(self, link: PeerLink) -> None:
        self._door.let_in(link)

    def _opened(self, link: PeerLink) -> None:
        if not self._running:
            return
        member_id = link.member_id
        self._logged.forget_member(member_id)
        peer = self._peers.get(member_id)
        self._end_older_links(link, peer)
        if self._peers.get(member_id) is not peer or member_id in self._door.removed:  # by a callback of the line above
            link.give_up()
            return
        log.info(
            "peer connected",
            member=f"{member_id:016x}",
            address=link.remote,
            direction="out" if isinstance(link, OutgoingLink) else "in",
        )
        if isinstance(link, OutgoingLink):
            assert peer is not None, "a removed peer is not dialled"
            peer.link = link
            peer.last_error = None
            self._on_connected(member_id)
        elif isinstance(link, IncomingLink):
            self._incoming[member_id] = link
            if peer is not None and peer.link is None:
                peer.wake.set()  # it lives: no reason to wait before dialling it
            elif peer is None and link.address and self._on_stranger is not None:
                self._on_stranger(member_id, link.address)

    def _end_older_links(self, link: PeerLink, peer: _Peer | None) -> None:
        """The newest incoming connection counts; and a newer process means that the older one is gone."""
        old_in = self._incoming.get(link.member_id)
        old_out = peer.link if peer is not None else None
        for old in (old_in, old_out):
            if old is None:
                continue
            if old.incarnation != link.incarnation:
                if self._takeovers.replaced(link.member_id, old.incarnation, link.incarnation):
                    self._warn_of_two(link, old)
                old.lose("the member was restarted")
            elif isinstance(link, IncomingLink) and old is old_in:
                old.give_up()

    def _warn_of_two(self, link: PeerLink, old: PeerLink) -> None:
        log.warning(
            "two processes claim to be one member, each in turn; stop one of them",
            member=f"{link.member_id:016x}",
            one=link.remote,
            other=old.remote,
        )

    def link_lost(self, link: PeerLink, reason: str) -> None:
        if self._door.holds(link):
            return
        if not link.open:
            self._note_failed_greeting(link, reason)
            return
        member_id = link.member_id
        peer = self._peers.get(member_id)
        if peer is not None and peer.link is link:
            peer.link = None
            peer.last_error = reason
        if self._incoming.get(member_id) is link:
            del self._incoming[member_id]
        log.info(
            "peer connection lost",
            member=f"{member_id:016x}",
            direction="out" if isinstance(link, OutgoingLink) else "in",
            reason=reason,
        )
        if link.covered_since is not None:
            return
        assert self._loop is not None
        for other in (self._incoming.get(member_id), peer.link if peer is not None else None):
            if other is not None:
                other.covered_since = self._loop.time()
        self._on_lost(member_id)

    def _note_failed_greeting(self, link: PeerLink, reason: str) -> None:
        if not isinstance(link, IncomingLink):
            peer = self._peers.get(link.member_id)
            if peer is not None:
                self._note_error(peer, reason)
        elif link.greeted:
            log.info("peer hung up before it was let in", member=f"{link.member_id:016x}", reason=reason)
        else:
            self._note_stranger(link.remote, reason)

    def _note_stranger(self, address: str, reason: str) -> None:
        if self._logged.is_new("stranger", address.rpartition(":")[0], reason):
            log.warning("closed a connection that is no peer's", address=address, reason=reason)

    def link_measured(self, link: PeerLink, took_s: float) -> None:
        if self.on_round_trip is not None and link.open:
            self.on_round_trip(link.member_id, link.last_received, took_s)

    def link_closed(self, link: PeerLink) -> None:
        self._links.pop(link, None)
        self._door.forget(link)
        if not self._links and self._all_closed is not None:
            self._all_closed.set()

    # Keepalive

    def _tick(self) -> None:
        assert self._loop is not None
        now = self._loop.time()
        interval_s = self.options.keepalive_s
        self._ticker = self._loop.call_later(interval_s, self._tick)
        # A process that was frozen itself finds every peer silent, and their bytes still waiting to be read.
        we_were_stopped = now - self._ticked_at > 2 * interval_s + 0.1
        self._ticked_at = now
        for link in list(self._links):
            if link.over:
                continue
            if we_were_stopped or self._door.holds(link):
                link.last_received = now
            if not link.open:
                late = now - link.made_at > self.options.handshake_timeout_s
                if isinstance(link, IncomingLink) and late and not link.greeted:
                    link.lose("no greeting in time")
                continue
            if now - link.last_received > self.options.dead_after_s:
                link.lose(f"silent for {now - link.last_received:.1f} s")
                continue
            if link.covered_since is not None and link.last_received > link.covered_since + interval_s:
                link.covered_since = None  # it outlived the loss of its sibling; its own end will be news
            if isinstance(link, OutgoingLink):
                link.ping()
            elif isinstance(link, IncomingLink):
                link.show_life()
