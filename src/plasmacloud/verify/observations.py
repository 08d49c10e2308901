"""What was seen from outside: status answers of the nodes, and the contents read back from them.

Both are taken through the public protocol only. Times are CLOCK_MONOTONIC nanoseconds of the lab process.
"""

import msgspec


class StatusSample(msgspec.Struct, frozen=True, omit_defaults=True):
    """One node's answer to Status, or the fact that it gave none (``error`` says why, the rest is 0).

    ``leader`` and ``member`` are member ids; leader 0 means that the node knows none.
    """

    sent_ns: int
    at_ns: int
    node: str
    incarnation: int
    member: int = 0
    leader: int = 0
    term: int = 0
    revision: int = 0
    error: str = ""

    @property
    def answered(self) -> bool:
        return not self.error

    @property
    def claims_leadership(self) -> bool:
        return self.answered and self.leader != 0 and self.leader == self.member


class KeyRecord(msgspec.Struct, frozen=True, array_like=True):
    """One key as one node holds it."""

    key: str
    value: str
    create_revision: int
    mod_revision: int
    version: int


class Reading(msgspec.Struct, frozen=True):
    """What every node held under ``prefix``, after it had applied everything up to ``revision``.

    ``missing`` names nodes that could not be read: a reading with missing nodes proves nothing about them.
    """

    label: str
    prefix: str
    revision: int
    began_ns: int
    nodes: dict[str, list[KeyRecord]]
    missing: dict[str, str]

    @property
    def complete(self) -> bool:
        return not self.missing and bool(self.nodes)


class MemberRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One member as the member list shows it. Without client URLs: it was added and has never started."""

    id: int
    name: str = ""
    peer_urls: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    learner: bool = False

    @property
    def started(self) -> bool:
        return bool(self.client_urls)

    def reached_at(self, peer: str) -> bool:
        """Whether ``peer`` (``host:port``) is an address of this member."""
        return any(url.rstrip("/").endswith(f"//{peer}") or url == peer for url in self.peer_urls)


class MembersSample(msgspec.Struct, frozen=True, omit_defaults=True):
    """A linearizable member list as one node gave it; recorded when it differs from the one before."""

    trial: int
    sent_ns: int
    at_ns: int
    node: str
    members: tuple[MemberRecord, ...] = ()

    def voters(self) -> set[str]:
        """Names of the members that have started and vote."""
        return {member.name for member in self.members if member.started and not member.learner}
