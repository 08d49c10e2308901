"""A real PgBouncer in transaction mode, where there is one: https://www.pgbouncer.org/config.html."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from plasmacloud.base.process import ManagedProcess, ProcessError, free_ports
from plasmacloud.postgres import PostgresServer
from plasmacloud.postgres.privileges import confinement

_START_S = 15.0
_POLL_S = 0.02


def find_pgbouncer() -> str | None:
    """The program; None where there is none."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


@asynccontextmanager
async def pgbouncer(program: str, server: PostgresServer, role: str, directory: Path, log: Path) -> AsyncIterator[str]:
    """The URL of a pool in front of the role's own database. The role is let in without a password on both sides.

    Sessions are handed out in turn, so that what one client does is spread over them. Raises `ProcessError`.
    """
    (port,) = free_ports(1)
    users, config = directory / "pgbouncer-users.txt", directory / "pgbouncer.ini"
    users.write_text(f'"{role}" ""\n')
    config.write_text(
        f"[databases]\n{role} = host=127.0.0.1 port={server.port} user={role}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {users}\npool_mode = transaction\nserver_round_robin = 1\n"
        "ignore_startup_parameters = extra_float_digits,statement_timeout,idle_session_timeout\n"
    )
    for path in (users, config):
        path.chmod(0o644)
    prefix = confinement(server.binaries).prefix  # it does not run as root either
    process = ManagedProcess("pgbouncer", [*prefix, program, str(config)], log_path=log)
    process.start()
    try:
        await _listening(process, port)
        yield f"postgres://{role}@127.0.0.1:{port}/{role}"
    finally:
        process.kill()


async def _listening(process: ManagedProcess, port: int) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if not process.running or time.monotonic() >= deadline:
                raise ProcessError(f"pgbouncer does not listen: see {process.log_path}") from None
            await asyncio.sleep(_POLL_S)
        else:
            writer.transport.abort()
            return
