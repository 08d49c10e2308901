"""Candidates as processes that are killed, stopped and frozen: what the server's limits are for."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from contest import connect, contend, contest, new_election, run, until, until_fetched, url_of

from plasmacloud.base.process import ManagedProcess
from plasmacloud.election.epochs import channel
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.lock_key import lock_halves, lock_key
from plasmacloud.postgres import PostgresServer

SCRIPT = Path(__file__).with_name("candidate_process.py")


class Crowd:
    """Candidate processes of one election."""

    def __init__(self, server: PostgresServer, directory: Path) -> None:
        self.server = server
        self.election = new_election()
        self._directory = directory
        self._processes: list[ManagedProcess] = []

    def start(self, node_id: str) -> ManagedProcess:
        argv = [sys.executable, str(SCRIPT), url_of(self.server), self.election, node_id]
        process = ManagedProcess(node_id, argv, log_path=self._directory / f"{node_id}.log")
        process.start()
        self._processes.append(process)
        return process

    async def led_by(self, node_id: str) -> int:
        """Wait until that node has written; returns its epoch's number."""
        rows = await until_fetched(
            self.server,
            "SELECT epoch FROM ledger WHERE election = $1 AND node = $2 ORDER BY id DESC LIMIT 1",
            self.election,
            node_id,
            what=f"{node_id} writes",
        )
        return int(rows[0][0])

    async def waits(self, node_id: str) -> int:
        """Wait until that node is in the queue for the lock; returns its server process."""
        halves = lock_halves(lock_key(self.election))
        rows = await until_fetched(
            self.server,
            "SELECT l.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' "
            "AND NOT l.granted AND l.classid::bigint = $1 AND l.objid::bigint = $2 AND a.application_name LIKE $3",
            halves.high,
            halves.low,
            f"% {node_id}",
            what=f"{node_id} waits",
        )
        return int(rows[0][0])

    async def is_gone(self, pid: int, *, what: str) -> None:
        await until_fetched(
            self.server, "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid, what=what
        )

    async def check_ledger(self) -> None:
        """No write of an epoch after one of a newer epoch, and each epoch's writes are of one node."""
        rows = await self.server.fetch("SELECT epoch, node FROM ledger WHERE election = $1 ORDER BY id", self.election)
        epochs = [row[0] for row in rows]
        assert epochs == sorted(epochs)
        assert len({row[0] for row in rows}) == len(set(rows))
        numbers = await self.server.fetch(
            "SELECT epoch FROM leader_epochs WHERE election = $1 ORDER BY epoch", self.election
        )
        assert [row[0] for row in numbers] == list(range(1, len(numbers) + 1)), "epochs have a gap"

    def end(self) -> None:
        for process in self._processes:
            process.kill()


@pytest.fixture
def crowd(server: PostgresServer, tmp_path: Path) -> Iterator[Crowd]:
    run(_make_ledger(server))
    crowd = Crowd(server, tmp_path)
    try:
        yield crowd
    finally:
        crowd.end()


async def _make_ledger(server: PostgresServer) -> None:
    await server.execute(
        "CREATE TABLE IF NOT EXISTS ledger (id bigint GENERATED ALWAYS AS IDENTITY, election text, node text, "
        "epoch bigint)"
    )


def test_a_killed_leader_is_succeeded_at_once_under_the_next_epoch(crowd: Crowd) -> None:
    async def main() -> None:
        first = crowd.start("a")
        assert await crowd.led_by("a") == 1
        crowd.start("b")
        await crowd.waits("b")
        first.kill()
        assert await crowd.led_by("b") == 2
        await crowd.check_ledger()

    run(main())


def test_a_frozen_leader_loses_the_lock_and_finds_out_before_it_writes_again(crowd: Crowd) -> None:
    """Its kernel still acknowledges everything: only the limit on silent sessions ends it."""

    async def main() -> None:
        first = crowd.start("a")
        await crowd.led_by("a")
        second = crowd.start("b")
        await crowd.waits("b")
        first.signal(signal.SIGSTOP)
        assert await crowd.led_by("b") == 2
        first.signal(signal.SIGCONT)
        await crowd.waits("a")  # it has found out, and contends again
        assert "follower" in first.log_path.read_text()
        second.kill()
        await until_fetched(
            crowd.server,
            "SELECT 1 FROM ledger WHERE election = $1 AND node = 'a' AND epoch = 3",
            crowd.election,
            what="a writes again",
        )
        await crowd.check_ledger()

    run(main())


def test_frozen_waiters_do_not_keep_their_place(crowd: Crowd) -> None:
    async def main() -> None:
        async with contest(url_of(crowd.server), "leader", election=crowd.election) as (leader,):
            frozen = [crowd.start("f1"), crowd.start("f2")]
            pids = [await crowd.waits("f1"), await crowd.waits("f2")]
            live = contend(url_of(crowd.server), "live", crowd.election)
            await crowd.waits("live")
            for process in frozen:
                process.signal(signal.SIGSTOP)
            for pid in pids:
                await crowd.is_gone(pid, what="a frozen waiter's session is ended")
            await crowd.waits("live")
            await leader.candidate.resign(60.0)
            await until(lambda: live.leads, "the live one leads")
            assert live.candidate.leadership.epoch == Epoch(1, 2)
            await live.end()

    run(main())


def test_waiters_that_were_killed_do_not_stay_as_ghosts(crowd: Crowd) -> None:
    async def main() -> None:
        async with contest(url_of(crowd.server), "leader", election=crowd.election) as (leader,):
            for node_id in ("g1", "g2", "g3"):
                ghost = crowd.start(node_id)
                pid = await crowd.waits(node_id)
                ghost.kill()
                await crowd.is_gone(pid, what="the ghost is removed")
            assert leader.leads

    run(main())


def test_a_leader_is_told_at_once_when_its_session_is_terminated(server: PostgresServer) -> None:
    """With keepalives this rare, nothing but the termination itself can tell."""
    from plasmacloud.election.timers import Timers

    rare = Timers(keepalive=40.0, demote_after=60.0, session_timeout=90.0)

    async def main() -> None:
        election = new_election()
        async with contest(url_of(server), "a", election=election, timers=rare) as (a,):
            halves = lock_halves(lock_key(election))
            await server.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted "
                "AND classid::bigint = $1 AND objid::bigint = $2",
                halves.high,
                halves.low,
            )
            await until(lambda: not a.leads, "a steps down")
            await until(lambda: a.leads, "a leads again")
            assert a.candidate.leadership.epoch == Epoch(1, 2)

    run(main())


def test_losing_the_other_session_costs_no_leadership(server: PostgresServer) -> None:
    async def main() -> None:
        election = new_election()
        async with contest(url_of(server), "a", "b", election=election) as (a, b):
            await until(lambda: b.candidate.leadership.leader_id == "a", "b sees who leads")
            ended = await server.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE $1",
                f"election state {election} %",
            )
            assert len(ended) == 2
            await until(lambda: b.candidate.leadership.leader_id == "a", "b sees who leads")
            assert a.candidate.leadership.epoch == Epoch(1, 1)
            await a.candidate.resign(60.0)
            await until(lambda: b.leads, "b leads with a session opened anew")

    run(main())


def test_waiting_leaves_no_errors_in_the_servers_log(server: PostgresServer) -> None:
    async def main() -> None:
        election = new_election()
        async with contest(url_of(server), "a", "b", election=election) as (_, b):
            before = server.process.log_path.read_text()
            session = await connect(server)
            seen: set[object] = set()

            async def asked() -> int:
                rows = await session.fetch(
                    "SELECT query_start FROM pg_stat_activity WHERE query LIKE '%leadership_wait($1)' "
                    "AND application_name = $1",
                    f"election lock {election} b",
                )
                seen.update(row[0] for row in rows)
                return len(seen)

            while await asked() < 4:
                await asyncio.sleep(0.05)
            assert not b.leads
            assert "ERROR" not in server.process.log_path.read_text().removeprefix(before)

    run(main())


def test_elections_in_one_database_do_not_meet(server: PostgresServer) -> None:
    async def main() -> None:
        one, two = new_election(), new_election()
        async with (
            contest(url_of(server), "a", election=one) as (a,),
            contest(url_of(server), "b", election=two) as (b,),
        ):
            assert a.leads
            assert b.leads
            assert channel(one) != channel(two)

    run(main())


def test_a_row_that_somebody_keeps_is_reported_and_taken_when_it_is_free(server: PostgresServer) -> None:
    from plasmacloud.election.schema import ensure_schema
    from plasmacloud.election.timers import Timers

    async def main() -> None:
        election = new_election()
        keeper = await connect(server)
        await ensure_schema(keeper, election)
        async with keeper.transaction():
            await keeper.execute("SELECT FROM leadership_state WHERE election = $1 FOR UPDATE", election)
            contender = contend(url_of(server), "a", election, Timers(epoch_timeout=0.3))
            await until(lambda: contender.candidate.problem, "the problem is known")
            assert not contender.leads
        await until(lambda: contender.leads, "a leads")
        assert contender.candidate.leadership.epoch == Epoch(1, 1)
        await contender.end()

    run(main())
