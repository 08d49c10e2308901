"""Who belongs to the cluster, and the identifiers that keep clusters apart.

Member and cluster ids are computed from what every founding member is told alike (`--initial-cluster` and
`--cluster-token`), so that the founders agree on them without talking. A node that was told something else computes
another cluster id and is refused by the others and by its own data directory, instead of joining by accident.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from plasmacloud.base.address import Address, parse_address
from plasmacloud.base.errors import ConfigError


class Member(msgspec.Struct, frozen=True):
    """One member. ``client_urls`` is empty until the member has started and published them."""

    id: int
    name: str
    peer: Address
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False

    def with_client_urls(self, urls: Sequence[str]) -> "Member":
        """The same member, reachable by clients at ``urls``."""
        return msgspec.structs.replace(self, client_urls=tuple(urls))


class Publication(msgspec.Struct, frozen=True):
    """What a member tells the others through the log when it has started: where clients reach it."""

    member_id: int
    client_urls: tuple[str, ...]

    @property
    def extra_name(self) -> str:
        """Under which name the state machine keeps it."""
        return publication_name(self.member_id)

    def encode(self) -> bytes:
        """As the body of a PUBLISH command."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, body: bytes) -> "Publication":
        """Raises `msgspec.MsgspecError` when ``body`` is none."""
        return msgspec.msgpack.decode(body, type=cls)


def publication_name(member_id: int) -> str:
    """The name of a member's publication among the extra state."""
    return f"published/{member_id:x}"


class ClusterIdentity(msgspec.Struct, frozen=True):
    """The founding members and the id that follows from them."""

    cluster_id: int
    members: tuple[Member, ...]

    def member(self, name: str) -> Member:
        """The member called ``name``. Raises `ConfigError` when there is none."""
        for member in self.members:
            if member.name == name:
                return member
        known = ", ".join(m.name for m in self.members)
        raise ConfigError(f"{name!r} is not in --initial-cluster", hint=f"--name must be one of: {known}")


def found_cluster(initial_cluster: str, token: str) -> ClusterIdentity:
    """Compute the identity of the cluster that ``n1=host:port,n2=host:port,…`` describes.

    The order of the list does not matter. Raises `ConfigError` when it is empty, malformed, or names a member or an
    address twice.
    """
    peers: dict[str, Address] = {}
    for item in filter(None, (part.strip() for part in initial_cluster.split(","))):
        name, equals, address = item.partition("=")
        if not equals or not name:
            raise ConfigError(
                f"{item!r} in --initial-cluster is not of the form name=host:port",
                hint="for example n1=10.0.0.1:2380,n2=10.0.0.2:2380,n3=10.0.0.3:2380",
            )
        if name in peers:
            raise ConfigError(f"--initial-cluster names {name!r} twice")
        peers[name] = parse_address(address, what=f"peer address of {name}")
    if not peers:
        raise ConfigError("--initial-cluster is empty", hint="for example n1=127.0.0.1:2380")
    if len(set(peers.values())) != len(peers):
        raise ConfigError("--initial-cluster gives two members the same peer address")
    ordered = sorted(peers.items())
    members = tuple(
        Member(id=_identifier("member", token, f"{name}={peer}"), name=name, peer=peer) for name, peer in ordered
    )
    if len({m.id for m in members}) != len(members):
        raise ConfigError("two members have the same id by accident", hint="change --cluster-token")
    cluster_id = _identifier("cluster", token, ",".join(f"{name}={peer}" for name, peer in ordered))
    return ClusterIdentity(cluster_id=cluster_id, members=members)


def _identifier(*parts: str) -> int:
    """A 64-bit id that is never 0, which means "nobody" everywhere."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") or 1


def format_id(member_id: int) -> str:
    """An id as etcd's tools print it: lower-case hexadecimal."""
    return f"{member_id:x}"
