"""How many commands may wait at once: as many as can be executed within the delay that is worth waiting for.

A fixed number is either too small for a burst or too large for a crowd that stays: 20 000 commands are half a second of
work on a fast machine and ten on a slow one. So delay decides, in the manner of CoDel (RFC 8289): while commands wait
longer than ``target_s`` for a whole ``interval_s``, the queue is a standing one, and gets a limit: the rate times the
target (Little's law). The rate is that of the best half second of the last three: commands are executed in bursts, so
an instant says too much, and in batches, so a limit that followed every dip would follow it down. Whoever comes above
the limit is refused at once: not executed, safe to retry. A limit below which the rate itself would suffer (a slow
disk, a long way to the other members) is never set: ``floor``. When nobody had to be refused for a while, it goes.

A burst on a calm member, and what has piled up during a failover, pass: there the queue shrinks within an interval.

Pure: the time is an argument (seconds, monotonic).
"""

from collections import deque
from typing import Final

TARGET_S: Final = 0.5
INTERVAL_S: Final = 0.1
CALM_S: Final = 1.0
FLOOR: Final = 512
_REMEMBERED: Final = 30  # intervals
_TOGETHER: Final = 5  # intervals


class Admission:
    """The limit of one queue. Tell it what was executed, and whom you refused."""

    def __init__(
        self,
        ceiling: int,
        *,
        floor: int = FLOOR,
        target_s: float = TARGET_S,
        interval_s: float = INTERVAL_S,
        calm_s: float = CALM_S,
    ) -> None:
        """``ceiling``: the limit in calm times."""
        self._ceiling = ceiling
        self._floor = min(floor, ceiling)
        self._target_s = target_s
        self._interval_s = interval_s
        self._calm_s = calm_s
        self._began_s = 0.0  # of the interval
        self._executed = 0  # in the interval
        self._least_wait_s = float("inf")  # in the interval
        self._refused_s = float("-inf")
        self._past: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)  # intervals: commands executed, seconds
        self.limit = ceiling
        """How many may wait."""

    @property
    def shedding(self) -> bool:
        """Whether load is refused that would be taken in calm times."""
        return self.limit < self._ceiling

    def executed(self, waited_s: float, count: int, now: float) -> int:
        """``count`` commands were executed together, and the oldest had waited for so long. Returns the limit."""
        passed_s = now - self._began_s
        if passed_s > 10 * self._interval_s:  # nothing was executed for a while: that says nothing about the rate
            self._begin(now)
            passed_s = 0.0
        self._executed += count
        self._least_wait_s = min(self._least_wait_s, waited_s)
        if passed_s < self._interval_s:
            return self.limit
        self._past.append((self._executed, passed_s))
        if self._least_wait_s > self._target_s or self.shedding:
            self._set_limit(now)
        self._begin(now)
        return self.limit

    def refused(self, now: float) -> None:
        """Somebody was refused because of the limit."""
        self._refused_s = now

    def _set_limit(self, now: float) -> None:
        if not self.shedding:
            self._refused_s = now  # the calm begins to count now
        elif now - self._refused_s > self._calm_s:
            self.limit = self._ceiling
            return
        self.limit = max(self._floor, min(self._ceiling, int(self._best_rate_per_s() * self._target_s)))

    def _best_rate_per_s(self) -> float:
        past = list(self._past)
        groups = [past[i : i + _TOGETHER] for i in range(max(1, len(past) - _TOGETHER + 1))]
        return max(sum(executed for executed, _ in group) / sum(took_s for _, took_s in group) for group in groups)

    def _begin(self, now: float) -> None:
        self._began_s = now
        self._executed = 0
        self._least_wait_s = float("inf")
