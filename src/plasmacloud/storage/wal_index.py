"""Where each entry of the log is, and what its term is, in little memory.

A log can hold millions of entries behind the newest; an object for each would cost hundreds of megabytes and long
garbage collections. Per entry this keeps eight bytes (segment and offset, packed); terms are kept as runs, because a
term lasts for thousands of entries; and only the newest entries, up to a limit in bytes, stay in memory as objects,
since followers and the state machine almost always want those.

Not thread-safe on purpose: one thread owns the index (the event loop's, or the only one).
"""

from array import array
from bisect import bisect_right
from collections.abc import Sequence

from plasmacloud.storage.entry import Compacted, Entry, Unavailable

_ENTRY_OVERHEAD_BYTES = 175  # the tuple, two bytes objects' headers and the integers
_HOLE_LIMIT = 4096


def pack_location(segment: int, offset: int) -> int:
    """Segment number and byte offset as one 64-bit number."""
    assert 0 <= offset < 1 << 32
    assert 0 < segment < 1 << 32
    return segment << 32 | offset


def unpack_location(location: int) -> tuple[int, int]:
    """Segment number and byte offset."""
    return location >> 32, location & 0xFFFFFFFF


def memory_bytes(entry: Entry) -> int:
    """What an entry costs in the window: its data is there twice, alone and inside the record."""
    return 2 * len(entry.record) + _ENTRY_OVERHEAD_BYTES


class EntryWindow:
    """The newest entries as objects: a list whose dead front is cut off now and then."""

    def __init__(self, next_index: int) -> None:
        self._list: list[Entry | None] = []
        self._head = 0
        self._next = next_index
        self.size_bytes = 0

    @property
    def first_index(self) -> int:
        """Index of the oldest entry held; one past the end of the log when there is none."""
        return self._next - (len(self._list) - self._head)

    def clear(self, next_index: int) -> None:
        """Forget everything; the next entry will have this index."""
        self._list, self._head, self._next, self.size_bytes = [], 0, next_index, 0

    def extend(self, entries: Sequence[Entry], record_bytes: int) -> None:
        """Add entries that follow the last; their records have ``record_bytes`` in total."""
        assert entries[0].index == self._next
        self._list.extend(entries)
        self._next += len(entries)
        self.size_bytes += 2 * record_bytes + len(entries) * _ENTRY_OVERHEAD_BYTES

    def truncate(self, index: int) -> None:
        """Drop the entry ``index`` and all behind it."""
        if index <= self.first_index:
            self.clear(index)
            return
        keep = len(self._list) - (self._next - index)
        self.size_bytes -= sum(memory_bytes(entry) for entry in self._list[keep:] if entry is not None)
        del self._list[keep:]
        self._next = index

    def shrink(self, limit_bytes: int, last_index: int) -> None:
        """Drop the oldest entries, but none behind ``last_index``, until at most ``limit_bytes`` are held."""
        entries, head = self._list, self._head
        stop = len(entries) - max(self._next - 1 - last_index, 0)
        while head < stop and self.size_bytes > limit_bytes:
            entry = entries[head]
            assert entry is not None
            self.size_bytes -= memory_bytes(entry)
            entries[head] = None
            head += 1
        if head > _HOLE_LIMIT and head * 2 > len(entries):
            del entries[:head]
            head = 0
        self._head = head

    def get(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries of [lo, hi), as many as fit ``max_bytes`` of records, at least one."""
        assert self.first_index <= lo < hi <= self._next
        start = len(self._list) - (self._next - lo)
        found: list[Entry] = []
        for entry in self._list[start : start + hi - lo]:
            assert entry is not None
            max_bytes -= len(entry.record)
            if max_bytes < 0 and found:
                break
            found.append(entry)
        return found


class LogIndex:
    """Terms, locations and the window over the entries (base_index, last_index].

    ``located_last`` <= ``last_index``: entries behind it were handed over for writing and are not known to be durable;
    they have no location yet and are pinned in the window.
    """

    def __init__(self, base_index: int, base_term: int, window_bytes: int) -> None:
        self.base_index = base_index
        self.last_index = base_index
        self.window = EntryWindow(base_index + 1)
        self._window_bytes = window_bytes
        self._run_starts = [base_index]
        self._run_terms = [base_term]
        self._locations = array("Q")
        self._location_base = base_index + 1  # index of _locations[0]; <= base_index + 1

    @property
    def located_last(self) -> int:
        """The last index whose place on disk is known, that is: the last durable one."""
        return self._location_base + len(self._locations) - 1

    @property
    def last_term(self) -> int:
        """Term of the last entry, or of the base when the log is empty."""
        return self._run_terms[-1]

    def term(self, index: int) -> int:
        """Term of the entry; also known for ``base_index``."""
        if index > self.last_index:
            raise Unavailable(f"entry {index} is behind the end of the log, {self.last_index}")
        if index >= self._run_starts[-1]:
            return self._run_terms[-1]
        if index < self.base_index:
            raise Compacted(f"entry {index} was compacted; the log starts behind {self.base_index}")
        return self._run_terms[bisect_right(self._run_starts, index) - 1]

    def location(self, index: int) -> int:
        """Packed location of a durable entry."""
        assert self.base_index < index <= self.located_last
        return self._locations[index - self._location_base]

    def append(self, entries: Sequence[Entry], record_bytes: int) -> None:
        """Add entries whose place is not known yet; the first may cut the log. Terms never go back."""
        first = entries[0].index
        if first <= self.last_index:
            self.truncate(first)
        assert first == self.last_index + 1
        self.window.extend(entries, record_bytes)
        last_term = self._run_terms[-1]
        if entries[-1].term != last_term:
            for entry in entries:
                if entry.term != last_term:
                    last_term = entry.term
                    self._run_starts.append(entry.index)
                    self._run_terms.append(last_term)
        self.last_index = entries[-1].index

    def truncate(self, index: int) -> None:
        """Drop the entry ``index`` and all behind it."""
        assert self.base_index < index <= self.last_index
        self.last_index = index - 1
        self.window.truncate(index)
        del self._locations[max(index - self._location_base, 0) :]
        keep = bisect_right(self._run_starts, index - 1)
        del self._run_starts[keep:]
        del self._run_terms[keep:]

    def locate(self, locations: "array[int]") -> None:
        """The next entries became durable at these places. May let old entries go from the window."""
        self._locations.extend(locations)
        assert self.located_last <= self.last_index
        if self.window.size_bytes > self._window_bytes:
            self.window.shrink(self._window_bytes, self.located_last)

    def recover_entry(self, index: int, term: int, location: int) -> None:
        """Add an entry found on disk. Replay may cut below the base of the oldest segment kept.

        Such a cut, and the entries behind it up to the old base, are below the mark for which older segments were
        removed: their terms matter, their contents do not.
        """
        if index <= self.last_index:
            if index <= self.base_index:
                self.reset(index, term)
                return
            self.truncate(index)
        if term != self._run_terms[-1]:
            self._run_starts.append(index)
            self._run_terms.append(term)
        self._locations.append(location)
        self.last_index = index

    def recovered(self) -> None:
        """End of the replay: nothing is in the window yet."""
        self.window.clear(self.last_index + 1)

    def compact(self, index: int) -> None:
        """Forget the entries up to and including ``index``; only durable ones can go."""
        index = min(index, self.located_last)
        if index <= self.base_index:
            return
        term = self.term(index)
        keep = bisect_right(self._run_starts, index)
        self._run_starts[:keep] = [index]
        self._run_terms[:keep] = [term]
        self.base_index = index
        dead = index + 1 - self._location_base
        if dead > _HOLE_LIMIT and dead * 2 > len(self._locations):
            del self._locations[:dead]
            self._location_base += dead
        self.window.shrink(-1, index)

    def reset(self, index: int, term: int) -> None:
        """Forget all entries; the log continues behind ``index``."""
        self.base_index = self.last_index = index
        self._run_starts, self._run_terms = [index], [term]
        self._locations = array("Q")
        self._location_base = index + 1
        self.window.clear(index + 1)
