"""What is done to databases: stopped in the hard way, killed, without their standby, failed over."""

import asyncio
import time

from plasmacloud.lab.election.api import HEALTHY, LOST
from plasmacloud.lab.val13x import names
from plasmacloud.lab.val13x.facts import Promoted, Standby
from plasmacloud.lab.val13x.rig import Val13xRig
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.postgres import PostgresError, StopMode, copy_from, promote, require_synchronous, rewind_to
from plasmacloud.postgres.standby import standby_name, timeline
from plasmacloud.verify.events import NodeRestarted

WITHOUT_STANDBY_S = 4.0
"""So long nobody can acknowledge anything; longer than every time limit of a write."""
_STREAMS_S = 20.0
_POLL_S = 0.02
_REPLICATION = "SELECT application_name, state, sync_state FROM pg_stat_replication"


async def pg_immediate_stop(rig: Val13xRig) -> None:
    """`stop -m immediate`, quorum lost, start, quorum healthy, a leader, writes."""
    await rig.begin_trial(await rig.leader())
    rig.doing("PostgreSQL is stopped")
    at_ns = await rig.stop_postgres(StopMode.IMMEDIATE, names.STOP_POSTGRES)
    await _lost_and_back(rig, at_ns)


async def pg_sigkill(rig: Val13xRig) -> None:
    """SIGKILL of the postmaster; otherwise the same."""
    await rig.begin_trial(await rig.leader())
    rig.doing("PostgreSQL is killed")
    at_ns = await rig.kill_database(rig.postgres, names.KILL_POSTGRES)
    await _lost_and_back(rig, at_ns)


async def _lost_and_back(rig: Val13xRig, at_ns: int) -> None:
    await rig.quorums(LOST, rig.plan.threshold("quorum_lost_max_s") + 5.0, since_ns=at_ns)
    rig.doing("PostgreSQL is started")
    again_ns = time.monotonic_ns()
    await rig.restart_postgres()
    resumed = await rig.resumed(again_ns)
    await rig.healthy(again_ns)
    await rig.leader()
    await rig.end_trial(ok=resumed)


async def with_standby(rig: Val13xRig) -> None:
    """Make the standby, demand it on the primary and of the servers; nothing happens when that is done already."""
    if rig.standby.data_dir.exists():
        return
    rig.doing("making a standby")
    await copy_from(rig.postgres, rig.standby)
    await rig.start_database(rig.standby)
    await _demand(rig)
    await rig.demand_sync(1)
    await rig.healthy(time.monotonic_ns())


async def _demand(rig: Val13xRig) -> None:
    """Every commit on the primary waits for the standby from now on, and the standby streams."""
    await require_synchronous(rig.postgres, rig.standby)
    await streaming(rig)


async def streaming(rig: Val13xRig) -> None:
    """Wait until the primary calls the standby synchronous. Raises `WaitedTooLong`."""
    deadline = time.monotonic() + _STREAMS_S
    while True:
        found = await _standby(rig)
        if (found.state, found.sync_state) == ("streaming", "sync"):
            rig.fact(found)
            return
        if time.monotonic() >= deadline:
            raise WaitedTooLong(f"{rig.standby.name} is not synchronous", hint=f"{found.state} {found.sync_state}")
        await asyncio.sleep(_POLL_S)


async def _standby(rig: Val13xRig) -> Standby:
    """What the primary says about its standby now."""
    rows = await rig.postgres.fetch(_REPLICATION)
    state, sync = next(((s, y) for name, s, y in rows if name == standby_name(rig.standby)), ("", ""))
    return Standby(
        at_ns=time.monotonic_ns(),
        trial=rig.trial,
        primary=rig.postgres.name,
        standby=rig.standby.name,
        state=state,
        sync_state=sync,
    )


async def sync_standby_lost(rig: Val13xRig) -> None:
    """Kill the synchronous standby: nothing may be acknowledged until it is back; then everything goes on."""
    await with_standby(rig)
    await rig.begin_trial(await rig.leader())
    rig.doing("the standby is killed")
    at_ns = await rig.kill_database(rig.standby, names.KILL_STANDBY)
    rig.fact(await _standby(rig))
    await rig.quorums(LOST, rig.plan.threshold("quorum_lost_max_s") + 5.0, since_ns=at_ns)
    await asyncio.sleep(max(0.0, WITHOUT_STANDBY_S - (time.monotonic_ns() - at_ns) / 1e9))
    rig.doing("the standby is back")
    old = rig.standby.process.pid
    again_ns = time.monotonic_ns()
    pid = rig.standby.spawn()
    rig.record(NodeRestarted, at_ns=again_ns, node=rig.standby.name, old_pid=old, new_pid=pid)
    await rig.standby.ready()
    await streaming(rig)
    resumed = await rig.resumed(again_ns)
    await rig.healthy(again_ns)
    await rig.leader()
    await rig.end_trial(ok=resumed)


async def sync_failover(rig: Val13xRig) -> None:
    """Kill the primary, promote the standby, rewind the old primary and let it follow. Servers know both addresses."""
    await with_standby(rig)
    await streaming(rig)
    await rig.begin_trial(await rig.leader())
    before = await timeline(rig.postgres)
    old, new = rig.postgres, rig.standby
    rig.doing("the primary is killed")
    at_ns = await rig.kill_database(old, names.KILL_PRIMARY)
    rig.doing("the standby is promoted")
    await promote(new)
    rig.postgres, rig.standby = new, old
    promoted_ns = time.monotonic_ns()
    after_ms = round((promoted_ns - at_ns) / 1e6, 1)
    rig.fact(
        Promoted(
            at_ns=promoted_ns,
            trial=rig.trial,
            server=new.name,
            old_timeline=before,
            timeline=await timeline(new),
            after_ms=after_ms,
        )
    )
    resumed = await rig.resumed(promoted_ns)
    rig.doing("the old primary is rewound")
    try:
        await rewind_to(old, new)
    except PostgresError as error:
        raise WaitedTooLong(f"{old.name} cannot follow {new.name}: {error}") from error
    pid_before = old.process.pid
    pid = await old.start()
    rig.record(NodeRestarted, node=old.name, old_pid=pid_before, new_pid=pid)
    await _demand(rig)
    await rig.restart_servers()  # what they find when they start is a standby first, or second
    again_ns = time.monotonic_ns()
    await rig.quorums(HEALTHY, rig.plan.recovery_deadline_s, since_ns=again_ns)
    served = await rig.served(again_ns)
    await rig.end_trial(ok=resumed and served)
