"""The times of an election, and the one relation between them that safety rests on.

::

    keepalive  <  demote_after  <  session_timeout
    (ask)         (the leader      (the server frees
                   gives up)        the lock)

The leader counts from the moment it *sent* the last keepalive that was acknowledged; the server counts from the moment
that keepalive was done, which is later. So the leader gives up before the server gives away, unless one of the two
clocks runs faster than the other by more than the ratio of the two times. A process that was stopped between looking
at its clock and acting is beyond any timer: that is what the epoch is for.
"""

import msgspec

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.units import format_duration


class Timers(msgspec.Struct, frozen=True, kw_only=True):
    """All in seconds. Construction checks their relations and raises `ConfigError`.

    ``campaign``: ask for the lock that often; ``None``: wait for it in the server's queue. ``lock_timeout``: leave the
    queue and enter it again after that long, so that a frozen waiter does not keep its place. ``epoch_timeout``: how
    long the new epoch may take to be committed. ``connect_timeout``: for one attempt to connect, with both sessions.
    ``retry_first``, ``retry_max``: the pause after a failed attempt, doubled each time, and shortened at random.
    """

    campaign: float | None = None
    keepalive: float = 0.5
    demote_after: float = 1.0
    session_timeout: float = 1.5
    lock_timeout: float = 0.5
    epoch_timeout: float = 2.0
    connect_timeout: float = 2.0
    retry_first: float = 0.05
    retry_max: float = 0.25

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{_flag(name)} must be positive, not {value:g} s")
        self._in_order("keepalive", "demote_after", "a leader that is to hear twice from the store before it gives up")
        self._in_order("demote_after", "session_timeout", "a leader that gives up before the server frees its lock")
        self._in_order("lock_timeout", "demote_after", "a lock that is still worth something when it is granted")
        if self.campaign is not None:
            self._in_order("campaign", "demote_after", "polling that keeps its session alive")
        if self.retry_first > self.retry_max:
            raise ConfigError("the first pause before a retry must not be longer than the longest one")

    @property
    def polls(self) -> bool:
        """Whether the candidate asks now and then, in place of waiting in the queue."""
        return self.campaign is not None

    @property
    def clock_tolerance(self) -> float:
        """How much faster, as a share, the server's clock may run than the leader's before timers alone fail."""
        return self.session_timeout / self.demote_after - 1.0

    def _in_order(self, shorter: str, longer: str, gives: str) -> None:
        low, high = getattr(self, shorter), getattr(self, longer)
        if not low < high:
            raise ConfigError(
                f"{_flag(shorter)} ({format_duration(low)}) must be shorter than "
                f"{_flag(longer)} ({format_duration(high)})",
                hint=f"that makes {gives}; the defaults are keepalive 500ms, demote-after 1s, session-timeout 1500ms",
            )


def _flag(name: str) -> str:
    return name.replace("_", "-")
