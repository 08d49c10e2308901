"""The gRPC client: one server address, one HTTP/2 connection, many concurrent calls.

Every failure says what is known about execution (``RpcError.executed``). A channel does not retry: whoever knows the
operation decides. While the server cannot be reached, calls fail at once until the next attempt is due, so that a
client of several endpoints can go on to the next one.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from plasmacloud.base.tls import ClientTls
from plasmacloud.base.tls_errors import describe_tls_error
from plasmacloud.rpc.client_call import ClientStreaming, trailing_metadata
from plasmacloud.rpc.client_connection import ClientConnection
from plasmacloud.rpc.deadlines import DeadlineWheel
from plasmacloud.rpc.grpc_framing import decode_metadata, encode_metadata, format_timeout
from plasmacloud.rpc.h2.headers import encode_field, encode_fields
from plasmacloud.rpc.limits import CLIENT_LIMITS, ChannelOptions, Limits
from plasmacloud.rpc.status import Execution, RpcError, StatusCode

_MAX_CACHED_BLOCKS: Final = 1024
_CLOSE_GRACE_S: Final = 0.5
_MAX_KEEPALIVE_FACTOR: Final = 256.0
Headers = Sequence[tuple[str, bytes | str]]


def _unavailable(message: str) -> RpcError:
    return RpcError(StatusCode.UNAVAILABLE, message, executed=Execution.NOT_EXECUTED)


def _too_late(message: str) -> RpcError:
    return RpcError(StatusCode.DEADLINE_EXCEEDED, message, executed=Execution.NOT_EXECUTED)


def _describe(error: OSError | TimeoutError) -> str:
    """Why there is no connection, in words for an operator."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return describe_tls_error(error)
    if isinstance(error, ConnectionError) and not error.args:
        return f"{describe_tls_error(error)}; does it speak TLS there?"
    return str(error) or "no answer in time"


class Channel:
    """A client of one ``host:port``. Connects at the first call; use it on one event loop."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        limits: Limits = CLIENT_LIMITS,
        options: ChannelOptions | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.limits = limits
        self.options = options if options is not None else ChannelOptions()
        self.keepalive_factor = 1.0  # grows when a server asks for fewer pings
        self._tls = tls
        self._connection: ClientConnection | None = None
        self._leaving: set[ClientConnection] = set()
        self._attempt: asyncio.Task[ClientConnection] | None = None
        self._failures = 0
        self._next_attempt_s = 0.0
        self._last_error = ""
        self._closed = False
        self._wheel: DeadlineWheel | None = None
        self._prefixes: dict[str, bytes] = {}
        self._blocks: dict[tuple[str, float], bytes] = {}

    @property
    def connected(self) -> bool:
        """Whether a usable connection exists right now."""
        return self._connection is not None and self._connection.usable

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def connect(self, timeout: float) -> None:
        """Make one attempt to connect (or join the one under way), whatever the backoff says.

        Raises RpcError(UNAVAILABLE, NOT_EXECUTED).
        """
        self._next_attempt_s = 0.0
        await self._ready(asyncio.get_running_loop().time() + timeout)

    async def close(self) -> None:
        """Close the connection; calls in flight fail with UNAVAILABLE."""
        self._closed = True
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait([self._attempt], timeout=1.0)
        connections = [c for c in (self._connection, *self._leaving) if c is not None]
        for connection in connections:
            connection.shut_down(f"the channel to {self.address} was closed")
        self._connection = None
        if self._wheel is not None:
            self._wheel.close()
        await _wait_gone(connections)  # with TLS the other side has a word in it
        for connection in connections:
            connection.abort()
        await _wait_gone(connections)
        await asyncio.sleep(0)  # lets the transport of an attempt finish closing

    async def unary(self, path: str, body: bytes, *, timeout: float, metadata: Headers = ()) -> bytes:
        """Call ``path`` with one serialised message; returns the serialised reply.

        ``timeout`` in seconds covers connecting as well and is sent to the server. Raises RpcError; its ``executed``
        tells whether the call may be repeated.
        """
        connection = self._connection
        deadline_s = asyncio.get_running_loop().time() + timeout
        if timeout <= 0:
            raise _too_late(f"no time left to call {path}")
        while connection is None or not connection.usable or not connection.has_slot:
            connection = await self._ready(deadline_s)
        call = connection.start_unary(self._block(path, timeout, metadata), body, deadline_s)
        try:
            return await call.future
        except asyncio.CancelledError:
            call.cancel()
            raise

    def stream(self, path: str, *, timeout: float | None = None, metadata: Headers = ()) -> ClientStream:
        """A streaming call of any kind, opened by ``async with``. ``timeout`` in seconds bounds all of it."""
        return ClientStream(self, path, timeout, metadata)

    async def open_stream(self, path: str, timeout: float | None, metadata: Headers) -> ClientStreaming:
        """Open a streaming call; ``stream`` is the convenient form."""
        now_s = asyncio.get_running_loop().time()
        deadline_s = None if timeout is None else now_s + timeout
        connection = self._connection
        while connection is None or not connection.usable or not connection.has_slot:
            connection = await self._ready(now_s + self.options.connect_timeout_s if deadline_s is None else deadline_s)
        return connection.start_stream(self._block(path, timeout, metadata), deadline_s)

    def _block(self, path: str, timeout: float | None, metadata: Headers) -> bytes:
        block = self._blocks.get((path, timeout or 0.0))
        if block is None:
            prefix = self._prefixes.get(path)
            if prefix is None:
                prefix = self._prefixes[path] = encode_fields(
                    [
                        (b":method", b"POST"),
                        (b":scheme", b"http" if self._tls is None else b"https"),
                        (b":path", path.encode("ascii")),
                        (b":authority", self.address.encode("ascii")),
                        (b"te", b"trailers"),
                        (b"content-type", b"application/grpc"),
                        (b"user-agent", b"plasmacloud"),
                    ]
                )
            block = prefix
            if timeout is not None:
                block += encode_field(b"grpc-timeout", format_timeout(timeout))
            if len(self._blocks) >= _MAX_CACHED_BLOCKS:
                self._blocks.clear()
            self._blocks[path, timeout or 0.0] = block
        if metadata:
            block += encode_fields(encode_metadata(metadata))
        return block

    # Connecting

    async def _ready(self, deadline_s: float) -> ClientConnection:
        """A usable connection with, very likely, a free stream; raises RpcError(NOT_EXECUTED)."""
        if self._closed:
            raise _unavailable(f"the channel to {self.address} is closed")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline_s):
                connection = self._connection
                if connection is not None and connection.usable:
                    await self._wait_for_slot(connection)
                    return connection
                if self._attempt is None:
                    if loop.time() < self._next_attempt_s:
                        raise _unavailable(f"{self.address} is unreachable: {self._last_error}")
                    self._attempt = loop.create_task(self._connect())
                    self._attempt.add_done_callback(_note_outcome)
                attempt = self._attempt
                await asyncio.wait([attempt])
                if attempt.cancelled():
                    raise _unavailable(f"the channel to {self.address} is closed")
                error = attempt.exception()
                if error is not None:
                    raise _unavailable(f"{self.address} is unreachable: {error}")
                return attempt.result()
        except TimeoutError:
            raise _too_late(f"no connection to {self.address} in time") from None

    async def _wait_for_slot(self, connection: ClientConnection) -> None:
        if connection.has_slot:
            return
        waiter = connection.loop.create_future()
        connection.slots.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                connection.wake_slots()  # the stream that was ours goes to the next one
            raise

    async def _connect(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        if self._wheel is None:
            self._wheel = DeadlineWheel(loop)
        wheel = self._wheel
        connection: ClientConnection | None = None
        try:
            async with asyncio.timeout(self.options.connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: ClientConnection(self, self.limits, self.options, wheel),
                    self.host,
                    self.port,
                    ssl=None if self._tls is None else self._tls.context,
                )
                await connection.established
                if not connection.usable:  # its first words were its last; the next attempt has to wait, too
                    raise ConnectionError(connection.lost_reason or "the server is going away")
        except (OSError, TimeoutError) as error:
            if connection is not None:
                connection.abort()
            self._last_error = _describe(error)
            self._failures += 1
            wait_s = self.options.backoff_initial_s * self.options.backoff_factor ** min(self._failures - 1, 16)
            self._next_attempt_s = loop.time() + min(wait_s, self.options.backoff_max_s) * random.uniform(0.8, 1.2)
            raise ConnectionError(self._last_error) from error
        except BaseException:  # cancelled by close(): the socket must not stay behind
            if connection is not None:
                connection.abort()
            raise
        finally:
            self._attempt = None
        self._failures = 0
        self._connection = connection
        return connection

    def connection_leaving(self, connection: ClientConnection) -> None:
        """It takes no new calls: the next call connects anew."""
        if self._connection is connection:
            self._connection = None
        self._leaving.add(connection)

    def connection_gone(self, connection: ClientConnection) -> None:
        """It is closed."""
        if self._connection is connection:
            self._connection = None
        self._leaving.discard(connection)

    def ping_less(self) -> None:
        """The server complained about keepalive pings."""
        self.keepalive_factor = min(self.keepalive_factor * 2, _MAX_KEEPALIVE_FACTOR)


async def _wait_gone(connections: Sequence[ClientConnection]) -> None:
    staying = [connection.gone for connection in connections if not connection.gone.done()]
    if staying:
        await asyncio.wait(staying, timeout=_CLOSE_GRACE_S)


def _note_outcome(attempt: asyncio.Task[ClientConnection]) -> None:
    """Look at the outcome even when everybody who waited for the connection has left."""
    if not attempt.cancelled():
        attempt.exception()


class ClientStream:
    """A streaming call: ``async with channel.stream(path) as call``, then ``send``, ``done_sending``, ``async for``.

    Leaving the ``async with`` block before the server has ended the call cancels it.
    """

    def __init__(self, channel: Channel, path: str, timeout: float | None, metadata: Headers) -> None:
        self._channel = channel
        self._path = path
        self._timeout = timeout
        self._metadata = metadata
        self._call: ClientStreaming | None = None

    async def __aenter__(self) -> ClientStream:
        self._call = await self._channel.open_stream(self._path, self._timeout, self._metadata)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.call.finished:
            self.call.cancel()

    @property
    def call(self) -> ClientStreaming:
        assert self._call is not None, "use `async with channel.stream(...)`"
        return self._call

    async def send(self, body: bytes) -> None:
        """Send one message; waits while the server is slower than we are. Raises RpcError."""
        await self.call.send(body)

    def done_sending(self) -> None:
        """Say that no further message follows."""
        self.call.done_sending()

    def cancel(self) -> None:
        """Give the call up."""
        if not self.call.finished:
            self.call.cancel()

    def __aiter__(self) -> ClientStream:
        return self

    async def __anext__(self) -> bytes:
        """The next message. Raises RpcError when the call fails, StopAsyncIteration at status OK."""
        return await self.call.__anext__()

    async def initial_metadata(self) -> list[tuple[str, bytes | str]]:
        """The server's initial metadata, once it has sent them; empty if the call ended without."""
        call = self.call
        if call.initial is None and not call.finished:
            if call.headers is None:
                call.headers = call.connection.loop.create_future()
            await asyncio.shield(call.headers)
        return decode_metadata(call.initial.fields) if call.initial is not None else []

    @property
    def trailing_metadata(self) -> list[tuple[str, bytes | str]]:
        """The metadata that came with the status; empty before the end."""
        trailers = self.call.trailers
        return trailing_metadata(trailers.fields) if trailers is not None else []
