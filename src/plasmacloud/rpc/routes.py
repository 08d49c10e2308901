"""One path of a server: who serves it, and when it is refused because of load."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from plasmacloud.rpc.service import StreamCall, UnaryCall

UnaryHandler = Callable[["UnaryCall", bytes], None]
UnaryAsyncHandler = Callable[["UnaryCall", bytes], Awaitable[bytes]]
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
