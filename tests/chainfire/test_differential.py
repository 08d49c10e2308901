"""The store against a real etcd: thousands of random requests, every answer compared in meaning."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from dict_store import DictStore, new_machine
from differential import Answer, GrpcExecutor, StateMachineExecutor, compare, run
from differential_requests import RequestSource
from etcd_server import running_etcd

from plasmacloud.chainfire import validate
from plasmacloud.rpc.proto.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)

REFUSALS = [
    "key is not provided",
    "key not found",
    "has been compacted",
    "future revision",
    "duplicate key",
    "too many operations",
    "lease not found",
    "value is provided",
    "lease is provided",
    "error unmarshalling",
]


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[GrpcExecutor]:
    with running_etcd(tmp_path) as executor:
        yield executor


class RestlessMember:
    """A member that now and then compacts a little, saves a checkpoint, or starts again from its last one."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._store = DictStore()
        self.restarts = 0
        self.executor = StateMachineExecutor(new_machine(self._store))
        self.executor.machine.skip(1, 2)
        self._saving = False

    def call(self, method: str, body: bytes) -> Answer:
        answer = self.executor.call(method, body)
        if self._random.random() < 0.1:
            self._housekeeping()
        return answer

    def _housekeeping(self) -> None:
        machine = self.executor.machine
        machine.store.compact_step(self._random.choice([1, 5000]))
        if self._saving:
            machine.checkpoint_done()
            self._saving = False
        elif self._random.random() < 0.5:
            self._store.commit(machine.take_checkpoint())
            self._saving = True  # reads find the records in the frozen memtable until this is acknowledged
            if self._random.random() < 0.2:
                self.executor = StateMachineExecutor(new_machine(self._store))
                self.restarts += 1
                self._saving = False


@pytest.mark.parametrize("seed", range(3))
def test_random_requests_are_answered_as_etcd_answers_them(etcd: GrpcExecutor, seed: int) -> None:
    member = RestlessMember(seed)
    seen = run(member, etcd, RequestSource(seed), 4000)
    for outcome in ("Put ok", "Range ok", "DeleteRange ok", "Txn ok", "Compact ok"):
        assert seen.get(outcome), f"the run proves nothing about {outcome!r}: {seen}"
    for refusal in REFUSALS:
        assert any(refusal in outcome for outcome in seen), f"no request was refused with {refusal!r}: {seen}"
    assert member.restarts > 3
    member.executor.machine.store.index.check()


def op_put(key: bytes, **more: object) -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key, **more))  # type: ignore[arg-type]


def op_delete(key: bytes, end: bytes = b"") -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key, range_end=end))


def op_range(key: bytes, **more: object) -> RequestOp:
    return RequestOp(request_range=RangeRequest(key=key, **more))  # type: ignore[arg-type]


def op_txn(*ops: RequestOp, otherwise: list[RequestOp] | None = None) -> RequestOp:
    return RequestOp(request_txn=TxnRequest(success=ops, failure=otherwise or []))


def nested(depth: int) -> TxnRequest:
    txn = TxnRequest(success=[op_range(b"a")])
    for _ in range(depth):
        txn = TxnRequest(success=[RequestOp(request_txn=txn)])
    return txn


def corner_cases() -> list[tuple[str, object]]:
    """Requests that random ones rarely hit, each after those before it."""
    largest = validate.MAX_REQUEST_BYTES
    txns = [
        TxnRequest(),
        TxnRequest(
            success=[op_put(b"k1", value=b"n"), op_delete(b"k1", b"\0"), op_txn(op_range(b"k", range_end=b"l"))]
        ),
        TxnRequest(success=[op_delete(b"k0", b"\0"), op_put(b"k3", value=b"again")]),
        TxnRequest(success=[op_txn(op_put(b"a")), op_txn(op_delete(b"a"))]),
        TxnRequest(success=[op_txn(op_delete(b"a")), op_txn(op_put(b"a"))]),
        TxnRequest(success=[op_txn(op_put(b"a"), otherwise=[op_put(b"a")])]),
        TxnRequest(success=[op_txn(op_put(b"a")), op_txn(op_range(b"a"), otherwise=[op_put(b"a")])]),
        TxnRequest(success=[op_txn(op_put(b"a")), op_put(b"a")]),
        TxnRequest(success=[op_delete(b"a", b"c"), op_txn(op_range(b"a"), otherwise=[op_put(b"b")])]),
        TxnRequest(success=[op_delete(b"c", b"a"), op_put(b"b")]),
        TxnRequest(compare=[Compare(key=b"none", target=Compare.VALUE, result=Compare.NOT_EQUAL)]),
        TxnRequest(compare=[Compare(key=b"none", target=Compare.VERSION)]),
        TxnRequest(compare=[Compare(key=b"\0", range_end=b"\0", target=Compare.CREATE, result=Compare.GREATER)]),
        TxnRequest(success=[op_range(b"k", revision=-1)]),
        nested(40),
        TxnRequest(compare=[Compare(key=b"a")] * 128, success=[op_range(b"a")]),
        TxnRequest(compare=[Compare(key=b"a")] * 128, success=[op_txn(op_range(b"a"))]),
    ]
    ranges = [
        RangeRequest(key=b"k", range_end=b"l", limit=limit, sort_target=target, sort_order=order, count_only=count_only)
        for limit in (0, 2)
        for target in (0, 4)
        for order in (0, 2)
        for count_only in (False, True)
    ]
    return [
        ("Compact", CompactionRequest(revision=-1)),
        ("Txn", TxnRequest(success=[op_range(b"k", revision=-1)])),
        ("Compact", CompactionRequest()),
        ("Compact", CompactionRequest()),
        *[("Put", PutRequest(key=b"k%d" % n, value=b"%d" % (7 * n % 5))) for n in range(6)],
        *[("Range", request) for request in ranges],
        *[("Txn", txn) for txn in txns],
        ("Put", PutRequest(key=b"big", value=b"x" * (largest - 100))),
        ("Put", PutRequest(key=b"big", value=b"x" * largest)),
        ("Txn", TxnRequest(failure=[op_put(b"a", value=b"x" * largest)])),
        ("Txn", TxnRequest(success=[op_range(b"a", range_end=b"x" * largest)])),
        ("Compact", CompactionRequest(revision=9, physical=True)),
        ("Range", RangeRequest(key=b"\0", range_end=b"\0", revision=8)),
        ("Range", RangeRequest(key=b"\0", range_end=b"\0", revision=9)),
    ]


def test_corner_cases(etcd: GrpcExecutor) -> None:
    machine = new_machine()
    machine.skip(1, 2)
    ours = StateMachineExecutor(machine)
    for number, (method, request) in enumerate(corner_cases()):
        body = request.SerializeToString()  # type: ignore[attr-defined]
        difference = compare(method, body, ours.call(method, body), etcd.call(method, body))
        assert difference is None, f"case {number}, {method}: {difference}"
