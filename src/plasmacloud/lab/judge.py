"""The judgement of one scenario: from its evidence directory to a verdict, for a fresh run and an old one alike."""

from pathlib import Path

import msgspec

from plasmacloud.lab.judging import Case
from plasmacloud.lab.recorder import load_record
from plasmacloud.lab.scenarios import find_scenario
from plasmacloud.lab.suites import SUITES
from plasmacloud.verify.checks import Check, Verdict, combine
from plasmacloud.verify.events import Stopped


class Judgement(msgspec.Struct, frozen=True):
    """What one scenario on one target came to. Distributions: values in the unit of their name."""

    target: str
    target_version: str
    scenario: str
    must_hold: str
    shortened: str
    reference: bool
    verdict: Verdict
    interrupted: bool
    trials: int
    acknowledged: int
    refused: int
    unknown: int
    lost: int
    read_back: int
    resolution_ms: float | None
    stall_ms: float
    checks: list[Check]
    distributions: dict[str, list[float]]


def judge_directory(directory: Path) -> Judgement:
    """Load and judge. Raises `UnreadableEvidence`."""
    case = Case(load_record(directory))
    suite = SUITES.get(case.plan.scenario)
    if suite is not None:
        checks = suite.judge(case, directory)
        return _judgement(case, suite.must_hold, checks, suite.verdict(checks), suite.distributions(case, directory))
    scenario = find_scenario(case.plan.scenario)
    checks = scenario.judge(case)
    verdict = combine(check.verdict for check in checks)
    return _judgement(case, scenario.must_hold, checks, verdict, scenario.distributions(case))


def _judgement(
    case: Case, must_hold: str, checks: list[Check], verdict: Verdict, distributions: dict[str, list[float]]
) -> Judgement:
    return Judgement(
        target=case.plan.target,
        target_version=case.plan.target_version,
        scenario=case.plan.scenario,
        must_hold=must_hold,
        shortened=case.plan.shortened,
        reference=case.plan.reference,
        verdict=verdict,
        interrupted=any(isinstance(e, Stopped) and e.cause == "user" for e in case.record.events),
        trials=sum(trial.complete for trial in case.trials),
        acknowledged=case.outcomes.ok,
        refused=case.outcomes.fail,
        unknown=case.outcomes.info,
        lost=len(case.ledger.lost_keys()),
        read_back=case.ledger.verified,
        resolution_ms=case.cadence_before_faults_ms(),
        stall_ms=case.longest_stall_ms(),
        checks=checks,
        distributions={name: [round(v, 3) for v in values] for name, values in distributions.items()},
    )
