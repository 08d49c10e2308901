"""Node's gRPC, @grpc/grpc-js, as a client of our server: an HTTP/2 stack that shares nothing with ours.

Its packages are installed from a committed lock file into a temporary directory. Without node, npm or a package
registry the test is skipped.
"""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from rpc_harness import EchoService, run, serving, until

SOURCE = Path(__file__).parent / "node"
FILES = ("package.json", "package-lock.json", ".npmrc", "client.js")
CHECKS = 10
_INSTALL_S = 90.0
_RUN_S = 60.0


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client with its packages; the lock file decides which."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    directory: Path = tmp_path_factory.mktemp("node")
    for name in FILES:
        shutil.copy(SOURCE / name, directory)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=_INSTALL_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm ci did not finish within {_INSTALL_S:.0f} s: no package registry within reach")
    if done.returncode:
        if "integrity" in done.stderr.lower() or "in sync" in done.stderr:
            pytest.fail(f"the lock file does not fit: {done.stderr[-1000:]}")
        pytest.skip("npm ci failed, probably for want of a package registry: " + done.stderr.strip()[-200:])
    return directory / "client.js"


async def drive(client: Path, port: int) -> list[dict[str, str]]:
    process = await asyncio.create_subprocess_exec(
        "node",
        str(client),
        str(port),
        cwd=client.parent,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_RUN_S):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()[-500:] + errors.decode()
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.slow
def test_all_kinds_of_calls(client: Path) -> None:
    async def main() -> None:
        service = EchoService()
        async with serving(service.table) as (server, _, port):
            passed = await drive(client, port)
            assert len(passed) == 3 * CHECKS
            assert {line["compression"] for line in passed} == {"plain", "gzip", "deflate"}
            await until(lambda: service.cancelled.count("hang") == service.cancelled.count("hang_stream") == 3)
            await until(lambda: not server.connections and not server._tasks)

    run(main(), seconds=_RUN_S + 10)


def test_the_lock_file_names_no_host() -> None:
    lock = json.loads((SOURCE / "package-lock.json").read_text())
    assert len(lock["packages"]) > 1
    for name, package in lock["packages"].items():
        assert "resolved" not in package
        assert not name or package["integrity"].startswith("sha512-")
