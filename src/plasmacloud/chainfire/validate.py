"""What a member checks before it proposes a request: bytes in, a parsed message out, or etcd's own refusal.

The checks need nothing but the request. What depends on the state (missing keys, compacted revisions, leases) is
decided when the request is applied. A request that was not checked here is safe to apply, but etcd would not have
accepted it: whoever puts commands into the log has to validate them.
"""

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from plasmacloud.base.address import Address, parse_address
from plasmacloud.base.errors import ConfigError
from plasmacloud.chainfire.cluster_state import BAD_MEMBER_URLS
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.mvcc.encoding import plain_put, varint
from plasmacloud.chainfire.mvcc.refusals import (
    DUPLICATE_KEY,
    EMPTY_KEY,
    INVALID_SORT_OPTION,
    KEY_NOT_FOUND,
    LEASE_PROVIDED,
    REQUEST_TOO_LARGE,
    TOO_MANY_OPS,
    VALUE_PROVIDED,
    RpcRefusal,
    not_a_message,
)
from plasmacloud.rpc.proto.rpc_pb2 import (
    CompactionRequest,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)

MAX_TXN_OPS = 128
MAX_REQUEST_BYTES = 1536 * 1024
MAX_MESSAGE_BYTES = MAX_REQUEST_BYTES + 512 * 1024
"""Above this the gRPC layer itself refuses to receive a message."""

_LAST_ORDER = int(RangeRequest.DESCEND)  # asking the message class each time is slow
_LAST_TARGET = int(RangeRequest.VALUE)

# etcd limits the size of what it proposes: the request with a tag and its length, in an envelope with a request id.
_ENVELOPE_BYTES = 14 + 1

Request = PutRequest | DeleteRangeRequest | TxnRequest | CompactionRequest

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MAX_REQUEST_BYTES",
    "MAX_TXN_OPS",
    "RpcRefusal",
    "check_size",
    "check_write",
    "is_read_only",
    "is_serializable",
    "validate_compaction",
    "validate_delete_range",
    "validate_peer_urls",
    "validate_put",
    "validate_range",
    "validate_txn",
    "validate_write",
]


def validate_range(body: bytes) -> RangeRequest:
    """Parse and check a RangeRequest. Raises `RpcRefusal`."""
    try:
        request = RangeRequest.FromString(body)
    except DecodeError:
        raise not_a_message("RangeRequest") from None
    _check_range(request)
    return request


def validate_put(body: bytes) -> PutRequest:
    """Parse and check a PutRequest. Raises `RpcRefusal`."""
    try:
        request = PutRequest.FromString(body)
    except DecodeError:
        raise not_a_message("PutRequest") from None
    _check_put(request)
    check_size(body)
    return request


def validate_delete_range(body: bytes) -> DeleteRangeRequest:
    """Parse and check a DeleteRangeRequest. Raises `RpcRefusal`."""
    try:
        request = DeleteRangeRequest.FromString(body)
    except DecodeError:
        raise not_a_message("DeleteRangeRequest") from None
    if not request.key:
        raise EMPTY_KEY()
    check_size(body)
    return request


def validate_txn(body: bytes) -> TxnRequest:
    """Parse and check a TxnRequest. Raises `RpcRefusal`.

    A transaction that only reads is not limited in size, it is never proposed.
    """
    try:
        request = TxnRequest.FromString(body)
    except DecodeError:
        raise not_a_message("TxnRequest") from None
    if _check_txn(request, MAX_TXN_OPS):
        _check_overlaps(request.success)
        _check_overlaps(request.failure)
    if len(body) > MAX_REQUEST_BYTES // 2 and not is_read_only(request):
        check_size(body)
    return request


def validate_compaction(body: bytes) -> CompactionRequest:
    """Parse a CompactionRequest. Raises `RpcRefusal`."""
    try:
        return CompactionRequest.FromString(body)
    except DecodeError:
        raise not_a_message("CompactionRequest") from None


def validate_write(kind: CommandKind, body: bytes) -> Request:
    """Parse and check the request of a command. Raises `RpcRefusal`."""
    if kind is CommandKind.PUT:
        return validate_put(body)
    if kind is CommandKind.DELETE_RANGE:
        return validate_delete_range(body)
    if kind is CommandKind.TXN:
        return validate_txn(body)
    assert kind is CommandKind.COMPACT
    return validate_compaction(body)


def check_write(kind: CommandKind, body: bytes) -> None:
    """As `validate_write` for those who do not need the request: a `plain_put`, which is small, need not be parsed."""
    if kind is not CommandKind.PUT or not plain_put(body):
        validate_write(kind, body)


def validate_peer_urls(urls: Iterable[str]) -> tuple[Address, ...]:
    """The addresses of a member, each once. Raises `RpcRefusal`.

    As in etcd a URL has a scheme, a host, a port and nothing behind it. ``http`` and ``https`` are the same here:
    whether members talk to each other over TLS their flags say, for all of them alike. etcd also takes ``unix``.
    """
    addresses: list[Address] = []
    for url in urls:
        text = url.strip()
        scheme, _, rest = text.partition("://")
        if scheme.lower() not in ("http", "https") or rest.endswith("/") or "@" in rest or "://" in rest:
            raise BAD_MEMBER_URLS()
        try:
            addresses.append(parse_address(rest, what="peer URL"))
        except ConfigError:
            raise BAD_MEMBER_URLS() from None
    if not addresses:
        raise BAD_MEMBER_URLS()
    return tuple(dict.fromkeys(addresses))


def check_size(body: bytes) -> None:
    """Refuse a request that is too large to be replicated. Raises `RpcRefusal`."""
    size = len(body)
    if size > MAX_REQUEST_BYTES // 2 and _ENVELOPE_BYTES + len(varint(size)) + size > MAX_REQUEST_BYTES:
        raise REQUEST_TOO_LARGE()


def is_read_only(request: TxnRequest) -> bool:
    """Whether the transaction can be answered without a log entry. As in etcd, a nested transaction counts as write."""
    return all(op.HasField("request_range") for branch in (request.success, request.failure) for op in branch)


def is_serializable(request: TxnRequest) -> bool:
    """Whether a read-only transaction may be answered from this member's state without asking a quorum."""
    return all(op.request_range.serializable for branch in (request.success, request.failure) for op in branch)


def _check_range(request: RangeRequest) -> None:
    if not request.key:
        raise EMPTY_KEY()
    if not 0 <= request.sort_order <= _LAST_ORDER or not 0 <= request.sort_target <= _LAST_TARGET:
        raise INVALID_SORT_OPTION()


def _check_put(request: PutRequest) -> None:
    if not request.key:
        raise EMPTY_KEY()
    if request.ignore_value and request.value:
        raise VALUE_PROVIDED()
    if request.ignore_lease and request.lease:
        raise LEASE_PROVIDED()


def _check_txn(request: TxnRequest, max_ops: int) -> bool:
    """``max_ops`` shrinks by the size of each transaction around this one.

    Returns whether two operations of a branch, nested ones included, may write the same key: `_check_overlaps` knows.
    """
    compare, success, failure = request.compare, request.success, request.failure
    ops = max(len(compare), len(success), len(failure))
    if ops > max_ops:
        raise TOO_MANY_OPS()
    for comparison in compare:
        if not comparison.key:
            raise EMPTY_KEY()
    may_overlap = False
    for branch in (success, failure):
        writes = 0
        for op in branch:
            kind = op.WhichOneof("request")
            if kind == "request_put":
                _check_put(op.request_put)
                writes += 1
            elif kind == "request_range":
                _check_range(op.request_range)
            elif kind == "request_delete_range":
                if not op.request_delete_range.key:
                    raise EMPTY_KEY()
                writes += 1
            elif kind == "request_txn":
                _check_txn(op.request_txn, max_ops - ops)
                may_overlap = True
            else:
                raise KEY_NOT_FOUND()  # etcd's answer to an operation that is none
        may_overlap = may_overlap or writes > 1
    return may_overlap


_Interval = tuple[bytes, bytes | None]


def _check_overlaps(ops: Iterable[RequestOp]) -> tuple[set[bytes], list[_Interval]]:
    """Refuse branches that could put a key twice, or put and delete it.

    Returns the keys put and the intervals deleted. Two gaps are etcd's, kept for compatibility: a delete "to the end of
    the key space" (end ``\\0``) overlaps nothing, and the deletes of a nested transaction are not compared with the
    puts of one before it.
    """
    puts: set[bytes] = set()
    deletes: list[_Interval] = []
    nested: list[TxnRequest] = []
    own_puts: list[bytes] = []
    for op in ops:
        kind = op.WhichOneof("request")
        if kind == "request_delete_range":
            deletes.append((op.request_delete_range.key, op.request_delete_range.range_end or None))
        elif kind == "request_put":
            own_puts.append(op.request_put.key)
        elif kind == "request_txn":
            nested.append(op.request_txn)
    for txn in nested:
        then_puts, then_deletes = _check_overlaps(txn.success)
        else_puts, else_deletes = _check_overlaps(txn.failure)
        # Only one of the two branches runs: both may put the same key.
        if not puts.isdisjoint(then_puts) or not puts.isdisjoint(else_puts):
            raise DUPLICATE_KEY()
        puts |= then_puts | else_puts
        if deletes and any(_deleted(key, deletes) for key in then_puts | else_puts):
            raise DUPLICATE_KEY()
        deletes += then_deletes
        deletes += else_deletes
    for key in own_puts:
        if key in puts or (deletes and _deleted(key, deletes)):
            raise DUPLICATE_KEY()
        puts.add(key)
    return puts, deletes


def _deleted(key: bytes, deletes: list[_Interval]) -> bool:
    return any(start == key if end is None else start <= key < end for start, end in deletes)
