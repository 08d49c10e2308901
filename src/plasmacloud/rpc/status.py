"""How a call ends: the gRPC status codes, and what the caller knows about execution when it fails.

A status code alone does not tell whether a write happened; ``Execution`` does, and retry decisions rest on it.
Codes: https://grpc.github.io/grpc/core/md_doc_statuscodes.html
"""

from collections.abc import Sequence
from enum import Enum, IntEnum

from plasmacloud.base.errors import ExitCode, PlasmaError

Metadata = Sequence[tuple[str, bytes | str]]


class StatusCode(IntEnum):
    """The gRPC status codes as they travel in the ``grpc-status`` trailer."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Execution(Enum):
    """What the caller knows about a failed call."""

    NOT_EXECUTED = "not executed"
    """The server certainly did not run it: never sent, refused, or beyond the peer's GOAWAY. Safe to retry."""
    UNKNOWN = "unknown"
    """It was sent, and the connection died or the deadline passed before an answer."""
    ANSWERED = "answered"
    """The server's own status arrived; what it means is the service's contract."""


_EXIT_CODES = {
    Execution.NOT_EXECUTED: ExitCode.NOT_EXECUTED,
    Execution.UNKNOWN: ExitCode.OUTCOME_UNKNOWN,
    Execution.ANSWERED: ExitCode.FAILED,
}


class RpcError(PlasmaError):
    """A call that ended with a status other than OK.

    Raised by the client; also raised by server handlers to answer with that status. ``metadata`` holds the
    trailing metadata that came with (or shall go with) the status.
    """

    def __init__(
        self,
        code: StatusCode,
        message: str,
        *,
        executed: Execution = Execution.ANSWERED,
        metadata: Metadata = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.message = message
        self.executed = executed
        self.metadata = metadata
        self.exit_code = _EXIT_CODES[executed]

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message} ({self.executed.value})"
