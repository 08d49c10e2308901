"""Linearizability: is there one order of all operations that explains every answer and respects real time?

    result = check(history, Register())
    result.answer                # OK, VIOLATION, or UNKNOWN when the budget was not enough
    result.violations()          # for people: `plasmacloud.verify.counterexample`, and as HTML beside it

The history is split as the model says (by key), and each part is searched on its own (`plasmacloud.verify.search`).
Running out of the budget is UNKNOWN, never OK. A violation comes with a counterexample that people can read: the
smallest prefix of the history that cannot be explained, an order of everything in it but what returned last, and that
for which there is no place in any such order.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

import msgspec

from plasmacloud.verify.model import Model, clip
from plasmacloud.verify.operations import Operation, prefix_until
from plasmacloud.verify.search import Answer, Budget, Finding, search

MAX_STEPS = 5_000_000
"""Enough for a minute of pure Python; a history that needs more is better recorded with more keys."""


MAX_STATES = 40
"""How many states a counterexample describes."""


class Counterexample(msgspec.Struct, frozen=True):
    """Why a part of a history is not linearizable.

    ``prefix``: the operations seen by ``until_ns``, those under way then being open; one return earlier everything
    could still be explained. ``order``: how, a linearization of everything that had returned before. ``stuck``: what
    returned then, mostly one operation, for which neither this order nor any other one has a place. ``states``
    describes the state after each of the last operations of the order. ``minimal`` is False when the budget ended the
    search for a smaller prefix.
    """

    key: str
    until_ns: int
    prefix: tuple[Operation, ...]
    order: tuple[Operation, ...]
    stuck: tuple[Operation, ...]
    states: tuple[str, ...] = ()
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
    the whole has explained everything before ``whole.blocked_ns``, and may suspect an operation.
    """
    assert whole.answer is Answer.VIOLATION
    returns = sorted({op.return_ns for op in operations if op.return_ns is not None})
    low, high = bisect_left(returns, whole.blocked_ns), len(returns) - 1  # the answer is at an index in [low, high]
    guesses = [low]
    if whole.suspect_ns is not None:
        suspect = bisect_left(returns, whole.suspect_ns)
        guesses = [suspect - 1, suspect]
    explained: tuple[int, Finding] = (-1, Finding(Answer.OK, ()))
    minimal, stride = True, 1
    while low < high:
        # Guesses first; then steps that double; then halves.
        guess = guesses.pop() if guesses else min(low + stride, (low + high) // 2)
        stride *= 2
        at = min(max(low, guess), high - 1)
        found = search(model, prefix_until(operations, returns[at]), budget)
        if found.answer is Answer.VIOLATION:
            high = at
        elif found.answer is Answer.OK:
            low, explained = at + 1, (at, found)
        else:
            minimal = False
            break
    if minimal and explained[0] != high - 1 and high:
        explained = (high - 1, search(model, prefix_until(operations, returns[high - 1]), budget))
        minimal = explained[1].answer is Answer.OK
    until_ns, order = returns[high], explained[1].order
    prefix = sorted(prefix_until(operations, until_ns), key=lambda op: (op.invoke_ns, op.client))
    before = returns[explained[0]] if explained[0] >= 0 else -1
    stuck = tuple(op for op in prefix if op.return_ns is not None and op.return_ns > before)
    return Counterexample(key, until_ns, tuple(prefix), order, stuck, _last_states(model, order), minimal)


def _last_states(model: Model, order: Sequence[Operation]) -> tuple[str, ...]:
    state = model.init()
    described = []
    for number, op in enumerate(order):
        state = model.step(state, op.input, op.output)
        if number >= len(order) - MAX_STATES:
            described.append(clip(model.describe_state(state)))
    return tuple(described)
