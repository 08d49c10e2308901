"""What a log counts about its writes."""

import msgspec

from plasmacloud.base.latency import LatencyHistogram


class WalMetrics(msgspec.Struct):
    """Counters of one log since it was opened; written by the flusher, read by anyone."""

    groups: int = 0
    group_bytes: int = 0
    syncs: int = 0
    sync_seconds: float = 0.0
    last_sync_s: float = 0.0
    max_sync_s: float = 0.0
    segments_opened: int = 0
    sync_times: LatencyHistogram = msgspec.field(default_factory=LatencyHistogram)

    @property
    def mean_sync_s(self) -> float:
        """Mean duration of write plus sync, in seconds."""
        return self.sync_seconds / self.syncs if self.syncs else 0.0
