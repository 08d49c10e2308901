"""Deadlines of very many calls without a timer or a task per call.

Calls that expire within the same tick share one bucket and one loop timer; a finished call leaves its bucket with
one dict operation. A call expires up to one tick late, never early.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from plasmacloud.base.logging import get_logger

log = get_logger("rpc")

TICK_S: Final = 0.005


class Expiring(Protocol):
    """Something with a deadline."""

    def on_deadline(self) -> None:
        """The deadline has passed; called at most once, on the event loop."""


Bucket = dict[Expiring, None]


class DeadlineWheel:
    """Buckets of calls by expiry tick. ``add`` returns the bucket; pop the call from it when it is done."""

    __slots__ = ("_buckets", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[int, tuple[Bucket, asyncio.TimerHandle]] = {}

    def add(self, call: Expiring, deadline_s: float) -> Bucket:
        """Watch ``call`` until ``deadline_s`` (``loop.time()`` seconds)."""
        tick = int(deadline_s / TICK_S) + 1
        known = self._buckets.get(tick)
        if known is None:
            bucket: Bucket = {}
            self._buckets[tick] = (bucket, self._loop.call_at(tick * TICK_S, self._expire, tick))
        else:
            bucket = known[0]
        bucket[call] = None
        return bucket

    def _expire(self, tick: int) -> None:
        bucket = self._buckets.pop(tick)[0]
        while bucket:
            call, _ = bucket.popitem()
            try:
                call.on_deadline()
            except Exception:  # else the others in the bucket would never expire
                log.error("deadline handler failed", exc_info=True)

    def close(self) -> None:
        """Cancel all timers; nothing expires any more."""
        for _, handle in self._buckets.values():
            handle.cancel()
        self._buckets.clear()
