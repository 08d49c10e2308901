"""A real PgBouncer before a test's server, as a process that ends with the test."""

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.postgres import PostgresServer
from plasmacloud.postgres.privileges import confinement

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
_DEADLINE_S = 20.0


@contextmanager
def pgbouncer(server: PostgresServer, directory: Path, **settings: str) -> Iterator[str]:
    """The URL of the pool. ``settings``: of PgBouncer, such as ``pool_mode``."""
    assert PROGRAM is not None
    (port,) = free_ports(1)
    password = server.passfile.read_text().strip().rpartition(":")[2]
    users = directory / "users.txt"
    users.write_text(f'"plasma" "{password}"\n')
    values = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "trust",
        "auth_file": str(users),
        "ignore_startup_parameters": "extra_float_digits",
        **settings,
    }
    lines = [f"{name} = {value}" for name, value in values.items()]
    config = directory / "pgbouncer.ini"
    config.write_text(
        f"[databases]\npostgres = host=127.0.0.1 port={server.port} user=plasma\n[pgbouncer]\n"
        + "\n".join(lines)
        + "\n"
    )
    for path in (users, config):
        path.chmod(0o644)
    prefix = confinement(server.binaries).prefix  # it does not run as root either
    process = ManagedProcess("pgbouncer", [*prefix, PROGRAM, str(config)], log_path=directory / "pgbouncer.log")
    try:
        process.start()
        _wait(process, port)
        yield f"postgres://plasma@127.0.0.1:{port}/postgres"
    finally:
        process.stop()


def _wait(process: ManagedProcess, port: int) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        assert process.running, process.log_path.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            assert time.monotonic() < deadline, process.log_path.read_text()
            time.sleep(0.02)
        else:
            return
