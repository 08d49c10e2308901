"""Whatever arrives, a connection answers or ends: never an unhandled exception, never an internal error."""

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rpc_harness import EchoService, Wire, headers, message, request, split_frames

from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.client_connection import ClientConnection
from plasmacloud.rpc.deadlines import DeadlineWheel
from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.errors import ErrorCode
from plasmacloud.rpc.limits import CLIENT_LIMITS, ChannelOptions
from plasmacloud.rpc.request import RESPONSE_BLOCK, trailers_block
from plasmacloud.rpc.status import RpcError, StatusCode

PATHS = ["Unary", "Keep", "Fail", "Async", "Hang", "Server", "Client", "Bidi", "HangStream", "Missing"]
ids = st.sampled_from([0, 1, 2, 3, 5, 7, 9, 0x7FFFFFFF])


def raw_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return frames.frame_header(len(payload), kind, flags, stream) + payload


valid = st.one_of(
    st.builds(lambda i, p: headers(i, f"/test.Echo/{p}"), ids, st.sampled_from(PATHS)),
    st.builds(lambda i, p: headers(i, f"/test.Echo/{p}", end=True), ids, st.sampled_from(PATHS)),
    st.builds(lambda i, b, e: message(i, b, end=e), ids, st.binary(max_size=30), st.booleans()),
    st.builds(lambda i, p, b: request(i, f"/test.Echo/{p}", b), ids, st.sampled_from(PATHS), st.binary(max_size=9)),
    st.builds(frames.rst_stream_frame, ids, st.integers(0, 20)),
    st.builds(frames.window_update_frame, ids, st.integers(1, 0x7FFFFFFF)),
    st.builds(frames.settings_frame, st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2**32 - 1)), max_size=3)),
    st.builds(lambda p: frames.ping_frame(p), st.binary(min_size=8, max_size=8)),
    st.builds(frames.goaway_frame, ids, st.integers(0, 20), st.binary(max_size=5)),
)
anything = st.builds(raw_frame, st.integers(0, 12), st.integers(0, 255), ids, st.binary(max_size=40))


@st.composite
def traffic(draw: st.DrawFn) -> bytes:
    data = b"".join(draw(st.lists(st.one_of(valid, valid, valid, anything), max_size=12)))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            position = draw(st.integers(0, len(data) - 1))
            data = data[:position] + draw(st.binary(max_size=3)) + data[position + 1 :]
    return data


def check_written(written: bytes) -> None:
    for frame in split_frames(written):
        if frame.kind == frames.GOAWAY:
            assert frames.parse_goaway(frame.payload)[1] != ErrorCode.INTERNAL_ERROR, frame


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(traffic(), st.lists(st.integers(1, 60), max_size=20))
def test_a_server_connection_survives_anything(data: bytes, cuts: list[int]) -> None:
    problems: list[dict] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        service = EchoService()
        wire = Wire(service.table)
        rest = data
        for cut in [*cuts, len(rest)]:
            wire.connection.data_received(rest[:cut])
            rest = rest[cut:]
            await asyncio.sleep(0)
        for call in service.kept:
            call.reply(b"late")
        for _ in range(5):
            await asyncio.sleep(0)
        check_written(b"".join(wire.transport.writes))
        wire.lose()
        for _ in range(5):
            await asyncio.sleep(0)
        assert wire.connection.buffered_bytes == 0
        assert not wire.server._tasks, "every handler has ended with its connection"

    asyncio.run(main())
    assert problems == []


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_on_the_port(data: bytes) -> None:
    async def main() -> None:
        wire = Wire(EchoService().table, greet=False)
        wire.connection.data_received(data)
        wire.connection.data_received(data)
        wire.lose()

    asyncio.run(main())


RESPONSES = [RESPONSE_BLOCK, trailers_block(StatusCode.OK, ""), trailers_block(StatusCode.ABORTED, "x", alone=True)]
responses = st.one_of(
    st.builds(
        lambda i, b, e: frames.headers_frames(i, b, end_stream=e, max_frame_bytes=99),
        ids,
        st.sampled_from(RESPONSES),
        st.booleans(),
    ),
    valid,
    anything,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(responses, max_size=12), st.integers(0, 200), st.binary(max_size=3))
def test_a_client_connection_survives_anything(pieces: list[bytes], position: int, noise: bytes) -> None:
    problems: list[dict] = []
    data = b"".join(pieces)
    data = data[:position] + noise + data[position:]

    async def main() -> None:
        from rpc_harness import FakeTransport

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(context))
        wheel = DeadlineWheel(loop)
        connection = ClientConnection(Channel("test", 1), CLIENT_LIMITS, ChannelOptions(), wheel)
        transport = FakeTransport()
        connection.connection_made(transport)
        calls = [connection.start_unary(b"\x83", bytes(5), loop.time() + 60) for _ in range(2)]
        stream = connection.start_stream(b"\x83", None)
        connection.data_received(data)
        await asyncio.sleep(0)
        check_written(b"".join(transport.writes).removeprefix(frames.PREFACE))
        connection.connection_lost(None)
        for call in calls:
            assert call.future.done(), "every call has an end"
            error = call.future.exception()
            assert error is None or isinstance(error, RpcError)
        assert stream.finished
        assert not connection.streams
        assert connection.buffered_bytes == 0
        if connection.established.done():
            connection.established.exception()
        wheel.close()

    asyncio.run(main())
    assert problems == []
