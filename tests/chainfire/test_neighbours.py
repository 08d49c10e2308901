"""Whom a member dials."""

from pathlib import Path

import msgspec

from plasmacloud.base.address import Address
from plasmacloud.chainfire.cluster_state import ClusterState
from plasmacloud.chainfire.config import MAX_MEMBERS, ServerConfig, make_config
from plasmacloud.chainfire.member_commands import AddMember, CommandKind, RemoveMember, encode_member_command
from plasmacloud.chainfire.members import ClusterIdentity
from plasmacloud.chainfire.neighbours import Neighbours, own_address
from plasmacloud.rpc.peer_options import PeerState

FOUNDERS = "n1=127.0.0.1:11,n2=127.0.0.1:12,n3=127.0.0.1:13"


class Dialled:
    """Stands in for the transport: whom it was told to dial."""

    def __init__(self) -> None:
        self.addresses: dict[int, str] = {}

    def set_peer(self, member_id: int, host: str, port: int) -> None:
        self.addresses[member_id] = f"{host}:{port}"

    def remove_peer(self, member_id: int) -> None:
        del self.addresses[member_id]

    def peers(self) -> list[PeerState]:
        return [
            PeerState(member_id=member, address=address, connected=False, incoming=False)
            for member, address in self.addresses.items()
        ]


def member_n1() -> ServerConfig:
    return make_config(
        name="n1",
        data_dir=Path("/nowhere"),
        listen_client="127.0.0.1:1",
        listen_peer="127.0.0.1:11",
        initial_cluster=FOUNDERS,
    )


def start() -> tuple[Neighbours, Dialled, ClusterState]:
    config, transport = member_n1(), Dialled()
    cluster = ClusterState.founded(config.cluster)
    neighbours = Neighbours(config, transport)  # type: ignore[arg-type]
    neighbours.follow(cluster)
    return neighbours, transport, cluster


def add(cluster: ClusterState, address: Address) -> int:
    return cluster.apply(CommandKind.MEMBER_ADD, encode_member_command(AddMember(peers=(address,))), 9)


def test_the_other_members_are_dialled() -> None:
    _, transport, cluster = start()
    assert sorted(transport.addresses.values()) == ["127.0.0.1:12", "127.0.0.1:13"]
    assert own_address(member_n1(), cluster) == Address("127.0.0.1", 11)
    assert own_address(member_n1(), ClusterState(1)) == Address("127.0.0.1", 11)


def test_a_stranger_that_was_let_in_is_dialled_until_the_log_knows_it() -> None:
    neighbours, transport, cluster = start()
    later = ClusterState.decode(cluster.encode())
    fourth = add(later, Address("127.0.0.1", 14))
    neighbours.welcome(fourth, "localhost:14", cluster)
    neighbours.follow(cluster)  # something else about the membership was applied
    assert transport.addresses[fourth] == "localhost:14"
    neighbours.follow(later)
    assert transport.addresses[fourth] == "127.0.0.1:14", "as the cluster has it"
    later.apply(CommandKind.MEMBER_REMOVE, encode_member_command(RemoveMember(fourth)), 10)
    neighbours.follow(later)
    assert fourth not in transport.addresses
    neighbours.welcome(fourth, "127.0.0.1:14", later)
    assert fourth not in transport.addresses, "who has left is no guest"


def test_a_guest_that_has_left_meanwhile_is_dialled_no_more() -> None:
    neighbours, transport, cluster = start()
    fourth = add(cluster, Address("127.0.0.1", 14))
    neighbours.welcome(fourth, "127.0.0.1:14", ClusterState.founded(member_n1().cluster))
    cluster.apply(CommandKind.MEMBER_REMOVE, encode_member_command(RemoveMember(fourth)), 10)
    neighbours.follow(cluster)
    assert fourth not in transport.addresses


def test_nonsense_and_too_many_strangers_are_not_dialled() -> None:
    neighbours, transport, cluster = start()
    for address in ("", "host", "host:99999", "a b:c"):
        neighbours.welcome(99, address, cluster)
    assert len(transport.addresses) == 2
    for stranger in range(100, 200):
        neighbours.welcome(stranger, "127.0.0.1:5", cluster)
    assert len(transport.addresses) == 2 + MAX_MEMBERS


def test_a_new_member_dials_its_contacts_first() -> None:
    config, transport = member_n1(), Dialled()
    joined = msgspec.structs.replace(
        config, cluster=ClusterIdentity(cluster_id=5, members=()), contacts=config.cluster.members[1:]
    )
    Neighbours(joined, transport).follow(ClusterState(5))  # type: ignore[arg-type]
    assert transport.addresses.keys() == {member.id for member in joined.contacts if member.id != config.member.id}
