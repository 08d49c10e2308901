"""`plasma chainfire members` and `member …`: what an operator sees of a member that joins, lags, or never comes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cli_runner import Etcd, Plasma
from membership_server import NEVER_CAME, MembershipServer, running_membership_server

from plasmacloud.base.errors import ExitCode

THREE = "n1=127.0.0.1:2380,n2=127.0.0.1:2381,n3=127.0.0.1:2382"


@pytest.fixture
def host() -> Iterator[MembershipServer]:
    with running_membership_server(THREE) as running:
        yield running


@pytest.fixture
def run(plasma: Plasma, host: MembershipServer, monkeypatch: pytest.MonkeyPatch) -> Plasma:
    monkeypatch.setenv("PLASMA_ENDPOINTS", host.endpoint)
    return plasma


def rows(table: str) -> dict[str, dict[str, str]]:
    """The table by member name. Cells contain no two spaces in a row."""
    lines = table.splitlines()
    names = lines[0].split()
    found = {}
    for line in lines[1:]:
        cells = [cell for cell in line.split("  ") if cell.strip()]
        row = dict(zip(names, (cell.strip() for cell in cells), strict=True))
        found[row["NAME"]] = row
    return found


def test_the_table_shows_who_leads_and_who_follows(run: Plasma) -> None:
    table = rows(run("chainfire", "members").stdout)
    assert {name: row["STATE"] for name, row in table.items()} == {"n1": "leader", "n2": "follows", "n3": "follows"}
    assert {row["ROLE"] for row in table.values()} == {"voter"}
    assert table["n2"]["LAG"] == "0"
    assert table["n2"]["CONTACT"] == "0.0s"


def test_the_way_of_a_new_member(run: Plasma, host: MembershipServer) -> None:
    added = run("chainfire", "member", "add", "n4", "127.0.0.1:3000")
    assert added.exit_code == 0, added.output
    (new,) = host.cluster.conf.learners
    assert f"member n4 ({new:x}) added, a learner for now" in added.stdout
    assert "serve --name n4 --data-dir n4 --listen-peer 127.0.0.1:3000 --join 127.0.0.1" in added.stdout
    assert "It becomes a voter by itself" in added.stdout

    host.seen[new] = NEVER_CAME
    host.policy.decide(host.membership_view(), 1.0)
    row = rows(run("chainfire", "members").stdout)["n4"]
    assert (row["ROLE"], row["STATE"], row["MATCH"], row["CONTACT"]) == ("joining", "never started", "0", "16m40s")
    assert row["JOIN"] == "removed in 10m00s unless it comes"
    refused = run("chainfire", "member", "promote", "n4")
    assert refused.exit_code == ExitCode.NOT_EXECUTED
    assert "in sync with leader" in refused.stderr

    for n in range(100):
        run("kv", "put", "k", str(n)) if n == 0 else host.machine.skip(host.machine.applied_index + 1, 2)
    host.seen[new] = {"match": 50, "state": "probe"}
    host.policy.decide(host.membership_view(), 2.0)
    row = rows(run("chainfire", "members").stdout)["n4"]
    assert row["STATE"] == "catches up"
    assert "KiB left" in row["JOIN"]
    plain = json.loads(run("chainfire", "members", "-o", "json").stdout)
    (member,) = [member for member in plain["members"] if member["name"] == "n4"]
    assert member["join"]["percent"] == 100 * 50 // plain["last_index"]
    assert member["match_index"] == 50
    assert (member["role"], member["is_learner"], member["promote"], member["active"]) == ("joining", True, True, True)

    host.seen.clear()
    assert f"member n4 ({new:x}) promoted" in run("chainfire", "member", "promote", f"{new:x}").stdout.replace(
        "(never started)", "n4"
    )
    assert rows(run("chainfire", "members").stdout)["n4"]["ROLE"] == "voter"
    assert "updated" in run("chainfire", "member", "update", "n4", "127.0.0.1:3001").stdout
    assert rows(run("chainfire", "members").stdout)["n4"]["PEERS"] == "127.0.0.1:3001"
    assert f"member n4 ({new:x}) removed" in run("chainfire", "member", "remove", "n4").stdout
    assert "n4" not in rows(run("chainfire", "members").stdout)


def test_a_replacement(run: Plasma, host: MembershipServer) -> None:
    added = run("chainfire", "member", "add", "n3b", "127.0.0.1:3000", "--replace", "n3", "-o", "json")
    shown = json.loads(added.stdout)
    assert shown["is_learner"] is True
    (old,) = [member.id for member in host.cluster.members if member.name == "n3"]
    assert shown["replaces"] == f"{old:x}"
    run("chainfire", "member", "promote", "n3b")
    assert set(rows(run("chainfire", "members").stdout)) == {"n1", "n2", "n3b"}


def test_output_for_programs(run: Plasma) -> None:
    added = yaml.safe_load(run("chainfire", "member", "add", "r", "127.0.0.1:3000", "--learner", "-o", "yaml").stdout)
    assert (added["name"], added["promote"], added["is_learner"]) == ("r", False, True)
    assert json.loads(run("chainfire", "member", "remove", "r", "-o", "json").stdout)["id"] == added["id"]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["add", "n9", "nonsense"], ExitCode.CONFIG, "is not of the form host:port"),
        (["add", "n1", "127.0.0.1:3000"], ExitCode.NOT_EXECUTED, "is called n1 already"),
        (["add", "n9", "127.0.0.1:2381"], ExitCode.NOT_EXECUTED, "Peer URLs already exists"),
        (
            ["add", "n9", "127.0.0.1:3000", "--replace", "n7"],
            ExitCode.USAGE,
            "there is no member 'n7'; the members are",
        ),
        (["add", "n9", "127.0.0.1:3000", "--learner", "--replace", "n3"], ExitCode.USAGE, "contradict"),
        (["remove", "n7"], ExitCode.USAGE, "n1 ("),
        (["promote", "n2"], ExitCode.NOT_EXECUTED, "can only promote a learner member"),
        (["update", "n2", "127.0.0.1:2382"], ExitCode.NOT_EXECUTED, "Peer URLs already exists"),
        (["update", "n2"], ExitCode.USAGE, "HOST:PORT"),
    ],
)
def test_refusals_are_readable(run: Plasma, args: list[str], code: int, words: str) -> None:
    result = run("chainfire", "member", *args)
    assert result.exit_code == code, result.output
    assert words in result.stderr


def test_a_cluster_without_leader_shows_what_is_known(run: Plasma, host: MembershipServer) -> None:
    host.leads = False
    result = run("chainfire", "members")
    assert result.exit_code == 0
    assert {row["STATE"] for row in rows(result.stdout).values()} == {"unknown"}
    assert "no leader is known" in result.stderr


def test_help_tells_the_whole_story(plasma: Plasma) -> None:
    for args in (("member", "--help"), ("member", "add", "--help")):
        text = plasma("chainfire", *args).stdout
        for line in ("A new member joins in three steps", "--join 10.0.0.1:2379", "counts in no"):
            assert line in text


def test_etcd_is_looked_after_with_the_same_commands(
    plasma: Plasma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etcd = Etcd(tmp_path, members=1)
    try:
        etcd.start()
        monkeypatch.setenv("PLASMA_ENDPOINTS", ",".join(etcd.endpoints))
        monkeypatch.setenv("PLASMA_TIMEOUT", "10s")
        added = plasma("chainfire", "member", "add", "m2", "127.0.0.1:9", "--learner", "-o", "json")
        assert added.exit_code == 0, added.output
        new = json.loads(added.stdout)["id"]
        table = plasma("chainfire", "members").stdout
        assert "(never started)" in table
        assert "learner" in table
        assert "in sync" in plasma("chainfire", "member", "promote", new).stderr
        assert plasma("chainfire", "member", "update", new, "127.0.0.1:10").exit_code == 0
        assert plasma("chainfire", "member", "add", "m3", "127.0.0.1:11", "--replace", new).exit_code == ExitCode.USAGE
        assert plasma("chainfire", "member", "remove", new).exit_code == 0
        assert len(json.loads(plasma("chainfire", "members", "-o", "json").stdout)["members"]) == 1
    finally:
        etcd.stop()
