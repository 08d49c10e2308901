"""A unary call that did not come as gRPC: the same handlers answer it, and its caller awaits the outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from plasmacloud.rpc.service import ServiceTable, status_of
from plasmacloud.rpc.status import Metadata, RpcError, StatusCode


class LocalCall:
    """What a unary handler may use of a `UnaryCall`; there is no stream behind it."""

    congested = False

    def __init__(
        self, path: str, metadata: list[tuple[str, bytes | str]], peer: str, occupied: Callable[[], bool]
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.peer = peer
        self.deadline: float | None = None
        self.on_cancel: Callable[[], None] | None = None
        self.task: asyncio.Task[None] | None = None
        self._occupied = occupied
        self.outcome: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    @property
    def done(self) -> bool:
        """Answered, or no longer wanted."""
        return self.outcome.done()

    @property
    def occupied(self) -> bool:
        """The caller has as many bytes of answers as it can hold: a large one had better wait."""
        return self._occupied()

    def reply(self, body: bytes, trailers: Metadata = ()) -> None:
        """Answer OK. Ignored if the call is already done."""
        if not self.outcome.done():
            self.outcome.set_result(body)

    def reply_in_pieces(self, pieces: list[bytes]) -> None:
        """`reply` with a message that is not put together yet."""
        self.reply(b"".join(pieces))

    def fail(self, code: StatusCode, message: str, metadata: Metadata = ()) -> None:
        """Answer with another status. Ignored if the call is already done."""
        if not self.outcome.done():
            self.outcome.set_exception(RpcError(code, message, metadata=metadata))

    def fail_with(self, error: Exception) -> None:
        """Answer with the status of an exception."""
        status = status_of(error, self.path)
        self.fail(status.code, status.message, status.metadata)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the handler's coroutine; it is cancelled with the call."""
        self.task = asyncio.get_running_loop().create_task(work)


async def call_locally(
    table: ServiceTable,
    path: str,
    body: bytes,
    *,
    metadata: list[tuple[str, bytes | str]],
    peer: str = "",
    shed: bool = True,
    occupied: Callable[[], bool] = lambda: False,
) -> bytes:
    """Call a unary method of a table. Raises `RpcError`; cancelling it cancels the call.

    Without ``shed`` it is not refused because of load: for those who ask how the server is. ``occupied`` is asked
    whether a large answer should wait.
    """
    route = table.routes.get(path.encode())
    if route is None or route.unary is None:
        raise RpcError(StatusCode.UNIMPLEMENTED, f"unknown method {path}")
    if shed and route.shedding is not None and route.shedding.due():
        raise RpcError(StatusCode.RESOURCE_EXHAUSTED, route.shedding.message)
    call = LocalCall(path, metadata, peer, occupied)
    try:
        route.unary(call, body)
    except Exception as error:  # noqa: BLE001 - whatever a handler raises becomes a status
        call.fail_with(error)
    if table.batch_end is not None:
        table.batch_end()
    try:
        return await call.outcome
    except asyncio.CancelledError:
        if call.task is not None:
            call.task.cancel()
        if call.on_cancel is not None:
            call.on_cancel()
        raise
