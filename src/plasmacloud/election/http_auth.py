"""Who may change something: a bearer token from a file, or a client certificate; and who says that he did it.

Reading is free; what is read here holds no secret. Every call that changes something needs the name of its operator,
and proof where the server was configured to ask for it. With both a token and a client authority configured, either
will do. The token is compared in constant time, and stands in no log, no process title and no error.
"""

import hmac
from typing import Any

from plasmacloud.election.http_problems import FORBIDDEN, INVALID, UNAUTHENTICATED, Problem

MAX_NAME_CHARS = 128
MAX_REASON_CHARS = 1024
PEER_SCOPE_KEY = "plasma.peer"


def subject_of(peer_certificate: dict[str, Any] | None) -> str:
    """The name in a verified client certificate: its common name, or else its first alternative name; or nothing."""
    if not peer_certificate:
        return ""
    for part in peer_certificate.get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    for _kind, value in peer_certificate.get("subjectAltName", ()):
        return str(value)
    return ""


class Door:
    """Judges the calls that change something. ``token`` empty and ``certificates`` False: everybody may."""

    def __init__(self, *, token: str, certificates: bool) -> None:
        self._token = token
        self._certificates = certificates

    def admit(self, *, authorization: str, subject: str, origin: str, host: str) -> None:
        """Raises `Problem` when this caller may not change anything."""
        if origin and origin.partition("://")[2] != host:
            raise Problem(FORBIDDEN, "calls from web pages of another origin are refused")
        if not self._token and not self._certificates:
            return
        if self._certificates and subject:
            return
        if self._token and _same_token(authorization, self._token):
            return
        ways = []
        if self._token:
            ways.append("the header 'Authorization: Bearer TOKEN' (plasma ha: --token-file)")
        if self._certificates:
            ways.append("a client certificate (plasma ha: --cert, --key)")
        wrong = "the token is wrong" if authorization and self._token else "nothing proves who calls"
        raise Problem(UNAUTHENTICATED, wrong, hint=f"send {' or '.join(ways)}")


def _same_token(authorization: str, token: str) -> bool:
    scheme, _, given = authorization.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def check_operator(operator: str, subject: str, reason: str | None = None) -> str:
    """The name to write into the audit: the one given, or else the certificate's. Raises `Problem`."""
    name = operator.strip() or subject
    if not name:
        raise Problem(INVALID, "operator is missing: whose decision is this?")
    if len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise Problem(INVALID, f"operator is not a name of at most {MAX_NAME_CHARS} printable characters")
    if reason is not None and not reason.strip():
        raise Problem(INVALID, "reason is missing: it is what others will read in the audit")
    if reason is not None and len(reason) > MAX_REASON_CHARS:
        raise Problem(INVALID, f"reason has more than {MAX_REASON_CHARS} characters")
    return name
