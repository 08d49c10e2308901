"""What the state machine says of itself: in its checkpoints beside the records, and of each command it has executed."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from plasmacloud.base.errors import StorageError
from plasmacloud.chainfire.cluster_state import ClusterState
from plasmacloud.chainfire.mvcc.refusals import Refusal
from plasmacloud.storage.wal_format import LogMark

META_NAME = "chainfire"
FORMAT = 2


class Applied(msgspec.Struct, frozen=True, gc=False):
    """The result of a command: the serialized reply, or the refusal when there is one."""

    body: bytes
    error: Refusal | None = None


class Session(NamedTuple):
    """How far the commands of one member have been executed."""

    incarnation: int
    last_seq: int


class CorruptState(StorageError):
    """The checkpoint in the data directory cannot be used."""


class StateMeta(msgspec.Struct, frozen=True):
    """Everything of a checkpoint that is not a record."""

    format: int
    applied_index: int
    applied_term: int
    revision: int
    compact_revision: int
    compaction_pending: bool
    change_crc: int
    sessions: dict[int, Session]
    cluster: bytes


def decode_state_meta(meta: Mapping[str, bytes]) -> StateMeta:
    """The state machine's part of a checkpoint's named values. Raises `CorruptState`."""
    try:
        return msgspec.msgpack.decode(meta.get(META_NAME, b""), type=StateMeta)
    except msgspec.MsgspecError as error:
        raise CorruptState(f"the checkpoint's meta data cannot be read: {error}") from error


def mark_of_state(meta: Mapping[str, bytes]) -> LogMark:
    """Where a log that continues behind a checkpoint begins, from its named values. Raises `CorruptState`."""
    state = decode_state_meta(meta)
    return LogMark(state.applied_index, state.applied_term, ClusterState.decode(state.cluster).conf.encode())
