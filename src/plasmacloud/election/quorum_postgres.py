"""Probes of PostgreSQL: one session of their own, one probe at a time, a deadline on each.

A probe reads what the server says of itself and its replicas, and then commits a real write, this server's own row
among the contenders. A write that waits for a synchronous replica that is gone waits for ever, beyond the death of its
client. So a probe that is late is abandoned together with its session: the socket is closed without waiting for
anything, and the next session ends the backend that was left behind, so that there is never more than one.
"""

import asyncio
import contextlib
import time
from datetime import datetime
from typing import Any

from plasmacloud.base.logging import get_logger
from plasmacloud.election.contenders import BEAT_SQL, STOPPED, Run, ensure_contender_schema, list_contenders, read_hold
from plasmacloud.election.errors import ElectionError
from plasmacloud.election.quorum import Observation, Replica
from plasmacloud.election.quorum_watch import QuorumWatch, WatchConfig
from plasmacloud.election.schema import ensure_schema

_READ_SQL = """
SELECT pg_is_in_recovery() AS in_recovery,
       current_setting('transaction_read_only') = 'on' AS read_only,
       CASE WHEN pg_is_in_recovery() THEN 0
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint END AS timeline
"""
_REPLICAS_SQL = """
SELECT coalesce(nullif(application_name, ''), client_addr::text, pid::text) AS name,
       coalesce(state, '') AS state,
       coalesce(sync_state, '') AS sync_state,
       greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn), 0)::bigint AS lag_bytes,
       (extract(epoch FROM replay_lag) * 1000)::float8 AS lag_ms,
       state IS NULL AS hidden
FROM pg_stat_replication
WHERE state IS DISTINCT FROM 'backup' AND application_name IS DISTINCT FROM 'pg_basebackup'
ORDER BY 1
"""
_END_SQL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2"
_RECORD_SQL = """
INSERT INTO quorum_transitions (at, election, node_id, from_health, to_health, reason) VALUES ($1, $2, $3, $4, $5, $6)
"""
_SESSION_ENDED = ("57P01", "57P02", "57P05", "08000", "08003", "08006")

log = get_logger("election")


class PostgresWatch(QuorumWatch):
    """See `QuorumWatch`."""

    def __init__(self, config: WatchConfig, **listeners: Any) -> None:
        super().__init__(config, **listeners)
        self._connection: Any = None
        self._backend: tuple[int, datetime] | None = None  # PID and start of the connection's server process
        self._abandoned: tuple[int, datetime] | None = None  # the same, of a session that we left behind

    async def observe(self, sent_s: float) -> Observation:
        """What the server says now. A session that broke since the last probe proves nothing: the next one counts."""
        if self._connection is not None:
            seen = await self._look(sent_s)
            if seen is not None:
                return seen
        seen = await self._look(sent_s)
        return seen or self._refused(sent_s, "the session was ended by the server")

    async def _look(self, sent_s: float) -> Observation | None:
        """One attempt; None: the session broke."""
        import asyncpg

        replicas: tuple[Replica, ...] | None = None
        hidden = False
        config = self.config
        try:
            async with asyncio.timeout(config.connect_timeout_s):
                await self._connect()
            async with asyncio.timeout(config.timeout_s):
                row = await self._connection.fetchrow(_READ_SQL)
                if row["in_recovery"]:
                    return self._refused(sent_s, "the server is a standby: it takes no writes", readable=True)
                if row["read_only"]:
                    return self._refused(sent_s, "the server is read-only", readable=True)
                replicas, hidden = await self._read_replicas()
                began_s = time.monotonic()
                await self._beat(self.role())
                write_ms = (time.monotonic() - began_s) * 1000
        except TimeoutError:
            self._abandon()
            what = "no answer" if replicas is None else "a write was not committed"
            return Observation(
                sent_s,
                silence=f"{what} within {config.timeout_s:g} s",
                readable=replicas is not None,
                replicas=replicas or (),
                replicas_hidden=hidden,
                read=replicas is not None,
            )
        except ElectionError as error:
            return self._refused(sent_s, str(error))
        except asyncpg.exceptions.TargetServerAttributeNotMatched:
            return self._refused(sent_s, "the server is a standby: it takes no writes", readable=True)
        except asyncpg.PostgresError as error:
            if error.sqlstate in _SESSION_ENDED:
                self._abandon()
                return None
            return self._refused(sent_s, f"{error} ({error.sqlstate})", readable=error.sqlstate[:2] in ("25", "53"))
        except OSError as error:
            if not isinstance(error, ConnectionResetError | BrokenPipeError):
                return self._refused(sent_s, _words(error))
            self._abandon()
            return None
        except Exception as error:  # noqa: BLE001 - asyncpg raises many things when a session ends within a call
            log.debug("quorum probe failed", why=repr(error))
            self._abandon()
            return None
        return Observation(
            sent_s,
            readable=True,
            write_ms=write_ms,
            timeline=row["timeline"],
            replicas=replicas,
            replicas_hidden=hidden,
            read=True,
        )

    async def _read_replicas(self) -> tuple[tuple[Replica, ...], bool]:
        """The replicas, and whether this user may not see what they are."""
        rows = await self._connection.fetch(_REPLICAS_SQL)
        return tuple(Replica(*list(row.values())[:5]) for row in rows), any(row["hidden"] for row in rows)

    async def farewell(self) -> None:
        """Write into this server's row that it has left, if that can be done quickly."""
        if self.presence.twin is not None:
            return  # the row is the other one's, too, which stays
        with contextlib.suppress(Exception):
            async with asyncio.timeout(self.config.timeout_s):
                await self._connect()
                await self._beat(STOPPED)
                await self._connection.close()

    def close(self) -> None:
        """Close the session without waiting for anything."""
        self._abandon()

    def _refused(self, sent_s: float, why: str, *, readable: bool = False) -> Observation:
        self._abandon()
        return Observation(sent_s, refusal=why, readable=readable)

    async def _connect(self) -> None:
        if self._connection is not None and not self._connection.is_closed():
            return
        import asyncpg

        config = self.config
        limit_ms = str(round(config.timeout_s * 1000))
        connection = await asyncpg.connect(
            config.backend,
            timeout=config.connect_timeout_s,
            target_session_attrs="primary",  # of several hosts: the one that the election is held on
            server_settings={
                "application_name": f"plasma-quorum {config.election} {config.node_id}"[:63],
                "statement_timeout": limit_ms,
                "idle_session_timeout": str(round(max(10.0, 4 * config.interval_s) * 1000)),
            },
        )
        self._connection = connection
        self._backend = (
            connection.get_server_pid(),
            await connection.fetchval("SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"),
        )
        if self._abandoned is not None:
            await connection.execute(_END_SQL, *self._abandoned)
            self._abandoned = None
        if not await connection.fetchval("SELECT pg_is_in_recovery()"):
            await ensure_schema(connection, config.election)
            await ensure_contender_schema(connection)

    def _abandon(self) -> None:
        """Close the session without waiting for anything, and remember the backend that may stay behind."""
        if self._connection is None:
            return
        self._connection.terminate()
        self._connection = None
        self._abandoned, self._backend = self._backend or self._abandoned, None

    async def _beat(self, role: str) -> None:
        config, epoch = self.config, self._leadership().epoch
        shown = str(epoch) if epoch is not None else ""
        own = self.presence
        row = await self._connection.fetchrow(
            BEAT_SQL, config.election, config.node_id, config.advertise, role, shown, own.instance, own.joined
        )
        before = Run(row["instance"], row["url"], row["joined"]) if row["instance"] is not None else None
        own.wrote(before, joined=row["own"])

    async def note_down(self) -> None:
        """What is only worth doing while writes are taken: hear of the others, and write down what happened."""
        if self._connection is None:
            return
        try:
            async with asyncio.timeout(self.config.timeout_s):
                self.contenders = await list_contenders(self._connection, self.config.election)
                self.hold = await read_hold(self._connection, self.config.election)
                while self._unwritten:
                    each = self._unwritten[0]
                    await self._connection.execute(
                        _RECORD_SQL,
                        each.at,
                        self.config.election,
                        self.config.node_id,
                        each.before.value,
                        each.after.value,
                        each.reason,
                    )
                    if self._unwritten and self._unwritten[0] is each:
                        self._unwritten.popleft()
        except Exception as error:  # noqa: BLE001 - the next probe judges what this was
            log.debug("quorum bookkeeping failed", why=_words(error))
            self._abandon()


def _words(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return str(error) or type(error).__name__
