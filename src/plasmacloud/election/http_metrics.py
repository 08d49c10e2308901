"""What Prometheus reads at ``/metrics``: role, epoch, quorum, and how every request ended.

Each server has a registry of its own, so that tests can run several in one process.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from plasmacloud.election.leadership import Leadership, Role
from plasmacloud.election.quorum import Health, Verdict

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FAST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series for each counter, which nobody asked for


class Metrics:
    """The numbers of one server. ``election`` and ``node`` stand on every one of them through the target's labels."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        name = "plasma_election_"
        self._role = Gauge(name + "role", "1 for the role this node has", ["role"], registry=registry)
        self._leader = Gauge(name + "is_leader", "1 while this node leads", registry=registry)
        self._epoch = Gauge(name + "epoch", "Number of the newest epoch this node knows", registry=registry)
        self._timeline = Gauge(name + "timeline", "Timeline of the newest epoch this node knows", registry=registry)
        self._lease = Gauge(name + "leadership_left_seconds", "Time until this leader gives up", registry=registry)
        self.changes = Counter(name + "leadership_changes", "Leadership won and lost", ["change"], registry=registry)
        self.leaders = Counter(
            name + "leaders_seen", "Changes of the leader that this node heard of", registry=registry
        )
        self.failovers = Counter(name + "failovers_triggered", "Ordered failovers", ["outcome"], registry=registry)
        self.keepalive_s = Histogram(
            name + "keepalive_seconds",
            "Answered keepalives of the session that holds the lock",
            registry=registry,
            buckets=_FAST_S,
        )
        self.failover_s = Histogram(
            name + "failover_seconds",
            "From the order to the new epoch",
            registry=registry,
            buckets=_FAST_S,
        )
        name = "plasma_election_quorum_"
        self._health = Gauge(name + "health", "1 for the health of the quorum", ["health"], registry=registry)
        self._write_ready = Gauge(name + "write_ready", "1 while the database takes writes", registry=registry)
        self._sync = Gauge(name + "sync_replicas", "Synchronous replicas that stream", registry=registry)
        self._lag = Gauge(name + "max_lag_bytes", "How far the last replica is behind", registry=registry)
        self.quorum_changes = Counter(name + "transitions", "Changes of health", ["to"], registry=registry)
        self.quorum_probe_s = Histogram(
            name + "probe_seconds",
            "The monitor's probes, write included",
            ["result"],
            registry=registry,
            buckets=_FAST_S,
        )
        name = "plasma_election_"
        self.probe_writes = Counter(name + "probe_writes", "Fenced probe writes", ["outcome"], registry=registry)
        self.hooks = Counter(name + "hooks", "Hooks called", ["event", "result"], registry=registry)
        self._audit_waiting = Gauge(name + "audit_waiting", "Audit entries not in the database yet", registry=registry)
        self.requests = Counter(
            name + "http_requests", "Answered requests", ["method", "path", "status"], registry=registry
        )
        self.request_s = Histogram(
            name + "http_request_seconds", "Answered requests", ["method", "path"], registry=registry, buckets=_FAST_S
        )
        for role in Role:
            self._role.labels(role.value)
        for health in Health:
            self._health.labels(health.value)

    def render(self, leadership: Leadership, verdict: Verdict, *, left_s: float, audit_waiting: int) -> bytes:
        """The text of this moment."""
        for role in Role:
            self._role.labels(role.value).set(role is leadership.role)
        for health in Health:
            self._health.labels(health.value).set(health is verdict.health)
        self._leader.set(leadership.leads)
        if leadership.epoch is not None:
            self._epoch.set(leadership.epoch.number)
            self._timeline.set(leadership.epoch.timeline)
        self._lease.set(left_s)
        self._write_ready.set(verdict.write_ready)
        self._sync.set(verdict.sync_replicas)
        self._lag.set(verdict.max_lag_bytes)
        self._audit_waiting.set(audit_waiting)
        return generate_latest(self.registry)
