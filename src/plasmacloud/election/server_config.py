"""What one election server is told: checked once, before anything is opened."""

import ipaddress
from pathlib import Path

import msgspec

from plasmacloud.base.address import Address, parse_address
from plasmacloud.base.errors import ConfigError
from plasmacloud.base.tls import ServerTls, TlsFiles
from plasmacloud.election.backend import DEFAULT_ELECTION, ETCD_SCHEME, POSTGRES_SCHEMES
from plasmacloud.election.hooks import DEFAULT_TIMEOUT_S, Hook, HookEvent, parse_hook
from plasmacloud.election.http_client import parse_url
from plasmacloud.election.quorum import Limits
from plasmacloud.election.timers import Timers
from plasmacloud.election.token_file import read_token

MAX_NAME_CHARS = 63


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Made by `make_config`. Times in seconds, sizes in bytes; ``token`` empty: none is asked for."""

    node_id: str
    listen: Address
    advertise: str
    backend: str
    election: str = DEFAULT_ELECTION
    timers: Timers
    limits: Limits
    monitor_interval_s: float = 0.5
    peers: tuple[str, ...] = ()
    token: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    hooks: dict[HookEvent, Hook]
    hook_timeout_s: float = DEFAULT_TIMEOUT_S

    def __repr__(self) -> str:
        return f"ServerConfig({self.node_id} on {self.listen})"

    @property
    def on_postgres(self) -> bool:
        """Whether the election is held in PostgreSQL."""
        return self.backend.startswith(POSTGRES_SCHEMES)

    @property
    def secure(self) -> bool:
        """Whether it serves TLS."""
        return self.tls_cert is not None


def make_config(
    *,
    node_id: str,
    listen: str,
    backend: str,
    election: str,
    timers: Timers,
    limits: Limits,
    monitor_interval_s: float,
    advertise: str = "",
    peers: tuple[str, ...] = (),
    token_file: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    client_ca: Path | None = None,
    on_elected: str = "",
    on_deposed: str = "",
    hook_timeout_s: float = DEFAULT_TIMEOUT_S,
    insecure: bool = False,
) -> ServerConfig:
    """Check everything that can be checked without opening a connection. Raises `ConfigError`."""
    for what, name in (("--id", node_id), ("--election", election)):
        if not name or len(name) > MAX_NAME_CHARS or not name.isprintable() or " " in name:
            raise ConfigError(f"{what} {name!r} is not a name of 1 to {MAX_NAME_CHARS} characters without spaces")
    if not backend.startswith((*POSTGRES_SCHEMES, ETCD_SCHEME)):
        scheme = backend.partition("://")[0]
        raise ConfigError(
            f"--backend {scheme!r} is no store that elections can be held in",
            hint="postgres://user@host:5432/database, or etcd://host:2379,host:2379",
        )
    address = parse_address(listen, what="--listen")
    if (tls_cert is None) != (tls_key is None):
        raise ConfigError("--tls-cert and --tls-key belong together")
    if client_ca is not None and tls_cert is None:
        raise ConfigError("--client-ca asks clients for certificates, and so needs --tls-cert and --tls-key")
    token = read_token(token_file) if token_file else ""
    if not insecure and not is_loopback(address.host):
        _refuse_open(address, tls=tls_cert is not None, proof=bool(token) or client_ca is not None)
    if tls_cert is not None:  # for a message that names the files: later they would fail behind the event loop
        ServerTls(TlsFiles(tls_cert, tls_key, client_ca))
    scheme = "https" if tls_cert else "http"
    found = {
        HookEvent.ELECTED: parse_hook(on_elected, what="--on-elected"),
        HookEvent.DEPOSED: parse_hook(on_deposed, what="--on-deposed"),
    }
    return ServerConfig(
        node_id=node_id,
        listen=address,
        advertise=parse_url(advertise, what="--advertise").text if advertise else f"{scheme}://{address}",
        backend=backend,
        election=election,
        timers=timers,
        limits=limits,
        monitor_interval_s=monitor_interval_s,
        peers=tuple(parse_url(peer, what="--peer").text for peer in peers),
        token=token,
        tls_cert=tls_cert,
        tls_key=tls_key,
        client_ca=client_ca,
        hooks={event: hook for event, hook in found.items() if hook is not None},
        hook_timeout_s=hook_timeout_s,
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_open(address: Address, *, tls: bool, proof: bool) -> None:
    missing = []
    if not tls:
        missing.append("TLS (--tls-cert, --tls-key)")
    if not proof:
        missing.append("proof of who calls (--token-file, or --client-ca)")
    if missing:
        raise ConfigError(
            f"--listen {address} can be reached from other machines, without {' and without '.join(missing)}",
            hint="give these, listen on 127.0.0.1, or say --insecure",
        )
