"""The rules are really looked at: members that break them are found.

Each mutant is a member with one promise broken, given to the simulation as its ``member_class``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from plasmacloud.base.logging import silence_logging
from plasmacloud.chainfire.running_member import RunningMember
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.raft.raft import Raft
from plasmacloud.raft.state import StateRole
from plasmacloud.sim.clock import World
from plasmacloud.sim.observer import Observer, Violation
from plasmacloud.sim.options import draw_options
from plasmacloud.sim.simulation import Simulation
from plasmacloud.sim.trace import Trace
from plasmacloud.storage.entry import Entry, HardState
from plasmacloud.storage.wal import Wal

MAX_SEEDS = 12


class VoteNotPersisted(Raft):
    def _take_hard_state(self) -> HardState | None:
        taken = super()._take_hard_state()
        return None if taken is None else msgspec.structs.replace(taken, vote=0)


class AcknowledgesBeforeSync(Wal):
    def append(
        self, hard_state: HardState | None, entries: Sequence[Entry], on_durable: Callable[[], None] | None = None
    ) -> None:
        super().append(hard_state, entries)
        if on_durable is not None:
            on_durable()


class AppliesTwice(StateMachine):
    """Forgets what it has executed when a batch comes again."""

    def _begin(self, origin: int, incarnation: int, first_seq: int) -> int | None:
        return None if super()._begin(origin, incarnation, first_seq) is None else 0


class ReadsAtOnce(Raft):
    """A leader that answers reads without asking anybody whether it still leads."""

    def read_index(self, context: int) -> None:
        if self.role is StateRole.LEADER:
            self._read_states.append((context, self.commit))
        else:
            super().read_index(context)


class NeverStands(Raft):
    def campaign(self) -> None:
        pass


def mutant(**parts: type) -> type[RunningMember]:
    return type("Mutant", (RunningMember,), dict(parts))


MUTANTS: dict[str, tuple[type[RunningMember], set[str]]] = {
    "vote not persisted": (mutant(raft_class=VoteNotPersisted), {"a vote is never forgotten"}),
    "acknowledged before it is synced": (
        mutant(log_class=AcknowledgesBeforeSync),
        {
            "what is committed is on a majority of disks",
            "what was acknowledged is durable",
            "leader completeness",
            "a healthy disk is believed",
        },
    ),
    "a batch that comes twice is applied twice": (
        mutant(machine_class=AppliesTwice),
        {"no defect", "linearizability", "state machine safety"},
    ),
    "reads without confirmation": (mutant(raft_class=ReadsAtOnce), {"linearizability"}),
    "nobody stands for election": (mutant(raft_class=NeverStands), {"a healed majority makes progress"}),
}


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    silence_logging()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_promise_is_found(name: str) -> None:
    member_class, rules = MUTANTS[name]
    for seed in range(1, 1 + MAX_SEEDS):
        outcome = Simulation(draw_options(seed), member_class=member_class).run()
        if outcome.failed:
            assert outcome.rule in rules, outcome.text
            assert outcome.last_words
            return
    raise AssertionError(f"not found with {MAX_SEEDS} seeds")


def observer() -> Observer:
    return Observer(Trace(World()))


def test_a_vote_may_be_given_once() -> None:
    watching = observer()
    watching.voted(1, 5, 2)
    watching.voted(1, 5, 2)
    watching.voted(1, 6, 3)
    with pytest.raises(Violation, match="a vote is never forgotten"):
        watching.voted(1, 5, 3)


def test_what_the_simulation_ends_with_names_the_rule() -> None:
    violation: Any = Violation("a rule", "and what broke it")
    assert (violation.rule, str(violation)) == ("a rule", "a rule: and what broke it")
