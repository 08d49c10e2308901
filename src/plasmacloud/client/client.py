"""The client: the etcd v3 API as Python calls, over several endpoints, with honest errors.

It speaks to ChainFire and to etcd alike. Every call has a deadline that covers all its attempts, and fails only with
the errors of `plasmacloud.client.errors`; a cancelled call leaves nothing behind but, for a write, the question
whether it was executed.
"""

import random
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

import msgspec

from plasmacloud.base.tls import ClientTls
from plasmacloud.client import ops, types
from plasmacloud.client.calls import Caller, RetryPolicy
from plasmacloud.client.endpoints import Endpoint, parse_endpoint
from plasmacloud.client.errors import ClientError
from plasmacloud.client.keys import FIRST_KEY, TO_THE_END, Key, after, key_range
from plasmacloud.client.ops import Order, SortBy, Txn
from plasmacloud.client.outcome import Effect
from plasmacloud.rpc.proto import admin_pb2, health_pb2, rpc_pb2

DEFAULT_TIMEOUT_S = 5.0

_RANGE = "/etcdserverpb.KV/Range"
_PUT = "/etcdserverpb.KV/Put"
_DELETE_RANGE = "/etcdserverpb.KV/DeleteRange"
_TXN = "/etcdserverpb.KV/Txn"
_COMPACT = "/etcdserverpb.KV/Compact"
_MEMBER_LIST = "/etcdserverpb.Cluster/MemberList"
_MEMBER_ADD = "/etcdserverpb.Cluster/MemberAdd"
_MEMBER_REMOVE = "/etcdserverpb.Cluster/MemberRemove"
_MEMBER_UPDATE = "/etcdserverpb.Cluster/MemberUpdate"
_MEMBER_PROMOTE = "/etcdserverpb.Cluster/MemberPromote"
_STATUS = "/etcdserverpb.Maintenance/Status"
_ALARM = "/etcdserverpb.Maintenance/Alarm"
_MOVE_LEADER = "/etcdserverpb.Maintenance/MoveLeader"
_HASH_KV = "/etcdserverpb.Maintenance/HashKV"
_SNAPSHOT = "/etcdserverpb.Maintenance/Snapshot"
_ADMIN_MEMBERS = "/plasmacloud.chainfire.v1.Admin/Members"
_ADMIN_ADD_MEMBER = "/plasmacloud.chainfire.v1.Admin/AddMember"
_HEALTH = "/grpc.health.v1.Health/Check"


class EndpointHealth(msgspec.Struct, frozen=True):
    """What this client knows of an endpoint. ``last_error`` is empty when its last call went well."""

    endpoint: str
    connected: bool
    failures: int
    last_error: str


class Client:
    """An asynchronous client of one cluster. Use it on one event loop; close it, or use ``async with``.

    ``endpoints``: ``host:port`` or ``http://host:port`` of members of one cluster. ``timeout``: seconds that a call may
    take over all its attempts, unless it is given its own. ``tls``: certificates; with them, or behind ``https://``,
    connections use TLS. Raises `ConfigError` for an unusable endpoint.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        rng: random.Random | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self._secure = tls is not None
        self._endpoints = tuple(dict.fromkeys(self._parse(text) for text in endpoints))
        self._timeout = timeout
        self._caller = Caller(self._endpoints, retry or RetryPolicy(), rng or random.Random(), tls)

    def _parse(self, text: str) -> Endpoint:
        return parse_endpoint(text, secure=self._secure)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. A call under way fails."""
        await self._caller.close()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where this client asks, as ``host:port``."""
        return tuple(str(endpoint) for endpoint in self._endpoints)

    def endpoint_health(self) -> list[EndpointHealth]:
        """What the last calls taught about each endpoint."""
        return [
            EndpointHealth(
                str(state.endpoint), self._caller.connected(state.endpoint), state.failures, state.last_error
            )
            for state in self._caller.pool.states
        ]

    async def put(
        self,
        key: Key,
        value: Key = b"",
        *,
        lease: int = 0,
        prev_kv: bool = False,
        ignore_value: bool = False,
        ignore_lease: bool = False,
        timeout: float | None = None,
    ) -> types.PutResult:
        """Set a key. See `ops.put`."""
        op = ops.put(key, value, lease=lease, prev_kv=prev_kv, ignore_value=ignore_value, ignore_lease=ignore_lease)
        body = await self._write(_PUT, op.message().SerializeToString(), timeout)
        return types.put_result(rpc_pb2.PutResponse.FromString(body))

    async def get(
        self,
        key: Key,
        *,
        range_end: Key | None = None,
        prefix: bool = False,
        from_key: bool = False,
        limit: int = 0,
        revision: int = 0,
        sort_by: SortBy | None = None,
        order: Order | None = None,
        serializable: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
        timeout: float | None = None,
    ) -> types.RangeResult:
        """Read one key or a range in one answer; for big ranges use `scan`. See `ops.get`."""
        op = ops.get(
            key,
            range_end=range_end,
            prefix=prefix,
            from_key=from_key,
            limit=limit,
            revision=revision,
            sort_by=sort_by,
            order=order,
            serializable=serializable,
            keys_only=keys_only,
            count_only=count_only,
            min_mod_revision=min_mod_revision,
            max_mod_revision=max_mod_revision,
            min_create_revision=min_create_revision,
            max_create_revision=max_create_revision,
        )
        return await self._range(op, timeout)

    async def scan(
        self,
        key: Key = b"",
        *,
        range_end: Key | None = None,
        prefix: bool = False,
        from_key: bool = False,
        page: int = 1000,
        revision: int = 0,
        serializable: bool = False,
        keys_only: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[types.KeyValue]:
        """Every key of a range in key order, fetched ``page`` at a time, all at one revision.

        Without a range: the whole key space. ``timeout`` is for each page. Raises `Compacted` when the history of that
        revision is compacted away before the last page is fetched.
        """
        assert page > 0
        everything = key == b"" or key == ""
        start, end = (
            (FIRST_KEY, TO_THE_END)
            if everything and range_end is None
            else key_range(key, range_end=range_end, prefix=prefix, from_key=from_key)
        )
        while True:
            op = ops.get(
                start,
                range_end=end,
                limit=page,
                revision=revision,
                serializable=serializable,
                keys_only=keys_only,
            )
            answer = await self._range(op, timeout)
            for kv in answer.kvs:
                yield kv
            if not answer.more:
                return
            start = after(answer.kvs[-1].key)
            revision = revision or answer.header.revision

    async def delete(
        self,
        key: Key,
        *,
        range_end: Key | None = None,
        prefix: bool = False,
        from_key: bool = False,
        prev_kv: bool = False,
        timeout: float | None = None,
    ) -> types.DeleteResult:
        """Delete one key or a range. See `ops.delete`."""
        op = ops.delete(key, range_end=range_end, prefix=prefix, from_key=from_key, prev_kv=prev_kv)
        body = await self._write(_DELETE_RANGE, op.message().SerializeToString(), timeout)
        return types.delete_result(rpc_pb2.DeleteRangeResponse.FromString(body))

    async def txn(self, txn: Txn, *, timeout: float | None = None) -> types.TxnResult:
        """Run a transaction. One that can only read is retried as a read is."""
        data = txn.message().SerializeToString()
        if txn.read_only:
            body = await self._read(_TXN, data, timeout, require_leader=not txn.serializable)
        else:
            body = await self._write(_TXN, data, timeout)
        return types.txn_result(rpc_pb2.TxnResponse.FromString(body))

    async def compact(
        self, revision: int, *, physical: bool = False, timeout: float | None = None
    ) -> types.CompactResult:
        """Forget all history before ``revision``. ``physical``: return only when the space is released."""
        request = rpc_pb2.CompactionRequest(revision=revision, physical=physical)
        body = await self._write(_COMPACT, request.SerializeToString(), timeout)
        return types.CompactResult(types.header(rpc_pb2.CompactionResponse.FromString(body).header))

    async def member_list(self, *, linearizable: bool = True, timeout: float | None = None) -> types.MemberList:
        """The members. Not linearizable: as the member that answers knows them, without a quorum."""
        data = rpc_pb2.MemberListRequest(linearizable=linearizable).SerializeToString()
        body = await self._read(_MEMBER_LIST, data, timeout, require_leader=linearizable)
        return types.member_list(rpc_pb2.MemberListResponse.FromString(body))

    async def member_add(
        self, peer_urls: Sequence[str], *, learner: bool = False, timeout: float | None = None
    ) -> types.MemberAdded:
        """Add a member. ChainFire adds a learner in any case; unless ``learner``, it is promoted when it caught up.

        etcd adds a voter at once, which counts in the quorum from then on, whether or not it is ever started.
        """
        data = rpc_pb2.MemberAddRequest(peerURLs=peer_urls, isLearner=learner).SerializeToString()
        body = await self._write(_MEMBER_ADD, data, timeout)
        return types.member_added(rpc_pb2.MemberAddResponse.FromString(body))

    async def member_remove(self, member_id: int, *, timeout: float | None = None) -> types.MemberList:
        """Remove a member for good; returns the others."""
        data = rpc_pb2.MemberRemoveRequest(ID=member_id).SerializeToString()
        return _members_left(await self._write(_MEMBER_REMOVE, data, timeout))

    async def member_update(
        self, member_id: int, peer_urls: Sequence[str], *, timeout: float | None = None
    ) -> types.MemberList:
        """Tell the others where a member is reached from now on; returns all members."""
        data = rpc_pb2.MemberUpdateRequest(ID=member_id, peerURLs=peer_urls).SerializeToString()
        return _members_left(await self._write(_MEMBER_UPDATE, data, timeout))

    async def member_promote(self, member_id: int, *, timeout: float | None = None) -> types.MemberList:
        """Make a learner a voter; refused while it lags. Returns all members."""
        data = rpc_pb2.MemberPromoteRequest(ID=member_id).SerializeToString()
        return _members_left(await self._write(_MEMBER_PROMOTE, data, timeout))

    async def add_member(
        self,
        peer_urls: Sequence[str],
        *,
        name: str = "",
        learner: bool = False,
        replaces: int = 0,
        timeout: float | None = None,
    ) -> types.MemberProgress:
        """ChainFire only: `member_add` with a name, and with the member whose place the new one takes, if any."""
        request = admin_pb2.AddMemberRequest(peer_urls=peer_urls, name=name, learner=learner, replaces=replaces)
        body = await self._write(_ADMIN_ADD_MEMBER, request.SerializeToString(), timeout)
        return types.member_progress(admin_pb2.AddMemberResponse.FromString(body).member)

    async def cluster_view(self, endpoint: str | None = None, *, timeout: float | None = None) -> types.ClusterView:
        """ChainFire only: the members and how far each one is.

        As the leader sees it where it can be asked, else as whoever answers does. With ``endpoint``: asked there only.
        etcd refuses with UNIMPLEMENTED.
        """
        if endpoint is not None:
            body = await self._ask(endpoint, _ADMIN_MEMBERS, b"", timeout)
            return types.cluster_view(admin_pb2.MembersResponse.FromString(body))
        body = await self._read(_ADMIN_MEMBERS, b"", timeout, require_leader=False)
        seen = types.cluster_view(admin_pb2.MembersResponse.FromString(body))
        if seen.from_leader:
            return seen
        for url in (url for member in seen.members if member.id == seen.leader_id for url in member.client_urls):
            try:
                return await self.cluster_view(url, timeout=timeout)
            except ClientError:
                continue
        return seen

    async def hash_kv(self, endpoint: str, *, revision: int = 0, timeout: float | None = None) -> types.HashKv:
        """One member's hash of all keys as of ``revision`` (0: its newest). Compare it with the other members'."""
        data = rpc_pb2.HashKVRequest(revision=revision).SerializeToString()
        answer = rpc_pb2.HashKVResponse.FromString(await self._ask(endpoint, _HASH_KV, data, timeout))
        return types.HashKv(types.header(answer.header), answer.hash, answer.compact_revision)

    async def snapshot(self, endpoint: str, *, timeout: float | None = None) -> AsyncIterator[types.SnapshotChunk]:
        """A snapshot of one member, chunk by chunk. ``timeout`` is for connecting and for each chunk."""
        async for body in self._caller.stream(_SNAPSHOT, b"", self._parse(endpoint), self._seconds(timeout)):
            chunk = rpc_pb2.SnapshotResponse.FromString(body)
            yield types.SnapshotChunk(chunk.remaining_bytes, chunk.blob)

    async def status(self, endpoint: str, *, timeout: float | None = None) -> types.Status:
        """One member's own view. Asked once, there and nowhere else."""
        body = await self._ask(endpoint, _STATUS, b"", timeout)
        return types.status(rpc_pb2.StatusResponse.FromString(body))

    async def health(self, endpoint: str, *, service: str = "", timeout: float | None = None) -> types.Health:
        """The gRPC health check of one server, asked once. An endpoint that cannot be asked raises."""
        data = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        body = await self._ask(endpoint, _HEALTH, data, timeout)
        answer = health_pb2.HealthCheckResponse.FromString(body).status
        return {
            health_pb2.HealthCheckResponse.SERVING: types.Health.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING: types.Health.NOT_SERVING,
        }.get(answer, types.Health.UNKNOWN)

    async def alarms(self, *, timeout: float | None = None) -> tuple[types.Alarm, ...]:
        """The alarms that are on. (etcd sends the question through the log: it needs a quorum.)"""
        data = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET).SerializeToString()
        body = await self._read(_ALARM, data, timeout, require_leader=True)
        return types.alarms(rpc_pb2.AlarmResponse.FromString(body))

    async def move_leader(self, target_id: int, endpoint: str, *, timeout: float | None = None) -> types.Header:
        """Hand leadership to a voting member. ``endpoint`` must be the leader's. Returns when it is done."""
        data = rpc_pb2.MoveLeaderRequest(targetID=target_id).SerializeToString()
        body = await self._caller.call(
            _MOVE_LEADER,
            data,
            effect=Effect.WRITE,
            timeout=self._seconds(timeout),
            endpoint=self._parse(endpoint),
        )
        return types.header(rpc_pb2.MoveLeaderResponse.FromString(body).header)

    async def _range(self, op: ops.Get, timeout: float | None) -> types.RangeResult:
        data = op.message().SerializeToString()
        body = await self._read(_RANGE, data, timeout, require_leader=not op.serializable)
        return types.range_result(rpc_pb2.RangeResponse.FromString(body))

    async def _read(self, path: str, data: bytes, timeout: float | None, *, require_leader: bool) -> bytes:
        return await self._caller.call(
            path, data, effect=Effect.READ, timeout=self._seconds(timeout), require_leader=require_leader
        )

    async def _write(self, path: str, data: bytes, timeout: float | None) -> bytes:
        return await self._caller.call(
            path, data, effect=Effect.WRITE, timeout=self._seconds(timeout), require_leader=True
        )

    async def _ask(self, endpoint: str, path: str, data: bytes, timeout: float | None) -> bytes:
        return await self._caller.call(
            path,
            data,
            effect=Effect.READ,
            timeout=self._seconds(timeout),
            endpoint=self._parse(endpoint),
        )

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout


def _members_left(body: bytes) -> types.MemberList:
    """The replies to removals, updates and promotions are the same message: a header and the members."""
    return types.member_list(rpc_pb2.MemberListResponse.FromString(body))
