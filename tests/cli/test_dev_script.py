"""Which Python ``./dev`` makes its virtual environment with: made-up interpreters, the real script."""

import subprocess
from pathlib import Path

import pytest

DEV = Path(__file__).parents[2] / "dev"


def find_python(path: str, python: str = "") -> subprocess.CompletedProcess[str]:
    script = f'set -- help; source "{DEV}" >/dev/null; PATH="{path}"; find_python'
    return subprocess.run(
        ["bash", "-c", script],
        env={"PATH": "/usr/bin:/bin", "PYTHON": python},
        capture_output=True,
        text=True,
        timeout=30,
    )


def interpreter(directory: Path, name: str, kind: str) -> Path:
    """One that says of itself what ``kind_of`` would find out; without a kind it is too old."""
    directory.mkdir(exist_ok=True)
    made = directory / name
    made.write_text(f"#!/bin/bash\n[ -n '{kind}' ] && echo {kind}\n")
    made.chmod(0o755)
    return made


def test_an_optimised_interpreter_is_taken_before_a_plain_one_that_comes_first(tmp_path: Path) -> None:
    interpreter(tmp_path / "from source", "python3.11", "plain")
    packaged = interpreter(tmp_path / "packaged", "python3.11", "optimised")
    assert find_python(f"{tmp_path}/from source:{tmp_path}/packaged").stdout == f"{packaged}\n"


def test_the_version_that_is_tested_most_counts_more_than_speed(tmp_path: Path) -> None:
    plain = interpreter(tmp_path / "bin", "python3.11", "plain")
    interpreter(tmp_path / "bin", "python3.13", "optimised")
    assert find_python(str(tmp_path / "bin")).stdout == f"{plain}\n"


def test_one_without_pip_or_too_old_is_passed_over(tmp_path: Path) -> None:
    interpreter(tmp_path / "bin", "python3.11", "without-pip")
    interpreter(tmp_path / "bin", "python3.12", "")
    last = interpreter(tmp_path / "bin", "python3.14", "plain")
    assert find_python(str(tmp_path / "bin")).stdout == f"{last}\n"


def test_a_named_interpreter_is_taken_whatever_it_is(tmp_path: Path) -> None:
    interpreter(tmp_path / "bin", "python3.11", "optimised")
    named = interpreter(tmp_path / "mine", "python", "plain")
    assert find_python(str(tmp_path / "bin"), python=str(named)).stdout == f"{named}\n"


@pytest.mark.parametrize(
    ("kind", "python", "message"),
    [
        ("without-pip", "", "apt-get install python3-venv"),
        ("", "", "no Python 3.11 or newer found"),
        ("optimised", "/nonexistent/python", "PYTHON=/nonexistent/python is no Python 3.11 or newer"),
    ],
)
def test_what_is_missing_is_said(kind: str, python: str, message: str, tmp_path: Path) -> None:
    interpreter(tmp_path / "bin", "python3", kind)
    found = find_python(str(tmp_path / "bin"), python=python)
    assert found.returncode == 1
    assert message in found.stderr
    assert found.stdout == ""
