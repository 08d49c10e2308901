"""VAL13 on real processes, on other ports than its own: the evidence that the catalogue asks for, and nothing left."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from plasmacloud.base.process import free_ports
from plasmacloud.lab import runner
from plasmacloud.lab.election.rig import ElectionRig
from plasmacloud.lab.live import PlainDisplay
from plasmacloud.lab.plan import FULL, Plan
from plasmacloud.lab.planning import Request, make_plans
from plasmacloud.lab.recorder import Recorder
from plasmacloud.lab.runner import prepare_directory, run_plans
from plasmacloud.lab.suites import SUITES
from plasmacloud.lab.val13 import names
from plasmacloud.lab.val13.suite import Val13
from plasmacloud.verify.checks import Verdict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LAB = [sys.executable, "-m", "plasmacloud", "lab"]
NOT_ROOT = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]


@pytest.fixture(autouse=True, scope="module")
def _needs_postgres() -> None:
    problem = Val13().missing()
    if problem:
        pytest.skip(f"val13: {problem}")


def two_ports() -> int:
    """A port that was free a moment ago, as the one after it."""
    for port in free_ports(50):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise AssertionError("no two neighbouring ports")


def mentioning(*texts: str) -> list[str]:
    """Command lines of all other processes that have one of these in them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if any(text in line for text in texts):
                found.append(f"{entry.name}: {line}")
    return found


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One complete run with two trials."""
    out = tmp_path_factory.mktemp("val13") / "evidence"
    port = two_ports()
    command = [*LAB, "run", "val13", "--trials", "2", "--port-base", str(port), "--out", str(out), "--seed", "5"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert mentioning(str(out), f"--listen 127.0.0.1:{port}") == []
    return out


def test_every_file_of_the_catalogue_is_there(evidence: Path) -> None:
    there = {path.name for path in (evidence / "val13").iterdir() if path.is_file()}
    assert {*names.EVIDENCE} - there == set()
    assert not (evidence / ".data").exists()
    assert all((evidence / "val13" / name).stat().st_size for name in names.EVIDENCE)


def test_times_are_written_in_the_forms_of_the_catalogue(evidence: Path) -> None:
    own = evidence / "val13"
    assert re.fullmatch(r"failover_ms=\d+  signal=TERM\n", (own / "val13-03-failover-timing.txt").read_text())
    assert re.fullmatch(r"failover_ms=\d+  signal=KILL\n", (own / "val13-09-sigkill-timing.txt").read_text())
    summary = (own / "val13-08-rapid-summary.txt").read_text()
    assert re.fullmatch(r"cycle1_ms=\d+  cycle2_ms=\d+  cycle3_ms=\d+\n", summary)
    for number, each in enumerate(re.findall(r"=(\d+)", summary), 1):
        assert f"failover_ms={each}  signal=TERM" in (own / f"val13-08-cycle{number}.txt").read_text()


def test_counts_are_local_to_the_session_logs(evidence: Path) -> None:
    own = evidence / "val13"
    counts = {name: (own / name).read_text().count("acquired leadership") for name in names.SESSION_LOGS}
    assert counts["val13-node1-s0.log"] == 1
    assert counts["val13-node2-s0.log"] >= 1
    assert all(counts.values())


def test_the_evidence_says_what_happened(evidence: Path) -> None:
    own = evidence / "val13"
    assert json.loads((own / "val13-06-quorum-lost.json").read_text())["quorum_health"] == "lost"
    assert json.loads((own / "val13-07-quorum-healthy.json").read_text())["quorum_health"] == "healthy"
    for name in ("val13-04-data-probe.txt", "val13-07-data-after-pg-restart.txt", "val13-08-data-after-rapid.txt"):
        assert "note = pre-kill" in (own / name).read_text().splitlines()
    events = [json.loads(line) for line in (own / "events.jsonl").read_text().splitlines()]
    proofs = [event for event in events if event["event"] == "fault-proof"]
    assert [proof["fault"] for proof in proofs] == [
        "terminate",
        "postgres-stop",
        *["terminate"] * 3,
        "kill",
        "terminate",
        "kill",
    ]
    assert all(proof["landed"] and "waitpid" in proof["evidence"] for proof in proofs)
    killed = [event for event in events if event["event"] == "process-ended" and event["status"] == -signal.SIGKILL]
    assert len(killed) == 2


def test_no_password_is_in_the_evidence(evidence: Path) -> None:
    for path in evidence.rglob("*"):
        if path.is_file():
            assert not re.search(r"postgres://\w+:[^*@\s]", path.read_text(errors="replace")), path


def test_the_reports_agree_and_can_be_computed_again(evidence: Path) -> None:
    (result,) = json.loads((evidence / "report.json").read_text())["results"]
    own = json.loads((evidence / "val13" / "val13-report.json").read_text())
    assert (result["target"], result["scenario"], result["verdict"]) == ("election", "val13", "PASS")
    assert own["verdict"] == own["verdict_of_the_ten"] == "PASS"
    assert own["gate_c"]["passed"] is True
    assert [f"{check['id']} {check['name']}" for check in own["checks"]] == [c["name"] for c in result["checks"][:10]]
    assert (len(own["times"]["failover_term_ms"]), len(own["times"]["failover_kill_ms"])) == (5, 2)
    assert (len(own["times"]["rto_term_ms"]), len(own["times"]["rto_kill_ms"])) == (5, 2)
    assert own["writes"]["acknowledged"] > 500
    assert own["writes"]["lost"] == 0
    again = subprocess.run([*LAB, "report", str(evidence)], capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stdout
    assert "judging it again gives the same report" in again.stdout


@pytest.mark.parametrize(
    ("signum", "after"), [(signal.SIGINT, "fault-proof"), (signal.SIGTERM, "node-started")], ids=["SIGINT", "SIGTERM"]
)
def test_an_interrupt_leaves_no_server_and_no_database(tmp_path: Path, signum: signal.Signals, after: str) -> None:
    """As a user who is not root, whoever runs the tests."""
    out, port = tmp_path / "evidence", two_ports()
    command = [*LAB, "run", "val13", "--port-base", str(port), "--out", str(out)]
    prefix = NOT_ROOT if os.geteuid() == 0 and subprocess.run([*NOT_ROOT, "true"], timeout=10).returncode == 0 else []
    lab = subprocess.Popen([*prefix, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    events = out / "val13" / "events.jsonl"
    deadline = time.monotonic() + 90
    while not (events.exists() and after in events.read_text()):
        assert time.monotonic() < deadline, f"no {after}"
        assert lab.poll() is None, lab.communicate()[0]
        time.sleep(0.05)
    assert mentioning(str(out / ".data"))
    lab.send_signal(signum)
    output, _ = lab.communicate(timeout=60)
    assert lab.returncode == 130, output
    deadline = time.monotonic() + 20
    while mentioning(str(out / ".data"), f"--listen 127.0.0.1:{port}"):
        assert time.monotonic() < deadline, mentioning(str(out), str(port))
        time.sleep(0.05)
    assert not (out / ".data").exists()
    assert is_free(port)
    assert is_free(port + 1)
    own = json.loads((out / "val13" / "val13-report.json").read_text())
    assert own["interrupted"]
    assert own["verdict"] != "PASS"


def test_a_port_that_is_taken_is_named_with_its_holder_and_the_way_out(tmp_path: Path) -> None:
    port = two_ports()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port + 1))
        other.listen()
        command = [*LAB, "run", "val13", "--port-base", str(port), "--out", str(tmp_path / "evidence")]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 6
    assert f"port {port + 1}, which cp-val13-node2 of val13 needs, is taken by process {os.getpid()} (" in ran.stderr
    assert "--port-base" in ran.stderr
    assert not (tmp_path / "evidence").exists()


def test_a_directory_without_postgresql_is_refused(tmp_path: Path) -> None:
    command = [*LAB, "run", "val13", "--postgres", str(tmp_path), "--out", str(tmp_path / "evidence")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 6
    assert "has no initdb" in ran.stderr
    assert "plasmacloud[postgres]" in ran.stderr


class Apart(Val13):
    """Each server leads an election of its own: two leaders, and no failover."""

    def rig(self, plan: Plan, data: Path, recorder: Recorder) -> ElectionRig:
        rig = super().rig(plan, data, recorder)
        rig.servers[names.NODE2].process.argv += ["--election", "another"]
        return rig


def test_servers_that_do_not_contend_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUITES, "val13", Apart())
    monkeypatch.setattr(runner, "configure_logging", lambda *_: None)  # this process is not the lab's own
    request = Request(
        scenarios=("val13",),
        targets=(),
        preset=FULL,
        trials=None,
        seed=1,
        nodes=3,
        clients=None,
        rate_per_s=800,
        op_timeout_ms=250,
        thresholds={},
        port_base=two_ports(),
    )
    plans, _ = make_plans(request)
    plans = [msgspec.structs.replace(plan, recovery_deadline_s=3.0) for plan in plans]
    out = tmp_path / "evidence"
    prepare_directory(out)
    report = run_plans(plans, out, 1, PlainDisplay(Console(quiet=True))).report
    (result,) = report.results
    verdicts = {check.name.split()[0]: check.verdict for check in result.checks}
    assert report.verdict is result.verdict is Verdict.FAIL
    assert verdicts["VAL13-01"] is Verdict.FAIL
    assert verdicts["one-leader-per-epoch"] is Verdict.FAIL
    assert verdicts["VAL13-03"] is Verdict.INCONCLUSIVE
    assert mentioning(str(out)) == []


def test_a_failover_that_is_too_slow_fails_the_run(tmp_path: Path) -> None:
    out = tmp_path / "evidence"
    limit = "val13.failover_max_ms=1"
    command = [*LAB, "run", "val13", "--port-base", str(two_ports()), "--threshold", limit, "--out", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    own = json.loads((out / "val13" / "val13-report.json").read_text())
    assert own["verdict"] == "FAIL"
    assert own["gate_c"]["passed"] is False
    failed = [check["id"] for check in own["checks"] if check["verdict"] != "PASS"]
    assert failed == ["VAL13-03", "VAL13-08", "VAL13-09"]
    assert "VAL13-03, VAL13-09 failed" in own["reason"]
