"""What fuzzers feed: each target takes any bytes and returns how it went; a broken promise is an exception.

The promise of every target: whatever arrives, there is no unhandled exception, no answer that blames us
(INTERNAL_ERROR), and when the connection has gone nothing of it is left: no stream, no task, no byte counted.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import DecodeError
from rpc_harness import EchoService, FakeTransport, Wire, split_frames

from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.validate import RpcRefusal, check_write, validate_range, validate_txn
from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.client_connection import ClientConnection
from plasmacloud.rpc.deadlines import DeadlineWheel
from plasmacloud.rpc.gateway import BadJson, parse_message
from plasmacloud.rpc.grpc_framing import MessageAssembler, decode_metadata, parse_timeout, percent_decode
from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.errors import ConnectionFault, ErrorCode
from plasmacloud.rpc.h2.headers import HeaderDecoder, encode_fields
from plasmacloud.rpc.http1_connection import Http1Connection
from plasmacloud.rpc.limits import CLIENT_LIMITS, ChannelOptions, Limits
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.request import Malformed, parse_request
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.status import RpcError
from plasmacloud.rpc.turns import Turns
from plasmacloud.rpc.web import HttpRequest, HttpResponse, WebTable

Target = Callable[[bytes], None]
CORPUS = Path(__file__).parent / "corpus"
SMALL = Limits(
    max_recv_bytes=4096,
    max_header_list_bytes=2048,
    max_concurrent_streams=8,
    stream_window_bytes=2048,
    max_buffered_bytes=8192,
    max_queued_bytes=16_384,
)


async def _settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


def _run(main: Callable[[list[str]], object]) -> None:
    """Run a coroutine function on a loop that tells of every exception nobody has handled."""
    problems: list[str] = []

    async def watched() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(str(context)))
        await main(problems)  # type: ignore[misc]
        await _settle()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"tasks left behind: {left}"

    asyncio.run(watched())
    assert not problems, problems


def _check_written(written: bytes) -> None:
    for frame in split_frames(written):
        if frame.kind == frames.GOAWAY:
            assert frames.parse_goaway(frame.payload)[1] != ErrorCode.INTERNAL_ERROR, frame


def _pieces(data: bytes) -> list[bytes]:
    """The first byte says how the rest is cut into reads."""
    if not data:
        return []
    size = max(1, data[0] * 8)
    return [data[i : i + size] for i in range(1, len(data), size)]


def server_connection(data: bytes) -> None:
    """Frames for a server, behind a good greeting."""

    async def main(_: list[str]) -> None:
        service = EchoService()
        web = WebTable()
        web.get("/page", _page)
        web.post("/page/post", _page)
        wire = Wire(service.table, SMALL)
        wire.server.web = web
        for piece in _pieces(data):
            wire.connection.data_received(piece)
            await asyncio.sleep(0)
        for call in service.kept:
            call.reply(b"late" * 100)
        await _settle()
        now = asyncio.get_running_loop().time()
        for passed_s in (0.0, 40.0, 100.0, 5000.0):
            wire.connection.check(now + passed_s)
        await asyncio.sleep(0)
        _check_written(b"".join(wire.transport.writes))
        wire.lose()
        await _settle()
        assert not wire.connection.streams
        assert not wire.server._tasks
        assert wire.connection.buffered_bytes == wire.connection.queued_bytes == 0

    _run(main)


def client_connection(data: bytes) -> None:
    """Frames for a client with three calls under way."""

    async def main(_: list[str]) -> None:
        loop = asyncio.get_running_loop()
        wheel = DeadlineWheel(loop)
        connection = ClientConnection(Channel("test", 1), CLIENT_LIMITS, ChannelOptions(), wheel)
        transport = FakeTransport()
        connection.connection_made(transport)
        calls = [connection.start_unary(b"\x83", bytes(5), loop.time() + 60) for _ in range(2)]
        stream = connection.start_stream(b"\x83", None)
        connection.data_received(frames.settings_frame([]))
        for piece in _pieces(data):
            connection.data_received(piece)
            await asyncio.sleep(0)
        _check_written(b"".join(transport.writes).removeprefix(frames.PREFACE))
        connection.connection_lost(None)
        for call in calls:
            assert call.future.done()
            assert call.future.exception() is None or isinstance(call.future.exception(), RpcError)
        assert stream.finished
        assert not connection.streams
        assert connection.buffered_bytes == 0
        if connection.established.done():
            connection.established.exception()
        wheel.close()

    _run(main)


def port(data: bytes) -> None:
    """Bytes for a fresh connection: a preface, HTTP/1.1, or anything else."""

    async def main(_: list[str]) -> None:
        wire = Wire(EchoService().table, SMALL, greet=False)
        for piece in _pieces(data):
            wire.connection.data_received(piece)
        wire.lose()

    _run(main)


async def _page(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0)
    return HttpResponse(200, request.body + request.query.encode())


def http1(data: bytes) -> None:
    """Bytes for the HTTP/1.1 reader."""

    async def main(_: list[str]) -> None:
        web = WebTable()
        web.get("/page", _page)
        web.post("/page/post", _page)
        server = Server(EchoService().table, limits=SMALL, web=web)
        loop = asyncio.get_running_loop()
        server.turns = Turns(loop.call_soon, loop.time)
        transport = FakeTransport()
        connection = Http1Connection(server, web, transport, "test")
        server.admit(connection)
        for piece in _pieces(data):
            if not transport.closed:
                connection.data_received(piece)
            await asyncio.sleep(0)
        await _settle()
        now = asyncio.get_running_loop().time()
        for passed_s in (0.0, 40.0, 100.0):
            connection.check(now + passed_s)
        connection.connection_lost(None)
        await _settle()
        assert not server._tasks
        assert not server.connections

    _run(main)


def hpack(data: bytes) -> None:
    """Header blocks, one after the other on one decoder; what was decoded is then read as a request."""
    decoder = HeaderDecoder(2048)
    for block in data.split(b"\xff\xfe\xfd"):
        try:
            fields = decoder.decode(block)
        except ConnectionFault:
            return
        assert decoder._table_bytes <= 4096
        if fields is None:
            continue
        assert sum(32 + len(n) + len(v) for n, v in fields) <= 2048
        assert HeaderDecoder(2048).decode(encode_fields(fields)) == fields, "what we encode decodes to the same"
        try:
            parse_request(fields, {}).metadata()
        except Malformed:
            pass
        decode_metadata(fields)
        for _, value in fields:
            parse_timeout(value)
            percent_decode(value)


def messages(data: bytes) -> None:
    """Length-prefixed messages, compressed or not."""
    for encoding in (b"identity", b"gzip", b"deflate", b"unknown"):
        assembler = MessageAssembler(1000, encoding)
        try:
            for piece in _pieces(data):
                for message in assembler.feed(piece):
                    assert len(message) <= 1000
                assert assembler.partial_bytes <= 1005 + len(piece)
        except RpcError:
            pass


def requests(data: bytes) -> None:
    """Protobuf bodies of the KV service, as they come from clients, before they go into the log."""
    kinds = (CommandKind.PUT, CommandKind.DELETE_RANGE, CommandKind.COMPACT)
    checks: list[Callable[[bytes], object]] = [validate_range, validate_txn]
    checks += [lambda body, kind=kind: check_write(kind, body) for kind in kinds]  # type: ignore[misc]
    for check in checks:
        try:
            check(data)
        except RpcRefusal:
            pass


def gateway(data: bytes) -> None:
    """JSON bodies of the gateway."""
    for kind in (rpc_pb2.TxnRequest, rpc_pb2.RangeRequest, rpc_pb2.PutRequest, rpc_pb2.MemberAddRequest):
        try:
            message = parse_message(kind, data)
        except BadJson:
            continue
        try:
            assert kind.FromString(message.SerializeToString()) == message
        except DecodeError as error:
            raise AssertionError("accepted JSON that is no message") from error


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (server_connection, client_connection, port, http1, hpack, messages, requests, gateway)
}


def seeds(name: str) -> list[bytes]:
    """The corpus of a target: hand-made starting points and everything that once went wrong."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def name_of(data: bytes) -> str:
    """A file name for an input."""
    return f"{zlib.crc32(data):08x}-{len(data)}"
