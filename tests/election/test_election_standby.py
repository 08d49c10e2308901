"""Synchronous replication for real: a standby that is lost and comes back, and one that takes over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from contest import DEADLINE_S, Contender, contend, new_election, new_server, run, until, until_fetched, url_of

from plasmacloud.election.errors import StaleEpoch
from plasmacloud.election.fencing import guarded
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.timers import Timers
from plasmacloud.postgres import PostgresServer, StopMode, copy_from, promote, require_synchronous, rewind_to
from plasmacloud.postgres.sessions import SESSION_FAILURES

SHORT = Timers(epoch_timeout=0.5)


@asynccontextmanager
async def _replicated(directory: Path) -> AsyncIterator[tuple[PostgresServer, PostgresServer]]:
    """A primary whose commits wait for its standby."""
    for parent in (directory, *directory.parents[:3]):
        parent.chmod(0o755)
    primary, standby = new_server(directory), new_server(directory, "standby")
    try:
        await primary.create()
        await primary.start()
        await copy_from(primary, standby)
        await standby.start()
        await require_synchronous(primary, standby)
        await _follows(primary)
        yield primary, standby
    finally:
        await standby.remove()
        await primary.remove()


async def _follows(primary: PostgresServer) -> None:
    await until_fetched(
        primary, "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'", what="the standby is synchronous"
    )


def _both(primary: PostgresServer, standby: PostgresServer) -> str:
    """One URL for both; whichever is the primary is used."""
    here, there = (f"127.0.0.1:{server.port}" for server in (primary, standby))
    return url_of(primary).replace(here, f"{here},{there}")


async def _numbers(server: PostgresServer, election: str) -> list[tuple[int, int]]:
    rows = await server.fetch("SELECT timeline, epoch FROM leader_epochs WHERE election = $1 ORDER BY epoch", election)
    return [(row[0], row[1]) for row in rows]


def test_without_its_standby_nobody_leads_and_with_it_the_election_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        election = new_election()
        async with _replicated(tmp_path) as (primary, standby):
            a = contend(url_of(primary), "a", election, SHORT)
            await until(lambda: a.leads, "a leads")
            b = contend(url_of(primary), "b", election, SHORT)
            await until(lambda: b.candidate.leadership.leader_id == "a", "b waits")
            await standby.stop(StopMode.IMMEDIATE)
            assert a.leads, "what is committed stays; only new commits wait"
            await a.end()
            await until(lambda: "takes too long" in b.candidate.problem, "b gives its epoch up")
            assert not b.leads
            assert not any(view.leads for view in b.views)
            await standby.start()
            await until(lambda: b.leads, "b leads when commits are confirmed again")
            held = b.candidate.leadership.epoch
            numbers = await _numbers(primary, election)
            assert [number for _, number in numbers] == list(range(1, len(numbers) + 1))
            assert held == Epoch(*numbers[-1])
            await b.end()

    run(main())


class Writer:
    """Writes numbers under the fence as long as its candidate leads; remembers what was acknowledged."""

    def __init__(self, url: str, election: str, contender: Contender) -> None:
        self.acknowledged: list[tuple[int, int, int]] = []
        self._url = url
        self._election = election
        self._contender = contender
        self._number = 0
        self.task = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        session = None
        while True:
            epoch = self._contender.candidate.leadership.epoch if self._contender.leads else None
            await asyncio.sleep(0.002)
            if epoch is None:
                continue
            self._number += 1
            try:
                if session is None or session.is_closed():
                    session = await asyncpg.connect(self._url, target_session_attrs="primary", timeout=2.0)
                async with guarded(session, epoch, election=self._election):
                    await session.execute("INSERT INTO kept VALUES ($1, $2, $3)", *epoch, self._number)
            except StaleEpoch:
                continue
            except SESSION_FAILURES:
                if session is not None:
                    session.terminate()
                continue
            self.acknowledged.append((*epoch, self._number))

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})
        if not self.task.cancelled():
            self.task.result()  # it never ends by itself, so this raises what ended it


def test_failover_to_the_synchronous_standby_loses_nothing_and_epochs_go_up(tmp_path: Path) -> None:
    async def main() -> None:
        election = new_election()
        async with _replicated(tmp_path) as (primary, standby):
            await primary.execute("CREATE TABLE kept (timeline bigint, epoch bigint, number bigint)")
            url = _both(primary, standby)
            a, b = contend(url, "a", election), contend(url, "b", election)
            writers = [Writer(url, election, each) for each in (a, b)]
            try:
                await until(lambda: len(writers[0].acknowledged + writers[1].acknowledged) > 20, "writes are accepted")
                first = max(a.candidate.leadership.epoch or Epoch(0, 0), b.candidate.leadership.epoch or Epoch(0, 0))
                await primary.kill()
                await until(lambda: not a.leads and not b.leads, "nobody leads")
                await promote(standby)
                await until(lambda: a.leads or b.leads, "one leads on the new primary")
                (leader,) = [each for each in (a, b) if each.leads]
                second = leader.candidate.leadership.epoch
                assert second is not None
                assert second > first
                assert second.timeline == 2
                assert second.number > first.number, "a required standby has every epoch that was led with"
                await until(
                    lambda: any(write[0] == 2 for writer in writers for write in writer.acknowledged),
                    "writes are accepted again",
                )
            finally:
                for writer in writers:
                    await writer.end()
            acknowledged = [write for writer in writers for write in writer.acknowledged]
            rows = await standby.fetch("SELECT timeline, epoch, number FROM kept")
            kept = {tuple(row) for row in rows}
            assert set(acknowledged) <= kept, "an acknowledged write was lost"
            numbers = await _numbers(standby, election)
            assert numbers == sorted(numbers)
            assert [number for _, number in numbers] == list(range(1, len(numbers) + 1))
            for each in (a, b):
                await each.end()
            await rewind_to(primary, standby)
            await primary.start()
            await asyncio.wait_for(_same_epochs(primary, numbers, election), DEADLINE_S)

    run(main())


async def _same_epochs(server: PostgresServer, wanted: list[tuple[int, int]], election: str) -> None:
    """The old primary, rewound, shows the epochs of the new one, and none of its own."""
    while await _numbers(server, election) != wanted:
        await asyncio.sleep(0.02)
