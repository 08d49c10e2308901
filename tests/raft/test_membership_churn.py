"""Groups whose members come and go under random schedules: safe at every step, and changeable again in the end.

A longer hunt: ``PLASMA_RAFT_SEEDS=5000 pytest tests/raft -k churn``.
"""

import os

import membership_simulation
from hypothesis import given, settings
from hypothesis import strategies as st
from raft_simulation import Faults

SEEDS = int(os.environ.get("PLASMA_RAFT_SEEDS", "60"))


def test_random_changes_are_safe_and_end_well() -> None:
    done = [membership_simulation.run(seed, 3000) for seed in range(SEEDS)]
    # a schedule in which nothing happens would prove nothing
    assert sum(simulation.changes for simulation in done) > 4 * SEEDS
    assert sum(simulation.joint_changes for simulation in done) > SEEDS // 3
    assert sum(simulation.self_removals for simulation in done) > 2 * SEEDS
    assert sum(simulation.never_started for simulation in done) > SEEDS
    assert sum(simulation.refused for simulation in done) > SEEDS
    assert sum(simulation.elections for simulation in done) > 2 * SEEDS
    assert sum(simulation.highest_commit for simulation in done) > 20 * SEEDS


def test_newcomers_that_need_a_snapshot_are_part_of_it() -> None:
    faults = Faults(compact=0.03, crash=0.01)
    done = [membership_simulation.run(seed, 3000, faults, churn=0.02) for seed in range(15)]
    assert sum(simulation.snapshots for simulation in done) > 30


def test_schedules_of_past_failures() -> None:
    """Each fails without one rule: 8 if votes do not tell what is committed, 32 if the lease of a silent leader never
    runs out on a learner, 168 if a restart does not derive from the log which changes are committed."""
    for seed in (8, 32, 168):
        membership_simulation.run(seed, 3000)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    churn=st.sampled_from([0.005, 0.05, 0.2]),
    faults=st.builds(
        Faults,
        drop=st.sampled_from([0.0, 0.05, 0.3]),
        duplicate=st.sampled_from([0.0, 0.3]),
        reorder=st.sampled_from([0.0, 0.3, 0.9]),
        crash=st.sampled_from([0.0, 0.01, 0.05]),
        hint=st.sampled_from([0.0, 0.05]),
        partition=st.sampled_from([0.0, 0.01, 0.05]),
        transfer=st.sampled_from([0.0, 0.01, 0.1]),
        compact=st.sampled_from([0.0, 0.01]),
    ),
)
def test_any_mixture_of_faults_and_changes_is_safe_and_ends_well(seed: int, churn: float, faults: Faults) -> None:
    membership_simulation.run(seed, 1500, faults, churn)
