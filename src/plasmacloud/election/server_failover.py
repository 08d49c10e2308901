"""An ordered failover: whether it may be done, and doing it: resign, stand back, and see who takes over."""

import asyncio
import contextlib
import time
from typing import Any

from plasmacloud.base.logging import get_logger
from plasmacloud.election.errors import ElectionUnavailable
from plasmacloud.election.http_models import FailoverAnswer
from plasmacloud.election.http_problems import (
    ELECTIONS_HELD,
    LAG_CRITICAL,
    NO_CONTENDER,
    NOT_LEADER,
    QUORUM_LOST,
    UNFINISHED,
    Outcome,
    Problem,
)
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.quorum import Health, Verdict
from plasmacloud.election.server_service import ElectionService

STAND_BACK_S = 2.0
"""How long the old leader stands back, and the caller waits. After that it contends again: better it than nobody."""

_POLL_S = 0.005
_QUERY_S = 1.0
_STATE_SQL = "SELECT timeline, epoch, holder_id FROM leadership_state WHERE election = $1"

log = get_logger("election")


def refuse(verdict: Verdict, *, others: int, force: bool) -> Problem | None:
    """Why leadership is better not handed over now; None: it may be. ``others``: contenders that are alive.

    Without a database nobody can take over, so no force helps against that.
    """
    if verdict.health is Health.LOST:
        return Problem(
            QUORUM_LOST, "; ".join(verdict.reasons), hint="nobody could take over: repair the database first"
        )
    if force:
        return None
    if verdict.lag_critical:
        return Problem(LAG_CRITICAL, "; ".join(verdict.reasons), hint="wait until it has caught up, or use force")
    if others == 0:
        return Problem(NO_CONTENDER, "no other node of this election is alive", hint="start one, or use force")
    return None


async def fail_over(service: ElectionService, *, force: bool) -> FailoverAnswer:
    """Hand leadership over and wait for the new epoch. Raises `Problem`."""
    before = service.leadership
    if not before.leads or before.epoch is None:
        raise not_leader(service)
    if service.watch.hold is not None:
        raise Problem(ELECTIONS_HELD, f"held off by {service.watch.hold.operator}: nobody could take over")
    if not force:
        await _until_somebody_waits(service)
    refusal = refuse(service.watch.judge.verdict, others=service.others_alive(), force=force)
    if refusal is not None:
        raise refusal
    began_s = time.monotonic()
    service.watch.stands_back_until_s = began_s + STAND_BACK_S
    if not await service.candidate.resign(STAND_BACK_S):
        raise Problem(NOT_LEADER, "leadership was lost before it could be given up", leader="", leader_url="")
    while time.monotonic() - began_s < STAND_BACK_S:
        found = await _newest(service)
        if found is not None and found[0] > before.epoch and found[1]:
            took_ms = (time.monotonic() - began_s) * 1000
            return FailoverAnswer(before.node_id, found[1], str(before.epoch), str(found[0]), took_ms=round(took_ms, 3))
        await asyncio.sleep(_POLL_S)
    raise Problem(
        UNFINISHED,
        f"{before.node_id} gave leadership up, and nobody took it within {STAND_BACK_S:g} s",
        hint=f"{before.node_id} contends again; see plasma ha status",
        outcome=Outcome.UNKNOWN,
    )


async def _until_somebody_waits(service: ElectionService) -> None:
    """Who has just handed leadership over stands back. With nobody else there, leading on until then costs nothing."""
    if service.others_waiting() or not service.others_alive():
        return
    log.info("failover waits until another node contends")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STAND_BACK_S + 4 * service.config.monitor_interval_s):
            while service.others_alive() and not service.others_waiting():
                await service.watch.next_look()


def not_leader(service: ElectionService) -> Problem:
    """The refusal that names the leader and says where to find it."""
    leadership = service.leadership
    url = service.leader_url()
    if leadership.leader_id:
        where = f" at {url}" if url else ""
        return Problem(
            NOT_LEADER,
            f"{leadership.leader_id} leads{where}, not this node",
            leader=leadership.leader_id,
            leader_url=url,
        )
    return Problem(NOT_LEADER, "nobody is known to lead", leader="", leader_url="", hint="try again in a moment")


async def _newest(service: ElectionService) -> tuple[Epoch, str] | None:
    """The newest epoch and its holder; None: the database did not say."""
    election = service.config.election
    if not service.config.on_postgres:
        known = service.leadership
        return (known.epoch, known.leader_id) if known.epoch is not None else None

    async def read(connection: Any) -> Any:
        return await connection.fetchrow(_STATE_SQL, election)

    try:
        row = await service.database.run(read, timeout_s=_QUERY_S)
    except (ElectionUnavailable, TimeoutError, OSError):
        return None
    return (Epoch(row["timeline"], row["epoch"]), row["holder_id"]) if row is not None else None
