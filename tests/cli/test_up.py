"""`plasma up` as a process: starts, serves, restarts what dies, stops everything.

Once with real etcd members as nodes, which answer the same questions, and once as users run it, with ChainFire.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Plasma, etcd_binary

from plasmacloud.base.errors import ConfigError, ExitCode
from plasmacloud.base.process import free_ports
from plasmacloud.cli.up_plan import check_ports, new_plan

TIMEOUT_S = 60.0

# Runs the supervisor on etcd: argv is data directory, output format, six ports, program.
ETCD_DRIVER = """
import asyncio, sys
from pathlib import Path
from plasmacloud.cli import errors
from plasmacloud.cli.up import Supervisor
from plasmacloud.cli.up_plan import NodePlan, Plan

directory, output, *ports = sys.argv[1:9]
program = sys.argv[9:]
nodes = tuple(NodePlan(f"n{n}", int(ports[2 * n - 2]), int(ports[2 * n - 1])) for n in (1, 2, 3))

def argv(plan, node, path):
    if program != [] and node.name == "n2":
        return program
    cluster = ",".join(f"{n.name}=http://{n.peer}" for n in plan.nodes)
    return ["{etcd}", "--name", node.name, "--data-dir", str(path), "--log-level", "error", "--unsafe-no-fsync",
            "--listen-client-urls", f"http://{node.client}", "--advertise-client-urls", f"http://{node.client}",
            "--listen-peer-urls", f"http://{node.peer}", "--initial-advertise-peer-urls", f"http://{node.peer}",
            "--initial-cluster", cluster]

def main():
    supervisor = Supervisor(Plan(nodes), Path(directory), ready_timeout_s=40.0, output=output, argv=argv)
    return asyncio.run(supervisor.run())

sys.exit(errors.run(main))
"""


class Up:
    """A supervisor under test."""

    def __init__(self, argv: list[str], directory: Path) -> None:
        self._out, self._err = directory / "stdout", directory / "stderr"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.child = subprocess.Popen(argv, stdout=out, stderr=err)

    @property
    def told(self) -> str:
        return self._err.read_text()

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        """Poll until the condition holds; its value. Fails with all that was said so far."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (value := condition()):
            assert time.monotonic() < deadline, f"no {what}; it said:\n{self.told}"
            time.sleep(0.02)
        return value

    def wait_told(self, text: str, times: int = 1) -> None:
        self.wait_for(lambda: self.told.count(text) >= times, repr(text))

    def told_pids(self) -> list[int]:
        """The processes it named so far."""
        return [int(text.split(")")[0]) for text in self.told.split("(process ")[1:]]

    def ready(self) -> dict[str, Any]:
        """The JSON it prints when the cluster is ready."""
        self.wait_told("The cluster is ready")
        found: dict[str, Any] = json.loads(self._out.read_text())
        return found


@contextmanager
def running(argv: list[str], directory: Path) -> Iterator[Up]:
    up = Up(argv, directory)
    try:
        yield up
    finally:
        up.child.kill()
        up.child.wait()


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def survives_a_kill_and_stops_cleanly(up: Up, plasma: Plasma) -> None:
    """The common story: write, kill a node, see it back, read, stop, nothing left."""
    cluster = up.ready()
    endpoints = cluster["endpoints"]
    put = plasma("kv", "put", "story", "told", "--endpoints", endpoints, "--timeout", "20s")
    assert put.exit_code == 0, put.output

    victim = cluster["nodes"][1]
    os.kill(victim["pid"], signal.SIGKILL)
    up.wait_told("n2 was ended by SIGKILL; starting it again in 500.0ms")
    up.wait_told("n2 ready at", times=2)
    get = plasma("kv", "get", "story", "--print-value-only", "--endpoints", victim["client"], "--timeout", "20s")
    assert (get.exit_code, get.stdout) == (0, "told")

    status = plasma("chainfire", "status", "--endpoints", endpoints, "-o", "json", "--timeout", "20s")
    assert status.exit_code == 0, status.output
    pids = up.told_pids()
    assert len(pids) == 4
    up.child.send_signal(signal.SIGTERM)
    assert up.child.wait(TIMEOUT_S) == 0
    assert all(gone(pid) for pid in pids)


@pytest.fixture
def etcd_driver(tmp_path: Path) -> list[str]:
    code = ETCD_DRIVER.replace("{etcd}", str(etcd_binary()))
    directory = tmp_path / "up"
    directory.mkdir()
    return [sys.executable, "-c", code, str(directory), "json", *map(str, free_ports(6))]


@pytest.mark.slow
def test_etcd_under_the_supervisor(etcd_driver: list[str], plasma: Plasma, tmp_path: Path) -> None:
    with running(etcd_driver, tmp_path) as up:
        survives_a_kill_and_stops_cleanly(up, plasma)


@pytest.mark.slow
def test_stopped_while_starting_leaves_nothing(etcd_driver: list[str], tmp_path: Path) -> None:
    with running([*etcd_driver, sys.executable, "-c", "import time; time.sleep(1000)"], tmp_path) as up:
        up.wait_told("n1 ready at")
        up.child.send_signal(signal.SIGINT)
        assert up.child.wait(TIMEOUT_S) == 0
        assert all(gone(pid) for pid in up.told_pids())


def test_a_node_that_refuses_its_configuration_ends_the_start_with_its_own_words(etcd_driver: list[str]) -> None:
    refuse = [sys.executable, "-c", "import sys; print('the directory is of another cluster'); sys.exit(6)"]
    done = subprocess.run([*etcd_driver, *refuse], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "n2 cannot run:\n  the directory is of another cluster" in done.stderr
    assert "n2.log" in done.stderr


def test_the_nodes_die_with_a_supervisor_that_is_killed(etcd_driver: list[str], tmp_path: Path) -> None:
    with running(etcd_driver, tmp_path) as up:
        pids = [node["pid"] for node in up.ready()["nodes"]]
        up.child.kill()
        up.child.wait()
        up.wait_for(lambda: all(gone(pid) for pid in pids), "end of the nodes")


def free_port_base() -> int:
    """A base whose six ports are free."""
    for base in free_ports(50):
        try:
            check_ports(new_plan(base), fixed=False)
        except ConfigError:
            continue
        return base
    pytest.fail("no six free ports")


@pytest.mark.slow
def test_plasma_up_with_tls_makes_its_own_certificates(plasma: Plasma, tmp_path: Path) -> None:
    data = tmp_path / "data"
    up_argv = [sys.executable, "-m", "plasmacloud", "up", "--data-dir", str(data), "-o", "json"]
    with running([*up_argv, "--port-base", str(free_port_base()), "--tls"], tmp_path) as up:
        cluster = up.ready()
        where = ["--endpoints", cluster["endpoints"], "--timeout", "20s"]
        files = ["--cacert", cluster["cacert"], "--cert", cluster["cert"], "--key", cluster["key"]]
        put = plasma("kv", "put", "story", "told", *where, *files)
        assert put.exit_code == 0, put.output
        members = plasma(*files, "chainfire", "members", *where)
        assert members.exit_code == 0, members.output
        assert "https" not in members.output, "people see addresses"
        refused = plasma("kv", "get", "story", *where[:2], "--timeout", "2s", *files[:2])
        assert refused.exit_code != 0
        assert "wants to see a certificate" in refused.output + refused.stderr
        assert "PLASMA_CACERT=" in up.told
        up.child.send_signal(signal.SIGTERM)
        assert up.child.wait(TIMEOUT_S) == 0

    with running(up_argv, tmp_path) as up:  # it keeps to TLS, and to its certificates
        again = up.ready()
        assert again["cert"] == cluster["cert"]
        get = plasma("kv", "get", "story", "--print-value-only", *where, *files)
        assert (get.exit_code, get.stdout) == (0, "told"), get.output
        up.child.send_signal(signal.SIGTERM)
        assert up.child.wait(TIMEOUT_S) == 0


@pytest.mark.slow
def test_plasma_up_as_users_run_it(plasma: Plasma, tmp_path: Path) -> None:
    data = tmp_path / "data"
    up_argv = [sys.executable, "-m", "plasmacloud", "up", "--data-dir", str(data), "-o", "json"]
    with running([*up_argv, "--port-base", str(free_port_base())], tmp_path) as up:
        assert "creating the cluster" in up.wait_for(lambda: up.told, "first word")
        survives_a_kill_and_stops_cleanly(up, plasma)

    with running(up_argv, tmp_path) as up:  # the second run continues with the data of the first
        endpoints = up.ready()["endpoints"]
        assert "continuing with the cluster" in up.told
        get = plasma("kv", "get", "story", "--print-value-only", "--endpoints", endpoints, "--timeout", "20s")
        assert (get.exit_code, get.stdout) == (0, "told"), get.output

        second = subprocess.run(up_argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert second.returncode == ExitCode.CONFIG
        assert "another `plasma up` runs" in second.stderr

        up.child.send_signal(signal.SIGINT)
        assert up.child.wait(TIMEOUT_S) == 0
