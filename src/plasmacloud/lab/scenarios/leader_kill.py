"""leader-kill: the leader crashes under load. How long until writes succeed again, and is anything lost?"""

from collections.abc import Mapping
from typing import ClassVar

from plasmacloud.lab.faults.base import Fault
from plasmacloud.lab.faults.process import kill
from plasmacloud.lab.judging import Case, split_distributions
from plasmacloud.lab.rig import Leadership, Rig
from plasmacloud.lab.scenarios.failover import FailoverScenario


class LeaderKill(FailoverScenario):
    """SIGKILL of the leader."""

    name = "leader-kill"
    must_hold = "SIGKILL of the leader under load: writes succeed again in time, nothing is lost, the node rejoins"
    default_trials = 20
    thresholds: ClassVar[Mapping[str, float]] = {"rto_max_ms": 5000, "rejoin_max_ms": 30_000}

    def fault(self, rig: Rig, leadership: Leadership) -> Fault:
        return kill(leadership.node)

    def distributions(self, case: Case) -> dict[str, list[float]]:
        return {**super().distributions(case), **split_distributions(case)}
