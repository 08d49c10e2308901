"""Contradictions about who leads: a pure judge of what was seen everywhere, and the looking.

Who leads is written in three places: the servers say it of themselves, the election's row says it, and the lock's
table shows whose session holds the lock. Behind them is the database itself, of which there may be two. Where all
agree, there is one leader. `judge` names every pair that does not agree, with the evidence.

A takeover makes them disagree for some milliseconds. So what is found is looked at again a moment later, and only what
is still there counts.
"""

from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from plasmacloud.election.leadership import Epoch
from plasmacloud.election.session_names import is_candidate

Evidence = dict[str, str | int | bool | None]


class Claim(msgspec.Struct, frozen=True):
    """What one server says of itself. ``instance``: which run of it; empty when it does not say."""

    node_id: str
    url: str
    leads: bool
    epoch: Epoch | None
    instance: str = ""


class HostView(msgspec.Struct, frozen=True, kw_only=True):
    """What one database host says. ``problem``: why it says nothing.

    ``lock_pid`` is the session that the election's row names, ``locked_by`` the one that holds the lock, and
    ``locked_as`` what that session calls itself.
    """

    host: str
    problem: str = ""
    writable: bool = False
    timeline: int = 0
    system_id: str = ""
    epoch: Epoch | None = None
    newest_row: int = 0
    holder_id: str = ""
    lock_pid: int = 0
    locked_by: int = 0
    locked_as: str = ""


class Sight(msgspec.Struct, frozen=True):
    """Everything that was seen at about the same time. ``unseen``: what could not be looked at, and why."""

    election: str
    claims: tuple[Claim, ...]
    hosts: tuple[HostView, ...]
    unseen: tuple[str, ...] = ()

    @property
    def primaries(self) -> list[HostView]:
        """Hosts that take writes, the one with the latest timeline first."""
        return sorted((h for h in self.hosts if h.writable), key=lambda h: (-h.timeline, h.host))


class Finding(msgspec.Struct, frozen=True):
    """One contradiction. ``about``: what it is between; the same in two looks, it is the same finding."""

    kind: str
    about: str
    summary: str
    evidence: Evidence


def judge(sight: Sight) -> list[Finding]:
    """All contradictions in what was seen; none: there is one leader at most."""
    return [
        *_duplicate_ids(sight),
        *_two_leaders(sight),
        *_epochs_disagree(sight),
        *(finding for host in sight.primaries for finding in _lock_and_row(sight, host)),
        *_two_primaries(sight),
        *_fork(sight),
    ]


def lasting(first: list[Finding], second: list[Finding]) -> list[Finding]:
    """What was found both times, as it looked the second time."""
    before = {(finding.kind, finding.about) for finding in first}
    return [finding for finding in second if (finding.kind, finding.about) in before]


def _duplicate_ids(sight: Sight) -> list[Finding]:
    """Two runs under one name. They exclude each other as any two nodes do; but nobody can tell them apart."""
    found = []
    for node_id in sorted({claim.node_id for claim in sight.claims}):
        runs = {claim.instance: claim.url for claim in sight.claims if claim.node_id == node_id and claim.instance}
        if len(runs) > 1:
            text = f"{len(runs)} servers take part as {node_id}: give each an --id of its own"
            evidence: Evidence = {url: f"instance {instance}" for instance, url in runs.items()}
            found.append(Finding("duplicate-id", node_id, text, evidence))
    return found


def _two_leaders(sight: Sight) -> list[Finding]:
    leaders = sorted((claim for claim in sight.claims if claim.leads), key=lambda claim: claim.node_id)
    if len(leaders) < 2:
        return []
    names = ", ".join(claim.node_id for claim in leaders)
    evidence: Evidence = {f"{claim.node_id} at {claim.url}": f"leads, epoch {claim.epoch}" for claim in leaders}
    return [Finding("two-leaders", names, f"{names} say at the same time that they lead", evidence)]


def _epochs_disagree(sight: Sight) -> list[Finding]:
    found = []
    for claim in sight.claims:
        for host in sight.primaries[:1] if claim.leads else []:
            if host.epoch is not None and claim.epoch != host.epoch:
                evidence: Evidence = {claim.node_id: str(claim.epoch), host.host: str(host.epoch)}
                text = f"{claim.node_id} leads with epoch {claim.epoch}, and the database is at {host.epoch}"
                found.append(Finding("epoch-disagreement", f"{claim.node_id}/{host.host}", text, evidence))
    for host in sight.primaries:
        if host.epoch is not None and host.newest_row != host.epoch.number:
            evidence = {"leadership_state": host.epoch.number, "leader_epochs": host.newest_row}
            text = f"on {host.host} the newest row of leader_epochs is not the epoch in leadership_state"
            found.append(Finding("epoch-disagreement", f"rows/{host.host}", text, evidence))
    return found


def _lock_and_row(sight: Sight, host: HostView) -> list[Finding]:
    """The election's row names a holder; the lock must be its. A holder that is just gone contradicts nothing."""
    evidence: Evidence = {
        "host": host.host,
        "holder_id": host.holder_id,
        "lock_pid": host.lock_pid,
        "locked_by": host.locked_by or None,
        "locked_as": host.locked_as or None,
    }
    if host.locked_by and not is_candidate(host.locked_as):
        text = (
            f"on {host.host} the lock is held by {host.locked_as or 'a session without a name'}, which is no candidate"
        )
        return [Finding("lock-held-by-stranger", host.host, text, evidence)]
    if not host.holder_id or (host.locked_by and host.locked_by == host.lock_pid):
        return []
    still_claims = any(claim.leads and claim.node_id == host.holder_id for claim in sight.claims)
    if host.locked_by or still_claims:
        holds = f"{host.locked_as} does" if host.locked_by else "nobody does"
        text = f"on {host.host} leadership_state names {host.holder_id}, which does not hold the lock: {holds}"
        return [Finding("holder-without-lock", f"{host.host}/{host.holder_id}", text, evidence)]
    return []


def _two_primaries(sight: Sight) -> list[Finding]:
    primaries = sight.primaries
    if len(primaries) < 2:
        return []
    names = ", ".join(host.host for host in primaries)
    evidence: Evidence = {
        host.host: f"takes writes, timeline {host.timeline}, system {host.system_id}" for host in primaries
    }
    return [Finding("two-primaries", names, f"{names} take writes, each for itself", evidence)]


def _fork(sight: Sight) -> list[Finding]:
    """One cluster, and a primary that is not on its latest timeline: another host was promoted away from it."""
    found = []
    for host in sight.primaries:
        for other in sight.hosts:
            if other.system_id == host.system_id and other.timeline > host.timeline and not other.problem:
                evidence: Evidence = {host.host: host.timeline, other.host: other.timeline, "system": host.system_id}
                text = f"{host.host} takes writes on timeline {host.timeline}, and {other.host} is on {other.timeline}"
                found.append(Finding("timeline-fork", f"{host.host}/{other.host}", text, evidence))
    return found


def split_hosts(url: str) -> list[tuple[str, str]]:
    """(``host:port``, URL of that host alone) for every host of a backend's URL."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    kept = urlencode([(k, v) for k, v in parse_qsl(parts.query) if k != "target_session_attrs"])
    return [
        (host, urlunsplit((parts.scheme, f"{user}{at}{host}", parts.path, kept, "")))
        for host in hosts.split(",")
        if host
    ]
