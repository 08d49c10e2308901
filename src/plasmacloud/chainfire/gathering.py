"""When the leader waits a moment before it makes the next entry of the log: anticipation.

An entry costs much, whatever it holds: a synced write on every member, two messages for each follower, some wake-ups.
A command in it costs little. So many commands in few entries are cheaper than the same ones in many.

Clients that have just been answered often come back at once: a pool of workers, each with its next write. A leader that
makes an entry of the few commands that arrived meanwhile, in the very turn in which it answers the others, splits the
clients into two groups that take turns from then on, with entries of half the size. So a leader of such clients answers
first, and waits until as many commands are there as have waited or were answered. Never for long: not for longer than
half of what an entry takes, than half a millisecond, or than a fifth of that without a new command.

Clients that come when they please gain nothing from that. What came back in time is measured, and a leader that mostly
waits in vain stops: entries are made at once, also while others are on their way. Now and then it tries again.

Pure: the time is an argument (seconds, monotonic).
"""

DEFAULT_LIMIT_S = 0.0005
MAX_BYTES = 128 * 1024
"""Beyond this the size of the commands is what an entry costs."""
UNTIL_ANSWERED = float("inf")
_FIRST = 0.4  # of the limit: answers need so long to reach clients, and the next requests to come
_GAP = 0.2
_SHORT = 10  # limits: an entry that takes longer waits for networks and disks, and nobody should have to wait for two
_GRAIN_S = 1e-6  # less is no wait: timers have a grain
_ENOUGH = 0.5  # of the clients that were answered, so many have come back in time
_TRY_EVERY = 16
_WEIGHT = 0.25  # of the last wait in the average


class Gathering:
    """Of one leader, in one term."""

    def __init__(self, limit_s: float) -> None:
        """``limit_s``: commands wait for no longer than this; 0: never."""
        self._limit_s = limit_s
        self._came_back = 1.0  # of those who were answered, moving average
        self._rounds = 0
        self._took_s = 0.0  # the last entry, until its commands were answered
        self._made_at = 0.0
        self._answered = 0  # how many were answered last; 0: nobody is expected
        self._waiting = 0  # how many waited then
        self._seen = 0  # how many have been seen waiting since
        self._until = 0.0
        self._latest = 0.0
        self._forget_at = 0.0

    @property
    def worthwhile(self) -> bool:
        """Whether clients come back in time, as a rule, or whether it is time to find out again."""
        if self._took_s >= self._limit_s * _SHORT:
            return False
        return self._came_back >= _ENOUGH or self._rounds % _TRY_EVERY == 0

    def made(self, now: float) -> None:
        """An entry of commands was made."""
        self._made_at = now
        self._answered = 0

    def answered(self, count: int, waiting: int, now: float) -> None:
        """So many clients have been answered, while so many others wait."""
        self._rounds += 1
        self._took_s = now - self._made_at
        self._answered, self._waiting, self._seen = count, waiting, waiting
        self._latest = now + min(self._limit_s, self._took_s / 2)
        self._forget_at = now + max(self._limit_s, self._took_s)
        self._until = min(now + self._limit_s * _FIRST, self._latest)

    def wait_s(self, waiting: int, now: float) -> float:
        """For how long at most the commands that wait should wait for others; 0: not at all."""
        if not self._answered or not self.worthwhile:
            return 0.0
        if now > self._forget_at:
            self._learn(0.0)
            return 0.0
        if waiting >= self._waiting + self._answered:
            self._learn(1.0)
            return 0.0
        if waiting != self._seen:
            self._seen = waiting
            self._until = min(now + self._limit_s * _GAP, self._latest)
        if (left_s := self._until - now) >= _GRAIN_S:
            return left_s
        self._learn(max(waiting - self._waiting, 0) / self._answered)
        return 0.0

    def _learn(self, came_back: float) -> None:
        self._came_back += (came_back - self._came_back) * _WEIGHT
        self._answered = 0
