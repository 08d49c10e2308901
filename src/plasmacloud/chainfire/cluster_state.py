"""Membership as replicated state: who belongs to the cluster, what each may do, and how that changes.

A change is a command in the log like any other and takes effect when it is applied, on every member at the same index.
So every decision here uses nothing but the command, its index and the state. What only the leader can know (who is up,
who has caught up) it checks before the command enters the log: see `membership_view.admit`.

A new member is always a learner first. It counts in no quorum, so adding one can stop nobody, whether or not it ever
starts; `Member.promote` says that it shall vote as soon as it has caught up. A member that takes the place of another
does so in one joint change. Ids are never used again, and those of former members are remembered, so that a former
member can be told what it is.

The refusals are etcd's, in etcd's words, where etcd has them.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from plasmacloud.base.address import Address
from plasmacloud.base.errors import StorageError
from plasmacloud.chainfire.member_commands import (
    AddMember,
    CommandKind,
    PromoteMember,
    RemoveMember,
    UpdateMember,
    decode_member_command,
)
from plasmacloud.chainfire.members import ClusterIdentity, Member, Publication, format_id, identifier
from plasmacloud.chainfire.mvcc.refusals import Refusal, not_a_message
from plasmacloud.raft import membership
from plasmacloud.raft.membership import BadConfState, Change, ChangeKind, ConfState
from plasmacloud.rpc.status import StatusCode

MAX_VOTERS = 15
MAX_LEARNERS = 16
_REMEMBERED = 1000  # former members whose ids are kept

MEMBER_NOT_FOUND = Refusal(StatusCode.NOT_FOUND, "etcdserver: member not found")
PEER_URL_EXISTS = Refusal(StatusCode.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists")
BAD_MEMBER_URLS = Refusal(StatusCode.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid")
NOT_A_LEARNER = Refusal(StatusCode.FAILED_PRECONDITION, "etcdserver: can only promote a learner member")
TOO_MANY_LEARNERS = Refusal(StatusCode.FAILED_PRECONDITION, "etcdserver: too many learner members in cluster")
NOT_ENOUGH_STARTED = Refusal(
    StatusCode.UNKNOWN, "etcdserver: re-configuration failed due to not enough started members"
)
"""UNKNOWN is what etcd 3.5 sends here, although its table of errors says FAILED_PRECONDITION."""
TOO_MANY_VOTERS = Refusal(StatusCode.FAILED_PRECONDITION, f"chainfire: a cluster has at most {MAX_VOTERS} voters")
CHANGE_UNDER_WAY = Refusal(
    StatusCode.UNAVAILABLE, "chainfire: not executed: another membership change is being completed"
)
OTHER_BIRTH = Refusal(
    StatusCode.FAILED_PRECONDITION,
    "chainfire: the member's data directory is not the one it joined with; remove the member and add it anew",
)


class Departure(NamedTuple):
    """A former member."""

    id: int
    removed_at: int  # index of the entry


class _Saved(msgspec.Struct, frozen=True):
    cluster_id: int
    founders: tuple[Member, ...]
    members: tuple[Member, ...]
    conf: bytes
    departures: tuple[Departure, ...]


class ClusterState:
    """The members and their configuration. Invariant: the members are exactly those of the configuration."""

    def __init__(self, cluster_id: int, founders: Iterable[Member] = ()) -> None:
        """A cluster at its beginning: the founders vote. Without any: nothing is known yet, a snapshot will tell."""
        self.cluster_id = cluster_id
        self.founders = tuple(sorted(founders, key=lambda member: member.id))
        self.conf = ConfState(voters=frozenset(member.id for member in self.founders))
        self._members = {member.id: member for member in self.founders}
        self._departed: dict[int, int] = {}
        self._encoded: bytes | None = None

    @classmethod
    def founded(cls, identity: ClusterIdentity) -> "ClusterState":
        """The state before the first entry of the log, as every founder computes it."""
        return cls(identity.cluster_id, identity.members)

    def at_start(self) -> "ClusterState":
        """The state before the first entry of the log: what a new member needs to replay all of it."""
        return ClusterState(self.cluster_id, self.founders)

    def alone(self, cluster_id: int, member_id: int) -> "ClusterState":
        """A new cluster of one survivor, for recovery from a lost quorum. Everybody else is a former member."""
        survivor = self._members[member_id]
        state = ClusterState(cluster_id, [msgspec.structs.replace(survivor, promote=False, replaces=0)])
        state._members = {member_id: state.founders[0]}
        state._departed = {**self._departed, **{other: 0 for other in self._members if other != member_id}}
        return state

    # -- questions -------------------------------------------------------------------------------------------------

    @property
    def members(self) -> tuple[Member, ...]:
        """All members in the order of their ids."""
        return tuple(
            msgspec.structs.replace(member, is_learner=not self.conf.is_voter(member.id))
            for _, member in sorted(self._members.items())
        )

    @property
    def departed(self) -> dict[int, int]:
        """Former members, with the index of the entry that removed them. Not to be changed."""
        return self._departed

    def __contains__(self, member_id: int) -> bool:
        return member_id in self._members

    def get(self, member_id: int) -> Member | None:
        """The member with that id."""
        member = self._members.get(member_id)
        if member is None:
            return None
        return msgspec.structs.replace(member, is_learner=not self.conf.is_voter(member_id))

    def replaced_by(self, member_id: int) -> int:
        """The member that leaves when this learner becomes a voter; 0: none."""
        member = self._members.get(member_id)
        return 0 if member is None else member.replaces

    def by_peer(self, peer: Address) -> Member | None:
        """The member that is reached at ``peer``."""
        found = [member_id for member_id, member in self._members.items() if peer in member.peers]
        return self.get(found[0]) if found else None

    def name_of(self, member_id: int) -> str:
        """Its name for people, or its id while it has none."""
        member = self._members.get(member_id)
        return member.name if member and member.name else format_id(member_id)

    # -- changes ---------------------------------------------------------------------------------------------------

    def apply(self, kind: int, body: bytes, index: int) -> int:
        """Carry out the command of the entry at ``index``; returns the id of the member it is about (0: of none).

        Raises `RpcRefusal` before anything changed.
        """
        if kind == CommandKind.LEAVE_JOINT:
            if self.conf.joint:
                self._adopt(membership.leave_joint(self.conf), index)
            return 0
        try:
            command = decode_member_command(kind, body)
        except msgspec.MsgspecError:
            raise not_a_message("membership command") from None
        if isinstance(command, AddMember):
            return self._add(command, index)
        if isinstance(command, RemoveMember):
            return self._remove(command, index)
        if isinstance(command, PromoteMember):
            return self._promote(command, index)
        assert isinstance(command, UpdateMember)
        return self._update(command)

    def _add(self, command: AddMember, index: int) -> int:
        if not command.peers:
            raise BAD_MEMBER_URLS()
        self._check_free(command.peers, for_member=0)
        if command.replaces and command.replaces not in self._members:
            raise MEMBER_NOT_FOUND()
        if self.conf.joint:
            raise CHANGE_UNDER_WAY()
        if len(self.conf.learners) >= MAX_LEARNERS:
            raise TOO_MANY_LEARNERS()
        joining = sum(1 for member in self._members.values() if member.promote and not member.replaces)
        if command.promote and not command.replaces and len(self.conf.voters) + joining >= MAX_VOTERS:
            raise TOO_MANY_VOTERS()
        urls = ",".join(peer.url for peer in command.peers)
        new_id = identifier("member", f"{self.cluster_id:x}", urls, str(index))
        assert new_id not in self._members, "two members with the same id by accident"
        assert new_id not in self._departed, "an id is used again by accident"
        conf = membership.change(self.conf, [Change(ChangeKind.ADD_LEARNER, new_id)])
        self._members[new_id] = Member(
            id=new_id, name=command.name, peers=command.peers, promote=command.promote, replaces=command.replaces
        )
        self._adopt(conf, index)
        return new_id

    def _remove(self, command: RemoveMember, index: int) -> int:
        if command.member_id not in self._members:
            raise MEMBER_NOT_FOUND()
        if self.conf.joint:
            raise CHANGE_UNDER_WAY()
        if self.conf.voters == {command.member_id}:
            raise NOT_ENOUGH_STARTED()  # etcd's answer to removing the last one
        self._adopt(membership.change(self.conf, [Change(ChangeKind.REMOVE, command.member_id)]), index)
        return command.member_id

    def _promote(self, command: PromoteMember, index: int) -> int:
        member = self._members.get(command.member_id)
        if member is None:
            raise MEMBER_NOT_FOUND()
        if member.id not in self.conf.learners:
            raise NOT_A_LEARNER()
        if self.conf.joint:
            raise CHANGE_UNDER_WAY()
        changes = [Change(ChangeKind.ADD_VOTER, member.id)]
        if member.replaces in self._members:
            changes.append(Change(ChangeKind.REMOVE, member.replaces))
        conf = membership.change(self.conf, changes)
        if len(conf.voters) > MAX_VOTERS:
            raise TOO_MANY_VOTERS()
        self._members[member.id] = msgspec.structs.replace(member, promote=False, replaces=0)
        self._adopt(conf, index)
        return member.id

    def _update(self, command: UpdateMember) -> int:
        member = self._members.get(command.member_id)
        if member is None:
            raise MEMBER_NOT_FOUND()
        if not command.peers:
            raise BAD_MEMBER_URLS()
        self._check_free(command.peers, for_member=member.id)
        self._members[member.id] = msgspec.structs.replace(member, peers=command.peers)
        self._encoded = None
        return member.id

    def publish(self, publication: Publication) -> None:
        """A member has started. Raises `RpcRefusal` when it is none, or not the one it was."""
        member = self._members.get(publication.member_id)
        if member is None:
            raise MEMBER_NOT_FOUND()
        if member.birth and publication.birth and member.birth != publication.birth:
            raise OTHER_BIRTH()
        self._members[member.id] = msgspec.structs.replace(
            member,
            name=publication.name or member.name,
            client_urls=publication.client_urls,
            birth=publication.birth or member.birth,
        )
        self._encoded = None

    def _check_free(self, peers: tuple[Address, ...], for_member: int) -> None:
        taken = {peer for member in self._members.values() if member.id != for_member for peer in member.peers}
        if not taken.isdisjoint(peers):
            raise PEER_URL_EXISTS()

    def _adopt(self, conf: ConfState, index: int) -> None:
        """Take over a configuration; who is not in it any more has left."""
        conf.check()
        for member_id in sorted(self._members.keys() - conf.all_members()):
            del self._members[member_id]
            self._departed[member_id] = index
        while len(self._departed) > _REMEMBERED:
            del self._departed[next(iter(self._departed))]
        self.conf = conf
        self._encoded = None
        assert self._members.keys() == conf.all_members(), "every member has a place in the configuration"

    # -- bytes -----------------------------------------------------------------------------------------------------

    def encode(self) -> bytes:
        """The state as bytes; equal states that came the same way have equal bytes."""
        if self._encoded is None:
            self._encoded = msgspec.msgpack.encode(
                _Saved(
                    self.cluster_id,
                    self.founders,
                    tuple(member for _, member in sorted(self._members.items())),
                    self.conf.encode(),
                    tuple(Departure(*item) for item in self._departed.items()),
                )
            )
        return self._encoded

    @classmethod
    def decode(cls, data: bytes) -> "ClusterState":
        """Read what `encode` wrote. Raises `BadClusterState` on anything else."""
        try:
            saved = msgspec.msgpack.decode(data, type=_Saved)
            state = cls(saved.cluster_id, saved.founders)
            state.conf = ConfState.decode(saved.conf)
        except (msgspec.MsgspecError, BadConfState) as error:
            raise BadClusterState(f"the saved membership cannot be read: {error}") from error
        state._members = {member.id: member for member in saved.members}
        state._departed = dict(saved.departures)
        if state._members.keys() != state.conf.all_members():
            raise BadClusterState("the saved membership contradicts its configuration")
        return state


class BadClusterState(StorageError):
    """The bytes are no membership."""
