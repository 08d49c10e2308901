"""What judging a history costs: ten thousand operations of sixteen clients on one key, for every model.

    python bench/linearizability.py [--operations 10000] [--clients 16] [--seed 1] [--file FILE ...]

Histories are drawn, so they are linearizable; the second half of the table has one read each that shows an old value,
which includes the search for the smallest prefix that explains it. ``unknown``: share of operations whose outcome
nobody saw. With ``--file``, published histories are judged instead (see `plasma lab check-history`).
"""

import argparse
import random
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import msgspec

from plasmacloud.verify.foreign_histories import read_history
from plasmacloud.verify.linearizability import check
from plasmacloud.verify.models import (
    ILLEGAL,
    Add,
    Append,
    AppendList,
    Cas,
    Counter,
    Found,
    GrowSet,
    Insert,
    Model,
    Read,
    Register,
    Text,
    VersionedRegister,
    VersionedState,
    Write,
)
from plasmacloud.verify.operations import Operation

READ_SHARE = 0.5
Draw = Callable[[random.Random, Hashable, int], tuple[Hashable, Hashable]]


def _unique(rng: random.Random, state: Hashable, number: int) -> tuple[Hashable, Hashable]:
    return Write(number), None


def _few(rng: random.Random, state: Hashable, number: int) -> tuple[Hashable, Hashable]:
    return Write(rng.randrange(5)), None


def _cas(rng: random.Random, state: Hashable, number: int) -> tuple[Hashable, Hashable]:
    share = rng.random()
    if share < 0.4:
        return Write(number), None
    return (Cas(state, number), True) if share < 0.7 else (Cas(-1, number), Found(state))


def _versioned(rng: random.Random, state: Hashable, number: int) -> tuple[Hashable, Hashable]:
    assert isinstance(state, VersionedState)
    if rng.random() < 0.6 or state.value is None:
        return Write(number), 10 * number + 1
    return Cas(-1, number), Found((state.value, state.revision))


def _counter(rng: random.Random, state: Hashable, number: int) -> tuple[Hashable, Hashable]:
    return Add(rng.randint(1, 5)), None


def _list(rng: random.Random, state: Hashable, number: int) -> tuple[Hashable, Hashable]:
    return Append(number), None


def _set(rng: random.Random, state: Hashable, number: int) -> tuple[Hashable, Hashable]:
    return Insert(number), None


KINDS: dict[str, tuple[Callable[[], Model], Draw]] = {
    "register, unique values": (Register, _unique),
    "register, five values": (Register, _few),
    "compare-and-set": (Register, _cas),
    "versioned": (VersionedRegister, _versioned),
    "counter": (Counter, _counter),
    "list": (AppendList, _list),
    "set": (GrowSet, _set),
}


def draw_history(
    model: Model, draw: Draw, rng: random.Random, operations: int, clients: int, unknown: float
) -> list[Operation]:
    """Sequential clients; every operation takes effect at a drawn moment between its invocation and its return."""
    moments = []
    for client in range(clients):
        now = rng.random()
        for _ in range(operations // clients):
            returned = now + rng.expovariate(1.0) + 0.01
            moments.append((rng.uniform(now, returned), now, returned, client))
            now = returned + rng.expovariate(5.0)
    state, history = model.init(), []
    for number, (_, invoked, returned, client) in enumerate(sorted(moments)):
        seen = (state.value, state.revision) if isinstance(state, VersionedState) and state.revision else state
        reading: tuple[Hashable, Hashable] = (Read(), None if isinstance(seen, VersionedState) else seen)
        input, output = reading if rng.random() < READ_SHARE else draw(rng, state, number)
        open_ended = rng.random() < unknown
        if not open_ended or rng.random() < 0.5:
            state = model.step(state, input, output)
            assert state is not ILLEGAL
        begin_ns, end_ns = round(invoked * 1e6), round(returned * 1e6)
        history.append(
            Operation(client, "k", begin_ns, None, input)
            if open_ended
            else Operation(client, "k", begin_ns, end_ns, input, output)
        )
    return history


def spoil(history: list[Operation]) -> list[Operation]:
    """One read in the middle shows what one showed a few hundred operations before."""
    reads = [at for at, op in enumerate(history[: len(history) * 2 // 3]) if isinstance(op.input, Read) and op.known]
    at = reads[-1]
    old = next(history[i].output for i in reads[-150:] if history[i].output != history[at].output)
    spoilt = msgspec.structs.replace(history[at], output=old)
    return [*history[:at], spoilt, *history[at + 1 :]]


def _measure(name: str, unknown: float, history: Sequence[Operation], model: Model) -> None:
    begin = time.perf_counter()
    result = check(history, model)
    spent = time.perf_counter() - begin
    print(
        f"{name:<26} {unknown:>7.0%} {len(history):>8} {result.answer.value:>17} {result.steps:>9} {spent:>8.2f} "
        f"{len(history) / spent:>12,.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", type=Path, action="append", default=[], help="judge a published history; repeatable")
    given = parser.parse_args()
    print(
        f"{'history':<26} {'unknown':>7} {'length':>8} {'answer':>17} {'steps':>9} {'seconds':>8} {'operations/s':>12}"
    )
    for file in given.file:
        lines = file.read_text(errors="replace").splitlines()
        model: Model = Text() if any(":append" in line for line in lines) else Register()
        history = read_history(lines, model)
        _measure(file.name, sum(not op.known for op in history) / len(history), history, model)
    if given.file:
        return
    for spoilt in (False, True):
        for name, (make, draw) in KINDS.items():
            for unknown in (0.0, 0.01):
                if unknown and name == "counter":
                    continue  # which of many open additions happened is a subset sum
                history = draw_history(
                    make(), draw, random.Random(given.seed), given.operations, given.clients, unknown
                )
                _measure(name, unknown, spoil(history) if spoilt else history, make())


if __name__ == "__main__":
    main()
