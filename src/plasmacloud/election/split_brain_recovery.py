"""Ending a split brain: one stays, all others are fenced first and then cut off.

``promote-leader`` keeps whom the latest database says leads: the holder of the newest epoch, if its session holds the
lock. All other sessions of the election are ended. When there is no such holder, or another one claims the same epoch
or a later one, the epoch is raised, so that every write guarded by an older one is refused from then on, and a new
election follows.

``manual-reconcile`` trusts nobody: on every database that takes writes the epoch is raised and elections are held off,
in one transaction, until ``release``. Meanwhile no guarded write is accepted anywhere, and an operator can look at what
differs.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from plasmacloud.base.logging import get_logger
from plasmacloud.election.contenders import Hold, ensure_contender_schema, read_hold
from plasmacloud.election.epochs import channel
from plasmacloud.election.http_models import RecoverAnswer, Strategy
from plasmacloud.election.http_problems import (
    BACKEND,
    ELECTIONS_HELD,
    NOTHING_TO_RECOVER,
    Outcome,
    Problem,
)
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.postgres_errors import diagnose
from plasmacloud.election.schema import ensure_schema
from plasmacloud.election.server_service import ElectionService
from plasmacloud.election.session_names import session_names
from plasmacloud.election.split_brain import Finding, HostView, Sight, split_hosts
from plasmacloud.election.split_brain_looking import look_around, to_answer

ACT_S = 5.0
NEW_LEADER_S = 5.0
_POLL_S = 0.02
_TIMELINE = "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint"
_END_OTHERS = """
SELECT pid, application_name, pg_terminate_backend(pid) AS ended FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND pid <> ALL($2) AND application_name <> ALL($3)
  AND EXISTS (SELECT FROM unnest($1::text[]) AS prefix WHERE starts_with(application_name, prefix))
"""

log = get_logger("election")


class Plan(msgspec.Struct, frozen=True):
    """What `promote-leader` does. ``stays``: the node that keeps leading, or nobody; ``above``: raise beyond this."""

    host: HostView
    stays: str
    above: int
    why: str


def plan_promotion(sight: Sight) -> Plan | None:
    """Who stays; None: no database takes writes, so there is nothing to keep."""
    if not sight.primaries:
        return None
    host = sight.primaries[0]
    number = host.epoch.number if host.epoch is not None else 0
    claimed = [claim for claim in sight.claims if claim.leads and claim.node_id != host.holder_id and claim.epoch]
    highest = max((c.epoch.number for c in claimed if c.epoch), default=0)
    if not host.holder_id or not host.locked_by or host.locked_by != host.lock_pid:
        return Plan(host, "", max(number, highest), "no node holds both the newest epoch and the lock")
    if any(claim.epoch and host.epoch and claim.epoch >= host.epoch for claim in claimed):
        return Plan(host, "", max(number, highest), "another node claims the same epoch, or a later one")
    return Plan(host, host.holder_id, number, f"{host.holder_id} holds epoch {host.epoch} and the lock")


async def recover(
    service: ElectionService, strategy: Strategy, *, operator: str, reason: str, force: bool
) -> RecoverAnswer:
    """Carry a strategy out. Raises `Problem`."""
    if strategy is Strategy.RELEASE:
        return await _release(service, operator)
    sight, findings = await look_around(service)
    if not findings and not force:
        raise Problem(NOTHING_TO_RECOVER, "no split brain was detected", hint="use force to do it all the same")
    if not sight.primaries:
        raise Problem(BACKEND, "no database of this election takes writes", hint="; ".join(sight.unseen) or None)
    if service.watch.hold is not None and strategy is Strategy.PROMOTE_LEADER:
        raise Problem(ELECTIONS_HELD, f"held off by {service.watch.hold.operator}: nobody can lead before the release")
    log.warning("split brain recovery", strategy=strategy.value, operator=operator, findings=len(findings))
    if strategy is Strategy.MANUAL_RECONCILE:
        return await _hold_all(service, sight, findings, Hold(operator, reason, ""))
    return await _promote(service, sight, findings, operator)


async def _promote(service: ElectionService, sight: Sight, findings: list[Finding], operator: str) -> RecoverAnswer:
    plan = plan_promotion(sight)
    assert plan is not None, "there is a database that takes writes"
    election, actions = service.config.election, [f"kept on {plan.host.host}: {plan.stays or 'nobody'}; {plan.why}"]

    async def settle(connection: Any) -> None:
        spared = [plan.host.lock_pid] if plan.stays else []
        own = session_names(election, plan.stays) if plan.stays else []
        async with connection.transaction():
            if not plan.stays:
                epoch = await raise_by_operator(connection, election, operator, "promote-leader", above=plan.above)
                actions.append(f"raised the epoch on {plan.host.host} to {epoch}")
            actions.extend(await _end_sessions(connection, election, plan.host.host, spared, own))

    await _on_host(service, plan.host.host, settle)
    for other in sight.primaries[1:]:
        actions += await _fence_host(service, other, operator)
    leader, epoch = (plan.stays, plan.host.epoch) if plan.stays else await _wait_for_leader(service)
    return RecoverAnswer(
        Strategy.PROMOTE_LEADER.value, leader, str(epoch or ""), actions, [to_answer(each) for each in findings]
    )


async def _fence_host(service: ElectionService, other: HostView, operator: str) -> list[str]:
    """A second database that takes writes: fence what is guarded there; stopping it is the operator's."""
    actions: list[str] = []
    election = service.config.election

    async def fence(connection: Any) -> None:
        async with connection.transaction():
            epoch = await raise_by_operator(connection, election, operator, "promote-leader: not the primary", above=0)
            actions.append(f"raised the epoch on {other.host} to {epoch}")
            actions.extend(await _end_sessions(connection, election, other.host, [], []))

    await _on_host(service, other.host, fence)
    return [*actions, f"to do: {other.host} still takes writes: stop it, rewind it, and start it as a standby"]


async def _hold_all(service: ElectionService, sight: Sight, findings: list[Finding], hold: Hold) -> RecoverAnswer:
    election, actions, newest = service.config.election, [], ""

    for host in sight.primaries:

        async def fence(connection: Any, name: str = host.host) -> None:
            nonlocal newest
            async with connection.transaction():
                epoch = await raise_by_operator(connection, election, hold.operator, "manual-reconcile", above=0)
                await connection.execute(
                    "INSERT INTO election_holds (election, operator, reason) VALUES ($1, $2, $3) "
                    "ON CONFLICT (election) DO UPDATE SET operator = $2, reason = $3, since = clock_timestamp()",
                    election,
                    hold.operator,
                    hold.reason,
                )
                actions.append(f"raised the epoch on {name} to {epoch}, and held elections off")
                actions.extend(await _end_sessions(connection, election, name, [], []))
            newest = newest or str(epoch)

        await _on_host(service, host.host, fence)
    actions.append("to do: compare what differs, then: plasma ha split-brain release")
    return RecoverAnswer(Strategy.MANUAL_RECONCILE.value, "", newest, actions, [to_answer(each) for each in findings])


async def _release(service: ElectionService, operator: str) -> RecoverAnswer:
    election, actions = service.config.election, []
    for host, _url in split_hosts(service.config.backend):

        async def release(connection: Any, name: str = host) -> None:
            if await connection.fetchval("SELECT pg_is_in_recovery()"):
                return
            hold = await read_hold(connection, election)
            if hold is not None:
                await connection.execute("DELETE FROM election_holds WHERE election = $1", election)
                actions.append(f"released on {name}, where {hold.operator} held elections off since {hold.since}")

        try:
            await _on_host(service, host, release)
        except Problem as problem:
            actions.append(f"to do: {problem}")
    if not any(action.startswith("released") for action in actions):
        raise Problem(ELECTIONS_HELD, "elections are not held off: there is nothing to release")
    leader, epoch = await _wait_for_leader(service)
    return RecoverAnswer(Strategy.RELEASE.value, leader, str(epoch or ""), actions, [])


async def raise_by_operator(connection: Any, election: str, operator: str, why: str, *, above: int) -> Epoch:
    """Commit an epoch that nobody holds, above ``above`` and all there were: every write guarded by one is refused."""
    async with connection.transaction(isolation="read_committed"):
        await connection.execute("LOCK TABLE leadership_state IN EXCLUSIVE MODE")
        row = await connection.fetchrow("SELECT epoch FROM leadership_state WHERE election = $1", election)
        number = max(row["epoch"] if row is not None else 0, above) + 1
        epoch = Epoch(int(await connection.fetchval(_TIMELINE)), number)
        await connection.execute("DELETE FROM election_holds WHERE election = $1", election)
        await connection.execute(
            "UPDATE leader_epochs SET resigned_at = clock_timestamp(), "
            "notes = concat_ws('; ', nullif(notes, ''), $2::text) WHERE election = $1 AND resigned_at IS NULL",
            election,
            f"fenced by {operator}: {why}",
        )
        await connection.execute(
            "INSERT INTO leader_epochs (election, epoch, timeline, holder_id, resigned_at, notes) "
            "VALUES ($1, $2, $3, '', clock_timestamp(), $4)",
            election,
            epoch.number,
            epoch.timeline,
            f"raised by {operator}: {why}",
        )
        await connection.execute(
            "UPDATE leadership_state SET timeline = $2, epoch = $3, holder_id = '', lock_pid = 0 WHERE election = $1",
            election,
            epoch.timeline,
            epoch.number,
        )
        await connection.execute("SELECT pg_notify($1, '')", channel(election))
    return epoch


async def _end_sessions(
    connection: Any, election: str, host: str, spared_pids: list[int], spared_names: list[str]
) -> list[str]:
    """End the candidates' sessions with this database, but for those that are spared.

    In the transaction that raises the epoch: whoever lost its session is back within milliseconds, and one that had
    already been elected anew under the next epoch would be ended for nothing. What is guarded waits for that
    transaction in any case.
    """
    rows = await connection.fetch(_END_OTHERS, session_names(election), spared_pids, spared_names)
    return [f"ended session {row['pid']} of {row['application_name']} on {host}" for row in rows if row["ended"]]


async def _on_host(service: ElectionService, host: str, work: Callable[[Any], Awaitable[None]]) -> None:
    """Do something on one host, with a deadline. Raises `Problem`."""
    import asyncpg

    from plasmacloud.postgres.sessions import SESSION_FAILURES

    url = dict(split_hosts(service.config.backend))[host]
    connection: Any = None
    try:
        async with asyncio.timeout(ACT_S):
            settings = {"application_name": "plasma-split-brain", "lock_timeout": str(round(ACT_S * 500))}
            connection = await asyncpg.connect(url, server_settings=settings)
            if not await connection.fetchval("SELECT pg_is_in_recovery()"):
                await ensure_schema(connection, service.config.election)
                await ensure_contender_schema(connection)
            await work(connection)
    except SESSION_FAILURES as error:
        reason = diagnose(error, host)
        raise Problem(BACKEND, str(reason), hint=reason.hint, outcome=Outcome.UNKNOWN) from error
    finally:
        if connection is not None:
            connection.terminate()


async def _wait_for_leader(service: ElectionService) -> tuple[str, Epoch | None]:
    """Who leads next; nobody, if that takes too long."""
    deadline_s = time.monotonic() + NEW_LEADER_S
    while time.monotonic() < deadline_s:
        known = service.leadership
        if known.leader_id:
            return known.leader_id, known.epoch
        await asyncio.sleep(_POLL_S)
    return "", None
