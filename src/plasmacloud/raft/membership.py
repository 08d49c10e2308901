"""Who belongs to the group: the data model of a configuration.

Voters form the quorum; during a joint change the ``outgoing`` voters form a second one (Raft thesis §4.3). Learners
receive the log and count nowhere. ``learners_next`` are voters of the outgoing configuration which become learners
once the joint phase ends: until then they still vote, so they may not yet be listed as learners.
"""

import struct
from itertools import pairwise
from typing import Self

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
