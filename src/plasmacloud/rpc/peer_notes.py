"""What the transport between members keeps in mind so that it says things once, and says them at all."""

from collections import deque

_MAX_REASONS = 256
_MAX_LIVES = 8


class OncePerReason:
    """Answers whether something is new, with a bounded memory."""

    def __init__(self) -> None:
        self._seen: dict[tuple[object, ...], None] = {}

    def is_new(self, *reason: object) -> bool:
        if reason in self._seen:
            return False
        if len(self._seen) >= _MAX_REASONS:
            del self._seen[next(iter(self._seen))]
        self._seen[reason] = None
        return True

    def forget_member(self, member_id: int) -> None:
        for reason in [r for r in self._seen if r[0] == member_id]:
            del self._seen[reason]


class Takeovers:
    """Notices two processes that take one member's place from each other, again and again.

    A restart replaces a process for good. When one that was replaced comes back, both are alive.
    """

    def __init__(self) -> None:
        self._replaced: dict[int, deque[int]] = {}
        self._told: set[int] = set()

    def replaced(self, member_id: int, old: int, new: int) -> bool:
        """Incarnation ``new`` took the place of ``old``. True when two processes are at it, once per member."""
        lives = self._replaced.setdefault(member_id, deque(maxlen=_MAX_LIVES))
        both_alive = new in lives and member_id not in self._told
        if both_alive:
            self._told.add(member_id)
        if old not in lives:
            lives.append(old)
        return both_alive
