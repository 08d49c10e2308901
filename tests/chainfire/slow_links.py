"""Connections that take their time: a relay on loopback that delivers every byte later, in each direction."""

import asyncio
import threading
from collections.abc import Callable, Sequence

from plasmacloud.base.process import free_ports

_CLOSE_S = 10.0


class SlowLinks:
    """Relays to these addresses (``host:port``), in their order. A thread of its own, from `with` to the end of it."""

    def __init__(self, targets: Sequence[str], delay_s: float) -> None:
        self.delay_s = delay_s
        self.addresses = [f"127.0.0.1:{port}" for port in free_ports(len(targets))]
        self._targets = list(targets)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._relays: set[asyncio.Task[None]] = set()

    def __enter__(self) -> "SlowLinks":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(_CLOSE_S)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(_CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)
        self._loop.close()

    async def _listen(self) -> None:
        self._servers = [
            await asyncio.start_server(self._accept(target), *address.split(":"))
            for address, target in zip(self.addresses, self._targets, strict=True)
        ]

    def _accept(self, target: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._relay(reader, writer, target))
            self._relays.add(task)
            task.add_done_callback(self._relays.discard)

        return accepted

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str) -> None:
        """Until either side ends; then both end."""
        try:
            there, back = await asyncio.open_connection(*target.split(":"))
        except OSError:
            writer.close()
            return
        ways = [self._loop.create_task(self._carry(*way)) for way in ((reader, back), (there, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, back):
                end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self._loop.call_later(self.delay_s, writer.write, data)

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        relays = list(self._relays)
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)
        await asyncio.sleep(2 * self.delay_s)  # what is still to be delivered finds its connection closed
