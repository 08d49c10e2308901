"""Distributions of few values, stated honestly.

Twenty trials have no 99th percentile worth the name. Percentiles are nearest-rank (always a value that was measured,
never an interpolation), the summary says when a percentile is merely the maximum, and `coverage` says what the
maximum of n trials does prove: with 95 % confidence at least this share of all failovers is no slower.
"""

import math
from collections.abc import Sequence

import msgspec


class Summary(msgspec.Struct, frozen=True):
    """Nearest-rank summary of a sample, in the sample's unit."""

    n: int
    minimum: float
    p50: float
    p99: float
    maximum: float
    mean: float
    p99_is_maximum: bool
    coverage: float


def nearest_rank(sample: Sequence[float], fraction: float) -> float:
    """The smallest measured value that at least ``fraction`` of the sample does not exceed."""
    assert 0.0 < fraction <= 1.0
    if not sample:
        raise ValueError("no percentile of an empty sample")
    # The small term undoes binary rounding: 0.99 * 100 is 99.00000000000001.
    rank = max(1, math.ceil(fraction * len(sample) - 1e-9))
    return sorted(sample)[rank - 1]


def trials_for(fraction: float) -> int:
    """How many values it takes before the nearest-rank percentile is not just the maximum."""
    assert 0.0 < fraction < 1.0
    return math.ceil(1 / (1 - fraction) - 1e-9)


def max_coverage(n: int, confidence: float = 0.95) -> float:
    """Share of future values that the maximum of ``n`` values bounds, with the given confidence (distribution-free)."""
    assert n > 0
    return float((1 - confidence) ** (1 / n))


def summarize(sample: Sequence[float]) -> Summary:
    """Summary of a sample of at least one value."""
    if not sample:
        raise ValueError("no summary of an empty sample")
    p50, p99 = nearest_rank(sample, 0.50), nearest_rank(sample, 0.99)
    maximum = max(sample)
    assert min(sample) <= p50 <= p99 <= maximum
    return Summary(
        n=len(sample),
        minimum=min(sample),
        p50=p50,
        p99=p99,
        maximum=maximum,
        mean=math.fsum(sample) / len(sample),
        p99_is_maximum=len(sample) < trials_for(0.99),
        coverage=max_coverage(len(sample)),
    )
