"""Histories of simulated objects that are linearizable by construction, and the dumbest possible checker."""

import random
from collections.abc import Callable, Hashable, Sequence
from functools import cache

from plasmacloud.verify.models import (
    ABSENT,
    ILLEGAL,
    Add,
    Append,
    Cas,
    Found,
    Insert,
    Model,
    Read,
    VersionedState,
    Write,
)
from plasmacloud.verify.operations import Operation

MS = 1_000_000
Draw = Callable[[random.Random, Hashable, int], tuple[Hashable, Hashable]]
"""Draw the next input for a state, and what a correct object answers; the number is unique."""


def op(client: int, invoke_ms: float, return_ms: float | None, input: Hashable, *output: Hashable) -> Operation:
    """An operation on the key ``k``, with times in milliseconds; without a return time its outcome is unknown."""
    if return_ms is None:
        return Operation(client, "k", round(invoke_ms * MS), None, input)
    return Operation(client, "k", round(invoke_ms * MS), round(return_ms * MS), input, *(output or (None,)))


def simulate(
    model: Model, draw: Draw, seed: int, *, operations: int, clients: int, unknown_share: float = 0.0
) -> list[Operation]:
    """Sequential clients whose operations take effect at a drawn moment between invocation and return."""
    rng = random.Random(seed)
    moments = []
    for client in range(clients):
        now = rng.random()
        for _ in range(operations // clients):
            returned = now + rng.expovariate(1.0) + 0.01
            moments.append((rng.uniform(now, returned), now, returned, client))
            now = returned + rng.expovariate(5.0)
    state = model.init()
    history = []
    for number, (_, invoked, returned, client) in enumerate(sorted(moments)):
        input, output = draw(rng, state, number)
        unknown = rng.random() < unknown_share
        if not unknown or rng.random() < 0.5:  # half of what nobody saw return did happen
            state = model.step(state, input, output)
            assert state is not ILLEGAL
        known = () if unknown else (round(returned * MS), input, output)
        history.append(Operation(client, "k", round(invoked * MS), *(known or (None, input))))
    return history


def draw_register(rng: random.Random, state: Hashable, number: int) -> tuple[Hashable, Hashable]:
    return (Read(), state) if rng.random() < 0.5 else (Write(number), None)


def draw_few_values(rng: random.Random, state: Hashable, number: int) -> tuple[Hashable, Hashable]:
    return (Read(), state) if rng.random() < 0.5 else (Write(rng.randrange(5)), None)


def draw_cas(rng: random.Random, state: Hashable, number: int) -> tuple[Hashable, Hashable]:
    share = rng.random()
    if share < 0.4:
        return Read(), state
    if share < 0.6:
        return Write(number), None
    return (Cas(state, number), True) if share < 0.8 else (Cas(-1, number), Found(state))


def draw_versioned(rng: random.Random, state: Hashable, number: int) -> tuple[Hashable, Hashable]:
    assert isinstance(state, VersionedState)
    share = rng.random()
    seen = ABSENT if state.value is ABSENT else (state.value, state.revision)
    if share < 0.5:
        return Read(), seen
    if share < 0.8:
        return (Write(number) if share < 0.7 else Cas(state.value, number)), 10 * number + 5
    return Cas(-1, number), Found(seen)


def draw_counter(rng: random.Random, state: Hashable, number: int) -> tuple[Hashable, Hashable]:
    return (Read(), state) if rng.random() < 0.5 else (Add(rng.randint(1, 5)), None)


def draw_list(rng: random.Random, state: Hashable, number: int) -> tuple[Hashable, Hashable]:
    return (Read(), state) if rng.random() < 0.5 else (Append(number), None)


def draw_set(rng: random.Random, state: Hashable, number: int) -> tuple[Hashable, Hashable]:
    return (Read(), state) if rng.random() < 0.5 else (Insert(number), None)


def draw_text(rng: random.Random, state: Hashable, number: int) -> tuple[Hashable, Hashable]:
    share = rng.random()
    if share < 0.5:
        return Read(), state
    return (Append(f"x {number} y") if share < 0.95 else Write(f"x {number} y")), None


def try_everything(operations: Sequence[Operation], model: Model) -> bool:
    """Whether any order will do: all permutations, cut short only where the model says no."""

    @cache
    def go(left: frozenset[int], state: Hashable) -> bool:
        if not any(operations[i].known for i in left):
            return True
        for i in left:
            preceded = any(
                other.return_ns is not None and other.return_ns < operations[i].invoke_ns
                for other in (operations[j] for j in left)
            )
            after = ILLEGAL if preceded else model.step(state, operations[i].input, operations[i].output)
            if after is not ILLEGAL and go(left - {i}, after):
                return True
        return False

    return go(frozenset(range(len(operations))), model.init())
