"""Who leads, since when, and with which epoch: the words that everybody around an election shares.

An epoch is the fencing token of one leadership: every guarded write names it, and is refused once a newer one exists.
Two numbers make it up. The *number* rises by one with each leadership. The *timeline* is PostgreSQL's: a standby that
is promoted before it received the newest number hands that number out again, but on a later timeline.
"""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, Protocol, Self

import msgspec

from plasmacloud.base.errors import ConfigError


class Epoch(NamedTuple):
    """A fencing token, ordered: first by timeline, then by number. Written ``TIMELINE.NUMBER``, such as ``1.7``."""

    timeline: int
    number: int

    def __str__(self) -> str:
        return f"{self.timeline}.{self.number}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """From its text form. Raises `ConfigError` for anything else."""
        timeline, dot, number = text.partition(".")
        if not dot or not _is_digits(timeline) or not _is_digits(number):
            raise ConfigError(f"{text!r} is not an epoch", hint="an epoch is written TIMELINE.NUMBER, such as 1.7")
        return cls(int(timeline), int(number))


class Role(Enum):
    """What a node is in its election."""

    FOLLOWER = "follower"  # does not lead; waits for the lock, or for its turn to ask for it
    CANDIDATE = "candidate"  # holds the lock, and its epoch is not committed yet
    LEADER = "leader"  # holds the lock and the newest epoch
    STOPPED = "stopped"  # takes no part (any more)


class Leadership(msgspec.Struct, frozen=True, kw_only=True):
    """One node's view of its election.

    ``leader_id``: who leads as far as this node knows; empty when nobody does, or it does not know. ``epoch``: of that
    leadership. ``since``: wall-clock seconds at which this node took its present role; evidence, nothing decides on it.
    ``valid_until``: monotonic seconds until which this node may act as leader unless it hears from the store again; 0
    when it does not lead.
    """

    node_id: str
    role: Role
    leader_id: str = ""
    epoch: Epoch | None = None
    since: float = 0.0
    valid_until: float = 0.0

    @property
    def leads(self) -> bool:
        """Whether this node is the leader."""
        return self.role is Role.LEADER


OnChange = Callable[[Leadership], None]
"""Called on the event loop, at once and before anything else happens, whenever role, leader or epoch change."""

OnKeepalive = Callable[[float], None]
"""Called on the event loop with the seconds that each answered keepalive took; for counters, and must not raise."""


class Candidate(Protocol):
    """One node that contends in one election."""

    @property
    def leadership(self) -> Leadership:
        """The view of this moment: a leader whose time is over is none, even before any timer ran."""
        ...

    async def run(self) -> None:
        """Contend until `stop`. Raises `ElectionRefused` when the store can never be used as it is configured."""
        ...

    async def stop(self) -> None:
        """Resign if leading, and end `run`. May be called repeatedly; takes seconds at most, whatever hangs."""
        ...

    async def resign(self, hold_off_s: float) -> bool:
        """Give leadership up, and do not contend for ``hold_off_s`` seconds.

        Returns whether there was leadership to give up. Without it, nothing changes.
        """
        ...


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
