"""What members note down for themselves: each rule is broken by somebody, and finds it within a few seeds."""

import random
from pathlib import Path

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
from rule_breakers import breaks, is_found

from plasmacloud.sim.disk import SimDisk
from plasmacloud.sim.options import FaultKind, Options, WorkloadOptions
from plasmacloud.sim.simulation import Simulation

MAX_SEEDS = 12


ON_DISK = "what counts as durable is on the disk"
MUTANTS = {
    "one write vouches for all": breaks(ON_DISK, raft_class=with_log(OneForAll)),
    "terms are durable at once": breaks(ON_DISK, raft_class=TermsCountAtOnce),
    "answers before their term is durable": breaks("who speaks in a term has it on disk", raft_class=SpeaksTooEarly),
    "cut changes are expected": breaks(
        "a log knows its changes of the membership", FaultKind.CHASE, raft_class=with_log(KeepsWhatWasCut)
    ),
    "changes in force that a crash forgets": breaks(
        "a configuration in force is never forgotten", FaultKind.REPLACE, raft_class=with_log(ChangesTooEarly)
    ),
    "committed and counted": breaks("what waits for its commit is counted", raft_class=CountsForEver),
    "transfer without an end": breaks("a transfer of leadership ends", FaultKind.TRANSFER, raft_class=HandsOverForEver),
    "new voters keep their leader": breaks(
        "who leads hears from a majority",
        FaultKind.RIFT,
        FaultKind.REPLACE,
        raft_class=with_tracker(NewVotersAreEnough),
    ),
    "lost appends": breaks("what a member lacks is sent", raft_class=SendsOnceOnly),
    "appends without an answer": breaks("an append is answered", raft_class=KnowsItAll),
    "questions asked once": breaks("who waits asks again", replica_class=AsksOnce),
    "log shortened below a snapshot": breaks("the log goes on behind a snapshot under way", log_class=KeepsNothing),
    "marks without members": breaks("a mark is that of its index", log_class=MarksAnything),
    "leavers forgotten": breaks("who has left has no say", FaultKind.LEAVE, machine_class=LetsGo),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_rule_finds_who_breaks_it(name: str) -> None:
    assert is_found(MUTANTS[name], MAX_SEEDS), f"not found with {MAX_SEEDS} seeds"


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
