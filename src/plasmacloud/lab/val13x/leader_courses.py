"""What is done to leaders: frozen, cut off, ended, overtaken. Effects only; nothing is judged here."""

import asyncio
import signal
import time

from plasmacloud.lab.election.api import ServerApi
from plasmacloud.lab.election.guarded_sql import raise_epoch_behind, write_guarded
from plasmacloud.lab.network import both
from plasmacloud.lab.val13x import names
from plasmacloud.lab.val13x.rig import Val13xRig
from plasmacloud.verify.history import Outcome

WAITING_WRITES = 4
"""So many writes sit in the sockets of a frozen leader when it wakes up."""
FROZEN_S = 3.0
"""At least; longer than every timer of an election."""
CUT_S = 2.5
"""At least; longer than the server's patience with a silent session, which then has something to say."""
_ANSWER_S = 15.0
_BURST = 150
_PAUSE_S = 0.01
_SQL_ATTEMPTS = 3


async def sigstop_leader(rig: Val13xRig) -> None:
    """SIGSTOP; the other one takes over; SIGCONT; what waited at the old leader is answered, and must be refused."""
    leader = await rig.leader()
    await rig.begin_trial(leader)
    epoch = rig.epoch_of(leader)
    server = rig.servers[leader]
    apis = [ServerApi(server.host, server.port) for _ in range(WAITING_WRITES)]
    try:
        await asyncio.gather(*(api.status(timeout=_ANSWER_S) for api in apis))  # connected while all is well
        at_ns = await rig.freeze(leader)
        rig.doing(f"{leader} is frozen")
        waiting = [asyncio.create_task(rig.attempt(leader, epoch, api, timeout=FROZEN_S + _ANSWER_S)) for api in apis]
        await rig.leader(rig.other(leader))
        resumed = await rig.resumed(at_ns)
        await asyncio.sleep(max(0.0, FROZEN_S - (time.monotonic_ns() - at_ns) / 1e9))
        thawed_ns = await rig.thaw(leader)
        rig.doing(f"{leader} goes on")
        await asyncio.gather(*waiting)
        await rig.follows(leader, thawed_ns)
    finally:
        for api in apis:
            api.close()
    await rig.end_trial(ok=resumed)


async def partition_leader(rig: Val13xRig) -> None:
    """Cut the leader from the database, both ways. Clients still reach it, and must be refused; then heal."""
    leader = await rig.leader()
    await rig.begin_trial(leader)
    epoch = rig.epoch_of(leader)
    server = rig.servers[leader]
    api = ServerApi(server.host, server.port)
    try:
        at_ns = await rig.cut(leader, both(names.HOSTS[leader], names.DATABASE_HOST))
        rig.doing(f"{leader} is cut off")
        await rig.leader(rig.other(leader))
        resumed = await rig.resumed(at_ns)
        await rig.attempt(leader, epoch, api, timeout=_ANSWER_S)
        await asyncio.sleep(max(0.0, CUT_S - (time.monotonic_ns() - at_ns) / 1e9))
        healed_ns = await rig.heal()
        rig.doing(f"{leader} is back")
        await rig.follows(leader, healed_ns)
    finally:
        api.close()
    await rig.end_trial(ok=resumed)


async def writes_through_kills(rig: Val13xRig) -> None:
    """SIGTERM of the leader, which comes back; then SIGKILL of the next one, which comes back."""
    for signum, fault in ((signal.SIGTERM, names.TERM), (signal.SIGKILL, names.KILL)):
        leader = await rig.leader()
        await rig.begin_trial(leader)
        rig.doing(f"{signum.name} to {leader}")
        at_ns = rig.signal_server(leader, signum, fault)
        resumed, _ = await asyncio.gather(rig.resumed(at_ns), rig.prove_end(leader, signum, fault))
        await rig.leader(rig.other(leader))
        await rig.end_trial(ok=resumed)
        rig.start_server(leader)
        await rig.answering(leader)


async def stale_leader_write_refused(rig: Val13xRig) -> None:
    """Raise the epoch behind the leader's back, and write through it at once, while it believes in its own."""
    leader = await rig.leader()
    await rig.begin_trial(leader)
    server = rig.servers[leader]
    api = ServerApi(server.host, server.port)
    try:
        await api.status(timeout=_ANSWER_S)
        at_ns = time.monotonic_ns()
        rig.record_overtaking(at_ns, leader)
        old, new = await raise_epoch_behind(rig.postgres, f"raised by {names.OPERATOR}: behind the leader's back")
        for _ in range(_BURST):
            done = await rig.attempt(leader, old, api, timeout=_ANSWER_S)
            if done.kind == "not-leader":
                break
            await asyncio.sleep(_PAUSE_S)
        rows = await rig.postgres.fetch("SELECT timeline, epoch FROM leadership_state")
        rig.prove_overtaking(new, [(timeline, number) for timeline, number in rows])
        for _ in range(_SQL_ATTEMPTS):
            done = await write_guarded(rig.postgres, old, rig.stale_key(), "stale")
            rig.tried("sql", rig.postgres.name, old, done)
        await rig.leader_after(new)
        resumed = await rig.resumed(at_ns)
        await _control(rig)
    finally:
        api.close()
    await rig.end_trial(ok=resumed)


async def _control(rig: Val13xRig) -> None:
    """The same attempts in the name of the newest epoch, which must succeed: or being refused would prove nothing."""
    for _ in range(_SQL_ATTEMPTS):
        leader = await rig.leader()
        epoch = rig.epoch_of(leader)
        done = await write_guarded(rig.postgres, epoch, rig.stale_key(), "current")
        rig.tried("sql", rig.postgres.name, epoch, done, current=True)
        if done.outcome is Outcome.OK:
            return
