"""Streaming replication: a copy that follows, waiting for it, making it the primary, and bringing the old one back.

A standby that is required (``synchronous_standby_names``) makes every commit wait for it. Without one, a promoted
standby can lack commits that the old primary acknowledged: whoever counts on them must require one.
"""

import asyncio
import re
import time

from plasmacloud.postgres.errors import PostgresError
from plasmacloud.postgres.server import SUPERUSER, PostgresServer

PROMOTE_TIMEOUT_S = 30.0
_POLL_S = 0.01
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


async def copy_from(primary: PostgresServer, standby: PostgresServer) -> None:
    """Make the directory of ``standby`` a copy of the running ``primary``, set up to follow it when started.

    The standby calls itself by its name, which is what `require_synchronous` names.
    """
    standby.make_directory()
    standby.adopt_password(primary)
    standby.settings["cluster_name"] = standby_name(standby)
    arguments = ["-D", str(standby.data_dir), "-d", _conninfo(primary, standby), "-R", "-X", "stream"]
    await standby.run_program("pg_basebackup", *arguments, "-c", "fast", "--no-sync")


def standby_name(server: PostgresServer) -> str:
    """The name by which a standby is known to its primary: letters, digits and underscores."""
    return re.sub(r"[^A-Za-z0-9_]", "_", server.name)


async def require_synchronous(primary: PostgresServer, *standbys: PostgresServer) -> None:
    """From now on every commit on ``primary`` waits for the first of these; none given: for nobody.

    Returns when a new session sees the setting.
    """
    names = [standby_name(standby) for standby in standbys]
    assert all(_NAME.fullmatch(name) for name in names)
    value = f"FIRST 1 ({', '.join(names)})" if names else ""
    session = await primary.connect()
    try:
        await session.execute("SET synchronous_commit = local")  # must not wait for a standby that is not there
        await session.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{value}'")
        await session.execute("SELECT pg_reload_conf()")
    finally:
        session.terminate()
    deadline = time.monotonic() + 10.0
    while (await primary.fetch("SHOW synchronous_standby_names"))[0][0] != value:
        if time.monotonic() >= deadline:
            raise PostgresError(f"{primary.name} did not take over synchronous_standby_names")


async def promote(standby: PostgresServer, *, timeout: float = PROMOTE_TIMEOUT_S) -> None:
    """Make a running standby a primary on a new timeline. Raises `PostgresError` when it does not in time.

    It is asked to, and then looked at: a session that waits inside ``pg_promote`` holds a snapshot, and a standby that
    has a vacuum of the old primary to replay waits for such sessions (``max_standby_streaming_delay``, 30 s).
    """
    deadline = time.monotonic() + timeout
    if await standby.fetch("SELECT pg_promote(false)", timeout=timeout) != [(True,)]:
        raise PostgresError(f"{standby.name} could not tell its own process to become a primary")
    while (await standby.fetch("SELECT pg_is_in_recovery()"))[0][0]:
        if time.monotonic() >= deadline:
            raise PostgresError(f"{standby.name} was not promoted within {timeout:g} s")
        await asyncio.sleep(_POLL_S)


async def rewind_to(old_primary: PostgresServer, new_primary: PostgresServer) -> None:
    """Make a stopped former primary a standby of the one that took its place, without what it alone had committed."""
    if old_primary.running:
        raise PostgresError(f"{old_primary.name} runs and cannot be rewound", hint="stop it first")
    old_primary.adopt_password(new_primary)
    old_primary.settings["cluster_name"] = standby_name(old_primary)
    arguments = ["-D", str(old_primary.data_dir), f"--source-server={_conninfo(new_primary, old_primary)}"]
    await old_primary.run_program("pg_rewind", *arguments, "--write-recovery-conf", "--no-sync")


async def timeline(server: PostgresServer) -> int:
    """The timeline that a primary writes on. Raises `PostgresError` on a standby."""
    if (await server.fetch("SELECT pg_is_in_recovery()"))[0][0]:
        raise PostgresError(f"{server.name} is a standby and writes no log of its own")
    rows = await server.fetch("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")
    return int(rows[0][0], 16)


def _conninfo(server: PostgresServer, reader: PostgresServer) -> str:
    """How ``reader`` reaches ``server``; the password is in the reader's own file."""
    passfile = str(reader.passfile).replace("\\", r"\\").replace("'", r"\'")
    return (
        f"host={server.host} port={server.port} user={SUPERUSER} dbname=postgres "
        f"application_name={standby_name(reader)} passfile='{passfile}'"
    )
