"""Plain HTTP on the port of gRPC: HTTP/1.1 read by h11, the same pages on HTTP/2, limits, and who is refused."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import h11
import pytest
from rpc_harness import EchoService, Wire, data_of, goaway_code, request, run, status, until

from plasmacloud.base.pki import init_authority, issue
from plasmacloud.base.tls import ClientTls, ServerTls, TlsFiles
from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.errors import ErrorCode
from plasmacloud.rpc.h2.frames import END_STREAM, HEADERS
from plasmacloud.rpc.h2.headers import encode_fields
from plasmacloud.rpc.limits import Limits
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.status import StatusCode
from plasmacloud.rpc.web import HttpRequest, HttpResponse, WebTable, text_response

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


class Pages:
    """A few paths."""

    def __init__(self) -> None:
        self.web = WebTable()
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.web.get("/hello", self._hello)
        self.web.post("/echo", self._echo)
        self.web.get("/wait", self._wait)
        self.web.get("/crash", self._crash)

    async def _hello(self, request: HttpRequest) -> HttpResponse:
        return text_response(200, f"hello {request.query}")

    async def _echo(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, request.body)

    async def _wait(self, request: HttpRequest) -> HttpResponse:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return text_response(200, "waited")

    async def _crash(self, request: HttpRequest) -> HttpResponse:
        raise ValueError("secret detail")


@asynccontextmanager
async def serving_pages(limits: Limits | None = None, tls: ServerTls | None = None):
    pages = Pages()
    server = Server(EchoService().table, limits=limits, web=pages.web)
    _, port = await server.start("127.0.0.1", 0, tls=tls)
    try:
        yield pages, server, port
    finally:
        await server.close(0)


async def answer(reader: Reader, wire: h11.Connection) -> tuple[int, bytes]:
    """The next response, read by a strict client."""
    code, body = 0, b""
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            wire.receive_data(await reader.read(65_536))
        elif isinstance(event, h11.Response):
            code = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return code, body
        else:
            assert isinstance(event, h11.InformationalResponse), event


async def ask(port: int, *pieces: bytes, method: str = "GET") -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    wire = h11.Connection(h11.CLIENT)
    wire.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    wire.send(h11.EndOfMessage())
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        return await answer(reader, wire)
    finally:
        writer.close()


def on_pages(test: Callable[..., Awaitable[None]], limits: Limits | None = None) -> None:
    async def main() -> None:
        async with serving_pages(limits) as (pages, server, port):
            await test(pages, server, port)

    run(main())


GET = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"


def post(body: bytes, *headers: bytes) -> bytes:
    head = b"".join(h + b"\r\n" for h in headers)
    return b"POST /echo HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body)


def test_pages_errors_and_methods(capsys: pytest.CaptureFixture[str]) -> None:
    async def test(pages: Pages, server: Server, port: int) -> None:
        assert await ask(port, GET % b"/hello?you") == (200, b"hello you\n")
        assert await ask(port, GET % b"/nowhere") == (404, b"404 page not found\n")
        assert (await ask(port, GET % b"/echo"))[0] == 405
        assert await ask(port, GET % b"/crash") == (500, b"internal error\n")
        assert await ask(port, b"HEAD /hello HTTP/1.1\r\nHost: x\r\n\r\n", method="HEAD") == (200, b"")
        assert await ask(port, b"GET /hello HTTP/1.0\r\n\r\n") == (200, b"hello \n")

    on_pages(test)
    assert "secret detail" in capsys.readouterr().out


def test_a_connection_serves_one_request_after_the_other_however_they_arrive() -> None:
    async def test(pages: Pages, server: Server, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"one") + post(b"two") + GET % b"/hello?3")  # sent ahead
        bytewise = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n"
        wire = h11.Connection(h11.CLIENT)
        for expected in (b"one", b"two", b"hello 3\n", b"four"):
            wire.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
            wire.send(h11.EndOfMessage())
            if expected == b"four":
                for byte in bytewise:
                    writer.write(bytes((byte,)))
                    await writer.drain()
            assert await answer(reader, wire) == (200, expected)
            wire.start_next_cycle()
        assert len(server.connections) == 1
        writer.close()
        await until(lambda: not server.connections)
        assert server.totals().requests == 4

    on_pages(test)


def test_expect_100_continue_is_answered_and_other_expectations_are_refused() -> None:
    async def test(pages: Pages, server: Server, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head, body = post(b"later", b"Expect: 100-continue").split(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
        writer.write(body)
        assert (await reader.readuntil(b"later")).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()
        assert (await ask(port, post(b"x", b"Expect: a miracle")))[0] == 417

    on_pages(test)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET /hello HTTP/1.1\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400),
        (b"GET  /hello\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /hello HTTP/1.1\r\nHost: x\r\n" + b"".join(b"h%d: x\r\n" % i for i in range(200)) + b"\r\n", 431),
        (b"GET /hello HTTP/1.1\r\nHost: x\r\nbig: " + bytes(b"x" * 9000), 431),
        (post(bytes(2000)), 413),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + bytes(2000), 413),
        (post(b"x", b"Origin: http://elsewhere.example"), 403),
    ],
)
def test_what_is_malformed_too_large_or_foreign_is_refused(data: bytes, code: int) -> None:
    async def test(pages: Pages, server: Server, port: int) -> None:
        assert (await ask(port, data))[0] == code
        assert await ask(port, GET % b"/hello") == (200, b"hello \n")

    on_pages(test, Limits(max_recv_bytes=1000, max_header_list_bytes=8000))


def test_a_client_that_leaves_cancels_its_request_and_close_lets_requests_finish() -> None:
    async def test(pages: Pages, server: Server, port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET % b"/wait")
        await until(lambda: pages.web.requests == 1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await until(lambda: pages.cancelled == 1)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET % b"/hello")
        writer.write_eof()
        assert (await reader.read()).endswith(b"hello \n"), "who has shut its side still reads the answer"
        writer.close()
        waiting = asyncio.create_task(ask(port, GET % b"/wait"))
        idle_reader, idle = await asyncio.open_connection("127.0.0.1", port)
        idle.write(GET % b"/hello")
        await idle_reader.readuntil(b"hello")
        await until(lambda: pages.web.requests == 4)
        closing = asyncio.create_task(server.close(10))
        await until(lambda: server.closing)
        assert b"\n" in await idle_reader.read(), "idle connections are closed at once"
        idle.close()
        pages.gate.set()
        assert await waiting == (200, b"waited\n")
        await closing

    on_pages(test)


def test_half_requests_idle_connections_and_silent_readers_end() -> None:
    limits = Limits(frame_timeout_s=10.0, http1_idle_timeout_s=20.0, stall_timeout_s=30.0)

    async def test(pages: Pages, server: Server, port: int) -> None:
        now = asyncio.get_running_loop().time()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /hello HTTP/1.1\r\nHos")
        await until(lambda: server.totals().bytes_received > 20)
        (connection,) = server.connections
        connection.check(now + 9)
        assert not reader.at_eof()
        connection.check(now + 11)
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await until(lambda: not server.connections)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET % b"/hello")
        await reader.readuntil(b"hello")
        (connection,) = server.connections
        now = asyncio.get_running_loop().time()
        connection.check(now + 19)
        assert server.connections
        connection.check(now + 21)
        await until(lambda: not server.connections)
        writer.close()

    on_pages(test, limits)


def test_alpn_chooses_http1(tmp_path: Path) -> None:
    async def main() -> None:
        init_authority(tmp_path)
        issue(tmp_path, "server", ["127.0.0.1"])
        async with serving_pages(tls=ServerTls(TlsFiles.of(tmp_path, "server"))) as (_, _, port):
            for protocol in ("http/1.1", None):
                context = ClientTls(TlsFiles(authority=tmp_path / "ca.crt"), protocols=(protocol or "h2",)).context
                if protocol is None:
                    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))  # offers nothing
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
                writer.write(GET % b"/hello?tls")
                assert await reader.readuntil(b"hello tls\n")
                writer.close()
                await writer.wait_closed()

    run(main())


def http2_request(stream: int, method: bytes, path: bytes, *extra: tuple[bytes, bytes], end: bool = True) -> bytes:
    fields = [(b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", b"x"), *extra]
    return frames.headers_frames(stream, encode_fields(fields), end_stream=end, max_frame_bytes=16_384)


def on_web_wire(test: Callable[[Wire, Pages], Awaitable[None]], limits: Limits | None = None) -> None:
    async def main() -> None:
        pages = Pages()
        wire = Wire(EchoService().table, limits)
        wire.server.web = pages.web
        try:
            await test(wire, pages)
        finally:
            wire.lose()
            await asyncio.sleep(0)
            assert wire.connection.buffered_bytes == 0

    run(main())


def test_the_same_pages_on_http2() -> None:
    async def test(wire: Wire, pages: Pages) -> None:
        wire.send(http2_request(1, b"GET", b"/hello?h2"))
        found = await wire.settle()
        assert wire.fields(found[0])[":status"] == "200"
        assert data_of(found) == b"hello h2\n"
        wire.send(http2_request(3, b"POST", b"/echo", end=False), frames.data_frame(3, b"bo"))
        wire.send(frames.data_frame(3, b"dy", end_stream=True))
        assert data_of(await wire.settle()) == b"body"
        wire.send(http2_request(5, b"HEAD", b"/hello"))
        (only,) = await wire.settle()
        assert only.flags & END_STREAM
        (interim,) = wire.send(http2_request(7, b"POST", b"/echo", (b"expect", b"100-continue"), end=False))
        assert wire.fields(interim) == {":status": "100"}
        wire.send(frames.data_frame(7, b"x", end_stream=True))
        assert data_of(await wire.settle()) == b"x"
        assert not wire.connection.streams
        assert status(wire, wire.send(request(9, "/test.Echo/Unary", b"x")), 9) is StatusCode.OK

    on_web_wire(test)


def test_limits_and_resets_of_pages_on_http2() -> None:
    async def test(wire: Wire, pages: Pages) -> None:
        found = wire.send(http2_request(1, b"POST", b"/echo", end=False), frames.data_frame(1, bytes(1001)))
        (refusal,) = [f for f in found if f.kind == HEADERS]
        assert wire.fields(refusal)[":status"] == "413"
        wire.send(http2_request(3, b"GET", b"/wait"))
        await wire.settle()
        wire.send(frames.rst_stream_frame(3, ErrorCode.CANCEL))
        await wire.settle()
        assert pages.cancelled == 1
        assert goaway_code(wire.send(frames.ping_frame(bytes(8)))) is None
        assert wire.connection.buffered_bytes == 0

    on_web_wire(test, Limits(max_recv_bytes=1000))
