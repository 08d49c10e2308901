"""How long to wait for a silent leader, given what the network and the disk are like.

The configured election timeout is right for a machine room. Where a round trip or a synced write takes a good part of
it, heartbeats arrive late without anybody being dead, and elections would follow each other for nothing. So the
timeout is raised to a multiple of what is measured several times in a row (one slow answer proves nothing), and comes
down again slowly, never below the configured. Heartbeats stay as frequent as they are: the members measure for
themselves, and one may know of the slowness before another.

Pure: measurements in, a factor out.
"""

from collections import deque

ROUND_TRIPS = 10  # an election timeout is at least so many round trips and synced writes together
MAX_FACTOR = 20.0
_STEP = 0.5  # factors are rounded up to this, so that noise changes nothing
_DECAY = 0.98  # per observation, while less is needed
IN_A_ROW = 3


class ElectionTiming:
    """Call `observe` about once a second."""

    def __init__(self, election_timeout_s: float) -> None:
        self._election_timeout_s = election_timeout_s
        self._wanted = 1.0
        self._recent: deque[float] = deque([0.0] * IN_A_ROW, maxlen=IN_A_ROW)

    def observe(self, *, round_trip_s: float, sync_s: float) -> float:
        """The factor by which to raise the timeouts now: 1.0 or more, in halves.

        ``round_trip_s``: the slowest of the present round trips to the other members. ``sync_s``: the mean duration of
        the synced writes since the last call; 0 without any.
        """
        assert round_trip_s >= 0
        assert sync_s >= 0
        self._recent.append(ROUND_TRIPS * (round_trip_s + sync_s) / self._election_timeout_s)
        self._wanted = min(max(min(self._recent), self._wanted * _DECAY, 1.0), MAX_FACTOR)
        steps = -((1.0 - self._wanted) // _STEP)
        return 1.0 + _STEP * steps
