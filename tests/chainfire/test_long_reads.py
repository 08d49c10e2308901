"""Reads that take long: together within a budget, oldest first, and each of them sees one state."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest
from dict_store import DictStore, new_machine

from plasmacloud.chainfire.long_reads import ADVANCING, BUDGET_S, MAX_WAITING, PATIENCE_S, LongReads, query_work
from plasmacloud.chainfire.mvcc.range_query import RangeQuery
from plasmacloud.chainfire.mvcc.refusals import COMPACTED, FUTURE_REVISION, RpcRefusal
from plasmacloud.chainfire.mvcc.slices import Work, finish
from plasmacloud.chainfire.mvcc.store import MvccStore
from plasmacloud.chainfire.waiting import TOO_MANY_REQUESTS
from plasmacloud.rpc.proto.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from plasmacloud.rpc.status import StatusCode

KEYS = 4000


class Loop:
    """Turns by hand; the clock is the test's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: list[Callable[[], None]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.later.append((self.now + delay_s, callback))

    def turn(self) -> None:
        self.soon += [callback for when, callback in self.later if when <= self.now]
        self.later = [timer for timer in self.later if timer[0] > self.now]
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


class Call:
    """A unary call."""

    def __init__(self) -> None:
        self.done = False
        self.occupied = False
        self.on_cancel: Callable[[], None] | None = None
        self.body: bytes | None = None
        self.failure: tuple[StatusCode, str] | None = None

    def reply(self, body: bytes) -> None:
        self.done, self.body = True, body

    def reply_in_pieces(self, pieces: list[bytes]) -> None:
        self.reply(b"".join(pieces))

    def fail(self, code: StatusCode, message: str) -> None:
        self.done, self.failure = True, (code, message)

    def fail_with(self, error: Exception) -> None:
        self.fail(StatusCode.INTERNAL, repr(error))

    def cancel(self) -> None:
        self.done = True
        assert self.on_cancel is not None
        self.on_cancel()


class Rig:
    def __init__(self) -> None:
        self.loop = Loop()
        self.reads = LongReads(self.loop)  # type: ignore[arg-type]
        self.slices: list[int] = []  # whose, in order
        self.closed: list[int] = []

    def read(self, number: int, slices: int, cost_s: float = 0.0) -> Call:
        def work() -> Work[bytes]:
            try:
                for _ in range(slices):
                    self.slices.append(number)
                    self.loop.now += cost_s
                    yield 1000
                return b"%d" % number
            finally:
                self.closed.append(number)

        call = Call()
        started = work()
        next(started)
        self.slices.clear()
        self.reads.add(call, started)  # type: ignore[arg-type]
        return call


def test_the_oldest_advance_together_and_the_others_wait() -> None:
    rig = Rig()
    calls = [rig.read(number, 5) for number in range(30)]
    rig.loop.turn()
    assert rig.slices == list(range(ADVANCING))
    while not calls[0].done:
        rig.loop.turn()
    assert set(rig.slices) == set(range(ADVANCING)), "nobody else has begun"
    for _ in range(100):
        rig.loop.turn()
    assert [call.body for call in calls] == [b"%d" % number for number in range(30)]
    assert rig.closed == list(range(30)), "in order"
    assert not rig.loop.soon, "no turns while there is nothing to do"
    assert len(rig.reads) == 0


def test_a_turn_is_no_longer_than_its_budget_and_one_slice() -> None:
    rig = Rig()
    calls = [rig.read(number, 7, cost_s=BUDGET_S / 2.5) for number in range(10)]
    turns = 0
    while not all(call.done for call in calls):
        before = rig.loop.now
        rig.loop.turn()
        assert rig.loop.now - before <= BUDGET_S * 1.41
        turns += 1
        assert turns < 100
    taken = rig.slices[:ADVANCING]
    assert taken == list(range(ADVANCING)), "and each had its slice before anybody had the next one"


def test_who_gives_up_lets_go_at_once() -> None:
    rig = Rig()
    first, second = rig.read(1, 5), rig.read(2, 5)
    rig.loop.turn()
    first.cancel()
    assert rig.closed == [1]
    while not second.done:
        rig.loop.turn()
    assert first.body is None
    assert second.body == b"2"
    assert second.on_cancel is None


def test_who_has_a_large_answer_to_read_yet_waits_and_holds_up_nobody() -> None:
    rig = Rig()
    occupied = [rig.read(number, 3) for number in range(ADVANCING)]
    for call in occupied:
        call.occupied = True
    other = rig.read(100, 3)
    for _ in range(10):
        rig.loop.turn()
    assert other.body == b"100"
    assert set(rig.slices) == {100}
    assert not rig.loop.soon, "no turns while all wait"
    assert len(rig.reads) == ADVANCING
    occupied[0].occupied = False
    occupied[1].cancel()
    for _ in range(10):
        rig.loop.now += 0.02
        rig.loop.turn()
    assert occupied[0].body == b"0"
    assert rig.closed == [100, 1, 0]
    assert len(rig.reads) == ADVANCING - 2
    rig.loop.now += PATIENCE_S
    for _ in range(3):
        rig.loop.turn()
    assert all(call.failure == (StatusCode.RESOURCE_EXHAUSTED, TOO_MANY_REQUESTS) for call in occupied[2:])
    assert sorted(rig.closed) == [*range(ADVANCING), 100]
    assert len(rig.reads) == 0
    rig.loop.now += 1.0
    rig.loop.turn()
    assert not rig.loop.later, "no timers while there is nothing to do"


def test_an_error_ends_one_read() -> None:
    rig = Rig()

    def broken(error: Exception) -> Work[bytes]:
        yield 1000
        raise error

    refused, crashed, fine = Call(), Call(), rig.read(3, 3)
    for call, error in ((refused, COMPACTED()), (crashed, ValueError("a bug"))):
        work = broken(error)
        next(work)
        rig.reads.add(call, work)  # type: ignore[arg-type]
    for _ in range(10):
        rig.loop.turn()
    assert refused.failure == (COMPACTED.code, COMPACTED.message)
    assert crashed.failure is not None
    assert crashed.failure[0] is StatusCode.INTERNAL
    assert fine.body == b"3"


def test_no_more_than_so_many_wait() -> None:
    rig = Rig()
    for number in range(MAX_WAITING):
        rig.read(number, 3)
    refused = rig.read(-1, 3)
    assert refused.failure is not None
    assert refused.failure[0] is StatusCode.RESOURCE_EXHAUSTED
    assert rig.closed == [-1]


# Large records


class CountingStore(DictStore):
    def __init__(self) -> None:
        super().__init__()
        self.read = 0

    def get_many(self, keys: Sequence[bytes], /) -> list[bytes | None]:
        self.read += len(keys)
        return super().get_many(keys)

    def taken(self) -> int:
        read, self.read = self.read, 0
        return read


@pytest.mark.parametrize("keys_only", [False, True])
def test_of_large_records_few_are_read_at_a_time(keys_only: bool) -> None:
    saved = CountingStore()
    machine = new_machine(saved)
    for number in range(100):
        machine.store.put(PutRequest(key=b"k%05d" % number, value=bytes(100_000)))
    saved.commit(machine.take_checkpoint())
    machine.checkpoint_done()
    query = machine.store.open_range(everything(keys_only=keys_only))
    most = 0
    while not query.step():
        most = max(most, saved.taken())
    assert most == 16
    assert RangeResponse.FromString(query.body()).count == 100
    saved.taken()
    comparing = machine.store.read_txn_work(TxnRequest(compare=[newer_than(0, Compare.GREATER)]))
    assert max(saved.taken() for _ in comparing) == 16


# One state


@pytest.fixture
def store() -> MvccStore:
    made = new_machine().store
    for number in range(KEYS):
        made.put(PutRequest(key=b"k%05d" % number, value=b"old"))
    return made


def everything(**more: int) -> RangeRequest:
    return RangeRequest(key=b"k", range_end=b"l", **more)


def reading(*ranges: RangeRequest) -> TxnRequest:
    return TxnRequest(success=[RequestOp(request_range=request) for request in ranges])


def disturb(store: MvccStore, round_: int) -> None:
    for number in range(round_ % 7, KEYS, 500):
        store.put(PutRequest(key=b"k%05d" % number, value=b"new"))
    store.delete_range(DeleteRangeRequest(key=b"k%05d" % (KEYS - 1 - round_)))
    store.put(PutRequest(key=b"k9%04d" % round_, value=b"new"))
    store.compact(CompactionRequest(revision=store.revision))
    store.compact_step(100_000)


def disturbed(store: MvccStore, work: Work[bytes], rounds: Iterator[int]) -> Work[bytes]:
    """The work, with writes and compactions behind each of its slices."""
    while True:
        try:
            cost = next(work)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        disturb(store, next(rounds))
        yield cost


def test_a_transaction_that_reads_sees_one_state_whatever_is_written_meanwhile(store: MvccStore) -> None:
    request = reading(everything(), RangeRequest(key=b"k00003"), everything(limit=100), RangeRequest(key=b"k03999"))
    expected = TxnResponse.FromString(store.read_txn(request))
    assert len(expected.responses[0].response_range.kvs) == KEYS
    rounds = itertools.count()
    body = finish(disturbed(store, store.read_txn_work(request), rounds))
    assert next(rounds) > 20
    assert TxnResponse.FromString(body) == expected
    assert store._pins == {}
    assert RangeResponse.FromString(store.range(RangeRequest(key=b"k00003"))).kvs[0].value == b"new"


def newer_than(revision: int, result: int) -> Compare:
    return Compare(key=b"k", range_end=b"l", target=Compare.MOD, result=result, mod_revision=revision)  # type: ignore[arg-type]


def test_comparisons_see_that_state_too(store: MvccStore) -> None:
    """All keys are as old as they were; of one that is written or deleted, or made, meanwhile, nothing is known."""
    revision = store.revision
    request = reading(RangeRequest(key=b"k", range_end=b"l", count_only=True))
    compares = [newer_than(revision + 1, Compare.LESS), newer_than(0, Compare.GREATER)]
    compares.append(Compare(key=b"k90000", target=Compare.CREATE, result=Compare.EQUAL, create_revision=0))
    request.compare.extend(compares)
    rounds = itertools.count()
    reply = TxnResponse.FromString(finish(disturbed(store, store.read_txn_work(request), rounds)))
    assert next(rounds) > 2 * KEYS // store.chunk_keys - 5
    assert reply.succeeded
    assert reply.header.revision == revision
    assert reply.responses[0].response_range.count == KEYS
    for comparison in (compares[0], compares[2]):
        assert not TxnResponse.FromString(store.read_txn(TxnRequest(compare=[comparison]))).succeeded


def test_a_revision_that_is_written_meanwhile_is_still_one_of_the_future(store: MvccStore) -> None:
    request = reading(RangeRequest(key=b"k00003", revision=store.revision + 1))
    request.compare.append(newer_than(0, Compare.GREATER))
    with pytest.raises(RpcRefusal) as refused:
        finish(disturbed(store, store.read_txn_work(request), itertools.count()))
    assert refused.value == FUTURE_REVISION()
    assert store._pins == {}


def test_a_transaction_that_is_given_up_holds_up_no_compaction(store: MvccStore) -> None:
    work = store.read_txn_work(reading(everything(), everything()))
    next(work)
    disturb(store, 0)
    assert not store.may_compact
    work.close()
    assert store.may_compact
    assert store._pins == {}


def test_a_past_that_is_compacted_meanwhile_is_refused_and_the_present_is_not(store: MvccStore) -> None:
    work = store.read_txn_work(reading(everything(), everything(revision=100)))
    with pytest.raises(RpcRefusal) as refused:
        finish(disturbed(store, work, itertools.count()))
    assert refused.value == COMPACTED()
    assert store._pins == {}


@pytest.mark.parametrize("slices", [0, 1, None])
def test_a_query_as_work_lets_go_of_its_revision(store: MvccStore, slices: int | None) -> None:
    """Also when it is closed before its turn has come."""
    query = store.begin_range(everything())
    assert isinstance(query, RangeQuery)
    work = query_work(query)
    assert store._pins
    if slices is None:
        assert RangeResponse.FromString(b"".join(finish(work))).count == KEYS
    else:
        for _ in range(slices):
            next(work)
        work.close()
    assert store._pins == {}


def test_reads_that_are_refused_or_given_up_before_their_turn_let_go(store: MvccStore) -> None:
    rig = Rig()
    calls = []
    for _ in range(MAX_WAITING + 1):
        query = store.begin_range(everything())
        assert isinstance(query, RangeQuery)
        calls.append(Call())
        rig.reads.add(calls[-1], query_work(query))  # type: ignore[arg-type]
    assert calls[-1].failure is not None
    for call in calls[:-1]:
        call.cancel()
    assert store._pins == {}
