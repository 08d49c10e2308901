"""What a member knows about the others right now, and the checks that need it.

Roles and names are replicated; how far each member is and whether it answers only the leader knows. `MembershipView`
puts both side by side, as plain values: for the policy (`membership_policy`), for operators (`plasma chainfire
members`), and for `admit`, with which the leader judges a membership command before it enters the log. The checks are
etcd's strict reconfiguration checks: a change that would leave the cluster without a working quorum is refused.
"""

from collections.abc import Mapping
from enum import Enum

import msgspec

from plasmacloud.chainfire.cluster_state import NOT_ENOUGH_STARTED, ClusterState
from plasmacloud.chainfire.member_commands import (
    CommandKind,
    PromoteMember,
    Refused,
    RemoveMember,
    decode_member_command,
    encode_member_command,
)
from plasmacloud.chainfire.mvcc.refusals import Refusal, RpcRefusal
from plasmacloud.raft.state import Status
from plasmacloud.rpc.status import StatusCode

LEARNER_NOT_READY = Refusal(
    StatusCode.FAILED_PRECONDITION, "etcdserver: can only promote a learner member which is in sync with leader"
)
UNHEALTHY = Refusal(StatusCode.UNAVAILABLE, "etcdserver: unhealthy cluster")

IN_SYNC_ENTRIES = 1000
IN_SYNC_SHARE = 0.1
"""A member is in sync when it lacks at most this many entries, and at most this share of the log."""

ACTIVE_S = 1.0
"""A member that was heard within this time is up, unless heartbeats are slower than that."""


class MemberRole(Enum):
    """What a member may do."""

    VOTER = "voter"
    LEARNER = "learner"
    LEAVING = "leaving"
    """It votes in the outgoing half of a joint configuration, for the moment."""


class MemberView(msgspec.Struct, frozen=True, kw_only=True):
    """One member. What only a leader knows is None elsewhere. ``last_contact_s`` counts from the beginning of the
    leader's term, or from the addition of the member, when nothing was heard since.

    ``state``: leader, replicate, probe or snapshot. ``active``: it was heard a moment ago. ``snapshot_percent``: how
    much it has of a snapshot that is on its way.
    """

    id: int
    name: str
    role: MemberRole
    promote: bool = False
    replaces: int = 0
    started: bool = False
    state: str | None = None
    match: int | None = None
    last_contact_s: float | None = None
    active: bool = False
    snapshot_percent: int | None = None


class MembershipView(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster as member ``own_id`` sees it. ``entry_bytes``: mean size of an entry in the log.

    ``election_timeout_s``: its own, as it is now, and as it is configured (`timing`); 0 where that is not known.
    ``change_pending``: a membership entry is in the log and not applied here, so that no other may follow yet.
    """

    own_id: int
    leader_id: int
    term: int
    last_index: int
    commit: int
    members: tuple[MemberView, ...]
    joint: bool = False
    change_pending: bool = False
    entry_bytes: float = 0.0
    election_timeout_s: tuple[float, float] = (0.0, 0.0)

    @property
    def from_leader(self) -> bool:
        """Whether the leader itself is looking."""
        return self.leader_id == self.own_id != 0

    def member(self, member_id: int) -> MemberView | None:
        """The member with that id."""
        return next((member for member in self.members if member.id == member_id), None)

    @property
    def voters(self) -> frozenset[int]:
        """Who counts in the quorum from now on (not those that are leaving)."""
        return frozenset(member.id for member in self.members if member.role is MemberRole.VOTER)

    @property
    def active(self) -> frozenset[int]:
        """Who was heard a moment ago."""
        return frozenset(member.id for member in self.members if member.active)

    def lag(self, member: MemberView) -> int:
        """How many entries of the log it lacks."""
        return max(0, self.last_index - (member.match or 0))

    def in_sync(self, member: MemberView) -> bool:
        """Whether it could vote without holding anybody up: it answers, it follows, and it lacks next to nothing."""
        most = min(IN_SYNC_ENTRIES, int(self.last_index * IN_SYNC_SHARE))
        return member.active and member.state == "replicate" and self.lag(member) <= most


def look(
    cluster: ClusterState,
    status: Status,
    *,
    tick_s: float,
    active_s: float = ACTIVE_S,
    entry_bytes: float = 0.0,
    change_pending: bool = False,
    snapshot_percent: Mapping[int, int] | None = None,
    election_timeout_s: tuple[float, float] = (0.0, 0.0),
) -> MembershipView:
    """What the member whose raft ``status`` this is knows now. ``tick_s``: seconds in a tick of its raft.

    ``active_s`` should be a few heartbeat intervals. ``snapshot_percent``: by member, of snapshots on their way.
    """
    leads = bool(status.progress)
    members = []
    for member in cluster.members:
        conf = cluster.conf
        role = MemberRole.VOTER
        if member.id not in conf.voters:
            role = MemberRole.LEAVING if member.id in conf.outgoing else MemberRole.LEARNER
        view = MemberView(
            id=member.id,
            name=member.name,
            role=role,
            promote=member.promote,
            replaces=member.replaces,
            started=member.started,
        )
        progress = status.progress.get(member.id)
        if leads and member.id == status.id:
            view = msgspec.structs.replace(
                view, state="leader", match=status.last_index, last_contact_s=0.0, active=True
            )
        elif progress is not None:
            silent_s = progress.last_contact_ticks * tick_s
            view = msgspec.structs.replace(
                view,
                state=progress.state,
                match=progress.match,
                last_contact_s=silent_s,
                active=silent_s <= active_s,
                snapshot_percent=(snapshot_percent or {}).get(member.id) if progress.state == "snapshot" else None,
            )
        members.append(view)
    return MembershipView(
        own_id=status.id,
        leader_id=status.leader_id,
        term=status.term,
        last_index=status.last_index,
        commit=status.commit,
        members=tuple(members),
        joint=cluster.conf.joint,
        change_pending=change_pending,
        entry_bytes=entry_bytes,
        election_timeout_s=election_timeout_s,
    )


def log_floor(view: MembershipView) -> int:
    """On the leader: up to which entry everybody who counts has the log, so that it may be forgotten.

    Learners count while they follow the log. One that never came, is silent, or is being brought a snapshot needs no
    entries, and must not keep them for everybody for as long as it is in the list.
    """
    return min(
        (
            member.match or 0
            for member in view.members
            if member.role is not MemberRole.LEARNER or (member.active and member.state == "replicate")
        ),
        default=0,
    )


def quorum(voters: int) -> int:
    """How many of so many voters are a majority."""
    return voters // 2 + 1


def quorum_works(voters: frozenset[int], active: frozenset[int]) -> bool:
    """Whether enough of the voters are up."""
    return bool(voters) and len(voters & active) >= quorum(len(voters))


def admit(kind: int, body: bytes, view: MembershipView) -> tuple[int, bytes]:
    """The command that the leader puts into the log in place of a membership command: itself, or its refusal.

    Only for what the replicated state cannot decide; everything else (no such member …) is decided when the command
    is applied. The result has the number of the original, so a command that comes again is answered as it first was.
    """
    refusal = refuse(kind, body, view)
    if refusal is None:
        return kind, body
    return CommandKind.REFUSED, encode_member_command(Refused(refusal.code, refusal.message))


def refuse(kind: int, body: bytes, view: MembershipView) -> RpcRefusal | None:
    """Why the leader must not propose this command now, if there is a reason."""
    if kind not in (CommandKind.MEMBER_REMOVE, CommandKind.MEMBER_PROMOTE):
        return None
    try:
        command = decode_member_command(kind, body)
    except msgspec.MsgspecError:
        return None  # answered when it is applied
    if isinstance(command, RemoveMember):
        return _refuse_removal(command.member_id, view)
    assert isinstance(command, PromoteMember)
    return _refuse_promotion(command.member_id, view)


def _refuse_removal(member_id: int, view: MembershipView) -> RpcRefusal | None:
    if member_id not in view.voters:
        return None
    return _refuse_voters(view.voters - {member_id}, view)


def _refuse_promotion(member_id: int, view: MembershipView) -> RpcRefusal | None:
    member = view.member(member_id)
    if member is None or member.role is not MemberRole.LEARNER:
        return None
    if not view.in_sync(member):
        return LEARNER_NOT_READY()
    return _refuse_voters((view.voters | {member_id}) - {member.replaces}, view)


def _refuse_voters(voters: frozenset[int], view: MembershipView) -> RpcRefusal | None:
    """Whether these could not serve as the voters. A member that answers has started, whatever it published."""
    started = frozenset(member.id for member in view.members if member.started or member.active)
    if not quorum_works(voters, started):
        return NOT_ENOUGH_STARTED()
    return None if quorum_works(voters, view.active) else UNHEALTHY()
