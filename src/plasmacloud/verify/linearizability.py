"""Linearizability: is there one order of all operations that explains every answer and respects real time?

    result = check(history, Register())
    result.answer                # OK, VIOLATION, or UNKNOWN when the budget was not enough
    result.violations()[0].text()

The history is split as the model says (by key), and each part is searched on its own (`plasmacloud.verify.search`).
Running out of the budget is UNKNOWN, never OK. A violation comes with a counterexample that people can read: the
smallest prefix of the history that cannot be explained, as far as an ordering of it gets, and what is left over.
"""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from plasmacloud.verify.models import Model
from plasmacloud.verify.operations import Operation, prefix_until
from plasmacloud.verify.search import Answer, Budget, Finding, search

MAX_STEPS = 5_000_000
"""Enough for a minute of pure Python; a history that needs more is better recorded with more keys."""


class Counterexample(msgspec.Struct, frozen=True):
    """Why a part of a history is not linearizable.

    ``prefix``: the operations seen by ``until_ns``, those under way then being open; one return earlier everything
    could still be explained. ``order``: the longest beginning of a linearization of the prefix. ``stuck``: operations
    of the prefix that returned and have no place in that order. ``minimal`` is False when the budget ended the search
    for a smaller prefix.
    """

    key: str
    until_ns: int
    prefix: tuple[Operation, ...]
    order: tuple[Operation, ...]
    stuck: tuple[Operation, ...]
    minimal: bool = True


class PartResult(msgspec.Struct, frozen=True):
    """The answer for one key. ``order``: a linearization when it is OK. ``reason``: why it is unknown."""

    key: str
    answer: Answer
    operations: int
    order: tuple[Operation, ...] = ()
    reason: str = ""
    counterexample: Counterexample | None = None


class Result(msgspec.Struct, frozen=True):
    """The answer for a whole history: a violation anywhere is a violation; OK needs every part to be OK."""

    model: str
    parts: tuple[PartResult, ...]
    steps: int

    @property
    def answer(self) -> Answer:
        answers = {part.answer for part in self.parts}
        return next((each for each in (Answer.VIOLATION, Answer.UNKNOWN) if each in answers), Answer.OK)

    @property
    def operations(self) -> int:
        return sum(part.operations for part in self.parts)

    def violations(self) -> list[Counterexample]:
        """One for each part that is not linearizable."""
        return [part.counterexample for part in self.parts if part.counterexample is not None]


def check(
    history: Iterable[Operation],
    model: Model,
    *,
    max_steps: int = MAX_STEPS,
    time_limit: float | None = None,
    clock: Callable[[], float] | None = None,
) -> Result:
    """Judge a history. Pure and deterministic, but for the time limit.

    ``max_steps`` bounds the search of each part, and once more the search for its smallest counterexample.
    ``time_limit`` bounds everything together, on ``clock`` and in its unit (seconds with `time.monotonic`).
    """
    deadline = None if time_limit is None or clock is None else clock() + time_limit
    if time_limit is not None and clock is None:
        raise ValueError("a time limit needs a clock")

    def budget() -> Budget:
        left = None if deadline is None or clock is None else max(0.0, deadline - clock())
        return Budget(max_steps, clock, left)

    parts = []
    steps = 0
    for key, operations in model.partition(history).items():
        spent = budget()
        found = search(model, operations, spent)
        steps += spent.steps
        match found.answer:
            case Answer.OK:
                part = PartResult(key, Answer.OK, len(operations), order=found.order)
            case Answer.UNKNOWN:
                part = PartResult(key, Answer.UNKNOWN, len(operations), reason=spent.exhausted)
            case Answer.VIOLATION:
                example = smallest_counterexample(key, model, operations, found, budget())
                part = PartResult(key, Answer.VIOLATION, len(operations), counterexample=example)
        parts.append(part)
    return Result(model.name, tuple(parts), steps)


def smallest_counterexample(
    key: str, model: Model, operations: Sequence[Operation], whole: Finding, budget: Budget
) -> Counterexample:
    """The smallest prefix that is not linearizable, given that the whole is not (``whole``).

    A prefix of a linearizable history is linearizable, so the returns are searched like an ordered list. The search of
    the whole has explained everything before ``whole.blocked_ns``, which is where the answer usually is.
    """
    assert whole.answer is Answer.VIOLATION
    returns = sorted(
        {op.return_ns for op in operations if op.return_ns is not None and op.return_ns >= whole.blocked_ns}
    )
    low, high = 0, len(returns) - 1  # the answer is at an index in [low, high]
    best = (returns[high], whole)
    stride = 0
    minimal = True
    while low < high:
        # The first guess is the lowest; then steps that double; then halves.
        middle = min(low + stride, (low + high) // 2)
        stride = 2 * stride + 1
        found = search(model, prefix_until(operations, returns[middle]), budget)
        if found.answer is Answer.VIOLATION:
            best, high = (returns[middle], found), middle
        elif found.answer is Answer.OK:
            low = middle + 1
        else:
            minimal = False
            break
    if minimal and best[0] != returns[low]:
        found = search(model, prefix_until(operations, returns[low]), budget)
        if found.answer is Answer.VIOLATION:
            best = (returns[low], found)
        minimal = found.answer is Answer.VIOLATION
    until_ns, found = best
    prefix = sorted(prefix_until(operations, until_ns), key=lambda op: (op.invoke_ns, op.client))
    placed = {id(op) for op in found.order}
    ordered = set(found.order)
    stuck = tuple(op for op in prefix if op.known and id(op) not in placed and op not in ordered)
    return Counterexample(key, until_ns, tuple(prefix), found.order, stuck, minimal)
