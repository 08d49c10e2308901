"""rolling-restart: one node after the other is told to stop and started again, as for an upgrade, under load.

Clients do here what good clients do: a write that failed is tried again, at the next node, in a form that is safe to
repeat ("write unless it is there"), for as long as the plan allows. So no write may fail in the end, and none may be
applied twice; what remains is the longest gap that anybody saw.
"""

from collections.abc import Mapping
from typing import ClassVar

from plasmacloud.lab.faults.base import Fault
from plasmacloud.lab.faults.process import terminate
from plasmacloud.lab.judging import Case, bad_if
from plasmacloud.lab.rig import Leadership, Rig
from plasmacloud.lab.scenarios.failover import FailoverScenario
from plasmacloud.lab.scenarios.leader_term import check_clean_exit
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.history import Outcome

RETRY_FOR_S = 5.0


class RollingRestart(FailoverScenario):
    """SIGTERM of one node at a time; the order of each round is drawn."""

    name = "rolling-restart"
    must_hold = (
        "nodes restarted one at a time under load: every write succeeds, if need be after a safe retry; no long gap"
    )
    default_trials = 9
    thresholds: ClassVar[Mapping[str, float]] = {"rto_max_ms": 1000, "rejoin_max_ms": 30_000}

    def __init__(self) -> None:
        self._round: list[str] = []

    async def drive(self, rig: Rig) -> None:
        rig.workload.retry_for_s = RETRY_FOR_S
        self._round = []
        await super().drive(rig)

    def fault(self, rig: Rig, leadership: Leadership) -> Fault:
        if not self._round:
            self._round = rig.cluster.others()
            rig.rng.shuffle(self._round)
        return terminate(self._round.pop())

    def own_checks(self, case: Case) -> list[Check]:
        return [check_no_failed_write(case), check_rounds(case), check_clean_exit(case)]


def check_no_failed_write(case: Case) -> Check:
    """Every write was acknowledged in the end."""
    failed = [op for op in case.record.history if op.outcome is not Outcome.OK]
    retried = sum(op.attempts > 1 for op in case.record.history)
    verdict, findings = bad_if(
        f"trial {op.trial}: {op.key} to {op.node} failed after {op.attempts} attempts: {op.error}" for op in failed
    )
    if verdict is Verdict.PASS and not case.record.history:
        verdict, findings = Verdict.INCONCLUSIVE, ("nothing was written",)
    measured = f"{len(failed)} of {case.outcomes.total} failed; {retried} needed another attempt"
    return Check("no-failed-write", verdict, measured, "0 failed, retried safely", findings)


def check_rounds(case: Case) -> Check:
    """Every node was restarted, the leader among them."""
    hit = {node for trial in case.trials if trial.fault for node in trial.fault.nodes}
    leaders = sum(trial.leader in trial.fault.nodes for trial in case.trials if trial.fault)
    rounds = case.plan.trials >= case.plan.nodes
    findings = [f"only {len(hit)} of {case.plan.nodes} nodes were restarted"] if len(hit) < case.plan.nodes else []
    findings += [] if leaders else ["the leader was never restarted"]
    verdict, found = bad_if(findings if rounds or not hit else [], Verdict.INCONCLUSIVE)
    measured = f"{len(hit)} nodes restarted, {leaders} times the leader"
    return Check("everyone-restarted", verdict, measured, f"all {case.plan.nodes}, the leader too", found)
