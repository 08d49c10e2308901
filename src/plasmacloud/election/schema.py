"""The tables of an election, in whatever schema the session's ``search_path`` names first.

=====================  ===============================================================================
leadership_state       one row per election: its newest epoch and who holds it. The row that fences.
leader_epochs          one row per epoch, in order and without gaps: who, from when to when, how it ended
ha_audit               what operators did; rows can be added, never changed or removed
quorum_transitions     when the quorum's health changed, and why
ha_probe               keys and values for end-to-end checks, written under the fence
election_schema        which version of this file made the tables
=====================  ===============================================================================

Several elections share the tables. Creation is one transaction under an advisory lock, so that servers which start
together make them once; a role that may not create tables can use those that an administrator made with the text that
`DDL` is.
"""

from typing import Any

from plasmacloud.election.errors import ElectionRefused, MissingPrivileges
from plasmacloud.election.lock_key import lock_key

VERSION = 1

DDL = """
CREATE TABLE IF NOT EXISTS leadership_state (
    election text PRIMARY KEY,
    timeline bigint NOT NULL DEFAULT 0,
    epoch bigint NOT NULL DEFAULT 0,
    holder_id text NOT NULL DEFAULT '',
    lock_pid integer NOT NULL DEFAULT 0, -- of the server process that holds the lock for the holder
    acquired_at timestamptz
);
CREATE TABLE IF NOT EXISTS leader_epochs (
    election text NOT NULL,
    epoch bigint NOT NULL,
    timeline bigint NOT NULL,
    holder_id text NOT NULL,
    acquired_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    resigned_at timestamptz,
    notes text NOT NULL DEFAULT '',
    PRIMARY KEY (election, epoch)
);
CREATE TABLE IF NOT EXISTS ha_audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    election text NOT NULL,
    node_id text NOT NULL,
    operator text NOT NULL,
    action text NOT NULL,
    outcome text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}'
);
CREATE TABLE IF NOT EXISTS quorum_transitions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    election text NOT NULL,
    node_id text NOT NULL,
    from_health text NOT NULL,
    to_health text NOT NULL,
    reason text NOT NULL
);
CREATE TABLE IF NOT EXISTS ha_probe (
    key text PRIMARY KEY,
    value text NOT NULL,
    timeline bigint NOT NULL,
    epoch bigint NOT NULL,
    version bigint NOT NULL DEFAULT 1,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS election_schema (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE OR REPLACE FUNCTION ha_audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'ha_audit is append-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE OR REPLACE TRIGGER ha_audit_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON ha_audit
    FOR EACH STATEMENT EXECUTE FUNCTION ha_audit_is_append_only();

-- Waits in the queue for at most lock_timeout. Giving up is no error of the session: it happens twice a second in every
-- waiter, and an error that escaped would each time be a line in the server's log. The lock outlives the transaction.
CREATE OR REPLACE FUNCTION leadership_wait(lock_key bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_lock(lock_key);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END $$;

INSERT INTO election_schema (version) VALUES (1) ON CONFLICT DO NOTHING;
"""
"""Everything, idempotent; several statements, for drivers that send text as it is (``psql -f``, ``execute``)."""

_NEEDS = (
    ("leadership_state", "SELECT, INSERT, UPDATE"),
    ("leader_epochs", "SELECT, INSERT, UPDATE"),
    ("ha_audit", "SELECT, INSERT"),
    ("quorum_transitions", "SELECT, INSERT"),
    ("ha_probe", "SELECT, INSERT, UPDATE"),
)
_CONTENDER_NEEDS = (
    ("election_schema", "SELECT"),
    ("election_contenders", "SELECT, INSERT, UPDATE"),
    ("election_holds", "SELECT, INSERT, UPDATE, DELETE"),
)
_CREATION_KEY = lock_key("election schema")


def administrators_sql(role: str) -> str:
    """What an administrator runs once, so that servers and candidates need no right to make anything.

    ``role``: theirs; it gets the least that they can do with. ``pg_monitor`` is not among it: only whoever counts
    replicas (``--min-sync-replicas``) needs that.
    """
    from plasmacloud.election import contenders

    name = '"' + role.replace('"', '""') + '"'
    grants = "".join(f"GRANT {rights} ON {table} TO {name};\n" for table, rights in (*_NEEDS, *_CONTENDER_NEEDS))
    return f"BEGIN;\n{DDL}\n{contenders.DDL}\n{grants}COMMIT;\n"


async def ensure_schema(connection: Any, election: str) -> None:
    """Make the tables where they are missing, and the election's row.

    ``connection``: of asyncpg, not in a transaction. Raises `MissingPrivileges` when this role may neither use nor make
    them, `ElectionRefused` when a newer version made them, and whatever asyncpg raises.
    """
    if await _version(connection) < VERSION:
        await _create(connection)
    found = await _version(connection)
    if found > VERSION:
        raise ElectionRefused(
            f"the election's tables are of version {found}, and this program knows version {VERSION}",
            hint="update this program; newer servers of the same election may already run",
        )
    await _check_privileges(connection)
    await connection.execute("INSERT INTO leadership_state (election) VALUES ($1) ON CONFLICT DO NOTHING", election)


async def _version(connection: Any) -> int:
    """0: not there."""
    if await connection.fetchval("SELECT to_regclass('election_schema') IS NULL"):
        return 0
    from asyncpg.exceptions import InsufficientPrivilegeError

    try:
        return int(await connection.fetchval("SELECT coalesce(max(version), 0) FROM election_schema"))
    except InsufficientPrivilegeError as error:
        raise _missing(str(error)) from error


async def _create(connection: Any) -> None:
    from asyncpg.exceptions import InsufficientPrivilegeError, InvalidSchemaNameError

    try:
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({_CREATION_KEY})")
            await connection.execute(DDL)
    except (InsufficientPrivilegeError, InvalidSchemaNameError) as error:
        raise _missing(str(error)) from error


async def _check_privileges(connection: Any) -> None:
    for table, privileges in _NEEDS:
        for privilege in privileges.split(", "):
            if not await connection.fetchval("SELECT has_table_privilege($1, $2)", table, privilege):
                raise _missing(f"no {privilege} on table {table}")


def _missing(what: str) -> MissingPrivileges:
    return MissingPrivileges(
        f"the role may not do what an election needs: {what}",
        hint="let the role create tables once (GRANT CREATE ON SCHEMA public TO …), or have an administrator run what "
        "`plasma election schema --role ROLE` prints",
    )
