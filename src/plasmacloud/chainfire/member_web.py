"""What a member answers to plain HTTP on its client port: health, version, metrics, and etcd's JSON gateway.

Paths and forms are etcd's 3.5; ``/livez`` and ``/readyz`` those of its later patch releases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from plasmacloud import __version__
from plasmacloud.base.metrics import CONTENT_TYPE, Metrics
from plasmacloud.chainfire.member_metrics import MemberMetrics
from plasmacloud.chainfire.replica import Replica
from plasmacloud.chainfire.services import API_VERSION
from plasmacloud.rpc.gateway import Gateway
from plasmacloud.rpc.local_call import call_locally
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.server import Counters, Server
from plasmacloud.rpc.service import ServiceTable
from plasmacloud.rpc.status import RpcError, StatusCode
from plasmacloud.rpc.web import HttpRequest, HttpResponse, WebTable, json_response, text_response
from plasmacloud.storage.record_store import RecordStore
from plasmacloud.storage.wal import Wal

_READ_TIMEOUT_S = 5.0
_RANGE: Final = "/etcdserverpb.KV/Range"

KV_PATHS: Final[Mapping[str, str]] = {
    "/v3/kv/range": _RANGE,
    "/v3/kv/put": "/etcdserverpb.KV/Put",
    "/v3/kv/deleterange": "/etcdserverpb.KV/DeleteRange",
    "/v3/kv/txn": "/etcdserverpb.KV/Txn",
    "/v3/kv/compaction": "/etcdserverpb.KV/Compact",
    "/v3/cluster/member/add": "/etcdserverpb.Cluster/MemberAdd",
    "/v3/cluster/member/remove": "/etcdserverpb.Cluster/MemberRemove",
    "/v3/cluster/member/update": "/etcdserverpb.Cluster/MemberUpdate",
    "/v3/cluster/member/list": "/etcdserverpb.Cluster/MemberList",
    "/v3/cluster/member/promote": "/etcdserverpb.Cluster/MemberPromote",
    "/v3/maintenance/status": "/etcdserverpb.Maintenance/Status",
    "/v3/maintenance/alarm": "/etcdserverpb.Maintenance/Alarm",
    "/v3/maintenance/defragment": "/etcdserverpb.Maintenance/Defragment",
    "/v3/maintenance/hash": "/etcdserverpb.Maintenance/HashKV",
    "/v3/maintenance/transfer-leadership": "/etcdserverpb.Maintenance/MoveLeader",
}
"""The unary methods of etcd's gateway that are served; its streams (watch, keepalive, snapshot) are not yet."""

Check = Callable[[], Awaitable[None]]


def member_web(
    table: ServiceTable, replica: Replica, store: RecordStore, wal: Wal, server: Callable[[], Server | None]
) -> WebTable:
    """The pages of a member; ``server`` finds the server that will serve them."""

    def totals() -> tuple[Counters, int]:
        serving = server()
        return (serving.totals(), len(serving.connections)) if serving is not None else (Counters(), 0)

    def size_bytes() -> tuple[int, int]:
        return store.size_bytes(), store.in_use_bytes()

    metrics = MemberMetrics(replica, wal.metrics, size_bytes=size_bytes, totals=totals)
    return MemberWeb(table, replica, metrics).pages()


class MemberWeb:
    """The pages of one member."""

    def __init__(self, table: ServiceTable, replica: Replica, metrics: MemberMetrics) -> None:
        """``table``: the member's gRPC services, which the gateway and the health checks call."""
        self._table = table
        self._replica = replica
        self._metrics = Metrics(metrics.collect)

    def pages(self) -> WebTable:
        """Everything that is served."""
        web = WebTable()
        web.get("/health", self._health)
        web.get("/livez", self._checks({"serializable_read": lambda: self._read(serializable=True)}))
        web.get(
            "/readyz",
            self._checks(
                {
                    "serializable_read": lambda: self._read(serializable=True),
                    "linearizable_read": lambda: self._read(serializable=False),
                }
            ),
        )
        web.get("/version", self._version)
        web.get("/metrics", self._render)
        Gateway(self._table, web).bind(KV_PATHS, rpc_pb2.DESCRIPTOR)
        return web

    async def _health(self, request: HttpRequest) -> HttpResponse:
        serializable = request.parameters().get("serializable") == ["true"]
        reason = ""
        if not self._replica.leader_id and not serializable:
            reason = "RAFT NO LEADER"
        else:
            try:
                await self._read(serializable=serializable)
            except RpcError as error:
                reason = f"{'' if serializable else 'Q'}GET ERROR:{error.message}"
        answer = {"health": "false" if reason else "true", "reason": reason}
        return json_response(answer, 503 if reason else 200)

    def _checks(self, checks: Mapping[str, Check]) -> Callable[[HttpRequest], Awaitable[HttpResponse]]:
        async def answer(request: HttpRequest) -> HttpResponse:
            lines = []
            failed = False
            for name, check in checks.items():
                try:
                    await check()
                    lines.append(f"[+]{name} ok")
                except RpcError as error:
                    failed = True
                    lines.append(f"[-]{name} failed: {error.message}")
            if failed or "verbose" in request.parameters():
                return text_response(503 if failed else 200, "\n".join([*lines, "failed" if failed else "ok"]))
            return text_response(200, "ok")

        return answer

    async def _read(self, *, serializable: bool) -> None:
        """Read a key that need not exist. Raises `RpcError`."""
        body = rpc_pb2.RangeRequest(key=b"\0", keys_only=True, serializable=serializable).SerializeToString()
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                await call_locally(self._table, _RANGE, body, metadata=[("hasleader", "true")], shed=False)
        except TimeoutError:
            raise RpcError(StatusCode.DEADLINE_EXCEEDED, "the read took too long") from None

    async def _version(self, _: HttpRequest) -> HttpResponse:
        server = f"{API_VERSION}+chainfire.{__version__}"
        return json_response({"etcdserver": server, "etcdcluster": API_VERSION})

    async def _render(self, _: HttpRequest) -> HttpResponse:
        return HttpResponse(200, self._metrics.render(), CONTENT_TYPE)
