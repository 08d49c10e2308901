"""The gRPC server: a listening socket, its connections, and their orderly end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

from plasmacloud.base.logging import get_logger
from plasmacloud.base.tls import ServerTls
from plasmacloud.rpc.deadlines import DeadlineWheel
from plasmacloud.rpc.limits import Limits
from plasmacloud.rpc.peer_notes import OncePerReason
from plasmacloud.rpc.server_connection import ServerConnection
from plasmacloud.rpc.service import ServiceTable
from plasmacloud.rpc.tls_listener import TlsListener, bind
from plasmacloud.rpc.tls_plaintext import answer_plaintext

log = get_logger("rpc")

_BACKLOG = 1024


class Server:
    """Serves one ServiceTable on one or more addresses, within ``limits`` per connection."""

    def __init__(self, services: ServiceTable, *, limits: Limits | None = None) -> None:
        self.services = services
        self.limits = limits if limits is not None else Limits()
        self.closing = False
        self.overloaded = False
        """While set, new calls are refused with REFUSED_STREAM: clients know they were not executed."""
        self.connections: set[ServerConnection] = set()
        self.wheel: DeadlineWheel
        self._listeners: list[asyncio.Server | TlsListener] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: asyncio.Event = asyncio.Event()
        self._logged = OncePerReason()

    async def start(self, host: str, port: int, *, tls: ServerTls | None = None) -> tuple[str, int]:
        """Listen; port 0 picks a free one. Returns the address bound. May be called for several addresses.

        With ``tls`` only TLS connections are taken on this address.

        Raises OSError if the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        if not self._listeners:
            self.wheel = DeadlineWheel(loop)
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

    def admit(self, connection: ServerConnection) -> bool:
        """Take a new connection in, unless there are too many or we are closing."""
        admitted = len(self.connections) < self.limits.max_connections and not self.closing
        self.connections.add(connection)
        self._idle.clear()
        return admitted

    def dismiss(self, connection: ServerConnection) -> None:
        """A connection is gone."""
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
