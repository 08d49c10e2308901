"""What an election server does, without HTTP: candidate, monitor, audit, hooks and probe, put together.

The elector decides who leads. Everything here watches it, tells others, or asks it to step back.
"""

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit, urlunsplit

from plasmacloud import __version__
from plasmacloud.election.audit import Audit
from plasmacloud.election.backend import open_backend
from plasmacloud.election.contenders import Contender
from plasmacloud.election.hooks import HookEvent, HookFacts, Hooks
from plasmacloud.election.http_metrics import Metrics
from plasmacloud.election.http_models import (
    NodeAnswer,
    QuorumAnswer,
    ReadyAnswer,
    ReplicaAnswer,
    StatusAnswer,
    TransitionAnswer,
)
from plasmacloud.election.leadership import Candidate, Leadership
from plasmacloud.election.probe import PostgresProbe, Probe
from plasmacloud.election.probe_etcd import EtcdProbe
from plasmacloud.election.quorum import Change, Observation
from plasmacloud.election.quorum_etcd import EtcdWatch
from plasmacloud.election.quorum_postgres import PostgresWatch
from plasmacloud.election.quorum_watch import QuorumWatch, WatchConfig
from plasmacloud.election.server_config import ServerConfig
from plasmacloud.election.server_database import Database

RESIGN_S = 3.0
_WARM_S = 1.0
_ALIVE_INTERVALS = 5


class ElectionService:
    """One node. `run` until cancelled, or until the election refuses to go on; then `close`."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.metrics = Metrics()
        self.database = Database(config.backend, name=f"plasma-server {config.election} {config.node_id}")
        stored = self.database if config.on_postgres else None
        self.audit = Audit(stored, election=config.election, node_id=config.node_id)
        self.probe: Probe = make_probe(config, self.database)
        self.hooks = Hooks(config.hooks, timeout_s=config.hook_timeout_s, on_result=self._on_hook)
        self.candidate: Candidate = open_backend(
            config.backend,
            node_id=config.node_id,
            election=config.election,
            timers=config.timers,
            on_change=self._on_leadership,
            on_keepalive=self.metrics.keepalive_s.observe,
        )
        watch = PostgresWatch if config.on_postgres else EtcdWatch
        self.watch: QuorumWatch = watch(
            WatchConfig(
                backend=config.backend,
                election=config.election,
                node_id=config.node_id,
                advertise=config.advertise,
                limits=config.limits,
                interval_s=config.monitor_interval_s,
            ),
            leadership=lambda: self.candidate.leadership,
            on_probe=self._on_probe,
            on_change=self._on_health,
        )
        self._before = self.candidate.leadership
        self._started_s = time.monotonic()

    @property
    def leadership(self) -> Leadership:
        """As of now."""
        return self.candidate.leadership

    async def run(self) -> None:
        """Contend and watch.

        Raises `ElectionRefused` when the store can never be used as it is configured, or another server has this name.
        """
        contending = asyncio.create_task(self.candidate.run())  # first, so that the first row does not say ``stopped``
        watching = asyncio.create_task(self.watch.run())
        warming = asyncio.create_task(self._stay_warm())
        try:
            await asyncio.wait({watching, contending}, return_when=asyncio.FIRST_COMPLETED)
            if not contending.done():
                await self.candidate.stop()
                await watching
            await contending
        finally:
            for task in (watching, contending, warming):
                task.cancel()
            await asyncio.gather(watching, contending, warming, return_exceptions=True)

    async def _stay_warm(self) -> None:
        """What the first write of a leadership would have to wait for is done ahead."""
        while True:
            with contextlib.suppress(Exception):  # who cannot be ready now, is told so by the write itself
                await self.probe.warm_up()
            await asyncio.sleep(_WARM_S)

    async def resign(self) -> None:
        """Leave the election: give leadership up if we have it. Bounded."""
        async with asyncio.timeout(RESIGN_S):
            await self.candidate.stop()

    async def close(self) -> None:
        """Finish what goes on beside: hooks, audit, sessions. Bounded."""
        await self.watch.farewell()
        await self.hooks.close()
        await self.audit.close()
        await self.database.close()

    def status(self) -> StatusAnswer:
        """What this node knows."""
        leadership, verdict = self.leadership, self.watch.judge.verdict
        epoch, hold = leadership.epoch, self.watch.hold
        return StatusAnswer(
            node_id=self.config.node_id,
            role=leadership.role.value,
            leader_id=leadership.leader_id,
            epoch=str(epoch) if epoch is not None else None,
            epoch_number=epoch.number if epoch is not None else None,
            since=datetime.fromtimestamp(leadership.since, UTC) if leadership.since else None,
            quorum_health=verdict.health.value,
            write_ready=verdict.write_ready,
            backend=public_url(self.config.backend),
            election=self.config.election,
            uptime_s=round(time.monotonic() - self._started_s, 3),
            version=__version__,
            url=self.config.advertise,
            instance=self.watch.presence.instance,
            held=f"by {hold.operator}: {hold.reason}" if hold else None,
        )

    def quorum(self) -> QuorumAnswer:
        """What the monitor knows."""
        verdict, watch = self.watch.judge.verdict, self.watch
        return QuorumAnswer(
            quorum_health=verdict.health.value,
            write_ready=verdict.write_ready,
            read_ready=verdict.read_ready,
            reasons=list(verdict.reasons),
            sync_replicas=verdict.sync_replicas,
            min_sync_replicas=self.config.limits.min_sync_replicas,
            max_lag_bytes=self.config.limits.max_lag_bytes,
            replicas=[ReplicaAnswer(r.name, r.state, r.sync_state, r.lag_bytes, r.lag_ms) for r in verdict.replicas],
            checked_at=watch.checked_at,
            transitions=[TransitionAnswer(t.at, t.before.value, t.after.value, t.reason) for t in watch.transitions],
        )

    def nodes(self) -> list[NodeAnswer]:
        """Everybody who ever took part, as of the monitor's last probe."""
        return [
            NodeAnswer(c.node_id, c.url, c.role, c.epoch, self.is_alive(c), round(c.age_s, 3))
            for c in self.watch.contenders
        ]

    def is_alive(self, contender: Contender) -> bool:
        """Whether it has written its row lately."""
        return contender.alive(self._lately_s)

    def others_waiting(self) -> int:
        """How many other nodes would take leadership now."""
        own = self.config.node_id
        return sum(c.waits(self._lately_s) for c in self.watch.contenders if c.node_id != own)

    def others_alive(self) -> int:
        """How many other nodes take part."""
        return sum(self.is_alive(c) for c in self.watch.contenders if c.node_id != self.config.node_id)

    @property
    def _lately_s(self) -> float:
        return max(2.0, _ALIVE_INTERVALS * self.config.monitor_interval_s)

    def leader_url(self) -> str:
        """Where the leader listens, if that is known; else empty."""
        wanted = self.leadership.leader_id
        return next((c.url for c in self.watch.contenders if wanted and c.node_id == wanted), "")

    def leader_ready(self) -> ReadyAnswer:
        """Whether this node leads."""
        leadership = self.leadership
        known = f"{leadership.leader_id} leads" if leadership.leader_id else "nobody is known to lead"
        reasons = [] if leadership.leads else [f"this node is a {leadership.role.value}: {known}"]
        return ReadyAnswer(leadership.leads, self.config.node_id, reasons)

    def read_ready(self) -> ReadyAnswer:
        """Whether the database answers."""
        verdict = self.watch.judge.verdict
        return ReadyAnswer(verdict.read_ready, self.config.node_id, [] if verdict.read_ready else list(verdict.reasons))

    def write_ready(self) -> ReadyAnswer:
        """Whether a guarded write through this node would be accepted: it leads, and the database takes writes."""
        verdict, leader = self.watch.judge.verdict, self.leader_ready()
        reasons = leader.reasons + ([] if verdict.write_ready else list(verdict.reasons))
        return ReadyAnswer(not reasons, self.config.node_id, reasons)

    def metrics_text(self) -> bytes:
        """For Prometheus."""
        leadership = self.leadership
        left_s = max(0.0, leadership.valid_until - time.monotonic()) if leadership.leads else 0.0
        return self.metrics.render(
            leadership, self.watch.judge.verdict, left_s=left_s, audit_waiting=self.audit.waiting
        )

    def _on_leadership(self, now: Leadership) -> None:
        before, self._before = self._before, now
        if now.leader_id and now.leader_id != before.leader_id:
            self.metrics.leaders.inc()
        if now.leads == before.leads and (not now.leads or now.epoch == before.epoch):
            return
        if before.leads:
            self.metrics.changes.labels("lost").inc()
            self.hooks.fire(self._hook_facts(HookEvent.DEPOSED, before, now))
        if now.leads:
            self.metrics.changes.labels("won").inc()
            self.hooks.fire(self._hook_facts(HookEvent.ELECTED, now, now))

    def _hook_facts(self, event: HookEvent, term: Leadership, now: Leadership) -> HookFacts:
        return HookFacts(
            event=event,
            election=self.config.election,
            node=self.config.node_id,
            leader=now.leader_id,
            epoch=str(term.epoch or ""),
            epoch_number=term.epoch.number if term.epoch else 0,
            at=datetime.now(UTC).isoformat(),
        )

    def _on_hook(self, event: HookEvent, well: bool) -> None:
        self.metrics.hooks.labels(event.value, "ok" if well else "failed").inc()

    def _on_probe(self, seen: Observation, took_s: float) -> None:
        result = "refused" if seen.refusal else "silent" if seen.silence else "ok"
        self.metrics.quorum_probe_s.labels(result).observe(took_s)

    def _on_health(self, change: Change) -> None:
        self.metrics.quorum_changes.labels(change.after.value).inc()


def make_probe(config: ServerConfig, database: Database) -> Probe:
    """The probe for the backend."""
    if config.on_postgres:
        return PostgresProbe(database, config.election)
    return EtcdProbe(config.backend, config.election)


def public_url(url: str) -> str:
    """A backend's URL as anybody may see it: without password and without parameters."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, f"{user.partition(':')[0]}{at}{hosts}", parts.path, "", ""))
