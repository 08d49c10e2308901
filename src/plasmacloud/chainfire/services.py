"""The etcd v3 services of a member: requests in, answers out; everything of substance happens behind them.

What this version does not do is answered with UNIMPLEMENTED by name, never with an empty success.
"""

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from plasmacloud import __version__
from plasmacloud.base.errors import StorageError
from plasmacloud.base.logging import get_logger
from plasmacloud.chainfire.cluster_services import parse
from plasmacloud.chainfire.linearizable import LinearizableRead
from plasmacloud.chainfire.long_reads import LongReads, query_work
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.mvcc.hashing import StateHash
from plasmacloud.chainfire.mvcc.refusals import COMPACTED, Refusal
from plasmacloud.chainfire.mvcc.slices import SLICE_KEYS
from plasmacloud.chainfire.mvcc.store import MvccStore
from plasmacloud.chainfire.replica import Replica
from plasmacloud.chainfire.snapshot_flow import CLIENT_PREFIX
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.chainfire.validate import (
    RpcRefusal,
    check_write,
    is_read_only,
    is_serializable,
    validate_range,
    validate_txn,
)
from plasmacloud.chainfire.waiting import NO_LEADER, TOO_MANY_REQUESTS, Waiter
from plasmacloud.raft.raft import Raft
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.routes import Call, Shedding
from plasmacloud.rpc.service import ServiceTable, StreamCall
from plasmacloud.rpc.status import RpcError, StatusCode
from plasmacloud.storage.wal_errors import DiskFull, write_error

API_VERSION = "3.5.0"
"""The etcd release whose API this is: clients choose features by it."""

_BLOB_BYTES = 64 * 1024
_SNAPSHOT_S = 300.0
"""Longer nobody waits for a snapshot to be made: its moment is not held for longer either (`StateStore.pin`)."""
_COMPACTION_POLL_S = 0.02

NOT_LEADER = Refusal(StatusCode.FAILED_PRECONDITION, "etcdserver: not leader")
BAD_TRANSFEREE = Refusal(StatusCode.FAILED_PRECONDITION, "etcdserver: bad leader transferee")
TRANSFER_TIMED_OUT = Refusal(StatusCode.UNAVAILABLE, "etcdserver: request timed out, leader transfer took too long")


log = get_logger("chainfire")


class KvService:
    """``etcdserverpb.KV``."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._store: MvccStore = replica.machine.store
        self._loop = asyncio.get_running_loop()
        self._long_reads = LongReads(self._loop)

    def register(self, table: ServiceTable) -> None:
        """Serve the calls of this service."""
        writes = Shedding(self._replica.sheds_command, TOO_MANY_REQUESTS)
        table.unary("/etcdserverpb.KV/Range", self._range, Shedding(self._replica.sheds_read, TOO_MANY_REQUESTS))
        table.unary("/etcdserverpb.KV/Txn", self._txn, writes)  # whether it only reads is known too late
        for path, kind in (
            ("Put", CommandKind.PUT),
            ("DeleteRange", CommandKind.DELETE_RANGE),
        ):
            table.unary(f"/etcdserverpb.KV/{path}", partial(self._command, kind), writes)
        table.unary("/etcdserverpb.KV/Compact", self._compact, writes)

    def _command(self, kind: CommandKind, call: Call, body: bytes, waiter: Waiter | None = None) -> None:
        try:
            check_write(kind, body)
        except RpcRefusal as refusal:
            call.fail(refusal.code, refusal.message)
            return
        if not self._refused_leaderless(call):
            self._replica.submit(kind, body, waiter or call)

    def _compact(self, call: Call, body: bytes) -> None:
        """Answered when the past is out of reach; with ``physical``, when this member has also removed it."""
        request = parse(rpc_pb2.CompactionRequest, body)
        waiter = _Removed(call, self._store, self._loop, request.revision) if request.physical else None
        self._command(CommandKind.COMPACT, call, body, waiter)

    def _range(self, call: Call, body: bytes) -> None:
        try:
            request = validate_range(body)
            if request.serializable:
                self._serve_range(call, request)
                return
        except RpcRefusal as refusal:
            call.fail(refusal.code, refusal.message)
            return
        if not self._refused_leaderless(call):
            self._replica.read(LinearizableRead(call, partial(self._serve_range, call, request)))

    def _refused_leaderless(self, call: Call) -> bool:
        """Clients that ask for it are told at once when there is no leader, and do not wait for the next one."""
        if self._replica.leader_id or dict(call.metadata).get("hasleader") != "true":
            return False
        call.fail(StatusCode.UNAVAILABLE, NO_LEADER)
        return True

    def _txn(self, call: Call, body: bytes) -> None:
        try:
            request = validate_txn(body)
            if not is_read_only(request):
                if not self._refused_leaderless(call):
                    self._replica.submit(CommandKind.TXN, body, call)
                return
            if is_serializable(request):
                self._serve_txn(call, request)
                return
        except RpcRefusal as refusal:
            call.fail(refusal.code, refusal.message)
            return
        if not self._refused_leaderless(call):
            self._replica.read(LinearizableRead(call, partial(self._serve_txn, call, request)))

    def _serve_txn(self, call: Call, request: rpc_pb2.TxnRequest) -> None:
        """Answer a transaction that only reads. Raises `RpcRefusal`."""
        if call.congested:
            call.fail(StatusCode.RESOURCE_EXHAUSTED, TOO_MANY_REQUESTS)
            return
        work = self._store.read_txn_work(request)
        left = SLICE_KEYS
        try:
            while left > 0:
                left -= next(work)
        except StopIteration as done:
            call.reply(done.value)
        else:
            self._long_reads.add(call, work)

    def _serve_range(self, call: Call, request: rpc_pb2.RangeRequest) -> None:
        """Answer now if it is quick, else in slices between which heartbeats are served. Raises `RpcRefusal`."""
        if call.congested:
            call.fail(StatusCode.RESOURCE_EXHAUSTED, TOO_MANY_REQUESTS)
            return
        answer = self._store.begin_range(request)
        if isinstance(answer, bytes):
            call.reply(answer)
        else:
            self._long_reads.add(call, query_work(answer))


class _Removed:
    """Answers a compaction once what it removes is gone from this member's state."""

    def __init__(self, call: Call, store: MvccStore, loop: asyncio.AbstractEventLoop, revision: int) -> None:
        self._call = call
        self._store = store
        self._loop = loop
        self._revision = revision

    @property
    def done(self) -> bool:
        return self._call.done

    def reply(self, body: bytes) -> None:
        if self._call.done:  # the client waits no longer
            return
        if self._store.has_removed(self._revision):  # later compactions may follow it for ever
            self._call.reply(body)
        else:
            self._loop.call_later(_COMPACTION_POLL_S, self.reply, body)

    def fail(self, code: StatusCode, message: str) -> None:
        self._call.fail(code, message)


class MaintenanceHost(Protocol):
    """What `MaintenanceService` needs of the replica."""

    @property
    def member_id(self) -> int: ...

    @property
    def machine(self) -> StateMachine: ...

    @property
    def raft(self) -> Raft: ...

    @property
    def is_leader(self) -> bool: ...

    async def hand_over(self, target: int, timeout: float) -> bool:
        """Transfer leadership; True when another member leads before the timeout (seconds)."""


class MaintenanceService:
    """``etcdserverpb.Maintenance``."""

    def __init__(
        self,
        host: MaintenanceHost,
        *,
        size_bytes: Callable[[], tuple[int, int]],
        hand_over_timeout_s: float,
        make_snapshot: Callable[[Path], Awaitable[object]],
        directory: Path,
    ) -> None:
        """``size_bytes`` tells the bytes allocated for the applied state, and those in use.

        ``make_snapshot`` writes a snapshot of the state as it is now to a file; ``directory`` is for such files.
        """
        self._host = host
        self._size_bytes = size_bytes
        self._make_snapshot = make_snapshot
        self._directory = directory
        self._hand_over_timeout_s = hand_over_timeout_s
        # One at a time: a snapshot keeps a worker thread busy, which checkpoints need as well, and a hash has its slice
        # of every turn of the loop.
        self._making_snapshot = asyncio.Lock()
        self._hashing = asyncio.Lock()

    def register(self, table: ServiceTable) -> None:
        """Serve the calls of this service."""
        table.unary("/etcdserverpb.Maintenance/Status", self._status)
        table.unary("/etcdserverpb.Maintenance/Alarm", self._alarm)
        table.unary_async("/etcdserverpb.Maintenance/Hash", self._hash)
        table.unary_async("/etcdserverpb.Maintenance/HashKV", self._hash_kv)
        table.unary_async("/etcdserverpb.Maintenance/MoveLeader", self._move_leader)
        table.stream("/etcdserverpb.Maintenance/Snapshot", self._snapshot)
        table.unary("/etcdserverpb.Maintenance/Defragment", self._defragment)

    def _header(self) -> rpc_pb2.ResponseHeader:
        host = self._host
        return rpc_pb2.ResponseHeader(
            cluster_id=host.machine.cluster.cluster_id,
            member_id=host.member_id,
            revision=host.machine.store.revision,
            raft_term=host.raft.term,
        )

    async def _snapshot(self, call: StreamCall) -> None:
        """The file, piece by piece, as fast as the client takes it."""
        async for body in call:
            parse(rpc_pb2.SnapshotRequest, body)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_SNAPSHOT_S):
                file = await self._one_snapshot()
        except TimeoutError:
            raise RpcError(
                StatusCode.UNAVAILABLE, f"chainfire: the disk did not take a snapshot within {_SNAPSHOT_S:g} s"
            ) from None
        except DiskFull as error:
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, f"chainfire: no space for a snapshot: {error}") from error
        except (StorageError, OSError) as error:
            raise RpcError(StatusCode.UNAVAILABLE, f"chainfire: no snapshot could be made: {error}") from error
        with file:
            remaining = os.fstat(file.fileno()).st_size
            while remaining:
                blob = await loop.run_in_executor(None, file.read, _BLOB_BYTES)
                remaining -= len(blob)
                reply = rpc_pb2.SnapshotResponse(header=self._header(), remaining_bytes=remaining, blob=blob)
                await call.send(reply.SerializeToString())

    async def _one_snapshot(self) -> BinaryIO:
        """The next one begins when this one is done, also when nobody waits for it any more: its thread goes on."""
        await self._making_snapshot.acquire()
        making = asyncio.get_running_loop().create_task(self._snapshot_file())
        making.add_done_callback(lambda _: self._making_snapshot.release())
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(_unwanted)
            raise

    async def _snapshot_file(self) -> BinaryIO:
        """A snapshot of the state as it is now. It loses its name at once, so that nothing is left behind."""
        with tempfile.TemporaryDirectory(dir=self._directory, prefix=CLIENT_PREFIX) as directory:
            path = Path(directory) / "snapshot"
            try:
                await self._make_snapshot(path)
                return path.open("rb")
            except OSError as error:
                raise write_error(f"writing a snapshot in {self._directory}", error) from error

    def _status(self, call: Call, body: bytes) -> None:
        parse(rpc_pb2.StatusRequest, body)
        host, raft = self._host, self._host.raft
        allocated, in_use = self._size_bytes()
        member = host.machine.cluster.get(host.member_id)
        errors = [] if raft.leader_id else ["etcdserver: no leader"]
        if member is None:
            errors.append("chainfire: not a member of the cluster")
        reply = rpc_pb2.StatusResponse(
            header=self._header(),
            version=f"{API_VERSION}+chainfire.{__version__}",
            dbSize=allocated,
            dbSizeInUse=in_use,
            leader=raft.leader_id,
            raftIndex=raft.commit,
            raftTerm=raft.term,
            raftAppliedIndex=host.machine.applied_index,
            errors=errors,
            isLearner=member is not None and member.is_learner,
        )
        call.reply(reply.SerializeToString())

    def _alarm(self, call: Call, body: bytes) -> None:
        """This version raises no alarms: there are none to list or to clear. Raising one by hand is not supported."""
        request = parse(rpc_pb2.AlarmRequest, body)
        if request.action == rpc_pb2.AlarmRequest.ACTIVATE:
            _unimplemented("raising alarms", call, body)
            return
        call.reply(rpc_pb2.AlarmResponse(header=self._header()).SerializeToString())

    def _defragment(self, call: Call, body: bytes) -> None:
        """Success, and nothing is done. In etcd this rewrites the file, and stops the member meanwhile, to give free
        pages back to the file system. Here they stay in the file, which is as large as it ever was, and are used again
        by what is written next. `Status` tells both sizes; a member that joins anew gets a file without free pages."""
        parse(rpc_pb2.DefragmentRequest, body)
        allocated, in_use = self._size_bytes()
        log.info(
            "nothing to defragment: free pages are used again", file_bytes=allocated, free_bytes=allocated - in_use
        )
        call.reply(rpc_pb2.DefragmentResponse(header=self._header()).SerializeToString())

    async def _hash(self, call: Call, body: bytes) -> bytes:
        """In etcd a hash of the database file. Here, where files differ between members, one of what they agree on."""
        parse(rpc_pb2.HashRequest, body)
        header = self._header()
        whole = await self._compute_hash(0)
        return rpc_pb2.HashResponse(header=header, hash=_uint32(whole)).SerializeToString()

    async def _hash_kv(self, call: Call, body: bytes) -> bytes:
        """Equal on all members at the same revision; not etcd's number."""
        revision = parse(rpc_pb2.HashKVRequest, body).revision
        header = self._header()
        if 0 < revision <= self._host.machine.store.compact_revision:
            raise RpcError(*COMPACTED)
        whole = await self._compute_hash(max(0, revision))
        reply = rpc_pb2.HashKVResponse(header=header, hash=_uint32(whole), compact_revision=whole.compact_revision)
        return reply.SerializeToString()

    async def _compute_hash(self, revision: int) -> StateHash:
        """In slices, between which everything else goes on."""
        async with self._hashing:
            return await self._hash_now(revision)

    async def _hash_now(self, revision: int) -> StateHash:
        try:
            whole = StateHash(self._host.machine.store, revision)
        except RpcRefusal as refusal:
            raise RpcError(refusal.code, refusal.message) from None
        try:
            done = whole.step()
            while not done:
                await asyncio.sleep(0)
                done = whole.step()
        finally:
            whole.close()
        return whole

    async def _move_leader(self, call: Call, body: bytes) -> bytes:
        request = parse(rpc_pb2.MoveLeaderRequest, body)
        host = self._host
        if not host.is_leader:
            raise RpcError(*NOT_LEADER)
        if request.targetID not in host.raft.conf.voters:
            raise RpcError(*BAD_TRANSFEREE)
        already_there = request.targetID == host.member_id
        if not already_there and not await host.hand_over(request.targetID, self._hand_over_timeout_s):
            raise RpcError(*TRANSFER_TIMED_OUT)
        return rpc_pb2.MoveLeaderResponse(header=self._header()).SerializeToString()


def _unwanted(making: "asyncio.Task[BinaryIO]") -> None:
    if not making.cancelled() and making.exception() is None:
        making.result().close()


def _uint32(whole: StateHash) -> int:
    return int.from_bytes(whole.digest()[:4], "big")


def _unimplemented(what: str, call: Call, _body: bytes) -> None:
    call.fail(StatusCode.UNIMPLEMENTED, f"chainfire: {what} are not supported by this version")
