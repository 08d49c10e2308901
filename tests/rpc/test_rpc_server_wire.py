"""The server frame by frame, without a socket: what it answers, what it refuses, and with which code."""

import asyncio
import gzip

import pytest
from rpc_harness import (
    EchoService,
    Frame,
    Wire,
    headers,
    kinds,
    message,
    on_wire,
    request,
    request_block,
    status,
    until,
)

from plasmacloud.rpc.grpc_framing import encode_message
from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.errors import ErrorCode
from plasmacloud.rpc.h2.frames import DATA, END_STREAM, HEADERS
from plasmacloud.rpc.status import StatusCode

UNARY = "/test.Echo/Unary"


def test_a_unary_reply_byte_for_byte() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        found = wire.send(request(1, UNARY, b"hi"))
        block = bytes.fromhex("88 0f10 10") + b"application/grpc"
        trailers = b"\x00\x0bgrpc-status\x010"
        assert found == [
            Frame(HEADERS, frames.END_HEADERS, 1, block),
            Frame(DATA, 0, 1, b"\0\0\0\0\x02hi"),
            Frame(HEADERS, frames.END_HEADERS | END_STREAM, 1, trailers),
        ]
        assert not wire.connection.streams

    on_wire(test)


def test_replies_of_one_read_leave_in_one_write_and_after_the_batch_end() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        batches: list[int] = []
        wire.connection._batch_end = lambda: batches.append(len(wire.connection.out))
        wire.connection.data_received(b"".join(request(i, UNARY, b"x") for i in range(1, 21, 2)))
        assert len(wire.transport.writes) == 1
        assert batches == [30]
        assert len(wire.taken()) == 30

    on_wire(test)


def test_late_replies_of_one_loop_iteration_leave_in_one_write() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        wire.send(*[request(i, "/test.Echo/Keep", b"x") for i in (1, 3, 5)])
        for call in service.kept:
            call.reply(b"late")
        assert wire.transport.writes == []
        await asyncio.sleep(0)
        assert len(wire.transport.writes) == 1
        assert len(wire.taken()) == 9

    on_wire(test)


def test_headers_first_then_all_bodies() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        assert wire.send(headers(1, UNARY), headers(3, UNARY)) == []
        found = wire.send(message(3, b"b"), message(1, b"a"))
        assert [f.payload for f in found if f.kind == DATA] == [encode_message(b"b"), encode_message(b"a")]

    on_wire(test)


@pytest.mark.parametrize("cut", [1, 7, 9, 10, 50])
def test_any_cut_of_the_bytes_gives_the_same_answer(cut: int) -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        data = request(1, UNARY, b"one") + request(3, UNARY, b"two")
        found = []
        for i in range(0, len(data), cut):
            found += wire.send(data[i : i + cut])
        assert [f.payload[5:] for f in found if f.kind == DATA] == [b"one", b"two"]

    on_wire(test)


def test_fragmented_padded_prioritised_and_continued_requests() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        block = request_block(UNARY)
        split = frames.headers_frames(1, block, end_stream=False, max_frame_bytes=10)
        body = encode_message(b"hello")
        padded = frames.frame_header(len(body) + 4, DATA, frames.PADDED | END_STREAM, 1) + b"\x03" + body + b"\0\0\0"
        assert [f.payload for f in wire.send(split, padded) if f.kind == DATA] == [body]
        flags = frames.END_HEADERS | frames.PRIORITIZED
        prioritised = frames.frame_header(len(block) + 5, HEADERS, flags, 3) + b"\0\0\0\0\x10" + block
        pieces = [frames.data_frame(3, body[i : i + 2]) for i in range(0, len(body), 2)]
        ending = frames.data_frame(3, b"", end_stream=True)
        assert [f.payload for f in wire.send(prioritised, *pieces, ending) if f.kind == DATA] == [body]
        trailers = frames.headers_frames(5, b"\x00\x01a\x01b", end_stream=True, max_frame_bytes=100)
        found = wire.send(headers(5, UNARY), message(5, b"t", end=False), trailers)
        assert [f.payload[5:] for f in found if f.kind == DATA] == [b"t"]

    on_wire(test)


def test_the_block_cache_follows_the_dynamic_table() -> None:
    def indexed_path(stream: int, block: bytes) -> bytes:
        return frames.headers_frames(stream, block, end_stream=False, max_frame_bytes=1000) + message(stream, b"x")

    def inserting(path: bytes) -> bytes:
        return b"\x83\x86\x44" + bytes((len(path),)) + path + bytes.fromhex("0f1010") + b"application/grpc"

    using = b"\x83\x86\xbe" + bytes.fromhex("0f1010") + b"application/grpc"  # :path is the newest entry

    async def test(wire: Wire, service: EchoService) -> None:
        wire.send(indexed_path(1, inserting(b"/test.Echo/Unary")))
        for stream in (3, 5, 7):
            assert status(wire, wire.send(indexed_path(stream, using)), stream) is StatusCode.OK
        assert using in wire.connection._heads
        wire.send(indexed_path(9, inserting(b"/test.Echo/Fail")))
        assert using not in wire.connection._heads
        assert status(wire, wire.send(indexed_path(11, using)), 11) is StatusCode.FAILED_PRECONDITION

    on_wire(test)


def test_failures_of_handlers_are_statuses_and_the_connection_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        found = wire.send(request(1, "/test.Echo/Crash", b""), request(3, "/test.Echo/Fail", b""))
        crash, fail = [wire.fields(f) for f in found if f.kind == HEADERS]
        assert crash["grpc-status"] == "13"
        assert "secret" not in crash["grpc-message"]
        assert fail["grpc-message"] == "no: %C3%A4%25%0A"
        assert fail["why-bin"] == "AP8"
        assert status(wire, wire.send(request(5, UNARY, b"x")), 5) is StatusCode.OK

    on_wire(test)
    assert "secret detail" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (request_block("/nope"), {"grpc-status": "12"}),
        (request_block(UNARY, content_type=b"text/html"), {":status": "415"}),
        (request_block(UNARY, content_type=b"application/grpcx"), {":status": "415"}),
        (b"\x82" + request_block(UNARY)[1:], {":status": "405"}),
        (request_block(UNARY, (b"grpc-timeout", b"soon")), {"grpc-status": "13"}),
        (request_block(UNARY, (b"big", b"x" * 20_000)), {"grpc-status": "8"}),
    ],
    ids=["unknown method", "html", "not quite grpc", "GET", "bad timeout", "large headers"],
)
def test_requests_refused_by_their_headers(block: bytes, expected: dict[str, str]) -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        data = frames.headers_frames(1, block, end_stream=False, max_frame_bytes=16_384)
        found = wire.send(data)
        assert kinds(found) == [(HEADERS, 1)]
        assert found[0].flags & END_STREAM
        assert wire.send(frames.data_frame(1, bytes(10_000)), message(1, b"ignored")) == []
        assert not wire.connection.streams
        assert wire.fields(found[0]).items() >= expected.items()
        assert status(wire, wire.send(request(3, UNARY, b"x")), 3) is StatusCode.OK

    on_wire(test)


@pytest.mark.parametrize("suffix", [b"+proto", b";charset=utf-8"])
def test_grpc_content_types(suffix: bytes) -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        data = headers(1, UNARY, content_type=b"application/grpc" + suffix) + message(1, b"")
        assert status(wire, wire.send(data), 1) is StatusCode.OK

    on_wire(test)


def test_compressed_requests() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        packed = gzip.compress(b"plain" * 10)
        body = b"\x01" + len(packed).to_bytes(4, "big") + packed
        for stream, encoding, code in ((1, b"gzip", StatusCode.OK), (3, b"br", StatusCode.UNIMPLEMENTED)):
            data = headers(stream, UNARY, (b"grpc-encoding", encoding)) + frames.data_frame(
                stream, body, end_stream=True
            )
            found = wire.send(data)
            ends = [wire.fields(f) for f in found if f.kind == HEADERS]
            assert ends[-1]["grpc-status"] == str(int(code))
            if code is StatusCode.OK:
                assert [f.payload[5:] for f in found if f.kind == DATA] == [b"plain" * 10]
            else:
                assert ends[-1]["grpc-accept-encoding"] == "identity,deflate,gzip"

    on_wire(test)


@pytest.mark.parametrize(
    "data",
    [
        headers(1, UNARY, end=True),
        headers(1, UNARY) + frames.data_frame(1, b"", end_stream=True),
        headers(1, UNARY) + frames.data_frame(1, b"\0\0\0\0\x05ab", end_stream=True),
        headers(1, UNARY) + frames.data_frame(1, encode_message(b"a") * 2, end_stream=True),
    ],
    ids=["no body", "empty body", "half a message", "two messages"],
)
def test_a_unary_call_needs_exactly_one_message(data: bytes) -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        assert status(wire, wire.send(data), 1) is StatusCode.INTERNAL

    on_wire(test)


def test_the_preface_may_arrive_byte_by_byte() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        for byte in frames.PREFACE + frames.settings_frame([]):
            wire.connection.data_received(bytes((byte,)))
        first, *_ = await wire.settle()
        assert first.kind == frames.SETTINGS

    on_wire(test, greet=False)


def test_resets_and_deadlines_cancel_handlers_and_later_replies_are_ignored() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        wire.send(request(1, "/test.Echo/Keep", b""), request(3, "/test.Echo/Hang", b""))
        await wire.settle()
        wire.send(frames.rst_stream_frame(1, ErrorCode.CANCEL), frames.rst_stream_frame(3, ErrorCode.CANCEL))
        await wire.settle()
        assert sorted(service.cancelled) == ["hang", "keep"]
        assert service.kept[0].done
        service.kept[0].reply(b"too late")
        service.kept[0].fail(StatusCode.ABORTED, "too late")
        assert await wire.settle() == []
        wire.send(request(5, "/test.Echo/Keep", b"", (b"grpc-timeout", b"1m")))
        assert service.kept[1].deadline is not None
        async with asyncio.timeout(5):
            while not (found := wire.taken()):
                await asyncio.sleep(0.001)
        assert status(wire, found, 5) is StatusCode.DEADLINE_EXCEEDED
        assert service.kept[1].done

    on_wire(test)


def test_an_owed_table_size_update_leads_the_next_block() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        wire.send(frames.settings_frame([(1, 0)]))
        wire.decoder.max_allowed_table_size = 0  # the reference decoder insists on the update
        found = wire.send(request(1, UNARY, b"x"), request(3, UNARY, b"y"))
        blocks = [f.payload for f in found if f.kind == HEADERS]
        assert [b[:1] == b"\x20" for b in blocks] == [True, False, False, False]
        for frame in found:
            if frame.kind == HEADERS:
                wire.fields(frame)

    on_wire(test)


def test_a_stream_past_its_deadline_ends_with_a_status_and_its_handler_is_cancelled() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        wire.send(headers(1, "/test.Echo/HangStream", (b"grpc-timeout", b"20m")), message(1, b"x"))
        await until(lambda: service.cancelled == ["hang_stream"])
        assert status(wire, await wire.settle(), 1) is StatusCode.DEADLINE_EXCEEDED
        assert not wire.connection.streams

    on_wire(test)
