"""Forgetting the past, a slice at a time.

The moment a compaction is applied, reads before its revision are refused on every member; that is all that is visible.
Removing the records behind it may take long and happens in steps between other work, each member at its own pace.
A compaction that a restart interrupts begins again from the first key: forgetting twice changes nothing.
"""

from plasmacloud.chainfire.mvcc.key_index import KeyIndex, bound, take
from plasmacloud.chainfire.mvcc.records import Records

SLICE_KEYS = 2000  # about 1 ms of work
_CHUNK_KEYS = 128
_DROP_COST = 8  # dropping a record costs this many of the budget


class Compaction:
    """The removal of what a compaction at ``revision`` made unreachable."""

    __slots__ = ("_after", "_index", "_limit", "_living", "_records", "_revived", "revision")

    def __init__(self, revision: int, index: KeyIndex, records: Records) -> None:
        self.revision = revision
        self._index = index
        self._records = records
        self._limit = bound(revision)
        self._living = True  # first the living keys, then the dead ones
        self._after: bytes | None = None
        self._revived: list[bytes] = []

    def revived(self, key: bytes) -> None:
        """A dead key was put again: it moves between the two lists and could be missed."""
        self._revived.append(key)

    def step(self, budget: int = SLICE_KEYS) -> bool:
        """Look at about ``budget`` more keys. Returns whether everything is done."""
        while budget > 0:
            walk = self._index.living if self._living else self._index.buried
            wanted = min(_CHUNK_KEYS, budget)
            keys = take(walk(b"", b"", after=self._after), wanted)
            budget -= len(keys) + _DROP_COST * self._forget(keys)
            if len(keys) == wanted:
                self._after = keys[-1]
            elif self._living:
                self._living, self._after = False, None
            else:
                self._forget(self._revived)
                return True
        return False

    def _forget(self, keys: list[bytes]) -> int:
        history = self._index.history
        dropped = 0
        for key in keys:
            if key in history:
                ids = self._index.compact(key, self._limit)
                self._records.drop(ids)
                dropped += 1 + len(ids)
        return dropped
