"""follower-kill: a follower crashes under load. Nobody should notice."""

from collections.abc import Mapping
from typing import ClassVar

from plasmacloud.lab.faults.base import Fault
from plasmacloud.lab.faults.process import kill
from plasmacloud.lab.judging import Case, check_longest
from plasmacloud.lab.rig import Leadership, Rig
from plasmacloud.lab.scenarios.failover import FailoverScenario
from plasmacloud.verify.availability import longest_gap
from plasmacloud.verify.checks import Check


class FollowerKill(FailoverScenario):
    """SIGKILL of a follower, drawn at random."""

    name = "follower-kill"
    must_hold = "SIGKILL of a follower: writes do not pause, neither then nor when it comes back and catches up"
    default_trials = 10
    thresholds: ClassVar[Mapping[str, float]] = {"rto_max_ms": 1000, "return_gap_max_ms": 1000, "rejoin_max_ms": 30_000}

    def fault(self, rig: Rig, leadership: Leadership) -> Fault:
        return kill(rig.rng.choice(rig.cluster.others(leadership.node)))

    def own_checks(self, case: Case) -> list[Check]:
        values = [
            (t.number, longest_gap(case.ack_ns, t.closed_ns, t.caught_up.at_ns).length_ms)
            for t in case.trials
            if t.closed_ns is not None and t.caught_up is not None
        ]
        return [check_longest("no-pause-on-return", values, [], case.plan.threshold("return_gap_max_ms"))]
