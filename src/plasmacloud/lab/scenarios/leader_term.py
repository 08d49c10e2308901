"""leader-term: the leader is told to stop. It hands leadership over first, so that hardly anybody notices."""

from collections.abc import Mapping
from typing import ClassVar

from plasmacloud.lab.faults.base import Fault
from plasmacloud.lab.faults.process import terminate
from plasmacloud.lab.judging import Case, bad_if
from plasmacloud.lab.rig import Leadership, Rig
from plasmacloud.lab.scenarios.failover import FailoverScenario
from plasmacloud.lab.trials import Trial
from plasmacloud.verify.checks import Check, Verdict

RESOLUTION_NS = 25_000_000
"""How much later than the exit a poll may see the hand-over: several polls, and the reaping of the process."""


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


def check_handed_over(case: Case) -> Check:
    """In each trial a survivor names another leader before the old one's process has ended."""
    judged = [trial for trial in case.trials if trial.fault is not None and trial.ended]
    late: list[str] = []
    for trial in judged:
        elected_ns, ended_ns = _new_leader_ns(case, trial), trial.ended[0].at_ns
        if elected_ns is None:
            late.append(f"trial {trial.number}: no survivor named another leader")
        elif elected_ns > ended_ns + RESOLUTION_NS:
            late.append(f"trial {trial.number}: {(elected_ns - ended_ns) / 1e6:.0f} ms after the process had ended")
    verdict, findings = bad_if(late)
    if not judged:
        verdict, findings = Verdict.INCONCLUSIVE, ("no leader was stopped",)
    measured = f"{len(judged) - len(late)} of {len(judged)} handed over"
    return Check("handed-over", verdict, measured, "new leader before the old process ends", findings)


def _new_leader_ns(case: Case, trial: Trial) -> int | None:
    assert trial.fault is not None
    times = [
        sample.at_ns
        for sample in case.record.statuses
        if sample.answered
        and sample.sent_ns >= trial.fault.at_ns
        and sample.node not in trial.fault.nodes
        and sample.leader not in (0, trial.leader_member)
    ]
    return min(times, default=None)


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
