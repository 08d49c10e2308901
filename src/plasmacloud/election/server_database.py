"""A few database sessions for what the server does on request: audit, probe writes, looking for split brain.

`Database.run` gives each piece of work a session and a deadline. Work that is late, or whose session broke, loses the
session: the socket is closed, and nothing waits for a rollback that a cut-off server would never confirm.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from plasmacloud.base.errors import PlasmaError
from plasmacloud.election.errors import ElectionUnavailable

T = TypeVar("T")

_SESSIONS = 4
_IDLE_S = 30
_LAST_S = 1.0


class Database:
    """At most a handful of sessions; made when needed, kept while good."""

    def __init__(self, url: str, *, name: str, connect_timeout_s: float = 2.0) -> None:
        self._url = url
        self._name = name[:63]
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[Any] = []
        self._places = asyncio.Semaphore(_SESSIONS)
        self._closed = False

    async def run(self, work: Callable[[Any], Awaitable[T]], *, timeout_s: float) -> T:
        """Do ``work`` with an asyncpg connection, within ``timeout_s`` seconds in all.

        Raises `ElectionUnavailable` when no session could be had (so nothing was done), `TimeoutError` when the work
        was late, and whatever the work raises.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                await self._places.acquire()
        except TimeoutError:
            raise ElectionUnavailable("all database sessions of this server are busy") from None
        try:
            connection = await self._session(deadline - loop.time())
            good = False
            task = loop.create_task(_as_coroutine(work(connection)))
            try:
                done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - loop.time()))
                if not done:
                    raise TimeoutError(f"the database did not answer within {timeout_s:g} s")
                result = task.result()
                good = True
                return result
            finally:
                await self._give_back(connection, task, good)
        finally:
            self._places.release()

    async def close(self) -> None:
        """Close the idle sessions without waiting for the server."""
        self._closed = True
        while self._idle:
            self._idle.pop().terminate()

    async def _session(self, left_s: float) -> Any:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        import asyncpg

        from plasmacloud.postgres.sessions import SESSION_FAILURES

        try:
            async with asyncio.timeout(min(self._connect_timeout_s, max(0.0, left_s))):
                return await asyncpg.connect(
                    self._url,
                    target_session_attrs="primary",  # of several hosts: the one that the election is held on
                    server_settings={
                        "application_name": self._name,
                        "idle_session_timeout": str(_IDLE_S * 1000),
                        "idle_in_transaction_session_timeout": "5000",
                    },
                )
        except TimeoutError:
            raise ElectionUnavailable("the database does not answer") from None
        except asyncpg.exceptions.TargetServerAttributeNotMatched:
            raise ElectionUnavailable("the server is a standby: it takes no writes") from None
        except SESSION_FAILURES as error:
            raise ElectionUnavailable(f"the database cannot be reached: {error}") from error

    async def _give_back(self, connection: Any, task: "asyncio.Task[Any]", good: bool) -> None:
        usable = good or (task.done() and not task.cancelled() and _harmless(task.exception()))
        if usable and not self._closed and not connection.is_closed() and not connection.is_in_transaction():
            self._idle.append(connection)
            return
        connection.terminate()
        task.cancel()
        await asyncio.wait({task}, timeout=_LAST_S)
        if task.done() and not task.cancelled():
            task.exception()  # looked at: the caller has been told something else


def _harmless(error: BaseException | None) -> bool:
    """Whether the session is as good as before: the server answered with an error, or we gave up by ourselves."""
    from asyncpg import PostgresError

    return isinstance(error, PostgresError | PlasmaError)


async def _as_coroutine(work: Awaitable[T]) -> T:
    return await work
