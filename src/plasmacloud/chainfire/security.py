"""Which certificates a member uses, towards clients and towards the other members, and where it may do without.

Towards clients it is a server, and asks for their certificates only with ``client_auth``. Towards the other members
both sides show one, always: that certificate is a member's passport (`rpc.peer_passport`). When a member asks another
one as a client would, to join or to found a cluster, it shows the certificate that it shows to clients.
"""

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from plasmacloud.base.address import Address, is_loopback
from plasmacloud.base.errors import ConfigError
from plasmacloud.base.logging import get_logger
from plasmacloud.base.tls import ClientTls, ServerTls, TlsFiles
from plasmacloud.rpc.peer_passport import ALPN

_WARN_DAYS = 30.0

log = get_logger("chainfire")


class Security(msgspec.Struct, frozen=True, kw_only=True):
    """``clients`` and ``peers``: the files for either side; None: plaintext."""

    clients: TlsFiles | None = None
    client_auth: bool = False
    peers: TlsFiles | None = None

    @property
    def client_scheme(self) -> str:
        """Of the URLs under which clients find this member."""
        return "http" if self.clients is None else "https"

    @property
    def peer_scheme(self) -> str:
        """Of the URLs under which the members find each other."""
        return "http" if self.peers is None else "https"

    def for_clients(self) -> ServerTls | None:
        """For the address on which clients are served. Raises `ConfigError`."""
        return None if self.clients is None else ServerTls(self.clients, require_client=self.client_auth)

    def for_peers(self) -> tuple[ServerTls, ClientTls] | None:
        """To be called by the other members, and to call them. Raises `ConfigError`."""
        if self.peers is None:
            return None
        called = ServerTls(self.peers, require_client=True, protocols=(ALPN,))
        return called, ClientTls(self.peers, protocols=(ALPN,), check_server_name=False)

    def as_client(self) -> ClientTls | None:
        """To ask other members where they serve clients. Raises `ConfigError`."""
        return None if self.clients is None else ClientTls(self.clients)

    def check(self, name: str) -> None:
        """Whether the files are there, fit together, and are those of member ``name``. Raises `ConfigError`.

        One that has expired is no reason not to start: the clock may be wrong, and files can be replaced meanwhile.
        """
        self.for_clients()
        self.for_peers()
        for files in dict.fromkeys(files for files in (self.clients, self.peers) if files is not None):
            assert files.certificate is not None, "checked where the contexts were made"
            _warn_of_expiry(files.certificate)
        if self.peers is not None and self.peers.certificate is not None:
            _check_passport(self.peers.certificate, name)


def make_security(
    name: str,
    directory: Path | None = None,
    *,
    client_auth: bool = False,
    clients: TlsFiles | None = None,
    peers: TlsFiles | None = None,
) -> Security:
    """From the flags of member ``name``. Raises `ConfigError`.

    ``directory``: of `plasma pki`, for both sides. ``clients``, ``peers``: single files in place of it, for one side.
    """
    made = None if directory is None else TlsFiles.of(directory, name)
    clients = _given(clients) or made
    peers = _given(peers) or made
    if client_auth and (clients is None or clients.authority is None):
        raise ConfigError(
            "--client-auth asks clients for certificates, and no authority is named that signs them",
            hint="--tls DIR, or --cert-file, --key-file and --trusted-ca-file",
        )
    if peers is not None and None in (peers.certificate, peers.key, peers.authority):
        raise ConfigError(
            "members show each other certificates: a certificate, its key and the authority are needed",
            hint="--tls DIR, or --peer-cert-file, --peer-key-file and --peer-trusted-ca-file",
        )
    return Security(clients=clients, client_auth=client_auth, peers=peers)


def refuse_open(security: Security, client: Address, peer: Address) -> None:
    """Raise `ConfigError` where others could listen in or talk along: plaintext beyond this machine."""
    for flag, address, files, who in (
        ("--listen-client", client, security.clients, "clients"),
        ("--listen-peer", peer, security.peers, "the other members"),
    ):
        if files is None and not is_loopback(address.host):
            raise ConfigError(
                f"{flag} {address} can be reached from other machines, and {who} would talk to it in plaintext",
                hint="--tls DIR, with certificates of `plasma pki`; or --insecure, where the network itself is safe",
            )


def _given(files: TlsFiles | None) -> TlsFiles | None:
    return None if files is None or files == TlsFiles() else files


def _check_passport(file: Path, name: str) -> None:
    """What the other members would refuse is better refused here."""
    from plasmacloud.base.pki import read_certificate

    shown = read_certificate(file)
    again = f"plasma pki issue {name} --dir DIR --host ADDRESS"
    if shown.name != name:
        raise ConfigError(
            f"{file} is the certificate of {shown.name!r}, and this member is called {name!r}",
            hint=f"the other members know it by its certificate, so the names must be the same: {again}",
        )
    if not (shown.server and shown.client):
        missing = "servers" if shown.client else "clients"
        raise ConfigError(
            f"{file} is no member's certificate: it may not be used by {missing}", hint=f"{again}, without --client"
        )


def _warn_of_expiry(file: Path) -> None:
    from plasmacloud.base.pki import read_certificate

    shown = read_certificate(file)
    left = shown.days_left(datetime.now(UTC))
    if left <= 0:
        log.error(
            "the certificate has expired, nobody will accept it", file=str(file), since=f"{shown.not_after:%F %T}"
        )
    elif left <= _WARN_DAYS:
        log.warning("the certificate expires soon", file=str(file), days_left=round(left, 1))
