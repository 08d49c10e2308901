"""Who is sent away by the transport between members, and how: wrong callers, wrong listeners, strangers."""

import pytest
from peer_members import Answerer, Caller, Member, fully_connected, hello, pair, run, until
from structlog.testing import capture_logs

from plasmacloud.rpc.peer import PeerOptions, PeerTransport
from plasmacloud.rpc.peer_frames import MAGIC, FrameType
from plasmacloud.rpc.peer_wire import Hello, RefusalCode, decode_refusal, encode_frame, encode_hello

NEVER_S = 3600.0


# Refusals


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"cluster_id": 0xC2}, RefusalCode.CLUSTER),
        ({"version_min": 1, "version_max": 1}, RefusalCode.VERSION),
        ({"receiver_id": 3}, RefusalCode.RECEIVER),
        ({"member_id": 1}, RefusalCode.SENDER),
    ],
)
def test_a_wrong_caller_is_told_why_and_sent_away(changes: dict[str, int], code: RefusalCode) -> None:
    async def main() -> None:
        one = await Member(1).start()
        with capture_logs() as logs:
            for _ in range(3):
                caller = await Caller.greet(one.port, **changes)
                kind, payload = await caller.read_frame()
                assert kind == FrameType.REFUSAL
                assert decode_refusal(payload).code == code
                await caller.closed_by_other_side()
        assert [entry["event"] for entry in logs] == ["refused a peer"], "once per reason, however often it calls"
        assert one.lost == []

    run(main)


def test_a_refused_member_says_so_once_and_tries_again_slowly() -> None:
    async def main() -> None:
        retry = PeerOptions(refused_retry_min_s=0.01, refused_retry_max_s=0.02)
        with capture_logs() as logs:
            one = await Member(1, cluster_id=0xC2).start()
            two = await Member(2, options=retry).start()
            two.knows(1, one.port)
            greetings = count_greetings(one.transport)
            await until(lambda: len(greetings) >= 5)
            await two.close()
            await one.close()
        assert [(entry["event"], entry["log_level"]) for entry in logs] == [
            ("refused a peer", "warning"),
            ("cannot connect to peer", "warning"),
        ]
        assert all("cluster 00000000000000c2" in entry["reason"] for entry in logs)
        assert two.connected == two.lost == one.lost == []

    run(main)


def count_greetings(transport: PeerTransport) -> list[Hello]:
    seen: list[Hello] = []
    judge = transport.link_greeted
    transport.link_greeted = lambda link, hello: (seen.append(hello), judge(link, hello))[1]  # type: ignore[method-assign, func-returns-value]
    return seen


def test_a_removed_member_is_cut_off_quietly_and_refused() -> None:
    async def main() -> None:
        one, two = await pair()
        one.transport.remove_peer(2)
        assert one.transport.peers() == []
        assert not one.transport.send(2, b"x")
        await until(lambda: two.lost == [1])
        await until(lambda: "was removed" in (two.peer(1).last_error or ""))
        assert one.lost == []
        one.knows(2, two.port)
        await until(lambda: fully_connected(two, 1))

    run(main)


def test_a_changed_address_moves_the_connection_without_a_report() -> None:
    async def main() -> None:
        one, here, there = await Member(1).start(), await Member(2).start(), await Member(2).start()
        one.knows(2, here.port)
        await until(lambda: one.connected == [2])
        one.knows(2, here.port)  # unchanged: nothing happens
        assert one.peer(2).connected
        one.knows(2, there.port)
        assert not one.peer(2).connected
        await until(lambda: one.connected == [2, 2])
        assert one.transport.send(2, b"x")
        await until(lambda: there.frames == [(1, b"x")])
        assert one.lost == []

    run(main)


# Strangers


def test_garbage_closes_only_its_own_connection() -> None:
    async def main() -> None:
        one, two = await pair()
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", MAGIC + b"\xff" * 3000, b"\0" * 100):
            stranger = await Caller.dial(one.port)
            stranger.writer.write(garbage)
            await stranger.closed_by_other_side()
        talker = await Caller.accepted(one.port, member_id=3)
        talker.writer.write(encode_frame(FrameType.WELCOME, bytes(26)))
        await talker.closed_by_other_side()
        await until(lambda: one.lost == [3])
        assert two.transport.send(1, b"still here")
        await until(lambda: one.frames == [(2, b"still here")])

    run(main)


@pytest.mark.parametrize("sent", [b"", encode_hello(hello())[:20]])
def test_a_caller_that_never_finishes_its_greeting_is_sent_away(sent: bytes) -> None:
    async def main() -> None:
        one = await Member(1, options=PeerOptions(keepalive_s=0.02, handshake_timeout_s=0.1)).start()
        with capture_logs() as logs:
            caller = await Caller.dial(one.port)
            caller.writer.write(sent)
            await caller.closed_by_other_side()
        assert [entry["reason"] for entry in logs] == ["no greeting in time"]

    run(main)


def test_a_listener_that_never_answers_is_dialled_again() -> None:
    async def main() -> None:
        answerer = Answerer(welcome=False)
        port = await answerer.start()
        one = (await Member(1, options=PeerOptions(handshake_timeout_s=0.05)).start()).knows(2, port)
        await until(lambda: len(answerer.greetings) >= 3)
        assert one.peer(2).last_error == "no greeting in time"
        assert one.connected == one.lost == []

    run(main)


def test_a_listener_that_answers_for_somebody_else_is_left() -> None:
    async def main() -> None:
        two = await Member(2).start()
        one = (await Member(1, options=PeerOptions(refused_retry_min_s=0.01)).start()).knows(3, two.port)
        await until(lambda: "looked for member 0000000000000003" in (one.peer(3).last_error or ""))
        assert one.connected == []

    run(main)


def test_waiting_strangers_are_bounded_and_the_oldest_gives_way() -> None:
    async def main() -> None:
        one = await Member(1, options=PeerOptions(handshake_timeout_s=NEVER_S, max_unauthenticated=3)).start()
        strangers = [await Caller.dial(one.port) for _ in range(4)]
        await strangers[0].closed_by_other_side()
        await Caller.accepted(one.port)
        await strangers[1].closed_by_other_side()
        await until(lambda: len(one.transport._links) == 3)

    run(main)


def test_a_long_frame_in_transit_keeps_its_sender_informed() -> None:
    """Its pings wait behind the frame, so the receiver speaks up by itself."""

    async def main() -> None:
        one = await Member(1, options=PeerOptions(keepalive_s=0.02)).start()
        caller = await Caller.accepted(one.port)
        caller.writer.write(encode_frame(FrameType.DATA, bytes(100_000))[:50_000])
        assert await caller.read_frame() == (FrameType.PONG, bytes(8))

    run(main)
