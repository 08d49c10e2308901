"""power-loss: every node dies at the same instant under load, and starts again. Everything acknowledged is there.

SIGKILL takes away all that a process has not handed to the kernel, on every node at once, so nothing acknowledged can
come back from another node's memory. It does not take away what the kernel has not yet written to disk: a system that
skips fsync passes this scenario. The disk-fault scenarios are there for that.
"""

from collections.abc import Mapping
from typing import ClassVar

from plasmacloud.lab.faults.base import Fault
from plasmacloud.lab.faults.process import power_loss
from plasmacloud.lab.rig import Leadership, Rig
from plasmacloud.lab.scenarios.failover import FailoverScenario


class PowerLoss(FailoverScenario):
    """SIGKILL of all nodes within microseconds, restart of all."""

    name = "power-loss"
    must_hold = "SIGKILL of all nodes at once under load: after the restart everything acknowledged is there"
    default_trials = 10
    thresholds: ClassVar[Mapping[str, float]] = {"rto_max_ms": 30_000, "rejoin_max_ms": 60_000}
    restart_at_once = True

    def fault(self, rig: Rig, leadership: Leadership) -> Fault:
        return power_loss(rig.cluster.names)
