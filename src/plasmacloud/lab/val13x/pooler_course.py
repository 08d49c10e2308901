"""A pooler in transaction mode under an election server: it must be refused. Effects only; nothing is judged here."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from plasmacloud.base.process import ProcessError, free_ports
from plasmacloud.lab.election.pgbouncer import find_pgbouncer, pgbouncer
from plasmacloud.lab.election.pooler import SharingPooler, shares_sessions
from plasmacloud.lab.election.servers import ElectionServer
from plasmacloud.lab.recorder import LOGS
from plasmacloud.lab.val13x import names
from plasmacloud.lab.val13x.facts import PoolerTried
from plasmacloud.lab.val13x.rig import Val13xRig
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.postgres import PostgresError, PostgresServer
from plasmacloud.postgres.sessions import open_session

ROLE = "val13x_pooled"
POOLED = "cp-val13x-pooled"
_END_S = 20.0


async def pooler_refused(rig: Val13xRig) -> None:
    """Put an election server behind a pooler: the lab's own, and PgBouncer where there is one."""
    await let_in_without_password(rig.postgres)
    async with SharingPooler(rig.postgres.port) as pooler:
        await _try(rig, "the lab's own pooler", f"postgres://{ROLE}@127.0.0.1:{pooler.port}/{ROLE}")
    program = find_pgbouncer()
    if program is None:
        rig.note("there is no pgbouncer here")
        return
    log = rig.directory / LOGS / "pgbouncer.log"
    async with pgbouncer(program, rig.postgres, ROLE, rig.postgres.data_dir.parent, log) as url:
        await _try(rig, "PgBouncer", url)


async def _try(rig: Val13xRig, pooler: str, url: str) -> None:
    """One election server behind it, until it ends or has gone on for too long."""
    rig.doing(f"a server behind {pooler}")
    shared = await shares_sessions(url)
    (port,) = free_ports(1)
    number = len(rig.also)
    server = ElectionServer(
        POOLED,
        3,
        port,
        ["--backend", url],
        rig.postgres.environment(),
        lambda _session: rig.directory / f"val13x-pooled-s{number}.log",
    )
    rig.also.append(server.process)
    server.start()
    status: int | None = None
    with contextlib.suppress(ProcessError):
        status = await server.process.wait_async(_END_S)
    server.process.kill()
    text = server.log_path.read_text(errors="replace")
    lines = [line for line in text.splitlines() if line.startswith("error: ")] or text.strip().splitlines() or [""]
    with (rig.directory / names.POOLER_FILE).open("a", encoding="utf-8") as file:
        file.write(
            f"{pooler}: statements of one connection ran in several sessions of the server: {shared}\n"
            f"$ plasma {' '.join(server.process.argv[3:])}\n{text.rstrip()}\nexit status {status}\n\n"
        )
    rig.fact(
        PoolerTried(
            at_ns=time.monotonic_ns(),
            trial=rig.trial,
            pooler=pooler,
            shared=shared,
            status=status,
            said=lines[0][:500],
            acquired=server.count_in_log("acquired leadership"),
        )
    )


async def let_in_without_password(database: PostgresServer) -> None:
    """A role with a database of its own, the only thing that it may use, and only from loopback: for poolers, which
    here know no passwords."""
    for statement in (f"CREATE ROLE {ROLE} LOGIN", f"CREATE DATABASE {ROLE} OWNER {ROLE}"):
        await database.execute(statement, timeout=30.0)
    rules = database.data_dir / "pg_hba.conf"
    rules.write_text(f"host {ROLE} {ROLE} 127.0.0.1/32 trust\n" + rules.read_text())
    await database.execute("SELECT pg_reload_conf()")
    await _eventually(
        lambda: _opens(f"postgres://{ROLE}@127.0.0.1:{database.port}/{ROLE}"), "the pooled role is let in"
    )


async def _opens(url: str) -> bool:
    try:
        (await open_session(url, timeout=2.0)).terminate()
    except PostgresError:
        return False
    return True


async def _eventually(holds: Callable[[], Awaitable[Any]], what: str) -> None:
    deadline = time.monotonic() + 10.0
    while not await holds():
        if time.monotonic() >= deadline:
            raise WaitedTooLong(f"{what}: not within 10 s")
        await asyncio.sleep(0.05)
