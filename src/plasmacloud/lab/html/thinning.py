"""Fewer dots that look the same, so that a report of a million operations is still a page.

First, dots that fall on one another at the resolution of the drawing are drawn once. If acknowledged ones are still too
many, the slowest and the fastest of every column stay and the rest are thinned evenly. What failed, and what nobody
knows, stays in full until it alone is too much; then it is thinned the same way, and the caption says so.
"""

from collections.abc import Sequence

import msgspec

RESOLUTION = 2.0
"""Distinct positions for each pixel."""

COLUMN_PX = 4.0
OTHERS_LIMIT = 4000


class Dot(msgspec.Struct, frozen=True, order=True):
    """One operation in a drawing. ``outcome``: ok, fail or info."""

    x: float
    y: float
    outcome: str


class Thinned(msgspec.Struct, frozen=True):
    """What is drawn. ``ok_total`` and ``others_total``: before thinning, after dots on one another were merged."""

    dots: list[Dot]
    ok_total: int
    others_total: int

    @property
    def ok_drawn(self) -> int:
        return sum(dot.outcome == "ok" for dot in self.dots)

    @property
    def others_drawn(self) -> int:
        return len(self.dots) - self.ok_drawn


def thin(dots: Sequence[Dot], limit: int, others_limit: int = OTHERS_LIMIT) -> Thinned:
    """At most about ``limit`` acknowledged dots and ``others_limit`` others. Pure, and the same for any order."""
    merged = sorted({Dot(_snap(dot.x), _snap(dot.y), dot.outcome) for dot in dots})
    ok = [dot for dot in merged if dot.outcome == "ok"]
    others = [dot for dot in merged if dot.outcome != "ok"]
    return Thinned(_bounded(ok, limit) + _bounded(others, others_limit), len(ok), len(others))


def _snap(value: float) -> float:
    return round(value * RESOLUTION) / RESOLUTION


def _bounded(dots: list[Dot], limit: int) -> list[Dot]:
    if len(dots) <= limit:
        return dots
    extremes: dict[tuple[int, str], tuple[Dot, Dot]] = {}
    for dot in dots:
        column = (int(dot.x // COLUMN_PX), dot.outcome)
        low, high = extremes.get(column, (dot, dot))
        extremes[column] = (min(low, dot, key=_height), max(high, dot, key=_height))
    kept = {dot for pair in extremes.values() for dot in pair}
    rest = [dot for dot in dots if dot not in kept]
    room = max(0, limit - len(kept))
    if room:
        stride = len(rest) / room
        kept |= {rest[int(index * stride)] for index in range(room) if int(index * stride) < len(rest)}
    return sorted(kept)


def _height(dot: Dot) -> tuple[float, float]:
    return dot.y, dot.x
