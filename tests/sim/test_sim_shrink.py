"""Shrinking keeps the failure and drops the rest."""

from plasmacloud.sim.case import Case
from plasmacloud.sim.options import FaultKind, Options
from plasmacloud.sim.schedule import Fault
from plasmacloud.sim.shrink import shrink
from plasmacloud.sim.simulation import Outcome


def fault(at_s: float, pick: int = 0) -> Fault:
    return Fault(at_s=at_s, kind=FaultKind.KILL, for_s=1.0, pick=pick, amount=0.5)


def outcome(rule: str) -> Outcome:
    return Outcome(
        seed=1,
        digest="",
        simulated_s=50.0,
        steps=1,
        turns=1,
        elections=1,
        commits=1,
        answered=1,
        counts={},
        rule=rule,
        text=rule,
    )


class FailsWith:
    """A run that breaks a rule if all of some faults happen; with too few of them another rule."""

    def __init__(self, needed: set[int]) -> None:
        self.needed = needed
        self.runs = 0

    def __call__(self, case: Case) -> Outcome:
        self.runs += 1
        found = {fault.pick for fault in case.faults} & self.needed
        return outcome("rule" if found == self.needed else "other rule" if found else "")


def case(count: int) -> Case:
    return Case(Options(seed=1), tuple(fault(float(number), number) for number in range(count)))


def test_only_the_needed_faults_are_left() -> None:
    run = FailsWith({3, 17, 31})
    shrunk = shrink(case(40), outcome("rule"), run)
    assert {each.pick for each in shrunk.case.faults} == {3, 17, 31}
    assert shrunk.outcome.rule == "rule"
    assert shrunk.runs == run.runs < 100


def test_a_failure_without_faults_needs_none() -> None:
    assert shrink(case(20), outcome("rule"), FailsWith(set())).case.faults == ()


def test_what_comes_behind_the_failure_is_left_out_and_the_time_with_it() -> None:
    before = case(40)
    late = Case(before.options, (*before.faults, fault(58.0, 99)))
    shrunk = shrink(late, outcome("rule"), FailsWith({1}))
    assert shrunk.case.options.fault_phase_s < 50.0


def test_the_number_of_runs_is_bounded() -> None:
    run = FailsWith({3, 17, 31})
    assert shrink(case(40), outcome("rule"), run, max_runs=5).runs == run.runs == 5
