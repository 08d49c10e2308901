"""Becoming a member of a cluster that exists: ask any of its members, learn one's id, start as a learner.

Asking is safe to repeat: a machine that asked and died before it heard the answer finds itself in the member list, not
started yet, and goes on from there. What it must not do is take the place of a member that *has* started: then its own
data directory is lost or elsewhere, and a member without its memory may not vote (see `peer_memory`).
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from plasmacloud.base.address import Address, parse_address
from plasmacloud.base.errors import ConfigError
from plasmacloud.base.logging import get_logger
from plasmacloud.base.units import format_duration
from plasmacloud.chainfire.members import Member, format_id
from plasmacloud.client import Client, ClientError, NotExecuted, RequestRefused
from plasmacloud.client.types import Member as ListedMember
from plasmacloud.client.types import MemberList

_PAUSE_S = 0.5
_ATTEMPT_S = 5.0

log = get_logger("join")


class Membership(msgspec.Struct, frozen=True):
    """What a new member has to know: the cluster, its own id, and who else belongs to it."""

    cluster_id: int
    member_id: int
    members: tuple[Member, ...]


async def ask_to_join(
    targets: Sequence[Address], *, name: str, peer: Address, learner: bool, timeout_s: float, now: Callable[[], float]
) -> Membership:
    """Ask the members at ``targets`` (client addresses) until one has added us. ``now``: monotonic seconds.

    Raises `ConfigError` when the cluster says no, or when nobody answered within ``timeout_s``.
    """
    deadline = now() + timeout_s
    said = ""
    async with Client([str(target) for target in targets], timeout=_ATTEMPT_S) as client:
        while True:
            try:
                return await _ask_once(client, name=name, peer=peer, learner=learner)
            except RequestRefused as error:
                raise ConfigError(f"the cluster does not take {name} at {peer} as a member: {error.reason}") from error
            except ClientError as error:
                # Also when the outcome is unknown: the next look at the member list tells.
                if now() >= deadline:
                    raise ConfigError(
                        f"could not join within {format_duration(timeout_s)}: {error}",
                        hint="--join takes client addresses of members that run; the cluster needs a quorum to add one",
                    ) from error
                if str(error) != said:
                    said = str(error)
                    log.info("not joined yet, asking again", reason=said, executed=not isinstance(error, NotExecuted))
            await asyncio.sleep(_PAUSE_S)


async def cluster_at(address: Address, *, timeout_s: float) -> int | None:
    """The cluster whose member serves there; None when nobody answers in time."""
    async with Client([str(address)], timeout=timeout_s) as client:
        try:
            return (await client.status(str(address))).header.cluster_id
        except ClientError:
            return None


async def _ask_once(client: Client, *, name: str, peer: Address, learner: bool) -> Membership:
    listed = await client.member_list()
    own = _listed_at(listed, peer)
    if own is not None:
        if own.client_urls:
            raise ConfigError(
                f"{peer} is the address of member {own.name} ({format_id(own.id)}), which has been part of the cluster "
                "before, and this data directory is empty",
                hint=f"if its data is lost: plasma chainfire member remove {format_id(own.id)}, then start this again; "
                "if not: start it with its own --data-dir",
            )
        log.info("the cluster expects this member already", member=format_id(own.id))
        return _membership(listed, own.id)
    added = await client.add_member([peer.url], name=name, learner=learner)
    log.info("added to the cluster as a learner", member=format_id(added.id))
    return _membership(await client.member_list(), added.id)


def _listed_at(listed: MemberList, peer: Address) -> ListedMember | None:
    for member in listed.members:
        if peer in [parse_address(url, what="peer URL") for url in member.peer_urls]:
            return member
    return None


def _membership(listed: MemberList, member_id: int) -> Membership:
    members = tuple(
        Member(
            id=member.id,
            name=member.name,
            peers=tuple(parse_address(url, what="peer URL") for url in member.peer_urls),
            client_urls=tuple(member.client_urls),
            is_learner=member.is_learner,
        )
        for member in listed.members
    )
    return Membership(listed.header.cluster_id, member_id, members)
