"""Entries that change very many keys, in slices: the same in the end, bounded in between, never half seen."""

from collections.abc import Iterator

import pytest
from dict_store import DictStore, new_machine

from plasmacloud.chainfire.commands import encode_batch
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.mvcc import refusals
from plasmacloud.chainfire.mvcc.hashing import StateHash
from plasmacloud.chainfire.state_machine import Results, StateMachine
from plasmacloud.chainfire.state_meta import Applied
from plasmacloud.rpc.proto.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from plasmacloud.storage.entry import Entry, EntryKind
from plasmacloud.storage.entry_codec import make_entry

ME = (1, 1)
EVERYTHING = RangeRequest(key=b"\0", range_end=b"\0")
SLICE = 100
Request = PutRequest | DeleteRangeRequest | TxnRequest | CompactionRequest
KINDS: dict[type[Request], CommandKind] = {
    PutRequest: CommandKind.PUT,
    DeleteRangeRequest: CommandKind.DELETE_RANGE,
    TxnRequest: CommandKind.TXN,
    CompactionRequest: CommandKind.COMPACT,
}


class Member:
    """A machine, and the entries that it has seen."""

    def __init__(self, store: DictStore | None = None, *, slice_keys: int = SLICE) -> None:
        self.machine = new_machine(store)
        self.machine.set_slice(slice_keys)
        self.seq = 1

    def entry(self, *requests: Request) -> Entry:
        commands = [(int(KINDS[type(request)]), request.SerializeToString()) for request in requests]
        data = encode_batch(*ME, self.seq, commands)
        self.seq += len(commands)
        return make_entry(1, self.machine.applied_index + 1, EntryKind.COMMANDS, data)

    def fill(self, keys: int, value: bytes = b"v") -> None:
        """All in one entry."""
        self.machine.apply_entry(self.entry(*(PutRequest(key=b"%06d" % n, value=value) for n in range(keys))))

    def slices(self, *requests: Request) -> Iterator[Results | None]:
        """One entry, slice by slice; the last item is its results."""
        results = self.machine.begin(self.entry(*requests), local_origin=ME)
        while results is None:
            yield None
            results = self.machine.go_on()
        yield results

    def count(self) -> tuple[int, int]:
        """How many keys a reader sees, and at which revision."""
        reply = RangeResponse.FromString(self.machine.store.range(EVERYTHING))
        assert reply.count == len(reply.kvs)
        return reply.count, reply.header.revision


def delete_all(*, prev_kv: bool = False) -> DeleteRangeRequest:
    return DeleteRangeRequest(key=b"\0", range_end=b"\0", prev_kv=prev_kv)


def mixed() -> TxnRequest:
    """Compares a range, writes, deletes a range and reads it, in a transaction and one inside it."""
    exists = Compare(key=b"\0", range_end=b"\0", target=Compare.VERSION, result=Compare.GREATER, version=0)
    low = DeleteRangeRequest(key=b"0", range_end=b"000500", prev_kv=True)
    high = DeleteRangeRequest(key=b"000700", range_end=b"9")
    inner = TxnRequest(compare=[exists], success=[RequestOp(request_delete_range=high)])
    return TxnRequest(
        compare=[exists],
        success=[
            RequestOp(request_range=EVERYTHING),
            RequestOp(request_delete_range=low),
            RequestOp(request_put=PutRequest(key=b"new", value=b"1")),
            RequestOp(request_txn=inner),
            RequestOp(request_range=EVERYTHING),
        ],
    )


@pytest.mark.parametrize("request_", [delete_all(), delete_all(prev_kv=True), mixed()], ids=["all", "prev_kv", "txn"])
def test_an_entry_in_slices_ends_as_one_at_once(request_: Request) -> None:
    sliced, whole = Member(), Member(slice_keys=1_000_000)
    for member in (sliced, whole):
        member.fill(1000)
    outcomes = [list(member.slices(request_)) for member in (sliced, whole)]
    assert len(outcomes[0]) > 8
    assert len(outcomes[1]) == 1
    assert outcomes[0][-1] == outcomes[1][-1]
    assert sliced.machine.state_hash() == whole.machine.state_hash()
    assert sliced.machine.store.change_crc == whole.machine.store.change_crc
    sliced.machine.store.index.check()


def test_between_two_slices_no_more_changes_than_the_slice_allows() -> None:
    member = Member()
    member.fill(5000)
    living = len(member.machine.store.index.live)
    for _ in member.slices(delete_all()):
        left = len(member.machine.store.index.live)
        assert living - left <= 2 * SLICE
        living = left
    assert living == 0


def test_many_commands_in_one_entry_are_sliced_too_and_each_is_seen_when_it_is_done() -> None:
    member = Member()
    seen = [0]
    for _ in member.slices(*(PutRequest(key=b"%d" % n) for n in range(1000))):
        seen.append(member.count()[0])
        assert seen[-1] - seen[-2] <= 2 * SLICE
    assert seen[-1] == 1000
    assert len(seen) >= 10


@pytest.mark.parametrize("request_", [delete_all(), mixed()], ids=["delete", "txn"])
def test_a_reader_sees_none_of_it_or_all_of_it(request_: Request) -> None:
    member = Member()
    member.fill(1000)
    store, revision = member.machine.store, member.machine.store.revision
    exists = Compare(key=b"000003", target=Compare.CREATE, result=Compare.GREATER, create_revision=0)
    reading = TxnRequest(compare=[exists], success=[RequestOp(request_range=EVERYTHING)])
    slow = store.open_range(EVERYTHING)
    before = StateHash(store).revision, store.state_hash()
    assert not slow.step(10)
    halves = 0
    for results in member.slices(request_):
        slow.step(10)
        if results is not None:
            break
        halves += 1
        assert member.count() == (1000, revision)
        single = RangeResponse.FromString(store.range(RangeRequest(key=b"000003")))
        assert [kv.value for kv in single.kvs] == [b"v"]
        assert not RangeResponse.FromString(store.range(RangeRequest(key=b"new"))).kvs
        with pytest.raises(refusals.RpcRefusal, match="future revision"):
            store.range(RangeRequest(key=b"000003", revision=revision + 1))
        txn = TxnResponse.FromString(store.read_txn(reading))
        assert txn.succeeded
        assert (txn.header.revision, txn.responses[0].response_range.count) == (revision, 1000)
        assert (StateHash(store).revision, store.state_hash()) == before
    assert halves > 5
    assert RangeResponse.FromString(slow.run()).count == 1000, "what was begun before reads on in the past"
    assert member.count() == ((201, revision + 1) if isinstance(request_, TxnRequest) else (0, revision + 1))
    assert not TxnResponse.FromString(store.read_txn(reading)).succeeded


def test_a_refused_transaction_changes_nothing_even_when_that_takes_many_slices_to_find_out() -> None:
    member = Member()
    member.fill(1000)
    before = member.count(), member.machine.store.change_crc
    late = [
        RequestOp(request_delete_range=DeleteRangeRequest(key=b"\0", range_end=b"\0")),
        RequestOp(request_range=RangeRequest(key=b"0", revision=10**9)),
    ]
    exists = Compare(key=b"\0", range_end=b"\0", target=Compare.VERSION, result=Compare.GREATER, version=0)
    *halves, results = member.slices(TxnRequest(compare=[exists], success=late))
    assert len(halves) > 5
    assert results == [(1001, Applied(b"", refusals.FUTURE_REVISION))]
    assert (member.count(), member.machine.store.change_crc) == before


def test_no_checkpoint_and_no_other_entry_in_the_middle() -> None:
    member = Member()
    member.fill(1000)
    slices = member.slices(delete_all())
    assert next(slices) is None
    machine = member.machine
    for forbidden in (machine.take_checkpoint, machine.state_hash):
        with pytest.raises(AssertionError, match="half applied"):
            forbidden()
    with pytest.raises(AssertionError, match="half applied"):
        machine.apply_entry(make_entry(1, machine.applied_index + 1, EntryKind.COMMANDS, b""))
    assert list(slices)[-1] is not None
    machine.take_checkpoint()


def test_a_checkpoint_that_was_taken_before_may_finish_in_the_middle() -> None:
    disk = DictStore()
    member = Member(disk)
    member.fill(1000)
    checkpoint = member.machine.take_checkpoint()
    slices = member.slices(delete_all(prev_kv=True))
    assert next(slices) is None
    disk.commit(checkpoint)
    member.machine.checkpoint_done()
    assert member.count()[0] == 1000
    *_, results = slices
    assert results is not None
    ((_, applied),) = results
    assert len(DeleteRangeResponse.FromString(applied.body).prev_kvs) == 1000


def test_a_compaction_goes_on_in_the_middle() -> None:
    plain, compacted = Member(), Member()
    for member in (plain, compacted):
        member.fill(1000)
        member.fill(1000, b"w")
        member.machine.apply_entry(member.entry(CompactionRequest(revision=1500)))
    for _ in compacted.slices(delete_all()):
        compacted.machine.store.compact_step(50)
    plain.machine.apply_entry(plain.entry(delete_all()))
    for member in (plain, compacted):
        while not member.machine.store.compact_step():
            pass
        member.machine.store.index.check()
    assert plain.machine.state_hash() == compacted.machine.state_hash()
    assert plain.machine.store.records.active == compacted.machine.store.records.active


@pytest.mark.parametrize("done", [1, 3, 7])
def test_a_member_that_ends_in_the_middle_begins_the_entry_again(done: int) -> None:
    disk = DictStore()
    member = Member(disk)
    member.fill(1000)
    disk.commit(member.machine.take_checkpoint())
    member.machine.checkpoint_done()
    entry = member.entry(PutRequest(key=b"a"), delete_all(), PutRequest(key=b"b"))
    assert member.machine.begin(entry) is None
    for _ in range(done):
        assert member.machine.go_on() is None
    again: StateMachine = new_machine(disk)
    assert again.applied_index == entry.index - 1
    again.apply_entry(entry)
    while member.machine.go_on() is None:
        pass
    assert again.state_hash() == member.machine.state_hash()
    assert again.store.change_crc == member.machine.store.change_crc
