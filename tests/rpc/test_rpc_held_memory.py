"""What all clients of a server together hold in its memory: bounded, at the cost of those that hold the most."""

import asyncio
from collections.abc import Awaitable, Callable

from rpc_harness import EchoService, goaway_code, headers, run, serving, split_frames, until

from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.errors import ErrorCode
from plasmacloud.rpc.limits import Limits
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.web import HttpRequest, HttpResponse, WebTable

UNARY = "/test.Echo/Unary"
KIB = 1024
LIMITS = Limits(max_held_bytes=1024 * KIB)

Hostile = Callable[[asyncio.StreamWriter, int], Awaitable[None]]


def call(body: bytes, *, whole: bool) -> bytes:
    """A unary call with one message, which announces a byte more than it has unless it is ``whole``."""
    data = b"\0" + (len(body) + (not whole)).to_bytes(4, "big") + body
    sent = [headers(1, UNARY)]
    for start in range(0, len(data), 16_384):
        piece = data[start : start + 16_384]
        last = whole and start + 16_384 >= len(data)
        sent.append(frames.frame_header(len(piece), frames.DATA, frames.END_STREAM if last else 0, 1) + piece)
    return b"".join(sent)


async def half_a_message(writer: asyncio.StreamWriter, size: int) -> None:
    writer.write(frames.PREFACE + frames.settings_frame([]) + frames.SETTINGS_ACK + call(bytes(size), whole=False))
    await writer.drain()


async def an_answer_that_is_not_read(writer: asyncio.StreamWriter, size: int) -> None:
    """There is no window for it."""
    writer.write(frames.PREFACE + frames.settings_frame([(4, 0)]) + frames.SETTINGS_ACK)
    writer.write(call(bytes(size), whole=True))
    await writer.drain()


async def calls_without_a_message(writer: asyncio.StreamWriter, size: int) -> None:
    """Twenty bytes each for the client, and a kilobyte for the server."""
    writer.write(frames.PREFACE + frames.settings_frame([]) + frames.SETTINGS_ACK)
    writer.write(b"".join([headers(stream, UNARY) for stream in range(1, 2 * size // KIB, 2)]))
    await writer.drain()


async def half_an_http1_request(writer: asyncio.StreamWriter, size: int) -> None:
    writer.write(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (size + 1) + bytes(size))
    await writer.drain()


async def echo(request_: HttpRequest) -> HttpResponse:
    return HttpResponse(200, request_.body, "application/octet-stream")


def attacked(hostile: Hostile, *, told: bool) -> None:
    """Five connections hold 100 to 500 KiB, a megabyte and a half in all, beside a client that holds nothing."""

    async def main() -> None:
        web = WebTable()
        web.post("/echo", echo)
        server = Server(EchoService().table, limits=LIMITS, web=web)
        host, port = await server.start("127.0.0.1", 0)
        channel = Channel(host, port)
        assert await channel.unary(UNARY, b"before", timeout=10) == b"before"
        held = [await asyncio.open_connection(host, port) for _ in range(5)]
        try:
            for size, (_, writer) in enumerate(held[:2], 1):
                await hostile(writer, size * 100 * KIB)
            await until(lambda: sum(c.held_bytes for c in server.connections) >= 300 * KIB)
            server._look()
            assert server.counters.relieved == 0
            for size, (_, writer) in enumerate(held[2:], 3):
                await hostile(writer, size * 100 * KIB)
            await until(lambda: server.counters.relieved)
            assert server.counters.relieved == 1
            received = b""
            try:
                async with asyncio.timeout(10):
                    while data := await held[-1][0].read(65_536):
                        received += data
            except ConnectionError:
                assert not told
            if told:
                assert goaway_code(split_frames(received)) is ErrorCode.ENHANCE_YOUR_CALM
            await until(lambda: len(server.connections) == 5)
            server._look()
            assert server.counters.relieved == 1
            assert server.held_bytes <= LIMITS.max_held_bytes
            assert await channel.unary(UNARY, b"after", timeout=10) == b"after"
        finally:
            for _, writer in held:
                writer.transport.abort()
            await channel.close()
            await server.close(1.0)

    run(main(), seconds=60)


def test_messages_that_never_end() -> None:
    attacked(half_a_message, told=True)


def test_calls_without_a_message() -> None:
    attacked(calls_without_a_message, told=True)


def test_answers_that_are_never_read() -> None:
    attacked(an_answer_that_is_not_read, told=True)


def test_plain_requests_that_never_end() -> None:
    attacked(half_an_http1_request, told=False)


def test_what_a_connection_held_is_forgotten_with_it() -> None:
    async def main() -> None:
        async with serving(EchoService().table, LIMITS) as (server, host, port):
            _, writer = await asyncio.open_connection(host, port)
            await half_a_message(writer, 300 * KIB)
            await until(lambda: sum(c.held_bytes for c in server.connections) >= 300 * KIB)
            writer.write(frames.rst_stream_frame(1, ErrorCode.CANCEL))
            await until(lambda: sum(c.held_bytes for c in server.connections) == 0)
            writer.transport.abort()

    run(main(), seconds=30)
