"""Child processes: started, watched, and stopped by their own PID."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.process import PORT_RANGE, ManagedProcess, ProcessError, free_ports

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


def wait_for_log(path: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in (path.read_text() if path.exists() else ""):
        assert time.monotonic() < deadline, f"{text!r} never appeared in {path}"
        time.sleep(0.01)


def test_stop_sends_sigterm_and_reports_the_signal(tmp_path: Path) -> None:
    child = ManagedProcess("sleeper", SLEEPER, log_path=tmp_path / "log")
    child.start()
    wait_for_log(child.log_path, "up")
    assert child.stop() == -signal.SIGTERM
    assert not child.running
    assert child.proc_state() == "gone"


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    child = ManagedProcess("stubborn", STUBBORN, log_path=tmp_path / "log")
    child.start()
    wait_for_log(child.log_path, "up")
    assert child.stop(grace=0.2) == -signal.SIGKILL


def test_a_frozen_child_can_still_be_stopped(tmp_path: Path) -> None:
    child = ManagedProcess("frozen", SLEEPER, log_path=tmp_path / "log")
    child.start()
    wait_for_log(child.log_path, "up")
    child.signal(signal.SIGSTOP)
    deadline = time.monotonic() + 20
    while child.proc_state() != "T":
        assert time.monotonic() < deadline
    assert child.stop() == -signal.SIGTERM


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    child = ManagedProcess("ghost", ["/no/such/program"], log_path=tmp_path / "log")
    with pytest.raises(ProcessError, match=r"/no/such/program.*No such file"):
        child.start()


def test_a_dead_child_is_never_signalled(tmp_path: Path) -> None:
    child = ManagedProcess("brief", [sys.executable, "-c", "pass"], log_path=tmp_path / "log")
    child.start()
    assert child.wait(30) == 0
    with pytest.raises(ProcessError, match="does not run"):
        child.signal(signal.SIGTERM)


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys\n"
        "from plasmacloud.base.process import ManagedProcess\n"
        f"child = ManagedProcess('orphan', {SLEEPER!r}, log_path=pathlib.Path({str(tmp_path / 'log')!r}))\n"
        "child.start(); print(child.pid, flush=True)\n"
        "os._exit(1)\n"
    )
    parent = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=60, check=False)
    orphan = int(parent.stdout)
    deadline = time.monotonic() + 20
    while _alive(orphan):
        assert time.monotonic() < deadline, f"process {orphan} outlived its parent"
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_free_ports_come_from_the_range_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PORT_RANGE, "21000-21049")
    assert set(free_ports(20)) <= set(range(21_000, 21_050))
    with pytest.raises(ProcessError, match="no 51 free ports"):
        free_ports(51)
    for wrong in ("", "21000", "80-90", "21049-21000", "a-b", "60000-70000"):
        monkeypatch.setenv(PORT_RANGE, wrong)
        with pytest.raises(ConfigError, match="is no range of ports"):
            free_ports(1)


def test_free_ports_are_different_and_can_be_bound() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_a_port_in_use_is_not_offered() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert taken.getsockname()[1] not in free_ports(50)
