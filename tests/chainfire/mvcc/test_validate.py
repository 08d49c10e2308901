"""What is refused before it is proposed. The differential tests compare the texts with etcd's."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmacloud.chainfire import validate
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.mvcc import refusals
from plasmacloud.chainfire.mvcc.refusals import RpcRefusal
from plasmacloud.rpc.proto.rpc_pb2 import DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest
from plasmacloud.rpc.status import StatusCode

Ops = list[RequestOp]


def put(key: bytes) -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key))


def delete(key: bytes, end: bytes = b"") -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key, range_end=end))


def read(key: bytes, *, serializable: bool = False) -> RequestOp:
    return RequestOp(request_range=RangeRequest(key=key, serializable=serializable))


def nest(then: Ops, otherwise: Ops | None = None) -> RequestOp:
    return RequestOp(request_txn=TxnRequest(success=then, failure=otherwise or []))


def refusal_of(ops: Ops) -> RpcRefusal | None:
    try:
        validate.validate_txn(TxnRequest(failure=ops).SerializeToString())
    except RpcRefusal as refusal:
        return refusal
    return None


@pytest.mark.parametrize(
    "ops",
    [
        [put(b"a"), put(b"a")],
        [put(b"a"), delete(b"a")],
        [delete(b"a", b"c"), put(b"b")],
        [nest([put(b"a")]), put(b"a")],
        [nest([], [put(b"a")]), nest([put(b"a")])],
        [nest([delete(b"a", b"c")]), put(b"b")],
        [delete(b"a"), nest([nest([put(b"a")])])],
        [nest([delete(b"a")]), nest([put(b"a")])],
    ],
)
def test_a_key_may_not_be_written_twice(ops: Ops) -> None:
    assert refusal_of(ops) == refusals.DUPLICATE_KEY()


@pytest.mark.parametrize(
    "ops",
    [
        [put(b"a"), put(b"b"), delete(b"c"), delete(b"c")],
        [nest([put(b"a")], [put(b"a")])],
        [delete(b"a", b"c"), put(b"c")],
        [delete(b"c", b"a"), put(b"b")],
        [delete(b"a", b"\0"), put(b"b")],  # etcd does not see this overlap
        [nest([put(b"a")]), nest([delete(b"a")])],  # nor this one
        [],
    ],
)
def test_what_is_no_overlap_for_etcd(ops: Ops) -> None:
    assert refusal_of(ops) is None


@pytest.mark.parametrize(
    ("ops", "refusal"),
    [
        ([RequestOp()], refusals.KEY_NOT_FOUND()),
        ([read(b"")], refusals.EMPTY_KEY()),
        ([put(b"")], refusals.EMPTY_KEY()),
        ([nest([delete(b"")])], refusals.EMPTY_KEY()),
        ([read(b"a")] * 129, refusals.TOO_MANY_OPS()),
        ([nest([read(b"a")] * 126), read(b"a")], None),
        ([nest([read(b"a")] * 127), read(b"a")], refusals.TOO_MANY_OPS()),
    ],
)
def test_operations_of_a_transaction(ops: Ops, refusal: RpcRefusal | None) -> None:
    assert refusal_of(ops) == refusal


@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        (PutRequest(), refusals.EMPTY_KEY()),
        (PutRequest(key=b"a", value=b"b", ignore_value=True), refusals.VALUE_PROVIDED()),
        (PutRequest(key=b"a", lease=1, ignore_lease=True), refusals.LEASE_PROVIDED()),
        (PutRequest(key=b"a", value=bytes(validate.MAX_REQUEST_BYTES)), refusals.REQUEST_TOO_LARGE()),
        (PutRequest(key=b"a", value=bytes(validate.MAX_REQUEST_BYTES - 100)), None),
    ],
)
def test_puts(request_: PutRequest, refusal: RpcRefusal | None) -> None:
    body = request_.SerializeToString()
    if refusal is None:
        assert validate.validate_write(CommandKind.PUT, body) == request_
        validate.check_write(CommandKind.PUT, body)
        return
    with pytest.raises(RpcRefusal) as caught:
        validate.check_write(CommandKind.PUT, body)
    assert caught.value == refusal


@pytest.mark.parametrize(("order", "target"), [(3, 0), (-1, 0), (1, 5), (0, -1)])
def test_sort_options_that_do_not_exist(order: int, target: int) -> None:
    body = RangeRequest(key=b"a", sort_order=order, sort_target=target).SerializeToString()  # type: ignore[arg-type]
    with pytest.raises(RpcRefusal) as caught:
        validate.validate_range(body)
    assert caught.value == refusals.INVALID_SORT_OPTION()


def test_only_plain_reads_bypass_the_log() -> None:
    assert validate.is_read_only(TxnRequest())
    assert validate.is_read_only(TxnRequest(success=[read(b"a")], failure=[read(b"b")]))
    assert not validate.is_read_only(TxnRequest(success=[read(b"a")], failure=[put(b"b")]))
    assert not validate.is_read_only(TxnRequest(success=[nest([read(b"a")])]))
    assert validate.is_serializable(TxnRequest(success=[read(b"a", serializable=True)]))
    assert not validate.is_serializable(TxnRequest(success=[read(b"a", serializable=True), read(b"b")]))


@pytest.mark.parametrize(
    "parse",
    [
        validate.validate_range,
        validate.validate_put,
        validate.validate_delete_range,
        validate.validate_txn,
        validate.validate_compaction,
    ],
)
@given(body=st.binary(max_size=60))
def test_any_bytes_are_a_request_or_a_refusal(parse: Callable[[bytes], object], body: bytes) -> None:
    codes = {StatusCode.OK}
    try:
        parse(body)
    except RpcRefusal as refusal:
        codes.add(refusal.code)
    assert codes <= {StatusCode.OK, StatusCode.INTERNAL, StatusCode.INVALID_ARGUMENT}
