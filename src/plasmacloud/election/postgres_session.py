"""A candidate's two sessions with PostgreSQL: one that holds nothing but the lock, and one for everything else.

The lock session carries the server's limits: it ends when nothing is heard for ``session_timeout``
(``idle_session_timeout``, which a frozen or cut-off process cannot answer, though its kernel would), a waiter leaves
the queue after ``lock_timeout``, and a waiter whose process died is removed (``client_connection_check_interval``).
The state session raises the epoch, and watches who leads.

No query is ever cancelled or given a time limit here. A driver cancels by opening a second connection, and waits for
it: under a partition that takes long, and a leader that waits does not step down. Who has waited long enough drops the
connection; the query then fails by itself.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from plasmacloud.base.logging import get_logger
from plasmacloud.election.candidate import Listener, Sighting
from plasmacloud.election.epochs import FAIR_AFTER_S, channel, close_epoch, look, raise_epoch, warm_up
from plasmacloud.election.errors import ElectionError, ElectionUnavailable, ServerTooOld
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.lock_key import lock_key
from plasmacloud.election.postgres_errors import describe_url, diagnose, pooler_in_the_way, unreadable_url
from plasmacloud.election.schema import ensure_schema
from plasmacloud.election.session_names import session_name
from plasmacloud.election.timers import Timers

T = TypeVar("T")
OLDEST_MAJOR = 14
CHECK_CLIENT_MS = 250
_WHO = "SELECT pg_backend_pid() AS pid, current_setting('plasmacloud.session', true) AS mark"
_log = get_logger("election")


class PostgresPlace:
    """Where the election is, and whether its tables were seen there."""

    def __init__(self, url: str, *, election: str, node_id: str, timers: Timers) -> None:
        self.url = url
        self.election = election
        self.node_id = node_id
        self.timers = timers
        self.name = describe_url(url)
        self.key = lock_key(election)
        self.schema_ready = False

    def lock_settings(self) -> dict[str, str]:
        """Limits of the session that holds the lock."""
        timers = self.timers
        return {
            "idle_session_timeout": _ms(timers.session_timeout),
            "lock_timeout": _ms(timers.lock_timeout),
            "tcp_user_timeout": _ms(timers.session_timeout),
            **_COMMON,
        }

    def state_settings(self) -> dict[str, str]:
        """Limits of the session that raises the epoch: a process that stops within must not keep the row."""
        timers = self.timers
        return {
            "idle_session_timeout": _ms(10 * timers.session_timeout),
            "idle_in_transaction_session_timeout": _ms(timers.session_timeout),
            "lock_timeout": _ms(FAIR_AFTER_S),
            **_COMMON,
        }


_COMMON = {
    "client_connection_check_interval": f"{CHECK_CLIENT_MS}ms",
    "tcp_keepalives_idle": "1",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "2",
    "statement_timeout": "0",
}


class PostgresSession:
    """See `plasmacloud.election.candidate.Session`."""

    def __init__(self, place: PostgresPlace, listener: Listener) -> None:
        self._place = place
        self._listener = listener
        self._lock: Any = None  # the connection that holds the lock
        self._lock_turn = asyncio.Lock()
        self._lock_pid = 0
        self._lock_mark = ""
        self._state: Any = None  # the connection for everything else
        self._state_turn = asyncio.Lock()
        self._opening: set[asyncio.Task[Any]] = set()
        self._observer: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._gone = False

    # -- what a session does ---------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Open both, check that they are two, and make the tables where they are missing."""
        lock, state = await self._open(self._open_lock(), self._open_state())
        self._lock, self._state = lock, state
        await self._translated(self._check_that_there_are_two)
        if not self._place.schema_ready:
            await self._translated(lambda: ensure_schema(self._state, self._place.election))
            self._place.schema_ready = True
        await self._translated(lambda: warm_up(self._state))
        self._observer = asyncio.get_running_loop().create_task(self._observe())

    async def ask(self) -> bool:
        """In the queue for at most ``lock_timeout``, or at once when the candidate polls."""
        call = "pg_try_advisory_lock" if self._place.timers.polls else "leadership_wait"
        return bool(await self._on_lock(lambda lock: lock.fetchval(f"SELECT {call}($1)", self._place.key)))

    async def keepalive(self) -> None:
        """One round trip, which also sees that the session is still the same one."""
        self._check_identity(await self._on_lock(lambda lock: lock.fetchrow(_WHO)))

    async def raise_epoch(self) -> Epoch:
        """See `epochs.raise_epoch`."""
        place = self._place
        return await self._on_state(
            lambda state: raise_epoch(
                state, place.election, place.node_id, self._lock_pid, timeout_s=place.timers.epoch_timeout
            )
        )

    async def release(self, epoch: Epoch) -> None:
        """The lock first: the successor waits for that. The record may fail; the successor completes it."""
        place = self._place
        await self._on_lock(lambda lock: lock.fetchval("SELECT pg_advisory_unlock($1)", place.key))
        try:
            await self._on_state(lambda state: close_epoch(state, place.election, epoch, place.node_id, "resigned"))
        except ElectionError as problem:
            _log.warning("the end of the epoch is not on record", epoch=str(epoch), problem=str(problem))

    def cut(self) -> None:
        """Close the sockets. What waits on them fails by itself."""
        self._gone = True
        for connection in (self._lock, self._state):
            if connection is not None:
                connection.terminate()
        for task in self._opening:
            task.cancel()
        self._news.set()

    # -- opening ---------------------------------------------------------------------------------------------------

    async def _open(self, *opening: Awaitable[Any]) -> list[Any]:
        """Open connections at the same time; all of them, or none stays open."""
        tasks = [asyncio.ensure_future(one) for one in opening]
        self._opening.update(tasks)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            problems = [task for task in tasks if task.done() and (task.cancelled() or task.exception() is not None)]
            if not problems and not self._gone:
                return [task.result() for task in tasks]
        finally:
            self._opening.difference_update(tasks)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and task.exception() is None:
                task.result().terminate()
        for task in problems:
            if not task.cancelled():
                error = task.exception()
                assert error is not None
                raise diagnose(error, self._place.name) from error
        raise ElectionUnavailable(f"{self._place.name}: given up while connecting")

    async def _open_lock(self) -> Any:
        connection, self._lock_mark = await self._open_one(self._place.lock_settings(), "lock")
        connection.add_termination_listener(self._ended)
        self._lock_pid = await connection.fetchval("SELECT pg_backend_pid()")
        return connection

    async def _open_state(self) -> Any:
        connection, _ = await self._open_one(self._place.state_settings(), "state")
        await connection.add_listener(channel(self._place.election), lambda *_: self._news.set())
        return connection

    async def _open_one(self, settings: dict[str, str], what: str) -> tuple[Any, str]:
        """A connection with these limits, and the mark that says whose it is. ``what``: for `pg_stat_activity`."""
        import asyncpg

        place = self._place
        try:
            connection = await asyncpg.connect(
                place.url,
                timeout=place.timers.connect_timeout,
                target_session_attrs="primary",
                server_settings={"application_name": session_name(what, place.election, place.node_id)},
            )
        except ValueError as error:  # asyncpg's own complaints about the URL are such errors, too
            raise unreadable_url(place.name, error) from error
        try:
            if connection.get_server_version().major < OLDEST_MAJOR:
                version = connection.get_settings().server_version
                raise ServerTooOld(
                    f"{place.name} is PostgreSQL {version}; an election needs {OLDEST_MAJOR} or later, "
                    "which ends the session of a frozen leader",
                    hint="upgrade the server, or hold the election in etcd",
                )
            mark = secrets.token_hex(8)
            wanted = {**settings, "plasmacloud.session": mark}
            await connection.execute("; ".join(f"SET {name} = '{value}'" for name, value in wanted.items()))
        except BaseException:
            connection.terminate()
            raise
        return connection, mark

    async def _check_that_there_are_two(self) -> None:
        """Refuse a pooler that shares server sessions between clients.

        It hands the same server session to whoever asks next, and mixes up their settings; so either both connections
        find themselves in one server process, or one does not find itself where it was. Asked in turn, and in another
        order, since a pooler may hand its sessions out in a circle.
        """
        seen = [await connection.fetchrow(_WHO) for connection in (self._state, self._lock, self._lock, self._state)]
        self._check_identity(seen[1])
        self._check_identity(seen[2])
        if self._lock_pid in (seen[0]["pid"], seen[3]["pid"]):
            raise pooler_in_the_way(f"two connections are served by one server process, {self._lock_pid}")
        if seen[0] != seen[3]:
            raise pooler_in_the_way(f"the session moved from server process {seen[0]['pid']} to {seen[3]['pid']}")

    def _check_identity(self, seen: Any) -> None:
        if seen["pid"] != self._lock_pid:
            raise pooler_in_the_way(f"the session moved from server process {self._lock_pid} to {seen['pid']}")
        if seen["mark"] != self._lock_mark:
            raise pooler_in_the_way("the session lost its settings")

    # -- speaking --------------------------------------------------------------------------------------------------

    async def _translated(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            return await call()
        except Exception as error:
            found = diagnose(error, self._place.name)
            if getattr(error, "sqlstate", None) == "42P01":  # another server than the one where the tables were seen
                self._place.schema_ready = False
            raise found from error

    async def _on_lock(self, call: Callable[[Any], Awaitable[T]]) -> T:
        async with self._lock_turn:
            return await self._translated(lambda: call(self._lock))

    async def _on_state(self, call: Callable[[Any], Awaitable[T]]) -> T:
        async with self._state_turn:
            if self._state.is_closed() and not self._gone:
                (self._state,) = await self._open(self._open_state())
            return await self._translated(lambda: call(self._state))

    def _ended(self, _connection: Any) -> None:
        if not self._gone:
            self._listener.lost("the server ended the session")

    # -- watching --------------------------------------------------------------------------------------------------

    async def _observe(self) -> None:
        """Look who leads: when told of a change, and at the pace of the keepalives. Problems are others' to report."""
        timers = self._place.timers
        while not self._gone:
            self._news.clear()
            looking = asyncio.get_running_loop().create_task(self._look())
            done, _ = await asyncio.wait({looking}, timeout=timers.epoch_timeout + timers.demote_after)
            if not done:
                self._state.terminate()
                await asyncio.wait({looking})
            waking = asyncio.get_running_loop().create_task(self._news.wait())
            await asyncio.wait({waking}, timeout=timers.keepalive)
            waking.cancel()

    async def _look(self) -> None:
        try:
            holder, epoch = await self._on_state(lambda state: look(state, self._place.election))
        except ElectionError as problem:
            _log.debug("cannot see who leads", problem=str(problem))
            return
        if not self._gone:
            self._listener.seen(Sighting(holder, epoch))


def _ms(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"
