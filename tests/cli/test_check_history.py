"""`plasma lab check-history`: verdicts are exit codes."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from plasmacloud.cli.check_history import check_history
from plasmacloud.verify.files import encode_lines
from plasmacloud.verify.history import Outcome
from plasmacloud.verify.registers import Kind, RegisterOp

GOOD = """\
INFO  jepsen.util - 0\t:invoke\t:write\t4
INFO  jepsen.util - 0\t:ok\t:write\t4
INFO  jepsen.util - 0\t:invoke\t:read\tnil
INFO  jepsen.util - 0\t:ok\t:read\t4
"""


@pytest.fixture
def history(tmp_path: Path) -> Path:
    path = tmp_path / "history.log"
    path.write_text(GOOD)
    return path


def test_linearizable_is_0(history: Path) -> None:
    ran = CliRunner().invoke(check_history, [str(history)])
    assert ran.exit_code == 0, ran.output
    assert ran.output.startswith("linearizable: 2 operations (0 of unknown outcome) on 1 keys, model register")


def test_not_linearizable_is_1_and_is_explained(history: Path, tmp_path: Path) -> None:
    history.write_text(GOOD.replace(":read\t4", ":read\t5"))
    page = tmp_path / "page.html"
    ran = CliRunner().invoke(check_history, [str(history), "--html", str(page)])
    assert ran.exit_code == 1
    assert "client 0: read -> 5" in ran.output
    assert "not linearizable: 2 operations" in ran.output
    assert "<svg" in page.read_text()


def test_not_decided_is_4(history: Path) -> None:
    ran = CliRunner().invoke(check_history, [str(history), "--max-steps", "1"])
    assert ran.exit_code == 4
    assert "unknown, given up after more than 1 steps" in ran.output


def test_the_labs_own_files(tmp_path: Path) -> None:
    def attempt(seq: int, kind: Kind, **facts: object) -> RegisterOp:
        begin_ns = 10 * seq
        return RegisterOp(1, 0, seq, "n1", "lab-register/0", kind, begin_ns, begin_ns + 5, Outcome.OK, **facts)

    path = tmp_path / "registers.jsonl"
    write = attempt(1, Kind.WRITE, value="a", executed=True, revision=7)
    path.write_bytes(encode_lines([write, attempt(2, Kind.READ, seen="a", seen_revision=7)]))
    assert CliRunner().invoke(check_history, [str(path)]).exit_code == 0
    path.write_bytes(encode_lines([write, attempt(2, Kind.READ, seen="a", seen_revision=6)]))
    assert CliRunner().invoke(check_history, [str(path)]).exit_code == 1
