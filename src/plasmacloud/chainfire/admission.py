"""How many commands may wait at once: as many as can be executed within the delay that is worth waiting for.

A fixed number is either too small for a burst or too large for a crowd that stays: 20 000 commands are half a second of
work on a fast machine and ten on a slow one. So delay decides, in the manner of CoDel (RFC 8289): when commands wait
longer than the *bound* for a whole interval and do not become fewer, the queue is a standing one, and gets a limit: the
rate times the bound (Little's law). The rate is that of the best half second of the last three: commands are executed
in bursts, so an instant says too much, and in batches, so a limit that followed every dip would follow it down. Whoever
comes above the limit is refused at once: not executed, safe to retry. When nobody had to be refused for a while, the
limit goes.

The bound is the *base*, what a command takes where there is no queue, plus ``target_s`` of waiting. A slow disk or a
long way to the other members is no queue, and a limit below what is on its way there would only cost rate. The base is
the least wait seen. It rises in two cases in which a longer wait is not the queue's: nobody was refused for a while,
and the waits are still above the bound; or the limit has come down to the ``floor``, and has not shortened them.

A burst on a calm member, and what has piled up during a failover, pass: there the queue shrinks.

Pure: the time is an argument (seconds, monotonic).
"""

import math
from collections import deque
from typing import Final

TARGET_S: Final = 0.1
INTERVAL_S: Final = 0.1
CALM_S: Final = 1.0
FLOOR: Final = 64
_REMEMBERED_S: Final = 3.0
_TOGETHER: Final = 5  # intervals
_TOO_LONG: Final = 1.5  # times the bound: the limit is still too high
_CUT: Final = 0.7


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
        self._base_s = float("inf")
        self._began_s = 0.0  # of the interval
        self._executed = 0  # in the interval
        self._least_wait_s = float("inf")  # in the interval
        self._left_before = 0  # at the end of the interval before
        self._refused_s = float("-inf")
        self._cut_s = float("-inf")
        self._past: deque[tuple[float, int, float]] = deque()  # intervals: their end, commands executed, seconds
        self.limit = ceiling
        """How many may wait."""

    @property
    def shedding(self) -> bool:
        """Whether load is refused that would be taken in calm times."""
        return self.limit < self._ceiling

    @property
    def bound_s(self) -> float:
        """How long a command may wait before the queue is taken for a standing one."""
        return self._base_s + self._target_s

    def executed(self, waited_s: float, count: int, left: int, now: float) -> int:
        """``count`` commands were executed together, the oldest had waited for so long, and ``left`` wait on.

        Returns the limit.
        """
        passed_s = now - self._began_s
        if passed_s > 10 * self._interval_s:  # nothing was executed for a while: that says nothing about the rate
            self._begin(now)
            self._left_before = left + count
            passed_s = 0.0
        self._executed += count
        if waited_s < self._least_wait_s:
            self._least_wait_s = waited_s
        if passed_s < self._interval_s:
            return self.limit
        self._past.append((now, self._executed, passed_s))
        while self._past[0][0] < now - _REMEMBERED_S:
            self._past.popleft()
        self._base_s = min(self._base_s, self._least_wait_s)
        if self.shedding or (self._least_wait_s > self.bound_s and left >= self._left_before):
            self._set_limit(now)
        self._left_before = left
        self._begin(now)
        return self.limit

    def refused(self, now: float) -> None:
        """Somebody was refused because of the limit."""
        self._refused_s = now

    def _set_limit(self, now: float) -> None:
        wanted = int(self._best_rate_per_s() * self.bound_s)
        if not self.shedding:
            self._refused_s = self._cut_s = now  # the calm begins to count now
        elif now - self._refused_s > self._calm_s:
            self._forget_queue()
            return
        elif now - self._least_wait_s > self._cut_s and self._least_wait_s > _TOO_LONG * self.bound_s:
            # Whoever has waited so long had come below the limit.
            if self.limit == self._floor:
                self._forget_queue()
                return
            wanted = min(wanted, int(_CUT * self.limit))
            self._cut_s = now
        elif now - self._cut_s < self._least_wait_s:
            wanted = min(wanted, self.limit)  # until the last cut shows its effect
        self.limit = max(self._floor, min(self._ceiling, wanted))

    def _forget_queue(self) -> None:
        """It is not a queue that makes the waits long: expect them."""
        self._base_s = self._least_wait_s
        self.limit = self._ceiling

    def _best_rate_per_s(self) -> float:
        past = list(self._past)
        groups = [past[i : i + _TOGETHER] for i in range(max(1, len(past) - _TOGETHER + 1))]
        return max(sum(c for _, c, _ in group) / math.fsum(took_s for _, _, took_s in group) for group in groups)

    def _begin(self, now: float) -> None:
        self._began_s = now
        self._executed = 0
        self._least_wait_s = float("inf")
