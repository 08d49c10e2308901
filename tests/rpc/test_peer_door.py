"""Who is let in by the transport between members, asked in both directions, and when the first frame may pass."""

import asyncio

import pytest
from peer_members import Answerer, Caller, Member, fully_connected, run, until
from structlog.testing import capture_logs

from plasmacloud.base.process import free_ports
from plasmacloud.rpc.peer import PeerOptions
from plasmacloud.rpc.peer_frames import FrameType
from plasmacloud.rpc.peer_notes import Takeovers
from plasmacloud.rpc.peer_wire import (
    PeerClaim,
    Refusal,
    RefusalCode,
    Welcome,
    decode_refusal,
    encode_frame,
    encode_refusal,
    encode_welcome,
)

NEVER_S = 3600.0
FORGOTTEN = Refusal(RefusalCode.AMNESIA, "it forgot")


class Bench:
    """A judge whose verdict can be set, and what it was asked."""

    def __init__(self, verdict: "Refusal | asyncio.Future[None] | None" = None) -> None:
        self.verdict = verdict
        self.claims: list[PeerClaim] = []

    def __call__(self, claim: PeerClaim) -> "Refusal | asyncio.Future[None] | None":
        self.claims.append(claim)
        return self.verdict


def test_both_sides_judge_what_the_other_claims() -> None:
    async def main() -> None:
        benches = {1: Bench(), 2: Bench()}
        one = await Member(1, birth=11, incarnation=101, earlier=(100, 99), judge=benches[1]).start()
        two = await Member(2, birth=22, incarnation=202, judge=benches[2]).start()
        one.knows(2, two.port)
        await until(lambda: one.peer(2).connected)
        assert benches[1].claims == [PeerClaim(2, 22, 202)]
        assert benches[2].claims == [PeerClaim(1, 11, 101, (100, 99))]

    run(main)


def test_a_caller_that_is_not_accepted_is_told_and_no_frame_of_it_is_taken() -> None:
    async def main() -> None:
        one = await Member(1, judge=Bench(FORGOTTEN)).start()
        caller = await Caller.greet(one.port)
        caller.writer.write(encode_frame(FrameType.DATA, b"vote"))
        kind, payload = await caller.read_frame()
        assert (kind, decode_refusal(payload)) == (FrameType.REFUSAL, FORGOTTEN)
        await caller.closed_by_other_side()
        assert one.frames == one.lost == []

    run(main)


def test_a_member_that_answers_and_is_not_accepted_is_told_and_sent_nothing() -> None:
    """The dialler has the last word on a WELCOME."""

    async def main() -> None:
        answerer = Answerer()
        one = (await Member(1, judge=Bench(FORGOTTEN)).start()).knows(2, await answerer.start())
        await until(lambda: len(answerer.callers) == 1)
        kind, payload = await answerer.callers[0].read_frame()
        assert (kind, decode_refusal(payload)) == (FrameType.REFUSAL, FORGOTTEN)
        await answerer.callers[0].closed_by_other_side()
        assert not one.transport.send(2, b"x")
        assert one.connected == one.lost == []
        await until(lambda: one.peer(2).last_error == "refused: it forgot")

    run(main)


@pytest.mark.parametrize("refusing_dials", [True, False])
def test_the_refused_member_learns_it_whoever_called(refusing_dials: bool) -> None:
    async def main() -> None:
        refused: list[tuple[int, Refusal]] = []
        one = await Member(1, judge=Bench(FORGOTTEN)).start()
        two = await Member(2, on_refused=lambda member, refusal: refused.append((member, refusal))).start()
        if refusing_dials:
            one.knows(2, two.port)
        else:
            two.knows(1, one.port)
        await until(lambda: refused == [(1, FORGOTTEN)])
        assert one.frames == two.frames == one.connected == two.connected == []

    run(main)


@pytest.mark.parametrize("code", sorted(set(RefusalCode) - {RefusalCode.AMNESIA, RefusalCode.REMOVED}))
def test_only_what_is_about_the_member_itself_is_final(code: RefusalCode) -> None:
    """A wrong address or another version ends nobody."""

    async def main() -> None:
        refused: list[int] = []
        one = await Member(1, judge=Bench(Refusal(code, "no"))).start()
        two = await Member(2, on_refused=lambda member, _: refused.append(member)).start()
        two.knows(1, one.port)
        await until(lambda: two.peer(1).last_error == "refused: no")
        assert refused == []

    run(main)


def test_a_removed_member_is_told_that_it_is_final() -> None:
    async def main() -> None:
        refused: list[RefusalCode] = []
        one = await Member(1).start()
        one.transport.remove_peer(2)
        two = await Member(2, on_refused=lambda _, refusal: refused.append(refusal.code)).start()
        two.knows(1, one.port)
        await until(lambda: refused == [RefusalCode.REMOVED])

    run(main)


def test_nobody_is_let_in_before_it_is_remembered() -> None:
    async def main() -> None:
        bench = Bench(asyncio.get_running_loop().create_future())
        one = await Member(1, judge=bench).start()
        two = await Member(2).start()
        one.knows(2, two.port)
        two.knows(1, one.port)
        await until(lambda: len(bench.claims) == 2)
        assert one.connected == two.connected == []
        assert isinstance(bench.verdict, asyncio.Future)
        bench.verdict.set_result(None)
        await until(lambda: fully_connected(one, 2) and fully_connected(two, 1))

    run(main)


def test_nobody_is_let_in_who_cannot_be_remembered() -> None:
    async def main() -> None:
        bench = Bench(asyncio.get_running_loop().create_future())
        one = await Member(1, judge=bench).start()
        caller = await Caller.greet(one.port)
        await until(lambda: len(bench.claims) == 1)
        assert isinstance(bench.verdict, asyncio.Future)
        bench.verdict.set_exception(OSError("full"))
        await caller.closed_by_other_side()
        assert one.lost == []

    run(main)


def test_who_sends_before_it_is_let_in_is_no_member() -> None:
    async def main() -> None:
        bench = Bench(asyncio.get_running_loop().create_future())
        one = await Member(1, judge=bench).start()
        caller = await Caller.greet(one.port)
        await until(lambda: len(bench.claims) == 1)
        caller.writer.write(encode_frame(FrameType.DATA, b"vote"))
        await caller.closed_by_other_side()
        assert isinstance(bench.verdict, asyncio.Future)
        bench.verdict.set_result(None)  # too late
        await until(lambda: not one.transport._links)
        assert one.frames == one.lost == []

    run(main)


# Settling


async def settling(one: Member, answerer: Answerer) -> Caller:
    """Start a member that knows member 2, which answers at once, and member 3, which does not. Returns the caller."""
    one.knows(2, (await started(2)).port)
    one.knows(3, await answerer.start())
    await one.start()
    caller = await Caller.accepted(one.port, member_id=4)
    await until(lambda: len(answerer.greetings) == 1)
    return caller


async def started(member_id: int) -> Member:
    return await Member(member_id).start()


def test_no_frame_passes_before_every_peer_has_given_its_verdict() -> None:
    async def main() -> None:
        answerer = Answerer(welcome=False)
        one = Member(1, options=PeerOptions(settle_s=NEVER_S, keepalive_s=0.02, dead_after_s=0.2))
        caller = await settling(one, answerer)
        caller.writer.write(encode_frame(FrameType.DATA, b"early"))
        await until(lambda: len(one.transport._door._held) == 2)
        held_at = asyncio.get_running_loop().time()
        await until(lambda: one.transport._ticked_at > held_at + 0.3)  # longer than a silent connection lives
        assert one.frames == one.connected == one.lost == []
        assert not one.transport.send(2, b"x")
        answerer.callers[0].writer.write(encode_welcome(Welcome(2, 0xC1, 3, 9)))
        await until(lambda: one.frames == [(4, b"early")])
        await until(lambda: sorted(one.connected) == [2, 3])
        assert one.lost == []

    run(main)


def test_a_member_that_one_peer_refuses_has_not_spoken_to_the_other() -> None:
    async def main() -> None:
        answerer = Answerer(welcome=False)
        seen_by_then: list[list[int]] = []
        one = Member(
            1,
            options=PeerOptions(settle_s=NEVER_S),
            on_refused=lambda _member, _refusal: seen_by_then.append(list(one.connected)),
        )
        await settling(one, answerer)
        answerer.callers[0].writer.write(encode_refusal(FORGOTTEN))
        await until(lambda: seen_by_then == [[]])

    run(main)


def test_a_peer_that_is_silent_is_not_waited_for_longer_than_agreed() -> None:
    async def main() -> None:
        one = Member(1, options=PeerOptions(settle_s=0.05))
        caller = await settling(one, Answerer(welcome=False))
        caller.writer.write(encode_frame(FrameType.DATA, b"x"))
        await until(lambda: one.connected == [2] and one.frames == [(4, b"x")])

    run(main)


def test_a_peer_that_is_down_is_not_waited_for() -> None:
    async def main() -> None:
        two = await started(2)
        one = Member(1, options=PeerOptions(settle_s=NEVER_S)).knows(2, two.port).knows(3, free_ports(1)[0])
        await one.start()
        await until(lambda: one.connected == [2])

    run(main)


def test_members_that_start_together_do_not_wait_for_each_other_in_a_circle() -> None:
    async def main() -> None:
        ports = free_ports(3)
        members = [Member(n, options=PeerOptions(settle_s=NEVER_S)) for n in (1, 2, 3)]
        for n, member in enumerate(members):
            for other in range(3):
                if other != n:
                    member.knows(other + 1, ports[other])
        await asyncio.gather(*(member.start(port) for member, port in zip(members, ports, strict=True)))
        await until(lambda: all(fully_connected(m, n + 1) for i, m in enumerate(members) for n in range(3) if n != i))

    run(main)


def test_what_is_lost_or_removed_while_held_is_no_news() -> None:
    async def main() -> None:
        answerer = Answerer(welcome=False)
        one = Member(1, options=PeerOptions(settle_s=NEVER_S))
        caller = await settling(one, answerer)
        await until(lambda: len(one.transport._door._held) == 2)
        one.transport.remove_peer(2)
        await caller.close()
        one.transport.remove_peer(3)  # nobody is awaited any more
        await until(lambda: not one.transport._links)
        assert one.connected == [], "neither of them was ever announced"
        assert one.frames == []

    run(main)


# Two processes, one name


def test_two_processes_that_take_turns_are_warned_of_once() -> None:
    async def main() -> None:
        one = await Member(1).start()
        with capture_logs() as logs:
            for turn in range(6):
                await Caller.accepted(one.port, incarnation=5 + turn % 2)
        warnings = [entry for entry in logs if "two processes" in entry["event"]]
        assert [entry["member"] for entry in warnings] == [f"{2:016x}"]

    run(main)


def test_restarts_are_not_mistaken_for_two_processes() -> None:
    takeovers = Takeovers()
    assert not any(takeovers.replaced(2, life, life + 1) for life in range(100))
    assert takeovers.replaced(2, 100, 99)
    assert not takeovers.replaced(2, 99, 100), "once is enough"
