"""The server frame by frame, without a socket: what it answers, what it refuses, and with which code."""

import asyncio
import gzip
import os

import pytest
from rpc_harness import EchoService, Frame, Wire, headers, kinds, message, request, request_block, run

from plasmacloud.rpc.grpc_framing import encode_message
from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.errors import ErrorCode
from plasmacloud.rpc.h2.frames import DATA, END_STREAM, GOAWAY, HEADERS, RST_STREAM, WINDOW_UPDATE
from plasmacloud.rpc.limits import Limits
from plasmacloud.rpc.status import StatusCode

UNARY = "/test.Echo/Unary"


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


def goaway_code(found: list[Frame]) -> ErrorCode | None:
    for frame in found:
        if frame.kind == GOAWAY:
            return ErrorCode(frames.parse_goaway(frame.payload)[1])
    return None


def status(wire: Wire, found: list[Frame], stream: int) -> StatusCode:
    ends = [f for f in found if f.kind == HEADERS and f.stream == stream and f.flags & END_STREAM]
    assert len(ends) == 1, found
    return StatusCode(int(wire.fields(ends[0])["grpc-status"]))


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


@pytest.mark.parametrize(
    "fields",
    [b"\x83\x86", b"\x83\x83\x86\x84", b"\x83\x86\x84\x00\x0aconnection\x01x", b"\x83\x86\x84\x00\x01A\x01x"],
    ids=["no path", "two methods", "connection header", "upper case"],
)
def test_malformed_requests_reset_their_stream_only(fields: bytes) -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        found = wire.send(frames.headers_frames(1, fields, end_stream=True, max_frame_bytes=1000))
        assert found == [Frame(RST_STREAM, 0, 1, b"\0\0\0\x01")]
        assert status(wire, wire.send(request(3, UNARY, b"x")), 3) is StatusCode.OK

    on_wire(test)


def test_messages_too_large_are_refused_before_they_are_buffered() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        found = wire.send(headers(1, UNARY), frames.data_frame(1, b"\0\0\0\x10\0"))
        assert status(wire, found, 1) is StatusCode.RESOURCE_EXHAUSTED
        assert wire.connection.buffered_bytes == 0
        exact = request(3, UNARY, bytes(1000))
        assert status(wire, wire.send(exact), 3) is StatusCode.OK
        assert status(wire, wire.send(request(5, UNARY, bytes(1001))), 5) is StatusCode.RESOURCE_EXHAUSTED

    on_wire(test, Limits(max_recv_bytes=1000))


def test_partial_messages_of_one_connection_share_a_memory_limit() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        prefix = b"\0" + (9000).to_bytes(4, "big")
        for stream in (1, 3):
            assert wire.send(headers(stream, UNARY), frames.data_frame(stream, prefix + bytes(4000))) == []
        found = wire.send(headers(5, UNARY), frames.data_frame(5, prefix + bytes(4000)))
        assert status(wire, found, 5) is StatusCode.RESOURCE_EXHAUSTED
        assert status(wire, wire.send(frames.data_frame(1, bytes(5000), end_stream=True)), 1) is StatusCode.OK
        wire.send(frames.rst_stream_frame(3, ErrorCode.CANCEL))
        assert wire.connection.buffered_bytes == 0

    on_wire(test, Limits(max_buffered_bytes=10_000))


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
                assert ends[-1]["grpc-accept-encoding"] == "identity,gzip"

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


CONTINUED = frames.frame_header(3, HEADERS, 0, 1) + b"\x83\x86\x84"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frames.data_frame(0, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frames.data_frame(1, b"x"), ErrorCode.PROTOCOL_ERROR),
        (headers(2, UNARY), ErrorCode.PROTOCOL_ERROR),
        (headers(0, UNARY), ErrorCode.PROTOCOL_ERROR),
        (request(3, UNARY, b"") + headers(1, UNARY), ErrorCode.STREAM_CLOSED),
        (request(1, UNARY, b"") + headers(1, UNARY), ErrorCode.STREAM_CLOSED),
        (headers(1, UNARY) + headers(1, UNARY), ErrorCode.PROTOCOL_ERROR),
        (frames.headers_frames(1, b"\xff\xff", end_stream=True, max_frame_bytes=9), ErrorCode.COMPRESSION_ERROR),
        (CONTINUED + frames.ping_frame(bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (CONTINUED + frames.frame_header(0, frames.CONTINUATION, 4, 3), ErrorCode.PROTOCOL_ERROR),
        (frames.frame_header(0, frames.CONTINUATION, 4, 1), ErrorCode.PROTOCOL_ERROR),
        (frames.frame_header(16_385, DATA, 0, 1), ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame_header(7, frames.PING, 0, 0) + bytes(7), ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame_header(8, frames.PING, 0, 1) + bytes(8), ErrorCode.PROTOCOL_ERROR),
        (frames.frame_header(5, frames.SETTINGS, 0, 0) + bytes(5), ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame_header(0, frames.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (frames.frame_header(6, frames.SETTINGS, 1, 0) + bytes(6), ErrorCode.FRAME_SIZE_ERROR),
        (frames.settings_frame([(4, 1 << 31)]), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.rst_stream_frame(1, 8), ErrorCode.PROTOCOL_ERROR),
        (frames.rst_stream_frame(0, 8), ErrorCode.PROTOCOL_ERROR),
        (frames.window_update_frame(0, 0x7FFFFFFF), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.frame_header(4, WINDOW_UPDATE, 0, 0) + bytes(4), ErrorCode.PROTOCOL_ERROR),
        (frames.window_update_frame(1, 5), ErrorCode.PROTOCOL_ERROR),
        (frames.frame_header(4, frames.PUSH_PROMISE, 4, 1) + bytes(4), ErrorCode.PROTOCOL_ERROR),
        (frames.frame_header(5, frames.PRIORITY, 0, 0) + bytes(5), ErrorCode.PROTOCOL_ERROR),
        (frames.goaway_frame(0, 0)[:-1].replace(b"\x08\x07", b"\x07\x07"), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_protocol_faults_end_the_connection_with_their_code(data: bytes, code: ErrorCode) -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        found = wire.send(data)
        assert goaway_code(found) is code
        assert wire.transport.eof
        assert wire.send(request(101, UNARY, b"x")) == [], "nothing is served after a fault"

    on_wire(test)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (request(1, "/test.Echo/Keep", b"") + frames.data_frame(1, b"x"), ErrorCode.STREAM_CLOSED),
        (headers(1, UNARY) + frames.window_update_frame(1, 0x7FFFFFFF), ErrorCode.FLOW_CONTROL_ERROR),
        (headers(1, UNARY) + frames.frame_header(4, WINDOW_UPDATE, 0, 1) + bytes(4), ErrorCode.PROTOCOL_ERROR),
        (headers(1, UNARY) + frames.frame_header(4, frames.PRIORITY, 0, 1) + bytes(4), ErrorCode.FRAME_SIZE_ERROR),
        (request(1, UNARY, b"") + frames.data_frame(1, b"x"), ErrorCode.STREAM_CLOSED),
    ],
)
def test_stream_faults_reset_the_stream_and_spare_the_others(data: bytes, code: ErrorCode) -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        found = wire.send(data)
        assert Frame(RST_STREAM, 0, 1, int(code).to_bytes(4, "big")) in found
        assert status(wire, wire.send(request(3, UNARY, b"x")), 3) is StatusCode.OK

    on_wire(test)


def test_frames_crossing_our_reset_and_unknown_ones_are_ignored() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        wire.send(headers(1, UNARY), frames.window_update_frame(1, 0x7FFFFFFF))
        assert wire.send(frames.data_frame(1, b"late"), frames.rst_stream_frame(1, 8)) == []
        assert (
            wire.send(
                frames.data_frame(1, b"late"), frames.headers_frames(1, b"\x83", end_stream=True, max_frame_bytes=9)
            )
            == []
        )
        assert wire.send(frames.frame_header(3, 0x77, 0xFF, 9) + b"abc") == []
        assert wire.send(frames.ping_frame(b"12345678")) == [Frame(frames.PING, frames.ACK, 0, b"12345678")]

    on_wire(test)


def test_a_refused_body_without_end_is_cut_off_by_size_and_by_time() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        no_error = b"\0\0\0\0"
        found = wire.send(headers(1, "/nope"), headers(3, "/nope"), *[frames.data_frame(1, bytes(16_000))] * 5)
        assert [f for f in found if f.kind == RST_STREAM] == [Frame(RST_STREAM, 0, 1, no_error)]
        (leftover,) = wire.connection.streams.values()
        leftover.on_deadline()
        assert Frame(RST_STREAM, 0, 3, no_error) in await wire.settle()
        assert not wire.connection.streams

    on_wire(test, Limits(stream_window_bytes=1000))


@pytest.mark.parametrize(
    "flood",
    [
        frames.ping_frame(bytes(8)),
        frames.settings_frame([]),
        frames.frame_header(5, frames.PRIORITY, 0, 1) + bytes(5),
        frames.frame_header(0, 0x55, 0, 0),
        frames.window_update_frame(0, 1),
    ],
    ids=["ping", "settings", "priority", "unknown", "window update"],
)
def test_floods_of_control_frames_are_calmed(flood: bytes) -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        assert goaway_code(wire.send(flood * 50)) is None
        assert goaway_code(wire.send(flood * 200)) is ErrorCode.ENHANCE_YOUR_CALM

    on_wire(test, Limits(control_burst=100, control_per_s=0))


@pytest.mark.parametrize(
    "flood",
    [headers(1, UNARY) + frames.data_frame(1, b"") * 200, CONTINUED + frames.frame_header(0, 9, 0, 1) * 200],
    ids=["empty data", "empty continuation"],
)
def test_floods_of_empty_frames_are_calmed(flood: bytes) -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        assert goaway_code(wire.send(flood)) is ErrorCode.ENHANCE_YOUR_CALM

    on_wire(test, Limits(control_burst=100, control_per_s=0))


def test_pings_in_proportion_to_requests_are_no_flood() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        for stream in range(1, 2001, 2):
            found = wire.send(request(stream, UNARY, b""), frames.ping_frame(bytes(8)))
            assert goaway_code(found) is None

    on_wire(test, Limits(control_burst=10, control_per_s=0))


def test_rapid_resets_are_calmed_and_reach_the_handlers() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        codes = []
        for stream in range(1, 2000, 2):
            found = wire.send(
                request(stream, "/test.Echo/Keep", b""), frames.rst_stream_frame(stream, ErrorCode.CANCEL)
            )
            codes.append(goaway_code(found))
            if codes[-1] is not None:
                break
        assert codes.count(None) == 100
        assert codes[-1] is ErrorCode.ENHANCE_YOUR_CALM
        assert len(service.cancelled) == 101

    on_wire(test, Limits(reset_burst=100, reset_per_s=0))


def test_too_many_streams_and_header_blocks_without_end_are_refused() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        assert wire.send(headers(1, UNARY), headers(3, UNARY)) == []
        refused = Frame(RST_STREAM, 0, 5, int(ErrorCode.REFUSED_STREAM).to_bytes(4, "big"))
        assert wire.send(headers(5, UNARY), message(5, b"x")) == [refused]
        assert status(wire, wire.send(message(1, b"x")), 1) is StatusCode.OK
        endless = CONTINUED.replace(b"\0\0\0\1", b"\0\0\0\7") + (frames.frame_header(9000, 9, 0, 7) + bytes(9000)) * 8
        assert goaway_code(wire.send(endless)) is ErrorCode.ENHANCE_YOUR_CALM

    on_wire(test, Limits(max_concurrent_streams=2))


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /v3/kv/put HTTP/1.0\r\n\r\n"])
def test_http1_gets_a_short_answer(line: bytes) -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        wire.connection.data_received(line)
        (answer,) = wire.transport.writes
        head, body = answer.split(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 505 ")
        assert b"content-length: %d" % len(body) in head
        assert wire.transport.closed

    on_wire(test, greet=False)


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\0", b"\0" * 40, b"PRI * HTTP/2.0\r\n\r\nXX", os.urandom(64)])
def test_garbage_instead_of_a_preface_gets_a_goaway(garbage: bytes) -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        assert goaway_code(wire.send(garbage)) is ErrorCode.PROTOCOL_ERROR

    on_wire(test, greet=False)


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
