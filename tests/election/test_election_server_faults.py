"""What happens to the election when the server crashes, freezes, fails over, or waits for a standby in vain."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from contest import contend, contest, new_election, new_server, run, until, url_of

from plasmacloud.election.leadership import Epoch, Role
from plasmacloud.election.timers import Timers
from plasmacloud.postgres import PostgresServer, StopMode, copy_from, promote, rewind_to

RARE = Timers(keepalive=40.0, demote_after=60.0, session_timeout=90.0)


@asynccontextmanager
async def _own_server(directory: Path, **settings: str) -> AsyncIterator[PostgresServer]:
    for parent in (directory, *directory.parents[:3]):
        parent.chmod(0o755)
    server = new_server(directory, **settings)
    try:
        await server.create()
        await server.start()
        yield server
    finally:
        await server.remove()


def test_a_crash_of_the_server_is_noticed_without_a_keepalive_and_survived(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            _own_server(tmp_path) as server,
            contest(url_of(server), "a", election=new_election(), timers=RARE) as (a,),
        ):
            await server.stop(StopMode.IMMEDIATE)
            await until(lambda: not a.leads, "a steps down")
            await until(lambda: "refused" in a.candidate.problem, "the problem is known")
            await server.start()
            await until(lambda: a.leads, "a leads again")
            assert a.candidate.leadership.epoch == Epoch(1, 2)
            await server.kill()
            await until(lambda: not a.leads, "a steps down")
            await server.start()
            await until(lambda: a.leads, "a leads again")
            assert a.candidate.leadership.epoch == Epoch(1, 3)

    run(main())


def test_a_leader_whose_server_stands_still_gives_up_by_its_own_clock(tmp_path: Path) -> None:
    async def main() -> None:
        async with _own_server(tmp_path) as server, contest(url_of(server), "a", election=new_election()) as (a,):
            server.freeze()
            try:
                await until(lambda: a.candidate.leadership.role is Role.FOLLOWER, "a gives up")
            finally:
                server.thaw()
            await until(lambda: a.leads, "a leads again")
            epoch = a.candidate.leadership.epoch
            assert epoch is not None
            assert epoch > Epoch(1, 1)

    run(main())


def test_an_epoch_that_a_failover_lost_is_not_the_one_that_is_given_again(tmp_path: Path) -> None:
    """The standby has not received epoch 2 when it is promoted; it gives out 2 again, on a later timeline."""

    async def main() -> None:
        election = new_election()
        async with _own_server(tmp_path) as primary:
            async with contest(url_of(primary), "a", election=election) as (a,):
                standby = new_server(tmp_path, "standby")
                await copy_from(primary, standby)
                await a.candidate.resign(0.0)
                await until(lambda: a.leads, "a leads again")
                lost = a.candidate.leadership.epoch
                assert lost == Epoch(1, 2)
                await primary.stop(StopMode.IMMEDIATE)
            try:
                await standby.start()
                waiting = contend(url_of(standby), "b", election)
                await until(lambda: "primary" in waiting.candidate.problem, "a standby is not led on")
                await promote(standby)
                await until(lambda: waiting.leads, "b leads")
                assert waiting.candidate.leadership.epoch == Epoch(2, 2)
                assert waiting.candidate.leadership.epoch > lost
                await rewind_to(primary, standby)
                await waiting.end()
            finally:
                await standby.remove()

    run(main())


def test_an_epoch_that_waits_for_a_missing_standby_makes_no_leader_and_leaves_no_gap(tmp_path: Path) -> None:
    """The commit hangs beyond the death of its client. It keeps the row, but not the lock."""

    async def main() -> None:
        election = new_election()
        short = Timers(epoch_timeout=0.5)
        async with (
            _own_server(tmp_path) as server,
            contest(url_of(server), "a", election=election, timers=short) as (a,),
        ):
            admin = await server.connect()
            await admin.execute("SET synchronous_commit = local")
            await admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            await admin.execute("SELECT pg_reload_conf()")
            b = contend(url_of(server), "b", election, short)
            await until(lambda: b.candidate.leadership.leader_id == "a", "b waits")
            await a.end()
            await until(lambda: "too long" in b.candidate.problem, "b gives up")
            assert not b.leads
            stuck = await admin.fetch("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            assert len(stuck) == 1
            locks = await admin.fetch(
                "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = $1", stuck[0]["pid"]
            )
            assert locks == []
            await admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await admin.execute("SELECT pg_reload_conf()")
            await until(lambda: b.leads, "b leads when commits go on")
            rows = await admin.fetch("SELECT epoch FROM leader_epochs WHERE election = $1 ORDER BY 1", election)
            numbers = [row[0] for row in rows]
            assert numbers == list(range(1, len(numbers) + 1))
            epoch = b.candidate.leadership.epoch
            assert epoch is not None
            assert epoch.number == numbers[-1]
            assert len(numbers) <= 3, "every attempt left an epoch behind"
            admin.terminate()
            await b.end()

    run(main())


class Proxy:
    """Forwards connections to a server until it is cut off; then it says nothing any more, to nobody."""

    def __init__(self, port: int) -> None:
        self.accepted = 0
        self.cut_off = False
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.append(writer)
        if self.cut_off:
            return
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers.append(behind_writer)
        await asyncio.gather(self._pump(reader, behind_writer), self._pump(behind_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while (data := await reader.read(65536)) and not self.cut_off:
                writer.write(data)


def test_a_leader_that_is_cut_off_gives_up_before_another_leads_and_opens_no_connection_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        election = new_election()
        async with _own_server(tmp_path) as server, Proxy(server.port) as proxy:
            through = url_of(server).replace(f":{server.port}/", f":{proxy.port}/")
            order: list[tuple[str, int]] = []
            async with contest(through, "a", election=election) as (a,):
                b = contend(url_of(server), "b", election)
                await until(lambda: b.candidate.leadership.leader_id == "a", "b waits")
                proxy.cut_off = True

                def note() -> None:
                    if "a" not in dict(order) and not a.leads:
                        order.append(("a", proxy.accepted))
                    if "b" not in dict(order) and b.leads:
                        order.append(("b", 0))

                while len(order) < 2:
                    note()
                    await asyncio.sleep(0.001)
                    assert not (a.leads and b.leads)
                assert [name for name, _ in order] == ["a", "b"]
                assert dict(order)["a"] == 2, "the lock's session and the other one; no third to step down"
                assert b.candidate.leadership.epoch == Epoch(1, 2)
                await b.end()

    run(main())
