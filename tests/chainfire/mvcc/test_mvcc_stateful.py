"""The store against the dumb oracle, with checkpoints, restarts, partial compactions and slices at any point."""

import pytest
from dict_store import DictStore, new_machine
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from mvcc_oracle import Oracle

from plasmacloud.chainfire.commands import encode_batch
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.mvcc.key_index import bound
from plasmacloud.chainfire.mvcc.range_query import RangeQuery
from plasmacloud.chainfire.mvcc.records import is_tombstone
from plasmacloud.chainfire.mvcc.refusals import RpcRefusal
from plasmacloud.chainfire.state_machine import Results, StateMachine
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
from plasmacloud.storage.entry import EntryKind
from plasmacloud.storage.entry_codec import make_entry

keys = st.sampled_from([b"a", b"aa", b"b", b"b\0", b"c", b"\0", b"\xff"])
ends = st.sampled_from([b"", b"\0", b"b", b"c", b"\xff", b"a"])
values = st.sampled_from([b"", b"1", b"2", b"long" * 80])
ranges = st.builds(
    RangeRequest,
    key=keys,
    range_end=ends,
    limit=st.integers(-1, 4),
    sort_order=st.integers(0, 2),
    keys_only=st.booleans(),
    count_only=st.booleans(),
)


class StoreAgainstOracle(RuleBasedStateMachine):
    @initialize(slice_keys=st.sampled_from([1, 2, 1000]))
    def begin(self, slice_keys: int) -> None:
        self.oracle = Oracle()
        self.disk = DictStore()
        self.slice_keys = slice_keys
        self.machine = self.open_machine()
        self.twin = new_machine()  # the same entries without checkpoint, restart or partial work
        self.saving = False
        self.open: list[tuple[RangeQuery, RangeRequest, RangeResponse]] = []

    def open_machine(self) -> StateMachine:
        machine = new_machine(self.disk)
        machine.set_slice(self.slice_keys)
        return machine

    def apply(self, machine: StateMachine, data: bytes) -> Results:
        """One entry, with a look at what others see of it before it is complete."""
        entry = make_entry(1, machine.applied_index + 1, EntryKind.COMMANDS, data)
        results = machine.begin(entry, local_origin=(1, 1))
        while results is None:
            assert not machine.is_whole
            assert machine.applied_index == entry.index - 1
            self.nobody_sees_a_half(machine)
            results = machine.go_on()
        assert machine.applied_index == entry.index
        return results

    def nobody_sees_a_half(self, machine: StateMachine) -> None:
        store = machine.store
        for revision in {0, max(1, self.oracle.revision - 1)}:
            for limit in (0, 1):
                request = RangeRequest(key=b"\0", range_end=b"\0", revision=revision, limit=limit)
                expected = self.oracle.range(request)
                if isinstance(expected, RangeResponse):
                    reply = RangeResponse.FromString(store.range(request))
                    assert reply.header.revision == self.oracle.revision
                    reply.ClearField("header")
                    assert reply == expected
        state = self.oracle.states[-1]
        for key in (b"a", b"b"):
            single = RangeResponse.FromString(store.range(RangeRequest(key=key)))
            assert [kv.value for kv in single.kvs] == ([state[key].value] if key in state else [])
        count = len(state)
        everything = RangeRequest(key=b"\0", range_end=b"\0", count_only=True)
        exists = Compare(key=b"\0", range_end=b"\0", target=Compare.VERSION, result=Compare.GREATER, version=0)
        both = TxnRequest(compare=[exists], success=[RequestOp(request_range=everything)] * 2)
        txn = TxnResponse.FromString(store.read_txn(both))
        assert txn.header.revision == self.oracle.revision
        assert txn.succeeded == (count > 0)
        assert [response.response_range.count for response in txn.responses] == ([count] * 2 if count else [])
        with pytest.raises(AssertionError, match="half applied"):
            machine.take_checkpoint()
        with pytest.raises(AssertionError, match="half applied"):
            machine.state_hash()
        store.index.check()
        store.compact_step(1)

    def command(
        self, kind: CommandKind, request: PutRequest | DeleteRangeRequest | TxnRequest | CompactionRequest
    ) -> bytes:
        """One log entry with one command, applied twice: the second is a late copy that must change nothing."""
        body = request.SerializeToString()
        replies = []
        for machine in (self.machine, self.twin):
            session = machine.sessions.get(1)
            seq = 1 if session is None else session.last_seq + 1
            data = encode_batch(1, 1, seq, [(kind, body)])
            ((got, applied),) = self.apply(machine, data)
            assert got == seq
            replies.append(applied)
            assert machine.apply(machine.applied_index, 1, data, local_origin=(1, 1)) == []
            assert machine.apply(machine.applied_index + 1, 1, data, local_origin=(1, 1)) == []
        assert replies[0] == replies[1]
        if replies[0].error is not None:
            raise replies[0].error()
        return replies[0].body

    @rule(key=keys, value=values)
    def put(self, key: bytes, value: bytes) -> None:
        self.command(CommandKind.PUT, PutRequest(key=key, value=value))
        self.oracle.put(key, value)

    @rule(key=keys, end=ends)
    def delete(self, key: bytes, end: bytes) -> None:
        request = DeleteRangeRequest(key=key, range_end=end)
        reply = DeleteRangeResponse.FromString(self.command(CommandKind.DELETE_RANGE, request))
        assert reply.deleted == self.oracle.delete(key, end)
        assert reply.header.revision == self.oracle.revision

    @rule(key=keys, value=values, other=keys)
    def txn(self, key: bytes, value: bytes, other: bytes) -> None:
        """Delete one key, put another: one revision."""
        ops = [RequestOp(request_delete_range=DeleteRangeRequest(key=other))]
        if key != other:
            ops.append(RequestOp(request_put=PutRequest(key=key, value=value)))
        self.command(CommandKind.TXN, TxnRequest(success=ops))
        before = len(self.oracle.states)
        self.oracle.delete(other, b"")
        if key != other:
            if len(self.oracle.states) > before:  # fold both changes into one revision
                merged = self.oracle.states.pop()
                state = self.oracle.states[-1]
                self.oracle.put(key, value)
                self.oracle.states[-1] = {k: v for k, v in self.oracle.states[-1].items() if k in merged or k == key}
                assert state is self.oracle.states[-2]
            else:
                self.oracle.put(key, value)

    @rule(back=st.integers(-1, 6), physical=st.booleans())
    def compact(self, back: int, physical: bool) -> None:
        revision = self.oracle.revision - back
        request = CompactionRequest(revision=revision, physical=physical)
        if revision > self.oracle.revision:
            with pytest.raises(RpcRefusal, match="future revision"):
                self.command(CommandKind.COMPACT, request)
        elif revision <= self.oracle.compacted:
            with pytest.raises(RpcRefusal, match="has been compacted"):
                self.command(CommandKind.COMPACT, request)
        else:
            self.command(CommandKind.COMPACT, request)
            self.oracle.compacted = revision

    @rule(budget=st.integers(1, 10))
    def compact_a_little(self, budget: int) -> None:
        before = self.machine.store.state_hash()
        self.machine.store.compact_step(budget)
        assert self.machine.store.state_hash() == before

    @precondition(lambda self: not self.saving)
    @rule()
    def begin_checkpoint(self) -> None:
        self.disk.commit(self.machine.take_checkpoint())
        self.saving = True

    @precondition(lambda self: self.saving)
    @rule()
    def finish_checkpoint(self) -> None:
        self.machine.checkpoint_done()
        self.saving = False

    @rule()
    def restart(self) -> None:
        """A clean one: everything applied is saved, then another machine takes over."""
        if self.saving:
            self.machine.checkpoint_done()
        self.disk.commit(self.machine.take_checkpoint())
        self.machine = self.open_machine()
        self.saving = False
        self.open = []

    @rule(request=ranges, back=st.integers(-1, 8))
    def read(self, request: RangeRequest, back: int) -> None:
        request.revision = max(0, self.oracle.revision - back)
        self.check_reply(request)

    @rule(request=ranges)
    def read_newest(self, request: RangeRequest) -> None:
        self.check_reply(request)

    def check_reply(self, request: RangeRequest) -> None:
        expected = self.oracle.range(request)
        if isinstance(expected, str):
            with pytest.raises(RpcRefusal, match=expected):
                self.machine.store.range(request)
            return
        reply = RangeResponse.FromString(self.machine.store.range(request))
        assert reply.header.revision == self.oracle.revision
        reply.ClearField("header")
        assert reply == expected

    @rule(request=ranges, back=st.integers(0, 3))
    def open_slow_read(self, request: RangeRequest, back: int) -> None:
        request.revision = max(0, self.oracle.revision - back)
        expected = self.oracle.range(request)
        if isinstance(expected, RangeResponse) and len(self.open) < 3:
            expected.header.revision = self.oracle.revision
            query = self.machine.store.open_range(request)
            query.step(1)
            self.open.append((query, request, expected))

    @precondition(lambda self: self.open)
    @rule(finish=st.booleans())
    def go_on_reading(self, finish: bool) -> None:
        """Whatever was written or compacted meanwhile: the answer is that of the moment it was asked."""
        query, _, expected = self.open[0]
        if not query.step(1) and not finish:
            return
        del self.open[0]
        reply = RangeResponse.FromString(query.run())
        reply.header.ClearField("cluster_id")
        reply.header.ClearField("member_id")
        reply.header.ClearField("raft_term")
        assert reply == expected

    @precondition(lambda self: self.open)
    @rule()
    def give_up_reading(self) -> None:
        query, _, _ = self.open.pop()
        query.close()

    @invariant()
    def the_parts_agree(self) -> None:
        if hasattr(self, "machine"):
            self.machine.store.index.check()
            assert self.machine.store.revision == self.oracle.revision
            assert self.machine.store.change_crc == self.twin.store.change_crc

    @invariant()
    def same_state_as_the_uninterrupted_run(self) -> None:
        if hasattr(self, "machine"):
            assert self.machine.state_hash() == self.twin.state_hash()

    def teardown(self) -> None:
        """After everything, no record is left that nothing needs."""
        if not hasattr(self, "machine"):
            return
        for query, _, _ in self.open:
            query.close()
        machine: StateMachine = self.machine
        while not machine.store.compact_step():
            pass
        if self.saving:
            machine.checkpoint_done()
        self.disk.commit(machine.take_checkpoint())
        index = machine.store.index
        known = {key: index.ids(key) for key in index.known(b"", b"")}
        assert set(self.disk.kv) == {identity for ids in known.values() for identity in ids}
        for ids in known.values():
            old = [identity for identity in ids if identity < bound(machine.store.compact_revision)]
            assert len(old) <= 1, "records that the compaction should have dropped"
            assert not any(map(is_tombstone, old))


StoreAgainstOracle.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestStoreAgainstOracle = StoreAgainstOracle.TestCase
