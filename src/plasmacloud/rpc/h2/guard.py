"""A budget for frames that cost us work and carry none: resets, pings, settings, empty frames.

Useful traffic earns budget, because honest clients send such frames in proportion to it (grpc-go probes bandwidth
with pings, window updates follow data). Only what exceeds burst, rate and earnings is a flood.
"""

from collections.abc import Callable

from plasmacloud.rpc.h2.errors import ConnectionFault, ErrorCode


class FloodGuard:
    """A token bucket that is refilled lazily: spending costs one subtraction until it runs empty."""

    __slots__ = ("_burst", "_clock", "_complaint", "_earned", "_last_s", "_left", "_per_s", "_useful")

    def __init__(
        self, complaint: str, burst: int, per_s: float, clock: Callable[[], float], useful: Callable[[], int]
    ) -> None:
        self._complaint = complaint  # travels in the GOAWAY
        self._burst = burst
        self._per_s = per_s
        self._clock = clock
        self._useful = useful  # a counter that only grows: requests received, frames sent
        self._left = float(burst)
        self._last_s = clock()
        self._earned = useful()

    def spend(self) -> None:
        """Account for one frame; raises ConnectionFault(ENHANCE_YOUR_CALM) when the budget is gone."""
        self._left -= 1
        if self._left >= 0:
            return
        now, useful = self._clock(), self._useful()
        refill = (now - self._last_s) * self._per_s + (useful - self._earned)
        self._last_s, self._earned = now, useful
        self._left = min(float(self._burst), self._left + refill)
        if self._left < 0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, self._complaint)
