"""``plasma chainfire serve``: run one ChainFire member in the foreground."""

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from plasmacloud.base.errors import ConfigError
from plasmacloud.cli.settings import Duration, Size

Command = TypeVar("Command", bound=Callable[..., Any])

_EPILOG = """\b
Examples:
  A single node, data in ./n1:
    plasma chainfire serve --name n1 --data-dir n1
\b
  One of three (run the same with n2 and n3 on the other machines; certificates: plasma pki, docs/security.md):
    plasma chainfire serve --name n1 --data-dir /var/lib/chainfire --tls /etc/plasma/pki --client-auth \\
      --listen-client 10.0.0.1:2379 --listen-peer 10.0.0.1:2380 \\
      --initial-cluster n1=10.0.0.1:2380,n2=10.0.0.2:2380,n3=10.0.0.3:2380
\b
  One machine first, then others that join it:
    plasma chainfire serve --name n1 --data-dir n1 --bootstrap
    plasma chainfire serve --name n2 --data-dir n2 --join 127.0.0.1:2379 \\
      --listen-client 127.0.0.1:22379 --listen-peer 127.0.0.1:22380
\b
  The same from a file; each key is a flag without its dashes:
    plasma chainfire serve --config node.toml
\b
SIGTERM or Ctrl-C hands leadership over, finishes the requests under way and exits with 0.
Exit status 6: the configuration or the data directory was refused. 7: the disk failed or its data is damaged.
"""


def _load_config(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    """Make the keys of the TOML file the defaults of the flags; flags and environment variables go before them."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    known = {param.name for param in ctx.command.params if param.name not in ("config", "help")}
    defaults = {key.replace("-", "_"): value for key, value in values.items()}
    unknown = sorted(set(defaults) - known)
    if unknown:
        raise ConfigError(
            f"{path} has unknown keys: {', '.join(unknown)}",
            hint=f"known are {', '.join(sorted(name.replace('_', '-') for name in known if name))}",
        )
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _file_options(*options: tuple[str, str]) -> Callable[[Command], Command]:
    """Flags as etcd has them, for PEM files one by one."""

    def add(command: Command) -> Command:
        for flag, text in reversed(options):
            command = click.option(flag, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help=text)(
                command
            )
        return command

    return add


@click.command(epilog=_EPILOG)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    is_eager=True,
    expose_value=False,
    callback=_load_config,
    help="TOML file whose keys are the flags below.",
)
@click.option("--name", required=True, help="Name of this member, as in --initial-cluster.")
@click.option(
    "--data-dir",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the log and the state live. Made when missing; never shared between members.",
)
@click.option("--listen-client", default="127.0.0.1:2379", show_default=True, help="Address for clients (etcd v3 API).")
@click.option("--listen-peer", default="127.0.0.1:2380", show_default=True, help="Address for the other members.")
@click.option(
    "--tls",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="TLS with clients, mutual TLS with the other members. DIR as `plasma pki` makes it: ca.crt and this member's "
    "NAME.crt and NAME.key. Replaced files are taken over without a restart.",
)
@click.option(
    "--client-auth", "--client-cert-auth", is_flag=True, help="Serve only clients with a certificate of the authority."
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Allow plaintext on addresses that other machines reach, where the network is safe.",
)
@_file_options(
    ("--cert-file", "In place of --tls, towards clients: the certificate (with its chain)."),
    ("--key-file", "The key of --cert-file."),
    ("--trusted-ca-file", "The authority that signs clients' certificates."),
    ("--peer-cert-file", "In place of --tls, towards the other members: the certificate. Its common name is --name."),
    ("--peer-key-file", "The key of --peer-cert-file."),
    ("--peer-trusted-ca-file", "The authority that signs the members' certificates."),
)
@click.option(
    "--initial-cluster",
    default="",
    help="All founding members: n1=host:port,n2=host:port,… with their peer addresses. Without it: this member alone.",
)
@click.option("--bootstrap", is_flag=True, help="Found a cluster of this member alone; others --join it.")
@click.option(
    "--join",
    multiple=True,
    metavar="HOST:PORT",
    help="Join the cluster that the member with this client address belongs to. May be repeated.",
)
@click.option(
    "--join-timeout", type=Duration(), default="60s", show_default=True, help="Give up joining after this long."
)
@click.option("--learner", is_flag=True, help="With --join: stay a learner until promoted by hand.")
@click.option(
    "--bootstrap-expect",
    type=int,
    default=0,
    metavar="N",
    help="Found the cluster together with others as soon as N machines have found each other; later ones join.",
)
@click.option(
    "--seeds", multiple=True, metavar="HOST:PORT", help="With --bootstrap-expect: client addresses of some machines."
)
@click.option(
    "--learner-deadline",
    type=Duration(),
    default="10m",
    show_default=True,
    help="A learner that has never come is removed after this long.",
)
@click.option(
    "--dead-after", type=Duration(), default="5m", show_default=True, help="Report a member silent for this long."
)
@click.option(
    "--dead-members",
    type=click.Choice(["report", "remove"]),
    default="report",
    show_default=True,
    help="What to do about a dead member; it is only removed while the others keep a quorum.",
)
@click.option(
    "--snapshot-rate",
    type=Size(),
    default="0B",
    show_default=True,
    help="Send snapshots to other members no faster than so many bytes a second (e.g. 50MiB); 0B: as fast as it goes.",
)
@click.option(
    "--history-limit",
    type=Size(),
    default="512MiB",
    show_default=True,
    help="Forget revisions older than the last so many bytes of changes; 0B: keep them until a client compacts.",
)
@click.option(
    "--cluster-token", default="plasmacloud", show_default=True, help="Keeps clusters with equal addresses apart."
)
@click.option(
    "--advertise-client",
    multiple=True,
    metavar="HOST:PORT",
    help="Address under which clients reach this member, if it is not --listen-client. May be repeated.",
)
@click.option(
    "--election-timeout",
    type=Duration(),
    default="300ms",
    show_default=True,
    help="A leader silent for this long (up to twice this long) is replaced.",
)
@click.option(
    "--heartbeat-interval",
    type=Duration(),
    default="50ms",
    show_default=True,
    help="Time between a leader's heartbeats.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Leave out log lines below this level.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Log lines for people, or one JSON object a line.",
)
def serve(
    *,
    name: str,
    data_dir: Path,
    listen_client: str,
    listen_peer: str,
    tls: Path | None,
    client_auth: bool,
    insecure: bool,
    cert_file: Path | None,
    key_file: Path | None,
    trusted_ca_file: Path | None,
    peer_cert_file: Path | None,
    peer_key_file: Path | None,
    peer_trusted_ca_file: Path | None,
    initial_cluster: str,
    bootstrap: bool,
    join: tuple[str, ...],
    join_timeout: float,
    learner: bool,
    bootstrap_expect: int,
    seeds: tuple[str, ...],
    learner_deadline: float,
    dead_after: float,
    dead_members: str,
    snapshot_rate: int,
    history_limit: int,
    cluster_token: str,
    advertise_client: tuple[str, ...],
    election_timeout: float,
    heartbeat_interval: float,
    log_level: str,
    log_format: str,
) -> None:
    """Run one ChainFire member: a replica of a key-value store that speaks the etcd v3 API.

    The log goes to stderr. The member serves as soon as a majority of the cluster runs. Addresses that other machines
    reach need --tls (or --insecure).
    """
    from plasmacloud.base import compiled

    # Before anything is imported that might be compiled.
    modules = "compiled" if compiled.use_compiled(os.environ.get(compiled.VARIABLE)) else "python"

    from plasmacloud.base.logging import configure_logging, get_logger
    from plasmacloud.base.tls import TlsFiles
    from plasmacloud.chainfire.config import make_config
    from plasmacloud.chainfire.membership_policy import DeadPolicy, PolicyConfig
    from plasmacloud.chainfire.security import make_security
    from plasmacloud.chainfire.server import run

    configure_logging(log_level, log_format)
    get_logger("chainfire").info("starting", name=name, modules=modules)
    security = make_security(
        name,
        tls,
        client_auth=client_auth,
        clients=TlsFiles(cert_file, key_file, trusted_ca_file),
        peers=TlsFiles(peer_cert_file, peer_key_file, peer_trusted_ca_file),
    )
    config = make_config(
        name=name,
        data_dir=data_dir,
        listen_client=listen_client,
        listen_peer=listen_peer,
        initial_cluster=initial_cluster,
        cluster_token=cluster_token,
        advertise_client=advertise_client,
        bootstrap=bootstrap,
        join=join,
        join_timeout_s=join_timeout,
        learner=learner,
        bootstrap_expect=bootstrap_expect,
        seeds=seeds,
        policy=PolicyConfig(
            learner_deadline_s=learner_deadline, dead_after_s=dead_after, dead_policy=DeadPolicy(dead_members)
        ),
        snapshot_rate_bytes_s=snapshot_rate,
        history_limit_bytes=history_limit,
        election_timeout_s=election_timeout,
        heartbeat_interval_s=heartbeat_interval,
        security=security,
        insecure=insecure,
    )
    run(config)
