"""The gRPC server: a listening socket, its connections, and their orderly end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from functools import partial
from operator import itemgetter
from typing import Any, Protocol

import msgspec

from plasmacloud.base.logging import get_logger
from plasmacloud.base.tls import ServerTls
from plasmacloud.rpc.deadlines import DeadlineWheel
from plasmacloud.rpc.limits import Limits
from plasmacloud.rpc.peer_notes import OncePerReason
from plasmacloud.rpc.server_connection import ServerConnection
from plasmacloud.rpc.service import ServiceTable
from plasmacloud.rpc.sparing_log import SparingLog
from plasmacloud.rpc.tls_listener import TlsListener, bind
from plasmacloud.rpc.tls_plaintext import answer_plaintext
from plasmacloud.rpc.turns import Turns
from plasmacloud.rpc.web import WebTable

log = get_logger("rpc")

_BACKLOG = 1024
_LOOK_EVERY_S = 1.0
_LOOK_CLOSELY_EVERY_S = 0.1
_SAY_FULL_EVERY_S = 10.0


class Served(Protocol):
    """A connection, whichever HTTP it speaks."""

    peer: str
    requests: int
    bytes_received: int
    bytes_sent: int
    streams: Any

    def check(self, now_s: float) -> None:
        """Lose patience with a peer that does not get on."""

    @property
    def held_bytes(self) -> int:
        """Memory that unfinished messages and unread answers take up."""

    def relieve(self, reason: str) -> None:
        """Close, because too much is held."""

    def drain(self) -> None:
        """Finish what is under way, take nothing new, close."""

    def abort(self) -> None:
        """Close at once."""


class Counters(msgspec.Struct):
    """What all connections together have done; of those that live, `Server.totals` adds their own counts."""

    connections: int = 0
    connections_refused: int = 0
    requests: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    refused: int = 0
    """Calls refused with REFUSED_STREAM: overload, or too many unread answers."""
    shed: int = 0
    """Calls refused with RESOURCE_EXHAUSTED because of load, their bodies unseen."""
    relieved: int = 0
    """Connections closed because all of them together held too much memory, and these the most."""
    put_off: int = 0
    """How often a connection had more than its share of a turn (`turns`)."""

    def add(self, connection: Served) -> None:
        """Keep the counts of a connection."""
        self.requests += connection.requests
        self.bytes_received += connection.bytes_received
        self.bytes_sent += connection.bytes_sent


class Server:
    """Serves one ServiceTable on one or more addresses, within ``limits`` per connection."""

    def __init__(self, services: ServiceTable, *, limits: Limits | None = None, web: WebTable | None = None) -> None:
        """``web``: what answers plain HTTP, of whichever version, on the same port. Without it there is only gRPC."""
        self.services = services
        self.web = web
        self.counters = Counters()
        self.limits = limits if limits is not None else Limits()
        self.closing = False
        self.overloaded = False
        """While set, new calls are refused with REFUSED_STREAM: clients know they were not executed."""
        self._say_full_from_s = 0.0
        self.noted = SparingLog(time.monotonic)
        self.held_bytes = 0
        """What all connections together held when they were looked at last; see `Limits.max_held_bytes`."""
        self.connections: set[Served] = set()
        self.wheel: DeadlineWheel
        self.turns: Turns
        self._listeners: list[asyncio.Server | TlsListener] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: asyncio.Event = asyncio.Event()
        self._looking: asyncio.TimerHandle | None = None
        self._logged = OncePerReason()

    async def start(self, host: str, port: int, *, tls: ServerTls | None = None) -> tuple[str, int]:
        """Listen; port 0 picks a free one. Returns the address bound. May be called for several addresses.

        With ``tls`` only TLS connections are taken on this address.

        Raises OSError if the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        if not self._listeners:
            self.wheel = DeadlineWheel(loop)
            self.turns = Turns(loop.call_soon, loop.time)
            self._looking = loop.call_later(_LOOK_EVERY_S, self._look)
        if tls is not None:
            sockets = await bind(host, port, backlog=_BACKLOG)
            secured = TlsListener(
                sockets, tls, partial(ServerConnection, self), on_refused=self._refused, to_plaintext=answer_plaintext
            )
            self._listeners.append(secured)
            return secured.address
        listener = await loop.create_server(partial(ServerConnection, self), host, port, backlog=_BACKLOG)
        self._listeners.append(listener)
        address = listener.sockets[0].getsockname()
        return address[0], address[1]

    def _refused(self, address: str, reason: str) -> None:
        if self._logged.is_new(address.rpartition(":")[0], reason):
            log.warning("no TLS with a client", address=address, reason=reason)

    async def close(self, grace: float) -> None:
        """Stop accepting, announce the end, and let calls in flight finish for up to ``grace`` seconds.

        What is still running then is cancelled and its connections are closed.
        """
        if self.closing:
            return
        self.closing = True
        for listener in self._listeners:
            listener.close()
            if isinstance(listener, TlsListener):
                await listener.wait_closed()
        if self._looking is not None:
            self._looking.cancel()
        self._note_idle()
        for connection in list(self.connections):
            connection.drain()
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            log.info("closing with calls in flight", connections=len(self.connections))
        for connection in list(self.connections):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=1.0)
        try:
            async with asyncio.timeout(1.0):
                await self._idle.wait()
        except TimeoutError:
            log.warning("connections did not close", connections=len(self.connections))
        if self._listeners:
            self.wheel.close()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        closely = self.held_bytes > self.limits.max_held_bytes // 2
        self._looking = loop.call_later(_LOOK_CLOSELY_EVERY_S if closely else _LOOK_EVERY_S, self._look)
        now_s = loop.time()
        for connection in list(self.connections):
            try:
                connection.check(now_s)
            except Exception:  # else one connection would end the patience with all others
                log.error("connection could not be looked at", exc_info=True)
                connection.abort()
        self._relieve()

    def _relieve(self) -> None:
        """Close the connections that hold the most memory, while all together hold too much."""
        held = [(connection.held_bytes, connection) for connection in self.connections]
        self.held_bytes = sum([size for size, _ in held])
        excess = self.held_bytes - self.limits.max_held_bytes
        if excess <= 0:
            return
        for size, connection in sorted(held, key=itemgetter(0), reverse=True):
            self.counters.relieved += 1
            reason = f"all clients together hold {self.held_bytes} bytes of memory, this one the most of them: {size}"
            log.warning("connection closed, too much memory is held", bytes=size, all_bytes=self.held_bytes)
            connection.relieve(reason)
            excess -= size
            if excess <= 0:
                break

    def totals(self) -> Counters:
        """The counts of all connections so far, living ones included."""
        totals = msgspec.structs.replace(self.counters, put_off=self.turns.put_off)
        totals.shed += self.web.shed if self.web is not None else 0
        for connection in self.connections:
            totals.add(connection)
        return totals

    def admit(self, connection: Served) -> bool:
        """Take a new connection in, unless there are too many or we are closing."""
        full = len(self.connections) >= self.limits.max_connections
        if full and (now_s := asyncio.get_running_loop().time()) >= self._say_full_from_s:
            log.warning("connections are refused: too many", peer=connection.peer, limit=self.limits.max_connections)
            self._say_full_from_s = now_s + _SAY_FULL_EVERY_S
        admitted = not full and not self.closing
        self.counters.connections += 1
        self.counters.connections_refused += not admitted
        self.connections.add(connection)
        self._idle.clear()
        return admitted

    def succeed(self, connection: Served, successor: Served) -> None:
        """Another protocol takes over a connection."""
        self.connections.add(successor)
        self.connections.discard(connection)

    def dismiss(self, connection: Served) -> None:
        """A connection is gone."""
        if connection in self.connections:
            self.counters.add(connection)
            self.connections.discard(connection)
        self._note_idle()

    def _note_idle(self) -> None:
        if not self.connections:
            self._idle.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a handler's coroutine; the server keeps it alive and cancels it when it closes."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
