"""How much of clients' requests is handled in one turn of the event loop, over all connections together.

A loop that reads whatever has arrived is ruled by whoever sends most: with a quarter of a megabyte of small requests on
each of sixteen connections, one turn takes seconds, and timers, disk writes and the other members' frames wait behind
it. So there is a *budget* for each turn. When it is spent, connections with unhandled bytes stop being read, which TCP
and HTTP/2 pass on to their clients, and stand in line: in each of the following turns those at the head handle one
*share* (some frames) each, and go to the end of the line when they have more. A client with a thousand requests gets no
more of a turn than a client with one, and whoever is not a client is never further away than the budget.

While everything fits into the budget nobody stands in line and nothing is put off.

Pure but for what it is given: a clock, and a way to be called in the next turn.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

SHARE_FRAMES: Final = 64
"""Frames that a connection handles before others are looked at: 32 unary requests."""
BUDGET_S: Final = 0.005


class Reader(Protocol):
    """A connection that stands in line."""

    def take_turn(self) -> None:
        """Handle a share, asking `Turns.may_go_on` after it; stand in line again if something is left."""


class Turns:
    """The line of one server's connections."""

    def __init__(
        self, call_soon: Callable[[Callable[[], None]], object], clock: Callable[[], float], budget_s: float = BUDGET_S
    ) -> None:
        """``call_soon`` calls back in the next turn of the loop; ``clock`` tells seconds."""
        self._call_soon = call_soon
        self._clock = clock
        self._budget_s = budget_s
        self._line: deque[Reader] = deque()
        self._until: float | None = None  # the end of this turn's budget; None: nothing was spent of it
        self.put_off = 0
        """How often a connection had to stand in line."""
        self.number = 0
        """Turns begun with somebody in line."""

    def __len__(self) -> int:
        """Connections in line."""
        return len(self._line)

    def may_begin(self) -> bool:
        """Whether a connection may handle a share of what has just arrived; if not, it stands in line."""
        if self._line:
            return False
        if self._until is None:
            self._until = self._clock() + self._budget_s
            self._call_soon(self._turn)
            return True
        return self._clock() < self._until

    def may_go_on(self) -> bool:
        """Whether a connection that has handled its share may take another one at once."""
        return not self._line and self._until is not None and self._clock() < self._until

    def charge(self, seconds: float) -> None:
        """What was begun now will take about so long in another task: it counts as spent of this turn's budget."""
        if self._until is not None:
            self._until -= seconds

    def join(self, reader: Reader) -> None:
        """Stand at the end of the line. A connection does so once until its `take_turn`."""
        self.put_off += 1
        self._line.append(reader)
        if self._until is None:
            self._until = self._clock()
            self._call_soon(self._turn)

    def _turn(self) -> None:
        """A new turn has begun."""
        line = self._line
        if not line:
            self._until = None
            return
        self.number += 1
        self._until = self._clock() + self._budget_s
        self._call_soon(self._turn)
        while line:
            line.popleft().take_turn()
            if self._clock() >= self._until:
                break
