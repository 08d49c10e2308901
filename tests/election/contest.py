"""A PostgreSQL server for a module of tests, candidates on it, and waits with a deadline."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from plasmacloud.base.process import free_ports
from plasmacloud.election.backend import open_backend
from plasmacloud.election.candidate import SessionCandidate
from plasmacloud.election.leadership import Leadership
from plasmacloud.election.timers import Timers
from plasmacloud.postgres import Binaries, PostgresServer, find_binaries

DEADLINE_S = 30.0
_names = itertools.count(1)


def new_server(
    directory: Path, name: str = "primary", *, binaries: Binaries | None = None, **settings: str
) -> PostgresServer:
    """A server that is neither created nor started. Commits are not forced to disk unless a test asks for it."""
    (port,) = free_ports(1)
    return PostgresServer(
        name,
        binaries or find_binaries(),
        directory / name,
        port,
        log_path=directory / f"{name}.log",
        settings={"fsync": "off", **settings},
    )


def url_of(server: PostgresServer, *, user: str = "plasma", database: str = "postgres") -> str:
    """With the password, as a file."""
    return f"{server.url(user=user, database=database)}?passfile={server.passfile}"


def new_election() -> str:
    """A name that no other test uses."""
    return f"contest-{next(_names)}"


class Contender:
    """A candidate that runs, and everything it said."""

    def __init__(self, candidate: SessionCandidate, views: list[Leadership]) -> None:
        self.candidate = candidate
        self.views = views
        self.running = asyncio.get_running_loop().create_task(candidate.run())

    @property
    def leads(self) -> bool:
        return self.candidate.leadership.leads

    async def end(self) -> None:
        """As a process that is killed: nothing is said to the server."""
        self.running.cancel()
        await asyncio.wait({self.running})


def contend(url: str, node_id: str, election: str, timers: Timers | None = None) -> Contender:
    """Start a candidate on the running loop."""
    views: list[Leadership] = []
    candidate = open_backend(url, node_id=node_id, election=election, timers=timers, on_change=views.append)
    return Contender(candidate, views)


@asynccontextmanager
async def contest(
    url: str, *node_ids: str, election: str, timers: Timers | None = None
) -> AsyncIterator[list[Contender]]:
    """Candidates that contend; the first one leads when the block is entered. All are ended afterwards."""
    contenders: list[Contender] = []
    try:
        for node_id in node_ids:
            contenders.append(contend(url, node_id, election, timers))
            if len(contenders) == 1:
                await until(lambda: contenders[0].leads, "the first candidate leads")
        yield contenders
    finally:
        for contender in contenders:
            await contender.end()


async def until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait until it holds; the test fails when it does not."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"it never happened that {what}"
        await asyncio.sleep(0.002)


async def until_fetched(server: PostgresServer, sql: str, *arguments: object, what: str) -> list[tuple[Any, ...]]:
    """Wait until a query returns rows."""
    deadline = time.monotonic() + DEADLINE_S
    while not (rows := await server.fetch(sql, *arguments)):
        assert time.monotonic() < deadline, f"it never happened that {what}"
        await asyncio.sleep(0.01)
    return rows


_opened: list[Any] = []


async def connect(server: PostgresServer, *, database: str = "postgres") -> Any:
    """A session that ends with the test at the latest."""
    session = await server.connect(database=database, timeout=DEADLINE_S)
    _opened.append(session)
    return session


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """One test's coroutine, with a deadline over all."""

    async def bounded() -> None:
        try:
            async with asyncio.timeout(3 * DEADLINE_S):
                await coroutine
        finally:
            while _opened:
                _opened.pop().terminate()
            for _ in range(3):  # in the loop's next turns the sockets are closed
                await asyncio.sleep(0)

    asyncio.run(bounded())
