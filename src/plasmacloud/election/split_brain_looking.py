"""The looking behind `split_brain`: every server that is known, and every database host, at the same time."""

import asyncio
from typing import Any

from plasmacloud.base.errors import PlasmaError
from plasmacloud.election.http_client import client_tls, fetch, parse_url
from plasmacloud.election.http_models import FindingAnswer, SplitBrainAnswer
from plasmacloud.election.http_problems import NOT_SUPPORTED, Problem
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.lock_key import lock_halves, lock_key
from plasmacloud.election.postgres_errors import diagnose
from plasmacloud.election.server_service import ElectionService
from plasmacloud.election.split_brain import Claim, Finding, HostView, Sight, judge, lasting, split_hosts

AGAIN_S = 0.3
ASK_S = 1.5
_HOST_SQL = """
SELECT NOT pg_is_in_recovery() AS writable,
       CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())::bigint
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint END AS timeline,
       (SELECT system_identifier::text FROM pg_control_system()) AS system_id,
       to_regclass('leadership_state') IS NOT NULL AS has_tables,
       (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
           AND classid::bigint = $1 AND objid::bigint = $2
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS locked_by
"""
_STATE_SQL = """
SELECT timeline, epoch, holder_id, lock_pid,
       (SELECT coalesce(max(epoch), 0) FROM leader_epochs WHERE election = $1) AS newest_row
FROM leadership_state WHERE election = $1
"""


async def look_around(service: ElectionService) -> tuple[Sight, list[Finding]]:
    """What is seen, and the contradictions that last. Raises `Problem` where the backend has no such thing."""
    sight = await look(service)
    first = judge(sight)
    if not first:
        return sight, []
    await asyncio.sleep(AGAIN_S)
    sight = await look(service)
    return sight, lasting(first, judge(sight))


def answer_findings(sight: Sight, findings: list[Finding], service: ElectionService) -> SplitBrainAnswer:
    """For the API."""
    hold = service.watch.hold
    held = f"by {hold.operator}: {hold.reason}" if hold else None
    return SplitBrainAnswer(bool(findings), [to_answer(each) for each in findings], list(sight.unseen), held)


def to_answer(finding: Finding) -> FindingAnswer:
    """For the API."""
    return FindingAnswer(finding.kind, finding.summary, finding.evidence)


async def look(service: ElectionService) -> Sight:
    """One look at everything; takes the longest of its deadlines at most."""
    config = service.config
    if not config.on_postgres:
        raise Problem(NOT_SUPPORTED, "the election is held in a replicated store, which has one leader by construction")
    urls = {c.url for c in service.watch.contenders if c.node_id != config.node_id and service.is_alive(c)}
    urls |= set(config.peers)
    if service.watch.presence.twin is not None:
        urls.add(service.watch.presence.twin.url)
    urls.discard(config.advertise)
    asked, hosts = await asyncio.gather(
        asyncio.gather(*(_ask(url, service) for url in sorted(urls))),
        asyncio.gather(*(_look_at(host, url, config.election) for host, url in split_hosts(config.backend))),
    )
    own = service.leadership
    mine = service.watch.presence.instance
    claims = [Claim(config.node_id, config.advertise, own.leads, own.epoch, mine)]
    others = (claim for claim in asked if isinstance(claim, Claim) and claim.instance != mine)
    claims += [claim for claim in others if claim.instance or claim.node_id != config.node_id]
    unseen = [text for text in asked if isinstance(text, str)] + [f"{h.host}: {h.problem}" for h in hosts if h.problem]
    return Sight(config.election, tuple(claims), tuple(hosts), tuple(unseen))


async def _ask(url: str, service: ElectionService) -> Claim | str:
    """What a server says of itself, or why it says nothing."""
    try:
        target = parse_url(f"{url.rstrip('/')}/v1/ha/status")
        tls = client_tls(ca=service.config.client_ca) if target.secure else None
        said = (await fetch("GET", target, timeout_s=ASK_S, tls=tls)).json()
        if said["election"] != service.config.election:
            return f"{url}: takes part in the election {said['election']!r}"
        epoch = Epoch.parse(said["epoch"]) if said["epoch"] else None
        return Claim(str(said["node_id"]), url, said["role"] == "leader", epoch, str(said.get("instance", "")))
    except PlasmaError as error:
        return str(error)
    except (KeyError, TypeError) as error:
        return f"{url}: is no election server ({error!r})"


async def _look_at(host: str, url: str, election: str) -> HostView:
    import asyncpg

    from plasmacloud.postgres.sessions import SESSION_FAILURES

    connection: Any = None
    try:
        async with asyncio.timeout(ASK_S):
            connection = await asyncpg.connect(url, server_settings={"application_name": "plasma-split-brain"})
            return await _read_host(connection, host, election)
    except SESSION_FAILURES as error:
        return HostView(host=host, problem=str(diagnose(error, host)))
    finally:
        if connection is not None:
            connection.terminate()


async def _read_host(connection: Any, host: str, election: str) -> HostView:
    halves = lock_halves(lock_key(election))
    seen = await connection.fetchrow(_HOST_SQL, halves.high, halves.low)
    locked_as = ""
    if seen["locked_by"]:
        said = "SELECT application_name FROM pg_stat_activity WHERE pid = $1"
        locked_as = await connection.fetchval(said, seen["locked_by"]) or ""
    row = await connection.fetchrow(_STATE_SQL, election) if seen["has_tables"] else None
    epoch = Epoch(row["timeline"], row["epoch"]) if row is not None and row["epoch"] else None
    return HostView(
        host=host,
        writable=seen["writable"],
        timeline=seen["timeline"],
        system_id=seen["system_id"],
        epoch=epoch,
        newest_row=row["newest_row"] if row is not None else 0,
        holder_id=row["holder_id"] if row is not None else "",
        lock_pid=row["lock_pid"] if row is not None else 0,
        locked_by=seen["locked_by"] or 0,
        locked_as=locked_as,
    )
