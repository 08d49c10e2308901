"""Two hundred thousand keys deleted at once: members keep their rhythm, and nobody sees a half."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from chainfire_cluster import Cluster, wait_until
from lone_member import environment, put, run, settings, started, submit

from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.mvcc.slices import SLICE_KEYS
from plasmacloud.chainfire.running_member import RunningMember
from plasmacloud.client import ClientError, SyncClient, Txn
from plasmacloud.client import put as put_op
from plasmacloud.rpc.proto.rpc_pb2 import (
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
)
from plasmacloud.rpc.status import StatusCode

KEYS = 200_000
PER_TXN = 100
BIG = DeleteRangeRequest(key=b"big/", range_end=b"big0")
COUNT = RangeRequest(key=b"big/", range_end=b"big0", count_only=True)


async def fill(member: RunningMember, keys: int) -> None:
    for first in range(0, keys, 10 * PER_TXN):
        waiting = []
        for start in range(first, min(keys, first + 10 * PER_TXN), PER_TXN):
            puts = [
                RequestOp(request_put=PutRequest(key=b"big/%06d" % n, value=b"v"))
                for n in range(start, start + PER_TXN)
            ]
            waiting.append(submit(member, CommandKind.TXN, TxnRequest(success=puts)))
        await asyncio.gather(*waiting)


class LinearizableCount:
    """Counts the keys as soon as the local state is new enough."""

    def __init__(self, member: RunningMember) -> None:
        self._store = member.machine.store
        self.reply: asyncio.Future[RangeResponse] = asyncio.get_running_loop().create_future()

    def run(self) -> None:
        self.reply.set_result(RangeResponse.FromString(self._store.range(COUNT)))

    def fail(self, code: StatusCode, message: str) -> None:
        self.reply.set_exception(RuntimeError(message))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def test_the_loop_turns_and_reads_are_served_while_a_large_delete_is_applied(tmp_path: Path) -> None:
    async def main() -> None:
        config = settings(tmp_path / "n1")
        one_by_one = msgspec.structs.replace(config.tuning, gather_s=0.0)  # the put is in an entry of its own
        config = msgspec.structs.replace(
            config, election_timeout_s=0.3, checkpoint_interval_s=1000.0, tuning=one_by_one
        )
        member, porch = await started(config, environment())
        await porch.serving.wait()
        await fill(member, KEYS)
        machine, term = member.machine, member.raft.term
        before, revision, index = machine.applied_index, machine.store.revision, machine.applied_index
        deleted = submit(member, CommandKind.DELETE_RANGE, BIG)
        behind = asyncio.create_task(put(member, b"behind"))
        await until(lambda: not machine.is_whole)
        reading = LinearizableCount(member)
        member.replica.read(reading)
        asked = asyncio.create_task(member.checkpointer.save_now())
        loop, living = asyncio.get_running_loop(), len(machine.store.index.live)
        turns, gap_s, last = 0, 0.0, loop.time()
        while not machine.is_whole:
            await asyncio.sleep(0)
            left = len(machine.store.index.live)
            assert living - left < 3 * SLICE_KEYS
            living = left
            turns, gap_s, last = turns + 1, max(gap_s, loop.time() - last), loop.time()
            if machine.is_whole:
                break
            assert (machine.applied_index, machine.store.revision) == (before, revision)
            assert RangeResponse.FromString(machine.store.range(RangeRequest(key=b"big/000007"))).kvs
            assert not behind.done()
            assert not asked.done()
        print(f"{turns} turns, the longest {gap_s * 1000:.0f} ms")
        assert turns >= KEYS // SLICE_KEYS // 2
        reply = DeleteRangeResponse.FromString(await deleted)
        assert (reply.deleted, reply.header.revision) == (KEYS, revision + 1)
        read = await reading.reply
        assert read.header.revision > revision, "the delete was committed when the read was asked"
        assert read.count == 0
        await behind
        await asked
        assert set(machine.store.index.live) == {b"behind"}
        assert (member.raft.term, machine.applied_index) == (term, index + 2)
        await member.close()
        again, _ = await started(config, environment(2))
        assert set(again.machine.store.index.live) <= {b"behind"}
        assert len(again.machine.store.index.graves) == KEYS, "the checkpoint was one of a whole entry"
        await again.close()

    run(main)


@pytest.mark.parametrize("gracefully", [True, False])
def test_a_member_that_stops_in_the_middle_of_a_delete_has_all_of_it_after_the_start(
    tmp_path: Path, gracefully: bool
) -> None:
    async def main() -> None:
        config = msgspec.structs.replace(settings(tmp_path / "n1"), checkpoint_interval_s=1000.0)
        member, porch = await started(config, environment())
        await porch.serving.wait()
        await fill(member, KEYS // 10)
        await put(member, b"other")
        await member.checkpointer.save_now()
        deleted = submit(member, CommandKind.DELETE_RANGE, BIG)
        await until(lambda: not member.machine.is_whole)
        saving = asyncio.create_task(member.checkpointer.save_now())
        if gracefully:
            stop = asyncio.Event()
            stop.set()
            assert await member.run(stop) is None
        await member.close()
        assert member.machine.is_whole == gracefully
        assert isinstance((await asyncio.gather(saving, return_exceptions=True))[0], BaseException) != gracefully
        assert isinstance((await asyncio.gather(deleted, return_exceptions=True))[0], BaseException) != gracefully
        again, porch = await started(config, environment(2))
        await porch.serving.wait()
        await put(again, b"more")
        assert set(again.machine.store.index.live) == {b"other", b"more"}
        assert len(again.machine.store.index.graves) == KEYS // 10
        await again.close()

    run(main)


@pytest.mark.slow
def test_a_large_delete_under_load_needs_no_election(cluster: Cluster) -> None:
    with SyncClient(cluster.endpoints, timeout=20.0) as client:
        for first in range(0, KEYS, PER_TXN):
            client.txn(Txn().then(*(put_op(b"big/%06d" % n, b"v") for n in range(first, first + PER_TXN))))
        terms = {client.cluster_view(endpoint).raft_term for endpoint in cluster.endpoints}
        stop = threading.Event()
        counts: list[tuple[int, int]] = []
        problems: list[Exception] = []

        def load(endpoint: str) -> None:
            try:
                with SyncClient([endpoint], timeout=20.0) as mine:
                    written = 0
                    while not stop.is_set():
                        mine.put(b"load/" + endpoint.encode(), b"%d" % written)
                        written += 1
                        found = mine.get(b"big/", prefix=True, count_only=True, serializable=True)
                        counts.append((found.header.revision, found.count))
            except (ClientError, AssertionError) as problem:
                problems.append(problem)

        threads = [threading.Thread(target=load, args=(endpoint,)) for endpoint in cluster.endpoints]
        for thread in threads:
            thread.start()
        try:
            wait_until("load on all members", lambda: len(counts) >= 6)
            reply = client.delete(b"big/", prefix=True)
            seen = len(counts)
            wait_until("load behind it", lambda: problems or len(counts) >= seen + 6)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not problems
        assert reply.deleted == KEYS
        for revision, count in counts:
            assert count == (KEYS if revision < reply.header.revision else 0)
        assert {client.cluster_view(endpoint).raft_term for endpoint in cluster.endpoints} == terms
        cluster.wait_converged()
