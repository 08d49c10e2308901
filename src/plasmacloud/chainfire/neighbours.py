"""Whom a member dials: the members of the cluster as far as it knows them, and those who call and belong there.

What a member knows of the cluster is as old as its applied state. A member that was away while another one joined does
not know that one, which may lead by now. If it did not answer, the leader would never learn what it lacks, and would
send nothing from which it could learn who that leader is. So whoever was let in by the transport (`rpc.peer_door`) and
says where it listens is dialled too: a *guest*, until the log says that it is a member, or one no more.
"""

from plasmacloud.base.address import Address, parse_address
from plasmacloud.base.errors import ConfigError
from plasmacloud.base.logging import get_logger
from plasmacloud.chainfire.cluster_state import ClusterState
from plasmacloud.chainfire.config import MAX_MEMBERS, ServerConfig
from plasmacloud.chainfire.members import format_id
from plasmacloud.rpc.transport import Transport

log = get_logger("chainfire")


class Neighbours:
    """Keeps the peers of a transport right."""

    def __init__(self, config: ServerConfig, transport: Transport) -> None:
        self._own_id = config.member.id
        self._contacts = config.contacts
        self._transport = transport
        self._guests: dict[int, Address] = {}

    def follow(self, cluster: ClusterState) -> None:
        """Dial exactly the members of the cluster, and the guests."""
        members = cluster.members or self._contacts  # a new member: nobody has told it yet who belongs to the cluster
        others = {member.id: member.peer for member in members if member.id != self._own_id}
        for guest in list(self._guests):
            if guest in others or guest in cluster.departed:
                del self._guests[guest]
        others.update(self._guests)
        for member_id, peer in others.items():
            self._transport.set_peer(member_id, peer.host, peer.port)
        for known in self._transport.peers():
            if known.member_id not in others:
                self._transport.remove_peer(known.member_id)

    def welcome(self, member_id: int, address: str, cluster: ClusterState) -> None:
        """Somebody whom the transport does not dial was let in, and says where it listens."""
        if len(self._guests) >= MAX_MEMBERS or member_id in cluster.departed:
            return
        try:
            peer = parse_address(address)
        except ConfigError as error:
            log.warning("a member calls from nowhere", member=format_id(member_id), reason=str(error))
            return
        log.info("a member that is not known here yet calls", member=format_id(member_id), address=address)
        self._guests[member_id] = peer
        self._transport.set_peer(member_id, peer.host, peer.port)


def own_address(config: ServerConfig, cluster: ClusterState) -> Address:
    """Where the others dial this member: as the cluster has it, else as its own flags say."""
    own = cluster.get(config.member.id)
    return own.peer if own is not None and own.peers else config.member.peer
