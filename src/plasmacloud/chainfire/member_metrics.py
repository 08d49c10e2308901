"""What a member tells Prometheus. Names are etcd's where etcd measures the same, so that its dashboards show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from plasmacloud import __version__
from plasmacloud.base.metrics import latency_family
from plasmacloud.chainfire.members import format_id
from plasmacloud.chainfire.replica import Replica
from plasmacloud.rpc.server import Counters
from plasmacloud.storage.wal_metrics import WalMetrics


class MemberMetrics:
    """Reads one member at the moment of the scrape."""

    def __init__(
        self,
        replica: Replica,
        wal: WalMetrics,
        *,
        size_bytes: Callable[[], tuple[int, int]],
        totals: Callable[[], tuple[Counters, int]],
    ) -> None:
        """``size_bytes``: bytes allocated for the state, and in use. ``totals``: what the client port has done so far,
        and how many connections it has now.
        """
        self._replica = replica
        self._wal = wal
        self._size_bytes = size_bytes
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield from self._raft()
        yield from self._requests()
        yield from self._disk()
        yield from self._versions()
        yield from self._network()

    def _raft(self) -> Iterator[Metric]:
        replica, raft = self._replica, self._replica.raft
        member = replica.cluster.get(replica.member_id)
        yield _gauge("etcd_server_has_leader", "1 while a leader is known", raft.leader_id != 0)
        yield _gauge("etcd_server_is_leader", "1 while this member leads", replica.is_leader)
        yield _gauge("etcd_server_is_learner", "1 while this member has no vote", member is None or member.is_learner)
        yield _count("etcd_server_leader_changes_seen", "Leaders that this member saw come", replica.tally.leaders_seen)
        yield _count("etcd_server_proposals_committed", "Index of the last committed entry", raft.commit)
        yield _count("etcd_server_proposals_applied", "Index of the last applied entry", replica.machine.applied_index)
        yield _gauge("plasma_chainfire_raft_term", "The current term", raft.term)
        identity = GaugeMetricFamily("etcd_server_id", "This member", labels=["server_id"])
        identity.add_metric([format_id(replica.member_id)], 1)
        yield identity
        version = GaugeMetricFamily("plasma_chainfire_version", "What runs here", labels=["version"])
        version.add_metric([__version__], 1)
        yield version

    def _requests(self) -> Iterator[Metric]:
        replica = self._replica
        commands, reads = replica.pending()
        yield _gauge("etcd_server_proposals_pending", "Commands of this member's clients on the way", commands)
        yield _gauge("plasma_chainfire_reads_pending", "Reads that wait for their index", reads)
        yield _count("etcd_server_proposals_failed", "Commands answered with an error", replica.tally.commands_failed)
        yield _count(
            "plasma_chainfire_overload_refusals", "Requests refused because of load", replica.tally.overload_refusals
        )
        yield _gauge("plasma_chainfire_commands_limit", "Commands above it are refused", replica.commands_limit)
        yield latency_family(
            "plasma_chainfire_command_duration_seconds",
            "From the arrival of a command to its execution: the oldest command of each entry",
            replica.tally.command_times,
        )

    def _disk(self) -> Iterator[Metric]:
        allocated, in_use = self._size_bytes()
        yield _gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes allocated for the state", allocated)
        yield _gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the state in use", in_use)
        yield latency_family(
            "etcd_disk_wal_fsync_duration_seconds", "Writing and syncing one group", self._wal.sync_times
        )
        yield _count("etcd_disk_wal_write_bytes", "Bytes written to the log", self._wal.group_bytes)

    def _versions(self) -> Iterator[Metric]:
        """What grows with the writes until a compaction: the past versions of the keys."""
        store = self._replica.machine.store
        keys, dead = len(store.index.live), len(store.index.graves)
        yield _gauge("etcd_debugging_mvcc_current_revision", "The revision", store.revision)
        yield _gauge("etcd_debugging_mvcc_compact_revision", "What was before it is forgotten", store.compact_revision)
        yield _gauge("etcd_debugging_mvcc_keys_total", "Living keys", keys)
        past = store.records.kept_count - keys - dead
        yield _gauge("plasma_chainfire_past_versions", "Older versions of keys, kept until a compaction", past)
        yield _gauge(
            "plasma_chainfire_compacting", "1 while forgotten versions are removed", store.compaction is not None
        )

    def _network(self) -> Iterator[Metric]:
        totals, open_now = self._totals()
        yield _count("etcd_network_client_grpc_received_bytes", "From clients", totals.bytes_received)
        yield _count("etcd_network_client_grpc_sent_bytes", "To clients", totals.bytes_sent)
        yield _count("plasma_rpc_requests", "Requests that clients began", totals.requests)
        yield _count("plasma_rpc_refused", "Calls refused before they began", totals.refused)
        yield _count("plasma_rpc_shed", "Calls refused because of load, their bodies unseen", totals.shed)
        yield _count("plasma_rpc_put_off", "Times that a connection had to wait for its turn", totals.put_off)
        yield _count("plasma_rpc_relieved", "Connections closed because all together held too much", totals.relieved)
        yield _count("plasma_rpc_connections_accepted", "Connections of clients so far", totals.connections)
        yield _count("plasma_rpc_connections_refused", "Connections above the limit", totals.connections_refused)
        yield _gauge("plasma_rpc_connections", "Connections of clients now", open_now)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=float(value))


def _count(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(name, documentation, value=float(value))
