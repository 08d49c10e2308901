"""Who belongs to the group: the data model of a configuration, and the arithmetic that leads from one to the next.

Voters form the quorum; during a joint change the ``outgoing`` voters form a second one (Raft thesis §4.3). Learners
receive the log and count nowhere. ``learners_next`` are voters of the outgoing configuration which become learners
once the joint phase ends: until then they still vote, so they may not yet be listed as learners.

The transitions are `simple`, `enter_joint` and `leave_joint`, with the meaning that they have in etcd's consensus
library, and `change`, which picks between the first two. What makes them safe is one property: a majority that may
decide before a transition and one that may decide after it always have a member in common. If the voters differ by at
most one member, any two majorities of theirs overlap (§4.1). A joint configuration decides with a majority of the old
voters *and* one of the new, so it overlaps with both sides. Nothing else leads anywhere.
"""

import struct
from collections.abc import Iterable
from enum import Enum
from itertools import pairwise
from typing import NamedTuple, Self

import msgspec

from plasmacloud.base.errors import PlasmaError

_HEADER = struct.Struct("<BHHHH")
_AUTO_LEAVE = 1
MAX_MEMBERS = 65535


class BadConfState(PlasmaError):
    """Bytes are no configuration, or the configuration contradicts itself."""


class ConfState(msgspec.Struct, frozen=True):
    """A configuration. Ids are nonzero 64-bit numbers.

    ``auto_leave`` asks the leader to end the joint phase by itself.
    """

    voters: frozenset[int] = frozenset()
    outgoing: frozenset[int] = frozenset()
    learners: frozenset[int] = frozenset()
    learners_next: frozenset[int] = frozenset()
    auto_leave: bool = False

    @property
    def joint(self) -> bool:
        """Whether two majorities are needed."""
        return bool(self.outgoing)

    def all_voters(self) -> frozenset[int]:
        """Every member that votes in one configuration or the other."""
        return self.voters | self.outgoing

    def all_members(self) -> frozenset[int]:
        """Every member that receives the log."""
        return self.voters | self.outgoing | self.learners | self.learners_next

    def is_voter(self, member: int) -> bool:
        """Whether the member may stand for election and counts in a quorum."""
        return member in self.voters or member in self.outgoing

    def check(self) -> None:
        """Raise `BadConfState` if the sets contradict each other."""
        if any(not 0 < member < 2**64 for member in self.all_members()):
            raise BadConfState("member ids must be nonzero and fit 64 bits")
        if not self.voters and self.all_members():
            raise BadConfState("a configuration with members needs a voter")
        if self.learners & self.all_voters():
            raise BadConfState("a member cannot be voter and learner at once")
        if not self.learners_next <= self.outgoing - self.voters:
            raise BadConfState("only a leaving voter can be a learner-to-be")
        if self.auto_leave and not self.outgoing:
            raise BadConfState("only a joint configuration can be left")

    def encode(self) -> bytes:
        """The configuration as bytes; equal configurations have equal bytes."""
        groups = (self.voters, self.outgoing, self.learners, self.learners_next)
        ids = [member for group in groups for member in sorted(group)]
        counts = [len(group) for group in groups]
        return _HEADER.pack(_AUTO_LEAVE if self.auto_leave else 0, *counts) + struct.pack(f"<{len(ids)}Q", *ids)

    @classmethod
    def decode(cls, buffer: bytes | memoryview) -> Self:
        """Read what `encode` wrote. Raises `BadConfState` on anything else."""
        if len(buffer) < _HEADER.size:
            raise BadConfState("configuration is cut short")
        flags, *counts = _HEADER.unpack_from(buffer)
        if len(buffer) != _HEADER.size + 8 * sum(counts) or flags & ~_AUTO_LEAVE:
            raise BadConfState("configuration has a wrong length or unknown flags")
        ids = struct.unpack_from(f"<{sum(counts)}Q", buffer, _HEADER.size)
        groups: list[frozenset[int]] = []
        at = 0
        for count in counts:
            group = ids[at : at + count]
            if any(left >= right for left, right in pairwise(group)):
                raise BadConfState("member ids are not in ascending order")
            groups.append(frozenset(group))
            at += count
        voters, outgoing, learners, learners_next = groups
        conf = cls(voters, outgoing, learners, learners_next, bool(flags & _AUTO_LEAVE))
        conf.check()
        return conf


class ChangeKind(Enum):
    """What is to become of a member. A learner is promoted by ADD_VOTER, a voter demoted by ADD_LEARNER."""

    ADD_VOTER = "voter"
    ADD_LEARNER = "learner"
    REMOVE = "removed"


class Change(NamedTuple):
    """One wish about one member. Member 0 is nobody: the change says nothing."""

    kind: ChangeKind
    member: int


class Objection(Enum):
    """Why a change cannot be made."""

    NO_VOTER = "no voter would be left"
    TOO_MANY = "more than one voter would change without a joint phase"
    EMPTY = "a group without voters has nobody who could decide a joint change"
    JOINT = "a joint change is under way and has to end first"
    NOT_JOINT = "no joint change is under way"


class BadChange(PlasmaError):
    """The change is not allowed in this configuration, which stays as it is."""

    def __init__(self, objection: Objection) -> None:
        super().__init__(f"membership change refused: {objection.value}")
        self.objection = objection


def simple(conf: ConfState, changes: Iterable[Change]) -> ConfState:
    """The configuration after changes that touch any number of learners, but one voter at most.

    Changes are idempotent and made in order, so the last one about a member counts. Raises `BadChange`.
    """
    if conf.joint:
        raise BadChange(Objection.JOINT)
    after = _changed(conf, changes)
    if len(conf.voters ^ after.voters) > 1:
        raise BadChange(Objection.TOO_MANY)
    return after


def enter_joint(conf: ConfState, changes: Iterable[Change], *, auto_leave: bool) -> ConfState:
    """The joint configuration that leads to any others: the old voters keep their say until `leave_joint`.

    Raises `BadChange`.
    """
    if conf.joint:
        raise BadChange(Objection.JOINT)
    if not conf.voters:
        raise BadChange(Objection.EMPTY)
    return _changed(ConfState(conf.voters, conf.voters, conf.learners, auto_leave=auto_leave), changes)


def leave_joint(conf: ConfState) -> ConfState:
    """The configuration behind a joint one: its new voters decide alone, and who was to become a learner does.

    Raises `BadChange`.
    """
    if not conf.joint:
        raise BadChange(Objection.NOT_JOINT)
    return ConfState(conf.voters, learners=conf.learners | conf.learners_next)


def change(conf: ConfState, changes: Iterable[Change]) -> ConfState:
    """Make changes in the cheapest way there is: at once if `simple` can, else by a joint phase that ends by itself.

    Raises `BadChange`; also when no voter would be left.
    """
    wanted = tuple(changes)
    try:
        return simple(conf, wanted)
    except BadChange as refused:
        if refused.objection is not Objection.TOO_MANY:
            raise
    return enter_joint(conf, wanted, auto_leave=True)


def _changed(conf: ConfState, changes: Iterable[Change]) -> ConfState:
    """Make changes to the (incoming) voters and the learners."""
    voters, learners, learners_next = set(conf.voters), set(conf.learners), set(conf.learners_next)
    for kind, member in changes:
        if not member:
            continue
        for group in (voters, learners, learners_next):
            group.discard(member)
        if kind is ChangeKind.ADD_VOTER:
            voters.add(member)
        elif kind is ChangeKind.ADD_LEARNER:  # nobody is voter and learner at once: an outgoing voter has to wait
            (learners_next if member in conf.outgoing else learners).add(member)
    if not voters:
        raise BadChange(Objection.NO_VOTER)
    after = ConfState(frozenset(voters), conf.outgoing, frozenset(learners), frozenset(learners_next), conf.auto_leave)
    after.check()
    return after
