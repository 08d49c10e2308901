"""Which revisions each key has: the in-memory index over the records.

For ten million keys three things matter: bytes per key, what the cyclic garbage collector has to walk, and that nothing
grows all at once. The index is therefore dicts of ``bytes`` to ``bytes``, which the collector does not track at all, in
shards (`ShardedMap`):

``live``     key -> 28 bytes: id of the newest record, create revision, version
``graves``   key -> 12 bytes: id of the newest record, a tombstone (until compaction forgets the key)
``history``  key -> ids of all older records, ascending, 12 bytes each; only for keys that have older ones

Ids are big endian, so "at or before revision R" is one comparison of bytes with ``bound(R)``, the first bytes of every
id behind R. A history is immutable ``bytes`` while it is short; a long one becomes a ``bytearray``, so that a hot
counter does not copy its whole past with every put.

Two sorted lists give the order: one of the living keys, which answers reads of the newest revision and counts in
O(log n), and one of the dead keys, which joins it for reads in the past.
"""

import heapq
import struct
from collections.abc import Iterator
from itertools import islice

from sortedcontainers import SortedList

from plasmacloud.chainfire.mvcc.records import RECORD_ID, RECORD_ID_BYTES, is_tombstone
from plasmacloud.chainfire.mvcc.sharded_map import SHARD_MASK, ShardedMap

_LIVE = struct.Struct(">QIQQ")
_CREATE_VERSION = struct.Struct(">QQ")
_MAIN = struct.Struct(">Q")
_LONG_HISTORY_BYTES = 100 * RECORD_ID_BYTES
_NO_IDS: list[bytes] = []


def bound(revision: int) -> bytes:
    """Ids at or before ``revision`` are smaller than this, all others are not."""
    return _MAIN.pack(revision + 1)


class KeyIndex:
    """The revisions of every key. Keys are non-empty; ranges are ``[start, end)`` with end b"" for "no end"."""

    __slots__ = ("dead", "graves", "history", "live", "order")

    def __init__(self) -> None:
        self.live: ShardedMap[bytes] = ShardedMap()
        self.graves: ShardedMap[bytes] = ShardedMap()
        self.history: ShardedMap[bytes | bytearray] = ShardedMap()
        self.order: SortedList = SortedList()  # of bytes: the keys of ``live``
        self.dead: SortedList = SortedList()  # of bytes: the keys of ``graves``

    def put(self, key: bytes, main: int, sub: int) -> tuple[bytes, int, int]:
        """Record a put; return its record id, the create revision and the version of the key."""
        live = self.live.shards[hash(key) & SHARD_MASK]
        old = live.get(key)
        if old is not None:
            create, version = _CREATE_VERSION.unpack_from(old, RECORD_ID_BYTES)
            version += 1
            self._remember(key, old[:RECORD_ID_BYTES])
        else:
            create, version = main, 1
            self.order.add(key)
            grave = self.graves.pop(key)
            if grave is not None:
                self.dead.remove(key)
                self._remember(key, grave)
        live[key] = entry = _LIVE.pack(main, sub << 1, create, version)
        return entry[:RECORD_ID_BYTES], create, version

    def delete(self, key: bytes, main: int, sub: int) -> bytes:
        """Record the deletion of a living key; return the id of its tombstone."""
        old = self.live.pop(key)
        assert old is not None, "only living keys are deleted"
        self.order.remove(key)
        self._remember(key, old[:RECORD_ID_BYTES])
        self.dead.add(key)
        self.graves[key] = grave = RECORD_ID.pack(main, sub << 1 | 1)
        return grave

    def _remember(self, key: bytes, identity: bytes) -> None:
        history = self.history.shards[hash(key) & SHARD_MASK]
        old = history.get(key)
        if old is None:
            history[key] = identity
        elif type(old) is bytearray:
            old += identity
        elif len(old) < _LONG_HISTORY_BYTES:
            history[key] = old + identity
        else:
            history[key] = bytearray(old) + identity

    def newest(self, key: bytes) -> bytes | None:
        """The id of the newest record of a living key."""
        entry = self.live.shards[hash(key) & SHARD_MASK].get(key)
        return None if entry is None else entry[:RECORD_ID_BYTES]

    def at(self, key: bytes, limit: bytes) -> bytes | None:
        """The id of the record that was the key's value before ``limit`` (see `bound`), None if it had none."""
        entry = self.live.get(key)
        if entry is not None:
            if entry < limit:
                return entry[:RECORD_ID_BYTES]
        else:
            grave = self.graves.get(key)
            if grave is None or grave < limit:
                return None
        ids = self.history.get(key)
        if ids is None:
            return None
        found = _count_before(ids, limit)
        if not found:
            return None
        identity = bytes(ids[(found - 1) * RECORD_ID_BYTES : found * RECORD_ID_BYTES])
        return None if is_tombstone(identity) else identity

    def ids(self, key: bytes) -> list[bytes]:
        """All record ids of a key, oldest first."""
        past = bytes(self.history.get(key) or b"")
        found = [past[i : i + RECORD_ID_BYTES] for i in range(0, len(past), RECORD_ID_BYTES)]
        entry = self.live.get(key) or self.graves.get(key)
        if entry is not None:
            found.append(entry[:RECORD_ID_BYTES])
        return found

    def count(self, start: bytes, end: bytes) -> int:
        """How many living keys the range has."""
        order = self.order
        behind = order.bisect_left(end) if end else len(order)
        return max(0, int(behind - order.bisect_left(start)))

    def living(self, start: bytes, end: bytes, *, after: bytes | None = None, reverse: bool = False) -> Iterator[bytes]:
        """The living keys of the range in order, from behind ``after`` on. Do not change the index meanwhile."""
        return _walk(self.order, start, end, after, reverse)

    def buried(self, start: bytes, end: bytes, *, after: bytes | None = None) -> Iterator[bytes]:
        """The dead keys of the range in order."""
        return _walk(self.dead, start, end, after, reverse=False)

    def known(self, start: bytes, end: bytes, *, after: bytes | None = None, reverse: bool = False) -> Iterator[bytes]:
        """The living and the dead keys of the range in order: candidates for a read in the past."""
        living = _walk(self.order, start, end, after, reverse)
        if not self.dead:
            return living
        return heapq.merge(living, _walk(self.dead, start, end, after, reverse), reverse=reverse)

    def compact(self, key: bytes, limit: bytes) -> list[bytes]:
        """Forget what no read at or behind the compaction can see; return the record ids to delete.

        Kept is the newest record before ``limit``, unless it is a tombstone, and everything behind.
        """
        ids = self.history.get(key)
        if ids is None:
            return _NO_IDS
        newest = self.live.get(key) or self.graves[key]
        if newest < limit:
            self.history.pop(key)
            dropped = _split(ids)
            if key in self.graves:
                self.graves.pop(key)
                self.dead.remove(key)
                dropped.append(newest)
            return dropped
        found = _count_before(ids, limit)
        if not found:
            return _NO_IDS
        cut = found * RECORD_ID_BYTES
        if not ids[cut - 1] & 1:
            cut -= RECORD_ID_BYTES
        if cut == len(ids):
            self.history.pop(key)
        elif cut:
            self.history[key] = ids[cut:]
        return _split(ids[:cut])

    def load(self, key: bytes, identity: bytes, create: int, version: int) -> None:
        """Take a record of a checkpoint; they come in the order of their ids. `load_done` completes the index."""
        old = self.live.get(key)
        if old is None:
            old = self.graves.pop(key)
        if old is not None:
            self._remember(key, old[:RECORD_ID_BYTES])
        if is_tombstone(identity):
            self.live.pop(key)
            self.graves[key] = identity
        else:
            self.live[key] = identity + _CREATE_VERSION.pack(create, version)

    def load_done(self) -> None:
        """Build the order of the loaded keys."""
        self.order = SortedList(self.live)
        self.dead = SortedList(self.graves)

    def check(self) -> None:
        """Assert what must hold between the parts. Walks everything: for tests."""
        assert list(self.order) == sorted(self.live)
        assert list(self.dead) == sorted(self.graves)
        live, graves = set(self.live), set(self.graves)
        assert not live & graves
        assert set(self.history) <= live | graves
        for key in self.graves:
            assert key in self.history
        for key in self.history:
            ids = self.ids(key)
            assert len(ids) > 1
            assert ids == sorted(set(ids))


def _walk(keys: SortedList, start: bytes, end: bytes, after: bytes | None, reverse: bool) -> Iterator[bytes]:
    if end and end <= start:
        return iter(())
    low, high, inclusive = start, end or None, (True, False)
    if after is not None and reverse:
        high = after
    elif after is not None:
        low, inclusive = after, (False, False)
    found: Iterator[bytes] = keys.irange(low, high, inclusive, reverse)
    return found


def take(keys: Iterator[bytes], count: int) -> list[bytes]:
    """The next ``count`` keys."""
    return list(islice(keys, count))


def _count_before(ids: bytes | bytearray, limit: bytes) -> int:
    """How many of the ids are smaller than ``limit``."""
    low, high = 0, len(ids) // RECORD_ID_BYTES
    if ids[(high - 1) * RECORD_ID_BYTES :] < limit:
        return high
    while low < high:
        middle = (low + high) // 2
        at = middle * RECORD_ID_BYTES
        if ids[at : at + RECORD_ID_BYTES] < limit:
            low = middle + 1
        else:
            high = middle
    return low


def _split(ids: bytes | bytearray) -> list[bytes]:
    past = bytes(ids)
    return [past[i : i + RECORD_ID_BYTES] for i in range(0, len(past), RECORD_ID_BYTES)]
