"""Do the other members of a cluster still live? To be asked before one of them goes on as a cluster of its own.

Asked from outside, with a short deadline: first where they serve clients, which tells who answers, then at their
addresses for each other, where only a connection can be had. No answer proves nothing: the network between here and
there may be what is broken. So what was found is said, and the operator decides.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from plasmacloud.base.units import format_duration

if TYPE_CHECKING:
    from plasmacloud.base.address import Address
    from plasmacloud.chainfire.members import Member
    from plasmacloud.client import Client

DEADLINE_S = 1.5
"""For each address."""


class Other(msgspec.Struct, frozen=True):
    """One other member. ``found`` says in words what happened when it was asked."""

    id: int
    name: str
    alive: bool
    found: str


async def ask_others(client: "Client", others: Iterable["Member"], cluster_id: int) -> list[Other]:
    """All at once. Takes at most twice `DEADLINE_S`."""
    return list(await asyncio.gather(*(_ask(client, member, cluster_id) for member in others)))


async def _ask(client: "Client", member: "Member", cluster_id: int) -> Other:
    name = member.name or f"{member.id:x}"
    places = [url.partition("://")[2] or url for url in member.client_urls]
    for place, answer in zip(places, await asyncio.gather(*(_who(client, place) for place in places)), strict=True):
        if answer == (cluster_id, member.id):
            return Other(member.id, name, True, f"serves clients at {place}")
        if answer is not None:
            return Other(member.id, name, False, f"at {place} answers a member of another cluster, or another member")
    for peer, listens in zip(member.peers, await asyncio.gather(*map(_listens, member.peers)), strict=True):
        if listens:
            return Other(member.id, name, True, f"something listens at its peer address {peer}")
    asked = ", ".join([*places, *map(str, member.peers)])
    found = f"no answer at {asked} within {format_duration(DEADLINE_S)}" if asked else "its address is not known"
    return Other(member.id, name, False, found)


async def _who(client: "Client", place: str) -> tuple[int, int] | None:
    """The ids of the cluster and of the member that answers there; None: nobody."""
    from plasmacloud.client import ClientError

    try:
        header = (await client.status(place, timeout=DEADLINE_S)).header
    except ClientError:
        return None
    return header.cluster_id, header.member_id


async def _listens(peer: "Address") -> bool:
    try:
        async with asyncio.timeout(DEADLINE_S):
            _, writer = await asyncio.open_connection(peer.host, peer.port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
