"""The connection to one endpoint: opened when needed, and replaced when it went silent.

A frozen server keeps its connections open and never answers. A call that finds out costs its whole time, and for a
write the knowledge of its outcome; so once a call timed out on a connection that gave no sign of life since the call
began, the connection is *retired*: calls on it may finish, new ones open another. Opening one includes the server's
half of the HTTP/2 handshake, which a frozen server does not send, so the next call learns within the time limit for
connecting that nobody is there, and that it was not executed.
"""

import asyncio
from collections.abc import AsyncIterator

from plasmacloud.base.tls import ClientTls
from plasmacloud.client.endpoints import Endpoint
from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.limits import ChannelOptions
from plasmacloud.rpc.status import Execution, Metadata, RpcError, StatusCode


class _Wire:
    """One channel and who is using it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.calls = 0
        self.retired = False
        self.heard_at = float("-inf")  # loop time of the last answer


class Link:
    """Calls to one endpoint."""

    def __init__(self, endpoint: Endpoint, *, connect_timeout: float, tls: ClientTls | None = None) -> None:
        self.endpoint = endpoint
        self._tls = tls
        self._options = ChannelOptions(connect_timeout_s=connect_timeout)
        self._wire = self._new_wire()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """Whether a call would leave at once."""
        return self._wire.channel.connected

    async def call(self, path: str, body: bytes, *, connect_within: float, timeout: float, metadata: Metadata) -> bytes:
        """One unary call. Times in seconds from now; ``timeout`` includes connecting. Raises `RpcError`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        wire = self._wire
        wire.calls += 1
        try:
            if not wire.channel.connected:
                await wire.channel.connect(min(connect_within, timeout))
                timeout = began + timeout - loop.time()
                if timeout <= 0:
                    raise RpcError(
                        StatusCode.DEADLINE_EXCEEDED,
                        f"no connection to {self.endpoint} in time",
                        executed=Execution.NOT_EXECUTED,
                    )
            answer = await wire.channel.unary(path, body, timeout=timeout, metadata=metadata)
            wire.heard_at = loop.time()
            return answer
        except RpcError as error:
            if error.executed is Execution.ANSWERED:
                wire.heard_at = loop.time()
            elif error.executed is Execution.UNKNOWN and wire.heard_at < began:
                self._retire(wire)
            raise
        finally:
            wire.calls -= 1
            if wire.retired and wire.calls == 0:
                self._close_soon(wire)

    async def stream(self, path: str, body: bytes, *, timeout: float) -> AsyncIterator[bytes]:
        """One call that is answered by many messages; ``timeout`` seconds for each. Raises `RpcError`."""
        wire = self._wire
        wire.calls += 1
        try:
            if not wire.channel.connected:
                await wire.channel.connect(timeout)
            async with wire.channel.stream(path) as call:
                await call.send(body)
                call.done_sending()
                while True:
                    try:
                        message = await asyncio.wait_for(anext(call), timeout)
                    except StopAsyncIteration:
                        return
                    except TimeoutError:
                        raise RpcError(
                            StatusCode.DEADLINE_EXCEEDED,
                            "silent in the middle of an answer",
                            executed=Execution.UNKNOWN,
                        ) from None
                    yield message
        finally:
            wire.calls -= 1
            if wire.retired and wire.calls == 0:
                self._close_soon(wire)

    async def close(self) -> None:
        """Close the connection; calls under way fail."""
        await asyncio.gather(self._wire.channel.close(), *self._closing)

    def _new_wire(self) -> _Wire:
        return _Wire(Channel(self.endpoint.host, self.endpoint.port, options=self._options, tls=self._tls))

    def _retire(self, wire: _Wire) -> None:
        if not wire.retired:
            wire.retired = True
            self._wire = self._new_wire()

    def _close_soon(self, wire: _Wire) -> None:
        task = asyncio.create_task(wire.channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
