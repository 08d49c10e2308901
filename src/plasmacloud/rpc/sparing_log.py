"""Log lines that strangers can cause: a few of them tell an operator enough, and thousands would fill a disk."""

from collections.abc import Callable
from typing import Any

from plasmacloud.base.logging import get_logger

log = get_logger("rpc")

BURST = 20
PERIOD_S = 10.0


class SparingLog:
    """At most `BURST` lines in each `PERIOD_S`; the first of the next period says how many were left out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock``: seconds, that never go backwards."""
        self._clock = clock
        self._period_ends_s = 0.0
        self._said = 0
        self._left_out = 0

    def info(self, event: str, **fields: Any) -> None:
        """Say it, or count it."""
        now_s = self._clock()
        if now_s >= self._period_ends_s:
            self._period_ends_s, self._said = now_s + PERIOD_S, 0
        if self._said >= BURST:
            self._left_out += 1
            return
        self._said += 1
        if self._left_out:
            fields["lines_left_out"], self._left_out = self._left_out, 0
        log.info(event, **fields)
