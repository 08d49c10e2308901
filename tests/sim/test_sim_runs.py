"""Whole runs: a seed is a run, and the real code passes."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from plasmacloud.sim.campaign import run_seed
from plasmacloud.sim.case import Case, case_of_seed, read_case
from plasmacloud.sim.options import FaultKind, Options, draw_options
from plasmacloud.sim.schedule import draw_schedule
from plasmacloud.sim.simulation import Outcome, Simulation

CORPUS = Path(__file__).parent / "corpus"
REPLAY = """
import sys
from plasmacloud.base.logging import silence_logging
from plasmacloud.sim.simulation import Simulation
from plasmacloud.sim.options import draw_options
import msgspec
silence_logging()
for seed in map(int, sys.argv[1:]):
    options = msgspec.structs.replace(draw_options(seed), fault_phase_s=15.0)
    outcome = Simulation(options).run()
    print(outcome.digest, outcome.steps, outcome.commits, outcome.answered)
"""


def passes(outcome: Outcome) -> Outcome:
    assert not outcome.failed, "\n".join([outcome.text, *outcome.last_words])
    return outcome


def replay(*seeds: int, hash_seed: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", REPLAY, *map(str, seeds)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert result.stderr == ""
    return result.stdout.splitlines()


def test_a_seed_is_a_run_in_any_process_under_any_hash_seed() -> None:
    seeds = (3, 7, 11)
    first = replay(*seeds, hash_seed="1")
    assert len({line.split()[0] for line in first}) == len(seeds)
    assert replay(*seeds, hash_seed="4242") == first
    # Nor does it matter what ran in the process before.
    assert replay(*reversed(seeds), hash_seed="0") == first[::-1]


def test_a_calm_cluster_elects_once_and_answers_everything() -> None:
    outcome = passes(Simulation(Options(seed=1, fault_phase_s=20.0)).run())
    assert outcome.answered > 100
    assert outcome.answered == outcome.counts["requests"]
    assert outcome.elections <= 2  # the second is that of the recovery, in which the leader may be switched off
    assert outcome.commits > 50


@pytest.mark.parametrize("kind", list(FaultKind), ids=lambda kind: kind.value)
def test_every_kind_of_fault_happens_and_is_borne(kind: FaultKind) -> None:
    happened = 0
    for seed in range(5):
        options = Options(seed=seed, members=3, fault_phase_s=20.0, mean_gap_s={kind: 4.0})
        happened += passes(Simulation(options).run()).counts.get(kind.value, 0)
        if happened:
            break
    assert happened


@pytest.mark.parametrize("seed", range(1, 9))
def test_drawn_runs_pass(seed: int) -> None:
    passes(run_seed(seed))


def test_options_differ_from_seed_to_seed_and_faults_are_an_explicit_list() -> None:
    drawn = [draw_options(seed) for seed in range(50)]
    assert {options.members for options in drawn} == {1, 3, 5}
    assert len({options.tuning for options in drawn}) > 40
    kinds = {kind for options in drawn for kind in options.mean_gap_s}
    assert kinds == set(FaultKind)
    options = drawn[2]
    schedule = draw_schedule(options)
    assert schedule == draw_schedule(options) == sorted(schedule, key=lambda fault: (fault.at_s, fault.kind.value))
    assert Simulation(options, schedule).schedule == Simulation(options).schedule


def test_a_case_is_the_run_of_its_seed(tmp_path: Path) -> None:
    case = case_of_seed(3)
    short = Case(msgspec.structs.replace(case.options, fault_phase_s=10.0), case.faults[:5], "for the test")
    path = tmp_path / "case.json"
    path.write_bytes(short.encode())
    again = read_case(path)
    assert again == short
    outcomes = [Simulation(each.options, each.faults).run() for each in (short, again)]
    assert outcomes[0].digest == outcomes[1].digest


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_past_failures_stay_fixed(path: Path) -> None:
    case = read_case(path)
    passes(Simulation(case.options, case.faults).run())
