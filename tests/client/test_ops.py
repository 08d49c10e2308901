"""Operations and transactions: what the builder says is what is sent."""

import pytest

from plasmacloud.client import ops
from plasmacloud.client.ops import (
    Order,
    SortBy,
    Txn,
    create_revision,
    delete,
    exists,
    get,
    lease,
    missing,
    mod_revision,
    put,
    value,
    version,
)
from plasmacloud.rpc.proto import rpc_pb2


def test_a_transaction_reads_as_it_is_sent() -> None:
    inner = Txn().when(version("c") < 3).then(put("c", "again"))
    txn = (
        Txn()
        .when(mod_revision("lock") == 0, value("mode") != "off")
        .then(put("lock", "me", prev_kv=True), get("config/", prefix=True), inner)
        .otherwise(delete("a", range_end="c"))
    )
    message = rpc_pb2.TxnRequest.FromString(txn.message().SerializeToString())

    assert [c.result for c in message.compare] == [rpc_pb2.Compare.EQUAL, rpc_pb2.Compare.NOT_EQUAL]
    assert message.compare[0].WhichOneof("target_union") == "mod_revision"
    assert message.compare[1].value == b"off"
    assert message.success[0].request_put.prev_kv
    assert message.success[1].request_range.range_end == b"config0"
    assert message.success[2].request_txn.compare[0].version == 3
    assert message.failure[0].request_delete_range.range_end == b"c"


def test_a_comparison_with_zero_still_says_what_it_compares() -> None:
    """Zero is the default on the wire; the union must be set all the same."""
    message = (create_revision("k") == 0).message()
    assert message.HasField("create_revision")
    assert (lease("k") > 0).message().HasField("lease")
    assert (value("k") == b"").message().HasField("value")


def test_exists_and_missing() -> None:
    assert exists("k") == (create_revision("k") != 0)
    assert missing("k") == (create_revision("k") == 0)


def test_a_comparison_is_not_a_truth_value() -> None:
    with pytest.raises(TypeError, match="evaluated by the server"):
        bool(value("k") == "v")


def test_operands_must_fit_the_target() -> None:
    with pytest.raises(TypeError, match="value compares with bytes"):
        value("k").compare(ops.Relation.EQUAL, 3)
    with pytest.raises(TypeError, match="mod compares with int"):
        mod_revision("k").compare(ops.Relation.EQUAL, "3")


def test_building_on_a_transaction_leaves_it_as_it_was() -> None:
    base = Txn().when(exists("k"))
    assert base.then(put("a")).success
    assert not base.success


@pytest.mark.parametrize(
    ("txn", "read_only"),
    [
        (Txn().then(get("a")).otherwise(get("b")), True),
        (Txn().then(get("a")).otherwise(put("b")), False),
        (Txn().then(Txn().then(get("a"))), True),
        (Txn().then(Txn().otherwise(delete("a"))), False),
        (Txn(), True),
    ],
)
def test_only_a_transaction_that_cannot_write_is_read_only(txn: Txn, read_only: bool) -> None:
    assert txn.read_only is read_only


def test_serializable_needs_every_read_to_be() -> None:
    assert Txn().then(get("a", serializable=True)).serializable
    assert not Txn().then(get("a", serializable=True), get("b")).serializable
    assert not Txn().then(put("a")).serializable


def test_sorting_by_something_ascends_unless_told() -> None:
    assert get("a", sort_by=SortBy.MOD).message().sort_order == rpc_pb2.RangeRequest.ASCEND
    assert get("a", order=Order.DESCEND).message().sort_target == rpc_pb2.RangeRequest.KEY
    assert get("a").message().sort_order == rpc_pb2.RangeRequest.NONE
