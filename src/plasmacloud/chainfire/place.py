"""A member's place in a cluster: found out before anything of the cluster is opened.

An existing data directory has its place and keeps it. For an empty one the flags say what to do: found a cluster,
agree with others on who founds it, or ask one that exists. What was found out by asking is written to ``join.json``
before it is acted on, so that a crash in between does not ask for a second place.
"""

import asyncio
from pathlib import Path

import msgspec

from plasmacloud.base.errors import ConfigError
from plasmacloud.chainfire.config import ServerConfig, Start
from plasmacloud.chainfire.datadir import JOIN_NOTE, Place, read_place, write_note
from plasmacloud.chainfire.environment import Environment
from plasmacloud.chainfire.forming import form
from plasmacloud.chainfire.join import Membership, ask_to_join, cluster_at
from plasmacloud.chainfire.members import ClusterIdentity, found_cluster
from plasmacloud.storage.disk import Disk
from plasmacloud.storage.small_files import read_file

_ASK_S = 1.0


async def find_place(config: ServerConfig, environment: Environment) -> ServerConfig:
    """The configuration with member id, cluster id and founders filled in. Raises `ConfigError`."""
    placed = read_place(config.data_dir, disk=environment.disk)
    if placed is not None and config.start is Start.JOIN:
        await _check_same_cluster(config, placed)
    known = known_place(config, disk=environment.disk)
    if known is not None:
        return known
    if config.start is Start.EXPECT:
        outcome = await form(config, disk=environment.disk)
        if outcome.founders:
            initial = ",".join(f"{machine.name}={machine.peer}" for machine in outcome.founders)
            cluster = found_cluster(initial, config.cluster_token)
            return msgspec.structs.replace(config, cluster=cluster, member=cluster.member(config.member.name))
        config = msgspec.structs.replace(config, join=outcome.join)
    membership = await ask_to_join(
        config.join,
        name=config.member.name,
        peer=config.member.peer,
        learner=config.learner,
        timeout_s=config.join_timeout_s,
        now=asyncio.get_running_loop().time,
    )
    return take_place(config, membership, disk=environment.disk)


def known_place(config: ServerConfig, *, disk: Disk) -> ServerConfig | None:
    """The complete configuration, where flags and data directory say enough; None when somebody has to be asked.

    Raises `ConfigError` when they contradict each other.
    """
    noted, placed = _read_note(config.data_dir, disk), read_place(config.data_dir, disk=disk)
    # A member that was recovered into another cluster has left the place that the note speaks of.
    if noted is not None and placed in (None, (config.member.name, noted.cluster_id, noted.member_id)):
        return _joined(config, noted)
    if placed is not None and (config.start is not Start.FOUND or not config.flags_name_cluster):
        if placed.name != config.member.name:
            raise ConfigError(
                f"{config.data_dir} belongs to member {placed.name}, and --name is {config.member.name}",
                hint="every member has a data directory of its own",
            )
        member = msgspec.structs.replace(config.member, id=placed.member_id)
        return msgspec.structs.replace(
            config, member=member, cluster=ClusterIdentity(cluster_id=placed.cluster_id, members=())
        )
    return config if config.start is Start.FOUND else None


def take_place(config: ServerConfig, membership: Membership, *, disk: Disk) -> ServerConfig:
    """Note, durably, which place the cluster has given to this machine. Raises `ConfigError` or `StorageError`."""
    write_note(config.data_dir, JOIN_NOTE, msgspec.json.encode(membership), disk=disk)
    return _joined(config, membership)


async def _check_same_cluster(config: ServerConfig, placed: Place) -> None:
    """A directory that has its place keeps it, whatever --join says; but if those there are of another cluster, then
    this is the wrong directory, or they are the wrong addresses. Nobody need answer: all may be starting at once."""
    found = await asyncio.gather(*(cluster_at(target, timeout_s=_ASK_S) for target in config.join))
    for target, cluster_id in zip(config.join, found, strict=True):
        if cluster_id not in (None, placed.cluster_id):
            raise ConfigError(
                f"{config.data_dir} belongs to member {placed.name} of cluster {placed.cluster_id:x}, and at {target} "
                f"serves cluster {cluster_id:x}",
                hint="to join that one: an empty --data-dir; to go on in its own cluster: addresses of its members",
            )


def _read_note(data_dir: Path, disk: Disk) -> Membership | None:
    try:
        return msgspec.json.decode(read_file(data_dir / JOIN_NOTE, disk=disk), type=Membership)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(
            f"{data_dir / JOIN_NOTE} cannot be read: {error}",
            hint="the file says which place in the cluster this member was given; if the member has never been started "
            "successfully, remove the data directory and the member, and join again",
        ) from error


def _joined(config: ServerConfig, membership: Membership) -> ServerConfig:
    """A joined member knows no founders: a snapshot tells who belongs to the cluster."""
    member = msgspec.structs.replace(config.member, id=membership.member_id)
    others = tuple(other for other in membership.members if other.id != membership.member_id)
    cluster = ClusterIdentity(cluster_id=membership.cluster_id, members=())
    return msgspec.structs.replace(config, member=member, cluster=cluster, contacts=others)
