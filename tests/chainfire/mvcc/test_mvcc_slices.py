"""Big ranges and compactions in slices, with other work in between."""

import pytest
from dict_store import new_machine

from plasmacloud.chainfire.mvcc.key_index import KeyIndex, bound
from plasmacloud.chainfire.mvcc.range_query import RangeQuery
from plasmacloud.chainfire.mvcc.store import MvccStore
from plasmacloud.rpc.proto.rpc_pb2 import CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse

EVERYTHING = RangeRequest(key=b"\0", range_end=b"\0")


def filled(keys: int) -> MvccStore:
    store = new_machine().store
    for n in range(keys):
        store.put(PutRequest(key=b"%05d" % n, value=b"%d" % (n * 7919 % keys)))
    return store


@pytest.mark.parametrize("count_only", [False, True])
@pytest.mark.parametrize("order", [RangeRequest.NONE, RangeRequest.DESCEND])
@pytest.mark.parametrize("target", [RangeRequest.KEY, RangeRequest.VALUE])
@pytest.mark.parametrize("limit", [0, 3])
def test_a_range_in_slices_answers_what_it_was_asked_whatever_happens_meanwhile(
    limit: int, target: RangeRequest.SortTarget, order: RangeRequest.SortOrder, count_only: bool
) -> None:
    store = filled(300)
    request = RangeRequest(
        key=b"0", range_end=b"9", limit=limit, sort_target=target, sort_order=order, count_only=count_only
    )
    expected = store.range(request)
    query = store.open_range(request)
    steps = 0
    while not query.step(10):
        steps += 1
        store.put(PutRequest(key=b"%05d" % (steps * 17 % 300), value=b"changed"))
        store.put(PutRequest(key=b"%05d-new" % (steps * 13 % 300)))
        store.delete_range(DeleteRangeRequest(key=b"%05d" % (299 - steps)))
        if steps == 3:
            store.compact(CompactionRequest(revision=store.revision))
        assert store.compact_step() == (steps < 3), "the compaction waits for the query"
    assert query.body() == expected
    if steps > 3:
        assert not store.compact_step(1)
        while not store.compact_step():
            pass
        store.index.check()


def test_a_range_does_no_more_than_its_budget() -> None:
    store = filled(2000)
    query = store.open_range(EVERYTHING)
    steps = 1
    while not query.step(100):
        steps += 1
    assert 18 <= steps <= 22
    long = new_machine().store
    for n in range(50):
        long.put(PutRequest(key=b"%d" % n, value=bytes(100_000)))
    query = long.open_range(EVERYTHING)
    assert not query.step(40), "long values cost more than short ones"


def test_small_ranges_are_answered_at_once() -> None:
    store = filled(3000)
    assert isinstance(store.begin_range(RangeRequest(key=b"0", range_end=b"9", limit=100)), bytes)
    assert isinstance(store.begin_range(RangeRequest(key=b"0", range_end=b"9", count_only=True)), bytes)
    query = store.begin_range(EVERYTHING)
    assert isinstance(query, RangeQuery)
    assert RangeResponse.FromString(query.run()).count == 3000


def test_a_query_begun_after_the_compaction_does_not_hold_it_back() -> None:
    store = filled(300)
    store.put(PutRequest(key=b"00000"))
    store.compact(CompactionRequest(revision=store.revision))
    query = store.open_range(EVERYTHING)
    assert not query.step(1)
    assert store.compact_step()
    assert len(RangeResponse.FromString(query.run()).kvs) == 300


def test_an_abandoned_query_lets_the_compaction_go_on() -> None:
    store = filled(300)
    query = store.open_range(EVERYTHING)
    assert not query.step(1)
    store.put(PutRequest(key=b"00000"))
    store.compact(CompactionRequest(revision=store.revision))
    assert not store.compact_step()
    query.close()
    query.close()
    assert store.compact_step()


def test_a_dead_key_that_is_revived_during_a_compaction_is_not_forgotten_by_it() -> None:
    """It moves from the dead keys, which come last, to the living ones, which are done."""
    store = new_machine().store
    for key in (b"a", b"b"):
        store.put(PutRequest(key=key))
    store.delete_range(DeleteRangeRequest(key=b"a"))
    store.compact(CompactionRequest(revision=store.revision))
    assert not store.compact_step(1)
    store.put(PutRequest(key=b"a"))
    while not store.compact_step():
        pass
    assert len(store.index.ids(b"a")) == 1
    assert len(store.records.active) == 2


def test_a_later_compaction_replaces_an_unfinished_one() -> None:
    store = filled(10)
    store.put(PutRequest(key=b"00000"))
    store.compact(CompactionRequest(revision=3))
    store.compact_step(1)
    store.compact(CompactionRequest(revision=store.revision))
    while not store.compact_step():
        pass
    assert len(store.records.active) == 10


def test_a_long_history_is_searched_and_cut_like_a_short_one() -> None:
    index = KeyIndex()
    ids = [index.put(b"hot", main, 0)[0] for main in range(2, 2002)]
    assert isinstance(index.history[b"hot"], bytearray)
    for main in (1, 2, 3, 1000, 2000, 2001, 5000):
        assert index.at(b"hot", bound(main)) == (ids[min(main, 2001) - 2] if main > 1 else None)
    assert index.compact(b"hot", bound(1000)) == ids[:998]
    assert index.ids(b"hot") == ids[998:]
    assert index.compact(b"hot", bound(1000)) == []
    index.check()


def test_compaction_of_a_key_by_example() -> None:
    """Puts at 2 and 3, deleted at 4, put at 5, deleted at 6; compacted at each revision."""
    kept = {1: [2, 3, 4, 5, 6], 2: [2, 3, 4, 5, 6], 3: [3, 4, 5, 6], 4: [5, 6], 5: [5, 6], 6: [], 7: []}
    for revision, expected in kept.items():
        index = KeyIndex()
        index.put(b"k", 2, 0)
        index.put(b"k", 3, 0)
        index.delete(b"k", 4, 0)
        index.put(b"k", 5, 0)
        index.delete(b"k", 6, 0)
        before = index.ids(b"k")
        dropped = index.compact(b"k", bound(revision))
        assert [int.from_bytes(i[:8], "big") for i in index.ids(b"k")] == expected
        assert sorted(dropped + index.ids(b"k")) == before
        index.check()
