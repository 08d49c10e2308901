"""The fence: a write that names its epoch, in the transaction that writes. For any program.

::

    async with guarded(connection, epoch, election="scheduler"):
        await connection.execute("UPDATE jobs SET …")

The row of the election is read ``FOR SHARE`` first. That lock lasts to the end of the transaction, and raising the
epoch needs the row for itself: so either the new epoch is there already, and the write is refused, or it has to wait
until the write is committed. Comparing first and writing afterwards, or within one ``INSERT … SELECT … WHERE epoch =
…``, leaves a gap through which a stale write fits, because nothing stops the epoch from being raised in between.

What holds the row up holds the next leader up. A guarded transaction is therefore short, and the server ends it when
its process stands still: after ``limit_s`` as a whole (``transaction_timeout``, PostgreSQL 17 and later), and after as
long without a statement in every version.

With any other driver, run `FENCE_SQL` first in the transaction, and roll back unless it returns a row. psycopg::

    with connection.transaction():
        if connection.execute(FENCE_SQL, {"election": "scheduler", "timeline": 1, "epoch": 7}).fetchone() is None:
            raise RuntimeError("no longer the leader")
        connection.execute("UPDATE jobs SET …")
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from plasmacloud.election.errors import StaleEpoch
from plasmacloud.election.leadership import Epoch

FENCE_SQL = (
    "SELECT epoch FROM leadership_state "
    "WHERE election = %(election)s AND timeline = %(timeline)s AND epoch = %(epoch)s FOR SHARE"
)
"""For drivers with named parameters in the manner of psycopg. One row: the epoch is current, and stays so until the end
of the transaction. No row: it is stale."""

_LOCK_ROW = "SELECT timeline, epoch FROM leadership_state WHERE election = $1 FOR SHARE"
DEFAULT_LIMIT_S = 1.0


async def assert_epoch(connection: Any, epoch: Epoch, *, election: str) -> None:
    """Make sure that the epoch is current, and keep it so until the transaction ends.

    ``connection``: of asyncpg, inside a transaction whose isolation is READ COMMITTED, the default. Raises
    `StaleEpoch`, after which the transaction has to be rolled back, and whatever asyncpg raises.
    """
    assert connection.is_in_transaction(), "outside of a transaction the fence is gone before the write"
    row = await connection.fetchrow(_LOCK_ROW, election)
    current = Epoch(row["timeline"], row["epoch"]) if row is not None else None
    if current != epoch:
        raise StaleEpoch(election, epoch, current)


@asynccontextmanager
async def guarded(
    connection: Any, epoch: Epoch, *, election: str, limit_s: float = DEFAULT_LIMIT_S
) -> AsyncIterator[None]:
    """A transaction that commits only under this epoch. Roll back by raising; leaving the block commits.

    ``limit_s``: seconds after which the server ends the transaction, and with it the session. Raises `StaleEpoch`
    before the block is entered, and whatever asyncpg raises. An error while committing leaves the outcome unknown.
    """
    limit_ms = max(1, round(limit_s * 1000))
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(_limits(limit_ms, connection.get_server_version().major))
        await assert_epoch(connection, epoch, election=election)
        yield


def _limits(limit_ms: int, major: int) -> str:
    limits = f"SET LOCAL idle_in_transaction_session_timeout = {limit_ms}; SET LOCAL lock_timeout = {limit_ms}"
    return f"{limits}; SET LOCAL transaction_timeout = {limit_ms}" if major >= 17 else limits
