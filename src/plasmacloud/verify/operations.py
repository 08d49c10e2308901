"""Operations on shared objects as their clients saw them: the input of the linearizability checker.

A history is a bag of operations; their times alone say what came before what. As everywhere, three outcomes are kept
apart: an operation that returned has an output; one that certainly was not executed is left out of the history; one
whose outcome nobody knows has no return time, stays open for ever, and may or may not have happened.
"""

from collections.abc import Hashable, Iterable
from enum import Enum

import msgspec


class Unknown(Enum):
    """The output that nobody saw."""

    UNKNOWN = "unknown"

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown.UNKNOWN


class Operation(msgspec.Struct, frozen=True):
    """One operation of one client on one key. Times are nanoseconds of one monotonic clock.

    ``return_ns`` is None when the outcome is unknown; ``output`` is then UNKNOWN. ``input`` and ``output`` are those
    of a model (see `plasmacloud.verify.models`), both hashable.
    """

    client: int
    key: str
    invoke_ns: int
    return_ns: int | None
    input: Hashable
    output: Hashable = UNKNOWN

    def __post_init__(self) -> None:
        if self.return_ns is None and self.output is not UNKNOWN:
            raise ValueError(f"operation on {self.key}: without a return there is no output")
        if self.return_ns is not None and self.return_ns < self.invoke_ns:
            raise ValueError(f"operation on {self.key}: returned before it was invoked")

    @property
    def known(self) -> bool:
        """Whether the client knows what became of it."""
        return self.return_ns is not None


def prefix_until(operations: Iterable[Operation], time_ns: int) -> list[Operation]:
    """What an observer has seen at ``time_ns``: later invocations are not there, later returns are open."""
    return [
        operation
        if operation.return_ns is None or operation.return_ns <= time_ns
        else msgspec.structs.replace(operation, return_ns=None, output=UNKNOWN)
        for operation in operations
        if operation.invoke_ns <= time_ns
    ]
