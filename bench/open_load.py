"""An open load of transactions: requests are due at fixed times, whether or not earlier ones were answered.

Below the channel's calls, because a task for each request would be the generator's limit. Memory does not grow with the
length of a run: of each kind of latency a random sample is kept (Vitter's algorithm R).
"""

import asyncio
import random
import sys
from collections import Counter, deque

from bench.harness import HOST
from bench.kv import TXN
from plasmacloud.rpc.client_call import ClientUnary
from plasmacloud.rpc.client_connection import ClientConnection
from plasmacloud.rpc.h2.headers import encode_fields
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.status import Execution, RpcError, StatusCode

TIMEOUT_S = 5.0
RANDOM_KEYS = 10_000
PUTS = 16
VALUE_BYTES = 100
_KEPT = 200_000
_TURN_S = 0.001
_BLOCK = encode_fields(
    [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", TXN.encode()),
        (b":authority", HOST.encode()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"grpc-timeout", b"%dS" % TIMEOUT_S),
    ]
)


class Latencies:
    """How many there were, the largest, and a sample of them, in milliseconds."""

    def __init__(self) -> None:
        self.count = 0
        self.largest_ms = float("nan")
        self._sample: list[float] = []

    def add(self, took_ms: float) -> None:
        self.count += 1
        if not took_ms <= self.largest_ms:
            self.largest_ms = took_ms
        if len(self._sample) < _KEPT:
            self._sample.append(took_ms)
        elif (place := int(random.random() * self.count)) < _KEPT:
            self._sample[place] = took_ms

    def ordered(self) -> list[float]:
        """The sample, sorted."""
        return sorted(self._sample)


class OpenLoad:
    """Requests at fixed times over several connections."""

    def __init__(
        self, connections: list[ClientConnection], rate_per_s: float, seconds: float, *, at_once: int | None = None
    ) -> None:
        """``at_once``: no more than this under way; makes it a closed load."""
        self._at_once = at_once if at_once is not None else sys.maxsize
        self._connections = connections
        self._rate = rate_per_s
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._bodies = [transaction(random.randrange(RANDOM_KEYS)) for _ in range(2000)]
        self._waiting: deque[float] = deque()  # due times of requests for which no stream is free
        self._under_way = 0
        self.offered = 0
        self.answered = Latencies()
        self.refused = Latencies()
        self.late = Latencies()  # from when a request was due to when it was sent: the generator's own queue
        self.failed: Counter[str] = Counter()

    async def run(self) -> float:
        """Offer the load and wait for what is under way; returns for how long it was offered, in seconds."""
        start = self._loop.time()
        made = 0
        while (passed := self._loop.time() - start) < self._seconds:
            due = int(passed * self._rate) if self._at_once == sys.maxsize else made + self._at_once - self._under_way
            for number in range(made, due):
                self._waiting.append(start + number / self._rate if self._rate else self._loop.time())
            made = due
            self._send()
            if self._at_once != sys.maxsize:
                self._waiting.clear()
            await asyncio.sleep(_TURN_S)
        offered_s = self._loop.time() - start
        deadline = self._loop.time() + 2 * TIMEOUT_S
        while (self._under_way or self._waiting) and self._loop.time() < deadline:
            self._send()
            await asyncio.sleep(_TURN_S)
        self.failed["no answer"] += self._under_way + len(self._waiting)
        self.failed += Counter()
        return offered_s

    def _send(self) -> None:
        now = self._loop.time()
        for connection in self._connections:
            while self._waiting and connection.usable and connection.has_slot and self._under_way < self._at_once:
                due = self._waiting.popleft()
                if now - due > TIMEOUT_S:
                    self.failed["never sent"] += 1
                    continue
                body = self._bodies[self.offered % len(self._bodies)]
                self.offered += 1
                self.late.add((now - due) * 1e3)
                self._under_way += 1
                call: ClientUnary = connection.start_unary(_BLOCK, body, due + TIMEOUT_S)
                call.future.add_done_callback(lambda future, due=due: self._ended(future, due))  # type: ignore[misc]

    def _ended(self, future: "asyncio.Future[bytes]", due: float) -> None:
        self._under_way -= 1
        took_ms = (self._loop.time() - due) * 1e3
        error = future.exception()
        if error is None:
            self.answered.add(took_ms)
        elif isinstance(error, RpcError) and _is_refusal(error):
            self.refused.add(took_ms)
        else:
            self.failed[f"{error.code.name}: {error.message}" if isinstance(error, RpcError) else repr(error)] += 1


def _is_refusal(error: RpcError) -> bool:
    """Certainly not executed. etcd's refusal under load has no code of its own, only its words."""
    known = error.code is StatusCode.RESOURCE_EXHAUSTED or error.executed is Execution.NOT_EXECUTED
    return known or error.message == "etcdserver: too many requests"


def transaction(number: int) -> bytes:
    """A request of `PUTS` puts."""
    puts = [
        rpc_pb2.RequestOp(
            request_put=rpc_pb2.PutRequest(key=b"bench/%06d/%02d" % (number, i), value=b"v" * VALUE_BYTES)
        )
        for i in range(PUTS)
    ]
    return rpc_pb2.TxnRequest(success=puts).SerializeToString()
