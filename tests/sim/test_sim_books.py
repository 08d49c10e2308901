"""What members note down for themselves: each rule is broken by somebody, and finds it within a few seeds."""

import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mutants_books import (
    AsksOnce,
    ChangesTooEarly,
    CountsForEver,
    HandsOverForEver,
    KeepsNothing,
    KeepsWhatWasCut,
    KnowsItAll,
    LetsGo,
    MarksAnything,
    NewVotersAreEnough,
    OneForAll,
    SendsOnceOnly,
    SpeaksTooEarly,
    TermsCountAtOnce,
)
from mutants_rules import with_log, with_tracker

from plasmacloud.base.logging import silence_logging
from plasmacloud.chainfire.running_member import RunningMember
from plasmacloud.sim.disk import SimDisk
from plasmacloud.sim.options import FaultKind, Options, WorkloadOptions, draw_options
from plasmacloud.sim.simulation import Simulation

MAX_SEEDS = 12


class Mutant(NamedTuple):
    """``kinds``: the faults that it takes; with none, those that are drawn."""

    member_class: type[RunningMember]
    rule: str
    kinds: tuple[FaultKind, ...]


def _mutant(rule: str, *kinds: FaultKind, **parts: Any) -> Mutant:
    return Mutant(type("MutantMember", (RunningMember,), parts), rule, kinds)


ON_DISK = "what counts as durable is on the disk"
MUTANTS = {
    "one write vouches for all": _mutant(ON_DISK, raft_class=with_log(OneForAll)),
    "terms are durable at once": _mutant(ON_DISK, raft_class=TermsCountAtOnce),
    "answers before their term is durable": _mutant("who speaks in a term has it on disk", raft_class=SpeaksTooEarly),
    "cut changes are expected": _mutant(
        "a log knows its changes of the membership", FaultKind.CHASE, raft_class=with_log(KeepsWhatWasCut)
    ),
    "changes in force that a crash forgets": _mutant(
        "a configuration in force is never forgotten", FaultKind.REPLACE, raft_class=with_log(ChangesTooEarly)
    ),
    "committed and counted": _mutant("what waits for its commit is counted", raft_class=CountsForEver),
    "transfer without an end": _mutant(
        "a transfer of leadership ends", FaultKind.TRANSFER, raft_class=HandsOverForEver
    ),
    "new voters keep their leader": _mutant(
        "who leads hears from a majority",
        FaultKind.RIFT,
        FaultKind.REPLACE,
        raft_class=with_tracker(NewVotersAreEnough),
    ),
    "lost appends": _mutant("what a member lacks is sent", raft_class=SendsOnceOnly),
    "appends without an answer": _mutant("an append is answered", raft_class=KnowsItAll),
    "questions asked once": _mutant("who waits asks again", replica_class=AsksOnce),
    "log shortened below a snapshot": _mutant("the log goes on behind a snapshot under way", log_class=KeepsNothing),
    "marks without members": _mutant("a mark is that of its index", log_class=MarksAnything),
    "leavers forgotten": _mutant("who has left has no say", FaultKind.LEAVE, machine_class=LetsGo),
}


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    silence_logging()


def finds(mutant: Mutant, seed: int) -> bool:
    options = draw_options(seed)
    if mutant.kinds:
        options = Options(seed=seed, mean_gap_s=dict.fromkeys(mutant.kinds, 5.0))
    return Simulation(options, member_class=mutant.member_class).run().rule == mutant.rule


@pytest.mark.parametrize("name", MUTANTS)
def test_the_rule_finds_who_breaks_it(name: str) -> None:
    assert any(finds(MUTANTS[name], seed) for seed in range(1, 1 + MAX_SEEDS)), f"not found with {MAX_SEEDS} seeds"


def test_torn_ends_and_interrupted_starts_happen_and_are_borne() -> None:
    counts: dict[str, int] = {}
    for seed in range(1, 5):
        options = Options(
            seed=seed,
            fault_phase_s=20.0,
            workload=WorkloadOptions(value_bytes=1500),  # one sector is not torn
            mean_gap_s={FaultKind.TEAR: 2.0, FaultKind.FALSE_START: 3.0},
        )
        outcome = Simulation(options).run()
        assert not outcome.failed, outcome.text
        for what, times in outcome.counts.items():
            counts[what] = counts.get(what, 0) + times
    assert counts["logs with a torn end"] > 2
    assert counts["false starts"] > 3


def test_a_disk_knows_what_would_survive() -> None:
    disk, folder = SimDisk(random.Random(1)), Path("/data")
    disk.make_directory(folder)
    file = disk.create(folder / "a")
    assert not disk.would_survive(folder / "a", 0)  # neither the name is durable
    disk.sync_directory(folder)
    file.pwritev([b"x" * 10], 0)
    assert not disk.would_survive(folder / "a", 0)  # nor what was written
    file.fdatasync()
    assert disk.would_survive(folder / "a", 0)
    file.pwritev([b"y"], 5)
    assert disk.would_survive(folder / "a", 4)
    assert not disk.would_survive(folder / "a", 5)
    disk.rename(folder / "a", folder / "b")
    assert not disk.would_survive(folder / "b", 4)
