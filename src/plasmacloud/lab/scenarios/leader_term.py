"""leader-term: the leader is told to stop. It hands leadership over first, so that hardly anybody notices."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from enum import Enum
from typing import ClassVar

from plasmacloud.lab.faults.base import Fault
from plasmacloud.lab.faults.process import terminate
from plasmacloud.lab.judging import Case, bad_if
from plasmacloud.lab.rig import Leadership, Rig
from plasmacloud.lab.scenarios.failover import FailoverScenario
from plasmacloud.lab.trials import Trial
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.observations import StatusSample


class LeaderTerm(FailoverScenario):
    """SIGTERM of the leader."""

    name = "leader-term"
    must_hold = "SIGTERM of the leader: leadership is handed over before the process ends, which it does cleanly"
    default_trials = 20
    thresholds: ClassVar[Mapping[str, float]] = {"rto_max_ms": 1000, "rejoin_max_ms": 30_000}

    def fault(self, rig: Rig, leadership: Leadership) -> Fault:
        return terminate(leadership.node)

    def own_checks(self, case: Case) -> list[Check]:
        return [check_handed_over(case), check_clean_exit(case)]


class Timing(Enum):
    """When the new leader came, compared with the end of the old one's process."""

    BEFORE = "before"
    AFTER = "after"
    UNDECIDED = "too close to tell"


def check_handed_over(case: Case) -> Check:
    """There is a new leader before the old one's process has ended, as far as polls can tell."""
    judged = [trial for trial in case.trials if trial.fault is not None and trial.ended]
    timings = {trial.number: timing_of(case, trial) for trial in judged}
    count = Counter(timings.values())
    verdict, findings = bad_if(
        f"trial {number}: no survivor knew a new leader when asked after the process had ended"
        for number, timing in timings.items()
        if timing is Timing.AFTER
    )
    if verdict is Verdict.PASS and not count[Timing.BEFORE]:
        verdict, findings = Verdict.INCONCLUSIVE, ("no hand-over was seen to happen in time",)
    measured = (
        f"{count[Timing.BEFORE]} in time, {count[Timing.AFTER]} late, {count[Timing.UNDECIDED]} too close to tell"
    )
    return Check("handed-over", verdict, measured, "0 late: new leader before the old process ends", findings)


def timing_of(case: Case, trial: Trial) -> Timing:
    """Each survivor learnt of the new leader between two answers; the first of them to learn decides."""
    assert trial.fault is not None
    ended_ns = trial.ended[0].at_ns
    known_by: list[int] = []  # no later than this did a survivor know
    unknown_at: list[int] = []  # at this time, or after, a survivor did not know yet
    survivors: dict[str, list[StatusSample]] = defaultdict(list)
    for sample in case.record.statuses:
        if sample.answered and sample.sent_ns >= trial.fault.at_ns and sample.node not in trial.fault.nodes:
            survivors[sample.node].append(sample)
    for samples in survivors.values():
        knows = [s.at_ns for s in samples if s.leader not in (0, trial.leader_member)]
        first = min(knows, default=None)
        if first is not None:
            known_by.append(first)
        ignorant = [s.sent_ns for s in samples if first is None or s.at_ns < first]
        unknown_at.append(max(ignorant, default=trial.fault.at_ns))
    if known_by and min(known_by) <= ended_ns:
        return Timing.BEFORE
    if unknown_at and min(unknown_at) > ended_ns:
        return Timing.AFTER
    return Timing.UNDECIDED


def check_clean_exit(case: Case) -> Check:
    """The stopped process ends by itself with a status that means a clean stop."""
    allowed = case.plan.traits.graceful_statuses
    judged = [trial for trial in case.trials if trial.fault is not None]
    bad = [
        f"trial {trial.number}: {'; '.join(str(end.status) for end in trial.ended) or 'had to be killed'}"
        for trial in judged
        if not trial.ended or any(end.status not in allowed for end in trial.ended)
    ]
    verdict, findings = bad_if(bad)
    measured = f"{len(judged) - len(bad)} of {len(judged)} clean"
    return Check("clean-exit", verdict, measured, f"exit status in {list(allowed)}", findings)
