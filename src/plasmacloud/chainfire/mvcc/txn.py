"""Transactions: decide, check, execute.

As in etcd, all comparisons of a transaction, those of nested transactions included, look at the state before it. They
select the branch of every (nested) transaction: the *plan*. Then all puts of the plan are checked, then all ranges;
only then anything happens, so that a refused transaction changes nothing. Operations run in order, each sees the
writes before it, and all changes share one main revision.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from plasmacloud.chainfire.mvcc.encoding import bare_header, varint
from plasmacloud.chainfire.mvcc.range_query import RangeQuery, range_end
from plasmacloud.chainfire.mvcc.refusals import COMPACTED, FUTURE_REVISION, KEY_NOT_FOUND, LEASE_NOT_FOUND
from plasmacloud.rpc.proto import kv_pb2
from plasmacloud.rpc.proto.rpc_pb2 import Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest

if TYPE_CHECKING:
    from plasmacloud.chainfire.mvcc.store import MvccStore

_NOTHING = kv_pb2.KeyValue()
_SUCCEEDED = b"\x10\x01"
_RESPONSES_TAG = b"\x1a"


class Plan(NamedTuple):
    """One (nested) transaction with its branch chosen."""

    succeeded: bool
    operations: "list[RangeRequest | PutRequest | DeleteRangeRequest | Plan | None]"


def plan_txn(store: "MvccStore", request: TxnRequest) -> Plan:
    """Decide all comparisons and check the selected operations. Raises `RpcRefusal`."""
    plan = _decide(store, request)
    operations = list(_flatten(plan))
    for operation in operations:
        if isinstance(operation, PutRequest):
            _check_put(store, operation)
    for operation in operations:
        if isinstance(operation, RangeRequest):
            _check_range(store, operation)
    _check_vanishing(store, operations)
    return plan


def _decide(store: "MvccStore", request: TxnRequest) -> Plan:
    succeeded = all(_holds(store, comparison) for comparison in request.compare)
    branch = request.success if succeeded else request.failure
    return Plan(succeeded, [_operation(store, op) for op in branch])


def _operation(store: "MvccStore", op: RequestOp) -> RangeRequest | PutRequest | DeleteRangeRequest | Plan | None:
    kind = op.WhichOneof("request")
    if kind == "request_put":
        return op.request_put
    if kind == "request_range":
        return op.request_range
    if kind == "request_delete_range":
        return op.request_delete_range
    if kind == "request_txn":
        return _decide(store, op.request_txn)
    return None


def _flatten(plan: Plan) -> Iterator[RangeRequest | PutRequest | DeleteRangeRequest]:
    for operation in plan.operations:
        if isinstance(operation, Plan):
            yield from _flatten(operation)
        elif operation is not None:
            yield operation


def _holds(store: "MvccStore", comparison: Compare) -> bool:
    """Whether a comparison holds, for a range: for every key of it."""
    end = range_end(comparison.range_end)
    if end is None:
        identity = store.index.newest(comparison.key)
        ids = [] if identity is None else [identity]
    else:
        ids = [i for i in map(store.index.newest, store.index.living(comparison.key, end)) if i is not None]
    if not ids:
        # A missing key compares as revision, version and lease 0. It has no value, not even an empty one.
        return comparison.target != Compare.VALUE and _compare(comparison, _NOTHING)
    parse = kv_pb2.KeyValue.FromString
    return all(_compare(comparison, parse(record)) for record in store.records.get_many(ids))


def _compare(comparison: Compare, kv: kv_pb2.KeyValue) -> bool:
    target = comparison.target
    order: int
    if target == Compare.VALUE:
        order = (kv.value > comparison.value) - (kv.value < comparison.value)
    else:
        if target == Compare.CREATE:
            actual, given = kv.create_revision, comparison.create_revision
        elif target == Compare.MOD:
            actual, given = kv.mod_revision, comparison.mod_revision
        elif target == Compare.VERSION:
            actual, given = kv.version, comparison.version
        elif target == Compare.LEASE:
            actual, given = kv.lease, comparison.lease
        else:
            actual = given = 0  # an unknown target compares as equal
        order = (actual > given) - (actual < given)
    result = comparison.result
    if result == Compare.EQUAL:
        return order == 0
    if result == Compare.NOT_EQUAL:
        return order != 0
    if result == Compare.GREATER:
        return order > 0
    if result == Compare.LESS:
        return order < 0
    return True  # an unknown result always holds


def _check_put(store: "MvccStore", put: PutRequest) -> None:
    if (put.ignore_value or put.ignore_lease) and put.key not in store.index.live:
        raise KEY_NOT_FOUND
    if put.lease and not store.lease_exists(put.lease):
        raise LEASE_NOT_FOUND


def _check_range(store: "MvccStore", request: RangeRequest) -> None:
    revision = request.revision
    if not revision:
        return
    if revision > store.revision:
        raise FUTURE_REVISION
    if revision < store.compact_revision:
        raise COMPACTED


def _check_vanishing(store: "MvccStore", operations: list[RangeRequest | PutRequest | DeleteRangeRequest]) -> None:
    """Refuse a put that needs the previous value of a key which the transaction itself deletes first.

    The overlap check of requests lets a few such pairs through (see `validate`).
    """
    deleted: list[tuple[bytes, bytes | None]] = []
    for operation in operations:
        if isinstance(operation, DeleteRangeRequest):
            deleted.append((operation.key, range_end(operation.range_end)))
        elif isinstance(operation, PutRequest) and (operation.ignore_value or operation.ignore_lease):
            key = operation.key
            for start, end in deleted:
                if key == start or (end is not None and start <= key and (not end or key < end)):
                    raise KEY_NOT_FOUND


def execute(store: "MvccStore", plan: Plan, want_reply: bool = True) -> bytes:
    """Run the operations; return the TxnResponse behind its header. The plan is checked: nothing can fail.

    Without ``want_reply`` the reads are left out, and the reply is not one.
    """
    pieces = [_SUCCEEDED] if plan.succeeded else []
    for operation in plan.operations:
        if isinstance(operation, PutRequest):
            body = store.put_part(operation)
            tag, body = b"\x12", bare_header(store.tip) + body
        elif isinstance(operation, RangeRequest):
            if not want_reply:
                continue
            query = RangeQuery(store, operation, store.tip)
            while not query.step():
                pass
            tag, body = b"\x0a", query.body(inside_txn=True)
        elif isinstance(operation, DeleteRangeRequest):
            body = store.delete_part(operation)
            tag, body = b"\x1a", bare_header(store.tip) + body
        elif isinstance(operation, Plan):
            tag, body = b"\x22", b"\x0a\x00" + execute(store, operation, want_reply)
        else:
            tag, body = b"", b""
        reply = tag + varint(len(body)) + body if tag else b""
        pieces.append(_RESPONSES_TAG + varint(len(reply)) + reply)
    return b"".join(pieces)
