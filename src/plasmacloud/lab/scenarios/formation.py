"""cluster-formation: nodes that start together elect one leader, and heartbeats alone keep it.

While leadership is held there is no traffic: writes would keep followers quiet without a single heartbeat.
"""

import asyncio
from collections.abc import Mapping
from typing import ClassVar

from plasmacloud.lab.judging import (
    Case,
    bad_if,
    check_completed,
    check_longest,
    check_total_traffic,
    data_checks,
    write_latencies_ms,
)
from plasmacloud.lab.rig import START_DEADLINE_S, Rig
from plasmacloud.lab.scenarios.base import Scenario
from plasmacloud.lab.watcher import CALM_S
from plasmacloud.lab.workload import KEY_PREFIX
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.events import HoldBegan, HoldEnded, LeaderSeen, NodeStarted
from plasmacloud.verify.leadership import elections_between

BURST_OPS = 200
POLLS_SHARE = 0.4
"""Share of the planned status polls that must have been answered for the quiet time to count as observed."""


class ClusterFormation(Scenario):
    """Start, hold, and a burst of writes to see that the cluster serves."""

    name = "cluster-formation"
    must_hold = "nodes started together elect one leader; heartbeats keep it: no election while it is held"
    default_trials = 1
    thresholds: ClassVar[Mapping[str, float]] = {"formation_max_ms": 15_000, "traffic_min": 100}

    async def drive(self, rig: Rig) -> None:
        await rig.start()
        await rig.stable(timeout=START_DEADLINE_S)
        rig.doing(f"holding leadership for {rig.plan.hold_s:g} s")
        rig.record(HoldBegan)
        await asyncio.sleep(rig.plan.hold_s)
        rig.record(HoldEnded)
        rig.workload.start()
        await rig.begin_trial(1)
        await rig.traffic(BURST_OPS)
        await rig.finish(KEY_PREFIX)

    def judge(self, case: Case) -> list[Check]:
        required = int(case.plan.threshold("traffic_min"))
        return [
            check_formed(case),
            check_held(case),
            *data_checks(case),
            check_total_traffic(case, required),
            check_completed(case, 0),
        ]

    def distributions(self, case: Case) -> dict[str, list[float]]:
        formed = formation_ms(case)
        result = {"write_ms": write_latencies_ms(case)}
        return result if formed is None else {"formation_ms": [formed], **result}


def formation_ms(case: Case) -> float | None:
    """From the start of the first process until every node names the same leader."""
    started = [event.at_ns for event in case.record.events if isinstance(event, NodeStarted)]
    agreed = [event.at_ns for event in case.record.events if isinstance(event, LeaderSeen)]
    return (agreed[0] - started[0]) / 1e6 if started and agreed else None


def check_formed(case: Case) -> Check:
    """A leader within ``formation_max_ms`` of the first process start."""
    formed = formation_ms(case)
    values = [] if formed is None else [(1, formed)]
    return check_longest("formed", values, [1] if formed is None else [], case.plan.threshold("formation_max_ms"))


def check_held(case: Case) -> Check:
    """While leadership was held, all nodes named one leader in one term, all the time."""
    hold_s = case.plan.hold_s
    threshold = f"1 leader, 1 term for {hold_s:g} s"
    began = [event.at_ns for event in case.record.events if isinstance(event, HoldBegan)]
    ended = [event.at_ns for event in case.record.events if isinstance(event, HoldEnded)]
    if not began or not ended:
        return Check("held", Verdict.INCONCLUSIVE, "not observed", threshold)
    seen = elections_between(case.record.statuses, began[0], ended[0])
    changes = [
        f"term {term}: leader {leader:x}" if leader else f"term {term}: no leader" for term, leader in sorted(seen)
    ]
    verdict, findings = bad_if(changes if len(seen) != 1 or any(leader == 0 for _, leader in seen) else [])
    polls = [s for s in case.record.statuses if s.answered and began[0] <= s.at_ns <= ended[0]]
    planned = case.plan.nodes * hold_s / CALM_S
    if verdict is Verdict.PASS and len(polls) < POLLS_SHARE * planned:
        verdict, findings = Verdict.INCONCLUSIVE, (f"only {len(polls)} of {planned:.0f} planned status polls",)
    seconds = (ended[0] - began[0]) / 1e9
    measured = f"{len(seen)} (leader, term) pairs in {len(polls)} polls over {seconds:.1f} s"
    return Check("held", verdict, measured, threshold, findings)
