"""leader-only-write: writes sent to followers are forwarded or refused by name, never applied twice.

The clients write to followers only, and go on while leadership moves from one node to another.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import ClassVar

from plasmacloud.lab.faults.leadership import MoveLeader
from plasmacloud.lab.judging import (
    Case,
    bad_if,
    check_completed,
    check_fault_landed,
    check_rto,
    check_traffic,
    data_checks,
    outage_distributions,
    write_latencies_ms,
)
from plasmacloud.lab.rig import Rig
from plasmacloud.lab.scenarios.base import Scenario
from plasmacloud.lab.scenarios.failover import start_under_load
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.lab.workload import KEY_PREFIX
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.history import Op, Outcome

STEADY_S = 0.5
SILENT_SHARE_MAX = 0.1
"""Writes that a follower did not answer in time; more of them, and the check says nothing about followers."""

_NAMES_LEADER = re.compile(r"not leader|leader is|leader=", re.IGNORECASE)


class LeaderOnlyWrite(Scenario):
    """Write through followers while leadership moves."""

    name = "leader-only-write"
    must_hold = "a write to a follower is forwarded, or refused naming the leader; never applied twice"
    default_trials = 5
    thresholds: ClassVar[Mapping[str, float]] = {"rto_max_ms": 5000}

    async def drive(self, rig: Rig) -> None:
        await start_under_load(rig)
        for number in range(1, rig.plan.trials + 1):
            leadership = await rig.begin_trial(number, lambda leader: rig.cluster.others(leader.node))
            await asyncio.sleep(STEADY_S)
            fault = MoveLeader(leadership, rig.rng.choice(rig.cluster.others(leadership.node)))
            moved_ns = await fault.inject(rig)
            if not await rig.resumed(moved_ns):
                raise WaitedTooLong("writes did not succeed again", hint=rig.watcher.describe())
            await rig.aftermath()
            await rig.end_trial(fault)
        await rig.finish(KEY_PREFIX)

    def judge(self, case: Case) -> list[Check]:
        return [
            check_followers_answer(case),
            check_rto(case, "pause-while-leadership-moves"),
            *data_checks(case),
            check_fault_landed(case),
            check_traffic(case),
            check_completed(case, case.plan.trials),
        ]

    def distributions(self, case: Case) -> dict[str, list[float]]:
        return {**outage_distributions(case), "write_ms": write_latencies_ms(case)}


def check_followers_answer(case: Case) -> Check:
    """Between trial begin and leadership change every write to a follower is accepted, or refused naming the leader."""
    steady: list[Op] = []
    for trial in case.trials:
        if trial.fault is not None:
            begin, end = trial.began_ns, trial.fault.at_ns
            steady += [op for op in case.record.history if op.invoke_ns >= begin and op.return_ns <= end]
    leaders = {trial.number: trial.leader for trial in case.trials}
    astray = sum(op.node == leaders.get(op.trial) for op in steady)
    accepted = sum(op.outcome is Outcome.OK for op in steady)
    refused = [op for op in steady if op.outcome is not Outcome.OK and op.answered]
    silent = [op for op in steady if not op.answered]
    verdict, findings = bad_if(
        f"{op.key} to {op.node}: neither accepted nor refused naming the leader: {op.error}"
        for op in refused
        if op.outcome is Outcome.INFO or not _NAMES_LEADER.search(op.error)
    )
    if verdict is Verdict.PASS:
        proves_nothing = [f"{astray} of {len(steady)} writes went to the leader"] if astray or not steady else []
        if len(silent) > SILENT_SHARE_MAX * len(steady):
            proves_nothing += [f"{op.key} to {op.node}: {op.error}" for op in silent]
        verdict, findings = bad_if(proves_nothing, Verdict.INCONCLUSIVE)
    measured = f"{accepted} accepted, {len(refused)} refused, {len(silent)} without an answer"
    return Check("followers", verdict, measured, "accepted, or refused naming the leader", findings)
