"""What a member keeps of the past: bounded by the writes between two compactions, whatever the load."""

import pytest
from dict_store import DictStore, new_machine

from plasmacloud.chainfire.forgetting import LARGEST_SLICE, PACE, SLICE, Forgetting
from plasmacloud.chainfire.mvcc.store import MvccStore
from plasmacloud.rpc.proto.rpc_pb2 import CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest

KEYS = [b"key/%04d" % number for number in range(3000)]


def overwrite(store: MvccStore, first: int, count: int) -> None:
    """``count`` changes of a bounded set of keys, going around; now and then one dies and comes back."""
    for number in range(first, first + count):
        key = KEYS[number * 7 % len(KEYS)]
        if number % 50 == 49 and key in store.index.live:
            store.delete_range(DeleteRangeRequest(key=key))
        else:
            store.put(PutRequest(key=key, value=b"v" * 10))


def past_ids(store: MvccStore) -> int:
    return sum(len(ids) for ids in store.index.history.values()) // 12


@pytest.mark.parametrize("a_turn", [1, 700, 3000])
def test_overwriting_the_same_keys_for_ever_keeps_a_bounded_past(a_turn: int) -> None:
    """However many writes come in one turn of the loop: for those a fixed slice was too small."""
    disk = DictStore()
    machine = new_machine(disk)
    store = machine.store
    forgetting = Forgetting(store)
    between = max(3000, 4 * a_turn)  # writes between two compactions
    kept: list[int] = []
    written = 0
    while written < 25 * between:
        for _ in range(0, between, a_turn):
            overwrite(store, written, a_turn)
            written += a_turn
            forgetting.step()
        store.compact(CompactionRequest(revision=store.revision))
        machine.applied_index += 1
        disk.commit(machine.take_checkpoint())
        machine.checkpoint_done()
        assert store.records.kept_count == past_ids(store) + len(store.index.live) + len(store.index.graves)
        assert len(disk.kv) == store.records.kept_count, "nothing is forgotten in memory and kept on disk"
        kept.append(store.records.kept_count)
    assert max(kept) <= len(KEYS) + 2 * between
    assert max(kept[-5:]) <= max(kept[5:10]) * 1.1, "and does not grow"
    while forgetting.step():
        pass
    assert store.records.kept_count == len(store.index.live), "the newest version of each key is all that is left"
    store.index.check()


def test_a_slice_is_no_larger_than_the_loop_can_bear() -> None:
    store = new_machine().store
    budgets: list[int] = []
    forgetting = Forgetting(store)
    overwrite(store, 0, 5000)
    store.compact(CompactionRequest(revision=store.revision))
    store.compact_step = budgets.append  # type: ignore[assignment,method-assign]
    forgetting.step()
    forgetting.step()
    overwrite(store, 5000, 1000)
    forgetting.step()
    assert budgets == [LARGEST_SLICE, SLICE, PACE * 1000]


def test_a_reader_of_the_past_holds_up_the_removal_and_nothing_else() -> None:
    store = new_machine().store
    forgetting = Forgetting(store)
    overwrite(store, 0, 6000)
    query = store.open_range(RangeRequest(key=b"key", range_end=b"\0", revision=3000))
    store.compact(CompactionRequest(revision=5000))
    query.step()
    before = past_ids(store)
    assert not forgetting.step(), "look again later"
    assert past_ids(store) == before
    query.close()
    while forgetting.step():
        pass
    assert store.has_removed(5000)
    assert past_ids(store) < before


def test_a_compaction_counts_as_done_although_others_follow_it() -> None:
    """Else who waits for one would wait for ever where compactions follow each other without a pause."""
    store = new_machine().store
    overwrite(store, 0, 3000)
    store.compact(CompactionRequest(revision=1000))
    store.compact_step(10)
    store.compact(CompactionRequest(revision=2000))
    assert not store.has_removed(1000)
    assert not store.has_removed(2000)
    assert not store.has_removed(2500), "nobody asked for it"
    while store.compaction is not None and store.compaction.revision == 1000:
        store.compact_step(100)
    assert store.has_removed(1000)
    assert not store.has_removed(2000)
    while not store.compact_step():
        pass
    assert store.has_removed(2000)


def test_what_is_kept_is_counted_across_a_restart() -> None:
    disk = DictStore()
    machine = new_machine(disk)
    overwrite(machine.store, 0, 5000)
    machine.applied_index = 1
    disk.commit(machine.take_checkpoint())
    machine.checkpoint_done()
    again = new_machine(disk)
    assert again.store.records.kept_count == machine.store.records.kept_count == 5000
    assert again.store.records.added_count == 0
    assert machine.store.records.added_count == 5000
