"""The replicated state machine: log entries in, results for this member's clients out.

Every member applies the same entries in the same order and must end with the same state. So `apply` uses nothing but
the entry and the state, decides nothing by failure of this machine, and reports a bad request as a result.

Sessions make commands exactly-once. A member that loses contact sends its batches again, and both copies may be
committed; each member numbers its commands per incarnation, and the state remembers the last number executed. A batch
with a gap before it is not executed: an earlier batch of the same member was lost, and order within a session holds.
A member that has left executes nothing any more: its session is forgotten, and must not begin again.

Who belongs to the cluster is part of the state (`cluster_state`). Membership commands count only in entries of their
own kind, and only one of an entry may change the configuration: consensus relies on taking one step at a time.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
from google.protobuf.message import DecodeError

from plasmacloud.base.errors import StorageError
from plasmacloud.chainfire.cluster_state import CHANGE_UNDER_WAY, ClusterState
from plasmacloud.chainfire.commands import (
    MEMBERSHIP_KINDS,
    CommandKind,
    Refused,
    change_origin,
    decode,
    decode_member_command,
)
from plasmacloud.chainfire.members import Publication, member_message
from plasmacloud.chainfire.mvcc.records import RecordStore
from plasmacloud.chainfire.mvcc.refusals import RpcRefusal, not_a_message
from plasmacloud.chainfire.mvcc.store import MvccStore, no_leases
from plasmacloud.raft.membership import ConfState
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.proto.rpc_pb2 import CompactionRequest, DeleteRangeRequest, PutRequest, TxnRequest
from plasmacloud.rpc.status import StatusCode
from plasmacloud.storage.entry import Entry, EntryKind
from plasmacloud.storage.wal_format import LogMark

META_NAME = "chainfire"
FORMAT = 2


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


class Checkpoint:
    """What has changed since the last checkpoint, to be committed in one transaction on any thread.

    Nothing in it changes any more; the lists are built where they are asked for, so that a big one does not stop the
    event loop.
    """

    def __init__(self, puts: dict[bytes, bytes], deletes: list[bytes], meta: StateMeta, conf: ConfState) -> None:
        self._puts = puts
        self.deletes = deletes
        self.state = meta
        self.conf = conf  # as of the checkpoint's index

    @property
    def puts(self) -> list[tuple[bytes, bytes]]:
        """New records in the order of their keys."""
        return list(self._puts.items())

    @property
    def meta(self) -> dict[str, bytes]:
        """Meta data by name."""
        return {META_NAME: msgspec.msgpack.encode(self.state)}


class StateMachine:
    """The store, the members, the sessions, and how far the log has been applied."""

    def __init__(self, store: MvccStore, cluster: ClusterState, member_id: int) -> None:
        self.store = store
        self.cluster = cluster
        self.member_id = member_id
        self.sessions: dict[int, Session] = {}
        self.applied_index = 0
        self.applied_term = 0
        self.peer_scheme = "http"  # in answers about members, see `chainfire.security`
        self._steps_left = 0  # changes of the configuration that the entry being applied may still make

    @classmethod
    def restore(
        cls,
        records: RecordStore,
        *,
        cluster_id: int,
        member_id: int,
        founding: ClusterState | None = None,
        lease_exists: Callable[[int], bool] = no_leases,
    ) -> "StateMachine":
        """The state of the last checkpoint in ``records``, or the first state. Raises `StorageError`.

        ``founding``: the membership before the first entry; without it nothing is known until a snapshot says so.
        """
        store = MvccStore(records, cluster_id=cluster_id, member_id=member_id, lease_exists=lease_exists)
        machine = cls(store, founding or ClusterState(cluster_id), member_id)
        encoded = records.meta(META_NAME)
        if encoded is None:
            return machine
        meta = decode_state_meta({META_NAME: encoded})
        if meta.format != FORMAT:
            raise CorruptState(
                f"the data directory has format {meta.format}, this version reads format {FORMAT}",
                hint="start the version that wrote it",
            )
        machine.store.load(meta.revision, meta.compact_revision, meta.compaction_pending, meta.change_crc)
        machine.sessions = dict(meta.sessions)
        machine.applied_index = meta.applied_index
        machine.applied_term = meta.applied_term
        machine.cluster = ClusterState.decode(meta.cluster)
        if machine.cluster.cluster_id != cluster_id:
            raise CorruptState(
                f"the checkpoint is of cluster {machine.cluster.cluster_id:x}, and this is cluster {cluster_id:x}",
                hint="the state directory was replaced by another one's; restore the whole data directory",
            )
        machine.store.header.set_term(meta.applied_term)
        return machine

    # -- the log ---------------------------------------------------------------------------------------------------

    def apply(
        self,
        index: int,
        term: int,
        data: bytes,
        *,
        local_origin: tuple[int, int] | None = None,
        membership: bool = False,
    ) -> list[tuple[int, Applied]]:
        """Apply the entry at ``index``, one of the membership kind or one of commands.

        Returns (seq, result) for the commands of ``local_origin`` (member id, incarnation) that were executed now.
        An entry that is already part of the state is skipped. Raises `CommandError`, before anything changed, for
        data that no correct member of this version can have proposed: the member must stop.
        """
        if index <= self.applied_index:
            return []
        batches = decode(data)
        self._advance(index, term)
        self._steps_left = 1 if membership else 0
        departed = self.cluster.departed
        results: list[tuple[int, Applied]] = []
        for origin, incarnation, first_seq, commands in batches:
            done = None if origin in departed else self._begin(origin, incarnation, first_seq)
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
        if entry.kind is EntryKind.MEMBERSHIP:
            return self.apply(entry.index, entry.term, entry.data, local_origin=local_origin, membership=True)
        self.skip(entry.index, entry.term)
        return []

    def skip(self, index: int, term: int) -> None:
        """Take note of an entry without commands: a leader's first one."""
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

    def _execute(self, kind: int, body: bytes, *, want_reply: bool = True) -> Applied:
        store = self.store
        try:
            if kind == CommandKind.PUT:
                return Applied(store.put(PutRequest.FromString(body)))
            if kind == CommandKind.TXN:
                return Applied(store.txn(TxnRequest.FromString(body), want_reply=want_reply))
            if kind == CommandKind.DELETE_RANGE:
                return Applied(store.delete_range(DeleteRangeRequest.FromString(body)))
            if kind == CommandKind.COMPACT:
                return Applied(store.compact(CompactionRequest.FromString(body)))
            return self._execute_for_members(kind, body, want_reply)
        except RpcRefusal as refusal:
            return Applied(b"", refusal)
        except DecodeError:
            return Applied(b"", not_a_message(CommandKind(kind).name.lower().replace("_", " ") + " request"))

    def _execute_for_members(self, kind: int, body: bytes, want_reply: bool) -> Applied:
        """Everything that is about the members. Raises `RpcRefusal`."""
        if kind == CommandKind.PUBLISH:
            return self._publish(body)
        if kind == CommandKind.REFUSED:
            return self._refused(body)
        assert kind in MEMBERSHIP_KINDS
        if not self._steps_left:
            raise CHANGE_UNDER_WAY
        cluster = self.cluster
        before = cluster.conf
        about = cluster.apply(kind, body, self.applied_index)
        if cluster.conf is not before:
            self._steps_left -= 1
            for member_id in cluster.departed:
                self.sessions.pop(member_id, None)
                self.sessions.pop(change_origin(member_id), None)
        return Applied(self._members_reply(kind, about) if want_reply else b"")

    def _members_reply(self, kind: int, about: int) -> bytes:
        """As etcd's replies to membership requests: a header without revision, the member added, all members."""
        header = rpc_pb2.ResponseHeader(
            cluster_id=self.cluster.cluster_id, member_id=self.member_id, raft_term=self.applied_term
        )
        members = [member_message(member, self.peer_scheme) for member in self.cluster.members]
        if kind == CommandKind.MEMBER_ADD:
            added = next(member for member in members if about == member.ID)
            return rpc_pb2.MemberAddResponse(header=header, member=added, members=members).SerializeToString()
        # The replies to the other requests are all the same message: a header and the members.
        return rpc_pb2.MemberRemoveResponse(header=header, members=members).SerializeToString()

    def _publish(self, body: bytes) -> Applied:
        try:
            publication = Publication.decode(body)
        except msgspec.MsgspecError:
            raise not_a_message("publication") from None
        self.cluster.publish(publication)
        return Applied(b"")

    def _refused(self, body: bytes) -> Applied:
        try:
            refused = decode_member_command(CommandKind.REFUSED, body)
            assert isinstance(refused, Refused)
            return Applied(b"", RpcRefusal(StatusCode(refused.code), refused.message))
        except (msgspec.MsgspecError, ValueError):
            raise not_a_message("refusal") from None

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
            cluster=self.cluster.encode(),
        )
        return Checkpoint(puts, deletes, meta, self.cluster.conf)

    def checkpoint_done(self) -> None:
        """The checkpoint taken last is durable in the record store, and readable there."""
        self.store.records.commit_done()

    def state_hash(self) -> bytes:
        """A hash of the whole replicated state: equal on all members at the same applied index. Walks everything."""
        rest = msgspec.msgpack.encode((self.applied_index, sorted(self.sessions.items()), self.cluster.encode()))
        return self.store.state_hash() + rest
