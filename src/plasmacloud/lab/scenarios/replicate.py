"""write-replicate-commit: without any fault, every acknowledged write is on every node, in one order."""

import asyncio
from collections.abc import Mapping
from typing import ClassVar

from plasmacloud.lab.judging import (
    Case,
    check_completed,
    check_total_traffic,
    data_checks,
    write_latencies_ms,
)
from plasmacloud.lab.rig import Rig
from plasmacloud.lab.scenarios.base import Scenario
from plasmacloud.lab.scenarios.failover import start_under_load
from plasmacloud.lab.workload import KEY_PREFIX
from plasmacloud.verify.checks import Check


class WriteReplicateCommit(Scenario):
    """Concurrent clients on all nodes, then every node is read back."""

    name = "write-replicate-commit"
    must_hold = "every acknowledged write is on every node: same value, same revision, same order, once"
    default_trials = 1
    thresholds: ClassVar[Mapping[str, float]] = {"traffic_min": 200}

    async def drive(self, rig: Rig) -> None:
        await start_under_load(rig)
        await rig.begin_trial(1)
        await asyncio.sleep(rig.plan.load_s)
        await rig.finish(KEY_PREFIX)

    def judge(self, case: Case) -> list[Check]:
        required = int(case.plan.threshold("traffic_min"))
        return [*data_checks(case), check_total_traffic(case, required), check_completed(case, 0)]

    def distributions(self, case: Case) -> dict[str, list[float]]:
        return {"write_ms": write_latencies_ms(case)}
