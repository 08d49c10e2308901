"""The standard gRPC health service (grpc.health.v1): Check answers now, Watch tells every change.

Specification: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio

from google.protobuf.message import DecodeError

from plasmacloud.rpc.proto import health_pb2
from plasmacloud.rpc.routes import Call
from plasmacloud.rpc.service import ServiceTable, StreamCall
from plasmacloud.rpc.status import RpcError, StatusCode

ServingStatus = health_pb2.HealthCheckResponse.ServingStatus
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService:
    """Health of a server (service name "") and of its services; set by whoever knows."""

    def __init__(self) -> None:
        self._statuses: dict[str, ServingStatus] = {"": NOT_SERVING}
        self._watchers: dict[str, set[asyncio.Event]] = {}

    def register(self, table: ServiceTable) -> None:
        """Serve Check and Watch from ``table``."""
        table.unary("/grpc.health.v1.Health/Check", self._check)
        table.stream("/grpc.health.v1.Health/Watch", self._watch)

    def set(self, service: str, status: ServingStatus) -> None:
        """Change a status; watchers hear of it when it differs from what they last heard."""
        self._statuses[service] = status
        for event in self._watchers.get(service, ()):
            event.set()

    def get(self, service: str) -> ServingStatus | None:
        """The status of a service; None if it was never set."""
        return self._statuses.get(service)

    def _check(self, call: Call, body: bytes) -> None:
        service = _service_name(body)
        status = self._statuses.get(service)
        if status is None:
            call.fail(StatusCode.NOT_FOUND, f"unknown service {service!r}")
        else:
            call.reply(health_pb2.HealthCheckResponse(status=status).SerializeToString())

    async def _watch(self, call: StreamCall) -> None:
        async for body in call:
            await self._tell(call, _service_name(body))
        if not call.done:
            raise RpcError(StatusCode.INVALID_ARGUMENT, "Watch needs one HealthCheckRequest")

    async def _tell(self, call: StreamCall, service: str) -> None:
        """Every change, for as long as the call lasts."""
        event = asyncio.Event()
        watchers = self._watchers.setdefault(service, set())
        watchers.add(event)
        told: ServingStatus | None = None
        try:
            while True:
                status = self._statuses.get(service, SERVICE_UNKNOWN)
                if status != told:
                    await call.send(health_pb2.HealthCheckResponse(status=status).SerializeToString())
                    told = status
                await event.wait()
                event.clear()
        finally:
            watchers.discard(event)
            if not watchers:
                self._watchers.pop(service, None)


def _service_name(body: bytes) -> str:
    try:
        return health_pb2.HealthCheckRequest.FromString(body).service
    except DecodeError as error:
        raise RpcError(StatusCode.INVALID_ARGUMENT, f"malformed HealthCheckRequest: {error}") from error
