"""An election's memory as one file: epochs, audit, transitions, holds. Small, readable, checked by a SHA-256 of itself.

Why not ``pg_dump``: it must be as new as the server, and what makes a restore safe is not known to it. Fencing rests on
epochs that never come back, and after a disaster nobody knows which epochs were given out after the backup. So a
restore never lowers an epoch: it takes the higher of what the file says and what the database has, leaves a margin for
those that were lost, and lets nobody lead until a new election.

The audit is merged, not replaced, since the database lets nobody take a row of it away.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any

import msgspec

from plasmacloud.base.errors import ExitCode, PlasmaError, StorageError
from plasmacloud.election.contenders import ensure_contender_schema
from plasmacloud.election.lock_key import lock_halves, lock_key
from plasmacloud.election.schema import ensure_schema

FORMAT = "plasma-ha-backup"
VERSION = 1
DEFAULT_MARGIN = 1000
REPLACED = ("leadership_state", "leader_epochs")
MERGED = ("ha_audit", "quorum_transitions", "ha_probe", "election_holds")
TABLES = (*REPLACED, *MERGED)
_SOURCE_SQL = """
SELECT current_setting('server_version') AS server_version,
       (SELECT system_identifier::text FROM pg_control_system()) AS system_id,
       (SELECT timeline_id FROM pg_control_checkpoint()) AS timeline,
       current_database() AS database
"""


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a file. ``tables``: rows as the database's JSON. ``created_at``: wall-clock UTC."""

    format: str
    version: int
    created_at: str
    source: dict[str, Any]
    tables: dict[str, list[dict[str, Any]]]

    def elections(self) -> dict[str, int]:
        """The newest epoch number of each election in it."""
        return {row["election"]: int(row["epoch"]) for row in self.tables["leadership_state"]}


class _File(msgspec.Struct, frozen=True):
    sha256: str
    backup: msgspec.Raw


class DamagedBackup(StorageError):
    """The file is not what `dump` wrote."""


class RestoreRefused(PlasmaError):
    """The restore would take something away; nothing was changed."""

    exit_code = ExitCode.NOT_EXECUTED


class ElectionPlan(msgspec.Struct, frozen=True):
    """What a restore does to one election. ``problem``: why it is refused unless forced; empty: it is not."""

    election: str
    backup_epoch: int
    current_epoch: int
    restored_epoch: int
    problem: str = ""


def encode(backup: Backup) -> bytes:
    """The bytes of the file."""
    body = msgspec.json.encode(backup)
    return msgspec.json.format(
        msgspec.json.encode(_File(hashlib.sha256(_canonical(body)).hexdigest(), msgspec.Raw(body))), indent=1
    )


def decode(data: bytes) -> Backup:
    """Read and check a file. Raises `DamagedBackup`."""
    try:
        file = msgspec.json.decode(data, type=_File)
        body = bytes(file.backup)
        if hashlib.sha256(_canonical(body)).hexdigest() != file.sha256:
            raise DamagedBackup("the backup is damaged: its checksum is wrong", hint="use another copy")
        backup = msgspec.json.decode(body, type=Backup)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise DamagedBackup(f"this is no backup of an election: {error}") from None
    if backup.format != FORMAT or backup.version != VERSION or set(backup.tables) != set(TABLES):
        raise DamagedBackup(f"this is no backup that version {VERSION} can read: {backup.format} {backup.version}")
    return backup


def _canonical(body: bytes) -> bytes:
    """The same bytes however the text is spaced: what the checksum is of."""
    return msgspec.json.encode(msgspec.json.decode(body), order="deterministic")


def plan_restore(
    backup: Backup, current: dict[str, int], held: set[str], *, margin: int = DEFAULT_MARGIN
) -> list[ElectionPlan]:
    """What a restore would do. ``current``: newest epochs in the database; ``held``: elections whose lock is held."""
    assert margin >= 0, margin
    plans = []
    for election, number in sorted(backup.elections().items()):
        now = current.get(election, 0)
        problem = ""
        if now > number:
            problem = f"the database is at epoch {now}, the backup at {number}: what happened since would be forgotten"
        elif election in held:
            problem = "a node holds the lock of this election: stop its servers first"
        plans.append(ElectionPlan(election, number, now, max(now, number) + margin, problem))
    return plans


async def dump(connection: Any) -> Backup:
    """All tables as of one moment. Works on a standby too. Raises what asyncpg raises."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        source = dict(await connection.fetchrow(_SOURCE_SQL))
        if await connection.fetchval("SELECT to_regclass('leadership_state') IS NULL"):
            raise RestoreRefused("there is no election in this database", hint="check the database in --backend")
        tables = {}
        for table in TABLES:
            there = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table)
            rows = await connection.fetch(f"SELECT to_jsonb(t)::text AS row FROM {table} AS t") if there else []
            tables[table] = [msgspec.json.decode(row["row"]) for row in rows]
    return Backup(
        format=FORMAT, version=VERSION, created_at=datetime.now(UTC).isoformat(), source=source, tables=tables
    )


async def look_before(connection: Any, backup: Backup) -> tuple[dict[str, int], set[str]]:
    """(newest epochs, elections whose lock is held) of the database to restore into."""
    current: dict[str, int] = {}
    if await connection.fetchval("SELECT to_regclass('leadership_state') IS NOT NULL"):
        rows = await connection.fetch("SELECT election, epoch FROM leadership_state")
        current = {row["election"]: row["epoch"] for row in rows}
    held = set()
    for election in backup.elections():
        halves = lock_halves(lock_key(election))
        if await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
            "AND classid::bigint = $1 AND objid::bigint = $2 "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
            halves.high,
            halves.low,
        ):
            held.add(election)
    return current, held


async def restore(
    connection: Any, backup: Backup, *, operator: str, reason: str, force: bool, margin: int = DEFAULT_MARGIN
) -> list[ElectionPlan]:
    """Write the backup into the database, in one transaction. Raises `RestoreRefused`, and what asyncpg raises."""
    for election in backup.elections() or {"default": 0}:
        await ensure_schema(connection, election)
    await ensure_contender_schema(connection)
    async with connection.transaction(isolation="read_committed"):
        await connection.execute("LOCK TABLE leadership_state IN EXCLUSIVE MODE")
        plans = plan_restore(backup, *await look_before(connection, backup), margin=margin)
        refuse(plans, force=force)
        for plan in plans:
            await _restore_one(connection, backup, plan, operator)
        for table in ("ha_audit", "quorum_transitions"):
            await _merge(connection, table, backup.tables[table])
        for table, key in (("ha_probe", "key"), ("election_holds", "election")):
            rows = backup.tables[table]
            await connection.execute(
                f"INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(NULL::{table}, $1::text::jsonb) "
                f"ON CONFLICT ({key}) DO NOTHING",
                _text(rows),
            )
        for plan in plans:
            await connection.execute(
                "INSERT INTO ha_audit (election, node_id, operator, action, outcome, details) "
                "VALUES ($1, '', $2, 'backup restore', 'done', $3::text::jsonb)",
                plan.election,
                operator,
                _text({"reason": reason, "force": force, "backup": backup.created_at, **msgspec.to_builtins(plan)}),
            )
    return plans


def refuse(plans: list[ElectionPlan], *, force: bool) -> None:
    """Raises `RestoreRefused` when something would be taken away."""
    problems = [f"{plan.election}: {plan.problem}" for plan in plans if plan.problem]
    if problems and not force:
        raise RestoreRefused("; ".join(problems), hint="--force does it all the same; epochs only go up in any case")


async def _restore_one(connection: Any, backup: Backup, plan: ElectionPlan, operator: str) -> None:
    """Replace one election's history, and end it with an epoch that nobody holds, above all that may be out there."""
    name = plan.election
    for table in ("election_holds", *REPLACED):
        await connection.execute(f"DELETE FROM {table} WHERE election = $1", name)
    for table in REPLACED:
        rows = [row for row in backup.tables[table] if row["election"] == name]
        await connection.execute(
            f"INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(NULL::{table}, $1::text::jsonb)", _text(rows)
        )
    timeline = "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint"
    await connection.execute(
        "UPDATE leader_epochs SET resigned_at = clock_timestamp(), notes = concat_ws('; ', nullif(notes, ''), 'lost') "
        "WHERE election = $1 AND resigned_at IS NULL",
        name,
    )
    if plan.restored_epoch > plan.backup_epoch:
        note = (
            f"restored by {operator} from the backup of {backup.created_at}, which ended with {plan.backup_epoch}; "
            "numbers between may have been given out"
        )
        await connection.execute(
            f"INSERT INTO leader_epochs (election, epoch, timeline, holder_id, resigned_at, notes) "
            f"VALUES ($1, $2, {timeline}, '', clock_timestamp(), $3)",
            name,
            plan.restored_epoch,
            note,
        )
    await connection.execute(
        f"UPDATE leadership_state SET epoch = $2, timeline = greatest(timeline, {timeline}), holder_id = '', "
        "lock_pid = 0 WHERE election = $1",
        name,
        plan.restored_epoch,
    )


async def _merge(connection: Any, table: str, rows: list[dict[str, Any]]) -> None:
    """Add the rows that are not there, under new numbers and in their order."""
    columns = {
        "ha_audit": ("at", "election", "node_id", "operator", "action", "outcome", "details"),
        "quorum_transitions": ("at", "election", "node_id", "from_health", "to_health", "reason"),
    }[table]
    listed = ", ".join(columns)
    same = " AND ".join(f"old.{column} = new.{column}" for column in columns)
    await connection.execute(
        f"INSERT INTO {table} ({listed}) "
        f"SELECT {listed} FROM jsonb_populate_recordset(NULL::{table}, $1::text::jsonb) AS new "
        f"WHERE NOT EXISTS (SELECT FROM {table} AS old WHERE {same}) ORDER BY new.id",
        _text(rows),
    )


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
