"""Availability: how long could nobody write?

The recovery time (RTO) of a fault is the longest time without an acknowledged write that overlaps the fault's window.
It is counted from the last acknowledgement before to the first one after, across all clients, so it contains
everything a user waits for: detection, election, and the service accepting writes again. Status answers of the
surviving nodes split it:

- detect: until a survivor no longer follows the dead leader (it names none, another, or a higher term);
- elect: from there until a survivor names a new leader;
- serve: from there until the first acknowledged write.

The split is as fine as the status polling was; the RTO itself is as fine as the writes were frequent.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

from plasmacloud.verify.history import Op, acknowledged
from plasmacloud.verify.observations import StatusSample

NS_PER_MS = 1e6


class Gap(msgspec.Struct, frozen=True):
    """A time without an acknowledged write. ``open``: the history ended before one came; the gap is at least this."""

    begin_ns: int
    end_ns: int
    open: bool = False

    @property
    def length_ms(self) -> float:
        return (self.end_ns - self.begin_ns) / NS_PER_MS


def acknowledgement_times(history: Iterable[Op]) -> list[int]:
    """When writes were acknowledged, ascending."""
    return sorted(op.return_ns for op in acknowledged(history))


def longest_gap(ack_ns: Sequence[int], begin_ns: int, end_ns: int) -> Gap:
    """The longest gap between neighbouring acknowledgements that overlaps [begin_ns, end_ns].

    ``ack_ns`` is ascending and covers the whole history. Before the first acknowledgement the gap begins at
    ``begin_ns``; after the last one it is open and ends at ``end_ns``.
    """
    assert begin_ns <= end_ns
    # The last acknowledgement at or before the window opens, and the first at or after it closes, bound the search.
    first = max(0, bisect_right(ack_ns, begin_ns) - 1)
    last = bisect_left(ack_ns, end_ns)
    points = list(ack_ns[first : last + 1])
    if not points or points[0] > begin_ns:
        points.insert(0, begin_ns)
    gaps = [Gap(left, right) for left, right in pairwise(points) if right > begin_ns and left < end_ns]
    if points[-1] < end_ns:
        gaps.append(Gap(points[-1], end_ns, open=True))
    if not gaps:
        return Gap(begin_ns, begin_ns)
    return max(gaps, key=lambda gap: gap.length_ms)


class Split(msgspec.Struct, frozen=True):
    """Where the time went, in milliseconds; None where no status answer showed it."""

    detect_ms: float | None
    elect_ms: float | None
    serve_ms: float | None


def split_outage(
    fault_ns: int, gap: Gap, old_leader: int, old_term: int, statuses: Iterable[StatusSample], survivors: set[str]
) -> Split:
    """Split the outage ``gap`` after a fault on leader ``old_leader`` (member id) of ``old_term``.

    A write can be acknowledged before the poll sees the new leader: later moments are cut at the end of the gap. A
    gap that began only after the loss of the leader had been noticed has another cause, and no split.
    """
    detected: int | None = None
    elected: int | None = None
    for sample in sorted(statuses, key=lambda sample: sample.at_ns):
        if sample.sent_ns < fault_ns or not sample.answered or sample.node not in survivors:
            continue
        moved_on = sample.leader != old_leader or sample.term > old_term
        if moved_on and detected is None:
            detected = sample.at_ns
        if moved_on and sample.leader not in (0, old_leader):
            elected = sample.at_ns
            break
    end = gap.end_ns
    if detected is None or gap.begin_ns > detected:
        return Split(None, None, None)
    detected = min(detected, end)
    detect_ms = (detected - fault_ns) / NS_PER_MS
    if elected is None:
        return Split(detect_ms, None, None)
    elected = min(elected, end)
    return Split(detect_ms, (elected - detected) / NS_PER_MS, (end - elected) / NS_PER_MS)


def cadence_ms(ack_ns: Sequence[int], begin_ns: int, end_ns: int) -> float | None:
    """The longest gap in undisturbed traffic within the window: what the measurement cannot resolve. None if idle."""
    inside = ack_ns[bisect_left(ack_ns, begin_ns) : bisect_right(ack_ns, end_ns)]
    if len(inside) < 2:
        return None
    return max(right - left for left, right in pairwise(inside)) / NS_PER_MS


class TrafficGate(msgspec.Struct, frozen=True):
    """Acknowledged writes in a window against the minimum without which the experiment says nothing."""

    acknowledged: int
    required: int

    @property
    def passed(self) -> bool:
        return self.acknowledged >= self.required


def traffic(ack_ns: Sequence[int], begin_ns: int, end_ns: int, required: int) -> TrafficGate:
    """Count acknowledgements within [begin_ns, end_ns]."""
    return TrafficGate(bisect_right(ack_ns, end_ns) - bisect_left(ack_ns, begin_ns), required)
