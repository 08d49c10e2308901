"""Clients that want to hurt: memory stays bounded, the connection ends with the right code, and others do not notice.

`test_rpc_hostile.py` looks at single faults, frame by frame; here whole attacks run: on a wire, with memory measured,
and on sockets, beside a client that goes on working.
"""

import asyncio
import gzip
import itertools
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable, Iterator

import pytest
from rpc_harness import (
    EchoService,
    Wire,
    goaway_code,
    headers,
    message,
    on_wire,
    request,
    request_block,
    run,
    serving,
    split_frames,
    status,
    until,
)

from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.errors import ErrorCode
from plasmacloud.rpc.h2.frames import DATA, END_HEADERS, GOAWAY, HEADERS
from plasmacloud.rpc.h2.headers import encode_field
from plasmacloud.rpc.limits import Limits
from plasmacloud.rpc.status import StatusCode

UNARY = "/test.Echo/Unary"
MIB = 1 << 20


def compressed(stream: int, encoding: bytes, packed: bytes, flag: int = 1) -> bytes:
    body = bytes((flag,)) + len(packed).to_bytes(4, "big") + packed
    pieces = [body[i : i + 16_384] for i in range(0, len(body), 16_384)]
    return headers(stream, UNARY, (b"grpc-encoding", encoding)) + b"".join(
        frames.data_frame(stream, piece, end_stream=piece is pieces[-1]) for piece in pieces
    )


def bomb(encoding: bytes, size: int) -> bytes:
    deflater = zlib.compressobj(9, wbits=31 if encoding == b"gzip" else 15)
    zeros = bytes(MIB)
    return b"".join([deflater.compress(zeros) for _ in range(size // MIB)]) + deflater.flush()


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_a_compression_bomb_is_refused_before_it_has_grown(encoding: bytes) -> None:
    packed = bomb(encoding, 256 * MIB)

    async def test(wire: Wire, service: EchoService) -> None:
        data = compressed(1, encoding, packed)
        tracemalloc.start()
        try:
            found = wire.send(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert status(wire, found, 1) is StatusCode.RESOURCE_EXHAUSTED
        assert peak < 8 * MIB
        assert wire.connection.buffered_bytes == 0

    on_wire(test, Limits(max_recv_bytes=MIB))


@pytest.mark.parametrize(
    "packed",
    [b"no gzip", gzip.compress(b"x" * 99)[:-9], gzip.compress(b"x") + b"more"],
    ids=["no gzip", "cut short", "more behind"],
)
def test_broken_compression_fails_one_call(packed: bytes) -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        assert status(wire, wire.send(compressed(1, b"gzip", packed)), 1) is StatusCode.INTERNAL
        assert status(wire, wire.send(compressed(3, b"gzip", gzip.compress(b"fine"))), 3) is StatusCode.OK

    on_wire(test)


@pytest.mark.parametrize(("references", "bomb_"), [(8, False), (15_000, True)])
def test_an_hpack_bomb_ends_its_connection_and_holds_no_memory(references: int, bomb_: bool) -> None:
    """A field as large as the dynamic table, referred to with one byte each time."""
    huge = b"\x40" + encode_field(b"x" * 1000, b"y" * 2900)[1:]
    block = request_block(UNARY)

    peaks: list[int] = []

    async def test(wire: Wire, service: EchoService) -> None:
        wire.send(frames.headers_frames(1, block + huge, end_stream=True, max_frame_bytes=16_384))
        attack = block + b"\xbe" * references
        tracemalloc.start()
        try:
            found = wire.send(frames.headers_frames(3, attack, end_stream=True, max_frame_bytes=16_384))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        peaks.append(peak)
        if bomb_:
            assert goaway_code(found) is ErrorCode.ENHANCE_YOUR_CALM
        else:
            assert status(wire, found, 3) is StatusCode.RESOURCE_EXHAUSTED, "an honest mistake costs one request"
            assert status(wire, wire.send(request(5, UNARY, b"")), 5) is StatusCode.OK

    on_wire(test)  # the first attack in a process also pays for modules that are imported when something is logged
    on_wire(test)
    assert peaks[1] < MIB


def test_ever_new_headers_do_not_fill_the_caches() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        def attack(numbers: Iterator[int]) -> None:
            for number in itertools.islice(numbers, 1000):
                wire.send(headers(2 * number + 1, UNARY, (b"x", b"%d" % number + bytes(1900).replace(b"\0", b"v"))))
                wire.send(message(2 * number + 1, b""))

        numbers = itertools.count()
        attack(numbers)
        tracemalloc.start()
        try:
            attack(numbers)
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert held < 1 * MIB
        assert not wire.connection.streams

    on_wire(test)


def test_thousands_of_streams_are_refused_beyond_the_limit_and_their_frames_are_a_flood() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        opened = wire.send(*[headers(stream, "/test.Echo/HangStream") for stream in range(1, 2 * 100, 2)])
        assert opened == []
        codes = []
        for stream in range(201, 4001, 2):
            codes.append(goaway_code(wire.send(headers(stream, "/test.Echo/HangStream"))))
            if codes[-1] is not None:
                break
        assert len(wire.connection.streams) <= 100
        assert codes[-1] is ErrorCode.ENHANCE_YOUR_CALM

    on_wire(test, Limits(max_concurrent_streams=100, control_burst=500, control_per_s=0))


def test_a_writer_of_single_bytes_holds_what_it_sent_and_no_more() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        body = b"\0" + (5000).to_bytes(4, "big") + bytes(5000)
        wire.send(headers(1, UNARY))
        for i in range(len(body) - 1):
            assert wire.send(frames.data_frame(1, body[i : i + 1])) == []
            assert wire.connection.buffered_bytes <= i + 1
        found = wire.send(frames.data_frame(1, body[-1:], end_stream=True))
        assert status(wire, found, 1) is StatusCode.OK

    on_wire(test)


def test_window_games_leave_every_window_where_it_belongs() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        wire.send(frames.settings_frame([(4, 0)]))
        wire.send(request(1, UNARY, bytes(3000)))
        dribbled = b"".join(
            frame.payload
            for _ in range(100)
            for frame in wire.send(frames.window_update_frame(1, 1))
            if frame.kind == DATA
        )
        assert len(dribbled) == 100
        for size in (0x7FFFFFFF, 0, 5, 0, 0x7FFFFF00):
            wire.send(frames.settings_frame([(4, size)]))
        found = wire.send(frames.settings_frame([(4, 0)]))
        assert goaway_code(found) is None
        assert not wire.connection.streams, "the answer left when there was room for it"
        assert wire.connection.queued_bytes == 0
        wire.send(frames.settings_frame([(4, 10)]), request(3, UNARY, bytes(100)))
        wire.send(frames.window_update_frame(3, 0x7FFFFFFF - 20))
        assert goaway_code(wire.send(frames.settings_frame([(4, 0x7FFFFFFF)]))) is None, "the answer had left"

    on_wire(test)


# On sockets, beside somebody who works

Attack = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def write(writer: asyncio.StreamWriter, *data: bytes) -> None:
    writer.write(b"".join(data))
    await writer.drain()


async def rapid_reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for stream in range(1, 40_001, 2):
        await write(writer, request(stream, "/test.Echo/Keep", b""), frames.rst_stream_frame(stream, ErrorCode.CANCEL))


async def settings_flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for _ in range(100):
        await write(writer, frames.settings_frame([(4, 70_000)]) * 200)


async def ping_flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for _ in range(100):
        await write(writer, frames.ping_frame(bytes(8)) * 200)


async def continuation_flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await write(writer, frames.frame_header(3, HEADERS, 0, 1) + b"\x83\x86\x84")
    for _ in range(1000):
        await write(writer, frames.frame_header(1000, frames.CONTINUATION, 0, 1) + bytes(1000))


async def empty_data_flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await write(writer, headers(1, UNARY))
    for _ in range(100):
        await write(writer, frames.data_frame(1, b"") * 200)


async def priority_flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for _ in range(100):
        await write(writer, (frames.frame_header(5, frames.PRIORITY, 0, 7) + bytes(5)) * 200)


async def window_update_flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for _ in range(100):
        await write(writer, frames.window_update_frame(0, 1) * 200)


async def refused_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for stream in range(1, 40_001, 2):
        await write(writer, headers(stream, "/test.Echo/HangStream"))


async def unread_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Every window wide open, many large answers, and nothing is ever read."""
    await write(writer, frames.settings_frame([(4, 0x7FFFFFFF)]), frames.window_update_frame(0, 0x7FFF0000 - 65_535))
    body = bytes(15_000)
    for stream in range(1, 4001, 2):
        await write(writer, request(stream, UNARY, body))


ATTACKS: list[tuple[Attack, ErrorCode]] = [
    (rapid_reset, ErrorCode.ENHANCE_YOUR_CALM),
    (settings_flood, ErrorCode.ENHANCE_YOUR_CALM),
    (ping_flood, ErrorCode.ENHANCE_YOUR_CALM),
    (continuation_flood, ErrorCode.ENHANCE_YOUR_CALM),
    (empty_data_flood, ErrorCode.ENHANCE_YOUR_CALM),
    (priority_flood, ErrorCode.ENHANCE_YOUR_CALM),
    (window_update_flood, ErrorCode.ENHANCE_YOUR_CALM),
    (refused_streams, ErrorCode.ENHANCE_YOUR_CALM),
]
LIMITS = Limits(
    max_concurrent_streams=100,
    control_burst=1000,
    control_per_s=10,
    reset_burst=500,
    reset_per_s=10,
    max_queued_bytes=4 * MIB,
    write_buffer_bytes=64 * 1024,
)


async def attack_beside_a_client(attack: Attack, check: Callable[..., Awaitable[None]]) -> None:
    service = EchoService()
    async with serving(service.table, LIMITS) as (server, host, port):
        channel = Channel(host, port)
        await channel.unary(UNARY, b"warm", timeout=10)
        answered = 0
        over = False

        async def work() -> None:
            nonlocal answered
            while not over:
                assert await channel.unary(UNARY, b"%d" % answered, timeout=10) == b"%d" % answered
                answered += 1

        working = asyncio.create_task(work())
        reader, writer = await asyncio.open_connection(host, port)
        await write(writer, frames.PREFACE, frames.settings_frame([]), frames.SETTINGS_ACK)
        try:
            try:
                async with asyncio.timeout(3):
                    await attack(reader, writer)
            except (ConnectionError, TimeoutError):
                pass  # closed while it attacked, or made to wait for ever
            before = answered
            await until(lambda: answered > before + 20)
            await check(server, reader, writer)
        finally:
            over = True
            writer.transport.abort()
            await working
            await channel.close()
        await until(lambda: all(connection.streams == {} for connection in server.connections))
        assert not server._tasks


@pytest.mark.parametrize(("attack", "code"), ATTACKS, ids=lambda a: getattr(a, "__name__", ""))
def test_floods_end_their_own_connection_and_nobody_elses(attack: Attack, code: ErrorCode) -> None:
    async def check(server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await until(lambda: len(server.connections) == 1)
        received = b""
        try:
            async with asyncio.timeout(5):
                while data := await reader.read(65_536):
                    received += data
        except ConnectionError:
            pass  # the flood filled every buffer; what came before it is what we look at
        complete = [f for f in split_frames(received) if f.kind == GOAWAY]
        if complete:
            assert frames.parse_goaway(complete[-1].payload)[1] == code

    run_attack(attack, check)


def run_attack(attack: Attack, check: Callable[..., Awaitable[None]]) -> None:
    run(attack_beside_a_client(attack, check), seconds=60)


def test_answers_that_are_never_read_stay_within_the_limit() -> None:
    async def check(server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for connection in list(server.connections):
            transport = connection.transport
            if transport is not None:
                waiting = connection.queued_bytes + transport.get_write_buffer_size()
                assert waiting < 2 * LIMITS.max_queued_bytes + 2 * MIB

    run_attack(unread_answers, check)


def test_whoever_connects_and_says_nothing_is_put_out_and_whoever_comes_too_late_is_not_let_in() -> None:
    async def main() -> None:
        limits = Limits(handshake_timeout_s=0.2, max_connections=3)
        async with serving(EchoService().table, limits) as (server, host, port):
            silent = [await asyncio.open_connection(host, port) for _ in range(3)]
            await until(lambda: len(server.connections) == 3)
            extra_reader, extra = await asyncio.open_connection(host, port)
            assert await extra_reader.read() == b""
            extra.close()
            for reader, writer in silent:
                assert await reader.read() == b""
                writer.close()
            await until(lambda: not server.connections)
            assert server.counters.connections_refused == 1
            channel = Channel(host, port)
            assert await channel.unary(UNARY, b"x", timeout=10) == b"x"
            await channel.close()

    run(main())


def test_a_large_header_block_in_small_pieces_is_served() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        block = request_block(UNARY, (b"x", b"v" * 4000))
        pieces = [block[i : i + 16] for i in range(0, len(block), 16)]
        data = frames.frame_header(len(pieces[0]), HEADERS, 0, 1) + pieces[0]
        for piece in pieces[1:]:
            last = END_HEADERS if piece is pieces[-1] else 0
            data += frames.frame_header(len(piece), frames.CONTINUATION, last, 1) + piece
        assert status(wire, wire.send(data, message(1, b"x")), 1) is StatusCode.OK

    on_wire(test)
