"""Making a failure smaller: the fewest faults with which the same rule is still broken.

Delta debugging (Zeller and Hildebrandt, 2002) over the list of faults: parts are left out, larger ones first, and what
still fails is kept. A run is a function of its case, so every answer is final. Faults are independent of each other's
random numbers; what happens between two of them still changes when one before is left out, and so the result is small,
not smallest.
"""

from collections.abc import Callable, Sequence

import msgspec

from plasmacloud.sim.case import Case
from plasmacloud.sim.schedule import Fault
from plasmacloud.sim.simulation import Outcome

Run = Callable[[Case], Outcome]

MAX_RUNS = 400
_MARGIN_S = 1.0


class Shrunk(msgspec.Struct, frozen=True):
    """The smallest failing case that was found, and what it does. ``runs``: how many it took."""

    case: Case
    outcome: Outcome
    runs: int


def shrink(case: Case, outcome: Outcome, run: Run, *, max_runs: int = MAX_RUNS) -> Shrunk:
    """Leave faults out of ``case``, which failed with ``outcome``, for as long as the same rule is broken."""
    assert outcome.failed
    smaller = _Shrinker(case, outcome, run, max_runs)
    smaller.shorten()
    smaller.thin_out()
    return Shrunk(smaller.case, smaller.outcome, smaller.runs)


class _Shrinker:
    def __init__(self, case: Case, outcome: Outcome, run: Run, max_runs: int) -> None:
        self.case = case
        self.outcome = outcome
        self.runs = 0
        self._run = run
        self._max_runs = max_runs

    def _fails(self, case: Case) -> bool:
        """Try it; take it over when the same rule is broken."""
        if self.runs >= self._max_runs:
            return False
        self.runs += 1
        outcome = self._run(case)
        if outcome.rule != self.outcome.rule:
            return False
        self.case, self.outcome = case, outcome
        return True

    def _with(self, faults: Sequence[Fault]) -> Case:
        return msgspec.structs.replace(self.case, faults=tuple(faults))

    def shorten(self) -> None:
        """Nothing behind the failure matters; and perhaps the faults may end early."""
        end_s = self.outcome.simulated_s
        faults = [fault for fault in self.case.faults if fault.at_s <= end_s]
        last_s = max((fault.at_s for fault in faults), default=0.0) + _MARGIN_S
        options = self.case.options
        if last_s < options.fault_phase_s:
            shorter = msgspec.structs.replace(options, fault_phase_s=last_s)
            if self._fails(Case(shorter, tuple(faults), self.case.about)):
                return
        self._fails(self._with(faults))

    def thin_out(self) -> None:
        """Leave out parts: halves, quarters, and so on down to single faults."""
        parts = 2
        while len(self.case.faults) >= 1 and self.runs < self._max_runs:
            faults = self.case.faults
            parts = min(parts, len(faults))
            size = -(-len(faults) // parts)
            for start in range(0, len(faults), size):
                if self._fails(self._with(faults[:start] + faults[start + size :])):
                    parts = max(parts - 1, 2)
                    break
            else:
                if size == 1:
                    return
                parts = 2 * parts
