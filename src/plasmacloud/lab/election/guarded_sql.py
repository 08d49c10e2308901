"""A guarded write as any other program makes it: the documented statement first, then the write, in one transaction.

The lab does not use the library that the servers use. What it sends is what `docs/election.md` tells authors of other
programs to send.
"""

from typing import Any

from plasmacloud.lab.election.contended import Put
from plasmacloud.postgres import PostgresServer
from plasmacloud.postgres.errors import PostgresError
from plasmacloud.postgres.sessions import SESSION_FAILURES
from plasmacloud.verify.history import Outcome

FENCE = "SELECT epoch FROM leadership_state WHERE election = $1 AND timeline = $2 AND epoch = $3 FOR SHARE"
ELECTION = "default"
_WRITE = """
INSERT INTO ha_probe AS probe (key, value, timeline, epoch) VALUES ($1, $2, $3, $4)
ON CONFLICT (key) DO UPDATE SET value = $2, timeline = $3, epoch = $4, version = probe.version + 1
"""
_TIMEOUT_S = 5.0


async def write_guarded(database: PostgresServer, epoch: str, key: str, value: str) -> Put:
    """Write in the name of an epoch, TIMELINE.NUMBER. Refused: the fence returned no row, and all was rolled back."""
    timeline, number = map(int, epoch.split("."))
    try:
        session = await database.connect(timeout=_TIMEOUT_S)
    except PostgresError as error:
        return Put(Outcome.FAIL, said=f"no session: {error}", answered=False)
    committing = False
    try:
        await session.execute("BEGIN", timeout=_TIMEOUT_S)
        row = await session.fetchrow(FENCE, ELECTION, timeline, number, timeout=_TIMEOUT_S)
        if row is None:
            await session.execute("ROLLBACK", timeout=_TIMEOUT_S)
            return Put(Outcome.FAIL, epoch, kind="stale-epoch", said="the fence returned no row; rolled back")
        await session.execute(_WRITE, key, value, timeline, number, timeout=_TIMEOUT_S)
        committing = True
        await session.execute("COMMIT", timeout=_TIMEOUT_S)
    except SESSION_FAILURES as error:
        outcome = Outcome.INFO if committing else Outcome.FAIL
        return Put(outcome, epoch, said=str(error) or type(error).__name__)
    finally:
        session.terminate()
    return Put(Outcome.OK, epoch, 1)


async def raise_epoch_behind(database: PostgresServer, why: str) -> tuple[str, str]:
    """Raise the epoch as another node would, without the lock and without telling anybody: the old and the new one.

    The leader goes on to believe in its own until it looks.
    """
    session = await database.connect(timeout=_TIMEOUT_S)
    try:
        async with session.transaction():
            old: Any = await session.fetchrow(
                "SELECT timeline, epoch FROM leadership_state WHERE election = $1 FOR UPDATE", ELECTION
            )
            timeline, number = int(old["timeline"]), int(old["epoch"])
            await session.execute(
                "UPDATE leader_epochs SET resigned_at = clock_timestamp(), notes = $2 "
                "WHERE election = $1 AND resigned_at IS NULL",
                ELECTION,
                why,
            )
            await session.execute(
                "INSERT INTO leader_epochs (election, epoch, timeline, holder_id, resigned_at, notes) "
                "VALUES ($1, $2, $3, '', clock_timestamp(), $4)",
                ELECTION,
                number + 1,
                timeline,
                why,
            )
            await session.execute(
                "UPDATE leadership_state SET epoch = $2, holder_id = '', lock_pid = 0 WHERE election = $1",
                ELECTION,
                number + 1,
            )
    finally:
        session.terminate()
    return f"{timeline}.{number}", f"{timeline}.{number + 1}"
