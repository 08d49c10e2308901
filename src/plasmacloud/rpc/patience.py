"""How long a server waits for a peer that does not get on: silent, half gone, idle, or slow on purpose.

Every wait of a connection has an end, but none has a timer: the server looks at all its connections about once a
second and compares what it sees with what it saw before. Pure: the time is an argument (seconds, monotonic).
"""

from enum import Enum
from typing import NamedTuple

from plasmacloud.rpc.limits import Limits


class Progress(NamedTuple):
    """What one look at a connection sees. Counters only grow."""

    heard_s: float
    """When the last byte arrived."""
    consumed_bytes: int
    """Bytes received that belong to complete frames."""
    partial: bool
    """A frame has begun and is not complete."""
    block: int
    """Number of the header block that has begun and is not complete; 0: none."""
    requests: int
    streams: int
    sent_bytes: int
    """Bytes that the operating system has taken."""
    unsent_bytes: int
    """Bytes that wait for the peer: in the transport, and beyond what is allowed for in the streams' queues."""
    settled: bool
    """Our SETTINGS were acknowledged."""


class Overdue(Enum):
    """What has lasted too long."""

    SETTINGS = "SETTINGS were not acknowledged"
    FRAME = "a frame was begun and not finished"
    BLOCK = "a header block was begun and not finished"
    READER = "the peer does not read"
    SILENCE = "nothing was heard"
    """Ask with a PING."""
    PING = "a keepalive ping was not answered"
    IDLE = "no call for a long time"


class Patience:
    """What earlier looks at one connection have seen."""

    __slots__ = ("_asked_s", "_block", "_consumed", "_idle", "_limits", "_sent", "_since_s")

    def __init__(self, limits: Limits, now_s: float) -> None:
        self._limits = limits
        self._since_s = now_s
        self._consumed = (-1, now_s)
        self._block = (0, now_s)
        self._sent = (-1, now_s)
        self._idle = (-1, now_s)
        self._asked_s: float | None = None

    def look(self, seen: Progress, now_s: float) -> Overdue | None:
        """What to lose patience with now, the worst first."""
        limits = self._limits
        if not seen.settled and now_s - self._since_s >= limits.settings_timeout_s:
            return Overdue.SETTINGS
        self._consumed = _last_change(self._consumed, seen.consumed_bytes if seen.partial else -1, now_s)
        if seen.partial and now_s - self._consumed[1] >= limits.frame_timeout_s:
            return Overdue.FRAME
        self._block = _last_change(self._block, seen.block, now_s)
        if seen.block and now_s - self._block[1] >= limits.frame_timeout_s:
            return Overdue.BLOCK
        self._sent = _last_change(self._sent, seen.sent_bytes if seen.unsent_bytes else -1, now_s)
        if seen.unsent_bytes and now_s - self._sent[1] >= limits.stall_timeout_s:
            return Overdue.READER
        self._idle = _last_change(self._idle, -1 if seen.streams else seen.requests, now_s)
        if not seen.streams and now_s - self._idle[1] >= limits.idle_timeout_s:
            return Overdue.IDLE
        return self._silence(seen, now_s)

    def _silence(self, seen: Progress, now_s: float) -> Overdue | None:
        if self._asked_s is not None and seen.heard_s > self._asked_s:
            self._asked_s = None
        if self._asked_s is not None:
            return Overdue.PING if now_s - self._asked_s >= self._limits.keepalive_timeout_s else None
        if now_s - seen.heard_s < self._limits.keepalive_interval_s:
            return None
        self._asked_s = now_s
        return Overdue.SILENCE


def _last_change(known: tuple[int, float], value: int, now_s: float) -> tuple[int, float]:
    """(value, since when it has been that)"""
    return known if known[0] == value else (value, now_s)
