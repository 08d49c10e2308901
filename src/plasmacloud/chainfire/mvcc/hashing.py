"""A hash of everything a client could read at or before a revision, computed in slices.

It covers each record (key, value, create and mod revision, version, lease) and its place in the history, and is equal
on all members at the same revision and compact revision, however far each one's physical compaction is. Like a long
range it reads at a fixed revision while writes go on between its slices.
"""

import hashlib
from typing import TYPE_CHECKING

from plasmacloud.chainfire.mvcc.key_index import bound, take
from plasmacloud.chainfire.mvcc.records import is_tombstone
from plasmacloud.chainfire.mvcc.refusals import COMPACTED, FUTURE_REVISION

if TYPE_CHECKING:
    from plasmacloud.chainfire.mvcc.store import MvccStore

SLICE_KEYS = 500


class StateHash:
    """A hash being computed. Call `step` until it returns True, or `close`."""

    def __init__(self, store: "MvccStore", revision: int = 0) -> None:
        """``revision`` 0: the newest. Raises `RpcRefusal` for revisions that cannot be read."""
        self.revision = revision or store.revision
        self.compact_revision = store.compact_revision
        if self.revision > store.revision:
            raise FUTURE_REVISION()
        if self.revision < self.compact_revision:
            raise COMPACTED()
        self._store = store
        self._upper, self._lower = bound(self.revision), bound(self.compact_revision)
        self._digest = hashlib.blake2b(digest_size=16)
        self._digest.update(b"%d %d" % (self.revision, self.compact_revision))
        self._after: bytes | None = None
        self._pinned = True
        store.pin(self.compact_revision)  # what this compact revision keeps stays

    def step(self, max_keys: int = SLICE_KEYS) -> bool:
        """Go on with the next keys; returns whether the hash is complete."""
        assert self._pinned, "the hash is closed"
        store, upper, lower = self._store, self._upper, self._lower
        keys = take(store.index.known(b"", b"", after=self._after), max_keys)
        for key in keys:
            ids = [identity for identity in store.index.ids(key) if identity < upper]
            old = [identity for identity in ids if identity < lower]
            ids = ids[len(old) :]
            if old and not is_tombstone(old[-1]):
                ids.insert(0, old[-1])
            for identity in ids:
                self._digest.update(identity)
                self._digest.update(store.records.get(identity))
        if len(keys) < max_keys:
            self.close()
            return True
        self._after = keys[-1]
        return False

    def digest(self) -> bytes:
        """The 16 bytes of the hash."""
        assert not self._pinned, "not complete"
        return self._digest.digest()

    def close(self) -> None:
        """Let go of the history; a hash that is not complete is lost."""
        if self._pinned:
            self._pinned = False
            self._store.unpin(self.compact_revision)
