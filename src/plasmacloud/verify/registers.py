"""Contended registers: a few keys that everybody reads, writes and compares-and-sets at the same time.

The unique keys of the history show loss and order; they cannot show that a compare was decided on old data, or that a
read went back in time between two values. These keys can. An attempt that certainly was not executed says nothing; one
whose outcome is unknown stays open for ever.
"""

from collections.abc import Hashable, Iterable
from enum import Enum

import msgspec

from plasmacloud.verify.history import Outcome
from plasmacloud.verify.linearizability import Result, check
from plasmacloud.verify.models import ABSENT, Cas, Found, Read, VersionedRegister, Write, WriteAt
from plasmacloud.verify.operations import UNKNOWN, Operation


class Kind(Enum):
    """What was attempted."""

    READ = "read"
    WRITE = "write"
    CAS = "cas"
    WRITE_AT = "write-at"


class RegisterOp(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attempt on a contended key. Times are CLOCK_MONOTONIC nanoseconds of the lab process.

    ``value`` is what it writes. It is conditional on the key holding ``expected`` (`Kind.CAS`) or having been written
    last at ``expected_revision`` (`Kind.WRITE_AT`; 0: absent). When the outcome is ok: ``executed`` says whether the
    condition held, ``revision`` is that of the write, and otherwise ``seen`` at ``seen_revision`` is what was there
    (None: nothing).
    """

    trial: int
    client: int
    seq: int
    node: str
    key: str
    kind: Kind
    invoke_ns: int
    return_ns: int
    outcome: Outcome
    value: str | None = None
    expected: str | None = None
    expected_revision: int = 0
    executed: bool = False
    revision: int = 0
    seen: str | None = None
    seen_revision: int = 0
    error: str = ""
    answered: bool = True


def operations(attempts: Iterable[RegisterOp]) -> list[Operation]:
    """The history for the checker, under the model `VersionedRegister`."""
    return [
        Operation(
            client=op.client,
            key=op.key,
            invoke_ns=op.invoke_ns,
            return_ns=op.return_ns if op.outcome is Outcome.OK else None,
            input=_input(op),
            output=_output(op) if op.outcome is Outcome.OK else UNKNOWN,
        )
        for op in attempts
        if op.outcome is not Outcome.FAIL
    ]


def check_registers(attempts: Iterable[RegisterOp], *, max_steps: int) -> Result:
    """Whether the attempts on each key, with the revisions that were shown, are linearizable. Deterministic."""
    return check(operations(attempts), VersionedRegister(), max_steps=max_steps)


def _input(op: RegisterOp) -> Hashable:
    match op.kind:
        case Kind.READ:
            return Read()
        case Kind.WRITE:
            return Write(op.value)
        case Kind.CAS:
            return Cas(op.expected, op.value)
        case Kind.WRITE_AT:
            return WriteAt(op.expected_revision, op.value)


def _output(op: RegisterOp) -> Hashable:
    seen = ABSENT if op.seen is None else (op.seen, op.seen_revision)
    if op.kind is Kind.READ:
        return seen
    return op.revision if op.executed else Found(seen)
