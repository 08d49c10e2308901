"""Connections of the simulated network: bytes in order, and the ways in which they do not arrive."""

import asyncio
import random
from typing import Any

import pytest

from plasmacloud.sim.clock import NS_PER_S, World
from plasmacloud.sim.disk import SimDisk
from plasmacloud.sim.loop import SimLoop
from plasmacloud.sim.network import Network, NetworkOptions
from plasmacloud.sim.process import DiskOptions, Workshop
from plasmacloud.sim.trace import Trace

FRAME = b"\x01\0\0\0\x04"  # a DATA frame of one byte follows


class Side(asyncio.Protocol):
    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.lost: list[Exception | None] = []
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class Pair:
    """Machine a has dialled machine b."""

    def __init__(self, options: NetworkOptions | None = None, seed: int = 1) -> None:
        self.world = World()
        self.up = {"a", "b"}
        self.trace = Trace(self.world)
        self.network = Network(
            self.world, options or NetworkOptions(stall=0.0), random.Random(seed), self.trace, self.up.__contains__
        )
        self.loops = {name: self._loop(name) for name in "ab"}
        self.b = Side()
        self.network.listen(self.loops["b"], lambda: self.b, "b", 1)
        self.a: Any = self.dial()

    def _loop(self, name: str) -> SimLoop:
        workshop = Workshop(self.world, SimDisk(random.Random(0)), DiskOptions(), random.Random(0))
        loop = SimLoop(self.world, net=self.network, executor=workshop, on_turn=lambda: None)
        self.network.name_process(loop, name)
        return loop

    def dial(self, seconds: float = 1.0) -> Any:
        loop = self.loops["a"]
        made: list[Any] = []

        async def connect() -> None:
            try:
                async with asyncio.timeout(0.5):
                    _, side = await loop.create_connection(Side, "b", 1)
                made.append(side)
            except (OSError, TimeoutError) as error:
                made.append(type(error))

        loop.enter(lambda: loop.create_task(connect()))
        self.run(seconds)
        return made[0]

    def run(self, seconds: float) -> None:
        self.world.run(self.world.now_ns + round(seconds * NS_PER_S))

    def send(self, *pieces: bytes) -> None:
        def write() -> None:
            for piece in pieces:
                self.a.transport.write(piece)

        self.loops["a"].enter(write)


def test_bytes_arrive_in_order() -> None:
    pair = Pair(NetworkOptions(jitter_s=0.1, stall=0.3))
    pieces = [b"piece %d" % number for number in range(100)]
    pair.send(*pieces)
    pair.run(60)
    assert pair.b.got == pieces
    assert pair.trace.counts["stall"] > 10


def test_whole_frames_may_be_lost_doubled_and_overtaken() -> None:
    pair = Pair(NetworkOptions(drop=0.1, duplicate=0.1, reorder=0.1))
    pieces = [FRAME + bytes([number]) for number in range(200)]
    for piece in pieces:
        pair.send(piece)
        pair.run(0.0001)
    pair.run(10)
    got = pair.b.got
    assert set(got) < set(pieces)
    assert any(got.count(piece) == 2 for piece in pieces)
    assert list(dict.fromkeys(got)) != sorted(set(got))


def test_a_blocked_way_holds_what_is_written_until_it_opens() -> None:
    pair = Pair()
    pair.network.block("a", "b")
    pair.network.block("a", "b")
    pair.send(b"1", b"2")
    pair.run(5)
    assert pair.b.got == []
    assert pair.a.transport.get_write_buffer_size() == 2
    pair.network.unblock("a", "b")
    pair.run(5)
    assert pair.b.got == []
    pair.network.unblock("a", "b")
    pair.run(5)
    assert pair.b.got == [b"1", b"2"]


def test_one_direction_may_be_blocked_alone() -> None:
    pair = Pair()
    pair.network.block("b", "a")
    pair.send(b"1")
    pair.run(1)
    assert pair.b.got == [b"1"]
    pair.loops["b"].enter(lambda: pair.b.transport.write(b"2"))
    pair.run(1)
    assert pair.a.got == []


def test_a_cut_connection_is_noticed_by_both_sides() -> None:
    pair = Pair()
    pair.network.cut("a", "b")
    pair.run(1)
    assert isinstance(pair.a.lost[0], ConnectionResetError)
    assert isinstance(pair.b.lost[0], ConnectionResetError)


def test_a_dark_connection_is_noticed_by_nobody() -> None:
    pair = Pair()
    pair.network.darken("a", "b")
    pair.send(b"1")
    pair.run(100)
    assert (pair.a.lost, pair.b.lost, pair.b.got) == ([], [], [])


@pytest.mark.parametrize("silently", [False, True])
def test_the_end_of_a_process_is_told_by_its_kernel_unless_the_machine_is_gone(silently: bool) -> None:
    pair = Pair()
    pair.loops["b"].kill()
    pair.network.process_ended("b", silently=silently)
    pair.run(1)
    assert pair.a.lost == ([] if silently else [None])
    if silently:
        pair.network.machine_answers("b")
        pair.run(1)
        assert pair.a.lost == [None]


def test_dialling_is_refused_or_hangs() -> None:
    pair = Pair()
    pair.network.process_ended("b", silently=False)
    assert pair.dial() is ConnectionRefusedError
    pair.up.discard("b")
    assert pair.dial() is TimeoutError
    pair.up.add("b")
    pair.network.block("b", "a")
    assert pair.dial() is TimeoutError


def test_who_closes_is_told_once_and_the_other_reads_the_rest_first() -> None:
    pair = Pair()

    def close() -> None:
        pair.a.transport.write(b"last")
        pair.a.transport.close()
        pair.a.transport.abort()
        pair.a.transport.write(b"too late")

    pair.loops["a"].enter(close)
    pair.run(1)
    assert (pair.a.lost, pair.b.lost, pair.b.got) == ([None], [None], [b"last"])


def test_a_paused_reader_loses_nothing() -> None:
    pair = Pair()
    pair.b.transport.pause_reading()
    pair.send(b"1", b"2")
    pair.run(1)
    assert pair.b.got == []
    pair.loops["b"].enter(pair.b.transport.resume_reading)
    pair.send(b"3")
    pair.run(1)
    assert pair.b.got == [b"1", b"2", b"3"]


def test_what_was_written_before_the_end_arrives_before_it() -> None:
    for grain_s in (0.0, 0.001):
        pair = Pair(NetworkOptions(stall=0.0, grain_s=grain_s))
        pair.a.transport.write(b"farewell")
        pair.a.transport.close()
        pair.world.run(pair.world.now_ns + NS_PER_S)
        assert pair.b.got == [b"farewell"]
        assert pair.b.lost == [None]
