"""What a replica counts about its clients' requests, for the metrics."""

import msgspec

from plasmacloud.base.latency import LatencyHistogram


class Tally(msgspec.Struct):
    """Counters that only grow."""

    leaders_seen: int = 0
    commands_failed: int = 0
    """Commands that were executed and answered with an error."""
    overload_refusals: int = 0
    """Requests refused because of load, before anything was done."""
    command_times: LatencyHistogram = msgspec.field(default_factory=LatencyHistogram)
    """From arrival to execution, of the oldest command in each entry."""

    def executed(self, waited_s: float) -> None:
        """An entry was executed whose oldest command had waited for so long."""
        self.command_times.observe(max(0.0, waited_s))
