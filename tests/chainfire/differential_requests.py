"""Random but reproducible requests for the differential tests: every option, valid and invalid, on few keys.

The generator is told the newest revision, so that revisions in the past, at the edge and in the future all occur.
Left out is what makes etcd 3.5.1 crash: unknown sort targets, and a put that keeps the value of a key which the same
transaction deletes.
"""

import random
from collections.abc import Iterator

from plasmacloud.rpc.proto.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)

KEYS = [
    b"a",
    b"b",
    b"b\x00",
    b"ba",
    b"c",
    b"d",
    b"dd",
    b"e",
    b"\x00",
    b"\x00\x00",
    b"\xff",
    b"\xff\xff",
    b"key/1",
    b"key/2",
]
ENDS = [b"", b"", b"\x00", b"\x00\x00", b"c", b"d", b"e", b"\xff", b"key0", b"key/", b"f", b"a"]
VALUES = [b"", b"x", b"y", b"z", b"x" * 300, b"\x00\xff"]


class RequestSource:
    """A stream of (method, request bytes)."""

    def __init__(self, seed: int, *, keys: list[bytes] | None = None) -> None:
        self._random = random.Random(seed)
        self._keys = keys or KEYS
        self._revision = 1  # the newest
        self._compacted = 0

    def observe(self, revision: int) -> None:
        """Aim at this revision from now on."""
        self._revision = revision

    def stream(self, count: int) -> Iterator[tuple[str, bytes]]:
        """That many requests."""
        makers = [self.range, self.put, self.delete_range, self.txn, self.compaction, self.garbage]
        names = ["Range", "Put", "DeleteRange", "Txn", "Compact", ""]
        for _ in range(count):
            (which,) = self._random.choices(range(6), (30, 30, 8, 26, 1.2, 0.5))
            made = makers[which]()
            if isinstance(made, tuple):
                yield made
            else:
                yield names[which], made.SerializeToString()

    def garbage(self) -> tuple[str, bytes]:
        """Bytes that are no message."""
        method = self._random.choice(["Range", "Put", "DeleteRange", "Txn", "Compact"])
        return method, self._random.choice([b"\xff", b"\x0a\x7fabc", b"\x0a", b"\x0f\x01"])

    def _key(self) -> bytes:
        return b"" if self._chance(0.01) else self._random.choice(self._keys)

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _end(self) -> bytes:
        return self._random.choice(ENDS)

    def _any_revision(self) -> int:
        pick = self._random.random()
        if pick < 0.8:
            return self._random.randint(max(0, self._compacted - 2), self._revision + 1)
        return self._random.choice([0, -1, -2, self._compacted, self._compacted - 1, self._revision + 5, 1 << 40])

    def put(self) -> PutRequest:
        rnd = self._random
        request = PutRequest(key=self._key(), value=rnd.choice(VALUES), prev_kv=self._chance(0.3))
        if self._chance(0.15):
            request.ignore_value = True
            if self._chance(0.8):
                request.value = b""
        request.ignore_lease = self._chance(0.1)
        if self._chance(0.04):
            request.lease = rnd.choice([1, -1, 1 << 50])
        return request

    def delete_range(self) -> DeleteRangeRequest:
        end = self._end() if self._chance(0.3) else b""
        return DeleteRangeRequest(key=self._key(), range_end=end, prev_kv=self._chance(0.4))

    def range(self) -> RangeRequest:
        rnd = self._random
        request = RangeRequest(key=self._key(), range_end=self._end())
        if self._chance(0.4):
            request.limit = rnd.choice([1, 2, 3, 5, 100, -1])
        if self._chance(0.4):
            request.revision = self._any_revision()
        if self._chance(0.5):
            request.sort_order = rnd.choice([0, 1, 2])
            request.sort_target = rnd.choice([0, 1, 2, 3, 4])
        request.serializable = self._chance(0.2)
        request.keys_only = self._chance(0.2)
        request.count_only = self._chance(0.1)
        for name in ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"):
            if self._chance(0.1):
                setattr(request, name, self._any_revision())
        return request

    def compaction(self) -> CompactionRequest:
        revision = self._any_revision()
        self._compacted = max(self._compacted, min(revision, self._revision))
        return CompactionRequest(revision=revision, physical=self._chance(0.5))

    def _compare(self) -> Compare:
        rnd = self._random
        compare = Compare(key=self._key(), result=rnd.choice([0, 1, 2, 3, 0, 3]), target=rnd.choice([0, 1, 2, 3, 4]))
        if self._chance(0.02):
            compare.result = 9  # type: ignore[assignment]
        if self._chance(0.02):
            compare.target = 9  # type: ignore[assignment]
        if self._chance(0.3):
            compare.range_end = self._end()
        union = compare.target if self._chance(0.9) else rnd.randint(0, 4)
        if union == Compare.VALUE:
            compare.value = rnd.choice(VALUES)
        elif union == Compare.VERSION:
            compare.version = rnd.choice([0, 0, 1, 2, 5])
        elif union == Compare.LEASE:
            compare.lease = rnd.choice([0, 0, 1])
        elif union == Compare.CREATE:
            compare.create_revision = max(0, self._any_revision())
        elif union == Compare.MOD:
            compare.mod_revision = max(0, self._any_revision())
        return compare

    def txn(self, depth: int = 0) -> TxnRequest:
        rnd = self._random
        if depth == 0 and self._chance(0.03):
            return self._too_many(rnd.choice([127, 128, 129]))
        request = TxnRequest()
        for _ in range(rnd.choice([0, 0, 1, 1, 2])):
            request.compare.append(self._compare())
        reads_only = self._chance(0.1)
        for branch in (request.success, request.failure):
            for _ in range(rnd.choice([0, 1, 1, 2, 3, 4])):
                branch.append(self._op(depth, reads_only))
        if depth == 0 and _may_crash_etcd(request):
            return self.txn()
        return request

    def _op(self, depth: int, reads_only: bool) -> RequestOp:
        if self._chance(0.01):
            return RequestOp()
        (kind,) = self._random.choices(range(4), (1, 0, 0, 0) if reads_only else (30, 30, 15, 15 if depth < 3 else 0))
        if kind == 0:
            op = self.range()
            if self._chance(0.8):
                op.revision = 0  # one refused range refuses the whole transaction
            return RequestOp(request_range=op)
        if kind == 1:
            put = self.put()
            if self._chance(0.8):
                put.lease, put.ignore_value, put.ignore_lease = 0, False, False
            return RequestOp(request_put=put)
        if kind == 2:
            return RequestOp(request_delete_range=self.delete_range())
        return RequestOp(request_txn=self.txn(depth + 1))

    def _too_many(self, count: int) -> TxnRequest:
        inner = TxnRequest(success=[RequestOp(request_range=RangeRequest(key=b"a", count_only=True))] * (count // 2))
        outer = TxnRequest(failure=[RequestOp(request_txn=inner)] * (count - count // 2))
        if self._chance(0.5):
            outer.compare.extend([Compare(key=b"a", result=Compare.NOT_EQUAL, target=Compare.LEASE)])
        return outer


def _may_crash_etcd(request: TxnRequest) -> bool:
    ops = list(_all_ops(request))
    keeps = any(op.request_put.ignore_value or op.request_put.ignore_lease for op in ops)
    return keeps and any(op.HasField("request_delete_range") for op in ops)


def _all_ops(request: TxnRequest) -> Iterator[RequestOp]:
    for branch in (request.success, request.failure):
        for op in branch:
            yield op
            if op.HasField("request_txn"):
                yield from _all_ops(op.request_txn)
