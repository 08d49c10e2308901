"""Who belongs to the cluster, and the identifiers that keep clusters apart.

The ids of the cluster and of its founders are computed from what every founder is told alike (`--initial-cluster` and
`--cluster-token`), so that they agree on them without talking. A node that was told something else computes
another cluster id and is refused by the others and by its own data directory, instead of joining by accident.
"""

import hashlib

import msgspec

from plasmacloud.base.address import Address, parse_address
from plasmacloud.base.errors import ConfigError
from plasmacloud.rpc.proto import rpc_pb2


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One member.

    ``peers``: where other members reach it; the first one is dialled. ``client_urls`` is empty until the member has
    started and published them. ``birth`` is the random number its data directory was made with, 0 while unknown.
    ``promote``: a learner on its way to become a voter, in place of ``replaces`` (0: of nobody).
    """

    id: int
    name: str
    peers: tuple[Address, ...]
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False
    birth: int = 0
    promote: bool = False
    replaces: int = 0

    @property
    def peer(self) -> Address:
        """Where other members dial it."""
        return self.peers[0]

    def peer_urls(self, scheme: str = "http") -> tuple[str, ...]:
        """Its peer addresses as etcd writes them."""
        return tuple(peer.url_with(scheme) for peer in self.peers)

    @property
    def started(self) -> bool:
        """Whether it has ever told the others how clients reach it."""
        return bool(self.client_urls)


class Publication(msgspec.Struct, frozen=True):
    """What a member tells the others through the log when it has started: where clients reach it, and who it is.

    An empty name and a birth of 0 leave what is known as it is.
    """

    member_id: int
    client_urls: tuple[str, ...]
    name: str = ""
    birth: int = 0

    def encode(self) -> bytes:
        """As the body of a PUBLISH command."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, body: bytes) -> "Publication":
        """Raises `msgspec.MsgspecError` when ``body`` is none."""
        return msgspec.msgpack.decode(body, type=cls)


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
        Member(id=identifier("member", token, f"{name}={peer}"), name=name, peers=(peer,)) for name, peer in ordered
    )
    if len({m.id for m in members}) != len(members):
        raise ConfigError("two members have the same id by accident", hint="change --cluster-token")
    cluster_id = identifier("cluster", token, ",".join(f"{name}={peer}" for name, peer in ordered))
    return ClusterIdentity(cluster_id=cluster_id, members=members)


def identifier(*parts: str) -> int:
    """A 64-bit id computed from ``parts``, never 0, which means "nobody" everywhere."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") or 1


def format_id(member_id: int) -> str:
    """An id as etcd's tools print it: lower-case hexadecimal."""
    return f"{member_id:x}"


def member_message(member: Member, peer_scheme: str = "http") -> rpc_pb2.Member:
    """The member as etcd's API shows it: one that never started has no name."""
    return rpc_pb2.Member(
        ID=member.id,
        name=member.name if member.started else "",
        peerURLs=member.peer_urls(peer_scheme),
        clientURLs=member.client_urls,
        isLearner=member.is_learner,
    )
