"""The fence holds where others do not: two real sessions, and a third that raises the epoch between them."""

import asyncio
from typing import Any

import pytest
from contest import connect, contest, new_election, run, until, until_fetched, url_of

from plasmacloud.election.epochs import channel
from plasmacloud.election.errors import StaleEpoch
from plasmacloud.election.fencing import FENCE_SQL, assert_epoch, guarded
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.schema import ensure_schema
from plasmacloud.postgres import PostgresServer


async def _prepare(server: PostgresServer) -> tuple[str, Any, Any]:
    """An election at epoch 1.1, a table of its own for writes, and two sessions."""
    election = new_election()
    writer, raiser = await connect(server), await connect(server)
    await ensure_schema(writer, election)
    await _raise(raiser, election)
    await writer.execute("CREATE TABLE IF NOT EXISTS written (election text, what text)")
    return election, writer, raiser


async def _raise(connection: Any, election: str) -> None:
    await connection.execute(
        "UPDATE leadership_state SET timeline = 1, epoch = epoch + 1 WHERE election = $1", election
    )


async def _written(server: PostgresServer, election: str) -> list[str]:
    return [row[0] for row in await server.fetch("SELECT what FROM written WHERE election = $1", election)]


def test_comparing_first_and_writing_afterwards_lets_a_stale_write_through(server: PostgresServer) -> None:
    async def main() -> None:
        election, writer, raiser = await _prepare(server)
        async with writer.transaction():
            seen = await writer.fetchval("SELECT epoch FROM leadership_state WHERE election = $1", election)
            await _raise(raiser, election)  # does not have to wait for anything
            assert seen == 1
            await writer.execute("INSERT INTO written VALUES ($1, 'stale')", election)
        assert await _written(server, election) == ["stale"], "this is the defect that the fence is for"

    run(main())


def test_comparing_within_the_statement_lets_a_stale_write_through(server: PostgresServer) -> None:
    async def main() -> None:
        election, writer, raiser = await _prepare(server)
        async with writer.transaction():
            await writer.execute(
                "INSERT INTO written SELECT $1, 'stale' FROM leadership_state WHERE election = $1 AND epoch = 1",
                election,
            )
            await _raise(raiser, election)  # committed before the write is
        assert await _written(server, election) == ["stale"], "this is the defect that the fence is for"

    run(main())


def test_a_guarded_write_makes_the_next_epoch_wait(server: PostgresServer) -> None:
    async def main() -> None:
        election, writer, raiser = await _prepare(server)
        order: list[str] = []

        async def raise_it() -> None:
            await _raise(raiser, election)
            order.append("raised")

        async with guarded(writer, Epoch(1, 1), election=election, limit_s=20.0):
            raising = asyncio.create_task(raise_it())
            await until_fetched(
                server,
                "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'",
                raiser.get_server_pid(),
                what="the new epoch waits",
            )
            await writer.execute("INSERT INTO written VALUES ($1, 'in time')", election)
            order.append("written")
        await raising
        assert order == ["written", "raised"]
        assert await _written(server, election) == ["in time"]

    run(main())


def test_a_guarded_write_that_comes_too_late_is_refused(server: PostgresServer) -> None:
    async def main() -> None:
        election, writer, raiser = await _prepare(server)
        await _raise(raiser, election)
        with pytest.raises(StaleEpoch) as refusal:
            async with guarded(writer, Epoch(1, 1), election=election):
                await writer.execute("INSERT INTO written VALUES ($1, 'stale')", election)
        assert refusal.value.current == Epoch(1, 2)
        assert await _written(server, election) == []

    run(main())


def test_a_guarded_write_that_meets_the_raising_of_the_epoch_waits_and_is_refused(server: PostgresServer) -> None:
    async def main() -> None:
        election, writer, raiser = await _prepare(server)

        async def write() -> None:
            async with guarded(writer, Epoch(1, 1), election=election, limit_s=20.0):
                await writer.execute("INSERT INTO written VALUES ($1, 'stale')", election)

        async with raiser.transaction():
            await _raise(raiser, election)
            writing = asyncio.create_task(write())
            await until_fetched(
                server,
                "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'",
                writer.get_server_pid(),
                what="the guarded write waits",
            )
        with pytest.raises(StaleEpoch):
            await writing
        assert await _written(server, election) == []

    run(main())


def test_the_same_number_on_another_timeline_is_another_epoch(server: PostgresServer) -> None:
    async def main() -> None:
        election, writer, _ = await _prepare(server)
        await writer.execute("UPDATE leadership_state SET timeline = 2 WHERE election = $1", election)
        async with writer.transaction():
            with pytest.raises(StaleEpoch):
                await assert_epoch(writer, Epoch(1, 1), election=election)
            await assert_epoch(writer, Epoch(2, 1), election=election)

    run(main())


def test_an_election_that_is_not_there_has_no_epoch(server: PostgresServer) -> None:
    async def main() -> None:
        _, writer, _ = await _prepare(server)
        with pytest.raises(StaleEpoch, match="no election"):
            async with guarded(writer, Epoch(1, 1), election="nowhere"):
                pytest.fail("the block must not be entered")

    run(main())


def test_the_sql_for_other_drivers(server: PostgresServer) -> None:
    async def main() -> None:
        election, writer, raiser = await _prepare(server)
        sql = FENCE_SQL
        for at, name in enumerate(("election", "timeline", "epoch"), 1):
            sql = sql.replace(f"%({name})s", f"${at}")
        async with writer.transaction():
            assert await writer.fetchval(sql, election, 1, 1) == 1
            locked = await raiser.fetchval(
                "SELECT epoch FROM leadership_state WHERE election = $1 FOR UPDATE SKIP LOCKED", election
            )
            assert locked is None, "the row is not held"
        async with writer.transaction():
            assert await writer.fetchval(sql, election, 1, 2) is None

    run(main())


def test_a_guarded_transaction_that_stands_still_is_ended_by_the_server(server: PostgresServer) -> None:
    async def main() -> None:
        election, writer, _ = await _prepare(server)
        ended = asyncio.Event()
        writer.add_termination_listener(lambda _: ended.set())

        async def write() -> None:
            async with guarded(writer, Epoch(1, 1), election=election, limit_s=0.2):
                await writer.execute("INSERT INTO written VALUES ($1, 'late')", election)
                await ended.wait()

        with pytest.raises(Exception, match=r"timeout|closed"):
            await write()
        assert await _written(server, election) == []

    run(main())


def test_a_guarded_transaction_that_stays_busy_is_ended_by_the_server(server: PostgresServer) -> None:
    async def main() -> None:
        election, writer, _ = await _prepare(server)
        if writer.get_server_version().major < 17:
            pytest.skip("transaction_timeout came with PostgreSQL 17")

        async def write() -> None:
            async with guarded(writer, Epoch(1, 1), election=election, limit_s=0.3):
                for _ in range(10_000):
                    await writer.execute("SELECT pg_sleep(0.02)")

        with pytest.raises(Exception, match=r"transaction timeout|closed"):
            await write()

    run(main())


def test_a_crowd_of_guarded_writes_does_not_keep_the_next_leader_out(server: PostgresServer) -> None:
    """Shared locks of the row overlap without end; the next epoch must come through all the same."""

    async def main() -> None:
        election = new_election()
        async with contest(url_of(server), "a", "b", election=election) as (a, b):
            epoch = a.candidate.leadership.epoch
            assert epoch is not None
            refused = 0
            written = 0

            async def hammer(connection: Any) -> None:
                nonlocal refused, written
                while not refused:
                    try:
                        async with guarded(connection, epoch, election=election, limit_s=20.0):
                            await connection.execute("SELECT pg_sleep(0.2)")
                        written += 1
                    except StaleEpoch:
                        refused += 1

            sessions = [await connect(server) for _ in range(12)]
            crowd = [asyncio.create_task(hammer(session)) for session in sessions]
            await until(lambda: written > 12, "guarded writes go on")
            await a.candidate.resign(60.0)
            await until(lambda: b.leads, "b leads")
            await asyncio.gather(*crowd)

    run(main())


def test_the_audit_can_be_added_to_and_nothing_else(server: PostgresServer) -> None:
    async def main() -> None:
        election, connection, _ = await _prepare(server)
        await connection.execute(
            "INSERT INTO ha_audit (election, node_id, operator, action, outcome) VALUES ($1, 'n', 'o', 'x', 'done')",
            election,
        )
        for attempt in ("UPDATE ha_audit SET operator = 'me'", "DELETE FROM ha_audit", "TRUNCATE ha_audit"):
            with pytest.raises(Exception, match="append-only"):
                await connection.execute(attempt)

    run(main())


def test_tables_are_made_once_by_servers_that_start_together(server: PostgresServer) -> None:
    async def main() -> None:
        admin = await connect(server)
        await admin.execute("CREATE DATABASE together")
        sessions = [await connect(server, database="together") for _ in range(6)]
        await asyncio.gather(*(ensure_schema(session, "e") for session in sessions))
        assert await sessions[0].fetchval("SELECT count(*) FROM election_schema") == 1
        assert await sessions[0].fetchval("SELECT count(*) FROM leadership_state") == 1

    run(main())


def test_channels_are_names_that_need_no_quotes() -> None:
    assert channel("any name; at all").replace("_", "").isalnum()
