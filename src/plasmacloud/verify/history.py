"""The history: every write the lab's clients tried, with what they know about it.

Three outcomes are kept strictly apart, because everything else follows from them:

``ok``    the system acknowledged the write: it must be there, on every node, for ever;
``fail``  the client knows that the write was *not* executed: it must never appear;
``info``  nobody knows (connection died, deadline passed): it stays open for ever and may appear at any time.

Every write has its own key and its own value, so that a key found in a store names exactly one attempt.
"""

from collections.abc import Iterable
from enum import Enum

import msgspec


class Outcome(Enum):
    """What the client knows about one operation."""

    OK = "ok"
    FAIL = "fail"
    INFO = "info"


class Op(msgspec.Struct, frozen=True, omit_defaults=True):
    """One put. Times are CLOCK_MONOTONIC nanoseconds of the lab process.

    ``return_ns`` is when the client stopped waiting; for ``info`` this says nothing about the effect.
    ``revision`` is the one the acknowledgement carried, 0 otherwise. ``answered``: the outcome is the node's own word,
    not a connection that failed or a deadline that passed. ``attempts``: more than one only where the write was made
    in a way that is safe to repeat; the outcome is that of all attempts together.
    """

    trial: int
    client: int
    seq: int
    node: str
    key: str
    value: str
    invoke_ns: int
    return_ns: int
    outcome: Outcome
    revision: int = 0
    error: str = ""
    answered: bool = True
    attempts: int = 1

    def __post_init__(self) -> None:
        if self.return_ns < self.invoke_ns:
            raise ValueError(f"{self.key}: returned before it was invoked")
        if self.outcome is Outcome.OK and self.revision <= 0:
            raise ValueError(f"{self.key}: acknowledged without a revision")


def acknowledged(history: Iterable[Op]) -> list[Op]:
    """The writes that must be in the store."""
    return [op for op in history if op.outcome is Outcome.OK]


class OutcomeCounts(msgspec.Struct, frozen=True):
    """How many operations ended in which way."""

    ok: int
    fail: int
    info: int

    @property
    def total(self) -> int:
        return self.ok + self.fail + self.info


def count_outcomes(history: Iterable[Op]) -> OutcomeCounts:
    """Count operations by outcome."""
    tally = dict.fromkeys(Outcome, 0)
    for op in history:
        tally[op.outcome] += 1
    return OutcomeCounts(tally[Outcome.OK], tally[Outcome.FAIL], tally[Outcome.INFO])


def broken_assumptions(history: Iterable[Op]) -> list[str]:
    """What the checkers take for granted, checked: sequential clients, unique keys. Empty when all hold."""
    problems: list[str] = []
    seen: set[str] = set()
    last_return: dict[int, int] = {}
    for op in sorted(history, key=lambda op: (op.client, op.invoke_ns, op.seq)):
        if op.key in seen:
            problems.append(f"key {op.key} was written by two operations")
        seen.add(op.key)
        if op.invoke_ns < last_return.get(op.client, 0):
            problems.append(f"client {op.client} had two operations in flight at seq {op.seq}")
        last_return[op.client] = op.return_ns
    return problems
