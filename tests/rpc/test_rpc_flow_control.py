"""Flow control: tiny windows in both directions, fairness between streams, batched updates, backpressure."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpc_harness import EchoService, Wire, headers, message, request, run, serving, until

from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.errors import ConnectionFault, ErrorCode, StreamFault
from plasmacloud.rpc.h2.flow import ReceiveWindow
from plasmacloud.rpc.h2.frames import DATA, END_STREAM, RST_STREAM, WINDOW_UPDATE
from plasmacloud.rpc.limits import Limits

TINY = Limits(stream_window_bytes=100, connection_window_bytes=1)


@given(st.integers(1, 1000), st.lists(st.integers(1, 1000)), st.randoms())
def test_a_sender_that_obeys_is_never_stalled_by_a_reader_that_releases(size, wishes, random) -> None:
    window = ReceiveWindow(1, size)
    credit, held = size, 0
    for wish in wishes:
        sent = min(wish, credit)
        window.received(sent)
        credit -= sent
        held += sent
        released = random.randint(0, held)
        window.release(released)
        held -= released
        credit += window.take_update()
        if held == 0:
            assert credit * 2 > size, "nothing is held, so at least half of the window must be open"
        assert 0 <= credit <= size


def test_overrunning_a_window_is_the_right_fault() -> None:
    with pytest.raises(StreamFault) as stream_fault:
        ReceiveWindow(3, 10).received(11)
    assert stream_fault.value.code is ErrorCode.FLOW_CONTROL_ERROR
    with pytest.raises(ConnectionFault):
        ReceiveWindow(0, 10).received(11)


def test_replies_wait_for_stream_and_connection_windows_and_take_turns() -> None:
    async def main() -> None:
        service = EchoService()
        wire = Wire(service.table)
        wire.send(frames.settings_frame([(4, 10)]))  # streams start with 10 bytes
        found = wire.send(request(1, "/test.Echo/Unary", bytes(20)), request(3, "/test.Echo/Unary", bytes(20)))
        assert [(f.stream, len(f.payload)) for f in found if f.kind == DATA] == [(1, 10), (3, 10)]
        found = wire.send(frames.window_update_frame(3, 100))
        assert [(f.stream, len(f.payload), f.flags) for f in found] == [(3, 15, 0), (3, 15, END_STREAM | 4)]
        wire.send(frames.settings_frame([(4, 4)]))  # shrinks stream 1 below zero
        assert wire.send(frames.window_update_frame(1, 6)) == []
        assert [len(f.payload) for f in wire.send(frames.window_update_frame(1, 1))] == [1]
        found = wire.send(frames.settings_frame([(4, 1000)]))
        assert [f.flags & END_STREAM for f in found if f.stream] == [0, END_STREAM]
        assert not wire.connection.streams
        wire.lose()

    run(main())


def test_large_answers_take_turns_frame_by_frame() -> None:
    async def main() -> None:
        service = EchoService()
        wire = Wire(service.table)
        wire.send(frames.settings_frame([(4, 1 << 20)]), frames.window_update_frame(0, 1 << 20))
        body = bytes(60_000)
        wire.send(*[request(s, "/test.Echo/Keep", b"") for s in (1, 3, 5)])
        for call in service.kept:
            call.reply(body)
        found = await wire.settle()
        order = [f.stream for f in found if f.kind == DATA]
        assert order[:9] == [1, 3, 5] * 3
        assert sum(len(f.payload) for f in found if f.kind == DATA) == 3 * 60_005
        wire.lose()

    run(main())


def test_an_exhausted_connection_window_blocks_all_until_credited() -> None:
    async def main() -> None:
        service = EchoService()
        wire = Wire(service.table)
        wire.send(frames.settings_frame([(4, 1 << 20)]))
        wire.send(*[request(s, "/test.Echo/Keep", b"") for s in (1, 3)])
        service.kept[0].reply(bytes(70_000))
        found = await wire.settle()
        assert sum(len(f.payload) for f in found if f.kind == DATA) == 65_535
        service.kept[1].reply(b"small")
        assert [f for f in await wire.settle() if f.kind == DATA] == []
        found = wire.send(frames.window_update_frame(0, 10_000)) + await wire.settle()
        assert {f.stream for f in found if f.flags & END_STREAM} == {1, 3}
        wire.lose()

    run(main())


def test_a_reset_frees_what_waited() -> None:
    async def main() -> None:
        service = EchoService()
        wire = Wire(service.table)
        wire.send(frames.settings_frame([(4, 0)]))
        wire.send(request(1, "/test.Echo/Unary", b"x"), frames.rst_stream_frame(1, 8))
        wire.send(frames.window_update_frame(0, 10_000))
        assert [f for f in await wire.settle() if f.kind == DATA] == []
        assert not wire.connection.streams
        wire.lose()

    run(main())


def test_connection_credit_is_batched() -> None:
    async def main() -> None:
        service = EchoService()
        wire = Wire(service.table, Limits(connection_window_bytes=65_535))
        updates = []
        for i in range(60):
            found = wire.send(request(2 * i + 1, "/test.Echo/Unary", bytes(10_000)))
            updates += [int.from_bytes(f.payload, "big") for f in found if f.kind == WINDOW_UPDATE]
            wire.send(frames.window_update_frame(0, 10_005))
        assert len(updates) == 15
        assert all(u * 2 >= 65_535 for u in updates)
        wire.lose()

    run(main())


def test_a_peer_that_overruns_a_stream_window_loses_the_stream() -> None:
    async def main() -> None:
        service = EchoService()
        wire = Wire(service.table, TINY)
        wire.connection.data_received(frames.SETTINGS_ACK)
        wire.send(headers(1, "/test.Echo/HangStream"))
        found = wire.send(message(1, bytes(200), end=False))
        assert [f.payload for f in found if f.kind == RST_STREAM] == [b"\0\0\0\x03"]
        wire.lose()
        await asyncio.sleep(0)

    run(main())


@pytest.mark.parametrize("size", [0, 1, 94, 95, 96, 1000, 70_000])
def test_calls_work_through_tiny_windows_both_ways(size: int) -> None:
    async def main() -> None:
        service = EchoService()
        async with serving(service.table, TINY) as (_, host, port):
            channel = Channel(host, port, limits=TINY)
            body = bytes(size)
            assert (
                await asyncio.gather(*[channel.unary("/test.Echo/Unary", body, timeout=20) for _ in range(3)])
                == [body] * 3
            )
            async with channel.stream("/test.Echo/Bidi", timeout=20) as call:

                async def send_all() -> None:
                    for _ in range(5):
                        await call.send(body)
                    call.done_sending()

                async def read_all() -> list[bytes]:
                    return [m async for m in call]

                assert (await asyncio.gather(send_all(), read_all()))[1] == [body] * 5
            await channel.close()

    run(main())


def test_a_slow_reader_stops_the_sender_and_the_others_go_on() -> None:
    async def main() -> None:
        service = EchoService()
        limits = Limits(stream_window_bytes=20_000, send_buffer_bytes=5000)
        async with serving(service.table, limits) as (_, host, port):
            channel = Channel(host, port, limits=limits)
            async with channel.stream("/test.Echo/Flood") as call:
                await call.send(b"start")
                await until(lambda: service.started >= 20)
                stuck_at = -1
                while stuck_at != service.started:  # stands still over several answered calls
                    stuck_at = service.started
                    for _ in range(20):
                        await channel.unary("/test.Echo/Unary", b"x", timeout=5)
                assert 20 <= stuck_at <= 30
                for _ in range(100):
                    assert len(await call.__anext__()) == 1000
                await until(lambda: service.started > stuck_at + 50)
            await channel.close()

    run(main())


def test_a_slow_server_stops_a_sending_client() -> None:
    async def main() -> None:
        service = EchoService()
        limits = Limits(stream_window_bytes=20_000, send_buffer_bytes=5000)
        async with serving(service.table, limits) as (_, host, port):
            channel = Channel(host, port, limits=limits)
            async with channel.stream("/test.Echo/HangStream") as call:
                assert await call.initial_metadata() == [("early", "yes")]
                sent = 0

                async def send_all() -> None:
                    nonlocal sent
                    while True:
                        await call.send(bytes(1000))
                        sent += 1

                sending = asyncio.create_task(send_all())
                stuck_at = -1
                while stuck_at != sent:  # stands still over several answered calls
                    stuck_at = sent
                    for _ in range(20):
                        await channel.unary("/test.Echo/Unary", b"x", timeout=5)
                assert 20 <= stuck_at <= 30
                sending.cancel()
            await until(lambda: service.cancelled == ["hang_stream"])
            await channel.close()

    run(main())


def test_a_full_transport_holds_data_back_and_stops_reading() -> None:
    async def main() -> None:
        service = EchoService()
        wire = Wire(service.table)
        wire.connection.pause_writing()
        assert not wire.transport.reading
        wire.send(request(1, "/test.Echo/Keep", b""))
        service.kept[0].reply(bytes(20_000))
        assert [f for f in await wire.settle() if f.kind == DATA] == []
        wire.connection.resume_writing()
        assert wire.transport.reading
        assert sum(len(f.payload) for f in await wire.settle() if f.kind == DATA) == 20_005
        wire.lose()

    run(main())
