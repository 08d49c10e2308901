"""membership-churn: members come and go, again and again, under load, while others crash.

In every trial an outsider joins, a member is removed and wiped (to come back one day as an outsider), and some member
is killed and restarted at a drawn moment of all that. So in the end every member has been replaced, the leader among
them, and every acknowledged write must have come along.
"""

import asyncio
from collections.abc import Mapping
from typing import ClassVar

from plasmacloud.lab.faults.membership import Join
from plasmacloud.lab.faults.process import kill
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
from plasmacloud.lab.roster import REMOVED_ENDS_S, Roster
from plasmacloud.lab.scenarios.base import Scenario
from plasmacloud.lab.scenarios.failover import start_under_load
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.lab.workload import KEY_PREFIX
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.events import MembershipChanged, RemovedEnded

KILL_AFTER_S = (0.0, 0.8)
DOWN_S = (0.2, 1.0)
LEADER_SHARE = 0.4
"""How often the leader is the one that is killed, or removed."""


class MembershipChurn(Scenario):
    """A member joins, another leaves, a third one crashes, again and again."""

    name = "membership-churn"
    must_hold = "members join and leave under load while others crash: nothing lost, service after every change"
    default_trials = 8
    spares = 2
    thresholds: ClassVar[Mapping[str, float]] = {"rto_max_ms": 5000}

    async def drive(self, rig: Rig) -> None:
        await start_under_load(rig)
        async with Roster(rig) as roster:
            for number in range(1, rig.plan.trials + 1):
                leadership = await rig.begin_trial(number)
                joining = rig.rng.choice(rig.cluster.outsiders())
                crashing = draw_member(rig, leadership.node)
                crash = asyncio.create_task(self._crash(rig, crashing))
                try:
                    began_ns = await Join(roster, [joining]).inject(rig)
                finally:
                    await crash
                rig.workload.route(rig.cluster.names)
                leadership = await rig.stable()
                leaving = draw_member(rig, leadership.node, but=joining)
                rig.doing(f"{leaving} leaves")
                await roster.dismiss(leaving)
                if not await rig.resumed(began_ns):
                    raise WaitedTooLong("writes did not succeed again", hint=rig.watcher.describe())
                await rig.aftermath()
                await rig.end_trial(kill(*rig.cluster.names))
        await rig.finish(KEY_PREFIX)

    async def _crash(self, rig: Rig, node: str) -> None:
        """SIGKILL of a member at a drawn moment, restart a moment later."""
        await asyncio.sleep(rig.rng.uniform(*KILL_AFTER_S))
        fault = kill(node)
        await fault.inject(rig)
        await asyncio.sleep(rig.rng.uniform(*DOWN_S))
        await fault.undo(rig)
        rig.watcher.fast(False)

    def judge(self, case: Case) -> list[Check]:
        return [
            check_rto(case, "service"),
            check_churn(case),
            check_removed_end(case),
            *data_checks(case),
            check_fault_landed(case),
            check_traffic(case),
            check_completed(case, case.plan.trials),
        ]

    def distributions(self, case: Case) -> dict[str, list[float]]:
        return {**outage_distributions(case), "write_ms": write_latencies_ms(case)}


def draw_member(rig: Rig, leader: str, *, but: str = "") -> str:
    """A member at random: the leader more often than others, for there it matters."""
    others = [name for name in rig.cluster.others(leader) if name != but]
    return leader if leader != but and rig.rng.random() < LEADER_SHARE else rig.rng.choice(others)


def check_churn(case: Case) -> Check:
    """Every trial replaced a member: one came and votes, one went."""
    findings = []
    gone: list[str] = []
    for trial in case.trials:
        joined = [node for fault in trial.faults if fault.fault == Join.name for node in fault.nodes]
        left = [
            event.node
            for event in case.record.events
            if isinstance(event, MembershipChanged) and event.trial == trial.number and event.change == "removed"
        ]
        gone += left
        if not joined or not left:
            findings.append(f"trial {trial.number}: {len(joined)} joined, {len(left)} left")
    verdict, found = bad_if(findings if case.trials else ["no member came or went"], Verdict.INCONCLUSIVE)
    measured = f"{len(gone)} members replaced: {' '.join(gone) or 'none'}"
    return Check("churn", verdict, measured, "one in every trial", found)


def check_removed_end(case: Case) -> Check:
    """The process of a member that was removed while it ran stops by itself: it must not serve, nor disturb."""
    ends = [event for event in case.record.events if isinstance(event, RemovedEnded)]
    verdict, findings = bad_if(
        f"trial {event.trial}: {event.node} (process {event.pid}) still ran {REMOVED_ENDS_S:g} s after its removal"
        for event in ends
        if event.status is None
    )
    if verdict is Verdict.PASS and not ends:
        verdict, findings = Verdict.INCONCLUSIVE, ("no running member was removed",)
    statuses = sorted({event.status for event in ends if event.status is not None})
    ended = sum(event.status is not None for event in ends)
    measured = f"{ended} of {len(ends)} stopped by themselves, with status {', '.join(map(str, statuses)) or 'none'}"
    return Check("removed-stop", verdict, measured, f"all, within {REMOVED_ENDS_S:g} s", findings)
