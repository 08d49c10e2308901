"""What the panels of a chart have in common: the scenario, the stretch of time, and where things are."""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from plasmacloud.lab.html.scales import Linear
from plasmacloud.lab.html.source import View
from plasmacloud.lab.html.timeline import Reign, Round, Span, Window

WIDTH = 960.0
RIGHT = WIDTH - 20
LANE = 19.0
CHARACTER_PX = 6.6
"""Of the charts' type, on average and generously."""

Shown = TypeVar("Shown", Reign, Span, Window)


class Scene(msgspec.Struct, frozen=True):
    """A scenario with all that was put together about it."""

    view: View
    windows: list[Window]
    lives: dict[str, list[Span]]
    reigns: list[Reign]
    rounds: list[Round]


class Stretch(msgspec.Struct, frozen=True):
    """A part of the time axis; ``origin_ns`` is its zero. ``gap_of``: the trial whose outage is marked."""

    begin_ns: int
    end_ns: int
    origin_ns: int
    gap_of: Round | None = None

    def ms(self, at_ns: int) -> float:
        """Milliseconds since the origin."""
        return (at_ns - self.origin_ns) / 1e6


class Frame(msgspec.Struct, frozen=True):
    """Where the panels are: the common time axis, and the edges."""

    stretch: Stretch
    x: Linear
    top: float
    bottom: float

    @property
    def left(self) -> float:
        return self.x.start

    def at(self, at_ns: int) -> float:
        """The pixel of a moment."""
        return self.x(self.stretch.ms(at_ns))

    def visible(self, spans: Sequence[Shown]) -> list[Shown]:
        """Those that are not wholly outside."""
        return [s for s in spans if s.end_ns >= self.stretch.begin_ns and s.begin_ns <= self.stretch.end_ns]
