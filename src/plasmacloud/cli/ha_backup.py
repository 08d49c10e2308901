"""`plasma ha backup …`: the election's tables in a file, and back. Talks to the database, since servers may be gone."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from plasmacloud.base.errors import ConfigError, StorageError
from plasmacloud.base.units import format_size
from plasmacloud.cli import errors
from plasmacloud.cli.ha_client import HaSettings, ha_command
from plasmacloud.cli.lazy import examples
from plasmacloud.cli.output import emit, table

T = TypeVar("T")
_WORK_S = 60.0

BACKEND = click.option(
    "--backend",
    required=True,
    metavar="URL",
    envvar="PLASMA_HA_BACKEND",
    show_envvar=True,
    help="The database: postgres://user@host/database.",
)


@click.group(
    epilog=examples(
        "plasma ha backup create ha.backup --backend postgres://ha@127.0.0.1/ha",
        "plasma ha backup restore ha.backup --backend postgres://ha@127.0.0.1/ha --dry-run",
    )
)
def backup() -> None:
    """Save and restore the election's tables: epochs, audit, quorum transitions, holds."""


@backup.command(
    epilog=examples(
        "plasma ha backup create ha.backup --backend postgres://ha@127.0.0.1/ha",
        "PLASMA_HA_BACKEND=postgres://ha@db/ha plasma ha backup create ha-$(date +%F).backup -o json",
    )
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@BACKEND
@ha_command
def create(settings: HaSettings, file: Path, backend: str) -> None:
    """Write the tables of all elections in the database to FILE, as of one moment, whole or not at all.

    Serving goes on meanwhile. Exit code 5: the database does not answer. 7: FILE cannot be written.
    """
    from plasmacloud.election.backup import dump, encode

    content = _with_database(backend, dump)
    data = encode(content)
    _write(file, data)
    body = {
        "file": str(file),
        "size_bytes": len(data),
        "created_at": content.created_at,
        "elections": content.elections(),
        "rows": {name: len(rows) for name, rows in content.tables.items()},
    }
    if settings.output != "table":
        emit(body, settings.output)
        return
    listed = ", ".join(f"{name} at epoch {number}" for name, number in content.elections().items()) or "no elections"
    click.echo(f"{file}: {format_size(len(data))}, {listed}")


@backup.command(
    epilog=examples(
        "plasma ha backup restore ha.backup --backend postgres://ha@127.0.0.1/ha --dry-run",
        "plasma ha backup restore ha.backup --backend postgres://ha@127.0.0.1/ha \\",
        "  --operator ann --reason 'the database was lost'",
    )
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@BACKEND
@click.option("--operator", default="", metavar="NAME", help="Whose decision this is; needed without --dry-run.")
@click.option("--reason", default="", help="Why; needed without --dry-run.")
@click.option(
    "--epoch-margin",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Leave out so many epochs: those given out after the backup must not come back.",
)
@click.option("--force", is_flag=True, help="Although newer history would be forgotten, or a node leads.")
@click.option("--dry-run", is_flag=True, help="Check FILE and say what would be done.")
@ha_command
def restore(
    settings: HaSettings,
    file: Path,
    backend: str,
    operator: str,
    reason: str,
    epoch_margin: int,
    force: bool,
    dry_run: bool,
) -> None:
    """Write FILE into the database: replaces epochs and holders, adds audit and transitions, in one transaction.

    Nobody leads afterwards until the next election, and epochs only ever go up. Stop the election servers first.

    Exit code 0: done, or would be. 3: refused, nothing changed. 5: the database does not answer. 7: FILE is damaged.
    """
    from plasmacloud.election import backup as store

    try:
        content = store.decode(file.read_bytes())
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror}") from error
    if not dry_run and not (operator.strip() and reason.strip()):
        raise click.UsageError("a restore needs --operator and --reason: they are what others read in the audit")

    async def look(connection: Any) -> "list[store.ElectionPlan]":
        current, held = await store.look_before(connection, content)
        return store.plan_restore(content, current, held, margin=epoch_margin)

    async def work(connection: Any) -> "list[store.ElectionPlan]":
        return await store.restore(
            connection, content, operator=operator, reason=reason, force=force, margin=epoch_margin
        )

    plans = _with_database(backend, look if dry_run else work)
    _show(settings, content.created_at, plans, dry_run)
    if dry_run:
        store.refuse(plans, force=force)


def _show(settings: HaSettings, created_at: str, plans: list[Any], dry_run: bool) -> None:
    if settings.output != "table":
        import msgspec

        emit({"created_at": created_at, "done": not dry_run, "elections": msgspec.to_builtins(plans)}, settings.output)
        return
    table(
        ["ELECTION", "BACKUP EPOCH", "DATABASE EPOCH", "RESTORED EPOCH"],
        [[plan.election, plan.backup_epoch, plan.current_epoch, plan.restored_epoch] for plan in plans],
    )
    errors.say("dry run: nothing was changed" if dry_run else "restored; start the election servers")


def _with_database(url: str, work: Callable[[Any], Awaitable[T]]) -> T:
    """Do something with one connection. Raises `ElectionError` for what the database refuses."""
    if not url.startswith(("postgres://", "postgresql://")):
        scheme = url.partition("://")[0]
        hint = "for an election in ChainFire or etcd: plasma chainfire snapshot save"
        raise ConfigError(f"--backend {scheme!r} is not PostgreSQL", hint=hint)

    async def main() -> T:
        import asyncpg

        from plasmacloud.election.postgres_errors import describe_url, diagnose
        from plasmacloud.postgres.sessions import SESSION_FAILURES

        connection: Any = None
        try:
            async with asyncio.timeout(_WORK_S):
                connection = await asyncpg.connect(
                    url, timeout=5.0, server_settings={"application_name": "plasma-backup"}
                )
                return await work(connection)
        except SESSION_FAILURES as error:
            raise diagnose(error, describe_url(url)) from error
        finally:
            if connection is not None:
                connection.terminate()

    return asyncio.run(main())


def _write(file: Path, data: bytes) -> None:
    """Whole or not at all, and for its owner only: reasons and names are nobody else's business."""
    part = file.with_name(file.name + ".part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as output:
            output.write(data)
            output.flush()
            os.fsync(output.fileno())
        os.replace(part, file)
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
