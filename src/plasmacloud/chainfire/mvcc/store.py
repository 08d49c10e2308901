"""The multi-version store: requests in, serialized replies out.

Every change gets the next revision; the first one is 2, because an empty store is at revision 1. A request that
changes nothing leaves the revision alone. Operations raise `RpcRefusal` before they change anything.
Semantics: https://etcd.io/docs/v3.5/learning/api/, verified against a running etcd by the differential tests.

A request that changes very many keys is executed in slices (`slices`). Readers that come in between see the state
before it: ``revision`` moves when the last change is made, and until then every read is one in the past.
"""

from collections.abc import Callable

from plasmacloud.base.checksum import crc32
from plasmacloud.chainfire.mvcc.compaction import SLICE_KEYS, Compaction
from plasmacloud.chainfire.mvcc.encoding import (
    PREV_KVS_TAG,
    HeaderEncoder,
    bare_header,
    encode_record,
    encode_tombstone,
    kvs_prefix,
    splice_record,
    varint,
)
from plasmacloud.chainfire.mvcc.hashing import StateHash
from plasmacloud.chainfire.mvcc.key_index import KeyIndex, bound, take
from plasmacloud.chainfire.mvcc.range_query import RangeQuery, is_plain_range, range_end
from plasmacloud.chainfire.mvcc.records import RECORD_ID, RECORD_ID_BYTES, Records, RecordStore
from plasmacloud.chainfire.mvcc.refusals import COMPACTED, FUTURE_REVISION, KEY_NOT_FOUND, LEASE_NOT_FOUND
from plasmacloud.chainfire.mvcc.slices import CHUNK_KEYS, CHUNK_RECORDS, Work, finish
from plasmacloud.chainfire.mvcc.txn import execute, plan_txn
from plasmacloud.rpc.proto import kv_pb2, rpc_pb2

FIRST_REVISION = 1
NEVER_COMPACTED = -1


def no_leases(lease: int) -> bool:
    """There is no lease at all."""
    return False


class MvccStore:
    """The versions of all keys, and the replies to requests about them.

    ``cluster_id`` and ``member_id`` appear in reply headers. ``lease_exists`` tells whether a lease can be attached.
    """

    def __init__(
        self,
        records: RecordStore,
        *,
        cluster_id: int,
        member_id: int,
        lease_exists: Callable[[int], bool] = no_leases,
    ) -> None:
        self.index = KeyIndex()
        self.records = Records(records)
        self.header = HeaderEncoder(cluster_id, member_id)
        self.lease_exists = lease_exists
        self.revision = FIRST_REVISION
        self.tip = FIRST_REVISION
        """The revision of the newest record: ahead of ``revision`` inside a transaction that has written."""
        self.compact_revision = NEVER_COMPACTED
        self.compaction: Compaction | None = None
        """The removal that is still to be done, in steps."""
        self.change_crc = 0
        """CRC-32 over all changes ever applied: equal on all members at the same applied index."""
        self.chunk_keys = CHUNK_KEYS
        """Work in slices can be interrupted every so many keys."""
        self._sub = 0
        self._pins: dict[int, int] = {}

    # -- reading ---------------------------------------------------------------------------------------------------

    def open_range(self, request: rpc_pb2.RangeRequest) -> RangeQuery:
        """Begin a Range that is answered in steps. Raises `RpcRefusal`."""
        return RangeQuery(self, request, self.revision)

    def range(self, request: rpc_pb2.RangeRequest) -> bytes:
        """The whole Range at once, as a serialized RangeResponse. Raises `RpcRefusal`."""
        reply = self.begin_range(request)
        return reply if isinstance(reply, bytes) else reply.run()

    def begin_range(self, request: rpc_pb2.RangeRequest) -> bytes | RangeQuery:
        """The serialized RangeResponse when one slice of work is enough, else the query to go on with.

        Raises `RpcRefusal`.
        """
        if self.tip == self.revision and is_plain_range(request):
            return self._newest_of_key(request.key, self.header.field(self.revision))
        query = RangeQuery(self, request, self.revision)
        return query.body() if query.step() else query

    def newest_in_txn(self, request: rpc_pb2.RangeRequest, at: int | None) -> bytes | None:
        """The reply to a range in a transaction when that asks for the newest of one key; None: it takes a query.

        A transaction that writes sees what it has written; one that only reads sees the state ``at`` its revision, and
        never half of another.
        """
        if (at is not None and self.tip != at) or not is_plain_range(request):
            return None
        return self._newest_of_key(request.key, bare_header(self.tip))

    def _newest_of_key(self, key: bytes, header: bytes) -> bytes:
        """The commonest read."""
        record = self.newest_record(key)
        return header if record is None else b"".join((header, kvs_prefix(len(record)), record, b"\x20\x01"))

    def header_field(self, revision: int, inside_txn: bool = False) -> bytes:
        """The header field of a reply; inside a transaction it carries nothing but the revision."""
        return bare_header(revision) if inside_txn else self.header.field(revision)

    def pin(self, revision: int) -> None:
        """A query reads at this revision: a later compaction must wait."""
        self._pins[revision] = self._pins.get(revision, 0) + 1

    def unpin(self, revision: int) -> None:
        """The query is done."""
        left = self._pins[revision] - 1
        if left:
            self._pins[revision] = left
        else:
            del self._pins[revision]

    def newest_record(self, key: bytes) -> bytes | None:
        """The stored ``KeyValue`` of a living key."""
        identity = self.index.newest(key)
        return None if identity is None else self.records.get(identity)

    def seen(self, key: bytes, at: int) -> bytes | None:
        """The id of the key's record as of the revision ``at``: the present one, or one that is pinned."""
        return self.index.newest(key) if self.tip == at else self.index.at(key, bound(at))

    def seen_keys(self, start: bytes, end: bytes, after: bytes | None, at: int) -> list[bytes]:
        """The next keys of the range that may have been there at that revision; `seen` tells of each whether it was."""
        index = self.index
        walk = index.living if self.tip == at else index.known
        return take(walk(start, end, after=after), self.chunk_keys)

    def read_txn(self, request: rpc_pb2.TxnRequest) -> bytes:
        """Answer a Txn that only reads, at once; return the serialized TxnResponse. Raises `RpcRefusal`."""
        return finish(self.read_txn_work(request))

    def read_txn_work(self, request: rpc_pb2.TxnRequest) -> Work[bytes]:
        """Answer a Txn that only reads, in slices. Raises `RpcRefusal`.

        What is written meanwhile is not seen: all of it is read at the revision of the beginning, which is pinned.
        """
        revision = self.revision
        self.pin(revision)
        try:
            plan = yield from plan_txn(self, request, revision)
            return self.header.field(revision) + (yield from execute(self, plan, at=revision))
        finally:
            self.unpin(revision)

    # -- writing ---------------------------------------------------------------------------------------------------

    def put(self, request: rpc_pb2.PutRequest) -> bytes:
        """Apply a Put; return the serialized PutResponse. Raises `RpcRefusal`."""
        lease = request.lease
        if lease and not self.lease_exists(lease):
            raise LEASE_NOT_FOUND()
        body = self.put_part(request)
        self.revision = self.tip
        self._sub = 0
        return self.header.field(self.revision) + body

    def put_plain(self, body: bytes, value_at: int) -> None:
        """Apply a Put that is still encoded; ``value_at`` is from `plain_put`. The reply is the header and no more."""
        key = body[2:value_at]
        main = self.revision + 1
        if self.compaction is not None and key in self.index.graves:
            self.compaction.revived(key)
        identity, create, version = self.index.put(key, main, 0)
        record = splice_record(body, value_at, create, main, version)
        records = self.records
        records.active[identity] = record
        records.active_bytes += len(record)
        self.change_crc = crc32(record, self.change_crc)
        self.revision = self.tip = main

    def put_part(self, request: rpc_pb2.PutRequest) -> bytes:
        """Apply a put as (a part of) the running transaction; return the reply behind its header.

        Raises `RpcRefusal` when a previous value is needed and there is none.
        """
        key = request.key
        value = request.value
        lease = request.lease
        reply = b""
        if request.prev_kv or request.ignore_value or request.ignore_lease:
            previous = self.newest_record(key)
            if request.ignore_value or request.ignore_lease:
                if previous is None:
                    raise KEY_NOT_FOUND()
                old = kv_pb2.KeyValue.FromString(previous)
                if request.ignore_value:
                    value = old.value
                if request.ignore_lease:
                    lease = old.lease
            if request.prev_kv and previous is not None:
                reply = kvs_prefix(len(previous)) + previous
        main = self.revision + 1
        if self.compaction is not None and key in self.index.graves:
            self.compaction.revived(key)
        identity, create, version = self.index.put(key, main, self._sub)
        record = encode_record(key, create, main, version, value, lease)
        self._record(identity, record)
        return reply

    def _record(self, identity: bytes, record: bytes) -> None:
        records = self.records
        records.active[identity] = record
        records.active_bytes += len(record)
        self.change_crc = crc32(record, self.change_crc)
        self._sub += 1
        self.tip = self.revision + 1

    def _publish(self, body: bytes) -> bytes:
        """The running transaction is complete: from now on readers see what it wrote. Returns its reply."""
        self.revision = self.tip
        self._sub = 0
        return self.header.field(self.revision) + body

    def delete_range(self, request: rpc_pb2.DeleteRangeRequest) -> bytes:
        """Apply a DeleteRange at once; return the serialized DeleteRangeResponse."""
        return finish(self.delete_range_work(request))

    def delete_range_work(self, request: rpc_pb2.DeleteRangeRequest) -> Work[bytes]:
        """Apply a DeleteRange in slices, for the serialized DeleteRangeResponse. Nothing else may write meanwhile."""
        return self._publish((yield from self.delete_part(request)))

    def delete_part(self, request: rpc_pb2.DeleteRangeRequest) -> Work[bytes]:
        """Delete as (a part of) the running transaction, for the reply behind its header."""
        index = self.index
        chunk = min(self.chunk_keys, CHUNK_RECORDS) if request.prev_kv else self.chunk_keys
        deleted, main = 0, self.revision + 1
        end = range_end(request.range_end)
        if end is None:
            keys = [request.key] if request.key in index.live else []
        else:
            keys = take(index.living(request.key, end), chunk)
        previous: list[bytes] = []
        while keys:
            if request.prev_kv:
                previous += self._previous(keys)
            for key in keys:
                identity = index.delete(key, main, self._sub)
                self._record(identity, encode_tombstone(key, main))
            deleted += len(keys)
            if end is None:
                break
            yield len(keys)
            keys = take(index.living(request.key, end), chunk) if len(keys) == chunk else []
        return b"".join((b"\x10", varint(deleted), *previous)) if deleted else b""

    def _previous(self, keys: list[bytes]) -> list[bytes]:
        """Their records, as elements of ``DeleteRangeResponse.prev_kvs``."""
        records = self.records.get_many([self.index.live[key][:RECORD_ID_BYTES] for key in keys])
        return [b"".join((PREV_KVS_TAG, varint(len(record)), record)) for record in records]

    def txn(self, request: rpc_pb2.TxnRequest, *, want_reply: bool = True) -> bytes:
        """Apply a Txn at once, atomically; return the serialized TxnResponse. Raises `RpcRefusal`."""
        return finish(self.txn_work(request, want_reply=want_reply))

    def txn_work(self, request: rpc_pb2.TxnRequest, *, want_reply: bool = True) -> Work[bytes]:
        """Apply a Txn in slices, for the serialized TxnResponse. Raises `RpcRefusal`, before anything changed.

        Where nobody waits for the reply its reads need not be done. Nothing else may write meanwhile.
        """
        plan = yield from plan_txn(self, request, self.revision)
        return self._publish((yield from execute(self, plan, want_reply=want_reply)))

    # -- compaction ------------------------------------------------------------------------------------------------

    def compact(self, request: rpc_pb2.CompactionRequest) -> bytes:
        """Forget what happened before a revision; return the serialized CompactionResponse. Raises `RpcRefusal`.

        Only the promise is made here; `compact_step` keeps it.
        """
        revision = request.revision
        if revision <= self.compact_revision:
            raise COMPACTED()
        if revision > self.revision:
            raise FUTURE_REVISION()
        self.compact_revision = revision
        if self.compaction is None:  # else it follows: beginning anew each time, the last keys would never be reached
            self.compaction = Compaction(revision, self.index, self.records)
        return self.header.field(self.revision)

    @property
    def may_compact(self) -> bool:
        """Whether a compaction is pending, and no query still reads before its revision."""
        compaction = self.compaction
        return compaction is not None and not (self._pins and min(self._pins) < compaction.revision)

    def has_removed(self, revision: int) -> bool:
        """Whether the compaction at ``revision`` is done, and not only promised."""
        return revision <= self.compact_revision and (self.compaction is None or revision < self.compaction.revision)

    def compact_step(self, budget: int = SLICE_KEYS) -> bool:
        """Do a slice of the pending compaction. Returns whether nothing is left to do now or ever.

        While a query still reads before the compacted revision, nothing happens and the answer is False.
        """
        if self.compaction is None:
            return True
        if not self.may_compact:
            return False
        if self.compaction.step(budget):
            done, self.compaction = self.compaction.revision, None
            if done < self.compact_revision:
                self.compaction = Compaction(self.compact_revision, self.index, self.records)
        return self.compaction is None

    # -- loading and checking --------------------------------------------------------------------------------------

    def load(self, revision: int, compact_revision: int, compaction_pending: bool, change_crc: int) -> None:
        """Rebuild the index from the record store, which holds a checkpoint taken at ``revision``."""
        assert self.revision == FIRST_REVISION, "a store is loaded once, when it is new"
        load = self.index.load
        parse = kv_pb2.KeyValue.FromString
        last = b""
        for identity, record in self.records.stored():
            kv = parse(record)
            load(kv.key, identity, kv.create_revision, kv.version)
            last = identity
            self.records.kept_before += 1
        self.index.load_done()
        assert not last or RECORD_ID.unpack(last)[0] <= revision
        self.revision = self.tip = revision
        self.compact_revision = compact_revision
        self.change_crc = change_crc
        if compaction_pending:
            self.compaction = Compaction(compact_revision, self.index, self.records)

    def state_hash(self, revision: int = 0) -> bytes:
        """`StateHash` at once. Walks everything. Raises `RpcRefusal` for revisions that cannot be read."""
        whole = StateHash(self, revision)
        while not whole.step():
            pass
        return whole.digest()
