"""`plasma up --election`: a database that is kept, two servers that elect, all of it started again and stopped."""

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Plasma
from test_up import TIMEOUT_S, Up, gone, running

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.process import free_ports
from plasmacloud.cli.up_election import PLAN_FILE, ElectionPlan, ElectionSide, load_election_plan
from plasmacloud.cli.up_plan import check_port, check_ports, new_plan, save_plan
from plasmacloud.postgres import find_usable


@pytest.fixture(autouse=True)
def needs_postgres() -> None:
    try:
        find_usable()
    except ConfigError as error:
        pytest.skip(f"no PostgreSQL can be run here: {error}")


def test_ports_follow_the_base_and_are_kept(tmp_path: Path) -> None:
    assert load_election_plan(tmp_path, None) == (ElectionPlan(15432, (8997, 8998)), False)
    assert load_election_plan(tmp_path, 12000) == (ElectionPlan(12030, (12031, 12032)), False)
    (tmp_path / PLAN_FILE).write_text('{"postgres_port": 1, "server_ports": [2, 3]}')
    assert load_election_plan(tmp_path, 12000) == (ElectionPlan(1, (2, 3)), True)
    (tmp_path / PLAN_FILE).write_text("{}")
    with pytest.raises(ConfigError, match="cannot read"):
        load_election_plan(tmp_path, None)


def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        first, second = free_ports(2)
        (tmp_path / PLAN_FILE).write_text(json.dumps({"postgres_port": first, "server_ports": [second, port]}))
        with pytest.raises(ConfigError, match=f"port {port}, which election server e2 needs, is taken"):
            ElectionSide(tmp_path, None)


def test_a_database_of_another_version_is_not_opened(tmp_path: Path) -> None:
    ports = free_ports(3)
    (tmp_path / PLAN_FILE).write_text(json.dumps({"postgres_port": ports[0], "server_ports": ports[1:]}))
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(ConfigError, match="which PostgreSQL 9 made"):
        ElectionSide(tmp_path, None)


def _free_base() -> int:
    """A base whose nine ports are free."""
    for base in free_ports(50):
        try:
            check_ports(new_plan(base), fixed=False)
            for step in (30, 31, 32):
                check_port(base + step, "the test", fixed=False)
        except (ConfigError, OverflowError):
            continue
        return base
    pytest.fail("no nine free ports")


def _asked(plasma: Plasma, facts: dict[str, Any]) -> list[dict[str, Any]]:
    servers = [word for server in facts["servers"] for word in ("--server", server["url"])]
    said = plasma("ha", "status", *servers, "-o", "json")
    return json.loads(said.stdout) if said.exit_code == 0 else []


def _election(up: Up) -> dict[str, Any]:
    found: dict[str, Any] = up.ready()["election"]
    return found


def _pids(facts: dict[str, Any]) -> list[int]:
    return [facts["postgres"]["pid"], *(server["pid"] for server in facts["servers"])]


def _newest_epoch(plasma: Plasma, facts: dict[str, Any]) -> int:
    return max((node["epoch_number"] or 0 for node in _asked(plasma, facts)), default=0)


@pytest.mark.slow
def test_the_election_survives_kills_and_goes_on_in_the_next_run(plasma: Plasma, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "postgres.new").mkdir()  # what a run that was killed while it made the database left
    (data / "postgres.new" / "half").touch()
    for parent in (data, *data.parents[:3]):
        parent.chmod(0o755)  # as root, the server may run as somebody else
    argv = [sys.executable, "-m", "plasmacloud", "up", "--election", "--data-dir", str(data), "-o", "json"]
    plan = new_plan(_free_base())
    save_plan(plan, data)
    base = plan.nodes[0].client_port
    with running([*argv, "--port-base", str(base)], tmp_path) as up:
        first = _election(up)
        assert f"plasma ha status --server 127.0.0.1:{base + 31}" in up.told
        states = up.wait_for(lambda: _asked(plasma, first), "healthy election")
        (leader,) = [state["node_id"] for state in states if state["role"] == "leader"]
        (victim,) = [server for server in first["servers"] if server["name"] == leader]
        os.kill(victim["pid"], signal.SIGKILL)
        up.wait_told(f"{leader} was ended by SIGKILL; starting it again")
        up.wait_for(lambda: _newest_epoch(plasma, first) >= 2, "new leader")
        os.kill(first["postgres"]["pid"], signal.SIGKILL)
        up.wait_told("PostgreSQL was ended by SIGKILL; starting it again")
        epoch = up.wait_for(lambda: max(_newest_epoch(plasma, first) - 2, 0), "leader after the database's crash") + 2
        up.child.send_signal(signal.SIGINT)
        assert up.child.wait(TIMEOUT_S) == 0
        assert "database system is shut down" in (data / "postgres.log").read_text()
        assert all(gone(pid) for pid in _pids(first))
        assert not (data / "postgres.new").exists()

    with running(argv, tmp_path) as up:
        second = _election(up)
        assert second["backend"] == first["backend"]
        assert up.wait_for(lambda: _newest_epoch(plasma, second), "leader") > epoch
        up.child.kill()  # nobody is left behind
        up.child.wait()
        up.wait_for(lambda: all(gone(pid) for pid in _pids(second)), "end of all processes")
