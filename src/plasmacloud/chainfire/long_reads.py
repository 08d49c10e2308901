"""Reads that take longer than a slice: all of them together get a few milliseconds in each turn of the loop.

Each for itself in a callback of its own would be fair, too, but then a hundred clients that list everything, as happens
when they all come back after an outage, make turns of a hundred slices, and heartbeats come too late. Only the oldest
few advance at a time: what a read has found so far is held in memory, and it pins its revision.
"""

import asyncio
from collections import deque

from plasmacloud.base.logging import get_logger
from plasmacloud.chainfire.mvcc.range_query import RangeQuery
from plasmacloud.chainfire.mvcc.refusals import RpcRefusal
from plasmacloud.chainfire.mvcc.slices import SLICE_KEYS, Work
from plasmacloud.chainfire.waiting import TOO_MANY_REQUESTS
from plasmacloud.rpc.routes import Call
from plasmacloud.rpc.status import StatusCode

BUDGET_S = 0.005
PATIENCE_S = 5.0
"""How long a read waits until its client has read the large answers before it: it holds its revision meanwhile."""
_LOOK_S = 0.01
ADVANCING = 8
MAX_WAITING = 1024

LongRead = Work[bytes] | Work[list[bytes]]
"""Its result is the body of the answer, or its pieces where that may be large."""

log = get_logger("chainfire")


def query_work(query: RangeQuery) -> Work[list[bytes]]:
    """A query that was begun, as work in slices. Closing the work closes the query. The result is in pieces."""
    work = _steps(query)
    next(work)  # a generator that has not started closes without a word
    return work


def _steps(query: RangeQuery) -> Work[list[bytes]]:
    try:
        yield 0
        while not query.step():
            yield SLICE_KEYS
        return query.pieces()
    finally:
        query.close()


class LongReads:
    """Belongs to one member."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._reads: deque[tuple[Call, LongRead]] = deque()  # the oldest first
        self._scheduled = False
        self._parked: list[tuple[float, Call, LongRead]] = []  # until when; their clients have large answers to read

    def __len__(self) -> int:
        return len(self._reads) + len(self._parked)

    def add(self, call: Call, work: LongRead) -> None:
        """Do the work, which has started, a slice at a time, and answer the call with its result."""
        if len(self) >= MAX_WAITING:
            work.close()
            call.fail(StatusCode.RESOURCE_EXHAUSTED, TOO_MANY_REQUESTS)
            return
        call.on_cancel = work.close  # at once: nobody else should have to wait for what it holds
        self._reads.append((call, work))
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """A slice for each of the oldest, as far as time allows; who had one comes last among them."""
        self._scheduled = False
        reads = self._reads
        until = self._loop.time() + BUDGET_S
        advanced: list[tuple[Call, LongRead]] = []
        for _ in range(min(ADVANCING, len(reads))):
            call, work = reads.popleft()
            if call.occupied:
                self._park(call, work)
            elif not self._advance(call, work):
                advanced.append((call, work))
            if self._loop.time() >= until:
                break
        before = [reads.popleft() for _ in range(min(ADVANCING - len(advanced), len(reads)))]
        reads.extendleft(reversed(before + advanced))
        if reads:
            self._schedule()

    def _park(self, call: Call, work: LongRead) -> None:
        if not self._parked:
            self._loop.call_later(_LOOK_S, self._look)
        self._parked.append((self._loop.time() + PATIENCE_S, call, work))

    def _look(self) -> None:
        """Which of the parked reads can go on, and which have waited for too long."""
        now, parked = self._loop.time(), self._parked
        self._parked = []
        for until, call, work in parked:
            if call.done:
                work.close()
            elif not call.occupied:
                self._reads.append((call, work))
            elif now < until:
                self._parked.append((until, call, work))
            else:
                work.close()
                call.on_cancel = None
                call.fail(StatusCode.RESOURCE_EXHAUSTED, TOO_MANY_REQUESTS)
        if self._parked:
            self._loop.call_later(_LOOK_S, self._look)
        if self._reads:
            self._schedule()

    def _advance(self, call: Call, work: LongRead) -> bool:
        """Whether the read is over."""
        if call.done:
            work.close()
            return True
        left = SLICE_KEYS
        try:
            while left > 0:
                left -= next(work)
        except StopIteration as done:
            call.on_cancel = None
            (call.reply if isinstance(done.value, bytes) else call.reply_in_pieces)(done.value)
        except RpcRefusal as refusal:
            call.on_cancel = None
            call.fail(refusal.code, refusal.message)
        except Exception as error:  # noqa: BLE001 - the one call fails, the replica goes on
            call.on_cancel = None
            call.fail_with(error)
        else:
            return False
        return True
