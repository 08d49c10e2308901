"""The replicated state machine: log entries in, results for this member's clients out.

Every member applies the same entries in the same order and must end with the same state. So `apply` uses nothing but
the entry and the state, decides nothing by failure of this machine, and reports a bad request as a result.

Sessions make commands exactly-once. A member that loses contact sends its batches again, and both copies may be
committed; each member numbers its commands per incarnation, and the state remembers the last number executed. A batch
with a gap before it is not executed: an earlier batch of the same member was lost, and order within a session holds.
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec
from google.protobuf.message import DecodeError

from plasmacloud.base.errors import StorageError
from plasmacloud.chainfire.commands import CommandKind, decode
from plasmacloud.chainfire.members import Publication
from plasmacloud.chainfire.mvcc.records import RecordStore
from plasmacloud.chainfire.mvcc.refusals import RpcRefusal, not_a_message
from plasmacloud.chainfire.mvcc.store import MvccStore, no_leases
from plasmacloud.rpc.proto.rpc_pb2 import CompactionRequest, DeleteRangeRequest, PutRequest, TxnRequest
from plasmacloud.storage.entry import Entry, EntryKind

META_NAME = "chainfire"
FORMAT = 1


class Applied(NamedTuple):
    """The result of a command: the serialized reply, or the refusal when there is one."""

    body: bytes
    error: RpcRefusal | None = None


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
    extra: dict[str, bytes]


class Checkpoint:
    """What has changed since the last checkpoint, to be committed in one transaction on any thread.

    Nothing in it changes any more; the lists are built where they are asked for, so that a big one does not stop the
    event loop.
    """

    def __init__(self, puts: dict[bytes, bytes], deletes: list[bytes], meta: StateMeta) -> None:
        self._puts = puts
        self.deletes = deletes
        self.state = meta

    @property
    def puts(self) -> list[tuple[bytes, bytes]]:
        """New records in the order of their keys."""
        return list(self._puts.items())

    @property
    def meta(self) -> dict[str, bytes]:
        """Meta data by name."""
        return {META_NAME: msgspec.msgpack.encode(self.state)}


class StateMachine:
    """The store, the sessions, and how far the log has been applied.

    ``extra`` is replicated state of other components (members, configuration …) that has to be saved with the
    checkpoint; its owner changes it when the entry that says so is applied.
    """

    def __init__(self, store: MvccStore) -> None:
        self.store = store
        self.sessions: dict[int, Session] = {}
        self.applied_index = 0
        self.applied_term = 0
        self.extra: dict[str, bytes] = {}

    @classmethod
    def restore(
        cls,
        records: RecordStore,
        *,
        cluster_id: int,
        member_id: int,
        lease_exists: Callable[[int], bool] = no_leases,
    ) -> "StateMachine":
        """The state of the last checkpoint in ``records``, or the first state. Raises `StorageError`."""
        machine = cls(MvccStore(records, cluster_id=cluster_id, member_id=member_id, lease_exists=lease_exists))
        encoded = records.meta(META_NAME)
        if encoded is None:
            return machine
        try:
            meta = msgspec.msgpack.decode(encoded, type=StateMeta)
        except msgspec.MsgspecError as error:
            raise CorruptState(f"the checkpoint's meta data cannot be read: {error}") from error
        if meta.format != FORMAT:
            raise CorruptState(
                f"the data directory has format {meta.format}, this version reads format {FORMAT}",
                hint="start the version that wrote it",
            )
        machine.store.load(meta.revision, meta.compact_revision, meta.compaction_pending, meta.change_crc)
        machine.sessions = dict(meta.sessions)
        machine.applied_index = meta.applied_index
        machine.applied_term = meta.applied_term
        machine.extra = dict(meta.extra)
        machine.store.header.set_term(meta.applied_term)
        return machine

    # -- the log ---------------------------------------------------------------------------------------------------

    def apply(
        self, index: int, term: int, data: bytes, *, local_origin: tuple[int, int] | None = None
    ) -> list[tuple[int, Applied]]:
        """Apply the command entry at ``index``.

        Returns (seq, result) for the commands of ``local_origin`` (member id, incarnation) that were executed now.
        An entry that is already part of the state is skipped. Raises `CommandError`, before anything changed, for
        data that no correct member of this version can have proposed: the member must stop.
        """
        if index <= self.applied_index:
            return []
        batches = decode(data)
        self._advance(index, term)
        results: list[tuple[int, Applied]] = []
        for origin, incarnation, first_seq, commands in batches:
            done = self._begin(origin, incarnation, first_seq)
            if done is None or done >= len(commands):
                continue
            self.sessions[origin] = Session(incarnation, first_seq + len(commands) - 1)
            todo = commands[done:] if done else commands
            if local_origin == (origin, incarnation):
                seq = first_seq + done
                for kind, body in todo:
                    results.append((seq, self._execute(kind, body)))
                    seq += 1
            else:
                for kind, body in todo:
                    self._execute(kind, body, want_reply=False)
        return results

    def apply_entry(self, entry: Entry, *, local_origin: tuple[int, int] | None = None) -> list[tuple[int, Applied]]:
        """Apply an entry of any kind: `apply` or `skip`."""
        if entry.kind is EntryKind.COMMANDS:
            return self.apply(entry.index, entry.term, entry.data, local_origin=local_origin)
        self.skip(entry.index, entry.term)
        return []

    def skip(self, index: int, term: int) -> None:
        """Take note of an entry without commands: a leader's first entry, a membership change."""
        if index > self.applied_index:
            self._advance(index, term)

    def _advance(self, index: int, term: int) -> None:
        assert index == self.applied_index + 1, f"entry {index} follows {self.applied_index}: one is missing"
        assert term >= self.applied_term, f"entry {index} has term {term} after term {self.applied_term}"
        self.applied_index = index
        if term != self.applied_term:
            self.applied_term = term
            self.store.header.set_term(term)

    def _begin(self, origin: int, incarnation: int, first_seq: int) -> int | None:
        """How many commands of the batch are already executed; None if the batch must not be executed at all."""
        session = self.sessions.get(origin)
        if session is None or incarnation > session.incarnation:
            self.sessions[origin] = session = Session(incarnation, 0)
        elif incarnation < session.incarnation:
            return None
        expected = session.last_seq + 1
        return None if first_seq > expected else expected - first_seq

    def forget_session(self, origin: int) -> None:
        """The member was removed from the cluster. To be called when that entry is applied."""
        self.sessions.pop(origin, None)

    def _execute(self, kind: int, body: bytes, *, want_reply: bool = True) -> Applied:
        store = self.store
        try:
            if kind == CommandKind.PUT:
                return Applied(store.put(PutRequest.FromString(body)))
            if kind == CommandKind.TXN:
                return Applied(store.txn(TxnRequest.FromString(body), want_reply=want_reply))
            if kind == CommandKind.DELETE_RANGE:
                return Applied(store.delete_range(DeleteRangeRequest.FromString(body)))
            if kind == CommandKind.PUBLISH:
                return self._publish(body)
            assert kind == CommandKind.COMPACT
            return Applied(store.compact(CompactionRequest.FromString(body)))
        except RpcRefusal as refusal:
            return Applied(b"", refusal)
        except DecodeError:
            return Applied(b"", not_a_message(CommandKind(kind).name.lower().replace("_", " ") + " request"))

    def _publish(self, body: bytes) -> Applied:
        try:
            publication = Publication.decode(body)
        except msgspec.MsgspecError:
            return Applied(b"", not_a_message("publication"))
        self.extra[publication.extra_name] = body
        return Applied(b"")

    # -- checkpoints -----------------------------------------------------------------------------------------------

    @property
    def unsaved_bytes(self) -> int:
        """Record bytes that the next checkpoint will write: a reason to take one."""
        return self.store.records.active_bytes

    def take_checkpoint(self) -> Checkpoint:
        """What to commit so that the state as of `applied_index` survives a restart.

        Until `checkpoint_done`, no other may be taken. Applying goes on meanwhile.
        """
        store = self.store
        puts, deletes = store.records.freeze()
        meta = StateMeta(
            format=FORMAT,
            applied_index=self.applied_index,
            applied_term=self.applied_term,
            revision=store.revision,
            compact_revision=store.compact_revision,
            compaction_pending=store.compaction is not None,
            change_crc=store.change_crc,
            sessions=dict(self.sessions),
            extra=dict(self.extra),
        )
        return Checkpoint(puts, deletes, meta)

    def checkpoint_done(self) -> None:
        """The checkpoint taken last is durable in the record store, and readable there."""
        self.store.records.commit_done()

    def state_hash(self) -> bytes:
        """A hash of the whole replicated state: equal on all members at the same applied index. Walks everything."""
        rest = msgspec.msgpack.encode((self.applied_index, sorted(self.sessions.items()), sorted(self.extra.items())))
        return self.store.state_hash() + rest
