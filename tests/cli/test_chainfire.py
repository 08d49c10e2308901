"""`plasma chainfire` against real clusters of three."""

import json

import yaml
from cli_runner import Plasma, Store

from plasmacloud.base.errors import ExitCode

DEAD = "127.0.0.1:1"


def test_members(kv: Plasma, cluster: Store) -> None:
    members = json.loads(kv("chainfire", "members", "-o", "json").stdout)["members"]
    assert {member["name"] for member in members} == {"m1", "m2", "m3"}
    assert {url for member in members for url in member["client_urls"]} == {
        f"http://{endpoint}" for endpoint in cluster.endpoints
    }
    lines = kv("chainfire", "members").stdout.splitlines()
    assert lines[0].split()[:3] == ["ID", "NAME", "ROLE"]
    assert lines[0].split()[-2:] == ["PEERS", "CLIENTS"]
    assert sorted(line.split()[1] for line in lines[1:]) == ["m1", "m2", "m3"]
    assert {line.split()[2] for line in lines[1:]} == {"voter"}


def test_status_of_every_endpoint(kv: Plasma, cluster: Store) -> None:
    result = kv("chainfire", "status", "-o", "json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [row["endpoint"] for row in rows] == cluster.endpoints
    assert sum(row["leader"] for row in rows) == 1
    [leader_id] = {row["leader_id"] for row in rows}
    assert [row["id"] for row in rows if row["leader"]] == [leader_id]
    assert {row["name"] for row in rows} == {"m1", "m2", "m3"}
    assert yaml.safe_load(kv("chainfire", "status", "-o", "yaml").stdout)[0]["ok"] is True
    table = kv("chainfire", "status").stdout
    assert table.splitlines()[0].startswith("ENDPOINT")
    assert table.count(" leader ") == 1
    assert table.count(" follower ") == 2


def test_status_of_all_members_from_one_endpoint(kv: Plasma, cluster: Store) -> None:
    result = kv("chainfire", "status", "--all", "-o", "json", "--endpoints", cluster.endpoints[0])
    assert {row["endpoint"] for row in json.loads(result.stdout)} == set(cluster.endpoints)


def test_status_with_one_dead_endpoint_exits_1_and_names_it(kv: Plasma, cluster: Store) -> None:
    endpoints = f"{cluster.endpoints[0]},{DEAD}"
    result = kv("chainfire", "status", "-o", "json", "--endpoints", endpoints)
    assert result.exit_code == ExitCode.FAILED
    good, dead = json.loads(result.stdout)
    assert good["ok"] is True
    assert dead["ok"] is False
    assert "connection refused" in dead["error"]
    table = kv("chainfire", "status", "--endpoints", endpoints)
    assert f"{DEAD} cannot be reached" in table.stderr
    assert "no answer" in table.stdout


def test_status_with_only_dead_endpoints_exits_5(kv: Plasma) -> None:
    assert kv("chainfire", "status", "--endpoints", DEAD).exit_code == ExitCode.UNAVAILABLE


def test_move_leader_by_name_and_by_id(kv: Plasma) -> None:
    def leader() -> tuple[str, str]:
        rows = json.loads(kv("chainfire", "status", "-o", "json").stdout)
        [found] = [(row["name"], row["id"]) for row in rows if row["leader"]]
        return found

    old_name, old_id = leader()
    target = next(name for name in ("m1", "m2", "m3") if name != old_name)
    moved = kv("chainfire", "move-leader", target, "-o", "json")
    assert moved.exit_code == 0, moved.output
    assert leader()[0] == target
    assert json.loads(moved.stdout) == {"old_leader": old_id, "leader": leader()[1]}

    assert "leader already" in kv("chainfire", "move-leader", target).stdout
    assert kv("chainfire", "move-leader", old_id).exit_code == 0
    assert leader()[0] == old_name


def test_move_leader_to_nobody_exits_2_and_names_the_members(kv: Plasma) -> None:
    result = kv("chainfire", "move-leader", "m9")
    assert result.exit_code == ExitCode.USAGE
    assert "m1 (" in result.stderr
