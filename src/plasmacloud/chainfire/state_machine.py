"""The replicated state machine: log entries in, results for this member's clients out.

Every member applies the same entries in the same order and must end with the same state. So `apply` uses nothing but
the entry and the state, decides nothing by failure of this machine, and reports a bad request as a result.

Sessions make commands exactly-once. A member that loses contact sends its batches again, and both copies may be
committed; each member numbers its commands per incarnation, and the state remembers the last number executed. A batch
with a gap before it is not executed: an earlier batch of the same member was lost, and order within a session holds.
A member that has left executes nothing any more: its session is forgotten, and must not begin again.

An entry that takes long is applied in slices, with other work in between. Until the last of them ``applied_index`` does
not count it, no checkpoint can be taken, and readers see nothing of a request that is half executed (`MvccStore`).
When the member ends in the middle nothing is lost: what was done is in memory only, and the log has the entry.

Who belongs to the cluster is part of the state (`cluster_state`). Membership commands count only in entries of their
own kind, and only one of an entry may change the configuration: consensus relies on taking one step at a time.
"""

from collections.abc import Callable

import msgspec
from google.protobuf.message import DecodeError

from plasmacloud.chainfire.cluster_state import CHANGE_UNDER_WAY, ClusterState
from plasmacloud.chainfire.commands import Batch, decode
from plasmacloud.chainfire.member_commands import (
    MEMBERSHIP_KINDS,
    CommandKind,
    Refused,
    change_origin,
    decode_member_command,
)
from plasmacloud.chainfire.members import Publication, member_message
from plasmacloud.chainfire.mvcc.encoding import plain_put
from plasmacloud.chainfire.mvcc.records import RecordStore
from plasmacloud.chainfire.mvcc.refusals import Refusal, RpcRefusal, not_a_message
from plasmacloud.chainfire.mvcc.slices import CHUNK_KEYS, SLICE_KEYS, Work
from plasmacloud.chainfire.mvcc.store import MvccStore, no_leases
from plasmacloud.chainfire.state_meta import (
    FORMAT,
    META_NAME,
    Applied,
    CorruptState,
    Session,
    StateMeta,
    decode_state_meta,
)
from plasmacloud.raft.membership import ConfState
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.proto.rpc_pb2 import CompactionRequest, DeleteRangeRequest, PutRequest, TxnRequest
from plasmacloud.rpc.status import StatusCode
from plasmacloud.storage.entry import Entry, EntryKind

_PUT = int(CommandKind.PUT)
_IN_SLICES = frozenset({int(CommandKind.DELETE_RANGE), int(CommandKind.TXN)})


Results = list[tuple[int, Applied]]
"""Of the commands of one member: (seq, result)."""


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
        self._slice_keys = SLICE_KEYS
        self._entry_index = 0  # of the entry being applied
        self._steps_left = 0  # changes of the configuration that it may still make
        self._rest: Work[Results] | None = None  # of an entry that is applied in slices

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
    ) -> Results:
        """Apply the entry at ``index``, one of the membership kind or one of commands, at once.

        Returns (seq, result) for the commands of ``local_origin`` (member id, incarnation) that were executed now.
        An entry that is already part of the state is skipped. Raises `CommandError`, before anything changed, for
        data that no correct member of this version can have proposed: the member must stop.
        """
        return self._all(self._begin_entry(index, term, data, local_origin, membership=membership))

    def apply_entry(self, entry: Entry, *, local_origin: tuple[int, int] | None = None) -> Results:
        """Apply an entry of any kind at once: `apply` or `skip`."""
        return self._all(self.begin(entry, local_origin=local_origin))

    def begin(self, entry: Entry, *, local_origin: tuple[int, int] | None = None) -> Results | None:
        """Begin to apply an entry of any kind. Most are applied with that; None: call `go_on` until it has results."""
        if entry.kind is EntryKind.COMMANDS:
            return self._begin_entry(entry.index, entry.term, entry.data, local_origin)
        if entry.kind is EntryKind.MEMBERSHIP:
            return self._begin_entry(entry.index, entry.term, entry.data, local_origin, membership=True)
        self.skip(entry.index, entry.term)
        return []

    def go_on(self) -> Results | None:
        """The next slice of the entry that was begun; its results if that was the last one."""
        work = self._rest
        assert work is not None, "no entry is half applied"
        left = self._slice_keys
        try:
            while left > 0:
                left -= next(work)
        except StopIteration as done:
            self._rest = None
            self.applied_index = self._entry_index
            results: Results = done.value
            return results
        return None

    def set_slice(self, keys: int) -> None:
        """Do no more at a time than what it takes to change so many keys, of an entry that takes long."""
        self._slice_keys = keys
        self.store.chunk_keys = min(CHUNK_KEYS, keys)

    @property
    def is_whole(self) -> bool:
        """Whether the state is that of ``applied_index``: no entry is half applied."""
        return self._rest is None

    def _begin_entry(
        self, index: int, term: int, data: bytes, local_origin: tuple[int, int] | None, *, membership: bool = False
    ) -> Results | None:
        if index <= self.applied_index:
            return []
        batches = decode(data)
        self._advance(index, term)
        self._steps_left = 1 if membership else 0
        self._rest = self._execute_all(batches, local_origin)
        return self.go_on()

    def _all(self, results: Results | None) -> Results:
        while results is None:
            results = self.go_on()
        return results

    def _execute_all(self, batches: list[Batch], local_origin: tuple[int, int] | None) -> Work[Results]:
        departed = self.cluster.departed
        results: Results = []
        store = self.store
        cost, chunk = 0, store.chunk_keys
        for origin, incarnation, first_seq, commands in batches:
            done = None if origin in departed else self._begin(origin, incarnation, first_seq)
            if done is None or done >= len(commands):
                continue
            self.sessions[origin] = Session(incarnation, first_seq + len(commands) - 1)
            asked_here = local_origin == (origin, incarnation)
            seq = first_seq + done
            for kind, body in commands[done:] if done else commands:
                if cost >= chunk:
                    yield cost
                    cost = 0
                if kind == _PUT and (value_at := plain_put(body)):
                    store.put_plain(body, value_at)
                    if asked_here:
                        results.append((seq, Applied(store.header.field(store.revision))))
                        seq += 1
                    cost += 1
                    continue
                if kind in _IN_SLICES:
                    result = yield from self._execute_in_slices(kind, body, asked_here)
                else:
                    result = self._execute(kind, body, asked_here)
                if asked_here:
                    results.append((seq, result))
                    seq += 1
                cost += 1
        return results

    def skip(self, index: int, term: int) -> None:
        """Take note of an entry without commands: a leader's first one."""
        if index > self.applied_index:
            self._advance(index, term)
            self.applied_index = index

    def _advance(self, index: int, term: int) -> None:
        assert self._rest is None, f"entry {self._entry_index} is half applied"
        assert index == self.applied_index + 1, f"entry {index} follows {self.applied_index}: one is missing"
        assert term >= self.applied_term, f"entry {index} has term {term} after term {self.applied_term}"
        self._entry_index = index
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

    def _execute(self, kind: int, body: bytes, want_reply: bool) -> Applied:
        try:
            if kind == _PUT:
                return Applied(self.store.put(PutRequest.FromString(body)))
            if kind == CommandKind.COMPACT:
                return Applied(self.store.compact(CompactionRequest.FromString(body)))
            return self._execute_for_members(kind, body, want_reply)
        except RpcRefusal as refused:
            return Applied(b"", refused.refusal)
        except DecodeError:
            return _not_parsed(kind)

    def _execute_in_slices(self, kind: int, body: bytes, want_reply: bool) -> Work[Applied]:
        """A request that may take long."""
        store = self.store
        try:
            if kind == CommandKind.TXN:
                reply = yield from store.txn_work(TxnRequest.FromString(body), want_reply=want_reply)
            else:
                reply = yield from store.delete_range_work(DeleteRangeRequest.FromString(body))
        except RpcRefusal as refused:
            return Applied(b"", refused.refusal)
        except DecodeError:
            return _not_parsed(kind)
        return Applied(reply)

    def _execute_for_members(self, kind: int, body: bytes, want_reply: bool) -> Applied:
        """Everything that is about the members. Raises `RpcRefusal`."""
        if kind == CommandKind.PUBLISH:
            return self._publish(body)
        if kind == CommandKind.REFUSED:
            return self._refused(body)
        assert kind in MEMBERSHIP_KINDS
        if not self._steps_left:
            raise CHANGE_UNDER_WAY()
        cluster = self.cluster
        before = cluster.conf
        about = cluster.apply(kind, body, self._entry_index)
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
            return Applied(b"", Refusal(StatusCode(refused.code), refused.message))
        except (msgspec.MsgspecError, ValueError):
            raise not_a_message("refusal") from None

    # -- checkpoints -----------------------------------------------------------------------------------------------

    @property
    def unsaved_bytes(self) -> int:
        """Record bytes that the next checkpoint will write: a reason to take one."""
        return self.store.records.active_bytes

    def take_checkpoint(self) -> Checkpoint:
        """What to commit so that the state as of `applied_index` survives a restart.

        Until `checkpoint_done`, no other may be taken. Applying goes on meanwhile. Only when the state `is_whole`.
        """
        assert self.is_whole, f"entry {self._entry_index} is half applied"
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
        """A hash of the whole replicated state: equal on all members at the same applied index. Walks everything.

        Only when the state `is_whole`.
        """
        assert self.is_whole, f"entry {self._entry_index} is half applied"
        rest = msgspec.msgpack.encode((self.applied_index, sorted(self.sessions.items()), self.cluster.encode()))
        return self.store.state_hash() + rest


def _not_parsed(kind: int) -> Applied:
    return Applied(b"", not_a_message(CommandKind(kind).name.lower().replace("_", " ") + " request").refusal)
