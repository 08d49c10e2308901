"""What goes wrong when: a list, drawn before the run begins.

Because it is a list, and each kind of fault is drawn from a generator of its own, a run can be repeated without some
of them: that is how a failure is made smaller (`plasmacloud.sim.shrink`). Whom a fault hits is decided when it happens,
from the number it carries, so that it finds somebody in any run.
"""

import random

import msgspec

from plasmacloud.sim.options import FaultKind, Options


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """``at_s`` and ``for_s``: when and how long. ``pick`` and ``amount`` (0 to 1) say whom and how much."""

    at_s: float
    kind: FaultKind
    for_s: float
    pick: int
    amount: float

    def describe(self) -> str:
        """In one line."""
        return f"{self.at_s:8.3f} s  {self.kind.value} for {self.for_s:.3f} s (pick {self.pick}, {self.amount:.3f})"


_LASTS_S: dict[FaultKind, float] = {
    FaultKind.KILL: 1.5,
    FaultKind.POWER: 3.0,
    FaultKind.POWER_ALL: 2.0,
    FaultKind.RESTART: 0.5,
    FaultKind.PAUSE: 1.5,
    FaultKind.PARTITION: 4.0,
    FaultKind.ONE_WAY: 3.0,
    FaultKind.SLOW_LINK: 6.0,
    FaultKind.SLOW_DISK: 5.0,
    FaultKind.FULL_DISK: 5.0,
    FaultKind.FAILED_SYNC: 1.0,
    FaultKind.FAILED_READ: 2.0,
    FaultKind.AMNESIA: 1.0,
    FaultKind.TEAR: 6.0,
    FaultKind.AMBUSH: 8.0,
    FaultKind.CHASE: 5.0,
    FaultKind.RIFT: 12.0,
    FaultKind.SET_BACK: 6.0,
    FaultKind.WIDOW: 2.0,
}


_OFTEN_SHORT = frozenset({FaultKind.PAUSE, FaultKind.PARTITION, FaultKind.ONE_WAY})
"""Half of these last about as long as an election: too short for connections to be given up, so that what was said in
the old term arrives in the new one."""
_SHORT_TIMEOUTS = 3.0


def is_short(fault: Fault) -> bool:
    """Whether it is one of those."""
    return fault.kind in _OFTEN_SHORT and fault.amount < 0.5


def draw_schedule(options: Options) -> list[Fault]:
    """The faults of a run, in the order of their times."""
    faults: list[Fault] = []
    for kind, gap_s in options.mean_gap_s.items():
        rng = random.Random(f"faults/{options.seed}/{kind.value}")
        at_s = rng.expovariate(1.0 / gap_s)
        while at_s < options.fault_phase_s:
            for_s = min(rng.expovariate(1.0 / _LASTS_S.get(kind, 1.0)), 30.0)
            pick, amount = rng.getrandbits(16), rng.random()
            fault = Fault(at_s=at_s, kind=kind, for_s=for_s, pick=pick, amount=amount)
            if is_short(fault):
                for_s *= _SHORT_TIMEOUTS * options.election_timeout_s / _LASTS_S[kind]
                fault = msgspec.structs.replace(fault, for_s=for_s)
            faults.append(fault)
            at_s += rng.expovariate(1.0 / gap_s)
    faults.sort(key=lambda fault: (fault.at_s, fault.kind.value))
    return faults
