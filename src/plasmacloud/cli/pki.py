"""`plasma pki`: a cluster's own certificate authority, and certificates for its members and clients."""

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from plasmacloud.base.errors import ExitCode
from plasmacloud.cli.lazy import examples
from plasmacloud.cli.output import emit, table
from plasmacloud.cli.settings import Settings

_WARN_DAYS = 30.0


class _Row(msgspec.Struct, frozen=True):
    """What is shown of one certificate."""

    name: str
    hosts: tuple[str, ...]
    expires: datetime
    days_left: float
    state: str


DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.group(
    epilog=examples(
        "plasma pki init pki",
        "plasma pki issue n1 --dir pki --host 10.0.0.1 --host n1.example",
        "plasma pki issue backup --dir pki --client          # for a client",
        "plasma pki list --dir pki",
    )
)
def pki() -> None:
    """Make and renew the certificates with which members and clients know each other."""


@pki.command(epilog=examples("plasma pki init /etc/plasma/pki", "plasma pki init pki --name staging --days 730"))
@click.argument("directory", type=DIRECTORY)
@click.option("--name", default="PlasmaCloud", show_default=True, help="Goes into the authority's subject.")
@click.option("--days", type=int, default=3650, show_default=True, help="How long the authority is valid.")
def init(directory: Path, name: str, days: int) -> None:
    """Make a certificate authority in DIRECTORY: ca.crt, which everybody may have, and ca.key, which nobody may."""
    from plasmacloud.base.pki import init_authority

    made = init_authority(directory, name=name, days=days)
    click.echo(f"{made.path}: {made.name}, valid until {made.not_after:%F}")
    click.echo(
        f"next: plasma pki issue NAME --dir {directory} --host ADDRESS   (keep ca.key on this machine)", err=True
    )


@pki.command(
    epilog=examples(
        "plasma pki issue n1 --dir pki --host 10.0.0.1 --host n1.example",
        "plasma pki issue n1 --dir pki --host 10.0.0.1 --renew",
        "plasma pki issue operator --dir pki --client --days 30",
    )
)
@click.argument("name")
@click.option("--dir", "directory", type=DIRECTORY, required=True, help="Where the authority is; files go there, too.")
@click.option("--host", "hosts", multiple=True, help="Name or IP address under which it is dialled; repeatable.")
@click.option("--client", is_flag=True, help="For a client only: nobody will believe it to be a server.")
@click.option("--days", type=int, default=365, show_default=True, help="How long it is valid.")
@click.option("--renew", is_flag=True, help="Replace an existing certificate and its key.")
def issue(name: str, directory: Path, hosts: tuple[str, ...], client: bool, days: int, renew: bool) -> None:
    """Issue a certificate for NAME, a member or a client: NAME.crt and NAME.key.

    Servers take over replaced files by themselves, at the next connection.
    """
    from plasmacloud.base.pki import issue as sign

    made = sign(directory, name, hosts, days=days, client_only=client, replace=renew)
    about = ", ".join(made.hosts) or "client only"
    click.echo(f"{made.path}: {about}, valid until {made.not_after:%F}")


@pki.command(name="list", epilog=examples("plasma pki list --dir pki", "plasma pki list --dir pki -o json"))
@click.option("--dir", "directory", type=DIRECTORY, required=True, help="The directory of `plasma pki init`.")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), help="How to print it.")
@click.pass_context
def list_(ctx: click.Context, directory: Path, output: str | None) -> None:
    """List the certificates with the days they have left. Exit status 1 when one has expired."""
    from plasmacloud.base.pki import list_certificates, verify_issued

    assert isinstance(ctx.obj, Settings)
    output = output or ctx.obj.output
    now = datetime.now(UTC)
    found = list_certificates(directory)
    rows = []
    for certificate in found:
        left = certificate.days_left(now)
        rows.append(
            _Row(
                name=certificate.name,
                hosts=certificate.hosts,
                expires=certificate.not_after,
                days_left=round(left, 1),
                state=_state(left, verify_issued(directory, certificate)),
            )
        )
    if output == "table":
        table(("NAME", "HOSTS", "EXPIRES", "DAYS LEFT", "STATE"), map(_cells, rows))
    else:
        emit([msgspec.to_builtins(row) for row in rows], output)
    if any(row.state == "expired" for row in rows):
        ctx.exit(ExitCode.FAILED)


def _cells(row: _Row) -> tuple[str, ...]:
    return row.name, ", ".join(row.hosts) or "-", f"{row.expires:%F}", f"{row.days_left:.0f}", row.state


def _state(days_left: float, ours: bool) -> str:
    if not ours:
        return "not of this authority"
    if days_left <= 0:
        return "expired"
    return "expires soon" if days_left <= _WARN_DAYS else "valid"
