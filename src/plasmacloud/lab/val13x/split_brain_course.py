"""A split brain, found and ended by `plasma ha`. Effects only; nothing is judged here."""

import asyncio
import contextlib
import time
from pathlib import Path

import msgspec

from plasmacloud.lab.val13x import names
from plasmacloud.lab.val13x.facts import Told
from plasmacloud.lab.val13x.rig import Val13xRig
from plasmacloud.verify.events import FaultInjected, FaultProof

_STEAL_S = 10.0
_LOCK = """
SELECT classid::bigint, objid::bigint, pid FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pid = (SELECT lock_pid FROM leadership_state LIMIT 1)
"""
_HELD_BY = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = $1"


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
