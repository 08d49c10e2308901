"""What `plasma up` decides: addresses once and for all, restarts with patience."""

import signal
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cli_runner import Plasma

from plasmacloud.base.errors import ConfigError, ExitCode
from plasmacloud.base.pki import issue, read_certificate
from plasmacloud.base.process import free_ports
from plasmacloud.cli.up_pki import prepare
from plasmacloud.cli.up_plan import (
    BACKOFF_MAX_S,
    STEADY_S,
    Ending,
    NodePlan,
    Plan,
    Restarts,
    check_ports,
    describe_ending,
    load_plan,
    new_plan,
    save_plan,
)


def test_the_usual_ports_are_etcds() -> None:
    plan = new_plan(None)
    assert plan.endpoints == ("127.0.0.1:2379", "127.0.0.1:22379", "127.0.0.1:32379")
    assert plan.initial_cluster == "n1=127.0.0.1:2380,n2=127.0.0.1:22380,n3=127.0.0.1:32380"


def test_a_port_base_gives_six_different_ports() -> None:
    nodes = new_plan(12000).nodes
    ports = [port for node in nodes for port in (node.client_port, node.peer_port)]
    assert ports == [12000, 12001, 12010, 12011, 12020, 12021]


def test_a_second_run_finds_the_plan_of_the_first(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    plan, existed = load_plan(directory, 12000)
    assert not existed
    save_plan(plan, directory)
    assert load_plan(directory, None) == (plan, True)
    assert load_plan(directory, 12000) == (plan, True)
    with pytest.raises(ConfigError, match="addresses cannot change") as caught:
        load_plan(directory, 13000)
    assert "--data-dir" in (caught.value.hint or "")


def test_a_cluster_takes_tls_up_and_keeps_to_it(tmp_path: Path) -> None:
    plan, _ = load_plan(tmp_path, 12000)
    assert not plan.tls
    save_plan(plan, tmp_path)
    plan, existed = load_plan(tmp_path, None, tls=True)
    assert existed
    assert plan.tls
    save_plan(plan, tmp_path)
    assert load_plan(tmp_path, None)[0].tls


def test_certificates_are_made_once_and_renewed_before_they_expire(tmp_path: Path) -> None:
    plan = new_plan(None, tls=True)
    files = prepare(plan, tmp_path)
    made = {path.name: path.read_bytes() for path in (tmp_path / "pki").iterdir()}
    assert {f"{node.name}.crt" for node in plan.nodes} < set(made)
    assert files.certificate == tmp_path / "pki" / "client.crt"
    prepare(plan, tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "pki").iterdir()} == made
    issue(tmp_path / "pki", "n2", ["127.0.0.1"], days=10, replace=True)
    prepare(plan, tmp_path)
    assert read_certificate(tmp_path / "pki" / "n2.crt").days_left(datetime.now(UTC)) > 300
    assert (tmp_path / "pki" / "ca.crt").read_bytes() == made["ca.crt"]


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="not made by `plasma up`"):
        load_plan(tmp_path, None)


@pytest.mark.parametrize("text", ["", "{}", '{"nodes": [{"name": 3}]}', "[]"])
def test_a_damaged_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster.json").write_text(text)
    with pytest.raises(ConfigError, match=r"cannot read .*cluster\.json"):
        load_plan(tmp_path, None)


def test_a_taken_port_is_named_with_a_way_out() -> None:
    free, peer = free_ports(2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        plan = Plan((NodePlan("n1", free, peer), NodePlan("n2", port, peer)))
        with pytest.raises(ConfigError, match=f"port {port}, which node n2 needs, is taken") as caught:
            check_ports(plan, fixed=False)
        assert "--port-base" in (caught.value.hint or "")
    check_ports(Plan((NodePlan("n1", free, peer),)), fixed=False)


def test_restarts_wait_longer_each_time_until_a_run_was_steady() -> None:
    restarts = Restarts()
    waits = [restarts.ended(-9, 1.0) for _ in range(8)]
    assert all(ending is Ending.RESTART for ending, _ in waits)
    assert [wait for _, wait in waits[:4]] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1][1] == BACKOFF_MAX_S
    assert restarts.ended(1, STEADY_S) == (Ending.RESTART, 0.5)
    assert restarts.ended(1, 0.1) == (Ending.RESTART, 0.5)


@pytest.mark.parametrize("code", [ExitCode.CONFIG, ExitCode.STORAGE, ExitCode.USAGE])
def test_what_a_restart_cannot_cure_is_not_restarted(code: ExitCode) -> None:
    assert Restarts().ended(code, 100.0)[0] is Ending.GIVE_UP


def test_endings_in_words() -> None:
    assert describe_ending(3) == "exited with status 3"
    assert describe_ending(-signal.SIGKILL) == "was ended by SIGKILL"
    assert describe_ending(-99) == "was ended by signal 99"


def test_the_command_reports_a_taken_port_and_exits_6(plasma: Plasma, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = plasma("up", "--data-dir", str(tmp_path / "new"), "--port-base", str(port))
    assert result.exit_code == ExitCode.CONFIG
    assert f"port {port}" in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "new" / "cluster.json").exists()
