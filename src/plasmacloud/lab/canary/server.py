"""One canary node: leadership by silence, replication behind the acknowledgement. WRONG ON PURPOSE."""

import asyncio
from collections.abc import Mapping

import msgspec

from plasmacloud.base.address import Address
from plasmacloud.lab.canary.store import Item, Store
from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.proto import kv_pb2, rpc_pb2
from plasmacloud.rpc.routes import Call
from plasmacloud.rpc.service import ServiceTable
from plasmacloud.rpc.status import Execution, RpcError, StatusCode

REPLICATE_EVERY_S = 0.05
WRITE_FILE_EVERY_S = 0.2
SILENCE_S = 0.15
CHUNK_ITEMS = 2000

_PUT = "/etcdserverpb.KV/Put"
_RANGE = "/etcdserverpb.KV/Range"
_TXN = "/etcdserverpb.KV/Txn"
_STATUS = "/etcdserverpb.Maintenance/Status"
_SYNC = "/plasmacloud.canary/Sync"


class Sync(msgspec.Struct, array_like=True):
    """Leader to follower: I lead this term; here is what is new (or, with ``reset``, everything)."""

    term: int
    leader: str
    reset: bool
    items: list[Item]


class CanaryNode:
    """State and behaviour of one node. Terms are unique to a node, so there is at most one leader in each.

    ``stale_reads``: a follower answers linearizable reads from what it happens to have.
    """

    def __init__(self, name: str, addresses: Mapping[str, Address], store: Store, *, stale_reads: bool = False) -> None:
        self.name = name
        self.names = sorted(addresses)
        self.store = store
        self.stale_reads = stale_reads
        self.term = 0
        self.leader: str | None = None
        self._rank = self.names.index(name)
        self._channels = {
            other: Channel(address.host, address.port) for other, address in addresses.items() if other != name
        }
        self._sent: dict[str, int] = {}  # by follower: how much of the log it has; absent: needs everything
        self._heard_at = 0.0

    def services(self) -> ServiceTable:
        """What the node serves."""
        table = ServiceTable()
        table.unary_async(_PUT, self._put)
        table.unary_async(_RANGE, self._range)
        table.unary_async(_TXN, self._txn)
        table.unary_async(_STATUS, self._status)
        table.unary_async(_SYNC, self._take_sync)
        return table

    async def run(self) -> None:
        """Lead or follow, for ever."""
        loop = asyncio.get_running_loop()
        self._heard_at = loop.time()
        write_at = loop.time()
        while True:
            await asyncio.sleep(REPLICATE_EVERY_S)
            patience = SILENCE_S * (1 + self._rank)
            if self.leader == self.name:
                await asyncio.gather(*(self._replicate(other) for other in self._channels))
            elif loop.time() - self._heard_at > patience:
                self._take_over()
            if loop.time() >= write_at:
                self.store.write_file()
                write_at = loop.time() + WRITE_FILE_EVERY_S

    def _take_over(self) -> None:
        self.term = (self.term // len(self.names) + 1) * len(self.names) + self._rank
        self.leader = self.name
        self._sent.clear()

    async def _replicate(self, other: str) -> None:
        log_end = len(self.store.log)
        if other in self._sent:
            batches = [self.store.log[self._sent[other] : log_end]]
        else:
            everything = list(self.store.items.values())
            batches = [everything[at : at + CHUNK_ITEMS] for at in range(0, len(everything), CHUNK_ITEMS)] or [[]]
        for number, items in enumerate(batches):
            reset = other not in self._sent and number == 0
            body = msgspec.msgpack.encode(Sync(self.term, self.name, reset, items))
            try:
                answer = await self._channels[other].unary(_SYNC, body, timeout=0.5)
            except RpcError:
                self._sent.pop(other, None)
                return
            if int(answer) > self.term:
                self.leader = None
                self._heard_at = asyncio.get_running_loop().time()
                return
        self._sent[other] = log_end

    async def _take_sync(self, call: Call, body: bytes) -> bytes:
        sync = msgspec.msgpack.decode(body, type=Sync)
        if sync.term >= self.term:
            self.term, self.leader = sync.term, sync.leader
            self._heard_at = asyncio.get_running_loop().time()
            if sync.reset:
                self.store.reset()
            for item in sync.items:
                self.store.apply(item)
        return str(self.term).encode()

    async def _put(self, call: Call, body: bytes) -> bytes:
        if self.leader != self.name:
            return await self._forward(_PUT, body)
        return self._written(rpc_pb2.PutRequest.FromString(body)).SerializeToString()

    async def _range(self, call: Call, body: bytes) -> bytes:
        request = rpc_pb2.RangeRequest.FromString(body)
        if self.leader != self.name and not request.serializable and not self.stale_reads:
            return await self._forward(_RANGE, body)
        return self._found(request).SerializeToString()

    async def _txn(self, call: Call, body: bytes) -> bytes:
        if self.leader != self.name:
            return await self._forward(_TXN, body)
        request = rpc_pb2.TxnRequest.FromString(body)
        holds = all(self._holds(condition) for condition in request.compare)
        responses = [self._one(each) for each in (request.success if holds else request.failure)]
        return rpc_pb2.TxnResponse(header=self._header(), succeeded=holds, responses=responses).SerializeToString()

    async def _forward(self, path: str, body: bytes) -> bytes:
        if self.leader is None:
            raise RpcError(StatusCode.UNAVAILABLE, "etcdserver: no leader")
        try:
            return await self._channels[self.leader].unary(path, body, timeout=1.0)
        except RpcError as error:
            if error.executed is Execution.NOT_EXECUTED:
                raise RpcError(StatusCode.UNAVAILABLE, "etcdserver: not leader") from error
            raise RpcError(StatusCode.UNAVAILABLE, "etcdserver: request timed out") from error

    def _one(self, request: rpc_pb2.RequestOp) -> rpc_pb2.ResponseOp:
        if request.WhichOneof("request") == "request_put":
            return rpc_pb2.ResponseOp(response_put=self._written(request.request_put))
        return rpc_pb2.ResponseOp(response_range=self._found(request.request_range))

    def _holds(self, condition: rpc_pb2.Compare) -> bool:
        """Equality, which is all that the lab asks for."""
        item = self.store.items.get(condition.key.decode())
        match condition.target:
            case rpc_pb2.Compare.VALUE:
                return item is not None and item.value == condition.value.decode()
            case rpc_pb2.Compare.MOD:
                return (item.mod_revision if item else 0) == condition.mod_revision
            case _:
                return (item.version if item else 0) == condition.version

    def _written(self, request: rpc_pb2.PutRequest) -> rpc_pb2.PutResponse:
        self.store.put(request.key.decode(), request.value.decode())
        # Acknowledged here: in no file, on no other node.
        return rpc_pb2.PutResponse(header=self._header())

    def _found(self, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        items, count = self.store.range(request.key.decode(), request.range_end.decode(), request.limit)
        kvs = [
            kv_pb2.KeyValue(
                key=item.key.encode(),
                value=item.value.encode(),
                create_revision=item.create_revision,
                mod_revision=item.mod_revision,
                version=item.version,
            )
            for item in items
        ]
        return rpc_pb2.RangeResponse(header=self._header(), kvs=kvs, more=len(items) < count, count=count)

    async def _status(self, call: Call, body: bytes) -> bytes:
        leader = 0 if self.leader is None else self._member(self.leader)
        answer = rpc_pb2.StatusResponse(header=self._header(), version="canary", leader=leader, raftTerm=self.term)
        return answer.SerializeToString()

    def _header(self) -> rpc_pb2.ResponseHeader:
        return rpc_pb2.ResponseHeader(
            cluster_id=1, member_id=self._member(self.name), revision=self.store.revision, raft_term=self.term
        )

    def _member(self, name: str) -> int:
        return 0xCA0 + self.names.index(name)
