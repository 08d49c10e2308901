"""Keys and values for end-to-end checks: what a client of the leader would live through, as an HTTP endpoint.

A write carries this server's epoch and is fenced by it in the same transaction. It ends in one of three ways:
committed; certainly not executed; or unknown, when the server was asked to commit and did not say whether it did.
"""

import contextlib
from typing import Any, Protocol

import msgspec

from plasmacloud.election.errors import ElectionUnavailable, StaleEpoch
from plasmacloud.election.fencing import guarded
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.server_database import Database

WRITE_TIMEOUT_S = 2.0
_FENCE_LIMIT_S = 1.0
_PUT = """
INSERT INTO ha_probe AS probe (key, value, timeline, epoch) VALUES ($1, $2, $3, $4)
ON CONFLICT (key) DO UPDATE
SET value = excluded.value, timeline = excluded.timeline, epoch = excluded.epoch, version = probe.version + 1,
    written_at = clock_timestamp()
RETURNING version
"""
_GET = "SELECT key, value, timeline, epoch, version, pg_is_in_recovery() AS stale FROM ha_probe WHERE key = $1"
_GET_NOTHING = "SELECT pg_is_in_recovery()"

_NOBODYS_EPOCH = Epoch(0, 0)


class ProbeValue(msgspec.Struct, frozen=True):
    """What stands under a key. ``version`` counts its writes; ``epoch`` is that of the last one."""

    key: str
    value: str
    epoch: str
    version: int


class WriteNotExecuted(ElectionUnavailable):
    """The write certainly changed nothing."""


class WriteOutcomeUnknown(ElectionUnavailable):
    """The commit was sent, and its answer never came."""


class Probe(Protocol):
    """The endpoint's work, in whatever store the election is held."""

    async def put(self, key: str, value: str, epoch: Epoch) -> ProbeValue:
        """Write under the fence. Raises `StaleEpoch`, `WriteNotExecuted` or `WriteOutcomeUnknown`."""
        ...

    async def get(self, key: str) -> ProbeValue | None:
        """What is committed under the key. Raises `WriteNotExecuted` when the store cannot say."""
        ...

    async def warm_up(self) -> None:
        """Be ready for the first write of a leadership. To be called now and then; raises what the store raises."""
        ...


class PostgresProbe:
    """A row of ``ha_probe`` for each key."""

    def __init__(self, database: Database, election: str) -> None:
        self._database = database
        self._election = election
        self._warm_pid = 0

    async def put(self, key: str, value: str, epoch: Epoch) -> ProbeValue:
        """See `Probe.put`."""
        committing = False

        async def work(connection: Any) -> int:
            nonlocal committing
            async with guarded(connection, epoch, election=self._election, limit_s=_FENCE_LIMIT_S):
                version = int(await connection.fetchval(_PUT, key, value, epoch.timeline, epoch.number))
                committing = True
            return version

        try:
            version = await self._database.run(work, timeout_s=WRITE_TIMEOUT_S)
        except StaleEpoch:
            raise
        except Exception as error:  # asyncpg raises many things when a session ends within a call
            why = str(error) or type(error).__name__
            if committing and not _refused_to_commit(error):
                raise WriteOutcomeUnknown(f"the commit was not confirmed: {why}") from error
            raise WriteNotExecuted(why) from error
        return ProbeValue(key, value, str(epoch), version)

    async def get(self, key: str) -> ProbeValue | None:
        """See `Probe.get`."""

        async def work(connection: Any) -> Any:
            row = await connection.fetchrow(_GET, key)
            stale = row["stale"] if row is not None else await connection.fetchval(_GET_NOTHING)
            return row, stale

        try:
            row, stale = await self._database.run(work, timeout_s=WRITE_TIMEOUT_S)
        except Exception as error:
            raise WriteNotExecuted(str(error) or type(error).__name__) from error
        if stale:
            raise WriteNotExecuted("the server is a standby: what it says may be old")
        if row is None:
            return None
        return ProbeValue(row["key"], row["value"], str(Epoch(row["timeline"], row["epoch"])), row["version"])

    async def warm_up(self) -> None:
        """Keep one session open, with the statements of `put` parsed: a new leader's first write then waits for neither
        a handshake nor a parser."""

        async def work(connection: Any) -> None:
            if connection.get_server_pid() == self._warm_pid:
                await connection.fetchval("SELECT 1")
                return
            with contextlib.suppress(StaleEpoch):
                async with guarded(connection, _NOBODYS_EPOCH, election=self._election, limit_s=_FENCE_LIMIT_S):
                    pass
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.fetchval(_PUT, "", "", 0, 0)  # no client can name this key
            finally:
                await transaction.rollback()
            self._warm_pid = connection.get_server_pid()

        await self._database.run(work, timeout_s=WRITE_TIMEOUT_S)


def _refused_to_commit(error: BaseException) -> bool:
    """Whether the server said, in answer to the commit, that it rolled back: constraints, conflicts, limits."""
    state = getattr(error, "sqlstate", None)
    return state is not None and state[:2] in ("23", "25", "40", "44")
