"""Whose certificate goes with which member id.

A member is its id; the log knows what each is called, and the authority signs a certificate for a name. So a holder of
one may only speak as a member of that name. An id that has no name here yet, because the member was added without one,
or while this member was away, may be of any holder of a member's certificate, also of one whose name another member
has: a replacement is called as the member it replaces, and it may lead before this member has heard of it.
"""

from plasmacloud.chainfire.members import Member, format_id
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
