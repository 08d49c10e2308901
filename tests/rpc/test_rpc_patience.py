"""How a connection lives and how long it is waited for: both tables, and what the server does when patience ends."""

import asyncio

import pytest
from rpc_harness import EchoService, Frame, Wire, goaway_code, headers, kinds, message, on_wire, request, run, status

from plasmacloud.rpc.deadlines import DeadlineWheel
from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.errors import ErrorCode
from plasmacloud.rpc.h2.frames import GOAWAY, HEADERS, PING
from plasmacloud.rpc.h2.lifecycle import (
    CONNECTION_TRANSITIONS,
    ConnectionEvent,
    ConnectionState,
    IllegalConnectionEvent,
    next_connection_state,
)
from plasmacloud.rpc.limits import Limits
from plasmacloud.rpc.patience import Overdue, Patience, Progress
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.status import StatusCode

S, E = ConnectionState, ConnectionEvent
LIMITS = Limits(
    settings_timeout_s=10.0,
    frame_timeout_s=20.0,
    stall_timeout_s=30.0,
    keepalive_interval_s=100.0,
    keepalive_timeout_s=5.0,
    idle_timeout_s=1000.0,
)
UNARY = "/test.Echo/Unary"


def test_the_table_of_a_connections_states() -> None:
    assert {state for state, _ in CONNECTION_TRANSITIONS} == set(S)
    for (before, event), after in CONNECTION_TRANSITIONS.items():
        assert after >= before, "nothing leads back"
        assert (after is S.CLOSED) == (event is E.LOST)
        assert (after is S.FAILED) == (event is E.FAULT)
    life = [E.PREFACE, E.SETTINGS, E.ANNOUNCE, E.BIND, E.LOST]
    state = S.GREETING
    for event in life:
        state = next_connection_state(state, event)
    assert state is S.CLOSED
    for state, event in ((S.FAILED, E.SETTINGS), (S.CLOSED, E.FAULT), (S.OPEN, E.BIND), (S.GREETING, E.SETTINGS)):
        with pytest.raises(IllegalConnectionEvent):
            next_connection_state(state, event)


def seen(**changes: object) -> Progress:
    return Progress(
        **{
            "heard_s": 0.0,
            "consumed_bytes": 100,
            "partial": False,
            "block": 0,
            "requests": 1,
            "streams": 1,
            "sent_bytes": 50,
            "unsent_bytes": 0,
            "settled": True,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("stuck", "moves", "after_s", "overdue"),
    [
        ({"settled": False}, {"settled": True}, 10, Overdue.SETTINGS),
        ({"partial": True}, {"partial": True, "consumed_bytes": 101}, 20, Overdue.FRAME),
        ({"block": 3}, {"block": 4}, 20, Overdue.BLOCK),
        ({"unsent_bytes": 9}, {"unsent_bytes": 9, "sent_bytes": 51}, 30, Overdue.READER),
        ({"streams": 0}, {"streams": 0, "requests": 2}, 1000, Overdue.IDLE),
    ],
)
def test_each_wait_ends_unless_there_is_progress(stuck: dict, moves: dict, after_s: float, overdue: Overdue) -> None:
    for progress in (False, True):
        patience = Patience(LIMITS, 0.0)
        assert patience.look(seen(**stuck), 0.0) is None
        almost = after_s - 1.0
        second = seen(**(moves if progress else stuck), heard_s=almost)
        assert patience.look(second, almost) is None
        verdict = patience.look(second._replace(heard_s=after_s + 0.5), after_s + 0.5)
        assert verdict is (None if progress else overdue)


def test_silence_is_asked_and_then_given_up() -> None:
    patience = Patience(LIMITS, 0.0)
    assert patience.look(seen(), 99.0) is None
    assert patience.look(seen(), 100.0) is Overdue.SILENCE
    assert patience.look(seen(), 104.0) is None, "asked once"
    assert patience.look(seen(heard_s=104.5), 104.9) is None, "answered"
    assert patience.look(seen(heard_s=104.5), 204.5) is Overdue.SILENCE
    assert patience.look(seen(heard_s=104.5), 209.5) is Overdue.PING


def acknowledged(wire: Wire) -> None:
    wire.send(frames.SETTINGS_ACK)


def test_a_server_pings_the_silent_and_drops_the_dead() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        acknowledged(wire)
        wire.send(request(1, "/test.Echo/Keep", b""))
        now = wire.connection.received_s
        wire.connection.check(now + 100)
        (ping,) = await wire.settle()
        assert (ping.kind, ping.flags) == (PING, 0)
        wire.connection.check(now + 104)
        assert not wire.transport.closed
        wire.connection.check(now + 106)
        assert wire.transport.closed

    service = on_wire(test, LIMITS)
    assert service.cancelled == ["keep"]


@pytest.mark.parametrize(
    ("begun", "after_s", "code"),
    [
        (b"", 11, ErrorCode.SETTINGS_TIMEOUT),
        (frames.SETTINGS_ACK + b"\0\0\x08\x06\0\0\0\0\0half", 21, ErrorCode.ENHANCE_YOUR_CALM),
        (frames.SETTINGS_ACK + frames.frame_header(1, HEADERS, 0, 1) + b"\x83", 21, ErrorCode.ENHANCE_YOUR_CALM),
    ],
    ids=["settings never acknowledged", "half a frame", "half a header block"],
)
def test_what_is_begun_has_to_be_finished(begun: bytes, after_s: float, code: ErrorCode) -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        wire.send(begun)
        now = wire.connection.received_s
        wire.connection.check(now)
        wire.connection.check(now + after_s - 2)
        assert goaway_code(await wire.settle()) is None
        wire.connection.check(now + after_s)
        assert goaway_code(await wire.settle()) is code
        wire.connection.check(now + 999)  # and nothing more happens to a connection that has failed

    on_wire(test, LIMITS)


def test_an_idle_connection_is_told_to_go_and_a_call_that_crosses_is_served() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        acknowledged(wire)
        wire.send(request(1, UNARY, b""))
        now = wire.connection.received_s
        wire.connection.check(now)
        wire.connection.received_s = now + 999.9  # pings were answered
        wire.connection.check(now + 1001)
        announced, ping = await wire.settle()
        assert frames.parse_goaway(announced.payload)[:2] == (frames.MAX_STREAM_ID, ErrorCode.NO_ERROR)
        assert status(wire, wire.send(request(3, UNARY, b"")), 3) is StatusCode.OK
        found = wire.send(frames.ping_frame(ping.payload, ack=True))
        assert kinds(found) == [(GOAWAY, 0)]
        assert wire.connection.state is S.DRAINING
        await wire.settle()
        assert wire.transport.closed

    on_wire(test, LIMITS)


def test_a_reader_of_nothing_is_refused_new_calls_then_closed() -> None:
    limits = Limits(max_queued_bytes=10_000, stall_timeout_s=30.0)

    async def test(wire: Wire, service: EchoService) -> None:
        acknowledged(wire)
        wire.send(frames.settings_frame([(4, 0)]))  # no window for any answer
        for stream in (1, 3, 5):
            wire.send(request(stream, UNARY, bytes(8000)))
        refused = Frame(frames.RST_STREAM, 0, 7, int(ErrorCode.REFUSED_STREAM).to_bytes(4, "big"))
        assert wire.send(request(7, UNARY, b"")) == [refused]
        assert wire.server.counters.refused == 1
        now = wire.connection.received_s
        wire.connection.check(now)
        wire.connection.check(now + 31)
        assert goaway_code(await wire.settle()) is ErrorCode.ENHANCE_YOUR_CALM
        assert wire.connection.queued_bytes == 0

    on_wire(test, limits)


def test_answers_that_nobody_reads_do_not_pile_up() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        wire.send(frames.settings_frame([(4, 0)]))
        calls = [request(stream, "/test.Echo/Keep", b"") for stream in range(1, 101, 2)]
        wire.send(*calls)  # all are admitted before the first answer waits
        for call in service.kept:
            call.reply(bytes(1000))
        assert service.kept[-1].congested
        assert goaway_code(await wire.settle()) is ErrorCode.ENHANCE_YOUR_CALM
        assert wire.connection.queued_bytes == 0

    on_wire(test, Limits(max_queued_bytes=10_000))


def test_one_answer_may_be_as_large_as_it_is() -> None:
    """A client that lists everything is not to blame for how much that is."""

    async def test(wire: Wire, service: EchoService) -> None:
        acknowledged(wire)
        wire.send(frames.settings_frame([(4, 0)]))
        wire.send(request(1, "/test.Echo/Keep", b""), request(3, "/test.Echo/Keep", b""))
        service.kept[0].reply(bytes(10_000_000))
        assert not service.kept[1].congested
        service.kept[1].reply(bytes(9000))
        wire.send(request(5, UNARY, b""))
        assert 5 in wire.connection.streams, "calls go on beside it"
        await wire.settle()
        assert wire.connection.state is S.OPEN
        assert wire.connection.queued_bytes > 10_000_000
        read = 0
        while wire.connection.queued_bytes:
            updates = [frames.window_update_frame(stream, 1_000_000) for stream in (0, *wire.connection.streams)]
            found = wire.send(*updates) + await wire.settle()
            read += sum(len(f.payload) for f in found if f.kind == frames.DATA and f.stream == 1)
        assert read == 10_000_005

    on_wire(test, Limits(max_queued_bytes=10_000))


def test_the_first_frame_is_settings() -> None:
    async def main() -> None:
        for first in (frames.ping_frame(bytes(8)), frames.SETTINGS_ACK, headers(1, UNARY) + message(1, b"")):
            wire = Wire(EchoService().table, greet=False)
            assert goaway_code(wire.send(frames.PREFACE + first)) is ErrorCode.PROTOCOL_ERROR
            wire.lose()
            await asyncio.sleep(0)

    run(main())


def test_too_many_pings_are_named_as_grpc_clients_expect() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        found = wire.send(frames.ping_frame(bytes(8)) * 11)
        (goaway,) = [f for f in found if f.kind == GOAWAY]
        assert frames.parse_goaway(goaway.payload)[1:] == (ErrorCode.ENHANCE_YOUR_CALM, b"too_many_pings")

    on_wire(test, Limits(ping_burst=10, ping_per_s=0))


def test_one_connection_that_fails_to_be_looked_at_does_not_end_the_patience_with_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Odd:
        requests = bytes_received = bytes_sent = held_bytes = 0
        streams = ()
        looks = 0
        aborted = False

        def __init__(self, error: Exception | None) -> None:
            self._error = error

        def check(self, now_s: float) -> None:
            self.looks += 1
            if self._error is not None:
                raise self._error

        def drain(self) -> None:
            pass

        def abort(self) -> None:
            self.aborted = True

    async def main() -> None:
        server = Server(EchoService().table)
        fine, broken = Odd(None), Odd(ValueError("a bug"))
        server.connections = {fine, broken}
        server._look()
        assert (fine.looks, broken.looks) == (1, 1)
        assert (fine.aborted, broken.aborted) == (False, True)
        assert server._looking is not None
        assert server._looking.when() > asyncio.get_running_loop().time(), "and looks again"
        server._looking.cancel()

    run(main())
    assert "could not be looked at" in capsys.readouterr().out


def test_one_deadline_that_fails_does_not_keep_others_waiting(capsys: pytest.CaptureFixture[str]) -> None:
    expired: list[str] = []

    class Waiting:
        def __init__(self, name: str) -> None:
            self.name = name

        def on_deadline(self) -> None:
            expired.append(self.name)
            if self.name == "broken":
                raise ValueError("a bug")

    async def main() -> None:
        wheel = DeadlineWheel(asyncio.get_running_loop())
        for name in ("first", "broken", "last"):
            wheel.add(Waiting(name), 0.0)
        async with asyncio.timeout(30):
            while len(expired) < 3:
                await asyncio.sleep(0.001)

    run(main())
    assert sorted(expired) == ["broken", "first", "last"]
    assert "deadline handler failed" in capsys.readouterr().out
