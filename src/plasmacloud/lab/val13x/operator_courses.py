"""What an operator gets wrong and puts right: a pooler under the election, and a split brain."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from plasmacloud.base.process import ProcessError, free_ports
from plasmacloud.lab.election.pooler import SharingPooler, shares_sessions
from plasmacloud.lab.election.servers import ElectionServer
from plasmacloud.lab.val13x import names
from plasmacloud.lab.val13x.facts import PoolerTried, Told
from plasmacloud.lab.val13x.rig import Val13xRig
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.postgres import PostgresError, PostgresServer
from plasmacloud.postgres.sessions import open_session
from plasmacloud.verify.events import FaultInjected, FaultProof

ROLE = "val13x_pooled"
POOLED = "cp-val13x-pooled"
_END_S = 20.0
_STEAL_S = 10.0
_LOCK = """
SELECT classid::bigint, objid::bigint, pid FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pid = (SELECT lock_pid FROM leadership_state LIMIT 1)
"""
_HELD_BY = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = $1"


# -- a pooler -------------------------------------------------------------------------------------------------------


async def pooler_refused(rig: Val13xRig) -> None:
    """Put an election server behind a pooler in transaction mode: it must refuse, say why, and never lead."""
    rig.doing("a server behind a pooler")
    database = rig.postgres
    await let_in_without_password(database)
    (port,) = free_ports(1)
    async with SharingPooler(database.port) as pooler:
        shared = await shares_sessions(f"postgres://{ROLE}@127.0.0.1:{pooler.port}/{ROLE}")
        server = ElectionServer(
            POOLED,
            3,
            port,
            ["--backend", f"postgres://{ROLE}@127.0.0.1:{pooler.port}/{ROLE}"],
            database.environment(),
            lambda session: rig.directory / f"val13x-pooled-s{session}.log",
        )
        rig.also.append(server.process)
        server.start()
        status: int | None = None
        with contextlib.suppress(ProcessError):
            status = await server.process.wait_async(_END_S)
        server.process.kill()
    text = server.log_path.read_text(errors="replace")
    said = next((line for line in text.splitlines() if "pooler" in line), text.strip().splitlines()[-1] if text else "")
    (rig.directory / names.POOLER_FILE).write_text(
        f"two statements of one connection ran in two sessions of the server: {shared}\n"
        f"$ {' '.join(server.process.argv[1:])}\n{text.rstrip()}\nexit status {status}\n"
    )
    rig.fact(
        PoolerTried(
            at_ns=time.monotonic_ns(),
            trial=rig.trial,
            pooler="of the lab, transaction mode",
            shared=shared,
            status=status,
            said=said[:500],
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


# -- split brain ----------------------------------------------------------------------------------------------------


async def split_brain_detect_recover(rig: Val13xRig) -> None:
    """A second claimed holder, ended by `promote-leader`, and a stolen lock, ended by `manual-reconcile`."""
    book = rig.directory / names.SPLIT_BRAIN_FILE
    await ask(rig, book, "detect")
    await _forged_holder(rig, book)
    await _stolen_lock(rig, book)


async def _forged_holder(rig: Val13xRig, book: Path) -> None:
    """The election's row names somebody who does not hold the lock."""
    leader = await rig.leader()
    await rig.begin_trial(leader)
    rig.doing("a forged holder")
    at_ns = time.monotonic_ns()
    rig.record(FaultInjected, at_ns=at_ns, fault=names.FORGE_HOLDER, nodes=(leader,))
    rows = await rig.postgres.fetch(
        "UPDATE leadership_state SET holder_id = $1, lock_pid = 1 RETURNING holder_id", names.INTRUDER
    )
    text = f"UPDATE leadership_state: holder_id is now {rows}, and {leader} holds the lock"
    rig.record(FaultProof, fault=names.FORGE_HOLDER, landed=rows == [(names.INTRUDER,)], evidence=text)
    await ask(rig, book, "detect")
    await order(rig, book, "recover", "--strategy", "promote-leader", "--reason", "a forged holder")
    await rig.leader()
    resumed = await rig.resumed(time.monotonic_ns())
    await ask(rig, book, "detect")
    await rig.end_trial(ok=resumed)


async def _stolen_lock(rig: Val13xRig, book: Path) -> None:
    """A session that is no candidate waits for the lock, and the leader's session is ended: nobody can lead."""
    leader = await rig.leader()
    await rig.begin_trial(leader)
    rig.doing("a stolen lock")
    ((high, low, lock_pid),) = await rig.postgres.fetch(_LOCK)
    key = (high << 32 | low) - (1 << 64 if high >= 1 << 31 else 0)
    thief = await rig.postgres.connect(timeout=5.0)
    try:
        await thief.execute("SET application_name = 'val13x thief'; SET lock_timeout = '9s'")
        pid = await thief.fetchval("SELECT pg_backend_pid()")
        stealing = asyncio.create_task(thief.execute(f"SELECT pg_advisory_lock({key})", timeout=_STEAL_S))
        await asyncio.sleep(1.0)  # candidates queue again after half a second: then the thief is first
        at_ns = time.monotonic_ns()
        rig.record(FaultInjected, at_ns=at_ns, fault=names.STEAL_LOCK, nodes=(leader,))
        await rig.postgres.fetch("SELECT pg_terminate_backend($1)", lock_pid)
        with contextlib.suppress(Exception):  # whether it came to that is in the proof
            await stealing
        held = await rig.postgres.fetch(_HELD_BY, pid)
        text = f"pg_locks: session {pid}, which is no candidate, {'holds' if held else 'does not hold'} the lock"
        rig.record(FaultProof, fault=names.STEAL_LOCK, landed=bool(held), evidence=text)
        await ask(rig, book, "detect")
        await order(rig, book, "recover", "--strategy", "manual-reconcile", "--reason", "a stolen lock")
    finally:
        thief.terminate()  # what the operator has to do by hand
    released_ns = time.monotonic_ns()
    await order(rig, book, "release", "--reason", "the thief is gone")
    await rig.leader()
    resumed = await rig.resumed(released_ns)
    await ask(rig, book, "detect")
    await rig.end_trial(ok=resumed)


class _Finding(msgspec.Struct, frozen=True):
    kind: str


class _Answer(msgspec.Struct, frozen=True):
    findings: tuple[_Finding, ...] = ()
    actions: tuple[str, ...] = ()
    leader_id: str = ""


async def ask(rig: Val13xRig, book: Path, *words: str) -> None:
    """`plasma ha split-brain …` at all servers; what it printed goes to the book, what it said is a fact."""
    where = [word for server in rig.servers.values() for word in ("--server", server.url)]
    printed = await rig.plasma("ha", "split-brain", *words, *where, "-o", "json")
    with book.open("a", encoding="utf-8") as file:
        file.write(printed + "\n")
    head, _, tail = printed.rpartition("exit status ")
    start, end = head.find("\n{"), head.rfind("}")
    try:
        said = msgspec.json.decode(head[start : end + 1], type=_Answer)
    except msgspec.DecodeError:
        said = _Answer()
    rig.fact(
        Told(
            at_ns=time.monotonic_ns(),
            trial=rig.trial,
            command=" ".join(words[: 3 if words[0] == "recover" else 1]),
            status=int(tail.split()[0]),
            findings=tuple(finding.kind for finding in said.findings),
            actions=said.actions,
            leader_id=said.leader_id,
        )
    )


async def order(rig: Val13xRig, book: Path, *words: str) -> None:
    """The same for what changes something: under a name."""
    await ask(rig, book, *words, "--operator", names.OPERATOR)


async def _eventually(holds: Callable[[], Awaitable[Any]], what: str) -> None:
    deadline = time.monotonic() + 10.0
    while not await holds():
        if time.monotonic() >= deadline:
            raise WaitedTooLong(f"{what}: not within 10 s")
        await asyncio.sleep(0.05)
