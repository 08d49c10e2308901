"""The quorum monitor on a real PostgreSQL: stopped, frozen, a standby, read-only, with and without its replicas."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from contest import DEADLINE_S, new_server, url_of

from plasmacloud.election.leadership import Leadership, Role
from plasmacloud.election.quorum import Health, Limits
from plasmacloud.election.quorum_postgres import PostgresWatch
from plasmacloud.election.quorum_watch import WatchConfig
from plasmacloud.postgres import PostgresServer, StopMode
from plasmacloud.postgres.standby import copy_from, promote, require_synchronous, standby_name


@asynccontextmanager
async def watching(server: PostgresServer, node: str = "n1", **limits: int | float) -> AsyncIterator[PostgresWatch]:
    """A monitor that runs."""
    config = WatchConfig(
        backend=url_of(server),
        election="watched",
        node_id=node,
        advertise="http://127.0.0.1:1",
        limits=Limits(**limits),
        interval_s=0.05,
        timeout_s=0.5,
    )
    watch = PostgresWatch(config, leadership=lambda: Leadership(node_id=node, role=Role.FOLLOWER))
    task = asyncio.get_running_loop().create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(watch: PostgresWatch, health: Health) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while watch.judge.verdict.health is not health:
        assert time.monotonic() < deadline, (health, watch.judge.verdict)
        await asyncio.sleep(0.01)


def run(directory: Path, scene: "object", **settings: str) -> None:
    """Play a scene with a server that runs."""

    async def main() -> None:
        server = new_server(directory, **settings)
        try:
            await server.create()
            await server.start()
            await asyncio.wait_for(scene(server), 90)  # type: ignore[operator]
        finally:
            server.end()

    asyncio.run(main())


def test_lost_when_postgresql_stops_and_healthy_when_it_returns(tmp_path: Path) -> None:
    async def scene(server: PostgresServer) -> None:
        async with watching(server) as watch:
            await until(watch, Health.HEALTHY)
            for mode in (StopMode.FAST, StopMode.IMMEDIATE):
                await server.stop(mode)
                await until(watch, Health.LOST)
                assert not watch.judge.verdict.write_ready
                await server.start()
                await until(watch, Health.HEALTHY)
            await server.kill()
            await until(watch, Health.LOST)
            assert watch.unwritten > 0
            await server.start()
            await until(watch, Health.HEALTHY)
            while watch.unwritten:
                await asyncio.sleep(0.01)
        rows = await server.fetch("SELECT from_health, to_health, reason FROM quorum_transitions ORDER BY id")
        assert [row[:2] for row in rows] == [("lost", "healthy"), *[("healthy", "lost"), ("lost", "healthy")] * 3]

    run(tmp_path, scene)


def test_a_frozen_server_is_degraded_then_lost_and_never_hangs_the_monitor(tmp_path: Path) -> None:
    async def scene(server: PostgresServer) -> None:
        async with watching(server, lost_after_s=1.0) as watch:
            await until(watch, Health.HEALTHY)
            server.freeze()
            try:
                await until(watch, Health.LOST)
            finally:
                server.thaw()
            await until(watch, Health.HEALTHY)
            path = [(t.before, t.after) for t in watch.transitions]
            assert path[1:] == [
                (Health.HEALTHY, Health.DEGRADED),
                (Health.DEGRADED, Health.LOST),
                (Health.LOST, Health.HEALTHY),
            ] or path[1:] == [(Health.HEALTHY, Health.LOST), (Health.LOST, Health.HEALTHY)]

    run(tmp_path, scene)


def test_a_session_that_is_ended_is_no_loss_of_quorum(tmp_path: Path) -> None:
    async def scene(server: PostgresServer) -> None:
        async with watching(server) as watch:
            await until(watch, Health.HEALTHY)
            ended = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'plasma-quorum watched n1'"
            )
            for _ in range(5):
                rows = await server.fetch(ended)
                assert rows
                seen = watch.checked_at
                while watch.checked_at == seen:
                    await asyncio.sleep(0.01)
            assert len(watch.transitions) == 1

    run(tmp_path, scene)


def test_a_read_only_database_is_lost_and_readable(tmp_path: Path) -> None:
    async def scene(server: PostgresServer) -> None:
        async with watching(server) as watch:
            await until(watch, Health.HEALTHY)
            await server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await server.execute("SELECT pg_reload_conf()")
            await until(watch, Health.LOST)
            assert watch.judge.verdict.reasons == ("the server is read-only",)
            assert watch.judge.verdict.read_ready

    run(tmp_path, scene)


@pytest.mark.slow
def test_synchronous_replicas_lost_and_failed_over_to(tmp_path: Path) -> None:
    async def scene(primary: PostgresServer) -> None:
        standby = new_server(tmp_path, "standby")
        try:
            await copy_from(primary, standby)
            await standby.start()
            await require_synchronous(primary, standby)
            async with watching(primary, min_sync_replicas=1, lost_after_s=1.0) as watch:
                await until(watch, Health.HEALTHY)
                (replica,) = watch.judge.verdict.replicas
                assert (replica.name, replica.state, replica.sync_state) == (standby_name(standby), "streaming", "sync")
                async with watching(standby, "n2") as reader:
                    await until(reader, Health.LOST)
                    while reader.judge.verdict.reasons == ("not looked yet",):
                        await asyncio.sleep(0.01)
                    assert reader.judge.verdict.reasons == ("the server is a standby: it takes no writes",)
                await standby.kill()
                await until(watch, Health.LOST)
                assert watch.judge.verdict.reasons == ("0 synchronous replicas of the 1 that are required",)
                checked = watch.checked_at
                for _ in range(3):  # writes hang in the server now; the monitor does not, and leaves one behind at most
                    while watch.checked_at == checked:
                        await asyncio.sleep(0.01)
                    checked = watch.checked_at
                left = await primary.fetch(
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' "
                    "AND application_name = 'plasma-quorum watched n1'"
                )
                assert left[0][0] <= 2
                await standby.start()
                await until(watch, Health.HEALTHY)
            await primary.kill()
            await promote(standby)
            async with watching(standby, "n2") as promoted:
                await until(promoted, Health.HEALTHY)
                assert promoted.timeline == 2
        finally:
            standby.end()

    run(tmp_path, scene)
