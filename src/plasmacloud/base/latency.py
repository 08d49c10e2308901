"""A histogram of durations that costs an addition: for hot paths."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

FAST_S: Final = tuple(0.0001 * 2**i for i in range(17))
"""0.1 ms to 6.6 s, each bound twice the one before."""


class LatencyHistogram:
    """How often something took how long. One thread observes; any may read."""

    __slots__ = ("_bounds", "_counts", "sum_s")

    def __init__(self, bounds_s: Sequence[float] = FAST_S) -> None:
        """``bounds_s``: upper bounds of the buckets in seconds, ascending; what is above them is counted, too."""
        assert list(bounds_s) == sorted(set(bounds_s))
        self._bounds = tuple(bounds_s)
        self._counts = [0] * (len(self._bounds) + 1)
        self.sum_s = 0.0

    def observe(self, took_s: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, took_s)] += 1
        self.sum_s += took_s

    @property
    def count(self) -> int:
        """How many were observed."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, how many took at most that long), as Prometheus wants them."""
        buckets = []
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), list(self._counts), strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else f"{bound:.6g}", float(total)))
        return buckets
