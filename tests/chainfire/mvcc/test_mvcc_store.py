"""What the store means, by example. The differential tests prove that etcd means the same."""

from typing import Any

import pytest
from dict_store import new_machine
from google.protobuf.message import Message

from plasmacloud.chainfire.mvcc import refusals
from plasmacloud.chainfire.mvcc.encoding import plain_put
from plasmacloud.chainfire.mvcc.refusals import RpcRefusal
from plasmacloud.chainfire.mvcc.store import MvccStore
from plasmacloud.rpc.proto.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)


@pytest.fixture
def store() -> MvccStore:
    return new_machine().store


def put(store: MvccStore, key: bytes, value: bytes = b"v", **more: Any) -> PutResponse:
    return PutResponse.FromString(store.put(PutRequest(key=key, value=value, **more)))


def delete(store: MvccStore, key: bytes, end: bytes = b"", **more: Any) -> DeleteRangeResponse:
    return DeleteRangeResponse.FromString(store.delete_range(DeleteRangeRequest(key=key, range_end=end, **more)))


def get(store: MvccStore, key: bytes, end: bytes = b"", **more: Any) -> RangeResponse:
    return RangeResponse.FromString(store.range(RangeRequest(key=key, range_end=end, **more)))


def txn(store: MvccStore, *success: Message, compare: tuple[Compare, ...] = (), failure: Any = ()) -> TxnResponse:
    request = TxnRequest(compare=compare, success=map(op, success), failure=map(op, failure))
    return TxnResponse.FromString(store.txn(request))


def op(request: Any) -> RequestOp:
    names = {PutRequest: "put", RangeRequest: "range", DeleteRangeRequest: "delete_range", TxnRequest: "txn"}
    return RequestOp(**{f"request_{names[type(request)]}": request})


def keys(reply: RangeResponse) -> list[bytes]:
    return [kv.key for kv in reply.kvs]


def test_an_empty_store_is_at_revision_one_and_the_first_write_makes_two(store: MvccStore) -> None:
    assert get(store, b"a").header.revision == 1
    assert put(store, b"a").header.revision == 2
    assert delete(store, b"nothing").header.revision == 2, "a delete of nothing changes nothing"


def test_a_key_has_lives_each_with_its_own_versions(store: MvccStore) -> None:
    put(store, b"a", b"1")
    put(store, b"a", b"2")
    delete(store, b"a")
    put(store, b"a", b"3")
    lives = [get(store, b"a", revision=revision).kvs for revision in range(1, 6)]
    assert [[(kv.create_revision, kv.mod_revision, kv.version, kv.value) for kv in kvs] for kvs in lives] == [
        [],
        [(2, 2, 1, b"1")],
        [(2, 3, 2, b"2")],
        [],
        [(5, 5, 1, b"3")],
    ]


def test_ranges(store: MvccStore) -> None:
    for key in (b"b", b"a", b"c", b"ab"):
        put(store, key)
    assert keys(get(store, b"a", b"b")) == [b"a", b"ab"]
    assert keys(get(store, b"ab", b"\0")) == [b"ab", b"b", b"c"], "end \\0: to the end of the key space"
    assert keys(get(store, b"\0", b"\0")) == [b"a", b"ab", b"b", b"c"]
    assert keys(get(store, b"b", b"a")) == []
    assert keys(get(store, b"a", b"a")) == []


def test_count_ignores_the_limit_and_more_tells_that_it_cut(store: MvccStore) -> None:
    for n in range(300):
        put(store, b"%03d" % n)
    for limit, more in ((0, False), (-1, False), (1, True), (128, True), (299, True), (300, False), (301, False)):
        reply = get(store, b"0", b"9", limit=limit)
        assert (reply.count, reply.more) == (300, more)
        assert len(reply.kvs) == (limit if more else 300)
    old = get(store, b"0", b"9", limit=2, revision=101)
    assert (old.count, old.more, keys(old)) == (100, True, [b"000", b"001"])
    assert get(store, b"0", b"9", limit=2, count_only=True) == RangeResponse(header=old.header, count=300)


def test_filters_come_before_the_limit_and_do_not_change_the_count(store: MvccStore) -> None:
    for n in range(6):
        put(store, b"%d" % n)
    put(store, b"0")  # revision 8, created at 2
    reply = get(store, b"0", b"9", min_mod_revision=4, max_create_revision=6, limit=2)
    assert (keys(reply), reply.more, reply.count) == ([b"0", b"2"], True, 6)
    assert keys(get(store, b"0", b"9", max_mod_revision=4)) == [b"1", b"2"]
    assert keys(get(store, b"0", b"9", min_create_revision=7)) == [b"5"]


def test_sorting(store: MvccStore) -> None:
    for key, value in ((b"a", b"3"), (b"b", b"1"), (b"c", b"2"), (b"a", b"3")):
        put(store, key, value)
    ascend, descend = RangeRequest.ASCEND, RangeRequest.DESCEND
    assert keys(get(store, b"a", b"z", sort_order=descend)) == [b"c", b"b", b"a"]
    assert keys(get(store, b"a", b"z", sort_order=descend, limit=1)) == [b"c"]
    assert keys(get(store, b"a", b"z", sort_order=ascend, sort_target=RangeRequest.VALUE)) == [b"b", b"c", b"a"]
    assert keys(get(store, b"a", b"z", sort_order=descend, sort_target=RangeRequest.MOD, limit=2)) == [b"a", b"c"]
    by_version = get(store, b"a", b"z", sort_order=descend, sort_target=RangeRequest.VERSION)
    assert keys(by_version) == [b"a", b"b", b"c"], "equals in the order of their keys"


def test_a_sort_target_without_order_sorts_only_the_first_keys(store: MvccStore) -> None:
    for key, value in ((b"a", b"3"), (b"b", b"2"), (b"c", b"1")):
        put(store, key, value)
    reply = get(store, b"a", b"z", sort_target=RangeRequest.VALUE, limit=1)
    assert (keys(reply), reply.more, reply.count) == ([b"b"], True, 3)


def test_previous_values_and_what_is_kept(store: MvccStore) -> None:
    assert not put(store, b"a", b"1", prev_kv=True).HasField("prev_kv")
    assert put(store, b"a", b"2", prev_kv=True).prev_kv.value == b"1"
    put(store, b"a", b"", ignore_value=True)
    assert get(store, b"a").kvs[0].value == b"2"
    put(store, b"b")
    assert [kv.key for kv in delete(store, b"a", b"c", prev_kv=True).prev_kvs] == [b"a", b"b"]
    with pytest.raises(RpcRefusal) as refused:
        put(store, b"a", b"", ignore_value=True)
    assert refused.value == refusals.KEY_NOT_FOUND()
    with pytest.raises(RpcRefusal) as refused:
        put(store, b"a", lease=1)
    assert refused.value == refusals.LEASE_NOT_FOUND()


def test_leases_that_exist_can_be_attached() -> None:
    store = new_machine().store
    store.lease_exists = lambda lease: lease == 7
    put(store, b"a", lease=7)
    put(store, b"a", b"new", ignore_lease=True)
    assert (get(store, b"a").kvs[0].lease, get(store, b"a").kvs[0].value) == (7, b"new")
    equal = Compare(key=b"a", target=Compare.LEASE, lease=7)
    assert txn(store, compare=(equal,)).succeeded


def test_a_transaction_is_one_revision_and_sees_its_own_writes(store: MvccStore) -> None:
    put(store, b"old")
    reply = txn(
        store,
        RangeRequest(key=b"\0", range_end=b"\0"),
        PutRequest(key=b"a"),
        DeleteRangeRequest(key=b"old"),
        RangeRequest(key=b"\0", range_end=b"\0"),
        RangeRequest(key=b"\0", range_end=b"\0", revision=2),
    )
    ranges = [response.response_range for response in reply.responses if response.HasField("response_range")]
    assert [keys(r) for r in ranges] == [[b"old"], [b"a"], [b"old"]]
    assert [r.header.revision for r in ranges] == [2, 3, 3]
    assert reply.header.revision == store.revision == 3


def test_a_transaction_that_only_reads_or_deletes_nothing_is_no_revision(store: MvccStore) -> None:
    reply = txn(store, RangeRequest(key=b"a"), DeleteRangeRequest(key=b"a"), TxnRequest())
    assert reply.header.revision == store.revision == 1


def test_comparisons_of_nested_transactions_see_the_state_before_all_of_them(store: MvccStore) -> None:
    exists = Compare(key=b"a", target=Compare.VERSION, result=Compare.GREATER)
    inner = TxnRequest(compare=[exists], success=[op(PutRequest(key=b"saw-it"))])
    reply = txn(store, PutRequest(key=b"a"), inner)
    assert not reply.responses[1].response_txn.succeeded
    assert reply.responses[1].response_txn.HasField("header")
    assert reply.responses[1].response_txn.header.revision == 0
    assert keys(get(store, b"\0", b"\0")) == [b"a"]


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (Compare(key=b"x", target=Compare.VERSION), True),
        (Compare(key=b"x", target=Compare.VALUE), False),
        (Compare(key=b"x", target=Compare.VALUE, result=Compare.NOT_EQUAL, value=b"v"), False),
        (Compare(key=b"a", range_end=b"c", target=Compare.VERSION, version=1), True),
        (Compare(key=b"a", range_end=b"c", target=Compare.CREATE, create_revision=2), False),
        (Compare(key=b"a", target=Compare.MOD, result=Compare.LESS, mod_revision=3), True),
        (Compare(key=b"a", target=Compare.VALUE, result=Compare.GREATER, value=b"u"), True),
    ],
)
def test_comparisons(store: MvccStore, compare: Compare, holds: bool) -> None:
    put(store, b"a")
    put(store, b"b")
    assert txn(store, compare=(compare,)).succeeded is holds


def test_a_refused_transaction_changes_nothing(store: MvccStore) -> None:
    put(store, b"a")
    before = store.state_hash()
    everything = DeleteRangeRequest(key=b"a", range_end=b"\0")
    refused = [
        (refusals.FUTURE_REVISION(), [PutRequest(key=b"b"), RangeRequest(key=b"a", revision=3)]),
        (refusals.KEY_NOT_FOUND(), [PutRequest(key=b"b"), PutRequest(key=b"c", ignore_value=True)]),
        (refusals.LEASE_NOT_FOUND(), [PutRequest(key=b"b"), PutRequest(key=b"c", lease=9)]),
        # etcd 3.5 crashes here: the overlap of the two is not noticed when the request is checked
        (
            refusals.KEY_NOT_FOUND(),
            [everything, PutRequest(key=b"a", ignore_value=True)],
        ),
    ]
    for refusal, operations in refused:
        with pytest.raises(RpcRefusal) as caught:
            txn(store, *operations)
        assert caught.value == refusal
        assert store.state_hash() == before
        assert store.tip == store.revision == 2


def test_compaction_forgets_what_nobody_may_read(store: MvccStore) -> None:
    put(store, b"a", b"1")
    put(store, b"a", b"2")
    put(store, b"b")
    delete(store, b"b")
    store.compact(CompactionRequest(revision=5))
    while not store.compact_step():
        pass
    for revision in (1, 4):
        with pytest.raises(RpcRefusal) as caught:
            get(store, b"a", revision=revision)
        assert caught.value == refusals.COMPACTED()
    assert [kv.value for kv in get(store, b"a", revision=5).kvs] == [b"2"]
    assert store.index.ids(b"a") == [store.index.newest(b"a")]
    assert store.index.ids(b"b") == []
    assert len(store.records.active) == 1
    assert get(store, b"a").kvs[0].version == 2, "the version goes on counting"
    for revision, refusal in ((5, refusals.COMPACTED()), (6, refusals.FUTURE_REVISION())):
        with pytest.raises(RpcRefusal) as caught:
            store.compact(CompactionRequest(revision=revision))
        assert caught.value == refusal


def test_a_compaction_that_is_followed_by_others_all_the_time_reaches_the_last_keys(store: MvccStore) -> None:
    keys = [b"%05d" % number for number in range(1000)]
    for key in keys:
        put(store, key)
        put(store, key)
    before = store.revision
    for number in range(20):
        put(store, keys[number])
        store.compact(CompactionRequest(revision=before + number))
        store.compact_step(1000)  # a tenth of what there is to do
    assert sum(store.index.history.get(key) is not None for key in keys[20:]) == 0, "one version each is left"
    while not store.compact_step():
        pass
    assert store.compaction is None


def test_a_key_deleted_twice_in_different_lives_keeps_its_past_until_compaction(store: MvccStore) -> None:
    for _ in range(3):
        put(store, b"a")
        delete(store, b"a")
    assert [get(store, b"a", revision=revision).count for revision in range(1, 8)] == [0, 1, 0, 1, 0, 1, 0]
    store.compact(CompactionRequest(revision=5))  # that is the second deletion
    while not store.compact_step():
        pass
    assert [get(store, b"a", revision=revision).count for revision in range(5, 8)] == [0, 1, 0]
    assert len(store.index.ids(b"a")) == 2, "the tombstone at the compaction went too"
    store.index.check()


def test_a_plain_put_does_what_any_put_does(store: MvccStore) -> None:
    """Also on a grave that a compaction is about to clear away."""
    other = new_machine().store
    for each, plain in ((store, True), (other, False)):
        for step in range(60):
            key = b"k%d" % (step * 7 % 5)
            body = PutRequest(key=key, value=b"v%d" % step).SerializeToString()
            if step % 4 == 3:
                delete(each, key)
            elif plain:
                each.put_plain(body, plain_put(body))
            else:
                each.put(PutRequest.FromString(body))
            if step % 20 == 15:
                each.compact(CompactionRequest(revision=each.revision - 1))
                each.compact_step(1)
        each.index.check()
    assert store.revision == other.revision
    assert store.records.active == other.records.active
    assert store.state_hash() == other.state_hash()
