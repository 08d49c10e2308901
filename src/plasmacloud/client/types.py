"""What comes back: plain values, decoded from the wire once.

IDs are the API's unsigned 64-bit numbers, sizes are bytes, revisions count changes of the whole store.
"""

from collections.abc import Iterator
from enum import Enum

import msgspec

from plasmacloud.rpc.proto import admin_pb2, kv_pb2, rpc_pb2


class Header(msgspec.Struct, frozen=True):
    """Stands at the head of every answer: who answered, at which store revision, in which term."""

    cluster_id: int
    member_id: int
    revision: int
    raft_term: int


class KeyValue(msgspec.Struct, frozen=True):
    """A key with its value and history. ``version`` counts puts since creation; ``lease`` 0 is none."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


class PutResult(msgspec.Struct, frozen=True):
    """``prev_kv``: what was there before, if it was asked for and there was something."""

    header: Header
    prev_kv: KeyValue | None = None


class RangeResult(msgspec.Struct, frozen=True):
    """``count``: keys in the range, whatever the limit; ``more``: the limit cut the answer."""

    header: Header
    kvs: tuple[KeyValue, ...]
    more: bool
    count: int

    @property
    def first(self) -> KeyValue | None:
        """The first key of the answer, or None."""
        return self.kvs[0] if self.kvs else None

    def __iter__(self) -> Iterator[KeyValue]:
        return iter(self.kvs)

    def __len__(self) -> int:
        return len(self.kvs)


class DeleteResult(msgspec.Struct, frozen=True):
    """``deleted``: how many keys; ``prev_kvs``: those keys, if they were asked for."""

    header: Header
    deleted: int
    prev_kvs: tuple[KeyValue, ...] = ()


class TxnResult(msgspec.Struct, frozen=True):
    """``succeeded``: all comparisons held. ``responses``: one for each operation of the branch that ran."""

    header: Header
    succeeded: bool
    responses: tuple["OpResult", ...]


OpResult = PutResult | RangeResult | DeleteResult | TxnResult


class CompactResult(msgspec.Struct, frozen=True):
    """The history before the revision asked for is gone."""

    header: Header


class Member(msgspec.Struct, frozen=True):
    """A member of the cluster. An empty name: added, but never started."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool


class MemberList(msgspec.Struct, frozen=True):
    """All members, as the member that answered knows them."""

    header: Header
    members: tuple[Member, ...]


class Status(msgspec.Struct, frozen=True):
    """One member's own view. ``leader`` 0: it knows none. Sizes in bytes; ``applied`` <= ``raft_index``."""

    header: Header
    version: str
    db_size: int
    db_size_in_use: int
    leader: int
    raft_index: int
    raft_term: int
    applied: int
    errors: tuple[str, ...]
    is_learner: bool

    @property
    def is_leader(self) -> bool:
        """Whether this member says that it leads."""
        return self.leader == self.header.member_id


class MemberAdded(msgspec.Struct, frozen=True):
    """``member``: the new one, as it is listed among ``members`` now."""

    header: Header
    member: Member
    members: tuple[Member, ...]


class HashKv(msgspec.Struct, frozen=True):
    """A hash of all keys as of a revision: equal on members that agree. ``compact_revision`` -1: never compacted."""

    header: Header
    hash: int
    compact_revision: int


class SnapshotChunk(msgspec.Struct, frozen=True):
    """Some bytes of a snapshot, in order; ``remaining_bytes`` follow."""

    remaining_bytes: int
    blob: bytes


class Join(msgspec.Struct, frozen=True):
    """How far a learner is on its way. ``expires_in_s``: it is removed then, unless it makes progress."""

    percent: int
    entries_per_second: float
    eta_s: float | None
    rounds_done: int
    rounds_needed: int
    expires_in_s: float | None


class MemberProgress(msgspec.Struct, frozen=True):
    """A member of a ChainFire cluster. ``role``: voter, learner or leaving.

    ``state``: leader, replicate, probe or snapshot; it, ``match`` and all that follows are known to the leader only.
    ``promote``: becomes a voter when it has caught up, in the place of the member ``replaces`` (0: of none).
    """

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    role: str
    started: bool
    promote: bool
    replaces: int
    state: str
    active: bool
    match: int
    lag_entries: int
    lag_bytes: int
    last_contact_s: float | None
    join: Join | None


class ClusterView(msgspec.Struct, frozen=True):
    """A ChainFire cluster as one member sees it. ``from_leader``: that member leads, so the progress is known.

    ``founding``: opaque; a new member starts from it. ``election_timeout_s`` of the member that answers is above
    ``configured_election_timeout_s`` while its network or disk is slow; both are 0 if it does not tell.
    """

    cluster_id: int
    member_id: int
    leader_id: int
    raft_term: int
    last_index: int
    commit_index: int
    from_leader: bool
    joint: bool
    members: tuple[MemberProgress, ...]
    founding: bytes
    election_timeout_s: float = 0.0
    configured_election_timeout_s: float = 0.0


class AlarmKind(Enum):
    """Why a member raised the alarm."""

    NOSPACE = "nospace"
    CORRUPT = "corrupt"
    OTHER = "other"


class Alarm(msgspec.Struct, frozen=True):
    """An alarm that is on."""

    member_id: int
    kind: AlarmKind


class Health(Enum):
    """Answer of the standard gRPC health check."""

    SERVING = "serving"
    NOT_SERVING = "not-serving"
    UNKNOWN = "unknown"


def header(message: rpc_pb2.ResponseHeader) -> Header:
    """From the wire."""
    return Header(message.cluster_id, message.member_id, message.revision, message.raft_term)


def key_value(message: kv_pb2.KeyValue) -> KeyValue:
    """From the wire."""
    return KeyValue(
        message.key, message.value, message.create_revision, message.mod_revision, message.version, message.lease
    )


def put_result(message: rpc_pb2.PutResponse) -> PutResult:
    """From the wire."""
    previous = key_value(message.prev_kv) if message.HasField("prev_kv") else None
    return PutResult(header(message.header), previous)


def range_result(message: rpc_pb2.RangeResponse) -> RangeResult:
    """From the wire."""
    kvs = tuple(key_value(kv) for kv in message.kvs)
    return RangeResult(header(message.header), kvs, message.more, message.count)


def delete_result(message: rpc_pb2.DeleteRangeResponse) -> DeleteResult:
    """From the wire."""
    previous = tuple(key_value(kv) for kv in message.prev_kvs)
    return DeleteResult(header(message.header), message.deleted, previous)


def txn_result(message: rpc_pb2.TxnResponse) -> TxnResult:
    """From the wire. The members answer nested operations with an empty or missing header: it is theirs."""
    return TxnResult(header(message.header), message.succeeded, tuple(map(_op_result, message.responses)))


def _op_result(message: rpc_pb2.ResponseOp) -> OpResult:
    match message.WhichOneof("response"):
        case "response_put":
            return put_result(message.response_put)
        case "response_range":
            return range_result(message.response_range)
        case "response_delete_range":
            return delete_result(message.response_delete_range)
        case "response_txn":
            return txn_result(message.response_txn)
        case _:
            raise ValueError("an operation of the transaction came back without a result")


def member_list(message: rpc_pb2.MemberListResponse) -> MemberList:
    """From the wire."""
    return MemberList(header(message.header), tuple(map(_member, message.members)))


def member_added(message: rpc_pb2.MemberAddResponse) -> MemberAdded:
    """From the wire."""
    return MemberAdded(header(message.header), _member(message.member), tuple(map(_member, message.members)))


def _member(message: rpc_pb2.Member) -> Member:
    return Member(message.ID, message.name, tuple(message.peerURLs), tuple(message.clientURLs), message.isLearner)


def cluster_view(message: admin_pb2.MembersResponse) -> ClusterView:
    """From the wire."""
    return ClusterView(
        cluster_id=message.cluster_id,
        member_id=message.member_id,
        leader_id=message.leader_id,
        raft_term=message.raft_term,
        last_index=message.last_index,
        commit_index=message.commit_index,
        from_leader=message.from_leader,
        joint=message.joint,
        members=tuple(map(member_progress, message.members)),
        founding=message.founding,
        election_timeout_s=message.election_timeout_ms / 1000,
        configured_election_timeout_s=message.configured_election_timeout_ms / 1000,
    )


def member_progress(message: admin_pb2.MemberProgress) -> MemberProgress:
    """From the wire."""
    return MemberProgress(
        id=message.id,
        name=message.name,
        peer_urls=tuple(message.peer_urls),
        client_urls=tuple(message.client_urls),
        role=admin_pb2.Role.Name(message.role).lower(),
        started=message.started,
        promote=message.promote,
        replaces=message.replaces,
        state=message.state,
        active=message.active,
        match=message.match_index,
        lag_entries=message.lag_entries,
        lag_bytes=message.lag_bytes,
        last_contact_s=message.last_contact_ms / 1000 if message.HasField("last_contact_ms") else None,
        join=_join(message.join) if message.HasField("join") else None,
    )


def _join(message: admin_pb2.Join) -> Join:
    return Join(
        percent=message.percent,
        entries_per_second=message.entries_per_second,
        eta_s=message.eta_ms / 1000 if message.HasField("eta_ms") else None,
        rounds_done=message.rounds_done,
        rounds_needed=message.rounds_needed,
        expires_in_s=message.expires_in_ms / 1000 if message.HasField("expires_in_ms") else None,
    )


def status(message: rpc_pb2.StatusResponse) -> Status:
    """From the wire."""
    return Status(
        header=header(message.header),
        version=message.version,
        db_size=message.dbSize,
        db_size_in_use=message.dbSizeInUse,
        leader=message.leader,
        raft_index=message.raftIndex,
        raft_term=message.raftTerm,
        applied=message.raftAppliedIndex,
        errors=tuple(message.errors),
        is_learner=message.isLearner,
    )


def alarms(message: rpc_pb2.AlarmResponse) -> tuple[Alarm, ...]:
    """From the wire."""
    kinds = {rpc_pb2.NOSPACE: AlarmKind.NOSPACE, rpc_pb2.CORRUPT: AlarmKind.CORRUPT}
    return tuple(Alarm(a.memberID, kinds.get(a.alarm, AlarmKind.OTHER)) for a in message.alarms)
