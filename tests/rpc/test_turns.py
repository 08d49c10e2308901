"""Turns of the event loop, shared by connections: counted in turns and requests on a loop and a clock of the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from rpc_harness import Wire, headers, message, request, run

from plasmacloud.base.pki import init_authority, issue
from plasmacloud.base.tls import ClientTls, ServerTls, TlsFiles
from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.h2.frames import DATA, END_STREAM, HEADERS
from plasmacloud.rpc.limits import Limits
from plasmacloud.rpc.routes import Shedding
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.server_connection import ServerConnection
from plasmacloud.rpc.service import ServiceTable, UnaryCall
from plasmacloud.rpc.status import StatusCode
from plasmacloud.rpc.turns import SHARE_FRAMES, Turns

UNARY = "/test.Busy/Unary"
COST_S = 0.001  # what a request costs, on the test's clock
BUDGET_S = 0.1
SHARE = SHARE_FRAMES // 2  # requests


class Loop:
    """Turns are counted, time passes only while requests are handled."""

    def __init__(self) -> None:
        self.now = 50.0
        self._soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def turn(self) -> float:
        """One turn; how long it took."""
        began = self.now
        soon, self._soon = self._soon, []
        for callback in soon:
            callback()
        return self.now - began

    @property
    def idle(self) -> bool:
        return not self._soon


class Crowd:
    """Connections of one server, and what it has handled, in order: (connection, stream)."""

    def __init__(self, connections: int, limits: Limits) -> None:
        self.loop = Loop()
        self.turns = Turns(self.loop.call_soon, lambda: self.loop.now, BUDGET_S)
        self.handled: list[tuple[int, int]] = []
        self.shed: bool = False
        table = ServiceTable()
        table.unary(UNARY, self._serve, Shedding(lambda: self.shed, "too many"))
        self.wires = [Wire(table, limits) for _ in range(connections)]
        for wire in self.wires:
            wire.connection._turns = self.turns

    def _serve(self, call: UnaryCall, body: bytes) -> None:
        self.loop.now += COST_S
        numbers: list[ServerConnection] = [wire.connection for wire in self.wires]
        self.handled.append((numbers.index(call.connection), call.id))
        call.reply(body)

    def send(self, connection: int, requests: int, first: int = 1) -> None:
        streams = range(first, first + 2 * requests, 2)
        self.wires[connection].send(*(request(stream, UNARY, b"x") for stream in streams))

    def paused(self, connection: int) -> bool:
        return not self.wires[connection].transport.reading

    def handled_by(self, connection: int) -> int:
        return sum(who == connection for who, _ in self.handled)

    def lose(self) -> None:
        for wire in self.wires:
            wire.lose()


PATIENT = Limits(max_line_s=1e9)  # that limit is about the real clock, and most tests are not


def on_crowd(connections: int, test: Callable[[Crowd], None], limits: Limits = PATIENT) -> None:
    async def main() -> None:
        crowd = Crowd(connections, limits)
        test(crowd)
        crowd.lose()

    run(main())


def test_what_fits_into_the_budget_is_handled_at_once() -> None:
    def test(crowd: Crowd) -> None:
        crowd.send(0, 40)
        crowd.send(1, 40)
        assert len(crowd.handled) == 80
        assert crowd.turns.put_off == 0
        assert not crowd.paused(0)
        assert not crowd.paused(1)
        crowd.loop.turn()
        assert crowd.loop.idle, "an idle server has no turns"

    on_crowd(2, test)


def test_a_turn_is_no_longer_than_its_budget_and_one_share() -> None:
    def test(crowd: Crowd) -> None:
        crowd.send(0, 1000)
        assert crowd.loop.now - 50.0 <= BUDGET_S + SHARE * COST_S, "what has arrived in the first turn"
        assert crowd.paused(0), "the client is slowed down"
        turns = 0
        while len(crowd.handled) < 1000:
            assert crowd.loop.turn() <= BUDGET_S + SHARE * COST_S
            turns += 1
        assert turns <= 1000 * COST_S / BUDGET_S
        crowd.loop.turn()
        assert not crowd.paused(0)
        assert crowd.handled == [(0, stream) for stream in range(1, 2000, 2)], "in order, each once"

    on_crowd(1, test)


def test_a_client_that_floods_does_not_hold_up_another() -> None:
    def test(crowd: Crowd) -> None:
        crowd.send(0, 1000)
        crowd.send(1, 1)  # in the same turn, behind the flood
        assert crowd.handled_by(1) == 0
        crowd.loop.turn()
        assert crowd.handled_by(1) == 1, "in the next turn, whatever the other one still has"
        assert crowd.handled_by(0) < 300

    on_crowd(2, test)


def test_floods_get_equal_shares() -> None:
    def test(crowd: Crowd) -> None:
        for connection in range(10):
            crowd.send(connection, 500)
        for _ in range(25):
            crowd.loop.turn()
        rest = [crowd.handled_by(connection) for connection in range(1, 10)]
        assert max(rest) - min(rest) <= SHARE
        assert crowd.handled_by(0) - min(rest) <= BUDGET_S / COST_S + SHARE, "the first had the first turn"
        while not crowd.loop.idle:
            crowd.loop.turn()
        assert len(crowd.handled) == 5000

    on_crowd(10, test)


def test_whoever_comes_while_others_wait_stands_behind_them() -> None:
    def test(crowd: Crowd) -> None:
        crowd.send(0, 500)
        crowd.send(1, 500)
        crowd.loop.turn()
        before = len(crowd.handled)
        crowd.send(2, 10)
        assert len(crowd.handled) == before
        crowd.loop.turn()
        assert crowd.handled_by(2) == 10

    on_crowd(3, test)


def test_half_a_request_waits_for_its_other_half_and_not_for_a_turn() -> None:
    def test(crowd: Crowd) -> None:
        crowd.send(0, 150)
        whole = request(301, UNARY, b"x")
        crowd.wires[0].connection.data_received(whole[:-1])  # read before the transport was paused
        while not crowd.loop.idle:
            crowd.loop.turn()
        assert crowd.handled_by(0) == 150
        assert not crowd.paused(0)
        crowd.wires[0].send(whole[-1:])
        assert crowd.handled[-1] == (0, 301)

    on_crowd(1, test)


def test_a_connection_that_is_lost_in_line_is_forgotten() -> None:
    def test(crowd: Crowd) -> None:
        crowd.send(0, 500)
        crowd.send(1, 500)
        crowd.wires[0].connection.connection_lost(None)
        handled = crowd.handled_by(0)
        while not crowd.loop.idle:
            crowd.loop.turn()
        assert crowd.handled_by(0) == handled
        assert crowd.handled_by(1) == 500
        assert len(crowd.turns) == 0

    on_crowd(2, test)


def test_a_client_that_does_not_read_is_not_read_either_when_its_turn_has_passed() -> None:
    def test(crowd: Crowd) -> None:
        crowd.send(0, 150)
        crowd.wires[0].connection.pause_writing()
        while not crowd.loop.idle:
            crowd.loop.turn()
        assert crowd.handled_by(0) == 150
        assert crowd.paused(0)
        crowd.wires[0].connection.resume_writing()
        assert not crowd.paused(0)

    on_crowd(1, test)


def test_whoever_is_no_client_waits_for_one_budget_at_most_whatever_clients_send() -> None:
    """Heartbeats, ticks and finished disk writes are callbacks of the loop, as this beat is."""

    def test(crowd: Crowd) -> None:
        beats: list[float] = []

        def beat() -> None:
            beats.append(crowd.loop.now)
            if len(crowd.handled) < 8000:
                crowd.loop.call_soon(beat)

        crowd.loop.call_soon(beat)
        for connection in range(16):
            crowd.send(connection, 500)
        while not crowd.loop.idle:
            crowd.loop.turn()
        assert len(crowd.handled) == 8000
        longest = max(later - earlier for earlier, later in pairwise(beats))
        assert longest <= BUDGET_S + 2 * SHARE * COST_S

    on_crowd(16, test)


@pytest.mark.parametrize("secured", [False, True])
def test_over_real_sockets_everything_put_off_is_answered(tmp_path: Path, secured: bool) -> None:
    """No budget at all: every share of every connection stands in line, and reading stops and goes on all the time."""
    table = ServiceTable()
    table.unary(UNARY, lambda call, body: call.reply(body))
    init_authority(tmp_path)
    issue(tmp_path, "server", ["127.0.0.1"])

    async def main() -> None:
        server = Server(table, limits=PATIENT)
        tls = ServerTls(TlsFiles.of(tmp_path, "server")) if secured else None
        host, port = await server.start("127.0.0.1", 0, tls=tls)
        loop = asyncio.get_running_loop()
        server.turns = Turns(loop.call_soon, loop.time, budget_s=0.0)
        own = ClientTls(TlsFiles(authority=tmp_path / "ca.crt")) if secured else None
        channels = [Channel(host, port, tls=own) for _ in range(4)]
        try:
            bodies = [b"%d" % number + b"x" * (number % 3000) for number in range(4000)]
            calls = [channels[number % 4].unary(UNARY, body, timeout=20.0) for number, body in enumerate(bodies)]
            assert await asyncio.gather(*calls) == bodies
            assert server.turns.put_off > 4000 / SHARE / 2
            assert len(server.turns) == 0
        finally:
            for channel in channels:
                await channel.close()
            await server.close(0)

    run(main())


@pytest.mark.parametrize("split", [False, True])
def test_load_is_shed_without_a_look_at_the_body(split: bool) -> None:
    def test(crowd: Crowd) -> None:
        wire = crowd.wires[0]
        crowd.shed = True
        answer = wire.send(headers(1, UNARY)) if split else wire.send(headers(1, UNARY), message(1, b"no protobuf"))
        assert [(frame.kind, frame.flags & END_STREAM) for frame in answer] == [(HEADERS, END_STREAM)]
        fields = wire.fields(answer[0])
        assert fields["grpc-status"] == str(int(StatusCode.RESOURCE_EXHAUSTED))
        assert fields["grpc-message"] == "too many"
        if split:
            assert wire.send(message(1, b"the rest is read and dropped")) == []
        assert not wire.connection.streams
        assert crowd.handled == []
        assert wire.server.counters.shed == 1
        crowd.shed = False
        assert [frame.kind for frame in wire.send(request(3, UNARY, b"x"))] == [HEADERS, DATA, HEADERS]

    on_crowd(1, test)


def test_what_has_waited_for_too_long_is_shed() -> None:
    def test(crowd: Crowd) -> None:
        crowd.send(0, 1000)
        wire = crowd.wires[0]
        wire.taken()
        wire.connection.received_s -= 2e6  # on the connection's clock, which is the real one
        for _ in range(wire.connection.limits.max_line_turns - 1):
            crowd.loop.turn()
        served = len(crowd.handled)
        assert served > 300
        assert wire.server.counters.shed == 0, "time alone does not count: the process may have stood still"
        wire.taken()
        crowd.loop.turn()
        refused = [frame for frame in wire.taken() if frame.kind == HEADERS and frame.flags & END_STREAM]
        assert len(crowd.handled) == served
        assert wire.server.counters.shed == len(refused) == 1000 - served
        crowd.loop.turn()
        crowd.send(0, 1, first=2001)
        assert crowd.handled[-1] == (0, 2001), "who comes now has not waited"

    on_crowd(1, test, Limits(max_line_s=1e6))
