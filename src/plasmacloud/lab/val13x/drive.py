"""The course of the suite: scenario after scenario, each with its own end. One that fails does not end the others."""

import time
from collections.abc import Awaitable, Callable

from plasmacloud.base.errors import PlasmaError
from plasmacloud.lab.val13x import names
from plasmacloud.lab.val13x.database_courses import pg_immediate_stop, pg_sigkill, sync_failover, sync_standby_lost
from plasmacloud.lab.val13x.facts import AuditRow, Begun, Ended, EpochRow
from plasmacloud.lab.val13x.leader_courses import (
    partition_leader,
    sigstop_leader,
    stale_leader_write_refused,
    writes_through_kills,
)
from plasmacloud.lab.val13x.pooler_course import pooler_refused
from plasmacloud.lab.val13x.rig import Val13xRig
from plasmacloud.lab.val13x.split_brain_course import split_brain_detect_recover
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.postgres.sessions import SESSION_FAILURES
from plasmacloud.verify.files import encode_lines

Course = Callable[[Val13xRig], Awaitable[None]]
COURSES: dict[str, Course] = {
    names.SIGSTOP: sigstop_leader,
    names.PARTITION: partition_leader,
    names.PG_STOP: pg_immediate_stop,
    names.PG_KILL: pg_sigkill,
    names.KILLS: writes_through_kills,
    names.STALE: stale_leader_write_refused,
    names.STANDBY_LOST: sync_standby_lost,
    names.SYNC_FAILOVER: sync_failover,
    names.POOLER: pooler_refused,
    names.SPLIT_BRAIN: split_brain_detect_recover,
}
assert list(COURSES) == list(names.COURSES)
_EPOCHS = (
    "SELECT epoch, timeline, holder_id, acquired_at::text, coalesce(resigned_at::text, ''), notes FROM leader_epochs "
    "WHERE election = 'default' ORDER BY epoch"
)
_AUDIT = "SELECT at::text, node_id, operator, action, outcome FROM ha_audit ORDER BY id"


async def drive(rig: Val13xRig) -> None:
    """All scenarios of the plan. Raises `WaitedTooLong` when the system does not come back after a failed one."""
    await rig.start_all()
    for name in rig.plan.options["scenarios"].split():
        await _scenario(rig, name)
    rig.doing("the end")
    leader = await rig.leader()
    (rig.directory / names.STATUS).write_text(await rig.ha_status(leader))
    await rig.finish()
    rows = await rig.postgres.fetch(_EPOCHS)
    (rig.directory / names.EPOCHS).write_bytes(encode_lines(EpochRow(*row) for row in rows))
    audit = await rig.postgres.fetch(_AUDIT)
    (rig.directory / names.AUDIT).write_bytes(encode_lines(AuditRow(*row) for row in audit))


async def _scenario(rig: Val13xRig, name: str) -> None:
    rig.contended.scenario = name
    trials = rig.plan.trials if names.COURSES[name].repeated else 1
    rig.fact(Begun(at_ns=time.monotonic_ns(), scenario=name, first_trial=rig.trial + 1))
    problem, cause = "", ""
    try:
        for number in range(1, trials + 1):
            rig.progress.trial = number
            await COURSES[name](rig)
    except (PlasmaError, *SESSION_FAILURES) as error:
        cause = "target" if isinstance(error, WaitedTooLong) else "lab"
        problem = str(error) + (f" ({error.hint})" if isinstance(error, PlasmaError) and error.hint else "")
    rig.fact(Ended(at_ns=time.monotonic_ns(), scenario=name, last_trial=rig.trial, problem=problem, cause=cause))
    rig.recorder.flush()
    if problem:
        rig.note(f"{name} did not get to its end: {problem}")
        await rig.restore()
