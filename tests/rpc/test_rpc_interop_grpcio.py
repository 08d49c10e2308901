"""Interoperation with grpcio: its sync and asyncio clients on our server, our client on its server."""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio
import pytest
from rpc_harness import EchoService, run, serving, until

from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.status import Execution, RpcError, StatusCode

OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


def sync_session(port: int, service: EchoService) -> None:
    """Runs in a thread, as a blocking grpcio user would."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        unary = channel.unary_unary("/test.Echo/Unary")
        for size in (0, 1, 1000, 16_379, 16_380, 100_000, 2_000_000):
            assert unary(bytes(size), timeout=10) == bytes(size)
        with pytest.raises(grpc.RpcError) as caught:
            unary(bytes(3 << 20), timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.Echo/Fail")(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.details() == "no: ä%\n"
        assert ("why-bin", b"\x00\xff") in [tuple(m) for m in caught.value.trailing_metadata()]
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.Echo/Hang")(b"", timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.Missing/Unary")(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        sent = (("key", "value"), ("raw-bin", b"\x00\x01\xff"))
        _, call = channel.unary_unary("/test.Echo/Metadata").with_call(b"", timeout=10, metadata=sent)
        assert set(sent) <= set(service.metadata)
        assert any(key == "seen" for key, _ in call.trailing_metadata())
        packed = channel.unary_unary("/test.Echo/Unary")(
            b"zip me" * 1000, timeout=10, compression=grpc.Compression.Gzip
        )
        assert packed == b"zip me" * 1000
        assert list(channel.unary_stream("/test.Echo/Server")(b"5", timeout=10)) == [b"%d" % i for i in range(5)]
        parts = (bytes(10_000) for _ in range(50))
        assert channel.stream_unary("/test.Echo/Client")(parts, timeout=10) == b"500000"
        bodies = [b"%d" % i for i in range(20)]
        assert list(channel.stream_stream("/test.Echo/Bidi")(iter(bodies), timeout=10)) == bodies


def test_the_sync_client() -> None:
    async def main() -> None:
        service = EchoService()
        async with serving(service.table) as (_, _, port):
            await asyncio.to_thread(sync_session, port, service)
            await until(lambda: service.cancelled == ["hang"])

    run(main())


def test_the_sync_client_from_many_threads() -> None:
    async def main() -> None:
        async with serving(EchoService().table) as (_, _, port):

            def work(i: int) -> bytes:
                return unary(b"%d" % i, timeout=20)

            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, ThreadPoolExecutor(16) as pool:
                unary = channel.unary_unary("/test.Echo/Unary")
                loop = asyncio.get_running_loop()
                replies = await asyncio.gather(*[loop.run_in_executor(pool, work, i) for i in range(400)])
                assert replies == [b"%d" % i for i in range(400)]

    run(main())


@pytest.mark.parametrize(("method", "units", "unit"), [("Zeros", 150_000_000, 1), ("Pieces", 15_000, 10_000)])
def test_an_answer_that_is_much_larger_than_what_may_wait(method: str, units: int, unit: int) -> None:
    """All keys of a large store are one message. Other calls on the same connection go on beside it."""
    path, order, size = f"/test.Echo/{method}", b"%d" % units, units * unit

    def session(port: int) -> None:
        options = [("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            large = channel.unary_unary(path).future(order, timeout=30, compression=grpc.Compression.Gzip)
            small = channel.unary_unary("/test.Echo/Unary")
            while not large.done():
                assert small(b"beside it", timeout=30) == b"beside it"
            assert len(large.result()) == size
            assert len(channel.unary_unary("/test.Echo/Pieces")(b"3", timeout=30)) == 30_000

    async def main() -> None:
        async with serving(EchoService().table) as (server, _, port):
            assert size > 4 * server.limits.max_queued_bytes
            await asyncio.to_thread(session, port)
            channel = Channel("127.0.0.1", port)
            assert len(await channel.unary(path, order, timeout=30)) == size
            await channel.close()

    run(main(), seconds=90)


def test_the_asyncio_client() -> None:
    async def main() -> None:
        service = EchoService()
        async with contextlib.AsyncExitStack() as stack:
            _, _, port = await stack.enter_async_context(serving(service.table))
            address = f"127.0.0.1:{port}"
            async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
                unary = channel.unary_unary("/test.Echo/Unary")
                bodies = [b"%d" % i for i in range(300)]
                assert await asyncio.gather(*[unary(b, timeout=20) for b in bodies]) == bodies
                bidi = channel.stream_stream("/test.Echo/Bidi")(timeout=20)
                for body in (b"", b"x", bytes(300_000)):
                    await bidi.write(body)
                    assert await bidi.read() == body
                await bidi.done_writing()
                assert await bidi.read() is grpc.aio.EOF
                assert await bidi.code() is grpc.StatusCode.OK
                hanging = channel.stream_stream("/test.Echo/HangStream")()
                assert ("early", "yes") in [tuple(m) for m in await hanging.initial_metadata()]
                hanging.cancel()
                await until(lambda: service.cancelled == ["hang_stream"])
                crash = channel.unary_stream("/test.Echo/CrashStream")(b"", timeout=20)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    _ = [m async for m in crash]
                assert caught.value.code() is grpc.StatusCode.INTERNAL
                flood = channel.stream_stream("/test.Echo/Flood")(timeout=20)
                for _ in range(3000):  # through many windows
                    assert len(await flood.read()) == 1000
                flood.cancel()

    asyncio.run(main())


class GrpcioEcho(grpc.GenericRpcHandler):
    """The other side's server, with the same calls."""

    hanging = 0

    def service(self, details):
        return {
            "/test.Echo/Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "/test.Echo/Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "/test.Echo/Hang": grpc.unary_unary_rpc_method_handler(self.hang),
            "/test.Echo/Bidi": grpc.stream_stream_rpc_method_handler(self.bidi),
            "/test.Echo/Metadata": grpc.unary_unary_rpc_method_handler(self.metadata),
        }.get(details.method)

    async def unary(self, body, context):
        return body

    async def fail(self, body, context):
        context.set_trailing_metadata((("why-bin", b"\x00\xff"),))
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no: ä%\n")

    async def hang(self, body, context):
        self.hanging += 1
        await asyncio.Event().wait()

    async def metadata(self, body, context):
        return repr(sorted(tuple(m) for m in context.invocation_metadata() if m[0] in ("key", "raw-bin"))).encode()

    async def bidi(self, bodies, context):
        async for body in bodies:
            yield body


@contextlib.asynccontextmanager
async def grpcio_server(**kwargs):
    server = grpc.aio.server(options=OPTIONS, **kwargs)
    server.echo = GrpcioEcho()
    server.add_generic_rpc_handlers((server.echo,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield server, port
    finally:
        await server.stop(0)


def test_our_client_on_their_server() -> None:
    async def main() -> None:
        async with grpcio_server() as (_, port):
            channel = Channel("127.0.0.1", port)
            for size in (0, 1, 16_379, 16_380, 100_000, 10_000_000):
                assert await channel.unary("/test.Echo/Unary", bytes(size), timeout=20) == bytes(size)
            bodies = [b"%d" % i for i in range(200)]
            replies = await asyncio.gather(*[channel.unary("/test.Echo/Unary", b, timeout=20) for b in bodies])
            assert replies == bodies
            sent = [("key", "value"), ("raw-bin", b"\x00\x01\xff")]
            reply = await channel.unary("/test.Echo/Metadata", b"", timeout=20, metadata=sent)
            assert reply == repr(sorted(sent)).encode()
            for path, timeout, code, executed in (
                ("/test.Echo/Fail", 20, StatusCode.FAILED_PRECONDITION, Execution.ANSWERED),
                ("/test.Echo/Missing", 20, StatusCode.UNIMPLEMENTED, Execution.ANSWERED),
                ("/test.Echo/Hang", 0.1, StatusCode.DEADLINE_EXCEEDED, None),
            ):
                with pytest.raises(RpcError) as caught:
                    await channel.unary(path, b"", timeout=timeout)
                assert caught.value.code is code
                # Both sides watch the deadline; whose answer comes first decides what is known.
                assert caught.value.executed in ((executed,) if executed else (Execution.UNKNOWN, Execution.ANSWERED))
            async with channel.stream("/test.Echo/Bidi", timeout=20) as call:
                for size in (0, 5, 200_000):
                    await call.send(bytes(size))
                    assert await call.__anext__() == bytes(size)
                call.done_sending()
                assert [m async for m in call] == []
            await channel.close()

    asyncio.run(main())


def test_their_server_dies_during_a_call() -> None:
    async def main() -> None:
        async with grpcio_server() as (server, port):
            channel = Channel("127.0.0.1", port)
            await channel.unary("/test.Echo/Unary", b"", timeout=20)
            call = asyncio.create_task(channel.unary("/test.Echo/Hang", b"", timeout=20))
            await until(lambda: server.echo.hanging == 1)
            await server.stop(0)
            with pytest.raises(RpcError) as caught:
                await call
            assert caught.value.executed in (Execution.UNKNOWN, Execution.ANSWERED)
            await channel.close()

    asyncio.run(main())
