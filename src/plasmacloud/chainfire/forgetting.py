"""Removing what compactions have put out of reach: a slice in each turn of the loop, at the pace of the writes.

A compaction that lags behind the writes is a leak: each pass begins with more to remove than the one before, and the
history grows for as long as the load lasts. A fixed slice for each turn is such a compaction, because under load turns
are long and hold many writes. So the slice follows the writes: for each record that was added since the last one, more
than removing a record takes. What a pass finds is therefore at most what was written since the pass before began,
whatever the load.
"""

import asyncio
from typing import Final

from plasmacloud.chainfire.mvcc.store import MvccStore

SLICE: Final = 6_000  # of a compaction's budget: about half a millisecond
PACE: Final = 24  # of the budget for each record added; removing one takes 9, or 17 when it is its key's only old one
LARGEST_SLICE: Final = 60_000  # some 4 ms: PACE for as many records as can be applied in a turn
_POLL_S: Final = 0.05


class Forgetting:
    """Belongs to one member. Runs until cancelled."""

    def __init__(self, store: MvccStore) -> None:
        self._store = store
        self._added = store.records.added_count

    async def run(self) -> None:
        """Whenever there is something to remove, and no reader needs it."""
        while True:
            more = self.step()
            await asyncio.sleep(0 if more else _POLL_S)

    def step(self) -> bool:
        """One slice. Returns whether more can be removed at once."""
        store = self._store
        added, self._added = self._added, store.records.added_count
        if not store.may_compact:
            return False
        store.compact_step(min(LARGEST_SLICE, max(SLICE, PACE * (self._added - added))))
        return store.may_compact
