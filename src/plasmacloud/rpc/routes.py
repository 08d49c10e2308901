"""One path of a server: who serves it, and when it is refused because of load."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from plasmacloud.rpc.status import Metadata, StatusCode

if TYPE_CHECKING:
    from plasmacloud.rpc.service import StreamCall


class Call(Protocol):
    """What a unary handler may use: of a `UnaryCall`, and of a `LocalCall`, which came in another way.

    Handlers must not name either: compiled, they would take no other.
    """

    on_cancel: Callable[[], None] | None

    @property
    def done(self) -> bool: ...

    @property
    def congested(self) -> bool: ...

    @property
    def occupied(self) -> bool: ...

    @property
    def metadata(self) -> list[tuple[str, bytes | str]]: ...

    @property
    def peer(self) -> str: ...

    def run(self, work: Coroutine[Any, Any, None]) -> None: ...

    def reply(self, body: bytes, trailers: Metadata = ()) -> None: ...

    def reply_in_pieces(self, pieces: list[bytes]) -> None: ...

    def fail(self, code: StatusCode, message: str, metadata: Metadata = ()) -> None: ...

    def fail_with(self, error: Exception) -> None: ...


UnaryHandler = Callable[[Call, bytes], None]
UnaryAsyncHandler = Callable[[Call, bytes], Awaitable[bytes]]
StreamHandler = Callable[["StreamCall"], Awaitable[None]]


class CallKind(Enum):
    """How a path is served."""

    UNARY = "unary"
    STREAM = "stream"


class Shedding(msgspec.Struct, frozen=True, eq=False):
    """When to refuse calls because of load: with RESOURCE_EXHAUSTED, before their body is looked at."""

    due: Callable[[], bool]
    """Asked for every call; True refuses it."""
    message: str


class Route(msgspec.Struct, frozen=True, eq=False):
    """One served path."""

    path: str
    kind: CallKind
    unary: UnaryHandler | None = None
    stream: StreamHandler | None = None
    shedding: Shedding | None = None
    """None: never refused because of load."""
