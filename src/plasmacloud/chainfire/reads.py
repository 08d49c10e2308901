"""Linearizable reads: whoever asks is answered from a state at least as new as the moment of the question.

Reads that arrive together share one *round*: the leader confirms with a quorum that it still leads and names its
commit index; when this member has applied that index, the reads of the round may be answered (Raft thesis, section
6.4). A round without an answer, because the leader died or a message was lost, is asked again, after a while that
doubles each time. It stays the same round: whichever question is answered at last, the quorum was asked after the reads
had begun. To give a round up instead would never answer anybody whose way to the leader is longer than the first wait.

Pure: the time is an argument (seconds, monotonic).
"""

from collections import deque
from typing import Generic, NamedTuple, TypeVar

W = TypeVar("W")

FIRST_WAIT_S = 0.15
LONGEST_WAIT_S = 2.0
MAX_ROUNDS = 4  # rounds under way at once: one is confirmed while the next collects


class _Read(NamedTuple, Generic[W]):
    waiter: W
    deadline: float


class _Round(Generic[W]):
    __slots__ = ("again_at", "context", "index", "reads", "wait_s")

    def __init__(self, context: int, reads: list[_Read[W]], started: float) -> None:
        self.context = context
        self.reads = reads
        self.wait_s = FIRST_WAIT_S
        self.again_at = started + self.wait_s
        self.index: int | None = None  # the confirmed read index


class ReadQueue(Generic[W]):
    """Reads that wait for their read index. ``W`` is whatever the caller wants back.

    ``first_context`` must be larger than any context of the member's earlier lives: an answer to a question of an
    earlier life, still under way, may be older than a question of this one.
    """

    def __init__(self, *, first_context: int = 1) -> None:
        self._waiting: list[_Read[W]] = []
        self._rounds: deque[_Round[W]] = deque()
        self._next_context = first_context

    def __len__(self) -> int:
        return len(self._waiting) + sum(len(r.reads) for r in self._rounds)

    @property
    def has_waiting(self) -> bool:
        """Whether a new round could be started now."""
        return bool(self._waiting) and len(self._rounds) < MAX_ROUNDS

    def submit(self, waiter: W, deadline: float) -> None:
        """Queue a read."""
        self._waiting.append(_Read(waiter, deadline))

    def start_round(self, now: float) -> int:
        """All waiting reads form a round; returns its context, a number never used before."""
        assert self.has_waiting
        context = self._next_context
        self._next_context += 1
        self._rounds.append(_Round(context, self._waiting, now))
        self._waiting = []
        return context

    def confirmed(self, context: int, index: int) -> None:
        """The quorum has confirmed the round. An answer to a round that is over is ignored."""
        for round_ in self._rounds:
            if round_.context == context and round_.index is None:
                round_.index = index

    def take_ready(self, applied: int) -> list[W]:
        """The reads that may be answered by a member that has applied ``applied``."""
        if not self._rounds:
            return []
        ready: list[W] = []
        kept: deque[_Round[W]] = deque()
        for round_ in self._rounds:
            if round_.index is not None and round_.index <= applied:
                ready.extend(read.waiter for read in round_.reads)
            else:
                kept.append(round_)
        self._rounds = kept
        return ready

    def ask_again(self, now: float, *, all_of_them: bool = False) -> list[int]:
        """The contexts of the rounds whose question should be repeated now; of every open round for a new leader."""
        due = [r for r in self._rounds if r.index is None and (all_of_them or r.again_at <= now)]
        for round_ in due:
            round_.wait_s = FIRST_WAIT_S if all_of_them else min(2 * round_.wait_s, LONGEST_WAIT_S)
            round_.again_at = now + round_.wait_s
        return [round_.context for round_ in due]

    def expire(self, now: float) -> list[W]:
        """The reads whose deadline has passed. They are answered by an error, and by nothing else later."""
        expired: list[W] = []

        def keep(reads: list[_Read[W]]) -> list[_Read[W]]:
            if not reads or min(read.deadline for read in reads) > now:
                return reads
            expired.extend(read.waiter for read in reads if read.deadline <= now)
            return [read for read in reads if read.deadline > now]

        self._waiting = keep(self._waiting)
        for round_ in self._rounds:
            round_.reads = keep(round_.reads)
        self._rounds = deque(round_ for round_ in self._rounds if round_.reads)
        return expired

    def abandon(self) -> list[W]:
        """The member stops: all waiters."""
        waiters = [read.waiter for read in self._waiting]
        waiters += [read.waiter for round_ in self._rounds for read in round_.reads]
        self._waiting = []
        self._rounds.clear()
        return waiters
