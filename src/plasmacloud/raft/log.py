"""The replica's log: what is durable, read through `StableLog`, followed by what is not yet known to be.

Entries are handed to the disk by `take_unwritten` and stay in memory until the write is reported done by `written`.
Several writes may be under way. When a new leader replaces entries whose write is still under way, the writes before
it must not count for the replaced part any more: every open write remembers how far it still vouches for the log, and
a truncation cuts that back. (An index and term alone would not do: an entry can be replaced and come back.)

Positions, in ascending order::

    applied <= applying <= min(commit, durable)          commit <= last_index
    durable <= handed <= last_index

The log also knows which of its unapplied entries change the membership. Whoever proposed one had applied every one
before it (`Raft.propose_membership`), so of several in a log **all but the last are committed**. A running replica
knows that from its leader, who told it the commit index together with the entry. A restarted one may have lost it,
because the commit index is not synced for its own sake; it is derived again from the log. Without that, a member that
restarts two configurations behind could win an election with a majority that nobody else recognises any more.

The one exception to the lazy commit index: a change of the membership is handed out for applying only when the disk
knows that it is committed (``hardened``). So no member ever falls back behind a configuration that it once had in
force, and asks for the votes of members which have left since, and whose machines may be gone.
"""

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from plasmacloud.raft.errors import StateLost
from plasmacloud.storage.entry import Compacted, Entry, EntryKind, Unavailable

_SCAN_BYTES = 4 * 1024 * 1024


class StableLog(Protocol):
    """Read-only view of the durable log; the write-ahead log implements it, and in tests a list does.

    It may already show entries whose write is still under way: what is durable is decided by the order of `written`.
    """

    def first_index(self) -> int:
        """The first index available, which is the snapshot's index + 1."""

    def last_index(self) -> int:
        """The last index available; ``first_index() - 1`` if there is none."""

    def term(self, index: int) -> int:
        """The term of an entry, also of the one before the first; only called within these bounds."""

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries ``[lo, hi)``, at least one, at most ``max_bytes`` unless the first alone is larger."""


class Write:
    """One write under way: it vouches for the log up to ``upto``."""

    __slots__ = ("snapshot_index", "upto")

    def __init__(self, upto: int, snapshot_index: int) -> None:
        self.upto = upto
        self.snapshot_index = snapshot_index


class RaftLog:
    """Terms and entries by index, and how far they are written, committed and applied."""

    def __init__(self, stable: StableLog, *, commit: int, applied: int) -> None:
        last = stable.last_index()
        if not stable.first_index() - 1 <= applied <= last:
            raise StateLost(
                f"the applied state ends at entry {applied}, but the log holds {stable.first_index()} to {last}",
                hint="restore this member from a snapshot, or remove it and add it again with an empty directory",
            )
        self._stable = stable
        self._tail: list[Entry] = []  # not known to be durable; the first has index _offset
        self._offset = last + 1
        self._handed = last
        self._writes: deque[Write] = deque()
        self._snapshot: tuple[int, int] | None = None  # (index, term) of a snapshot that is not yet durable
        self.last_index = last
        self._run_term = stable.term(last)  # the entries _run_start..last_index are all of this term
        self._run_start = last
        self.memberships: deque[int] = deque()  # the unapplied entries that change the membership, ascending
        self._scan(applied + 1)
        known = self.memberships[-2] if len(self.memberships) > 1 else 0
        self.commit = min(max(commit, applied, known), last)
        self.applied = applied
        self._applying = applied

    def _scan(self, start: int) -> None:
        """Find the membership entries of the durable log from ``start`` on."""
        while start <= self.last_index:
            entries = self._stable.entries(start, self.last_index + 1, _SCAN_BYTES)
            self.memberships.extend(entry.index for entry in entries if entry.kind is EntryKind.MEMBERSHIP)
            start = entries[-1].index + 1

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """The first index not covered by a snapshot."""
        return self._snapshot[0] + 1 if self._snapshot else self._stable.first_index()

    @property
    def durable(self) -> int:
        """The last index that is certainly on disk."""
        return self._offset - 1

    @property
    def is_durable(self) -> bool:
        """Whether all of it is on disk: no entry and no snapshot is still being written."""
        return self._snapshot is None and self.durable == self.last_index

    @property
    def last_term(self) -> int:
        """The term of the last entry."""
        return self._run_term

    def term(self, index: int) -> int:
        """The term of an entry. Raises `Compacted` or `Unavailable`."""
        if index >= self._run_start:
            if index > self.last_index:
                raise Unavailable(f"entry {index} is behind the end of the log, {self.last_index}")
            return self._run_term
        return self._stored_term(index)

    def _stored_term(self, index: int) -> int:
        if index >= self._offset:
            return self._tail[index - self._offset].term
        if self._snapshot is not None:
            if index == self._snapshot[0]:
                return self._snapshot[1]
            raise Compacted(f"entry {index} was compacted")
        if index < self._stable.first_index() - 1:
            raise Compacted(f"entry {index} was compacted")
        return self._stable.term(index)

    def matches(self, index: int, term: int) -> bool:
        """Whether the log has that entry. A compacted one does not match: nobody can tell."""
        if index > self.last_index or index < self.first_index - 1:
            return False
        return self.term(index) == term

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries ``[lo, hi)``, at least one; at most ``max_bytes`` unless the first is larger. Raises `Compacted`."""
        assert lo < hi <= self.last_index + 1
        if lo < self.first_index:
            raise Compacted(f"entry {lo} was compacted")
        result: list[Entry] = []
        offset = self._offset
        if lo < offset:
            result = self._stable.entries(lo, min(hi, offset), max_bytes)
            lo = result[-1].index + 1
            if lo < offset or lo == hi:
                return result
            max_bytes -= sum([len(entry.record) for entry in result])
        for entry in self._tail[lo - offset : hi - offset]:
            max_bytes -= len(entry.record)
            if max_bytes < 0 and result:
                break
            result.append(entry)
        return result

    def is_up_to_date(self, index: int, term: int) -> bool:
        """Whether a log that ends so is at least as complete as this one (Raft §5.4.1)."""
        return term > self._run_term or (term == self._run_term and index >= self.last_index)

    def last_not_above(self, index: int, term: int) -> tuple[int, int]:
        """The last entry at or before ``index`` whose term is at most ``term``: (its index, its term).

        Two logs cannot match beyond it, so whole terms are skipped while a leader looks for the common prefix. Term 0
        means that the search ended at compacted entries.
        """
        index = min(index, self.last_index)
        first = self.first_index
        while index >= first - 1:
            found = self.term(index)
            if found <= term:
                return index, found
            index -= 1
        return max(index, 0), 0

    # -- growing ---------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        """Append entries, replacing what conflicts. They follow one another and the entry before the first."""
        first = entries[0]
        if first.index <= self.last_index:
            self._truncate(first.index)
        assert first.index == self.last_index + 1
        self._tail.extend(entries)
        for entry in entries:
            if entry.kind is EntryKind.MEMBERSHIP:
                self.memberships.append(entry.index)
        last = entries[-1]
        self.last_index = last.index
        if last.term != self._run_term:
            assert last.term > self._run_term
            self._run_term = last.term
            self._run_start = next(entry.index for entry in entries if entry.term == last.term)

    def _truncate(self, index: int) -> None:
        """Drop the entries from ``index`` on."""
        assert index > self.commit, "a committed entry would be replaced"
        if index < self._offset:
            self._tail.clear()
            self._offset = index
        else:
            del self._tail[index - self._offset :]
        for write in self._writes:
            write.upto = min(write.upto, index - 1)
        while self.memberships and self.memberships[-1] >= index:
            self.memberships.pop()
        self._handed = min(self._handed, index - 1)
        self.last_index = index - 1
        if self._run_start > self.last_index:
            self._run_term = self._stored_term(self.last_index)
            self._run_start = self.last_index
        assert self.durable <= self._handed <= self.last_index

    def first_new(self, entries: Sequence[Entry]) -> int:
        """Position of the first of ``entries`` that the log lacks or contradicts; their number if there is none."""
        if entries and entries[0].index > self.last_index:
            return 0
        for position, entry in enumerate(entries):
            if entry.index > self.last_index or self.term(entry.index) != entry.term:
                return position
        return len(entries)

    # -- writing ---------------------------------------------------------------------------------------------------

    @property
    def has_unwritten(self) -> bool:
        """Whether there are entries (or a snapshot) that the disk was not given."""
        return self._handed < self.last_index

    def take_unwritten(self) -> list[Entry]:
        """The entries that the disk was not yet given."""
        entries = self._tail[self._handed + 1 - self._offset :]
        self._handed = self.last_index
        return entries

    def open_write(self) -> None:
        """A write was handed out, which makes everything up to here durable once it is done."""
        self._writes.append(Write(self._handed, self._snapshot[0] if self._snapshot else 0))

    def written(self) -> None:
        """The oldest write under way is done."""
        write = self._writes.popleft()
        snapshot = self._snapshot
        if snapshot is not None:
            if write.snapshot_index != snapshot[0]:
                return  # a write to the log which the snapshot replaces
            assert self._stable.first_index() == snapshot[0] + 1, "the snapshot was not stored"
            self._snapshot = None
        done = write.upto + 1 - self._offset
        if done > 0:
            assert self._stable.last_index() >= write.upto, "the write is not in the stable log"
            del self._tail[:done]
            self._offset = write.upto + 1

    # -- committing and applying -----------------------------------------------------------------------------------

    def commit_to(self, index: int) -> bool:
        """Raise the commit index; returns whether it moved. It never falls."""
        if index <= self.commit:
            return False
        assert index <= self.last_index, "commit beyond the end of the log"
        self.commit = index
        return True

    def has_committed(self, hardened: int) -> bool:
        """Whether there are durable, committed entries that were not handed out for applying."""
        applying = self._applying
        if applying >= self.commit or applying >= self.durable:
            return False
        return not self.memberships or applying < self._appliable(hardened)

    def _appliable(self, hardened: int) -> int:
        upto = min(self.commit, self.durable)
        for index in self.memberships:
            if index > hardened:
                return min(upto, index - 1)
        return upto

    def needs_hardening(self, hardened: int) -> bool:
        """Whether a change of the membership waits for a durable commit index beyond ``hardened``."""
        upto = min(self.commit, self.durable)
        return any(hardened < index <= upto for index in self.memberships)

    def take_committed(self, max_bytes: int, hardened: int) -> list[Entry]:
        """The next entries to apply. All of them are durable here; of those that change the membership, the disk also
        knows that they are committed.
        """
        if not self.has_committed(hardened):
            return []
        hi = self._appliable(hardened) + 1
        entries = self._stable.entries(self._applying + 1, hi, max_bytes)
        assert entries[0].index == self._applying + 1
        self._applying = entries[-1].index
        return entries

    def applied_to(self, index: int) -> None:
        """The state machine has applied everything up to ``index``."""
        assert self.applied <= index <= self._applying
        self.applied = index
        while self.memberships and self.memberships[0] <= index:
            self.memberships.popleft()

    @property
    def has_unapplied_membership(self) -> bool:
        """Whether a change of the membership is known to be committed and not yet in force here."""
        return bool(self.memberships) and self.memberships[0] <= self.commit

    # -- snapshots -------------------------------------------------------------------------------------------------

    def restore(self, index: int, term: int) -> None:
        """Start over behind a snapshot: the log is empty and everything up to ``index`` is committed and applied."""
        assert index > self.commit
        self._tail.clear()
        self.memberships.clear()
        self._offset = index + 1
        self._handed = index
        self._snapshot = (index, term)
        self.last_index = self._run_start = index
        self._run_term = term
        self.commit = self.applied = self._applying = index
