"""The etcd v3 services of a member: requests in, answers out; everything of substance happens behind them.

What this version does not do is answered with UNIMPLEMENTED by name, never with an empty success.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from plasmacloud import __version__
from plasmacloud.chainfire.commands import CommandKind
from plasmacloud.chainfire.members import Member
from plasmacloud.chainfire.mvcc.refusals import not_a_message
from plasmacloud.chainfire.mvcc.store import MvccStore
from plasmacloud.chainfire.replica import Replica
from plasmacloud.chainfire.validate import (
    RpcRefusal,
    is_read_only,
    is_serializable,
    validate_range,
    validate_txn,
    validate_write,
)
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.service import ServiceTable, UnaryCall
from plasmacloud.rpc.status import RpcError, StatusCode

M = TypeVar("M", bound=Message)

API_VERSION = "3.5.0"
"""The etcd release whose API this is: clients choose features by it."""

NOT_LEADER = RpcError(StatusCode.FAILED_PRECONDITION, "etcdserver: not leader")
BAD_TRANSFEREE = RpcError(StatusCode.FAILED_PRECONDITION, "etcdserver: bad leader transferee")
TRANSFER_TIMED_OUT = RpcError(StatusCode.UNAVAILABLE, "etcdserver: request timed out, leader transfer took too long")


class LinearizableRead:
    """A read that waits for its read index; ``serve`` then answers the call from the local state."""

    __slots__ = ("_call", "_serve")

    def __init__(self, call: UnaryCall, serve: Callable[[], None]) -> None:
        self._call = call
        self._serve = serve

    def run(self) -> None:
        """The local state is new enough."""
        if self._call.done:
            return
        try:
            self._serve()
        except RpcRefusal as refusal:
            self._call.fail(refusal.code, refusal.message)
        except Exception as error:  # noqa: BLE001 - the one call fails, the replica goes on
            self._call.fail_with(error)

    def fail(self, code: StatusCode, message: str) -> None:
        """No quorum confirmed the read in time."""
        self._call.fail(code, message)


class KvService:
    """``etcdserverpb.KV``."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._store: MvccStore = replica.machine.store
        self._loop = asyncio.get_running_loop()

    def register(self, table: ServiceTable) -> None:
        """Serve the calls of this service."""
        table.unary("/etcdserverpb.KV/Range", self._range)
        table.unary("/etcdserverpb.KV/Txn", self._txn)
        for path, kind in (
            ("Put", CommandKind.PUT),
            ("DeleteRange", CommandKind.DELETE_RANGE),
            ("Compact", CommandKind.COMPACT),
        ):
            table.unary(f"/etcdserverpb.KV/{path}", partial(self._command, kind))

    def _command(self, kind: CommandKind, call: UnaryCall, body: bytes) -> None:
        try:
            validate_write(kind, body)
        except RpcRefusal as refusal:
            call.fail(refusal.code, refusal.message)
            return
        self._replica.submit(kind, body, call)

    def _range(self, call: UnaryCall, body: bytes) -> None:
        try:
            request = validate_range(body)
            if request.serializable:
                self._serve_range(call, request)
                return
        except RpcRefusal as refusal:
            call.fail(refusal.code, refusal.message)
            return
        self._replica.read(LinearizableRead(call, partial(self._serve_range, call, request)))

    def _txn(self, call: UnaryCall, body: bytes) -> None:
        try:
            request = validate_txn(body)
            if not is_read_only(request):
                self._replica.submit(CommandKind.TXN, body, call)
                return
            if is_serializable(request):
                call.reply(self._store.txn(request))
                return
        except RpcRefusal as refusal:
            call.fail(refusal.code, refusal.message)
            return
        self._replica.read(LinearizableRead(call, lambda: call.reply(self._store.txn(request))))

    def _serve_range(self, call: UnaryCall, request: rpc_pb2.RangeRequest) -> None:
        """Answer now if it is quick, else in slices between which heartbeats are served. Raises `RpcRefusal`."""
        answer = self._store.begin_range(request)
        if isinstance(answer, bytes):
            call.reply(answer)
            return
        query = answer
        call.on_cancel = query.close

        def go_on() -> None:
            try:
                if call.done:
                    query.close()
                elif query.step():
                    call.reply(query.body())
                else:
                    self._loop.call_soon(go_on)
            except Exception as error:  # noqa: BLE001 - the one call fails, the replica goes on
                query.close()
                call.fail_with(error)

        self._loop.call_soon(go_on)


class ClusterService:
    """``etcdserverpb.Cluster`` and ``etcdserverpb.Maintenance``."""

    def __init__(self, replica: Replica, *, size_bytes: Callable[[], tuple[int, int]]) -> None:
        """``size_bytes`` tells the bytes allocated for the applied state, and those in use."""
        self._replica = replica
        self._size_bytes = size_bytes

    def register(self, table: ServiceTable) -> None:
        """Serve the calls of these services."""
        table.unary("/etcdserverpb.Cluster/MemberList", self._member_list)
        table.unary("/etcdserverpb.Maintenance/Status", self._status)
        table.unary("/etcdserverpb.Maintenance/Alarm", self._alarm)
        table.unary_async("/etcdserverpb.Maintenance/MoveLeader", self._move_leader)
        for service, method, what in (
            ("Cluster", "MemberAdd", "membership changes"),
            ("Cluster", "MemberRemove", "membership changes"),
            ("Cluster", "MemberUpdate", "membership changes"),
            ("Cluster", "MemberPromote", "membership changes"),
            ("Maintenance", "Defragment", "defragmentations"),
            ("Maintenance", "Hash", "state hashes"),
            ("Maintenance", "HashKV", "state hashes"),
            ("Maintenance", "Snapshot", "snapshots"),
        ):
            table.unary(f"/etcdserverpb.{service}/{method}", partial(_unimplemented, what))

    def _header(self) -> rpc_pb2.ResponseHeader:
        replica = self._replica
        return rpc_pb2.ResponseHeader(
            cluster_id=replica.config.cluster.cluster_id,
            member_id=replica.member_id,
            revision=replica.machine.store.revision,
            raft_term=replica.raft.term,
        )

    def _member_list(self, call: UnaryCall, body: bytes) -> None:
        request = _parse(rpc_pb2.MemberListRequest, body)

        def serve() -> None:
            members = [_member_message(member) for member in self._replica.members()]
            reply = rpc_pb2.MemberListResponse(header=self._header(), members=members)
            call.reply(reply.SerializeToString())

        if request.linearizable:
            self._replica.read(LinearizableRead(call, serve))
        else:
            serve()

    def _status(self, call: UnaryCall, body: bytes) -> None:
        _parse(rpc_pb2.StatusRequest, body)
        raft = self._replica.raft
        allocated, in_use = self._size_bytes()
        reply = rpc_pb2.StatusResponse(
            header=self._header(),
            version=f"{API_VERSION}+chainfire.{__version__}",
            dbSize=allocated,
            dbSizeInUse=in_use,
            leader=raft.leader_id,
            raftIndex=raft.commit,
            raftTerm=raft.term,
            raftAppliedIndex=self._replica.machine.applied_index,
            errors=[] if raft.leader_id else ["etcdserver: no leader"],
            isLearner=not raft.conf.is_voter(self._replica.member_id),
        )
        call.reply(reply.SerializeToString())

    def _alarm(self, call: UnaryCall, body: bytes) -> None:
        """This version raises no alarms: there are none to list or to clear. Raising one by hand is not supported."""
        request = _parse(rpc_pb2.AlarmRequest, body)
        if request.action == rpc_pb2.AlarmRequest.ACTIVATE:
            _unimplemented("raising alarms", call, body)
            return
        call.reply(rpc_pb2.AlarmResponse(header=self._header()).SerializeToString())

    async def _move_leader(self, call: UnaryCall, body: bytes) -> bytes:
        request = _parse(rpc_pb2.MoveLeaderRequest, body)
        replica = self._replica
        if not replica.is_leader:
            raise NOT_LEADER
        if request.targetID not in replica.raft.conf.voters:
            raise BAD_TRANSFEREE
        already_there = request.targetID == replica.member_id
        if not already_there and not await replica.hand_over(request.targetID, 2 * replica.config.election_timeout_s):
            raise TRANSFER_TIMED_OUT
        return rpc_pb2.MoveLeaderResponse(header=self._header()).SerializeToString()


def _member_message(member: Member) -> rpc_pb2.Member:
    return rpc_pb2.Member(
        ID=member.id,
        name=member.name if member.client_urls else "",  # as in etcd: a member that never started has no name
        peerURLs=[member.peer.url],
        clientURLs=member.client_urls,
        isLearner=member.is_learner,
    )


def _parse(kind: type[M], body: bytes) -> M:
    try:
        return kind.FromString(body)
    except DecodeError:
        refusal = not_a_message(kind.__name__)
        raise RpcError(refusal.code, refusal.message) from None


def _unimplemented(what: str, call: UnaryCall, _body: bytes) -> None:
    call.fail(StatusCode.UNIMPLEMENTED, f"chainfire: {what} are not supported by this version")
