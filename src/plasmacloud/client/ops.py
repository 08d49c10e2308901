"""Operations and transactions: what to do, as values.

The same operation values are sent alone by the client and several at once in a transaction, which reads as it acts::

    Txn().when(mod_revision("lock") == 0).then(put("lock", "me")).otherwise(get("lock"))

runs the operations of ``then`` when every comparison holds and those of ``otherwise`` when one does not, all at one
revision. A transaction is itself an operation and can be nested.
"""

from enum import Enum

import msgspec

from plasmacloud.client.keys import Key, encode, key_range
from plasmacloud.rpc.proto import rpc_pb2


class SortBy(Enum):
    """What a range is sorted by before its limit cuts it."""

    KEY = "key"
    VERSION = "version"
    CREATE = "create"
    MOD = "mod"
    VALUE = "value"


class Order(Enum):
    """Direction of the sort."""

    ASCEND = "ascend"
    DESCEND = "descend"


class Put(msgspec.Struct, frozen=True):
    """Set a key. Build it with `put`."""

    key: bytes
    value: bytes
    lease: int
    prev_kv: bool
    ignore_value: bool
    ignore_lease: bool

    def message(self) -> rpc_pb2.PutRequest:
        """For the wire."""
        return rpc_pb2.PutRequest(
            key=self.key,
            value=self.value,
            lease=self.lease,
            prev_kv=self.prev_kv,
            ignore_value=self.ignore_value,
            ignore_lease=self.ignore_lease,
        )


class Get(msgspec.Struct, frozen=True):
    """Read keys. Build it with `get`."""

    key: bytes
    range_end: bytes
    limit: int
    revision: int
    sort_by: SortBy | None
    order: Order | None
    serializable: bool
    keys_only: bool
    count_only: bool
    min_mod_revision: int
    max_mod_revision: int
    min_create_revision: int
    max_create_revision: int

    def message(self) -> rpc_pb2.RangeRequest:
        """For the wire."""
        sort_by, order = self.sort_by, self.order
        if sort_by is not None and order is None:
            order = Order.ASCEND
        return rpc_pb2.RangeRequest(
            key=self.key,
            range_end=self.range_end,
            limit=self.limit,
            revision=self.revision,
            sort_order=_ORDERS[order],
            sort_target=_TARGETS[sort_by or SortBy.KEY],
            serializable=self.serializable,
            keys_only=self.keys_only,
            count_only=self.count_only,
            min_mod_revision=self.min_mod_revision,
            max_mod_revision=self.max_mod_revision,
            min_create_revision=self.min_create_revision,
            max_create_revision=self.max_create_revision,
        )


class Delete(msgspec.Struct, frozen=True):
    """Delete keys. Build it with `delete`."""

    key: bytes
    range_end: bytes
    prev_kv: bool

    def message(self) -> rpc_pb2.DeleteRangeRequest:
        """For the wire."""
        return rpc_pb2.DeleteRangeRequest(key=self.key, range_end=self.range_end, prev_kv=self.prev_kv)


_ORDERS = {
    None: rpc_pb2.RangeRequest.NONE,
    Order.ASCEND: rpc_pb2.RangeRequest.ASCEND,
    Order.DESCEND: rpc_pb2.RangeRequest.DESCEND,
}
_TARGETS = {
    SortBy.KEY: rpc_pb2.RangeRequest.KEY,
    SortBy.VERSION: rpc_pb2.RangeRequest.VERSION,
    SortBy.CREATE: rpc_pb2.RangeRequest.CREATE,
    SortBy.MOD: rpc_pb2.RangeRequest.MOD,
    SortBy.VALUE: rpc_pb2.RangeRequest.VALUE,
}


def put(
    key: Key,
    value: Key = b"",
    *,
    lease: int = 0,
    prev_kv: bool = False,
    ignore_value: bool = False,
    ignore_lease: bool = False,
) -> Put:
    """Set ``key``. ``ignore_value`` / ``ignore_lease``: keep the present one (the key must exist)."""
    return Put(encode(key), encode(value), lease, prev_kv, ignore_value, ignore_lease)


def get(
    key: Key,
    *,
    range_end: Key | None = None,
    prefix: bool = False,
    from_key: bool = False,
    limit: int = 0,
    revision: int = 0,
    sort_by: SortBy | None = None,
    order: Order | None = None,
    serializable: bool = False,
    keys_only: bool = False,
    count_only: bool = False,
    min_mod_revision: int = 0,
    max_mod_revision: int = 0,
    min_create_revision: int = 0,
    max_create_revision: int = 0,
) -> Get:
    """Read one key, or a range: [key, range_end), all with a prefix, or all from a key on.

    ``limit`` 0: all; ``revision`` 0: the newest. ``serializable``: from the state of the member that is asked, which
    may lag behind; otherwise the answer is at least as new as every write acknowledged before the call.
    """
    start, end = key_range(key, range_end=range_end, prefix=prefix, from_key=from_key)
    return Get(
        start,
        end,
        limit,
        revision,
        sort_by,
        order,
        serializable,
        keys_only,
        count_only,
        min_mod_revision,
        max_mod_revision,
        min_create_revision,
        max_create_revision,
    )


def delete(
    key: Key,
    *,
    range_end: Key | None = None,
    prefix: bool = False,
    from_key: bool = False,
    prev_kv: bool = False,
) -> Delete:
    """Delete one key or a range, given as for `get`."""
    start, end = key_range(key, range_end=range_end, prefix=prefix, from_key=from_key)
    return Delete(start, end, prev_kv)


class CompareTarget(Enum):
    """What of a key is compared."""

    VALUE = "value"
    VERSION = "version"
    CREATE = "create"
    MOD = "mod"
    LEASE = "lease"


class Relation(Enum):
    """How it is compared."""

    EQUAL = "="
    NOT_EQUAL = "!="
    GREATER = ">"
    LESS = "<"


class Compare(msgspec.Struct, frozen=True):
    """A condition of a transaction. With ``range_end`` it must hold for every key of the range."""

    key: bytes
    target: CompareTarget
    relation: Relation
    operand: bytes | int
    range_end: bytes = b""

    def __post_init__(self) -> None:
        expected = bytes if self.target is CompareTarget.VALUE else int
        if not isinstance(self.operand, expected):
            raise TypeError(f"{self.target.value} compares with {expected.__name__}, got {self.operand!r}")

    def __bool__(self) -> bool:
        raise TypeError("a comparison is evaluated by the server: give it to Txn().when(...)")

    def message(self) -> rpc_pb2.Compare:
        """For the wire."""
        message = rpc_pb2.Compare(key=self.key, result=_RELATIONS[self.relation], target=_COMPARE_TARGETS[self.target])
        if self.range_end:
            message.range_end = self.range_end
        setattr(message, _OPERAND_FIELDS[self.target], self.operand)
        return message


_RELATIONS = {
    Relation.EQUAL: rpc_pb2.Compare.EQUAL,
    Relation.NOT_EQUAL: rpc_pb2.Compare.NOT_EQUAL,
    Relation.GREATER: rpc_pb2.Compare.GREATER,
    Relation.LESS: rpc_pb2.Compare.LESS,
}
_COMPARE_TARGETS = {
    CompareTarget.VALUE: rpc_pb2.Compare.VALUE,
    CompareTarget.VERSION: rpc_pb2.Compare.VERSION,
    CompareTarget.CREATE: rpc_pb2.Compare.CREATE,
    CompareTarget.MOD: rpc_pb2.Compare.MOD,
    CompareTarget.LEASE: rpc_pb2.Compare.LEASE,
}
_OPERAND_FIELDS = {
    CompareTarget.VALUE: "value",
    CompareTarget.VERSION: "version",
    CompareTarget.CREATE: "create_revision",
    CompareTarget.MOD: "mod_revision",
    CompareTarget.LEASE: "lease",
}


class Subject:
    """The left side of a comparison; the operators make the `Compare`."""

    def __init__(self, target: CompareTarget, key: bytes, range_end: bytes) -> None:
        self._target = target
        self._key = key
        self._range_end = range_end

    def compare(self, relation: Relation, operand: Key | int) -> Compare:
        """The comparison, with the relation as a value."""
        plain = encode(operand) if isinstance(operand, bytes | str) else operand
        return Compare(self._key, self._target, relation, plain, self._range_end)

    def __eq__(self, operand: Key | int) -> Compare:  # type: ignore[override]
        return self.compare(Relation.EQUAL, operand)

    def __ne__(self, operand: Key | int) -> Compare:  # type: ignore[override]
        return self.compare(Relation.NOT_EQUAL, operand)

    def __gt__(self, operand: Key | int) -> Compare:
        return self.compare(Relation.GREATER, operand)

    def __lt__(self, operand: Key | int) -> Compare:
        return self.compare(Relation.LESS, operand)

    __hash__ = None  # type: ignore[assignment]


def subject(target: CompareTarget, key: Key, *, range_end: Key | None = None, prefix: bool = False) -> Subject:
    """Left side of a comparison, with the target as a value."""
    start, end = key_range(key, range_end=range_end, prefix=prefix)
    return Subject(target, start, end)


def value(key: Key, *, range_end: Key | None = None, prefix: bool = False) -> Subject:
    """The value of a key."""
    return subject(CompareTarget.VALUE, key, range_end=range_end, prefix=prefix)


def version(key: Key, *, range_end: Key | None = None, prefix: bool = False) -> Subject:
    """Puts since the key was created; 0: it does not exist."""
    return subject(CompareTarget.VERSION, key, range_end=range_end, prefix=prefix)


def create_revision(key: Key, *, range_end: Key | None = None, prefix: bool = False) -> Subject:
    """Revision of the put that created the key; 0: it does not exist."""
    return subject(CompareTarget.CREATE, key, range_end=range_end, prefix=prefix)


def mod_revision(key: Key, *, range_end: Key | None = None, prefix: bool = False) -> Subject:
    """Revision of the last put; 0: the key does not exist."""
    return subject(CompareTarget.MOD, key, range_end=range_end, prefix=prefix)


def lease(key: Key, *, range_end: Key | None = None, prefix: bool = False) -> Subject:
    """ID of the lease that holds the key; 0: none."""
    return subject(CompareTarget.LEASE, key, range_end=range_end, prefix=prefix)


def exists(key: Key) -> Compare:
    """The key exists."""
    return create_revision(key) != 0


def missing(key: Key) -> Compare:
    """The key does not exist."""
    return create_revision(key) == 0


class Txn(msgspec.Struct, frozen=True):
    """If all of ``compares`` hold then ``success``, else ``failure``; atomically. Each step returns a new one."""

    compares: tuple[Compare, ...] = ()
    success: tuple["Op", ...] = ()
    failure: tuple["Op", ...] = ()

    def when(self, *compares: Compare) -> "Txn":
        """Add conditions."""
        return Txn(self.compares + compares, self.success, self.failure)

    def then(self, *ops: "Op") -> "Txn":
        """Add operations for when all conditions hold."""
        return Txn(self.compares, self.success + ops, self.failure)

    def otherwise(self, *ops: "Op") -> "Txn":
        """Add operations for when one condition does not hold."""
        return Txn(self.compares, self.success, self.failure + ops)

    @property
    def read_only(self) -> bool:
        """Whether no branch can change anything; such a transaction may be repeated safely."""
        return all(op.read_only if isinstance(op, Txn) else isinstance(op, Get) for op in self.success + self.failure)

    @property
    def serializable(self) -> bool:
        """Whether it only reads, and every read may be answered without a quorum."""
        return all((op.serializable if isinstance(op, Get | Txn) else False) for op in self.success + self.failure)

    def message(self) -> rpc_pb2.TxnRequest:
        """For the wire."""
        return rpc_pb2.TxnRequest(
            compare=[compare.message() for compare in self.compares],
            success=[_request_op(op) for op in self.success],
            failure=[_request_op(op) for op in self.failure],
        )


Op = Put | Get | Delete | Txn


def _request_op(op: Op) -> rpc_pb2.RequestOp:
    match op:
        case Put():
            return rpc_pb2.RequestOp(request_put=op.message())
        case Get():
            return rpc_pb2.RequestOp(request_range=op.message())
        case Delete():
            return rpc_pb2.RequestOp(request_delete_range=op.message())
        case Txn():
            return rpc_pb2.RequestOp(request_txn=op.message())
