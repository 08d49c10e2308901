"""Groups under random schedules: safety after every step, progress once the faults stop.

A longer hunt: ``PLASMA_RAFT_SEEDS=5000 pytest tests/raft -k simulation``.
"""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raft_simulation import Faults, Simulation

from plasmacloud.raft.membership import ConfState


def conf(voters: str, outgoing: str = "", learners: str = "") -> ConfState:
    return ConfState(
        voters=frozenset(map(int, voters)),
        outgoing=frozenset(map(int, outgoing)),
        learners=frozenset(map(int, learners)),
    )


CONFIGURATIONS = {
    "three": conf("123"),
    "five": conf("12345"),
    "two": conf("12"),
    "one-with-learner": conf("1", learners="2"),
    "three-with-learner": conf("123", learners="4"),
    "joint": conf("123", outgoing="345"),
    "joint-with-learner": conf("123", outgoing="14", learners="5"),
}
SEEDS = int(os.environ.get("PLASMA_RAFT_SEEDS", "24"))


def run(name: str, seed: int, steps: int) -> Simulation:
    simulation = Simulation(seed, CONFIGURATIONS[name])
    simulation.run(steps)
    simulation.converge()
    return simulation


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_random_schedules_are_safe_and_end_well(name: str) -> None:
    done = [run(name, seed, 3000) for seed in range(SEEDS)]
    # a schedule in which nothing happens would prove nothing
    assert sum(simulation.highest_commit for simulation in done) > 20 * SEEDS
    assert sum(simulation.elections for simulation in done) > 2 * SEEDS
    assert sum(simulation.answered_reads for simulation in done) > 20 * SEEDS


def test_schedules_of_past_failures() -> None:
    """Each fails without one rule: 64 if a candidate counts a snapshot that is still being written as durable."""
    for seed in (64,):
        run("three", seed, 3000)


def test_snapshots_are_part_of_it() -> None:
    faults = Faults(compact=0.02, partition=0.02, drop=0.1)
    done = [Simulation(seed, CONFIGURATIONS["three-with-learner"], faults) for seed in range(10)]
    for simulation in done:
        simulation.run(3000)
        simulation.converge()
    assert sum(simulation.snapshots for simulation in done) > 10


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    name=st.sampled_from(sorted(CONFIGURATIONS)),
    faults=st.builds(
        Faults,
        drop=st.sampled_from([0.0, 0.05, 0.3]),
        duplicate=st.sampled_from([0.0, 0.05, 0.3]),
        reorder=st.sampled_from([0.0, 0.3, 0.9]),
        crash=st.sampled_from([0.0, 0.01, 0.05]),
        hint=st.sampled_from([0.0, 0.05, 0.3]),
        partition=st.sampled_from([0.0, 0.01, 0.05]),
        transfer=st.sampled_from([0.0, 0.01, 0.1]),
        compact=st.sampled_from([0.0, 0.01]),
    ),
)
def test_any_mixture_of_faults_is_safe_and_ends_well(seed: int, name: str, faults: Faults) -> None:
    simulation = Simulation(seed, CONFIGURATIONS[name], faults)
    simulation.run(1500)
    simulation.converge()


def test_a_run_can_be_repeated_exactly() -> None:
    first, second = (run("five", 42, 3000) for _ in range(2))
    assert first.committed == second.committed
    assert first.leaders == second.leaders
    assert first.next_context == second.next_context
