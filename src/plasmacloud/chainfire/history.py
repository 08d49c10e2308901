"""How much of the past is kept when nobody compacts: the changes of the last so many bytes.

Overwriting a few keys for ever makes a history without an end. In etcd that is so by default, until its space is used
up and it refuses every write. Here the leader compacts by itself: what is older than the last ``limit_bytes`` of
changes is forgotten, as if a client had asked for it. Bytes, and not revisions or hours, because what is to be bounded
is memory and disk. Clients that compact by themselves, more often than that, never notice.

Every member counts what it applies, so that a new leader knows as much as the one before. After a restart counting
begins anew: the history may then reach twice the limit, once.

Pure.
"""

from collections import deque

_MARKS = 16  # moments remembered within the limit: so much finer is the cut
RECORD_BYTES = 100
"""What a record costs beside its own bytes: its place in the index, its id and page on disk."""


class HistoryLimit:
    """Of one member. ``limit_bytes`` 0: everything is kept."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._marks: deque[tuple[int, int]] = deque()  # (bytes written, revision then), the oldest first

    def look(self, written: int, revision: int) -> int:
        """``written`` bytes of changes were applied so far, and the state is at ``revision``. To be called often.

        Returns the revision before which everything can be forgotten; 0: none.
        """
        if not self._limit:
            return 0
        marks = self._marks
        assert not marks or (written, revision) >= marks[-1]
        if not marks or written - marks[-1][0] >= self._limit // _MARKS:
            marks.append((written, revision))
        while len(marks) > 1 and marks[1][0] <= written - self._limit:
            marks.popleft()
        oldest, then = marks[0]
        return then if written - oldest >= self._limit else 0
