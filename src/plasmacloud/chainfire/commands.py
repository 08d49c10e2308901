"""The data of a log entry: batches of commands, as members forward and propose them.

An entry holds one or more batches, one after the other. Each says who sent it and numbers its commands, so that a
batch which reaches the log twice is executed once (see `state_machine`). Layout, little endian::

    u64 origin       id of the member that took the requests from its clients
    u64 incarnation  grows with every start of that member
    u64 first_seq    number of the first command; the origin counts from 1 in each incarnation
    u32 count
    count times:     u8 kind, u32 length, body

The body of a client's command is its protobuf request, unchanged; that of a membership command one of the structures
in `member_commands`. Membership commands are executed in entries of their own kind only (`EntryKind.MEMBERSHIP`), of
which consensus keeps at most one unapplied.

Batches that come from another member must pass `check_batch` before they are proposed: what is in the log has to be
applied by everybody, so nobody may refuse it any more.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from plasmacloud.base.errors import PlasmaError
from plasmacloud.chainfire.member_commands import CommandKind

_BATCH = struct.Struct("<QQQI")
_COMMAND = struct.Struct("<BI")
_MAX_U64 = (1 << 64) - 1


_KINDS = frozenset(CommandKind)


class CommandError(PlasmaError):
    """The bytes are no sequence of command batches, or have commands that this version does not know."""


class Batch(NamedTuple):
    """Commands of one member, numbered ``first_seq`` and up."""

    origin: int
    incarnation: int
    first_seq: int
    commands: list[tuple[int, bytes]]  # (kind, body)


def join_batches(batches: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """The data of entries: batches in order, up to ``max_bytes`` in each but at least one."""
    data: list[bytes] = []
    size = 0
    for batch in batches:
        if data and size + len(batch) > max_bytes:
            yield b"".join(data)
            data, size = [], 0
        data.append(batch)
        size += len(batch)
    if data:
        yield b"".join(data)


def encode_batch(origin: int, incarnation: int, first_seq: int, commands: Sequence[tuple[int, bytes]]) -> bytes:
    """Encode one batch; the data of an entry is the concatenation of its batches."""
    assert first_seq > 0
    pieces = [_BATCH.pack(origin, incarnation, first_seq, len(commands))]
    add = pieces.append
    head = _COMMAND.pack
    for kind, body in commands:
        add(head(kind, len(body)))
        add(body)
    return b"".join(pieces)


def decode(data: bytes) -> list[Batch]:
    """Decode the data of an entry completely. Raises `CommandError`."""
    batches: list[Batch] = []
    at, end = 0, len(data)
    head = _COMMAND.unpack_from
    while at < end:
        if end - at < _BATCH.size:
            raise CommandError(f"batch header at byte {at} of {end} is cut short")
        origin, incarnation, first_seq, count = _BATCH.unpack_from(data, at)
        at += _BATCH.size
        if count * _COMMAND.size > end - at:
            raise CommandError(f"batch before byte {at} claims {count} commands, there are {end - at} bytes")
        if not first_seq or first_seq + count > _MAX_U64:
            raise CommandError(f"batch before byte {at} has an impossible sequence number {first_seq}")
        commands: list[tuple[int, bytes]] = []
        add = commands.append
        for _ in range(count):
            if end - at < _COMMAND.size:
                raise CommandError(f"command at byte {at} of {end} is cut short")
            kind, size = head(data, at)
            at += _COMMAND.size
            behind = at + size
            if behind > end or kind not in _KINDS:
                raise CommandError(f"command before byte {at} has kind {kind} and {size} of {end - at} bytes")
            add((kind, data[at:behind]))
            at = behind
        batches.append(Batch(origin, incarnation, first_seq, commands))
    return batches


def batch_span(data: bytes) -> tuple[int, int, int, int]:
    """Of one whole batch: its origin, its incarnation, and the numbers of its first and last command."""
    origin, incarnation, first_seq, count = _BATCH.unpack_from(data)
    return origin, incarnation, first_seq, first_seq + count - 1


def check_batch(data: bytes) -> None:
    """Assert that another member's bytes are exactly one batch. Raises `CommandError`."""
    batches = decode(data)
    if len(batches) != 1:
        raise CommandError(f"{len(batches)} batches where one was expected")
