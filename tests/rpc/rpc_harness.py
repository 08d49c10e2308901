"""Shared by the RPC tests: a server connection on a fake transport, frames as tuples, a small echo service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import uvloop
from hpack import Decoder

from plasmacloud.rpc.deadlines import DeadlineWheel
from plasmacloud.rpc.grpc_framing import encode_message
from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.errors import ErrorCode
from plasmacloud.rpc.h2.frames import DATA, END_STREAM, GOAWAY, HEADERS
from plasmacloud.rpc.h2.headers import encode_fields
from plasmacloud.rpc.limits import Limits
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.server_connection import ServerConnection
from plasmacloud.rpc.service import ServiceTable, StreamCall, UnaryCall
from plasmacloud.rpc.status import RpcError, StatusCode
from plasmacloud.rpc.turns import Turns


def run(main: Coroutine[Any, Any, Any], *, seconds: float = 30) -> Any:
    """Run on uvloop, as production does, with a deadline."""

    async def bounded() -> Any:
        async with asyncio.timeout(seconds):
            return await main

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(bounded())


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def split_frames(data: bytes) -> list[Frame]:
    found = []
    while data:
        high, low, kind, flags, stream = frames.FRAME_HEADER.unpack_from(data)
        length = high << 8 | low
        assert len(data) >= 9 + length, "incomplete frame written"
        found.append(Frame(kind, flags, stream, data[9 : 9 + length]))
        data = data[9 + length :]
    return found


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False
        self.eof = False
        self.reading = True

    def write(self, data: Any) -> None:
        assert not self.eof, "written after our side was closed"
        self.writes.append(bytes(data))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("test", 1) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Wire:
    """A ServerConnection without a socket: bytes in, frames out. Needs a running loop."""

    def __init__(self, table: ServiceTable, limits: Limits | None = None, *, greet: bool = True) -> None:
        self.server = Server(table, limits=limits)
        loop = asyncio.get_running_loop()
        self.server.wheel = DeadlineWheel(loop)
        self.server.turns = Turns(loop.call_soon, loop.time, budget_s=float("inf"))
        self.connection = ServerConnection(self.server)
        self.transport = FakeTransport()
        self.connection.connection_made(self.transport)
        self.decoder = Decoder()
        if greet:
            self.connection.data_received(frames.PREFACE + frames.settings_frame([]))
            self.transport.writes.clear()

    def send(self, *data: bytes) -> list[Frame]:
        """Deliver one read; the frames answered at once."""
        self.connection.data_received(b"".join(data))
        return self.taken()

    def taken(self) -> list[Frame]:
        data = b"".join(self.transport.writes)
        self.transport.writes.clear()
        return split_frames(data)

    async def settle(self) -> list[Frame]:
        """Let callbacks and tasks run; the frames they produced."""
        for _ in range(10):
            await asyncio.sleep(0)
        return self.taken()

    def fields(self, frame: Frame) -> dict[str, str]:
        assert frame.kind == frames.HEADERS
        return {str(k): str(v) for k, v in self.decoder.decode(frame.payload)}

    def lose(self) -> None:
        self.connection.connection_lost(None)
        self.server.wheel.close()


def request_block(path: str, *extra: tuple[bytes, bytes], content_type: bytes = b"application/grpc") -> bytes:
    return encode_fields(
        [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", b"test"),
            (b"content-type", content_type),
            (b"te", b"trailers"),
            *extra,
        ]
    )


def headers(stream: int, path: str, *extra: tuple[bytes, bytes], end: bool = False, **kwargs: Any) -> bytes:
    block = request_block(path, *extra, **kwargs)
    return frames.headers_frames(stream, block, end_stream=end, max_frame_bytes=16_384)


def message(stream: int, body: bytes, *, end: bool = True) -> bytes:
    return frames.data_frame(stream, encode_message(body), end_stream=end)


def request(stream: int, path: str, body: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    return headers(stream, path, *extra) + message(stream, body)


class EchoService:
    """Calls of all kinds; keeps what its handlers saw."""

    def __init__(self) -> None:
        self.table = ServiceTable()
        self.kept: list[UnaryCall] = []
        self.cancelled: list[str] = []
        self.metadata: list[tuple[str, bytes | str]] = []
        self.started = 0
        table = self.table
        table.unary("/test.Echo/Unary", lambda call, body: call.reply(body))
        table.unary("/test.Echo/Zeros", lambda call, body: call.reply(bytes(int(body))))
        table.unary("/test.Echo/Pieces", lambda call, body: call.reply_in_pieces([bytes(10_000)] * int(body)))
        table.unary("/test.Echo/Keep", self.keep)
        table.unary("/test.Echo/Fail", self.fail)
        table.unary("/test.Echo/Crash", self.crash)
        table.unary("/test.Echo/Metadata", self.echo_metadata)
        table.unary_async("/test.Echo/Async", self.echo_async)
        table.unary_async("/test.Echo/Hang", self.hang)
        table.stream("/test.Echo/Server", self.server_stream)
        table.stream("/test.Echo/Client", self.client_stream)
        table.stream("/test.Echo/Bidi", self.bidi)
        table.stream("/test.Echo/Flood", self.flood)
        table.stream("/test.Echo/HangStream", self.hang_stream)
        table.stream("/test.Echo/CrashStream", self.crash_stream)

    def keep(self, call: UnaryCall, body: bytes) -> None:
        call.on_cancel = lambda: self.cancelled.append("keep")
        self.kept.append(call)

    def fail(self, call: UnaryCall, body: bytes) -> None:
        call.fail(StatusCode.FAILED_PRECONDITION, "no: ä%\n", [("why-bin", b"\x00\xff")])

    def crash(self, call: UnaryCall, body: bytes) -> None:
        raise ValueError("secret detail")

    def echo_metadata(self, call: UnaryCall, body: bytes) -> None:
        self.metadata = call.metadata
        call.reply(body, [("seen", str(len(call.metadata)))])

    async def echo_async(self, call: UnaryCall, body: bytes) -> bytes:
        await asyncio.sleep(0)
        if body == b"refuse":
            raise RpcError(StatusCode.ABORTED, "refused")
        return body

    async def hang(self, call: UnaryCall, body: bytes) -> bytes:
        self.started += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.append("hang")
            raise
        return b""

    async def hang_stream(self, call: StreamCall) -> None:
        self.started += 1
        call.send_headers([("early", "yes")])
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.append("hang_stream")
            raise

    async def server_stream(self, call: StreamCall) -> None:
        async for body in call:
            for i in range(int(body)):
                await call.send(b"%d" % i)
        call.set_trailers([("count", body.decode())])

    async def client_stream(self, call: StreamCall) -> None:
        total = 0
        async for body in call:
            total += len(body)
        await call.send(b"%d" % total)

    async def bidi(self, call: StreamCall) -> None:
        async for body in call:
            await call.send(body)

    async def flood(self, call: StreamCall) -> None:
        """Sends 1000-byte messages until the client stops it."""
        self.started = 0
        while True:
            await call.send(bytes(1000))
            self.started += 1

    async def crash_stream(self, call: StreamCall) -> None:
        await call.send(b"one")
        raise ValueError("secret detail")


@asynccontextmanager
async def serving(table: ServiceTable, limits: Limits | None = None) -> AsyncIterator[tuple[Server, str, int]]:
    server = Server(table, limits=limits)
    host, port = await server.start("127.0.0.1", 0)
    try:
        yield server, host, port
    finally:
        await server.close(0)


def kinds(found: Sequence[Frame]) -> list[tuple[int, int]]:
    return [(f.kind, f.stream) for f in found]


async def until(condition: Any, seconds: float = 10) -> None:
    """Wait for a condition with a deadline."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def on_wire(test, limits: Limits | None = None, *, greet: bool = True) -> EchoService:
    """Run ``test(wire, service)`` on a loop."""
    service = EchoService()

    async def main() -> None:
        wire = Wire(service.table, limits, greet=greet)
        try:
            await test(wire, service)
        finally:
            wire.lose()
            await asyncio.sleep(0)

    run(main())
    return service


def data_of(found: list[Frame]) -> bytes:
    """The payload of all DATA."""
    return b"".join([frame.payload for frame in found if frame.kind == DATA])


def goaway_code(found: list[Frame]) -> ErrorCode | None:
    for frame in found:
        if frame.kind == GOAWAY:
            return ErrorCode(frames.parse_goaway(frame.payload)[1])
    return None


def status(wire: Wire, found: list[Frame], stream: int) -> StatusCode:
    ends = [f for f in found if f.kind == HEADERS and f.stream == stream and f.flags & END_STREAM]
    assert len(ends) == 1, found
    return StatusCode(int(wire.fields(ends[0])["grpc-status"]))
