"""From values to pixels: linear time, logarithmic latency, and ticks at numbers that people would choose."""

import math

import msgspec


class Linear(msgspec.Struct, frozen=True):
    """``low``..``high`` in any unit to ``start``..``end`` in pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside are put on the edge."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, about: int) -> list[float]:
        """Round values within the range, ``about`` so many."""
        return linear_ticks(self.low, self.high, about)


class Log(msgspec.Struct, frozen=True):
    """As `Linear`, for the logarithm. ``low`` > 0; values below it are put on the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside, zero included, are put on the edge."""
        if value <= self.low:
            return self.start
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + min(1.0, share) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Powers of ten within the range; with 2 and 5 between them where there are fewer than three."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for factors in ((1,), (1, 2, 5)):
            values = [factor * 10.0**exponent for exponent in range(first, last + 1) for factor in factors]
            inside = [value for value in values if self.low <= value <= self.high * (1 + 1e-9)]
            if len(inside) >= 3:
                break
        return inside


def linear_ticks(low: float, high: float, about: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    assert about > 0
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_around(values: list[float], start: float, end: float, *, least: float, most: float) -> Log:
    """A logarithmic scale that shows all values, and at least ``least``..``most``."""
    return Log(min([least, *values]) / 1.15, max([most, *values]) * 1.15, start, end)


def duration(ms: float) -> str:
    """A duration as people say it: ``0.84 ms``, ``41.3 ms``, ``620 ms``, ``1.36 s``, ``75 s``, ``12 min``."""
    size = abs(ms)
    if size >= 600_000:
        return f"{ms / 60_000:.0f} min"
    if size >= 9_995:
        return f"{ms / 1000:.0f} s" if size >= 99_950 else f"{ms / 1000:.1f} s"
    if size >= 999.5:
        return f"{ms / 1000:.2f} s"
    if size >= 99.95:
        return f"{ms:.0f} ms"
    return f"{ms:.1f} ms" if size >= 0.995 or size == 0 else f"{ms:.2f} ms"


def tick_label(ms: float) -> str:
    """The shortest exact label of a round number of milliseconds."""
    if ms == 0:
        return "0"
    text = f"{ms / 1000:.6g} s" if abs(ms) >= 1000 else f"{ms:.6g} ms"
    return text.replace("-", "−")
