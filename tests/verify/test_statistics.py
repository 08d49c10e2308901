"""Percentiles are measured values, and small samples are called small."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmacloud.verify.statistics import max_coverage, nearest_rank, summarize, trials_for

samples = st.lists(st.floats(0, 1e6), min_size=1, max_size=250)


@pytest.mark.parametrize(
    ("sample", "fraction", "expected"),
    [([5], 0.5, 5), ([1, 2], 0.5, 1), ([3, 1, 2], 0.5, 2), (range(1, 101), 0.99, 99), (range(1, 101), 1.0, 100)],
)
def test_nearest_rank(sample: list[float], fraction: float, expected: float) -> None:
    assert nearest_rank(list(sample), fraction) == expected


@given(samples, st.floats(0.01, 1.0))
def test_a_percentile_is_a_measured_value_that_enough_values_do_not_exceed(
    sample: list[float], fraction: float
) -> None:
    value = nearest_rank(sample, fraction)
    assert value in sample
    assert sum(1 for x in sample if x <= value) >= fraction * len(sample) - 1e-6


@given(samples)
def test_summary_says_when_p99_is_the_maximum(sample: list[float]) -> None:
    summary = summarize(sample)
    assert summary.minimum <= summary.p50 <= summary.p99 <= summary.maximum
    assert summary.p99_is_maximum == (len(sample) < 100)
    if summary.p99_is_maximum:
        assert summary.p99 == summary.maximum


def test_trials_for() -> None:
    assert trials_for(0.99) == 100
    assert trials_for(0.5) == 2


def test_coverage_of_the_maximum() -> None:
    assert max_coverage(20) == pytest.approx(0.861, abs=1e-3)
    assert max_coverage(299) == pytest.approx(0.99, abs=1e-3)


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        summarize([])
