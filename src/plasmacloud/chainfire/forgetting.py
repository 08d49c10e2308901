"""Removing what compactions have put out of reach: a slice in each turn of the loop, at the pace of the writes.

A compaction that lags behind the writes is a leak: each pass begins with more to remove than the one before, and the
history grows for as long as the load lasts. A fixed slice for each turn is such a compaction, because under load turns
are long and hold many writes. So the slice follows the writes: for each record that was added since the last one, about
twice the work that removing a record takes. What a pass finds therefore is at most what was written since the pass
before began, whatever the load.
"""

import asyncio
from typing import Final

from plasmacloud.chainfire.mvcc.store import MvccStore

SLICE: Final = 6_000  # of a compaction's budget: about half a millisecond
PACE: Final = 32  # of the budget for each record added; removing one, if it is its key's only old one, takes 17
LARGEST_SLICE: Final = 100_000  # some 7 ms, however much was added while a reader of the past held the removal up
_POLL_S: Final = 0.05


class Forgetting:
    """Belongs to one member. Runs until cancelled."""

    def __init__(self, store: MvccStore) -> None:
        self._store = store
        self._added = store.records.added_count

    async def run(self) -> None:
        """Whenever there is something to remove, and no reader needs it."""
        while True:
            await asyncio.sleep(0 if self.step() else _POLL_S)

    def step(self) -> bool:
        """One slice. Returns whether more can be removed at once."""
        store = self._store
        added, self._added = self._added, store.records.added_count
        if not store.may_compact:
            return False
        store.compact_step(min(LARGEST_SLICE, max(SLICE, PACE * (self._added - added))))
        return store.may_compact
