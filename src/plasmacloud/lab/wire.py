"""How the lab speaks to one node: the public etcd v3 API, one call at one endpoint, never retried.

The client library spreads calls over endpoints and retries where that is safe. A tester needs the opposite: every
attempt goes to a known node, once, and ends in exactly one of three outcomes (see `plasmacloud.verify.history`).
"""

from collections.abc import Awaitable
from enum import Enum

import msgspec

from plasmacloud.base.errors import PlasmaError
from plasmacloud.client.endpoints import Endpoint
from plasmacloud.client.keys import after, prefix_end
from plasmacloud.client.link import Link
from plasmacloud.client.outcome import Effect, Verdict, judge
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.status import Execution, Metadata, RpcError
from plasmacloud.verify.observations import KeyRecord, MemberRecord

_PUT = "/etcdserverpb.KV/Put"
_RANGE = "/etcdserverpb.KV/Range"
_STATUS = "/etcdserverpb.Maintenance/Status"
_TXN = "/etcdserverpb.KV/Txn"
_MOVE_LEADER = "/etcdserverpb.Maintenance/MoveLeader"
_MEMBER_LIST = "/etcdserverpb.Cluster/MemberList"
_MEMBER_ADD = "/etcdserverpb.Cluster/MemberAdd"
_MEMBER_REMOVE = "/etcdserverpb.Cluster/MemberRemove"
_MEMBER_PROMOTE = "/etcdserverpb.Cluster/MemberPromote"
_NEEDS_LEADER = (("hasleader", "true"),)
_PAGE_KEYS = 5_000


class Known(Enum):
    """What a failed attempt proves about the write."""

    NOT_EXECUTED = "not executed"
    UNKNOWN = "unknown"


class AttemptFailed(PlasmaError):
    """One attempt at one node did not succeed. ``answered``: the node itself said so."""

    def __init__(self, message: str, known: Known, *, answered: bool) -> None:
        super().__init__(message)
        self.known = known
        self.answered = answered


class Seen(msgspec.Struct, frozen=True):
    """A key as an answer showed it; without a value: it was not there."""

    value: str | None = None
    revision: int = 0


class NodeApi:
    """Calls to one node. Timeouts in seconds; every failure is an `AttemptFailed`."""

    def __init__(self, host: str, port: int) -> None:
        self._link = Link(Endpoint(host, port), connect_timeout=1.0)

    async def put(self, key: str, value: str, *, timeout: float) -> int:
        """Write a key; returns the revision of the acknowledgement."""
        request = rpc_pb2.PutRequest(key=key.encode(), value=value.encode())
        body = await self._call(_PUT, request.SerializeToString(), timeout, Effect.WRITE)
        return rpc_pb2.PutResponse.FromString(body).header.revision

    async def put_once(self, key: str, value: str, *, timeout: float) -> int:
        """Write a key unless it is there already; returns the revision at which it was written.

        Safe to repeat when the outcome of an attempt is unknown, as long as nobody else writes the key.
        """
        name = key.encode()
        absent = rpc_pb2.Compare(key=name, target=rpc_pb2.Compare.VERSION, result=rpc_pb2.Compare.EQUAL, version=0)
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=name, value=value.encode()))
        get = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=name))
        request = rpc_pb2.TxnRequest(compare=[absent], success=[put], failure=[get])
        body = await self._call(_TXN, request.SerializeToString(), timeout, Effect.WRITE)
        answer = rpc_pb2.TxnResponse.FromString(body)
        return answer.header.revision if answer.succeeded else answer.responses[0].response_range.kvs[0].mod_revision

    async def read(self, key: str, *, timeout: float) -> tuple[int, str | None]:
        """A linearizable read: the node's revision, and the value or None."""
        request = rpc_pb2.RangeRequest(key=key.encode()).SerializeToString()
        body = await self._call(_RANGE, request, timeout, Effect.READ, metadata=_NEEDS_LEADER)
        answer = rpc_pb2.RangeResponse.FromString(body)
        return answer.header.revision, answer.kvs[0].value.decode() if answer.kvs else None

    async def look(self, key: str, *, timeout: float) -> Seen:
        """A linearizable read with the revision at which the key was written last."""
        request = rpc_pb2.RangeRequest(key=key.encode()).SerializeToString()
        body = await self._call(_RANGE, request, timeout, Effect.READ, metadata=_NEEDS_LEADER)
        return _seen(rpc_pb2.RangeResponse.FromString(body))

    async def put_if_value(self, key: str, expected: str, value: str, *, timeout: float) -> tuple[bool, int, Seen]:
        """Write a key if it holds ``expected``: whether it did, the revision of the write, else what was there."""
        condition = rpc_pb2.Compare(
            key=key.encode(), target=rpc_pb2.Compare.VALUE, result=rpc_pb2.Compare.EQUAL, value=expected.encode()
        )
        return await self._put_if(condition, value, timeout)

    async def put_if_revision(self, key: str, revision: int, value: str, *, timeout: float) -> tuple[bool, int, Seen]:
        """The same if it was written last at ``revision`` (0: it is not there)."""
        condition = rpc_pb2.Compare(
            key=key.encode(), target=rpc_pb2.Compare.MOD, result=rpc_pb2.Compare.EQUAL, mod_revision=revision
        )
        return await self._put_if(condition, value, timeout)

    async def _put_if(self, condition: rpc_pb2.Compare, value: str, timeout: float) -> tuple[bool, int, Seen]:
        name = condition.key
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=name, value=value.encode()))
        get = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=name))
        request = rpc_pb2.TxnRequest(compare=[condition], success=[put], failure=[get])
        body = await self._call(_TXN, request.SerializeToString(), timeout, Effect.WRITE)
        answer = rpc_pb2.TxnResponse.FromString(body)
        if answer.succeeded:
            return True, answer.header.revision, Seen()
        return False, 0, _seen(answer.responses[0].response_range)

    async def status(self, *, timeout: float) -> rpc_pb2.StatusResponse:
        """The node's own view of itself; needs no quorum."""
        return rpc_pb2.StatusResponse.FromString(await self._call(_STATUS, b"", timeout, Effect.READ))

    async def move_leader(self, target_member: int, *, timeout: float) -> None:
        """Ask this node, which must lead, to hand leadership over."""
        request = rpc_pb2.MoveLeaderRequest(targetID=target_member)
        await self._call(_MOVE_LEADER, request.SerializeToString(), timeout, Effect.WRITE)

    async def member_list(self, *, timeout: float) -> tuple[MemberRecord, ...]:
        """The members, by a linearizable read; in the order of their ids."""
        request = rpc_pb2.MemberListRequest(linearizable=True).SerializeToString()
        body = await self._call(_MEMBER_LIST, request, timeout, Effect.READ, metadata=_NEEDS_LEADER)
        members = rpc_pb2.MemberListResponse.FromString(body).members
        return tuple(sorted((_member(each) for each in members), key=lambda member: member.id))

    async def member_add(self, peer_url: str, *, learner: bool, timeout: float) -> None:
        """Add a member that will be reached at ``peer_url``."""
        request = rpc_pb2.MemberAddRequest(peerURLs=[peer_url], isLearner=learner)
        await self._call(_MEMBER_ADD, request.SerializeToString(), timeout, Effect.WRITE)

    async def member_remove(self, member: int, *, timeout: float) -> None:
        """Remove a member by its id."""
        request = rpc_pb2.MemberRemoveRequest(ID=member)
        await self._call(_MEMBER_REMOVE, request.SerializeToString(), timeout, Effect.WRITE)

    async def member_promote(self, member: int, *, timeout: float) -> None:
        """Make a learner a voter."""
        request = rpc_pb2.MemberPromoteRequest(ID=member)
        await self._call(_MEMBER_PROMOTE, request.SerializeToString(), timeout, Effect.WRITE)

    async def read_prefix(self, prefix: str, revision: int, *, timeout: float) -> list[KeyRecord]:
        """Everything this node itself holds under ``prefix`` at ``revision`` (0: now), page by page."""
        start, end = prefix.encode(), prefix_end(prefix)
        records: list[KeyRecord] = []
        while True:
            request = rpc_pb2.RangeRequest(
                key=start, range_end=end, limit=_PAGE_KEYS, revision=revision, serializable=True
            )
            answer = await self._call(_RANGE, request.SerializeToString(), timeout, Effect.READ)
            page = rpc_pb2.RangeResponse.FromString(answer)
            records.extend(
                KeyRecord(kv.key.decode(), kv.value.decode(), kv.create_revision, kv.mod_revision, kv.version)
                for kv in page.kvs
            )
            if not page.more:
                return records
            start = after(page.kvs[-1].key)

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def _call(self, path: str, body: bytes, timeout: float, effect: Effect, *, metadata: Metadata = ()) -> bytes:
        if effect is Effect.WRITE:
            metadata = _NEEDS_LEADER
        call: Awaitable[bytes] = self._link.call(path, body, connect_within=timeout, timeout=timeout, metadata=metadata)
        try:
            return await call
        except RpcError as error:
            known = Known.UNKNOWN if judge(error, effect) is Verdict.UNKNOWN else Known.NOT_EXECUTED
            raise AttemptFailed(str(error), known, answered=error.executed is Execution.ANSWERED) from error


def _member(member: rpc_pb2.Member) -> MemberRecord:
    return MemberRecord(member.ID, member.name, tuple(member.peerURLs), tuple(member.clientURLs), member.isLearner)


def _seen(answer: rpc_pb2.RangeResponse) -> Seen:
    return Seen(answer.kvs[0].value.decode(), answer.kvs[0].mod_revision) if answer.kvs else Seen()
