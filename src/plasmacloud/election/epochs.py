"""Raising an epoch, and noting its end: the two transactions that make leadership durable.

An epoch is raised by whoever holds the lock, in one transaction, on another session than the one that holds it. The
order within is what makes it safe: the election's row is locked first, and only then the lock's table is asked whether
that session holds the lock. If it does at that moment, everybody who gets the lock later also comes to the row later,
and so to a higher number.

Numbers come from the row, not from a sequence: what is rolled back leaves no gap. The timeline is the server's own. Two
sessions, because a commit may hang: it waits for a synchronous standby that is not there, and outlives its client. A
hanging commit then keeps the row, which nobody can change before the standby is back anyway, but not the lock.
"""

from typing import Any

from plasmacloud.election.errors import ElectionUnavailable, EpochUncertain
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.lock_key import lock_halves, lock_key
from plasmacloud.election.postgres_errors import pooler_in_the_way

FAIR_AFTER_S = 0.03
"""So long the row is waited for in the ordinary way, in which any number of guarded writes may go before.

It is the ``lock_timeout`` of the session that raises epochs."""

_TAKE_ROW = "SELECT timeline, epoch, holder_id FROM leadership_state WHERE election = $1 FOR UPDATE"
_HOLDS = """
    SELECT
        EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = $1
                AND classid::bigint = $2 AND objid::bigint = $3 AND objsubid = 1
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS holds,
        EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1) AS lives,
        ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint AS timeline
"""
_RAISE = """
    WITH closed AS (
        UPDATE leader_epochs SET resigned_at = clock_timestamp(), notes = concat_ws('; ', nullif(notes, ''), $6::text)
        WHERE election = $1 AND resigned_at IS NULL
    ), opened AS (
        INSERT INTO leader_epochs (election, epoch, timeline, holder_id)
        SELECT $1, $2, $3, $4 FROM leadership_state WHERE election = $1
    ), told AS (
        SELECT pg_notify($7::text, $4::text)
    )
    UPDATE leadership_state
    SET timeline = $3, epoch = $2, holder_id = $4, lock_pid = $5, acquired_at = clock_timestamp()
    WHERE election = $1 AND EXISTS (SELECT FROM told)
"""
_CLOSE = """
    WITH told AS (
        SELECT pg_notify($6::text, '')
    ), state AS (
        UPDATE leadership_state SET holder_id = '', lock_pid = 0
        WHERE election = $1 AND epoch = $2 AND timeline = $3 AND holder_id = $4 AND EXISTS (SELECT FROM told)
        RETURNING epoch
    )
    UPDATE leader_epochs SET resigned_at = coalesce(resigned_at, clock_timestamp()), notes = $5
    WHERE election = $1 AND epoch = $2 AND timeline = $3 AND holder_id = $4 AND (SELECT count(*) FROM state) >= 0
"""
_LOOK = """
    SELECT timeline, epoch, holder_id, EXISTS (
        SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = lock_pid
        AND classid::bigint = $2 AND objid::bigint = $3 AND objsubid = 1) AS held
    FROM leadership_state WHERE election = $1
"""


def channel(election: str) -> str:
    """The channel on which changes of this election are told (``LISTEN``)."""
    return f"election_{lock_key(election) % 2**64:016x}"


async def raise_epoch(connection: Any, election: str, holder_id: str, lock_pid: int, *, timeout_s: float) -> Epoch:
    """Commit the next epoch for the holder of the lock. ``lock_pid``: the server process of the session that holds it.

    Raises `EpochUncertain` when a warning came with the commit, `ElectionUnavailable` when the lock is gone, and
    whatever asyncpg raises. How long the commit itself may take is the caller's business.
    """
    from asyncpg.exceptions import LockNotAvailableError

    warnings: list[str] = []

    def note(_connection: Any, message: Any) -> None:
        if message.severity_en == "WARNING":
            warnings.append(str(message))

    connection.add_log_listener(note)
    try:
        try:
            epoch = await _raise_in_a_transaction(connection, election, holder_id, lock_pid)
        except LockNotAvailableError:
            epoch = await _raise_in_a_transaction(connection, election, holder_id, lock_pid, patience_s=timeout_s)
    finally:
        connection.remove_log_listener(note)
    if warnings:
        raise EpochUncertain(
            f"epoch {epoch} was committed on this server with a warning: {'; '.join(warnings)}",
            hint="the standby may not have it; see synchronous_standby_names and pg_stat_replication",
        )
    return epoch


async def close_epoch(connection: Any, election: str, epoch: Epoch, holder_id: str, note: str) -> None:
    """Note that the holder gave this epoch up. Does nothing to the state when a newer one exists.

    The state's row comes first, as it does in `raise_epoch`: two transactions that lock in one order wait, those that
    lock in two block each other.
    """
    await connection.execute(_CLOSE, election, epoch.number, epoch.timeline, holder_id, note, channel(election))


async def look(connection: Any, election: str) -> tuple[str, Epoch | None]:
    """Who leads: the holder, empty when the lock is not held for it, and the newest epoch, if there ever was one."""
    halves = lock_halves(lock_key(election))
    row = await connection.fetchrow(_LOOK, election, halves.high, halves.low)
    if row is None or row["epoch"] == 0:
        return "", None
    return row["holder_id"] if row["held"] else "", Epoch(row["timeline"], row["epoch"])


async def _raise_in_a_transaction(
    connection: Any, election: str, holder_id: str, lock_pid: int, *, patience_s: float | None = None
) -> Epoch:
    """``patience_s``: wait in order, for so long.

    Guarded writes share the row and do not queue behind whoever wants it alone: a crowd of them that does not know yet
    that its epoch is over could keep it for ever. Locks of the table are handed out in order, so whoever did not get
    the row in the first attempt locks the table, behind which new guarded writes have to wait.
    """
    async with connection.transaction(isolation="read_committed"):
        if patience_s is not None:
            await connection.execute(
                f"SET LOCAL lock_timeout = {round(patience_s * 1000)}; LOCK TABLE leadership_state IN EXCLUSIVE MODE"
            )
        row = await connection.fetchrow(_TAKE_ROW, election)
        if row is None:
            raise ElectionUnavailable(f"the election {election!r} has no row in leadership_state")
        epoch = await _next_epoch(connection, election, row["epoch"], lock_pid)
        before = row["holder_id"]
        ended = f"superseded by {holder_id}" if before != holder_id else "superseded by a later epoch of its own"
        await connection.execute(
            _RAISE, election, epoch.number, epoch.timeline, holder_id, lock_pid, ended, channel(election)
        )
    return epoch


async def warm_up(connection: Any) -> None:
    """Have the statements of `raise_epoch` parsed ahead, on an election that does not exist."""
    await connection.fetchrow(_TAKE_ROW, "")
    await connection.fetchrow(_HOLDS, 0, 0, 0)
    await connection.execute(_RAISE, "", 0, 0, "", 0, "", channel(""))


async def _next_epoch(connection: Any, election: str, number: int, lock_pid: int) -> Epoch:
    halves = lock_halves(lock_key(election))
    found = await connection.fetchrow(_HOLDS, lock_pid, halves.high, halves.low)
    if not found["holds"]:
        if found["lives"]:
            raise pooler_in_the_way(f"server process {lock_pid} was granted the lock and does not hold it")
        raise ElectionUnavailable("the session that held the lock has ended")
    return Epoch(found["timeline"], number + 1)
