"""A real PgBouncer in the way: refused where it shares sessions, usable where every client has one to itself."""

from pathlib import Path

import pytest
from contest import contend, contest, new_election, run, until, until_fetched
from pgbouncer_process import PROGRAM, pgbouncer

from plasmacloud.election.backend import open_backend
from plasmacloud.election.errors import PoolerInTheWay
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.lock_key import lock_halves, lock_key
from plasmacloud.postgres import PostgresServer

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no pgbouncer: apt-get install pgbouncer")


async def _nobody_holds(server: PostgresServer, election: str) -> None:
    await until_fetched(
        server,
        "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = $1 "
        "AND objid::bigint = $2)",
        *lock_halves(lock_key(election)),
        what="the lock is free",
    )


@pytest.mark.parametrize("round_robin", ["0", "1"], ids=["last-used", "round-robin"])
@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pool_that_shares_sessions_is_refused(
    server: PostgresServer, tmp_path: Path, mode: str, round_robin: str
) -> None:
    async def main() -> None:
        election = new_election()
        with pgbouncer(server, tmp_path, pool_mode=mode, server_round_robin=round_robin) as url:
            candidate = open_backend(url, node_id="a", election=election)
            with pytest.raises(PoolerInTheWay) as refusal:
                await candidate.run()
            assert "session mode" in (refusal.value.hint or "")
            await _nobody_holds(server, election)

    run(main())


def test_a_pool_in_session_mode_hands_leadership_over(server: PostgresServer, tmp_path: Path) -> None:
    async def main() -> None:
        election = new_election()
        with pgbouncer(server, tmp_path, pool_mode="session") as url:
            async with contest(url, "a", "b", election=election) as (a, b):
                await until(lambda: b.candidate.leadership.leader_id == "a", "b waits")
                await a.end()  # as a process that is killed: PgBouncer sees its socket closed
                await until(lambda: b.leads, "b leads")
                assert b.candidate.leadership.epoch == Epoch(1, 2)
                await b.candidate.stop()
            await _nobody_holds(server, election)

    run(main())


def test_a_pool_that_ends_costs_leadership_and_no_epoch_twice(server: PostgresServer, tmp_path: Path) -> None:
    async def main() -> None:
        election = new_election()
        with pgbouncer(server, tmp_path, pool_mode="session") as url:
            through = contend(url, "a", election)
            await until(lambda: through.leads, "a leads")
        await until(lambda: not through.leads, "a steps down")
        await _nobody_holds(server, election)
        await through.end()

    run(main())


def test_a_pool_without_room_is_waited_for(server: PostgresServer, tmp_path: Path) -> None:
    """Two sessions for each candidate: a pool of three has none left for the second one."""

    async def main() -> None:
        election = new_election()
        with pgbouncer(server, tmp_path, pool_mode="session", default_pool_size="3") as url:
            async with contest(url, "a", election=election) as (a,):
                b = contend(url, "b", election)
                await until(lambda: b.candidate.problem, "the problem is known")
                assert a.leads
                await a.end()
                await until(lambda: b.leads, "b leads")
                await b.end()

    run(main())
