"""`plasma election`: run an election server (`serve`), or print the SQL that it needs to have been run (`schema`)."""

from pathlib import Path
from typing import Any

import click

from plasmacloud.cli.lazy import examples
from plasmacloud.cli.settings import Duration, Size

FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(
    epilog=examples("plasma election serve --id n1 --listen 127.0.0.1:8997 --backend postgres://ha@127.0.0.1/ha")
)
def election() -> None:
    """Leader election on PostgreSQL, or on leases of ChainFire or etcd. `plasma ha` looks after it."""


@election.command(
    epilog=examples(
        "plasma election serve --id n1 --listen 127.0.0.1:8997 --backend postgres://ha@127.0.0.1/ha",
        "plasma election serve --id n2 --listen 127.0.0.1:8998 --backend postgres://ha@127.0.0.1/ha --campaign 200ms",
        "plasma election serve --id n1 --listen 10.0.0.1:8997 --backend postgres://ha@db1,db2/ha \\",
        "  --tls-cert n1.pem --tls-key n1.key --token-file token --min-sync-replicas 1 \\",
        "  --on-elected 'systemctl start app' --on-deposed 'systemctl stop app'",
    )
)
@click.option("--id", "node_id", required=True, metavar="NAME", help="Name of this node; no other may have it.")
@click.option("--listen", default="127.0.0.1:8997", show_default=True, metavar="HOST:PORT", help="Address for HTTP.")
@click.option(
    "--backend",
    required=True,
    metavar="URL",
    help="Where the election is held: postgres://user@host/database, or etcd://host:2379. A password is better in "
    "PLASMA_ELECTION_SERVE_BACKEND, PGPASSWORD or ~/.pgpass than in a flag.",
)
@click.option("--election", "name", default="default", show_default=True, help="Name of the election.")
@click.option(
    "--campaign",
    type=Duration(),
    metavar="TIME",
    help="Ask for the lock this often. Without it: wait in the server's queue, which is faster.",
)
@click.option("--keepalive", type=Duration(), default="500ms", show_default=True, help="Time between a leader's asks.")
@click.option(
    "--demote-after",
    type=Duration(),
    default="1s",
    show_default=True,
    help="A leader gives up when its last good ask was sent this long ago.",
)
@click.option(
    "--session-timeout",
    type=Duration(),
    default="1500ms",
    show_default=True,
    help="The database frees the lock of a silent leader after this long.",
)
@click.option(
    "--lock-timeout",
    type=Duration(),
    default="500ms",
    show_default=True,
    help="Queue again after this long, so that a frozen node holds up nobody.",
)
@click.option(
    "--quorum-monitor-interval", type=Duration(), default="500ms", show_default=True, help="Time between probes."
)
@click.option(
    "--quorum-lost-after",
    type=Duration(),
    default="2s",
    show_default=True,
    help="Without a good probe for this long the quorum is lost.",
)
@click.option(
    "--min-sync-replicas",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="With fewer synchronous replicas of the database the quorum is lost.",
)
@click.option(
    "--max-lag",
    type=Size(),
    default="16MiB",
    show_default=True,
    help="A replica further behind is critical: degraded, and no ordered failover. 0: never.",
)
@click.option("--advertise", default="", metavar="URL", help="Where others reach this node, if not at --listen.")
@click.option("--peer", multiple=True, metavar="URL", help="Another server to ask about split brain. May be repeated.")
@click.option("--token-file", type=FILE, help="Calls that change something need the bearer token in this file.")
@click.option("--tls-cert", type=FILE, help="Serve TLS with this certificate (PEM).")
@click.option("--tls-key", type=FILE, help="The key of --tls-cert.")
@click.option("--client-ca", type=FILE, help="Take client certificates of this authority in place of a token.")
@click.option("--on-elected", default="", metavar="CMD|URL", help="Run or POST to this when this node is elected.")
@click.option("--on-deposed", default="", metavar="CMD|URL", help="Run or POST to this when it no longer leads.")
@click.option("--hook-timeout", type=Duration(), default="5s", show_default=True, help="A hook may take this long.")
@click.option("--insecure", is_flag=True, help="Let other machines in without TLS, or without proof of who calls.")
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
    node_id: str,
    listen: str,
    backend: str,
    name: str,
    campaign: float | None,
    keepalive: float,
    demote_after: float,
    session_timeout: float,
    lock_timeout: float,
    quorum_monitor_interval: float,
    quorum_lost_after: float,
    min_sync_replicas: int,
    max_lag: int,
    log_level: str,
    log_format: str,
    **rest: Any,
) -> None:
    """Run one election server: it contends for leadership, watches the database, and serves HTTP.

    The log goes to stderr. SIGTERM resigns first, then finishes the requests under way. Exit codes: 0 stopped; 6 the
    configuration or the database's refusal (password, privileges, version); 130 a second signal.
    """
    from plasmacloud.base.descriptors import raise_descriptor_limit
    from plasmacloud.base.logging import configure_logging
    from plasmacloud.election.quorum import Limits
    from plasmacloud.election.server import run
    from plasmacloud.election.server_config import make_config
    from plasmacloud.election.timers import Timers

    configure_logging(log_level, log_format)
    raise_descriptor_limit()
    timers = Timers(
        campaign=campaign,
        keepalive=keepalive,
        demote_after=demote_after,
        session_timeout=session_timeout,
        lock_timeout=lock_timeout,
    )
    limits = Limits(
        min_sync_replicas=min_sync_replicas,
        max_lag_bytes=max_lag,
        lost_after_s=max(quorum_lost_after, 2 * quorum_monitor_interval),
    )
    config = make_config(
        node_id=node_id,
        listen=listen,
        backend=backend,
        election=name,
        timers=timers,
        limits=limits,
        monitor_interval_s=quorum_monitor_interval,
        peers=rest.pop("peer"),
        hook_timeout_s=rest.pop("hook_timeout"),
        **rest,
    )
    run(config)


@election.command(epilog=examples("plasma election schema --role ha | psql postgres://postgres@db1/ha"))
@click.option("--role", required=True, metavar="NAME", help="The role that the servers connect with.")
def schema(role: str) -> None:
    """Print the SQL that makes an election's tables, and grants a role the least that servers need.

    For an administrator, where the servers' role may not create tables.
    """
    from plasmacloud.election.schema import administrators_sql

    click.echo(administrators_sql(role), nl=False)
