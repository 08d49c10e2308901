"""val13x on real processes: the quick scenarios, on both networks, as root and not, and what an interrupt leaves.

The others (databases killed, standbys, failover) take minutes: `plasma lab run val13x`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plasmacloud.lab.election.pgbouncer import find_pgbouncer
from plasmacloud.lab.network import NAMESPACES, PROXIES
from plasmacloud.lab.network.namespaces import namespaces_problem
from plasmacloud.lab.val13x import names
from plasmacloud.lab.val13x.suite import Val13x

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LAB = [sys.executable, "-m", "plasmacloud", "lab"]
NOT_ROOT = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]


@pytest.fixture(autouse=True, scope="module")
def _needs_postgres() -> None:
    problem = Val13x().missing()
    if problem:
        pytest.skip(f"val13x: {problem}")


def mentioning(text: str) -> list[str]:
    """Command lines of all other processes that have this in them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in line:
                found.append(f"{entry.name}: {line}")
    return found


def doors(directory: Path) -> list[int]:
    """Doors of this run's network that still live."""
    pids = [int(log.read_text().split()[1]) for log in directory.rglob("door-*.log") if "ready" in log.read_text()]
    return [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists() and b"door.py" in cmdline(pid)]


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("network", [NAMESPACES, PROXIES])
def test_leaders_frozen_cut_off_and_overtaken(network: str, tmp_path: Path) -> None:
    if network == NAMESPACES and namespaces_problem() is not None:
        pytest.skip(f"no network namespaces here: {namespaces_problem()}")
    scenarios = (names.SIGSTOP, names.PARTITION, names.STALE)
    out = tmp_path / "evidence"
    only = [word for name in scenarios for word in ("--only", name)]
    # The limit of two seconds is for machines of one's own; here others are at work.
    command = [*LAB, "run", "val13x", *only, "--trials", "1", "--network", network, "--out", str(out), "--seed", "5"]
    command += ["--threshold", "val13x.takeover_max_ms=20000"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert mentioning(str(out)) == []
    assert doors(out) == []
    own = json.loads((out / "val13x" / names.REPORT_JSON).read_text())
    assert own["verdict"] == "PASS"
    assert [check["name"] for check in own["scenarios"]] == [names.title(name) for name in scenarios]
    assert own["writes"]["lost"] == 0
    assert own["writes"]["acknowledged"] > 100
    proofs = [
        event["evidence"]
        for event in map(json.loads, (out / "val13x" / "events.jsonl").read_text().splitlines())
        if event["event"] == "fault-proof"
    ]
    assert len(proofs) == 3
    assert ("frames" if network == NAMESPACES else "pieces") in proofs[1]
    again = subprocess.run([*LAB, "report", str(out)], capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stdout
    assert "judging it again gives the same report" in again.stdout


def test_a_pooler_is_refused_and_split_brains_are_found_and_ended(tmp_path: Path) -> None:
    out = tmp_path / "evidence"
    only = ["--only", names.POOLER, "--only", "VAL13X-10"]
    ran = subprocess.run([*LAB, "run", "val13x", *only, "--out", str(out)], capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    own = out / "val13x"
    poolers = (own / names.POOLER_FILE).read_text()
    wanted = 1 if find_pgbouncer() is None else 2
    assert poolers.count("error: a connection pooler is in the way") == wanted
    assert poolers.count("exit status 6") == wanted
    book = (own / names.SPLIT_BRAIN_FILE).read_text()
    assert "holder-without-lock" in book
    assert "lock-held-by-stranger" in book


def test_an_interrupt_leaves_no_process_and_no_namespace(tmp_path: Path) -> None:
    """As a user who is not root, whoever runs the tests, and in the middle of a partition."""
    out = tmp_path / "evidence"
    command = [*LAB, "run", "val13x", "--only", names.PARTITION, "--trials", "50", "--out", str(out)]
    can = os.geteuid() == 0 and subprocess.run([*NOT_ROOT, "true"], timeout=10).returncode == 0
    lab = subprocess.Popen(
        [*(NOT_ROOT if can else []), *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    events = out / "val13x" / "events.jsonl"
    deadline = time.monotonic() + 90
    while not (events.exists() and "fault-injected" in events.read_text()):
        assert time.monotonic() < deadline, "no partition"
        assert lab.poll() is None, lab.communicate()[0]
        time.sleep(0.05)
    assert mentioning(str(out / ".data"))
    lab.send_signal(signal.SIGINT)
    output, _ = lab.communicate(timeout=60)
    assert lab.returncode == 130, output
    deadline = time.monotonic() + 20
    while mentioning(str(out)) or doors(out):
        assert time.monotonic() < deadline, (mentioning(str(out)), doors(out))
        time.sleep(0.05)
    assert not (out / ".data").exists()
    own = json.loads((out / "val13x" / names.REPORT_JSON).read_text())
    assert own["interrupted"]
    assert own["verdict"] != "PASS"


def test_a_network_and_a_scenario_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    command = [*LAB, "run", "val13x", "--only", "leader-kill", "--out", str(tmp_path / "evidence")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 6
    assert "val13x has no scenario leader-kill" in ran.stderr
    assert "sigstop_leader" in ran.stderr
    assert not (tmp_path / "evidence").exists()
