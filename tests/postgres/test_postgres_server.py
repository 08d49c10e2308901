"""Real servers: made, started, stopped in every way, killed, frozen, and never left behind."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from plasmacloud.base.errors import ExitCode, PlasmaError
from plasmacloud.postgres import PostgresError, StopMode, probe_external
from plasmacloud.postgres.errors import PortTaken, PostgresUnavailable
from plasmacloud.postgres.leftovers import forget_shared_memory
from plasmacloud.postgres.sessions import NotReady, open_session


def alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def test_a_new_server_answers_is_private_and_leaves_nothing(make_server) -> None:
    server = make_server()

    async def life() -> None:
        await server.create()
        assert stat.S_IMODE(server.passfile.stat().st_mode) == 0o600
        pid = await server.start()
        assert server.process.pid == pid
        assert (await server.fetch("SHOW data_checksums"))[0][0] == "on"
        assert (await server.fetch("SHOW unix_socket_directories"))[0][0] == ""
        assert (await server.fetch("SHOW listen_addresses"))[0][0] == "127.0.0.1"
        assert await server.execute("CREATE TABLE t (note text)") == "CREATE TABLE"
        assert await server.execute("INSERT INTO t VALUES ('kept')") == "INSERT 0 1"
        assert await server.stop() == 0
        await server.start()
        assert await server.fetch("SELECT note FROM t") == [("kept",)]
        password = server.passfile.read_text().strip().rpartition(":")[2]
        for child in [pid, *server.children()]:
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                assert password not in Path(f"/proc/{child}/cmdline").read_text()
                assert password not in Path(f"/proc/{child}/environ").read_bytes().decode(errors="replace")
        await server.remove()

    asyncio.run(life())
    assert not server.data_dir.exists()
    assert not server.passfile.exists()
    assert [path.suffix for path in server.data_dir.parent.iterdir() if path.is_file()] == [".log", ".log"]


def test_the_password_is_needed(make_server) -> None:
    server = make_server()

    async def life() -> None:
        await server.create()
        await server.start()
        wrong = server.passfile.with_name("wrong")
        wrong.write_text("*:*:*:plasma:wrong\n")
        wrong.chmod(0o600)
        with pytest.raises(PostgresError, match="refuses the user"):
            await open_session(server.url(), timeout=5.0, passfile=str(wrong))
        with pytest.raises(PostgresError, match="nowhere") as caught:
            await server.connect(database="nowhere")
        assert "create the database" in (caught.value.hint or "")

    asyncio.run(life())


@pytest.mark.parametrize(
    ("mode", "recovers"), [(StopMode.FAST, False), (StopMode.IMMEDIATE, True), (None, True)], ids=str
)
def test_committed_rows_survive_every_end(make_server, mode: StopMode | None, recovers: bool) -> None:
    server = make_server()

    async def life() -> None:
        await server.create()
        await server.start()
        await server.execute("CREATE TABLE t (n int)")
        await server.execute("INSERT INTO t VALUES (1)")
        offspring = server.children()
        assert offspring
        status = await (server.kill() if mode is None else server.stop(mode))
        assert status == (-signal.SIGKILL if mode is None else 0 if mode is StopMode.FAST else status)
        assert not server.running
        assert not any(map(alive, offspring))
        with pytest.raises(NotReady):
            await server.connect()
        await server.start()
        assert await server.fetch("SELECT n FROM t") == [(1,)]
        assert ("automatic recovery in progress" in server.last_words()) is recovers

    asyncio.run(life())


def test_a_smart_stop_waits_for_clients_and_says_so(make_server) -> None:
    server = make_server()

    async def life() -> None:
        await server.create()
        await server.start()
        session = await server.connect()
        with pytest.raises(PostgresError, match="still runs after"):
            await server.stop(StopMode.SMART, timeout=0.3)
        session.terminate()
        assert await server.process.wait_async(20) == 0

    asyncio.run(life())


def test_a_frozen_server_answers_nothing_until_it_is_thawed(make_server) -> None:
    server = make_server()

    async def life() -> None:
        await server.create()
        await server.start()
        session = await server.connect()
        server.freeze()
        deadline = time.monotonic() + 20
        while server.process.proc_state() != "T":
            assert time.monotonic() < deadline
        with pytest.raises(TimeoutError):
            await session.fetch("SELECT 1", timeout=0.3)
        server.thaw()
        await server.ready(timeout=20)
        session.terminate()
        server.freeze()
        assert await server.kill() == -signal.SIGKILL

    asyncio.run(life())


def test_a_taken_port_is_named_with_what_to_do(make_server) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        server = make_server(port=other.getsockname()[1])

        async def life() -> None:
            await server.create()
            with pytest.raises(PortTaken, match=str(server.port)) as caught:
                await server.start()
            assert caught.value.hint

        asyncio.run(life())


def test_a_setting_that_the_server_refuses_is_quoted(make_server) -> None:
    server = make_server(settings={"wal_level": "nonsense"})

    async def life() -> None:
        await server.create()
        with pytest.raises(PostgresError, match=r'invalid value for parameter "wal_level"'):
            await server.start()

    asyncio.run(life())


def test_the_server_dies_with_its_parent(make_server, tmp_path: Path) -> None:
    server = make_server()
    asyncio.run(server.create())
    script = (
        "import asyncio, os, pathlib\n"
        "from plasmacloud.postgres import PostgresServer, find_binaries\n"
        f"data = pathlib.Path({str(server.data_dir)!r})\n"
        f"server = PostgresServer('pg', find_binaries(), data, {server.port}, log_path=pathlib.Path('pg.log'))\n"
        "asyncio.run(server.start())\n"
        "print(server.process.pid, *server.children(), flush=True)\n"
        "os._exit(1)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=60, cwd=tmp_path, check=False)
    processes = [int(word) for word in done.stdout.split()]
    assert len(processes) > 1
    deadline = time.monotonic() + 20
    while any(map(alive, processes)):
        assert time.monotonic() < deadline, f"{processes} outlived their parent"
        time.sleep(0.01)


def test_a_killed_server_leaves_its_shared_memory_and_it_is_removed(make_server) -> None:
    server = make_server()

    async def life() -> None:
        await server.create()
        await server.start()
        await server.kill()

    asyncio.run(life())
    assert forget_shared_memory(server.data_dir)
    assert not forget_shared_memory(server.data_dir)


def test_a_full_disk_is_called_that(make_server, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this root may not mount")
    try:
        server = make_server()
        server.data_dir = small / "pg"
        server.passfile = small / "pg.pgpass"
        with pytest.raises(PlasmaError, match="the disk is full") as caught:
            asyncio.run(server.create())
        assert caught.value.exit_code is ExitCode.STORAGE
    finally:
        subprocess.run(["umount", str(small)], check=True, timeout=30)


def test_an_external_server_is_looked_at_and_its_password_not_shown(make_server) -> None:
    server = make_server()

    async def life() -> None:
        await server.create()
        await server.start()
        password = server.passfile.read_text().strip().rpartition(":")[2]
        url = server.url().replace("plasma@", f"plasma:{password}@")
        found = await probe_external(url)
        assert found.version == server.binaries.version
        assert not found.in_recovery
        assert password not in str(found)
        with pytest.raises(PostgresError, match=r"plasma:\*\*\*@"):
            await probe_external(url.replace(password, "wrong"))
        await server.stop()
        with pytest.raises(PostgresUnavailable, match="no PostgreSQL answers"):
            await probe_external(url)

    asyncio.run(life())


def test_what_is_no_url_of_postgresql_is_refused() -> None:
    with pytest.raises(PlasmaError, match="not the URL of a PostgreSQL server"):
        asyncio.run(probe_external("mysql://somewhere/x"))
