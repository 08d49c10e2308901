"""What a caller may conclude when a request failed.

There are three answers, and they must never be mixed up:

- `NotExecuted`: the request certainly changed nothing. Repeating it is safe. `Unavailable` is the case where the reason
  is that nobody could take it: no endpoint answers, or the cluster has no leader.
- `OutcomeUnknown`: it may have been executed, may still be, or may never be. Only reading the data back tells.
- `RequestRefused`: the server understood and said no. It changed nothing, and repeating it brings the same answer.

A deadline that passed is one of the first two, and says which: `DeadlineExceeded` is the common base for those who
only care about time.
"""

import msgspec

from plasmacloud.base.errors import ExitCode, PlasmaError
from plasmacloud.rpc.status import StatusCode


class Attempt(msgspec.Struct, frozen=True):
    """One try at one endpoint, and how it failed."""

    endpoint: str
    problem: str


class ClientError(PlasmaError):
    """Base of everything a request can end with. ``attempts``: each try in order, the last one last."""

    def __init__(self, message: str, *, attempts: tuple[Attempt, ...] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.attempts = attempts


class NotExecuted(ClientError):
    """The request certainly changed nothing; it may be repeated."""

    exit_code = ExitCode.NOT_EXECUTED


class Unavailable(NotExecuted):
    """Nobody could take the request: no endpoint answers, or there is no leader. It changed nothing."""

    exit_code = ExitCode.UNAVAILABLE


class OutcomeUnknown(ClientError):
    """The request may or may not have been executed, and may still be executed later."""

    exit_code = ExitCode.OUTCOME_UNKNOWN


class RequestRefused(ClientError):
    """The server's answer is no. ``code`` and ``reason`` are its own."""

    exit_code = ExitCode.NOT_EXECUTED

    def __init__(
        self,
        message: str,
        *,
        code: StatusCode,
        reason: str,
        attempts: tuple[Attempt, ...] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, attempts=attempts, hint=hint)
        self.code = code
        self.reason = reason


class Compacted(RequestRefused):
    """The revision asked for has been compacted away."""


class DeadlineExceeded(ClientError):
    """The deadline passed. Always also a `NotExecuted` or an `OutcomeUnknown`."""


class DeadlineNotExecuted(DeadlineExceeded, Unavailable):
    """The deadline passed before the request could be executed; it changed nothing."""

    exit_code = ExitCode.UNAVAILABLE


class DeadlineOutcomeUnknown(DeadlineExceeded, OutcomeUnknown):
    """The deadline passed while an endpoint had the request; it may or may not have been executed."""

    exit_code = ExitCode.OUTCOME_UNKNOWN
