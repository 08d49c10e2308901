"""Whose certificate goes with which member id.

A member is its id; the log knows what each is called, and the authority signs a certificate for a name. So a holder of
one may only speak as a member of that name. An id that has no name here yet, because the member was added without one,
or while this member was away, may be of any holder of a member's certificate, also of one whose name another member
has: a replacement is called as the member it replaces, and it may lead before this member has heard of it.
"""

import asyncio
from collections.abc import Callable, Iterable

from plasmacloud.chainfire.cluster_state import ClusterState
from plasmacloud.chainfire.members import Member, format_id
from plasmacloud.rpc.peer_door import Judge
from plasmacloud.rpc.peer_wire import PeerClaim, Refusal, RefusalCode


def misnamed(claim: PeerClaim, member: Member | None) -> Refusal | None:
    """Why the certificate that was shown is not that of the member who is claimed, or None; without TLS always None.

    ``member``: what is known of it here.
    """
    if not claim.certified or member is None or member.name in ("", claim.certified):
        return None
    return Refusal(
        RefusalCode.CERTIFICATE,
        f"member {format_id(member.id)} is {member.name!r}, and the certificate is that of {claim.certified!r}",
    )


def with_passports(judge: Judge, contacts: Iterable[Member], cluster: Callable[[], ClusterState]) -> Judge:
    """A judge who looks at the certificate first. ``contacts``: known before the log tells who is a member."""
    told = {member.id: member for member in contacts}

    def look(claim: PeerClaim) -> "Refusal | asyncio.Future[None] | None":
        return misnamed(claim, cluster().get(claim.member_id) or told.get(claim.member_id)) or judge(claim)

    return look
