"""Our client against our server over real sockets: results, and exact knowledge when there is none."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

import pytest
from rpc_harness import EchoService, run, serving, until

from plasmacloud.base.errors import ExitCode
from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.errors import ErrorCode
from plasmacloud.rpc.limits import ChannelOptions, Limits
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.status import Execution, RpcError, StatusCode

UNARY = "/test.Echo/Unary"


def with_channel(test, limits: Limits | None = None, **options) -> EchoService:
    service = EchoService()

    async def main() -> None:
        async with serving(service.table, limits) as (server, host, port):
            channel = Channel(host, port, options=ChannelOptions(**options))
            try:
                await test(channel, service, server)
            finally:
                await channel.close()

    run(main())
    return service


async def error_of(awaitable) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await awaitable
    return caught.value


def test_many_concurrent_calls_share_one_connection_and_few_writes() -> None:
    async def test(channel: Channel, service: EchoService, server: Server) -> None:
        assert not channel.connected
        bodies = [b"%d" % i for i in range(500)]
        replies = await asyncio.gather(*[channel.unary(UNARY, b, timeout=5) for b in bodies])
        assert replies == bodies
        assert len(server.connections) == 1
        assert channel._connection is not None
        before = channel._connection.flushes
        await asyncio.gather(*[channel.unary(UNARY, b, timeout=5) for b in bodies[:200]])
        assert channel._connection.flushes - before <= 3
        assert channel.connected

    with_channel(test)


def test_statuses_and_metadata_of_the_server() -> None:
    async def test(channel: Channel, service: EchoService, server: Server) -> None:
        error = await error_of(channel.unary("/test.Echo/Fail", b"", timeout=5))
        assert (error.code, error.message) == (StatusCode.FAILED_PRECONDITION, "no: ä%\n")
        assert error.executed is Execution.ANSWERED
        assert list(error.metadata) == [("why-bin", b"\x00\xff")]
        error = await error_of(channel.unary("/no/such", b"", timeout=5))
        assert (error.code, error.executed) == (StatusCode.UNIMPLEMENTED, Execution.ANSWERED)
        error = await error_of(channel.unary("/test.Echo/Async", b"refuse", timeout=5))
        assert (error.code, error.message) == (StatusCode.ABORTED, "refused")
        assert await channel.unary("/test.Echo/Async", b"ok", timeout=5) == b"ok"
        sent = [("key", "value"), ("raw-bin", b"\x00\x01\xff")]
        await channel.unary("/test.Echo/Metadata", b"", timeout=5, metadata=sent)
        assert service.metadata == sent

    with_channel(test)


def test_large_messages_and_the_limit() -> None:
    async def test(channel: Channel, service: EchoService, server: Server) -> None:
        body = bytes(range(256)) * 8000
        assert await channel.unary(UNARY, body, timeout=10) == body
        error = await error_of(channel.unary(UNARY, bytes(3 << 20), timeout=10))
        assert (error.code, error.executed) == (StatusCode.RESOURCE_EXHAUSTED, Execution.ANSWERED)
        assert await channel.unary(UNARY, b"still fine", timeout=5) == b"still fine"

    with_channel(test)


def test_an_answer_that_the_client_does_not_take_is_an_answer() -> None:
    """Whoever took it for a lost one would ask again and again."""

    async def main() -> None:
        async with serving(EchoService().table) as (_, host, port):
            channel = Channel(host, port, limits=Limits(max_recv_bytes=100_000))
            for path, order in (("/test.Echo/Zeros", b"100001"), ("/test.Echo/Pieces", b"50")):
                error = await error_of(channel.unary(path, order, timeout=10))
                assert (error.code, error.executed) == (StatusCode.RESOURCE_EXHAUSTED, Execution.ANSWERED)
                assert "exceeds the limit of 100000 bytes" in error.message
            assert await channel.unary(UNARY, b"still fine", timeout=5) == b"still fine"
            await channel.close()

    run(main())


def test_streaming_calls() -> None:
    async def test(channel: Channel, service: EchoService, server: Server) -> None:
        async with channel.stream("/test.Echo/Server", timeout=5) as call:
            await call.send(b"3")
            call.done_sending()
            assert [m async for m in call] == [b"0", b"1", b"2"]
            assert call.trailing_metadata == [("count", "3")]
        async with channel.stream("/test.Echo/Client", timeout=5) as call:
            for _ in range(100):
                await call.send(bytes(1000))
            call.done_sending()
            assert await call.__anext__() == b"100000"
        async with channel.stream("/test.Echo/Bidi", timeout=5) as call:
            for i in range(10):
                await call.send(b"%d" % i)
                assert await call.__anext__() == b"%d" % i
        async with channel.stream("/test.Echo/CrashStream", timeout=5) as call:
            assert await call.__anext__() == b"one"
            error = await error_of(call.__anext__())
            assert (error.code, error.executed) == (StatusCode.INTERNAL, Execution.ANSWERED)
            with pytest.raises(RpcError):
                await call.send(b"more")

    with_channel(test)


def test_leaving_a_stream_cancels_its_handler() -> None:
    async def test(channel: Channel, service: EchoService, server: Server) -> None:
        async with channel.stream("/test.Echo/HangStream") as call:
            assert await call.initial_metadata() == [("early", "yes")]
        await until(lambda: service.cancelled == ["hang_stream"])
        async with channel.stream("/test.Echo/HangStream", timeout=0.02) as call:
            error = await error_of(call.__anext__())
            assert (error.code, error.executed) == (StatusCode.DEADLINE_EXCEEDED, Execution.UNKNOWN)

    with_channel(test)


def test_a_passed_deadline_is_an_unknown_outcome_and_reaches_the_handler() -> None:
    async def test(channel: Channel, service: EchoService, server: Server) -> None:
        error = await error_of(channel.unary("/test.Echo/Hang", b"", timeout=0.02))
        assert (error.code, error.executed) == (StatusCode.DEADLINE_EXCEEDED, Execution.UNKNOWN)
        assert error.exit_code is ExitCode.OUTCOME_UNKNOWN
        error = await error_of(channel.unary("/test.Echo/Hang", b"", timeout=0))
        assert (error.code, error.executed) == (StatusCode.DEADLINE_EXCEEDED, Execution.NOT_EXECUTED)
        await until(lambda: service.cancelled == ["hang"])
        assert await channel.unary(UNARY, b"x", timeout=5) == b"x"

    with_channel(test)


def test_cancelling_the_caller_resets_the_call() -> None:
    async def test(channel: Channel, service: EchoService, server: Server) -> None:
        task = asyncio.create_task(channel.unary("/test.Echo/Hang", b"", timeout=30))
        await until(lambda: service.started)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: service.cancelled == ["hang"])

    with_channel(test)


def test_more_calls_than_streams_wait_their_turn() -> None:
    async def test(channel: Channel, service: EchoService, server: Server) -> None:
        replies = await asyncio.gather(*[channel.unary("/test.Echo/Async", b"%d" % i, timeout=10) for i in range(50)])
        assert replies == [b"%d" % i for i in range(50)]
        blockers = [asyncio.create_task(channel.unary("/test.Echo/Hang", b"", timeout=30)) for _ in range(3)]
        await until(lambda: service.started == 3)
        error = await error_of(channel.unary(UNARY, b"", timeout=0.05))
        assert (error.code, error.executed) == (StatusCode.DEADLINE_EXCEEDED, Execution.NOT_EXECUTED)
        for task in blockers:
            task.cancel()
        await asyncio.wait(blockers)

    with_channel(test, Limits(max_concurrent_streams=3))


def test_a_refused_connection_is_not_executed_and_fails_fast_until_the_next_attempt() -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            channel = Channel("127.0.0.1", port, options=ChannelOptions(backoff_initial_s=60, backoff_max_s=60))
            for _ in range(2):
                error = await error_of(channel.unary(UNARY, b"", timeout=5))
                assert (error.code, error.executed) == (StatusCode.UNAVAILABLE, Execution.NOT_EXECUTED)
                assert "refused" in error.message
            assert channel._failures == 1, "the second call did not try again"
            assert (await error_of(channel.connect(5))).executed is Execution.NOT_EXECUTED
            assert channel._failures == 2
            await channel.close()
            assert "closed" in (await error_of(channel.unary(UNARY, b"", timeout=5))).message

    run(main())


def test_the_channel_reconnects_after_the_server_returns() -> None:
    async def main() -> None:
        service = EchoService()
        first = Server(service.table)
        host, port = await first.start("127.0.0.1", 0)
        channel = Channel(host, port, options=ChannelOptions(backoff_initial_s=0.001, backoff_max_s=0.005))
        assert await channel.unary(UNARY, b"a", timeout=5) == b"a"
        await first.close(1)
        await until(lambda: not channel.connected)
        assert (await error_of(channel.unary(UNARY, b"", timeout=5))).executed is Execution.NOT_EXECUTED
        second = Server(service.table)
        await second.start(host, port)
        reply = b""
        while not reply:
            with contextlib.suppress(RpcError):
                reply = await channel.unary(UNARY, b"b", timeout=5)
            await asyncio.sleep(0.001)
        assert reply == b"b"
        await channel.close()
        await second.close(1)

    run(main())


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def scripted(script: Script) -> tuple[asyncio.Server, int]:
    """A peer that says exactly what a test wants, after the client's first flight."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(frames.PREFACE))
        writer.write(frames.settings_frame([]))
        try:
            await script(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def read_until(reader: asyncio.StreamReader, mark: bytes) -> None:
    seen = b""
    while mark not in seen:
        data = await reader.read(65536)
        assert data
        seen += data


@pytest.mark.parametrize(
    ("answer", "code", "executed"),
    [
        (b"", StatusCode.UNAVAILABLE, Execution.UNKNOWN),
        (frames.rst_stream_frame(1, ErrorCode.REFUSED_STREAM), StatusCode.UNAVAILABLE, Execution.NOT_EXECUTED),
        (frames.rst_stream_frame(1, ErrorCode.INTERNAL_ERROR), StatusCode.INTERNAL, Execution.UNKNOWN),
        (frames.goaway_frame(0, ErrorCode.NO_ERROR), StatusCode.UNAVAILABLE, Execution.NOT_EXECUTED),
        (frames.goaway_frame(1, ErrorCode.NO_ERROR), StatusCode.UNAVAILABLE, Execution.UNKNOWN),
        (frames.goaway_frame(1, ErrorCode.INTERNAL_ERROR), StatusCode.UNAVAILABLE, Execution.UNKNOWN),
        (frames.frame_header(3, 1, 5, 1) + b"\x8d\x8d\x8d", StatusCode.UNIMPLEMENTED, Execution.UNKNOWN),
        (frames.frame_header(1, 1, 5, 1) + b"\x88", StatusCode.UNKNOWN, Execution.UNKNOWN),
        (b"garbage" * 10, StatusCode.UNAVAILABLE, Execution.UNKNOWN),
    ],
    ids=["death", "refused", "reset", "goaway below", "goaway above", "goaway error", "404", "no status", "garbage"],
)
def test_what_a_dying_or_odd_server_leaves_known(answer: bytes, code: StatusCode, executed: Execution) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_until(reader, b"request body")
        writer.write(answer)
        await writer.drain()

    async def main() -> None:
        server, port = await scripted(script)
        channel = Channel("127.0.0.1", port)
        error = await error_of(channel.unary("/a/b", b"request body", timeout=5))
        assert (error.code, error.executed) == (code, executed)
        await channel.close()
        server.close()

    run(main())


def test_a_request_that_never_left_whole_was_not_executed() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_until(reader, b"xxxx")  # the first 64 KiB; no window is ever granted

    async def main() -> None:
        server, port = await scripted(script)
        channel = Channel("127.0.0.1", port)
        error = await error_of(channel.unary("/a/b", b"x" * 200_000, timeout=5))
        assert (error.code, error.executed) == (StatusCode.UNAVAILABLE, Execution.NOT_EXECUTED)
        await channel.close()
        server.close()

    run(main())


def test_a_silent_peer_is_noticed_by_keepalive() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass

    async def main() -> None:
        server, port = await scripted(script)
        options = ChannelOptions(keepalive_interval_s=0.02, keepalive_timeout_s=0.02)
        channel = Channel("127.0.0.1", port, options=options)
        error = await error_of(channel.unary("/a/b", b"", timeout=30))
        assert (error.code, error.executed) == (StatusCode.UNAVAILABLE, Execution.UNKNOWN)
        assert "keepalive" in error.message
        await channel.close()
        server.close()

    run(main())


def test_a_peer_that_is_no_http2_server_is_unavailable() -> None:
    async def main() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        channel = Channel("127.0.0.1", port, options=ChannelOptions(connect_timeout_s=0.05))
        error = await error_of(channel.unary("/a/b", b"", timeout=30))
        assert (error.code, error.executed) == (StatusCode.UNAVAILABLE, Execution.NOT_EXECUTED)
        await channel.close()
        server.close()

    run(main())


def test_too_many_pings_makes_the_channel_ping_less() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_until(reader, b"body")
        writer.write(frames.goaway_frame(1, ErrorCode.ENHANCE_YOUR_CALM, b"too_many_pings"))
        await writer.drain()

    async def main() -> None:
        server, port = await scripted(script)
        channel = Channel("127.0.0.1", port)
        await error_of(channel.unary("/a/b", b"body", timeout=5))
        assert channel.keepalive_factor == 2
        await channel.close()
        server.close()

    run(main())


def test_closing_the_channel_ends_calls_in_flight() -> None:
    async def test(channel: Channel, service: EchoService, server: Server) -> None:
        call = asyncio.create_task(channel.unary("/test.Echo/Hang", b"", timeout=30))
        await until(lambda: service.started)
        await channel.close()
        assert (await error_of(call)).executed is Execution.UNKNOWN

    with_channel(test)


def test_closing_the_server_lets_calls_finish_and_refuses_new_ones() -> None:
    async def main() -> None:
        service = EchoService()
        server = Server(service.table)
        host, port = await server.start("127.0.0.1", 0)
        channel = Channel(host, port)
        running = asyncio.create_task(channel.unary("/test.Echo/Keep", b"", timeout=30))
        await until(lambda: service.kept)
        closing = asyncio.create_task(server.close(20))
        await until(lambda: not channel.connected)
        error = await error_of(channel.unary(UNARY, b"", timeout=5))
        assert (error.code, error.executed) == (StatusCode.UNAVAILABLE, Execution.NOT_EXECUTED)
        assert not closing.done()
        service.kept[0].reply(b"finished")
        assert await running == b"finished"
        await closing
        assert not server.connections
        await channel.close()

    run(main())


def test_calls_that_outlive_the_grace_are_cut_off() -> None:
    async def main() -> None:
        service = EchoService()
        server = Server(service.table)
        host, port = await server.start("127.0.0.1", 0)
        channel = Channel(host, port)
        running = asyncio.create_task(channel.unary("/test.Echo/Hang", b"", timeout=30))
        await until(lambda: service.started)
        await server.close(0.01)
        error = await error_of(running)
        assert (error.code, error.executed) == (StatusCode.UNAVAILABLE, Execution.UNKNOWN)
        assert service.cancelled == ["hang"]
        await channel.close()

    run(main())


def test_garbage_on_the_port_harms_nobody_else() -> None:
    async def test(channel: Channel, service: EchoService, server: Server) -> None:
        await channel.connect(5)
        hostile = [
            bytes(1000),
            frames.PREFACE + b"\xff" * 1000,
            frames.PREFACE + frames.settings_frame([]) + frames.ping_frame(bytes(8)) * 5000,
            b"GET / HTTP/1.1\r\n\r\n",
            b"",
        ]
        for data in hostile:
            reader, writer = await asyncio.open_connection(channel.host, channel.port)
            writer.write(data)
            if data:
                assert await reader.read(), "an answer says why"
            writer.close()
            assert await channel.unary(UNARY, b"fine", timeout=5) == b"fine"
        await until(lambda: len(server.connections) == 1)

    with_channel(test)


def test_a_client_that_says_nothing_is_dropped() -> None:
    async def main() -> None:
        async with serving(EchoService().table, Limits(handshake_timeout_s=0.02)) as (server, host, port):
            reader, writer = await asyncio.open_connection(host, port)
            with contextlib.suppress(ConnectionResetError):  # as good as an orderly close
                assert await reader.read() == b""
            writer.close()
            assert not server.connections

    run(main())


def test_connections_beyond_the_limit_are_dropped() -> None:
    async def main() -> None:
        async with serving(EchoService().table, Limits(max_connections=1)) as (_, host, port):
            first, second = Channel(host, port), Channel(host, port)
            await first.connect(5)
            assert (await error_of(second.connect(5))).executed is Execution.NOT_EXECUTED
            assert await first.unary(UNARY, b"x", timeout=5) == b"x"
            await first.close()
            await second.close()

    run(main())
