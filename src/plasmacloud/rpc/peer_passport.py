"""The certificate of the other side of a connection between members, and whether it is one of a member.

TLS has checked that the cluster's authority signed it and that it is valid today. That is not enough: clients have such
certificates, too. A member is server and client at once, and its certificate allows both; one of a client does not
(`plasma pki issue --client`), and so never passes here. Whose it is the common name says. That the name belongs to the
member id of the greeting only those can judge who know the members (`plasmacloud.chainfire.passports`).
"""

import ssl

import msgspec

from plasmacloud.rpc.peer_wire import Refusal, RefusalCode

ALPN = "plasma-peer"


class Passport(msgspec.Struct, frozen=True):
    """``name``: the common name. ``problem``: why this is no certificate of a member, empty if it is one."""

    name: str
    problem: str = ""

    def refusal(self, greeted_as: str | None) -> Refusal | None:
        """Why its holder is not let in, or None. ``greeted_as``: the name in its greeting, None: there is none."""
        if self.problem:
            return Refusal(RefusalCode.CERTIFICATE, self.problem)
        if greeted_as is not None and greeted_as != self.name:
            return Refusal(
                RefusalCode.CERTIFICATE, f"it calls itself {greeted_as!r}, and its certificate is that of {self.name!r}"
            )
        return None


def read_passport(connection: ssl.SSLObject) -> Passport:
    """Of the other side, behind the handshake."""
    from plasmacloud.base.pki import read_holder  # members without TLS need not load all this

    shown = connection.getpeercert(binary_form=True)
    if not shown:
        return Passport("", "it shows no certificate")
    try:
        holder = read_holder(shown)
    except ValueError as error:
        return Passport("", f"its certificate cannot be read: {error}")
    if not holder.name:
        return Passport("", "its certificate has no common name")
    if not (holder.server and holder.client):
        missing = "servers" if holder.client else "clients"
        return Passport(
            holder.name, f"the certificate of {holder.name!r} is no member's: it may not be used by {missing}"
        )
    return Passport(holder.name)
