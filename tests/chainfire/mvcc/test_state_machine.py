"""Sessions, checkpoints and replay: each command counts once, and every member ends with the same state."""

from pathlib import Path

import pytest
from dict_store import DictStore, new_machine
from hypothesis import given, settings
from hypothesis import strategies as st

from plasmacloud.base.address import Address
from plasmacloud.base.errors import StorageError
from plasmacloud.chainfire.cluster_state import ClusterState
from plasmacloud.chainfire.commands import CommandError, encode_batch
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.members import Member, Publication
from plasmacloud.chainfire.mvcc import refusals
from plasmacloud.chainfire.mvcc.records import EmptyRecordStore, RecordMissing
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.chainfire.state_meta import META_NAME, CorruptState
from plasmacloud.rpc.proto.rpc_pb2 import (
    CompactionRequest,
    DeleteRangeRequest,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from plasmacloud.storage.entry import EntryKind
from plasmacloud.storage.entry_codec import make_entry
from plasmacloud.storage.state import StateStore

ME = (1, 1)
FOUNDER = Member(id=9, name="n9", peers=(Address("10.0.0.9", 2380),))


def batch(first_seq: int, *keys: bytes, origin: int = 1, incarnation: int = 1) -> bytes:
    puts = [(CommandKind.PUT, PutRequest(key=key, value=b"v").SerializeToString()) for key in keys]
    return encode_batch(origin, incarnation, first_seq, puts)


def apply(machine: StateMachine, *data: bytes, term: int = 1) -> list[int]:
    """Apply one entry; return the numbers of the commands of member 1 that were executed."""
    return [seq for seq, _ in machine.apply(machine.applied_index + 1, term, b"".join(data), local_origin=ME)]


def version(machine: StateMachine, key: bytes) -> int:
    kvs = RangeResponse.FromString(machine.store.range(RangeRequest(key=key))).kvs
    return kvs[0].version if kvs else 0


def test_results_are_for_the_member_that_asked() -> None:
    machine = new_machine()
    results = machine.apply(1, 3, batch(1, b"a", origin=2) + batch(1, b"b", b"c"), local_origin=ME)
    assert [seq for seq, _ in results] == [1, 2]
    headers = [PutResponse.FromString(applied.body).header for _, applied in results]
    assert [header.revision for header in headers] == [3, 4]
    assert {(header.cluster_id, header.member_id, header.raft_term) for header in headers} == {(5, 6, 3)}
    assert version(machine, b"a") == 1


def test_a_batch_that_arrives_twice_is_executed_once() -> None:
    machine = new_machine()
    assert apply(machine, batch(1, b"a", b"b")) == [1, 2]
    assert apply(machine, batch(1, b"a", b"b")) == []
    assert version(machine, b"a") == 1


def test_of_an_overlapping_batch_only_the_new_commands_are_executed() -> None:
    machine = new_machine()
    apply(machine, batch(1, b"a", b"b"))
    assert apply(machine, batch(1, b"a", b"b", b"c")) == [3]
    assert apply(machine, batch(3, b"c", b"d")) == [4]
    assert [version(machine, key) for key in (b"a", b"b", b"c", b"d")] == [1, 1, 1, 1]


def test_a_batch_behind_a_gap_waits_for_its_predecessor() -> None:
    machine = new_machine()
    apply(machine, batch(1, b"a"))
    assert apply(machine, batch(3, b"c")) == []
    assert apply(machine, batch(2, b"b"), batch(3, b"c")) == [2, 3]


def test_a_new_incarnation_begins_again_and_ends_the_old_one() -> None:
    machine = new_machine()
    apply(machine, batch(1, b"a"))
    assert apply(machine, batch(2, b"late", incarnation=2)) == []
    assert apply(machine, batch(2, b"old")) == [], "the old life ended with the first sign of the new one"
    apply(machine, batch(1, b"new", incarnation=2))
    assert [version(machine, key) for key in (b"late", b"old", b"new")] == [0, 0, 1]
    assert machine.sessions[1] == (2, 1)


def test_bad_requests_become_results() -> None:
    machine = new_machine()
    bad = [
        (CommandKind.PUT, b"\xff"),
        (CommandKind.TXN, b"\x0a\xff"),
        (CommandKind.PUT, PutRequest(key=b"a", lease=1).SerializeToString()),
        (CommandKind.COMPACT, CompactionRequest(revision=9).SerializeToString()),
        (CommandKind.DELETE_RANGE, DeleteRangeRequest(key=b"none").SerializeToString()),
    ]
    results = machine.apply(1, 1, encode_batch(1, 1, 1, bad), local_origin=ME)
    errors = [applied.error for _, applied in results]
    assert errors[2:4] == [refusals.LEASE_NOT_FOUND, refusals.FUTURE_REVISION]
    assert all(error is not None and error.code == 13 for error in errors[:2])
    assert errors[4] is None
    assert machine.sessions[1].last_seq == 5
    assert machine.store.revision == 1


def test_an_entry_that_nobody_can_have_proposed_stops_the_member_before_it_changes_anything() -> None:
    machine = new_machine()
    with pytest.raises(CommandError):
        machine.apply(1, 1, batch(1, b"a") + b"garbage")
    assert (machine.applied_index, machine.store.revision, machine.sessions) == (0, 1, {})


def test_entries_of_the_past_are_skipped_and_holes_are_not_accepted() -> None:
    machine = new_machine()
    apply(machine, batch(1, b"a"))
    assert machine.apply(1, 1, batch(2, b"b"), local_origin=ME) == []
    with pytest.raises(AssertionError, match="missing"):
        machine.apply(3, 1, batch(2, b"b"))
    machine.skip(1, 1)
    machine.skip(2, 4)
    assert (machine.applied_index, machine.applied_term) == (2, 4)
    assert version(machine, b"b") == 0


def test_entries_of_every_kind() -> None:
    machine = new_machine()
    assert machine.apply_entry(make_entry(1, 1, EntryKind.EMPTY, b"")) == []
    assert len(machine.apply_entry(make_entry(1, 2, EntryKind.COMMANDS, batch(1, b"a")), local_origin=ME)) == 1
    assert machine.apply_entry(make_entry(1, 3, EntryKind.MEMBERSHIP, b"")) == []
    assert machine.applied_index == 3


def test_a_checkpoint_is_a_moment_and_holds_everything() -> None:
    disk = DictStore()
    machine = new_machine(disk)
    machine.cluster = ClusterState(5, [FOUNDER])
    apply(machine, batch(1, b"a", b"b"))
    before = machine.state_hash()
    checkpoint = machine.take_checkpoint()
    apply(machine, batch(3, b"a", b"c"))  # while the worker thread commits
    machine.cluster.publish(Publication(9, ("http://c:1",)))
    assert version(machine, b"b") == 1, "read from the frozen memtable"
    disk.commit(checkpoint)
    machine.checkpoint_done()
    restored = new_machine(disk)
    assert restored.state_hash() == before
    assert restored.cluster.members == (FOUNDER,)
    assert restored.applied_index == checkpoint.state.applied_index == 1
    assert apply(restored, batch(3, b"a", b"c")) == [3, 4]
    restored.cluster.publish(Publication(9, ("http://c:1",)))
    assert restored.state_hash() == machine.state_hash()
    assert version(machine, b"b") == 1, "read from the store"
    assert machine.unsaved_bytes == sum(len(record) for record in machine.store.records.active.values()) > 0


def test_checkpoints_in_the_real_state_store(tmp_path: Path) -> None:
    disk = StateStore.open(tmp_path)
    machine = StateMachine.restore(disk, cluster_id=5, member_id=6)
    compact = (CommandKind.COMPACT, CompactionRequest(revision=4).SerializeToString())
    steps = [
        batch(1, b"a", b"b", b"a"),
        batch(4, b"a", b"c"),
        encode_batch(1, 1, 6, [compact]),
        batch(7, b"d"),
    ]
    for data in steps:
        apply(machine, data)
        machine.store.compact_step()
        checkpoint = machine.take_checkpoint()
        disk.commit(checkpoint.puts, checkpoint.deletes, checkpoint.meta)
        machine.checkpoint_done()
    everything = RangeRequest(key=b"\0", range_end=b"\0", revision=5)
    expected = machine.state_hash(), machine.store.range(everything)
    disk.close()
    disk = StateStore.open(tmp_path)
    restored = StateMachine.restore(disk, cluster_id=5, member_id=6)
    assert (restored.state_hash(), restored.store.range(everything)) == expected
    assert disk.count() == 5
    disk.close()


def test_only_one_checkpoint_at_a_time() -> None:
    machine = new_machine()
    machine.take_checkpoint()
    with pytest.raises(AssertionError, match="still being committed"):
        machine.take_checkpoint()
    machine.checkpoint_done()
    with pytest.raises(AssertionError, match="no checkpoint"):
        machine.checkpoint_done()


def test_an_interrupted_compaction_goes_on_after_the_restart() -> None:
    disk = DictStore()
    machine = new_machine(disk)
    apply(machine, batch(1, b"a", b"a", b"a", b"b", b"b"))
    compact = (CommandKind.COMPACT, CompactionRequest(revision=6).SerializeToString())
    machine.apply(2, 1, encode_batch(1, 1, 6, [compact]))
    machine.store.compact_step(1)
    disk.commit(machine.take_checkpoint())
    assert len(disk.kv) > 2
    restored = new_machine(disk)
    assert restored.state_hash() == machine.state_hash()
    assert not restored.store.compact_step(1)
    while not restored.store.compact_step():
        pass
    disk.commit(restored.take_checkpoint())
    assert len(disk.kv) == 2
    assert new_machine(disk).store.compaction is None


@pytest.mark.parametrize("meta", [b"", b"\xc1", b"\x80"])
def test_unreadable_meta_data_is_refused(meta: bytes) -> None:
    disk = DictStore()
    disk.metas[META_NAME] = meta
    with pytest.raises(CorruptState):
        new_machine(disk)


def test_a_store_of_another_format_is_refused() -> None:
    disk = DictStore()
    disk.commit(new_machine().take_checkpoint())
    disk.metas[META_NAME] = disk.metas[META_NAME].replace(b"\xa6format\x02", b"\xa6format\x03")
    with pytest.raises(StorageError, match="format 3"):
        new_machine(disk)


def test_a_record_that_is_gone_is_an_error_and_not_a_missing_key() -> None:
    disk = DictStore()
    machine = new_machine(disk)
    apply(machine, batch(1, b"a", b"b"))
    disk.commit(machine.take_checkpoint())
    machine.checkpoint_done()
    disk.kv.popitem()
    for request in (RangeRequest(key=b"b"), RangeRequest(key=b"a", range_end=b"\0")):
        with pytest.raises(RecordMissing, match=r"revision 3\.0"):
            machine.store.range(request)


def test_a_member_without_waiting_clients_reaches_the_same_state() -> None:
    ops = [
        RequestOp(request_put=PutRequest(key=b"b", prev_kv=True)),
        RequestOp(request_range=RangeRequest(key=b"a", range_end=b"z")),
        RequestOp(request_delete_range=DeleteRangeRequest(key=b"a", prev_kv=True)),
    ]
    nested = RequestOp(request_txn=TxnRequest(success=[RequestOp(request_range=RangeRequest(key=b"b"))]))
    data = encode_batch(1, 1, 1, [(CommandKind.TXN, TxnRequest(success=[*ops, nested]).SerializeToString())])
    asked, other = new_machine(), new_machine(member_id=7)
    for machine in (asked, other):
        apply(machine, batch(1, b"a", origin=2))
    ((_, applied),) = asked.apply(2, 1, data, local_origin=ME)
    assert other.apply(2, 1, data, local_origin=(7, 1)) == []
    assert asked.state_hash() == other.state_hash()
    assert asked.store.change_crc == other.store.change_crc
    assert TxnResponse.FromString(applied.body).responses[1].response_range.count == 2


def test_the_hash_tells_different_states_apart() -> None:
    seen = set()
    for keys in ((b"a",), (b"b",), (b"a", b"a"), (b"a", b"b")):
        machine = StateMachine.restore(EmptyRecordStore(), cluster_id=1, member_id=1)
        apply(machine, batch(1, *keys))
        seen.add(machine.store.state_hash())
        assert machine.store.state_hash(1) != machine.store.state_hash()
    assert len(seen) == 4


@settings(max_examples=60)
@given(
    steps=st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 4), st.integers(1, 2), st.sampled_from([1, 1, 1, 2])), max_size=30
    )
)
def test_whatever_arrives_in_whatever_order_each_command_is_executed_once_and_in_order(
    steps: list[tuple[int, int, int, int]],
) -> None:
    """Batches (first number, count, origin, incarnation) with duplicates, gaps, overlaps and old lives."""
    machine = new_machine()
    executed: dict[tuple[int, int], list[int]] = {}
    for first, count, origin, incarnation in steps:
        data = batch(first, *[b"k"] * count, origin=origin, incarnation=incarnation)
        results = machine.apply(machine.applied_index + 1, 1, data, local_origin=(origin, incarnation))
        executed.setdefault((origin, incarnation), []).extend(seq for seq, _ in results)
    for seqs in executed.values():
        assert seqs == list(range(1, len(seqs) + 1))
    assert version(machine, b"k") == sum(map(len, executed.values()))
