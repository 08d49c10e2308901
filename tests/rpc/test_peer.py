"""The transport between members on real sockets: frames, losses, addresses, and a clean end."""

import asyncio
import signal
import sys
import time
from pathlib import Path

import pytest
from peer_members import DEADLINE_S, Answerer, Caller, Member, fully_connected, pair, run, until

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.rpc.peer import PeerOptions
from plasmacloud.rpc.peer_frames import FrameParser, FrameType, PeerProtocolError
from plasmacloud.rpc.peer_wire import DIALER_GREETING, Welcome, encode_frame, encode_stamp, encode_welcome

NEVER_S = 3600.0
NO_KEEPALIVE = PeerOptions(keepalive_s=NEVER_S, dead_after_s=NEVER_S)


# Frames


def test_frames_arrive_in_order_and_each_read_ends_its_batch() -> None:
    async def main() -> None:
        one, two = await pair()
        sent = []
        for burst in range(50):
            for i in range(burst):
                sent.append((1, b"%d/%d" % (burst, i) * (i + 1)))
                assert one.transport.send(2, sent[-1][1])
            await asyncio.sleep(0)
        await until(lambda: len(two.frames) == len(sent))
        assert two.frames == sent
        assert two.batches[-1] == len(sent)
        assert two.batches == sorted(set(two.batches)), "a batch end without frames"
        assert two.transport.send(1, b"and back")
        await until(lambda: one.frames == [(2, b"and back")])

    run(main)


def test_frames_of_one_loop_iteration_leave_in_one_write() -> None:
    async def main() -> None:
        one, two = await pair()
        before = one.peer(2)
        for _ in range(100):
            assert one.transport.send(2, b"x" * 100)
        assert one.peer(2).writes == before.writes, "written before the iteration ended"
        await until(lambda: len(two.frames) == 100)
        after = one.peer(2)
        assert (after.writes - before.writes, after.frames_sent - before.frames_sent) == (1, 100)
        assert one.transport.send(2, b"now")
        one.transport.flush()
        assert one.peer(2).writes == after.writes + 1
        await until(lambda: len(two.frames) == 101)
        assert one.peer(2).writes == after.writes + 1

    run(main)


def test_a_frame_of_64_mib_and_more_arrives_whole_behind_small_ones() -> None:
    async def main() -> None:
        one, two = await pair()
        large = bytes(range(256)) * (65 * 4096)
        assert one.transport.send(2, b"first")
        assert one.transport.send(2, large)
        await until(lambda: len(two.frames) == 2)
        assert two.frames[0] == (1, b"first")
        assert two.frames[1] == (1, large)
        assert one.transport.send(2, b"last")
        await until(lambda: two.frames[2:] == [(1, b"last")])
        assert one.lost == two.lost == []

    run(main)


def test_a_frame_that_no_receiver_would_take_is_refused_at_the_sender() -> None:
    async def main() -> None:
        one, two = await pair(options=PeerOptions(max_frame_bytes=1000))
        with pytest.raises(PeerProtocolError, match="1001 bytes"):
            one.transport.send(2, bytes(1001))
        assert one.transport.send(2, bytes(1000))
        await until(lambda: two.frames == [(1, bytes(1000))])

    run(main)


def test_a_peer_that_does_not_read_makes_send_return_false() -> None:
    async def main() -> None:
        answerer = Answerer()
        port = await answerer.start()
        limit, size = 1_000_000, 50_000
        options = PeerOptions(keepalive_s=NEVER_S, dead_after_s=NEVER_S, send_buffer_bytes=limit)
        one = (await Member(1, options=options).start()).knows(2, port)
        await until(lambda: one.peer(2).connected)
        sent = 0
        while one.transport.send(2, bytes(size)):
            sent += 1
            await asyncio.sleep(0)
            assert sent * size < 1_000_000_000, "no limit at all"
        assert one.peer(2).buffered_bytes <= limit + 2 * size
        assert one.peer(2).connected
        await answerer.callers[0].reader.readexactly(sent * (size + 5) - limit)  # it reads again: there is room again
        await until(lambda: one.transport.send(2, b"x"))
        assert one.lost == []

    run(main)


def test_the_end_of_a_connection_is_noticed_at_once_although_frames_still_wait_to_leave() -> None:
    async def main() -> None:
        answerer = Answerer()
        one = (await Member(1, options=NO_KEEPALIVE).start()).knows(2, await answerer.start())
        await until(lambda: one.peer(2).connected)
        assert one.transport.send(2, bytes(30_000_000))
        await until(lambda: one.peer(2).writes == 1)
        assert one.peer(2).buffered_bytes > 0
        answerer.callers[0].writer.write_eof()
        await until(lambda: one.lost == [2])

    run(main)


def test_sending_to_nobody_returns_false() -> None:
    async def main() -> None:
        one = await Member(1).start()
        assert not one.transport.send(2, b"x")
        one.knows(2, free_ports(1)[0])
        assert not one.transport.send(2, b"x")
        await until(lambda: one.peer(2).last_error == "Connection refused")
        assert not one.transport.send(2, b"x")

    run(main)


def test_a_frame_whose_content_is_refused_ends_that_connection_only() -> None:
    async def main() -> None:
        one, two = await pair()
        two.fail_on = b"bad"
        assert one.transport.send(2, b"good")
        assert one.transport.send(2, b"bad")
        await until(lambda: one.lost == [2] and two.lost == [1])
        assert two.frames == [(1, b"good")]
        assert two.peer(1).connected, "the other direction is as good as before"
        await until(lambda: one.transport.send(2, b"again"))
        await until(lambda: two.frames[1:] == [(1, b"again")])

    run(main)


# Losses

CHILD = """
import asyncio, sys
from plasmacloud.rpc.peer import PeerOptions, PeerTransport

async def main(own_port, peer_port):
    transport = PeerTransport(
        cluster_id=0xC1, member_id=2, on_frame=lambda m, f: None, on_batch_end=lambda: None,
        on_lost=lambda m: None, on_connected=lambda m: None,
    )
    await transport.start("127.0.0.1", own_port)
    transport.set_peer(1, "127.0.0.1", peer_port)
    await asyncio.sleep(3600)

asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
"""


def child(tmp_path: Path, own_port: int, peer_port: int) -> ManagedProcess:
    argv = [sys.executable, "-c", CHILD, str(own_port), str(peer_port)]
    return ManagedProcess("member 2", argv, log_path=tmp_path / "child.log")


async def live_and_die(one: Member, two: ManagedProcess) -> None:
    losses = len(one.lost)
    two.start()
    try:
        await until(lambda: fully_connected(one, 2))
        two.signal(signal.SIGKILL)
        await until(lambda: len(one.lost) > losses)
        await until(lambda: not one.peer(2).connected and not one.peer(2).incoming)
    finally:
        two.kill()


def test_a_killed_process_is_reported_once_by_its_closed_sockets_and_comes_back(tmp_path: Path) -> None:
    """Without any keepalive, so nothing but the closed sockets can tell."""

    async def main() -> None:
        one = await Member(1, options=NO_KEEPALIVE).start()
        (port,) = free_ports(1)
        two = child(tmp_path, port, one.port)
        one.knows(2, port)
        await live_and_die(one, two)
        assert one.lost == one.connected == [2]
        await live_and_die(one, two)
        assert one.lost == one.connected == [2, 2]

    run(main)


def test_a_frozen_process_is_reported_when_it_was_silent_for_too_long(tmp_path: Path) -> None:
    async def main() -> None:
        one = await Member(1, options=PeerOptions(keepalive_s=0.05, dead_after_s=0.4)).start()
        (port,) = free_ports(1)
        two = child(tmp_path, port, one.port)
        one.knows(2, port)
        two.start()
        try:
            await until(lambda: fully_connected(one, 2))
            await until(lambda: one.peer(2).rtt_s is not None)
            two.signal(signal.SIGSTOP)
            await until(lambda: one.lost == [2])
            await until(lambda: not one.peer(2).connected and not one.peer(2).incoming)
            two.signal(signal.SIGCONT)
            await until(lambda: fully_connected(one, 2))
            assert one.lost == [2]
        finally:
            two.kill()

    run(main)


def test_every_answered_ping_is_reported_once_with_its_time() -> None:
    async def main() -> None:
        one, two = await pair(options=PeerOptions(keepalive_s=0.02))
        loop = asyncio.get_running_loop()
        trips: list[tuple[int, float, float]] = []
        began = loop.time()
        one.transport.on_round_trip = lambda *trip: trips.append(trip)
        await until(lambda: len(trips) >= 5)
        received = [at for _, at, _ in trips]
        assert {member for member, _, _ in trips} == {2}
        assert received == sorted(received)
        assert began <= received[0] <= received[-1] <= loop.time()
        assert all(0 <= took < DEADLINE_S for _, _, took in trips)
        await two.transport.close()
        count = len(trips)
        await until(lambda: one.lost == [2])
        assert len(trips) <= count + 1, "nobody answers any more"

    run(main)


def test_a_process_that_was_frozen_itself_does_not_blame_its_peers() -> None:
    async def main() -> None:
        one, two = await pair(options=PeerOptions(keepalive_s=0.02, dead_after_s=0.2))
        time.sleep(0.5)  # the whole event loop stands still
        before = one.peer(2).rtt_s
        await until(lambda: one.peer(2).rtt_s != before)  # several rounds of keepalive later
        assert one.lost == two.lost == []

    run(main)


def test_the_second_direction_is_news_again_once_it_outlived_the_first() -> None:
    async def main() -> None:
        one = await Member(1, options=PeerOptions(keepalive_s=0.02)).start()
        answerer = Answerer()
        one.knows(2, await answerer.start())
        await until(lambda: one.peer(2).connected)
        caller = await Caller.accepted(one.port, incarnation=9)  # the answerer's incarnation
        await caller.close()
        await until(lambda: one.lost == [2])
        assert one.peer(2).connected
        link = one.transport._peers[2].link
        assert link is not None
        while link.covered_since is not None:
            answerer.callers[0].writer.write(encode_stamp(FrameType.PONG, 0))
            await asyncio.sleep(0.005)
        await answerer.close()
        await until(lambda: one.lost == [2, 2])

    run(main)


def test_the_newest_of_two_connections_of_one_member_counts() -> None:
    async def main() -> None:
        one = await Member(1).start()
        first = await Caller.accepted(one.port)
        second = await Caller.accepted(one.port)
        await first.closed_by_other_side()
        second.writer.write(encode_frame(FrameType.DATA, b"x"))
        await until(lambda: one.frames == [(2, b"x")])
        assert one.lost == []
        await second.close()
        await until(lambda: one.lost == [2])

    run(main)


def test_a_newer_process_means_that_the_older_one_is_gone() -> None:
    """A machine that lost power sends no FIN; its new greeting is the first sign."""

    async def main() -> None:
        one = await Member(1, options=NO_KEEPALIVE).start()
        answerer = Answerer()
        one.knows(2, await answerer.start())
        await until(lambda: one.peer(2).connected)
        old = await Caller.accepted(one.port, incarnation=9)
        assert one.lost == []
        await Caller.accepted(one.port, incarnation=10)
        assert one.lost == [2], "both directions to the old process, one loss"
        await old.closed_by_other_side()
        await answerer.callers[0].closed_by_other_side()

    run(main)


def test_a_member_that_calls_is_dialled_at_once() -> None:
    async def main() -> None:
        slow = PeerOptions(retry_min_s=NEVER_S, retry_max_s=NEVER_S)
        one = await Member(1, options=slow).start()
        (port,) = free_ports(1)
        one.knows(2, port)
        await until(lambda: one.peer(2).last_error == "Connection refused")
        (await Member(2).start(port)).knows(1, one.port)
        await until(lambda: fully_connected(one, 2))

    run(main)


# Addresses, end


def test_a_member_that_is_not_dialled_says_where_it_can_be() -> None:
    async def scene() -> None:
        strangers: list[tuple[int, str]] = []
        one = await Member(1, on_stranger=lambda *who: strangers.append(who)).start()
        two = Member(2, address="127.0.0.1:77")
        await two.start()
        two.knows(1, one.port)
        await until(lambda: bool(strangers))
        assert strangers == [(2, "127.0.0.1:77")]
        one.knows(2, two.port)
        await until(lambda: fully_connected(one, 2))
        two.transport.set_peer(1, "localhost", one.port)  # it calls again
        await until(lambda: two.connected == [1, 1])
        assert len(strangers) == 1, "who is dialled is no stranger"

    run(scene)


def test_a_port_in_use_is_a_config_error_with_a_hint() -> None:
    async def main() -> None:
        one = await Member(1).start()
        two = Member(2)
        with pytest.raises(ConfigError, match=f"127.0.0.1:{one.port} is in use") as error:
            await two.start(one.port)
        assert error.value.hint is not None
        await two.start()

    run(main)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_a_config_error(host: str) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match="does not belong to this machine"):
            await Member(1).start(host=host)

    run(main)


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_other_kinds_of_address(host: str) -> None:
    async def main() -> None:
        try:
            one = await Member(1).start(host=host)
        except ConfigError:
            pytest.skip(f"{host} is not an address of this machine")
        two = (await Member(2).start()).knows(1, one.port, host)
        await until(lambda: two.connected == [1])
        assert two.peer(1).address == (f"[::1]:{one.port}" if host == "::1" else f"localhost:{one.port}")

    run(main)


def test_a_name_that_nobody_has_is_an_error_of_that_peer() -> None:
    async def main() -> None:
        one = await Member(1).start()
        one.knows(2, 1, host="no-such-host.invalid").knows(3, 1, host="x" * 80)
        await until(lambda: all(p.last_error is not None for p in one.transport.peers()))
        assert one.lost == []

    run(main)


def test_close_lets_the_last_frames_leave_and_reports_nothing() -> None:
    async def main() -> None:
        one, two = await pair()
        assert one.transport.send(2, b"take over")
        await one.close()
        await until(lambda: two.lost == [1])
        assert two.frames == [(1, b"take over")]
        assert one.lost == []
        assert not one.transport.send(2, b"x")
        await one.close()  # a second time does nothing

    run(main)


def test_close_does_not_wait_for_a_peer_that_does_not_read() -> None:
    async def main() -> None:
        answerer = Answerer()
        one = (await Member(1).start()).knows(2, await answerer.start())
        await until(lambda: one.peer(2).connected)
        assert one.transport.send(2, bytes(30_000_000))
        await asyncio.sleep(0)
        assert one.peer(2).buffered_bytes > 0
        await one.close()
        assert one.lost == []

    run(main)


def test_a_member_comes_back_on_the_same_port_again_and_again() -> None:
    async def main() -> None:
        one, two = await pair()
        port = two.port
        for restarts in range(1, 4):
            await two.close()
            await until(lambda count=restarts: len(one.lost) == count)  # type: ignore[misc]
            two = (await Member(2).start(port)).knows(1, one.port)
            await until(lambda again=two: fully_connected(one, 2) and fully_connected(again, 1))  # type: ignore[misc]
            assert two.connected == [1]
        assert one.lost == [2] * 3
        assert one.connected == [2] * 4

    run(main)


def test_the_parser_tables_of_both_sides_fit_together() -> None:
    """A WELCOME is what a dialler waits for."""
    (frame,) = FrameParser(DIALER_GREETING, magic=False).feed(encode_welcome(Welcome(1, 2, 3, 4)))
    assert frame[0] == FrameType.WELCOME
