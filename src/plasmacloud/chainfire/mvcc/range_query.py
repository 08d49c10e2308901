"""A Range in slices.

A range over a million keys takes a second; heartbeats run on the same event loop and cannot wait that long. So a range
is an object that advances by a budget of keys per step and reads at one fixed revision throughout. While writes go on
between the steps, it falls back from the index of newest revisions to the history; while it is unfinished it pins its
revision, and a compaction waits for it.

What a reply contains follows etcd 3.5: ``count`` is the number of keys in the range whatever limit and filters say,
``more`` means that the limit cut the (filtered) result, sorting and filtering come before the limit, and sorting by
anything but the key without an order means ascending. Keys with equal sort values come in ascending order of the key.
"""

import heapq
from collections.abc import Callable, Iterator
from enum import Enum, auto
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from plasmacloud.chainfire.mvcc.encoding import join_kvs, varint, without_value
from plasmacloud.chainfire.mvcc.key_index import bound, take
from plasmacloud.chainfire.mvcc.refusals import COMPACTED, FUTURE_REVISION
from plasmacloud.chainfire.mvcc.slices import CHUNK_KEYS, CHUNK_RECORDS
from plasmacloud.rpc.proto import kv_pb2
from plasmacloud.rpc.proto.rpc_pb2 import RangeRequest

if TYPE_CHECKING:
    from plasmacloud.chainfire.mvcc.store import MvccStore

SLICE_KEYS = 1000  # about 2 ms of work
_CHUNK_BYTES = 128 * 1024
_RUN_ITEMS = 4096  # what is sorted in one go
_KEY_BYTES = 1024  # a record longer than this counts as several keys of the budget

_Item = tuple[Any, bytes]
_sort_value = itemgetter(0)

_KEY, _NONE, _DESCEND = int(RangeRequest.KEY), int(RangeRequest.NONE), int(RangeRequest.DESCEND)  # slow to ask for
_FIELDS: dict[int, Callable[[kv_pb2.KeyValue], Any]] = {
    RangeRequest.KEY: lambda kv: kv.key,
    RangeRequest.VERSION: lambda kv: kv.version,
    RangeRequest.CREATE: lambda kv: kv.create_revision,
    RangeRequest.MOD: lambda kv: kv.mod_revision,
    RangeRequest.VALUE: lambda kv: kv.value,
}


class _Phase(Enum):
    WALK = auto()
    MERGE = auto()
    DONE = auto()


def range_end(end: bytes) -> bytes | None:
    """The end of a request as the index wants it: None is "this key only", b"" is "to the last key"."""
    if not end:
        return None
    return b"" if end == b"\0" else end


def is_plain_range(request: RangeRequest) -> bool:
    """Whether it asks for one key as it is now: the commonest read, which needs no query."""
    return not (
        request.range_end
        or request.revision > 0
        or request.keys_only
        or request.count_only
        or request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


class RangeQuery:
    """One Range in progress. Call `step` until it returns True, then take `body`; `close` it when abandoned."""

    __slots__ = (
        "_after", "_blobs", "_chunk", "_count", "_current", "_descending", "_end", "_field", "_filter", "_keys_only",
        "_left", "_limit", "_matched", "_merged", "_pending", "_phase", "_pinned", "_revision", "_runs", "_start",
        "_store", "_whole_walk",
    )  # fmt: skip

    def __init__(self, store: "MvccStore", request: RangeRequest, current: int) -> None:
        """Begin reading. ``current`` is the revision that counts as the newest: it is that, or pinned.

        Raises `RpcRefusal` for a revision of the future or before the compaction.
        """
        revision = request.revision
        if revision > current:
            raise FUTURE_REVISION()
        if revision <= 0:
            revision = current
        elif revision < store.compact_revision:
            raise COMPACTED()
        self._store = store
        self._current = current
        self._revision = revision
        self._start: bytes = request.key
        self._end = range_end(request.range_end)
        self._limit = max(0, request.limit)
        self._keys_only = request.keys_only
        self._filter = _record_filter(request)
        order, target = request.sort_order, request.sort_target
        by_key = target == _KEY
        self._descending = order == _DESCEND
        self._field = None if by_key else _FIELDS[target]
        self._after: bytes | None = None
        self._chunk = CHUNK_RECORDS  # nothing is known yet of how large they are
        self._count = self._matched = 0
        self._blobs: list[bytes] = []
        self._runs: list[list[_Item]] = []
        self._pending: list[_Item] = []
        self._merged: Iterator[_Item] | None = None
        self._pinned = False
        self._phase = _Phase.WALK
        # At the newest revision the index counts; a read in the past must look at every key to count them.
        self._whole_walk = revision < store.tip
        self._left = self._supply(order)
        if self._end is not None and not self._whole_walk:
            self._count = store.index.count(self._start, self._end)
        if request.count_only:
            self._left = self._limit = 0
            self._filter = self._field = None
            if self._end is not None and not self._whole_walk:
                self._phase = _Phase.DONE

    def _supply(self, order: int) -> int:
        """How many records may be read before the rest is only counted; -1: all of them.

        A sort target without an order is a trap that etcd's clients may rely on: the limit then picks the first keys,
        and only those, with one more, are sorted.
        """
        if not self._limit:
            return -1
        if self._field is None:
            return self._limit
        return self._limit + 1 if order == _NONE and self._filter is None else -1

    @property
    def done(self) -> bool:
        """Whether `body` may be called."""
        return self._phase is _Phase.DONE

    def step(self, budget: int = SLICE_KEYS) -> bool:
        """Look at about ``budget`` more keys. Returns whether the query is complete."""
        while self._phase is not _Phase.DONE and budget > 0:
            if self._phase is _Phase.MERGE:
                budget -= self._merge(budget)
            elif self._end is None:
                self._single()
            else:
                budget -= self._walk(self._end, budget)
        done = self._phase is _Phase.DONE
        if done == self._pinned:
            self._pinned = not done
            (self._store.unpin if done else self._store.pin)(self._revision)
        return done

    def run(self) -> bytes:
        """All steps at once."""
        while not self.step():
            pass
        return self.body()

    def close(self) -> None:
        """Give up: an abandoned query must not hold back the compaction."""
        self._phase = _Phase.DONE
        self._blobs, self._runs, self._pending, self._merged = [], [], [], None
        if self._pinned:
            self._pinned = False
            self._store.unpin(self._revision)

    def body(self, *, inside_txn: bool = False) -> bytes:
        """The serialized RangeResponse."""
        return b"".join(self.pieces(inside_txn=inside_txn))

    def pieces(self, *, inside_txn: bool = False) -> list[bytes]:
        """The same, in pieces of a few kilobytes. Call one of the two, once."""
        assert self._phase is _Phase.DONE
        pieces = [self._store.header_field(self._current, inside_txn), *self._blobs]
        self._blobs = []
        matched = self._count if self._filter is None else self._matched
        if self._limit and matched > self._limit:
            pieces.append(b"\x18\x01")
        if self._count:
            pieces.append(b"\x20" + varint(self._count))
        return pieces

    def _single(self) -> None:
        store = self._store
        index = store.index
        if self._revision >= store.tip:
            identity = index.newest(self._start)
        else:
            identity = index.at(self._start, bound(self._revision))
        if identity is not None:
            self._count = 1
            self._take([identity])
        self._finish()

    def _walk(self, end: bytes, budget: int) -> int:
        store = self._store
        index = store.index
        wanted = min(self._chunk, budget)
        if self._left >= 0 and self._filter is None and not self._whole_walk:
            wanted = min(wanted, self._left)
        if self._revision >= store.tip:
            keys = take(index.living(self._start, end, after=self._after, reverse=self._backwards), wanted)
            ids = list(map(index.newest, keys))
        else:
            limit = bound(self._revision)
            keys = take(index.known(self._start, end, after=self._after, reverse=self._backwards), wanted)
            ids = [index.at(key, limit) for key in keys]
        found = [i for i in ids if i is not None]
        if self._whole_walk:
            self._count += len(found)
        cost = len(keys) + self._take(found)
        if len(keys) < wanted or (self._has_enough and not self._whole_walk):
            self._finish()
        else:
            self._after = keys[-1]
        return cost

    @property
    def _backwards(self) -> bool:
        return self._descending and self._field is None

    @property
    def _has_enough(self) -> bool:
        """Whether further records cannot change the reply, other than its count."""
        return self._left == 0 and (self._filter is None or self._matched > self._limit)

    def _take(self, ids: list[bytes]) -> int:
        """Add what the records with these ids contribute; return the cost of long records in keys."""
        field, keep = self._field, self._filter
        if self._has_enough:
            self._chunk = CHUNK_KEYS
            return 0
        if keep is None and self._left >= 0:
            ids = ids[: self._left]
            self._left -= len(ids)
        if keep is None and field is None:
            return self._emit(self._store.records.get_many(ids)) if ids else 0
        records = self._store.records.get_many(ids)
        cost = len(ids) + self._weigh(len(records), sum(map(len, records)))
        parsed = list(map(kv_pb2.KeyValue.FromString, records))
        if keep is not None:
            kept = [keep(kv) for kv in parsed]
            records = [r for r, k in zip(records, kept, strict=True) if k]
            parsed = [kv for kv, k in zip(parsed, kept, strict=True) if k]
        self._matched += len(records)
        if field is None:
            if self._left >= 0:  # there is a filter, so nothing was cut above
                records = records[: self._left]
                self._left -= len(records)
            return cost + self._emit(records)
        self._collect([(field(kv), record) for kv, record in zip(parsed, records, strict=True)])
        return cost + len(ids)

    def _collect(self, items: list[_Item]) -> None:
        """Add to the last run; sort it when it is full. With a limit only the best so far are kept."""
        run = self._pending
        run += items
        if len(run) >= _RUN_ITEMS:
            self._sort_pending()

    def _sort_pending(self) -> None:
        run = self._pending
        run.sort(key=_sort_value, reverse=self._descending)
        if self._limit:
            del run[self._limit :]
        if not self._limit or len(run) >= _RUN_ITEMS:
            self._runs.append(run)
            self._pending = []

    def _finish(self) -> None:
        self._phase = _Phase.DONE
        if self._pending:
            self._sort_pending()
        runs = [run for run in (*self._runs, self._pending) if run]
        self._runs, self._pending = [], []
        if runs:
            self._phase = _Phase.MERGE
            merged = heapq.merge(*map(_drain, runs), key=_sort_value, reverse=self._descending)
            self._merged = islice(merged, self._limit or None)

    def _merge(self, budget: int) -> int:
        assert self._merged is not None
        wanted = min(self._chunk, budget)
        records = [record for _, record in islice(self._merged, wanted)]
        if len(records) < wanted:
            self._phase = _Phase.DONE
            self._merged = None
        return 1 + 2 * len(records) + self._emit(records)

    def _emit(self, records: list[bytes]) -> int:
        if self._keys_only:
            size = sum(map(len, records))
            records = list(map(without_value, records))
        blob = join_kvs(records)
        self._blobs.append(blob)
        return self._weigh(len(records), size if self._keys_only else len(blob))

    def _weigh(self, records: int, size: int) -> int:
        """Records of together ``size`` bytes were read: their cost in keys. From now on as many are read at a time as
        are likely to have a moderate size."""
        if size:
            self._chunk = max(1, min(CHUNK_KEYS, _CHUNK_BYTES * records // size))
        return size // _KEY_BYTES


def _drain(run: list[_Item]) -> Iterator[_Item]:
    """The items of a run, freed as they are used: to free a million of them in the last step takes too long."""
    run.reverse()
    while run:
        yield run.pop()


def _record_filter(request: RangeRequest) -> Callable[[kv_pb2.KeyValue], bool] | None:
    min_mod, max_mod = request.min_mod_revision, request.max_mod_revision
    min_create, max_create = request.min_create_revision, request.max_create_revision
    if not (min_mod or max_mod or min_create or max_create):
        return None

    def keep(kv: kv_pb2.KeyValue) -> bool:
        mod, create = kv.mod_revision, kv.create_revision
        return not (
            (max_mod and mod > max_mod)
            or (min_mod and mod < min_mod)
            or (max_create and create > max_create)
            or (min_create and create < min_create)
        )

    return keep
