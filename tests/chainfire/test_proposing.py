"""What a leader proposes, and what it need not propose again."""

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from plasmacloud.base.alarm import LoopAlarm
from plasmacloud.chainfire.commands import decode, encode_batch
from plasmacloud.chainfire.lane import Lane
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.proposals import ProposalQueue
from plasmacloud.chainfire.proposing import Proposer
from plasmacloud.chainfire.state_meta import Session
from plasmacloud.raft.errors import ProposalRefused, Refusal

ME, OTHER = 1, 2


class FakeRaft:
    """A leader that takes everything, unless told otherwise."""

    def __init__(self) -> None:
        self.term = 1
        self.leader_id = ME
        self.takes_proposals = True
        self.membership_pending = False
        self.refuses = False
        self.numbers: list[tuple[int, int]] = []  # (first, last) of every batch that was proposed

    def propose(self, data: bytes) -> None:
        if self.refuses:
            raise ProposalRefused(Refusal.UNCOMMITTED)
        self.numbers += [(batch.first_seq, batch.first_seq + len(batch.commands) - 1) for batch in decode(data)]

    def hurry_commit(self, member: int) -> None:
        assert member == OTHER


def batch(first: int, last: int, incarnation: int = 7) -> bytes:
    return encode_batch(OTHER, incarnation, first, [(int(CommandKind.PUT), b"")] * (last + 1 - first))


def with_leader(check: Callable[[Any, FakeRaft, dict[int, Session]], None]) -> None:
    async def run() -> None:
        raft = FakeRaft()
        sessions: dict[int, Session] = {}
        lanes: Any = [Lane(ME, 1, ProposalQueue(max_commands=9, max_bytes=99), batch_bytes=9) for _ in range(2)]
        tuning = SimpleNamespace(entry_bytes=1 << 20, gather_s=0.0)
        replica: Any = SimpleNamespace(
            raft=raft,
            transport=None,
            config=SimpleNamespace(tuning=tuning),
            member_id=ME,
            machine=SimpleNamespace(sessions=sessions),
        )
        proposer = Proposer(replica, *lanes, alarms=LoopAlarm, stopwatch=time.monotonic)

        def arrive(*batches: bytes) -> list[tuple[int, int]]:
            raft.numbers.clear()
            for each in batches:
                proposer.forwarded(OTHER, each)
            proposer.send()
            return list(raft.numbers)

        check(arrive, raft, sessions)

    asyncio.run(run())


def test_what_is_in_the_log_of_this_term_is_not_proposed_again() -> None:
    def check(arrive: Any, raft: FakeRaft, sessions: dict[int, Session]) -> None:
        assert arrive(batch(1, 3), batch(4, 4)) == [(1, 3), (4, 4)]
        assert arrive(batch(1, 3), batch(4, 4)) == []
        assert arrive(batch(1, 6)) == [(1, 6)]  # some of it is new; the state machine skips the rest
        raft.term = 2  # what was not committed may be lost
        assert arrive(batch(1, 6)) == [(1, 6)]

    with_leader(check)


def test_what_was_executed_is_not_proposed_again_but_by_another_life() -> None:
    def check(arrive: Any, raft: FakeRaft, sessions: dict[int, Session]) -> None:
        sessions[OTHER] = Session(7, 5)
        assert arrive(batch(4, 5)) == []
        assert arrive(batch(4, 6)) == [(4, 6)]
        assert arrive(batch(1, 2, incarnation=8)) == [(1, 2)]

    with_leader(check)


def test_behind_a_gap_everything_may_come_again() -> None:
    def check(arrive: Any, raft: FakeRaft, sessions: dict[int, Session]) -> None:
        assert arrive(batch(1, 1), batch(3, 4)) == [(1, 1), (3, 4)]
        assert arrive(batch(2, 2), batch(3, 4)) == [(2, 2), (3, 4)]
        assert arrive(batch(3, 4)) == []

    with_leader(check)


def test_a_refused_proposal_may_come_again() -> None:
    def check(arrive: Any, raft: FakeRaft, sessions: dict[int, Session]) -> None:
        raft.refuses = True
        assert arrive(batch(1, 2)) == []
        raft.refuses = False
        assert arrive(batch(1, 2)) == [(1, 2)]

    with_leader(check)
