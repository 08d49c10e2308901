"""Hostile and broken clients, frame by frame: the right code, for the right stream or connection, and no harm."""

import pytest
from rpc_harness import EchoService, Frame, Wire, goaway_code, headers, message, on_wire, request, status

from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.errors import ErrorCode
from plasmacloud.rpc.h2.frames import DATA, HEADERS, RST_STREAM, WINDOW_UPDATE
from plasmacloud.rpc.limits import Limits
from plasmacloud.rpc.status import StatusCode

UNARY = "/test.Echo/Unary"


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


def test_unread_messages_count_against_the_same_limit() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        chunk = message(1, bytes(4000), end=False)
        wire.send(headers(1, "/test.Echo/HangStream"), headers(3, "/test.Echo/HangStream"))
        await wire.settle()
        assert wire.send(chunk, message(3, bytes(4000), end=False)) == []
        assert status(wire, wire.send(chunk), 1) is StatusCode.RESOURCE_EXHAUSTED
        assert wire.send(message(3, bytes(100), end=False)) == []
        await wire.settle()
        assert service.cancelled == ["hang_stream"]

    on_wire(test, Limits(max_buffered_bytes=10_000))


def test_an_overloaded_server_refuses_calls_as_not_executed() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        wire.server.overloaded = True
        refused = Frame(RST_STREAM, 0, 1, int(ErrorCode.REFUSED_STREAM).to_bytes(4, "big"))
        assert wire.send(request(1, UNARY, b"")) == [refused]
        wire.server.overloaded = False
        assert status(wire, wire.send(request(3, UNARY, b"")), 3) is StatusCode.OK

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


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\0", b"\0" * 40, b"PRI * HTTP/2.0\r\n\r\nXX", bytes(range(7, 71))]
)
def test_garbage_instead_of_a_preface_gets_a_goaway(garbage: bytes) -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        assert goaway_code(wire.send(garbage)) is ErrorCode.PROTOCOL_ERROR

    on_wire(test, greet=False)
