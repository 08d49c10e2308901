"""Two servers under one name: found out, said, and the later one leaves; an earlier run of the same server is none."""

import asyncio
import json
import signal
from collections.abc import Iterator

import pytest
from server_rig import Rig, eventually, new_name, running_rig

from plasmacloud.base.errors import ExitCode
from plasmacloud.election.contenders import DDL, Presence, Run, ensure_contender_schema
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.session_names import is_candidate, session_name, session_names
from plasmacloud.election.split_brain import Claim, Sight, judge

OTHER = Run("other", "http://other", 5)


def test_what_an_earlier_run_left_is_no_twin() -> None:
    own = Presence()
    own.wrote(OTHER, joined=7)
    for _ in range(5):
        own.wrote(Run(own.instance, "http://own", 7), joined=7)
    assert own.twin is None
    assert not own.must_leave


def test_the_last_word_of_an_earlier_run_that_arrives_late_is_no_twin() -> None:
    own = Presence()
    own.wrote(OTHER, joined=7)
    own.wrote(OTHER, joined=7)
    own.wrote(Run(own.instance, "http://own", 7), joined=7)
    assert own.twin is None


@pytest.mark.parametrize(("joined", "leaves"), [(7, True), (3, False)])
def test_the_later_one_leaves(joined: int, leaves: bool) -> None:
    own = Presence()
    own.wrote(None, joined=joined)
    own.wrote(OTHER, joined=joined)
    own.wrote(OTHER, joined=joined)
    assert own.twin == OTHER
    assert own.must_leave is leaves


def test_of_two_exactly_one_leaves_also_when_they_joined_together() -> None:
    one, two = Presence(), Presence()
    before: Run | None = None
    for _ in range(3):
        for each, url in ((one, "http://one"), (two, "http://two")):
            each.wrote(before, joined=9)
            before = Run(each.instance, url, 9)
    assert one.must_leave is not two.must_leave


def test_a_row_of_a_program_that_knows_no_instances_is_no_twin() -> None:
    own = Presence()
    for _ in range(4):
        own.wrote(Run("", "http://old", 0), joined=7)
    assert own.twin is None


def test_the_judge_names_them() -> None:
    claims = (
        Claim("n1", "http://a", True, Epoch(1, 1), "i1"),
        Claim("n1", "http://b", False, Epoch(1, 1), "i2"),
        Claim("n2", "http://c", False, Epoch(1, 1), "i3"),
    )
    (finding,) = judge(Sight("jobs", claims, ()))
    assert (finding.kind, finding.about) == ("duplicate-id", "n1")
    assert finding.evidence == {"http://a": "instance i1", "http://b": "instance i2"}
    assert judge(Sight("jobs", claims[1:], ())) == []


def test_names_of_sessions_fit_and_stay_apart() -> None:
    assert session_name("lock", "scheduler", "n1") == "election lock scheduler n1"
    long = [f"{'election-of-a-long-name' * 3}{i}" for i in range(3)] + ["zürich", "zurich"]
    names = {session_name("state", election, node) for election in long for node in long}
    assert len(names) == len(long) ** 2
    assert all(len(name.encode()) <= 63 and name.isascii() and is_candidate(name) for name in names)
    for election in long:
        beginning = session_names(election)[1]
        assert sum(name.startswith(beginning) for name in names) == len(long)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_rig(tmp_path_factory.mktemp("twins")) as rig:
        yield rig


@pytest.fixture
def rig(shared: Rig) -> Iterator[Rig]:
    """The database of all; the servers that a test starts end with it."""
    yield shared
    shared.stop_servers()


def test_the_second_server_with_an_id_ends_and_the_first_one_goes_on(rig: Rig) -> None:
    election = new_name()
    first = rig.server("n1", election=election)
    first.wait_ready()
    eventually("it leads", lambda: first.leads)
    second = rig.server("n1", election=election)
    assert second.process.wait(30) == ExitCode.CONFIG
    assert f"another server takes part in the election as 'n1': {first.url}" in second.log
    assert "--id" in second.log
    eventually("the first one has noticed", lambda: "another server has the same id" in first.log)
    assert second.url in first.log
    assert first.leads
    assert first.status()["epoch"] == "1.1"
    eventually(
        "the row is the first one's again",
        lambda: any(row["url"] == first.url and row["alive"] for row in first.get("/v1/ha/nodes")),
    )


def test_while_both_run_split_brain_detection_finds_them(rig: Rig) -> None:
    """They write their rows rarely, so that there is time to look before the later one leaves."""
    election = new_name()
    slow = ["--quorum-monitor-interval", "2s"]
    first = rig.server("n1", *slow, election=election)
    first.wait_ready()
    second = rig.server("n1", *slow, "--peer", first.url, election=election)
    second.wait_ready()
    looked = second.get("/v1/ha/split-brain")
    assert [finding["kind"] for finding in looked["findings"]] == ["duplicate-id"], json.dumps(looked)


def test_a_server_that_was_killed_comes_back_under_its_name(rig: Rig) -> None:
    election = new_name()
    server = rig.server("n1", election=election)
    server.wait_ready()
    instance = server.status()["instance"]
    server.process.signal(signal.SIGKILL)
    server.process.wait(10)
    server.process.start()
    server.wait_ready()
    assert server.status()["instance"] != instance
    eventually(
        "its row is the new run's",
        lambda: rig.sql(
            "SELECT 1 FROM election_contenders WHERE election = $1 AND instance = $2",
            election,
            server.status()["instance"],
        ),
    )
    assert "same id" not in server.log


def test_tables_of_an_earlier_version_get_the_new_columns(rig: Rig) -> None:
    async def main() -> list[str]:
        session = await rig.postgres.connect(timeout=20)
        try:
            await session.execute("CREATE SCHEMA earlier; SET search_path = earlier")
            await session.execute(DDL.replace("INSERT ON leader_epochs", "INSERT ON election_holds"))
            await session.execute("ALTER TABLE election_contenders DROP COLUMN instance, DROP COLUMN joined")
            await session.execute("CREATE TABLE leader_epochs (election text)")
            await ensure_contender_schema(session)
            await ensure_contender_schema(session)
            rows = await session.fetch("SELECT * FROM election_contenders LIMIT 0")
            assert rows == []
            found = await session.fetch(
                "SELECT attname FROM pg_attribute WHERE attrelid = 'election_contenders'::regclass AND attnum > 0 "
                "AND NOT attisdropped"
            )
            return [row[0] for row in found]
        finally:
            session.terminate()

    assert {"instance", "joined"} <= set(asyncio.run(main()))
