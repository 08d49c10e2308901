"""Transactions: decide, check, execute.

As in etcd, all comparisons of a transaction, those of nested transactions included, look at the state before it. They
select the branch of every (nested) transaction: the *plan*. Then all puts of the plan are checked, then all ranges;
only then anything happens, so that a refused transaction changes nothing. Operations run in order, each sees the
writes before it, and all changes share one main revision.

A transaction may have many operations, or compare and delete large ranges: everything here is work in slices.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from plasmacloud.chainfire.mvcc.encoding import bare_header, varint
from plasmacloud.chainfire.mvcc.range_query import RangeQuery, range_end
from plasmacloud.chainfire.mvcc.refusals import COMPACTED, FUTURE_REVISION, KEY_NOT_FOUND, LEASE_NOT_FOUND
from plasmacloud.chainfire.mvcc.slices import CHUNK_RECORDS, Work
from plasmacloud.rpc.proto import kv_pb2
from plasmacloud.rpc.proto.rpc_pb2 import Compare, PutRequest, RangeRequest, TxnRequest

if TYPE_CHECKING:
    from plasmacloud.chainfire.mvcc.store import MvccStore

_NOTHING = kv_pb2.KeyValue()
_SUCCEEDED = b"\x10\x01"
_RESPONSES_TAG = b"\x1a"
_NO_RESPONSE = _RESPONSES_TAG + b"\x00"
_PUT, _RANGE, _DELETE, _TXN = "request_put", "request_range", "request_delete_range", "request_txn"
# Asking the message class for these each time is slow.
_VERSION, _CREATE, _MOD, _VALUE, _LEASE = (
    int(target) for target in (Compare.VERSION, Compare.CREATE, Compare.MOD, Compare.VALUE, Compare.LEASE)
)
_EQUAL, _NOT_EQUAL, _GREATER, _LESS = (
    int(result) for result in (Compare.EQUAL, Compare.NOT_EQUAL, Compare.GREATER, Compare.LESS)
)
_FEW = 8  # so many operations are not worth a look at the budget
_KEY_BYTES = 128  # of a range's reply, or of records that are compared, count as a key
_CHECKS = 32  # of one key against a range count as a key


Operation = tuple[str, Any]
"""The name of the kind, as the field of a RequestOp, and the request; of a nested transaction its `Plan`."""


class Plan(NamedTuple):
    """One (nested) transaction with its branch chosen."""

    succeeded: bool
    operations: list[Operation | None]


def plan_txn(store: "MvccStore", request: TxnRequest, at: int) -> Work[Plan]:
    """Decide all comparisons, which look at the state ``at`` this revision, and check the selected operations.

    It is the present one, or pinned. Raises `RpcRefusal`.
    """
    operations: list[Operation] = []
    plan = yield from _decide(store, request, at, operations)
    deletes = False
    for kind, operation in operations:
        if kind == _PUT:
            _check_put(store, operation)
        elif kind == _DELETE:
            deletes = True
    if len(operations) > _FEW:
        yield len(operations)
    for kind, operation in operations:
        if kind == _RANGE:
            _check_range(store, operation, at)
    if deletes:
        yield from _check_vanishing(operations)
    return plan


def _decide(store: "MvccStore", request: TxnRequest, at: int, selected: list[Operation]) -> Work[Plan]:
    """Choose branches; all operations in them, also those of nested transactions, are added to ``selected``."""
    succeeded = True
    for comparison in request.compare:
        if comparison.range_end:
            succeeded = yield from _holds_for_all(store, comparison, at)
        else:
            succeeded = _holds(store, comparison, at)
        if not succeeded:
            break
    branch = request.success if succeeded else request.failure
    operations: list[Operation | None] = []
    for op in branch:
        kind = op.WhichOneof("request")
        if kind == _TXN:
            nested = op.request_txn
            yield _FEW + len(nested.compare)
            operations.append((kind, (yield from _decide(store, nested, at, selected))))
        elif kind is None:
            operations.append(None)
        else:
            operation = (kind, getattr(op, kind))
            operations.append(operation)
            selected.append(operation)
    if len(operations) > _FEW:
        yield len(operations)
    return Plan(succeeded, operations)


def _holds(store: "MvccStore", comparison: Compare, at: int) -> bool:
    """Whether a comparison with one key holds."""
    identity = store.seen(comparison.key, at)
    if identity is None:
        return _holds_for_nothing(comparison)
    return _compare(comparison, kv_pb2.KeyValue.FromString(store.records.get(identity)))


def _holds_for_all(store: "MvccStore", comparison: Compare, at: int) -> Work[bool]:
    """Whether a comparison holds for every key of a range."""
    end = range_end(comparison.range_end)
    assert end is not None
    parse = kv_pb2.KeyValue.FromString
    after: bytes | None = None
    empty = True
    while keys := store.seen_keys(comparison.key, end, after, at):
        ids = [identity for key in keys if (identity := store.seen(key, at)) is not None]
        empty = empty and not ids
        for start in range(0, len(ids), CHUNK_RECORDS):
            records = store.records.get_many(ids[start : start + CHUNK_RECORDS])
            if not all(_compare(comparison, parse(record)) for record in records):
                return False
            yield len(records) + sum(map(len, records)) // _KEY_BYTES
        if len(keys) < store.chunk_keys:
            break
        yield len(keys)
        after = keys[-1]
    return not empty or _holds_for_nothing(comparison)


def _holds_for_nothing(comparison: Compare) -> bool:
    """A missing key compares as revision, version and lease 0. It has no value, not even an empty one."""
    return comparison.target != _VALUE and _compare(comparison, _NOTHING)


def _compare(comparison: Compare, kv: kv_pb2.KeyValue) -> bool:
    target = comparison.target
    order: int
    if target == _VALUE:
        order = (kv.value > comparison.value) - (kv.value < comparison.value)
    else:
        if target == _CREATE:
            actual, given = kv.create_revision, comparison.create_revision
        elif target == _MOD:
            actual, given = kv.mod_revision, comparison.mod_revision
        elif target == _VERSION:
            actual, given = kv.version, comparison.version
        elif target == _LEASE:
            actual, given = kv.lease, comparison.lease
        else:
            actual = given = 0  # an unknown target compares as equal
        order = (actual > given) - (actual < given)
    result = comparison.result
    if result == _EQUAL:
        return order == 0
    if result == _NOT_EQUAL:
        return order != 0
    if result == _GREATER:
        return order > 0
    if result == _LESS:
        return order < 0
    return True  # an unknown result always holds


def _check_put(store: "MvccStore", put: PutRequest) -> None:
    if (put.ignore_value or put.ignore_lease) and put.key not in store.index.live:
        raise KEY_NOT_FOUND()
    if put.lease and not store.lease_exists(put.lease):
        raise LEASE_NOT_FOUND()


def _check_range(store: "MvccStore", request: RangeRequest, at: int) -> None:
    revision = request.revision
    if not revision:
        return
    if revision > at:
        raise FUTURE_REVISION()
    if revision < store.compact_revision:
        raise COMPACTED()


def _check_vanishing(operations: list[Operation]) -> Work[None]:
    """Refuse a put that needs the previous value of a key which the transaction itself deletes first.

    The overlap check of requests lets a few such pairs through (see `validate`).
    """
    deleted: list[tuple[bytes, bytes | None]] = []
    for kind, operation in operations:
        if kind == _DELETE:
            deleted.append((operation.key, range_end(operation.range_end)))
        elif kind == _PUT and (operation.ignore_value or operation.ignore_lease):
            key = operation.key
            for start, end in deleted:
                if key == start or (end is not None and start <= key and (not end or key < end)):
                    raise KEY_NOT_FOUND()
            if len(deleted) > _CHECKS:
                yield len(deleted) // _CHECKS


def execute(store: "MvccStore", plan: Plan, *, want_reply: bool = True, at: int | None = None) -> Work[bytes]:
    """Run the operations, for the TxnResponse behind its header. The plan is checked: nothing can fail.

    Without ``want_reply`` the reads are left out, and the reply is not one. ``at``: there are no writes, and what is
    read is the state at that revision, whatever others write meanwhile; a past revision that an operation asks for may
    then be compacted before its turn comes, which raises `RpcRefusal`.
    """
    pieces = [_SUCCEEDED] if plan.succeeded else []
    if len(plan.operations) > _FEW:
        yield len(plan.operations)
    for entry in plan.operations:
        if entry is None:
            pieces.append(_NO_RESPONSE)
            continue
        kind, operation = entry
        if kind == _PUT:
            body = store.put_part(operation)
            if not want_reply:
                continue
            tag, body = b"\x12", bare_header(store.tip) + body
        elif kind == _RANGE:
            if not want_reply:
                continue
            tag = b"\x0a"
            if (plain := store.newest_in_txn(operation, at)) is not None:
                body = plain
            else:
                query = RangeQuery(store, operation, store.tip if at is None else at)
                try:
                    while not query.step(store.chunk_keys):
                        yield store.chunk_keys
                    body = query.body(inside_txn=True)
                finally:
                    query.close()
                if operation.range_end:
                    yield 1 + len(body) // _KEY_BYTES
        elif kind == _DELETE:
            body = yield from store.delete_part(operation)
            tag, body = b"\x1a", bare_header(store.tip) + body
        else:
            yield _FEW
            inner = yield from execute(store, operation, want_reply=want_reply, at=at)
            tag, body = b"\x22", b"\x0a\x00" + inner
        size = varint(len(body))
        pieces += (_RESPONSES_TAG, varint(len(tag) + len(size) + len(body)), tag, size, body)
    return b"".join(pieces)
