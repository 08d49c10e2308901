"""What only a real process shows: exit codes, pipes, signals, completion, what is imported."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import Store

PYTHON = sys.executable
PLASMA = [PYTHON, "-m", "plasmacloud"]
TIMEOUT_S = 60.0


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PLASMA, *args], env={**os.environ, **env}, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def test_the_console_script_and_the_module_are_the_same() -> None:
    script = Path(PYTHON).with_name("plasma")
    if not script.exists():
        pytest.skip("the plasma script is not installed beside this Python")
    by_script = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    assert by_script.stdout == run("--help").stdout


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["version"], 0),
        (["kv", "get"], 2),
        (["kv", "get", "a", "--endpoints", "127.0.0.1:1"], 5),
        (["--config", "/nonexistent", "version"], 6),
    ],
)
def test_exit_codes(args: list[str], code: int) -> None:
    result = run(*args)
    assert result.returncode == code
    assert "Traceback" not in result.stderr


def test_a_write_whose_outcome_is_unknown_exits_4() -> None:
    """The server takes the connection and the request, and goes away without an answer."""
    settings = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
        child = subprocess.Popen(
            [*PLASMA, "kv", "put", "a", "b", "--endpoints", endpoint],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        server.settimeout(TIMEOUT_S)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(TIMEOUT_S)
            connection.sendall(settings)
            received = b""
            while b"\x0a\x01a\x12\x01b" not in received:  # the put itself
                received += connection.recv(4096)
        out, err = child.communicate(timeout=TIMEOUT_S)
    assert child.returncode == 4, err
    assert out == ""
    assert "may or may not have been executed" in err
    assert "read the data back" in err


def test_ctrl_c_exits_130_without_a_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
        child = subprocess.Popen(
            [*PLASMA, "kv", "get", "a", "--timeout", "1h", "--endpoints", endpoint],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        server.settimeout(TIMEOUT_S)
        connection, _ = server.accept()
        with connection:
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=TIMEOUT_S)
    assert (child.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_a_reader_that_goes_away_is_no_drama(cluster: Store) -> None:
    endpoints = ",".join(cluster.endpoints)
    put = subprocess.run(
        [*PLASMA, "kv", "put", "pipe", "-", "--endpoints", endpoints],
        input=b"x" * 1_000_000,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert put.returncode == 0, put.stderr
    child = subprocess.Popen(
        [*PLASMA, "kv", "get", "pipe", "--endpoints", endpoints], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.read(10)
    child.stdout.close()
    err = child.stderr.read()
    child.stderr.close()
    assert child.wait(TIMEOUT_S) == 141
    assert err == b""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["plasma", ""], "kv"),
        (["plasma", "kv", "g"], "get"),
        (["plasma", "chainfire", "move"], "move-leader"),
        (["plasma", "kv", "get", "--consi"], "--consistency"),
        (["plasma", "-o", "js"], "json"),
    ],
)
def test_completion_completes(words: list[str], expected: str) -> None:
    done = run(_PLASMA_COMPLETE="bash_complete", COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1))
    assert done.returncode == 0, done.stderr
    assert expected in [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_the_bash_script_is_valid_bash() -> None:
    script = run("completion", "bash").stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=TIMEOUT_S)


HEAVY = ("asyncio", "google.protobuf", "rich", "yaml", "structlog", "plasmacloud.client", "plasmacloud.chainfire")


@pytest.mark.parametrize(
    ("args", "allowed"),
    [(["--help"], ()), (["kv", "get", "--help"], ()), (["version"], ())],
)
def test_help_imports_nothing_heavy(args: list[str], allowed: tuple[str, ...]) -> None:
    code = (
        "import sys\n"
        "from plasmacloud.cli.main import cli\n"
        f"try: cli.main({args!r})\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    assert done.stderr.strip() == str(list(allowed))
