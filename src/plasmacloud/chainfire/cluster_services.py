"""The services about members: etcd's ``Cluster``, and our own ``Admin``.

Every member takes changes. They go the way of all commands, through the log, and carry the same promise: executed at
most once, whoever leads. What only the leader can judge it judges when the command reaches it
(`membership_view.admit`), so a member that is asked need not know who leads.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from plasmacloud.base.address import Address
from plasmacloud.chainfire.cluster_state import ClusterState
from plasmacloud.chainfire.linearizable import LinearizableRead
from plasmacloud.chainfire.member_commands import (
    AddMember,
    CommandKind,
    MemberCommand,
    PromoteMember,
    RemoveMember,
    UpdateMember,
    encode_member_command,
)
from plasmacloud.chainfire.members import Member, format_id, member_message
from plasmacloud.chainfire.membership_policy import JoinProgress
from plasmacloud.chainfire.membership_view import MemberRole, MembershipView, MemberView
from plasmacloud.chainfire.mvcc.refusals import RpcRefusal, not_a_message
from plasmacloud.chainfire.validate import validate_peer_urls
from plasmacloud.rpc.proto import admin_pb2, rpc_pb2
from plasmacloud.rpc.routes import Call
from plasmacloud.rpc.service import ServiceTable
from plasmacloud.rpc.status import RpcError, StatusCode

M = TypeVar("M", bound=Message)


class Waiter(Protocol):
    """Where the answer to a command goes."""

    @property
    def done(self) -> bool: ...

    def reply(self, body: bytes) -> None: ...

    def fail(self, code: StatusCode, message: str) -> None: ...


class MembershipHost(Protocol):
    """What these services need of the replica."""

    @property
    def member_id(self) -> int: ...

    @property
    def cluster(self) -> ClusterState:
        """The membership as of the local state."""

    @property
    def raft_term(self) -> int: ...

    def submit(self, kind: int, body: bytes, waiter: Waiter) -> None:
        """Execute a command, once, on whichever member leads."""

    def read(self, waiter: LinearizableRead) -> None:
        """Run the waiter when the local state includes everything acknowledged before this call."""

    def membership_view(self) -> MembershipView:
        """What this member knows about the others now (`membership_view.look`)."""

    def join_progress(self) -> Mapping[int, JoinProgress]:
        """`MembershipPolicy.progress`; empty on a member that does not lead."""


class ClusterService:
    """``etcdserverpb.Cluster`` and ``plasmacloud.chainfire.v1.Admin``."""

    def __init__(self, host: MembershipHost, *, peer_scheme: str = "http") -> None:
        """``peer_scheme``: ``https`` where members talk to each other over TLS."""
        self._host = host
        self._peer_scheme = peer_scheme

    def register(self, table: ServiceTable) -> None:
        """Serve the calls of these services."""
        table.unary("/etcdserverpb.Cluster/MemberList", self._member_list)
        table.unary("/etcdserverpb.Cluster/MemberAdd", self._member_add)
        table.unary("/etcdserverpb.Cluster/MemberRemove", self._member_remove)
        table.unary("/etcdserverpb.Cluster/MemberUpdate", self._member_update)
        table.unary("/etcdserverpb.Cluster/MemberPromote", self._member_promote)
        table.unary("/plasmacloud.chainfire.v1.Admin/Members", self._members)
        table.unary("/plasmacloud.chainfire.v1.Admin/AddMember", self._add_member)

    # -- etcd's ----------------------------------------------------------------------------------------------------

    def _member_list(self, call: Call, body: bytes) -> None:
        request = parse(rpc_pb2.MemberListRequest, body)

        def serve() -> None:
            host = self._host
            header = rpc_pb2.ResponseHeader(
                cluster_id=host.cluster.cluster_id, member_id=host.member_id, raft_term=host.raft_term
            )
            members = [member_message(member, self._peer_scheme) for member in host.cluster.members]
            call.reply(rpc_pb2.MemberListResponse(header=header, members=members).SerializeToString())

        if request.linearizable:
            self._host.read(LinearizableRead(call, serve))
        else:
            serve()

    def _member_add(self, call: Call, body: bytes) -> None:
        """Returns as soon as the learner is a member. etcd's "add a voter" is "promote it when it has caught up"."""
        request = parse(rpc_pb2.MemberAddRequest, body)
        peers = _peers(sorted(url.strip() for url in request.peerURLs))
        self._submit(CommandKind.MEMBER_ADD, AddMember(peers, promote=not request.isLearner), call)

    def _member_remove(self, call: Call, body: bytes) -> None:
        request = parse(rpc_pb2.MemberRemoveRequest, body)
        self._submit(CommandKind.MEMBER_REMOVE, RemoveMember(request.ID), call)

    def _member_update(self, call: Call, body: bytes) -> None:
        request = parse(rpc_pb2.MemberUpdateRequest, body)
        # Without any URL the answer depends on the member, as in etcd: it is not found, or the URLs are invalid.
        peers = _peers(request.peerURLs) if request.peerURLs else ()
        self._submit(CommandKind.MEMBER_UPDATE, UpdateMember(request.ID, peers), call)

    def _member_promote(self, call: Call, body: bytes) -> None:
        request = parse(rpc_pb2.MemberPromoteRequest, body)
        self._submit(CommandKind.MEMBER_PROMOTE, PromoteMember(request.ID), call)

    def _submit(self, kind: CommandKind, command: MemberCommand, waiter: Waiter) -> None:
        self._host.submit(kind, encode_member_command(command), waiter)

    # -- ours ------------------------------------------------------------------------------------------------------

    def _members(self, call: Call, body: bytes) -> None:
        parse(admin_pb2.MembersRequest, body)
        call.reply(self._members_message().SerializeToString())

    def _add_member(self, call: Call, body: bytes) -> None:
        request = parse(admin_pb2.AddMemberRequest, body)
        peers = _peers(request.peer_urls)
        named = [member for member in self._host.cluster.members if request.name and member.name == request.name]
        if named and named[0].id != request.replaces:
            raise RpcError(
                StatusCode.FAILED_PRECONDITION,
                f"chainfire: member {format_id(named[0].id)} is called {request.name} already",
            )
        command = AddMember(peers, request.name, promote=not request.learner, replaces=request.replaces)
        self._submit(CommandKind.MEMBER_ADD, command, _Translated(call, self._added))

    def _added(self, body: bytes) -> bytes:
        """etcd's reply to an addition as ours."""
        added = rpc_pb2.MemberAddResponse.FromString(body).member.ID
        members = self._members_message()
        member = next((member for member in members.members if member.id == added), None)
        return admin_pb2.AddMemberResponse(member=member, members=members).SerializeToString()

    def _members_message(self) -> admin_pb2.MembersResponse:
        host = self._host
        view, joins = host.membership_view(), host.join_progress()
        members = {member.id: member for member in host.cluster.members}
        return admin_pb2.MembersResponse(
            cluster_id=host.cluster.cluster_id,
            member_id=host.member_id,
            leader_id=view.leader_id,
            raft_term=view.term,
            last_index=view.last_index,
            commit_index=view.commit,
            from_leader=view.from_leader,
            joint=view.joint,
            members=[
                _progress_message(members[m.id], m, view, joins.get(m.id), self._peer_scheme) for m in view.members
            ],
            founding=host.cluster.at_start().encode(),
            election_timeout_ms=round(view.election_timeout_s[0] * 1000),
            configured_election_timeout_ms=round(view.election_timeout_s[1] * 1000),
        )


class _Translated:
    """Answers a call with something else than the reply of its command."""

    def __init__(self, call: Call, translate: Callable[[bytes], bytes]) -> None:
        self._call = call
        self._translate = translate

    @property
    def done(self) -> bool:
        return self._call.done

    def reply(self, body: bytes) -> None:
        self._call.reply(self._translate(body))

    def fail(self, code: StatusCode, message: str) -> None:
        self._call.fail(code, message)


_ROLES = {
    MemberRole.VOTER: admin_pb2.VOTER,
    MemberRole.LEARNER: admin_pb2.LEARNER,
    MemberRole.LEAVING: admin_pb2.LEAVING,
}


def _progress_message(
    member: Member, seen: MemberView, view: MembershipView, join: JoinProgress | None, peer_scheme: str
) -> admin_pb2.MemberProgress:
    lag = view.lag(seen) if view.from_leader else 0
    message = admin_pb2.MemberProgress(
        id=member.id,
        name=member.name,
        peer_urls=member.peer_urls(peer_scheme),
        client_urls=member.client_urls,
        role=_ROLES[seen.role],
        started=seen.started,
        state=seen.state or "",
        active=seen.active,
        match_index=seen.match or 0,
        lag_entries=lag,
        lag_bytes=round(lag * view.entry_bytes),
        last_contact_ms=None if seen.last_contact_s is None else round(seen.last_contact_s * 1000),
        promote=seen.promote,
        replaces=seen.replaces,
    )
    if join is not None:
        message.join.percent = join.percent
        message.join.entries_per_second = join.rate
        message.join.rounds_done = join.rounds_done
        message.join.rounds_needed = join.rounds_needed
        if join.eta_s is not None:
            message.join.eta_ms = round(join.eta_s * 1000)
        if join.expires_in_s is not None:
            message.join.expires_in_ms = round(join.expires_in_s * 1000)
    return message


def _peers(urls: Iterable[str]) -> tuple[Address, ...]:
    try:
        return validate_peer_urls(urls)
    except RpcRefusal as refusal:
        raise RpcError(refusal.code, refusal.message) from None


def parse(kind: type[M], body: bytes) -> M:
    """The request. Raises `RpcError` when it is none."""
    try:
        return kind.FromString(body)
    except DecodeError:
        refusal = not_a_message(kind.__name__)
        raise RpcError(refusal.code, refusal.message) from None
