"""Replication with real servers: follow, wait, promote, rewind."""

import asyncio

import pytest

from plasmacloud.postgres import PostgresError, PostgresServer, copy_from, promote, require_synchronous, rewind_to
from plasmacloud.postgres.standby import timeline

pytestmark = pytest.mark.slow


async def pair(make_server) -> tuple[PostgresServer, PostgresServer]:
    primary, standby = make_server("pg-a"), make_server("pg-b")
    await primary.create()
    await primary.start()
    await primary.execute("CREATE TABLE t (n int)")
    await copy_from(primary, standby)
    await standby.start()
    return primary, standby


async def until(server: PostgresServer, sql: str, wanted: object) -> None:
    async with asyncio.timeout(30):
        while (rows := await server.fetch(sql)) != [(wanted,)]:
            assert rows is not None
            await asyncio.sleep(0.02)


def test_a_standby_that_is_required_has_every_commit_and_takes_over(make_server) -> None:
    async def life() -> None:
        primary, standby = await pair(make_server)
        await require_synchronous(primary, standby)
        await until(primary, "SELECT sync_state FROM pg_stat_replication", "sync")
        await primary.execute("INSERT INTO t VALUES (1)")
        await primary.kill()
        await promote(standby)
        assert await standby.fetch("SELECT n FROM t") == [(1,)]
        assert await timeline(standby) == 2

    asyncio.run(life())


def test_a_primary_that_vacuums_does_not_hold_up_the_promotion(make_server) -> None:
    """What a vacuum removed is replayed before the promotion, and waits for sessions that might still see it."""

    async def life() -> None:
        primary, standby = await pair(make_server)
        vacuuming = asyncio.create_task(keep_vacuuming(primary))
        try:
            await until(standby, "SELECT count(*) > 0 FROM t", True)
            await promote(standby)
            assert not vacuuming.done()
        finally:
            vacuuming.cancel()
        assert await timeline(standby) == 2

    async def keep_vacuuming(primary: PostgresServer) -> None:
        session = await primary.connect()
        try:
            while True:
                for statement in ("INSERT INTO t VALUES (1)", "UPDATE t SET n = n + 1", "DELETE FROM t WHERE n > 3"):
                    await session.execute(statement)
                await session.execute("VACUUM t")
        finally:
            session.terminate()

    asyncio.run(life())


def test_without_its_required_standby_a_primary_commits_nothing(make_server) -> None:
    async def life() -> None:
        primary, standby = await pair(make_server)
        await require_synchronous(primary, standby)
        await until(primary, "SELECT sync_state FROM pg_stat_replication", "sync")
        await standby.stop()
        with pytest.raises(PostgresError, match=r"no answer within 0\.5 s"):
            await primary.execute("INSERT INTO t VALUES (2)", timeout=0.5)
        await require_synchronous(primary)
        assert await primary.execute("INSERT INTO t VALUES (3)") == "INSERT 0 1"

    asyncio.run(life())


def test_an_old_primary_is_rewound_and_forgets_what_it_alone_had(make_server) -> None:
    async def life() -> None:
        primary, standby = await pair(make_server)
        if primary.binaries.major < 18:
            pytest.skip("pg_rewind is used with PostgreSQL 18, whose directories have checksums by default")
        await until(primary, "SELECT count(*) FROM pg_stat_replication", 1)
        await standby.stop()
        await primary.execute("INSERT INTO t VALUES (8)")  # only here
        await primary.kill()
        await standby.start()
        await promote(standby)
        await standby.execute("INSERT INTO t VALUES (9)")
        with pytest.raises(PostgresError, match="runs and cannot be rewound"):
            await rewind_to(standby, primary)
        await rewind_to(primary, standby)
        await primary.start()
        await until(primary, "SELECT sum(n) FROM t", 9)
        assert await primary.fetch("SELECT pg_is_in_recovery()") == [(True,)]

    asyncio.run(life())
