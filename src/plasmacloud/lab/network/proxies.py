"""Hosts that are only names, on loopback, and one proxy for every way that is used: for kernels without namespaces.

A way that is cut accepts connections and forwards nothing. What has arrived waits, as it would in the sender's kernel,
and goes on when the way is healed; the end of a connection waits too, since nobody could have heard of it. Unlike a
real cut, a new connection seems to open. The counters count what waits.
"""

import asyncio
import socket
from collections import defaultdict
from collections.abc import Mapping, Sequence

from plasmacloud.base.process import free_ports
from plasmacloud.lab.network.base import LOOPBACK, Network, Stopped, Way

_CHUNK_BYTES = 65_536
_BACKLOG = 512


class ProxyNetwork(Network):
    """See `Network`. Ways are made by `reach`, so that must be called before `start`."""

    kind = "proxies on loopback"
    unit = "pieces"

    def __init__(self, services: Mapping[str, Sequence[int]]) -> None:
        super().__init__(services)
        self._listeners: dict[tuple[str, str, int], socket.socket] = {}
        self._servers: list[asyncio.Server] = []
        self._carrying: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._held: dict[Way, list[int]] = defaultdict(lambda: [0, 0])

    def open(self) -> None:
        pass

    async def start(self) -> None:
        for (src, dst, port), listener in self._listeners.items():
            serve = self._handler(src, dst, port)
            self._servers.append(await asyncio.start_server(serve, sock=listener))

    def inside(self, host: str, *, refuses_root: bool = False) -> tuple[str, ...]:
        return ()

    def listen(self, host: str) -> str:
        return LOOPBACK

    def reach(self, src: str, dst: str, port: int) -> tuple[str, int]:
        assert src in self.hosts
        assert port in self.services[dst], f"nobody listens on port {port} of {dst}"
        key = src, dst, port
        if key not in self._listeners:
            (own,) = free_ports(1)
            self._listeners[key] = socket.create_server((LOOPBACK, own), backlog=_BACKLOG)
        return LOOPBACK, int(self._listeners[key].getsockname()[1])

    async def _apply(self) -> None:
        self._held.clear()
        self._changed.set()
        self._changed = asyncio.Event()

    async def stopped(self) -> dict[Way, Stopped]:
        return {way: Stopped(*self._held[way]) for way in self.ways}

    def close(self) -> None:
        for task in self._carrying:
            task.cancel()
        for server in self._servers:
            server.close()
        for listener in self._listeners.values():
            listener.close()
        self._servers.clear()
        self._listeners.clear()

    # -- carrying ----------------------------------------------------------------------------------------------

    def _handler(self, src: str, dst: str, port: int):  # type: ignore[no-untyped-def]
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)
            await self._carry(Way(src, dst), port, reader, writer)

        return serve

    async def _carry(self, way: Way, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until both sides are done or one of them breaks."""
        back = Way(way.dst, way.src)
        other: asyncio.StreamWriter | None = None
        try:
            await self._pass(way, 0)
            await self._pass(back, 0)
            inner, other = await asyncio.open_connection(LOOPBACK, port)
            await asyncio.gather(self._pump(way, reader, other), self._pump(back, inner, writer))
        except OSError:
            pass
        except asyncio.CancelledError:
            pass  # the network is closed
        finally:
            for each in (writer, other):
                if each is not None:
                    each.transport.abort()

    async def _pump(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_CHUNK_BYTES):
                await self._pass(way, len(data))
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            await self._pass(way, 0)  # that a connection broke is news, too
            raise
        await self._pass(way, 0)
        writer.write_eof()

    async def _pass(self, way: Way, size: int) -> None:
        """Wait until the way is open, and count what waits. Nought bytes: the beginning or the end of a connection."""
        counted = False
        while way in self.ways:
            if not counted:
                counted = True
                held = self._held[way]
                held[0] += 1
                held[1] += size
            await self._changed.wait()
