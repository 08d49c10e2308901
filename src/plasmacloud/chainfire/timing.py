"""How long to wait for a silent leader, given what the network and the disk are like.

The configured election timeout is right for a machine room. Where a round trip or a synced write takes a good part of
it, an election is not over before the next candidate loses patience, and elections would follow each other without
anybody being dead. So the timeout is raised to a multiple of what is measured, up to `MAX_FACTOR` times the configured
and never below it. Heartbeats stay as they are: every member measures for itself, and one may know of the slowness
before another.

What looks like a slow network is mostly a process that stood still. A ping that waited in front of a frozen member
measures how long that was frozen, and who was that slow is to be replaced, not waited for. Therefore

- every sample counts once, and only for a few seconds;
- a sample under way while *this* process stood still (it was observed too late) does not count;
- nor does one that was sent before a silence of the peer ended: on a slow network answers come late but evenly, from a
  member that stood still they come after a gap;
- what counts is the median of many samples over some seconds: a few odd ones change nothing.

Pure: measurements and the time go in, a factor comes out. All times in seconds of one monotonic clock.
"""

from collections import defaultdict, deque
from collections.abc import Iterable
from statistics import median_low

ROUND_TRIPS = 10
"""An election timeout is at least so many round trips (etcd's tuning guide)."""
SYNCS = 4
"""And so many synced writes: an election waits for two, the candidate's and then the voters'; the rest is room."""
MAX_FACTOR = 10.0
STEP = 0.5  # factors are multiples of this, so that noise changes nothing
_DECAY_PER_S = 0.95  # while less is needed: from 10 times to 1 in three quarters of a minute
_DISK_INTERVAL_S = 1.0
_MAX_STEP_S = 1.0


class Window:
    """The most recent samples of one thing. It has an opinion once there are enough of them over enough time."""

    def __init__(self, *, size: int, least: int, span_s: float, age_s: float) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=size)
        self._least = least
        self._span_s = span_s
        self._age_s = age_s

    def add(self, at: float, value: float) -> None:
        """A sample taken at that time."""
        self._samples.append((at, value))

    def median(self, now: float) -> float | None:
        """Half of the samples are no greater; None while there are too few."""
        samples = self._samples
        while samples and samples[0][0] < now - self._age_s:
            samples.popleft()
        if len(samples) < self._least or samples[-1][0] - samples[0][0] < self._span_s:
            return None
        return median_low(value for _, value in samples)


class _Peer:
    """Round trips to one member."""

    def __init__(self) -> None:
        self.window = Window(size=24, least=8, span_s=1.5, age_s=8.0)
        self.heard_at = float("-inf")
        self.silent_until = 0.0


class ElectionTiming:
    """Feed it with `round_trip`, and ask `observe` several times a second."""

    def __init__(self, election_timeout_s: float, *, keepalive_s: float, beat_s: float) -> None:
        """``keepalive_s``: how often each peer is asked for a sign of life. ``beat_s``: and `observe` called."""
        self._election_timeout_s = election_timeout_s
        self._silence_s = 2.5 * keepalive_s
        self._stall_s = 2 * beat_s + election_timeout_s / 2
        self._beat_s = beat_s
        self._fresh: list[tuple[int, float, float]] = []
        self._peers: defaultdict[int, _Peer] = defaultdict(_Peer)
        self._syncs = Window(size=12, least=5, span_s=3.0, age_s=60.0)
        self._disk: tuple[float, int, float] | None = None  # when, and the counters then
        self._observed_at: float | None = None
        self._stalled_until = 0.0
        self._wanted = 1.0
        self.factor = 1.0

    def round_trip(self, member: int, received_at: float, took_s: float) -> None:
        """A sign of life has come back. To be judged with the next `observe`, which may find that it comes too late."""
        self._fresh.append((member, received_at, took_s))

    def observe(
        self, now: float, *, others: Iterable[int], quorum: int, leader: int, syncs: int, sync_seconds: float
    ) -> float:
        """The factor by which to raise the timeouts now: 1.0 or more, in steps of `STEP`.

        ``others``: the voters but for this member, of whom it needs ``quorum`` - 1; ``leader``: 0 when unknown.
        ``syncs`` and ``sync_seconds``: the log's counters, which only grow.
        """
        elapsed_s = self._advance(now)
        self._take_trips()
        self._take_syncs(now, syncs, sync_seconds)
        need_s = ROUND_TRIPS * self._trip(now, others, quorum, leader) + SYNCS * (self._syncs.median(now) or 0.0)
        need = min(max(1.0, need_s / self._election_timeout_s), MAX_FACTOR)
        self._wanted = max(need, 1.0, self._wanted * _DECAY_PER_S**elapsed_s)
        if self._wanted > self.factor or self._wanted <= max(1.0, self.factor - 2 * STEP):
            self.factor = 1.0 - (1.0 - self._wanted) // STEP * STEP  # rounded up
        return self.factor

    def _advance(self, now: float) -> float:
        """How much time has passed, but for what this process did not live through."""
        before, self._observed_at = self._observed_at, now
        if before is None:
            self._stalled_until = now
            return 0.0
        if now - before > self._stall_s:
            self._stalled_until = now + self._beat_s  # what the other threads were waiting for is reported by then
        return min(max(now - before, 0.0), _MAX_STEP_S)

    def _take_trips(self) -> None:
        fresh, self._fresh = self._fresh, []
        for member, received_at, took_s in fresh:
            peer, sent_at = self._peers[member], received_at - took_s
            if received_at - peer.heard_at > self._silence_s:
                peer.silent_until = received_at
            peer.heard_at = received_at
            if sent_at >= max(peer.silent_until, self._stalled_until):
                peer.window.add(received_at, took_s)

    def _take_syncs(self, now: float, syncs: int, sync_seconds: float) -> None:
        if self._disk is None or self._disk[0] < self._stalled_until:
            self._disk = (now, syncs, sync_seconds)
            return
        since, syncs_then, seconds_then = self._disk
        if now - since < _DISK_INTERVAL_S:
            return
        self._disk = (now, syncs, sync_seconds)
        if syncs > syncs_then:
            self._syncs.add(now, max(0.0, sync_seconds - seconds_then) / (syncs - syncs_then))

    def _trip(self, now: float, others: Iterable[int], quorum: int, leader: int) -> float:
        """The round trip that matters: to the leader, and to as many voters as an election needs."""
        known = {member: self._peers[member].window.median(now) for member in others if member in self._peers}
        trips = sorted(trip for trip in known.values() if trip is not None)
        nearest = trips[: max(0, quorum - 1)]
        return max(known.get(leader) or 0.0, nearest[-1] if nearest else 0.0)
