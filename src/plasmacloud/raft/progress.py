"""What the leader knows about one member's log, and how much it may send it.

A member is in one of three states. PROBE: its log is not known to match; one append at a time, resent at most once
per heartbeat. REPLICATE: it matches; appends are pipelined, as many as the window lets through. SNAPSHOT: it needs
entries that are compacted; nothing is sent until the shell reports how the snapshot went.

Invariant: ``0 <= match < next``. ``match`` never falls while the leader leads.
"""

from collections import deque
from enum import Enum


class ProgressState(Enum):
    """How the leader treats a member."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Inflights:
    """The appends that were sent and not yet acknowledged, limited by their number and by their bytes."""

    __slots__ = ("_max_bytes", "_max_count", "_sent", "size_bytes")

    def __init__(self, max_count: int, max_bytes: int) -> None:
        assert max_count > 0
        assert max_bytes > 0
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._sent: deque[tuple[int, int]] = deque()  # (last index, bytes) of each append, ascending
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def full(self) -> bool:
        """Whether nothing more may be sent. The last append may overshoot the byte limit."""
        return len(self._sent) >= self._max_count or self.size_bytes >= self._max_bytes

    def add(self, last_index: int, size_bytes: int) -> None:
        """Note an append that ends at ``last_index``."""
        assert not self.full
        assert not self._sent or self._sent[-1][0] < last_index
        self._sent.append((last_index, size_bytes))
        self.size_bytes += size_bytes

    def free_to(self, index: int) -> None:
        """Everything up to ``index`` arrived."""
        sent = self._sent
        while sent and sent[0][0] <= index:
            self.size_bytes -= sent.popleft()[1]
        assert self.size_bytes >= 0

    def clear(self) -> None:
        """Forget everything: the appends are lost, or no longer matter."""
        self._sent.clear()
        self.size_bytes = 0


class Progress:
    """One member, as its leader sees it."""

    __slots__ = (
        "check_due",
        "commit_sent",
        "commit_wanted",
        "heard_tick",
        "inflights",
        "match",
        "match_at_heartbeat",
        "next",
        "paused",
        "pending_snapshot",
        "read_round",
        "recent_active",
        "state",
    )

    def __init__(self, next_index: int, max_inflight_messages: int, max_inflight_bytes: int, tick: int = 0) -> None:
        assert next_index > 0
        self.match = 0
        self.next = next_index
        self.state = ProgressState.PROBE
        self.inflights = Inflights(max_inflight_messages, max_inflight_bytes)
        self.pending_snapshot = 0  # index of the snapshot on its way, in state SNAPSHOT
        self.paused = False  # in state PROBE: the probe is out, wait for its answer
        self.recent_active = False  # heard from since the last check-quorum
        self.heard_tick = tick  # when it was last heard from; at first, since when that is waited for
        self.commit_sent = 0  # highest commit index told to the member
        self.commit_wanted = 0  # somebody at the member waits for the commit of this index
        self.read_round = 0  # latest read round the member confirmed
        self.match_at_heartbeat = 0
        self.check_due = False  # nothing came back for a heartbeat interval: look whether appends were lost

    def become_probe(self, *, paused: bool = False) -> None:
        """Go back to one append at a time, from the first entry not known to match."""
        after_snapshot = self.pending_snapshot + 1 if self.state is ProgressState.SNAPSHOT else 0
        self._enter(ProgressState.PROBE)
        self.next = max(self.match + 1, after_snapshot)
        self.paused = paused
        self.commit_sent = 0

    def become_replicate(self) -> None:
        """The logs match up to ``match``: pipeline from there."""
        self._enter(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """A snapshot that ends at ``index`` is on its way."""
        assert index > self.match
        self._enter(ProgressState.SNAPSHOT)
        self.pending_snapshot = index

    def snapshot_failed(self) -> None:
        """The snapshot did not arrive: the member needs what it needed before."""
        assert self.state is ProgressState.SNAPSHOT
        self.pending_snapshot = 0

    def _enter(self, state: ProgressState) -> None:
        self.state = state
        self.pending_snapshot = 0
        self.paused = False
        self.check_due = False
        self.inflights.clear()

    def sent(self, last_index: int, size_bytes: int) -> None:
        """An append with entries up to ``last_index`` went out."""
        assert last_index >= self.next
        if self.state is ProgressState.REPLICATE:
            self.inflights.add(last_index, size_bytes)
            self.next = last_index + 1
        else:
            assert self.state is ProgressState.PROBE
            self.paused = True

    def acknowledge(self, index: int) -> bool:
        """The member's log matches up to ``index``; returns whether that is news."""
        news = index > self.match
        if news:
            self.match = index
        if self.next <= index:
            self.next = index + 1
        self.inflights.free_to(index)
        assert 0 <= self.match < self.next
        return news

    def refuse(self, index: int, hint: int) -> bool:
        """The member refused an append that follows ``index``; its log may match up to ``hint``.

        Returns whether the answer was current, and so a new attempt is due.
        """
        if index <= self.match:
            return False  # answers an append from before the acknowledgement
        if self.state is ProgressState.REPLICATE:
            if index >= self.next:
                return False
            self.become_probe()
            return True
        if self.state is not ProgressState.PROBE or index != self.next - 1:
            return False
        self.next = max(min(index, hint + 1), self.match + 1)
        self.paused = False
        assert 0 <= self.match < self.next
        return True

    def note_heartbeat(self) -> None:
        """A periodic heartbeat goes out; see whether anything moved since the last one."""
        self.check_due = self.state is ProgressState.PROBE or (
            self.match == self.match_at_heartbeat and self.match + 1 < self.next
        )
        self.match_at_heartbeat = self.match
