"""Gap mathematics and the split of an outage."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verify_handmade import MS, op, status

from plasmacloud.verify.availability import (
    Gap,
    acknowledgement_times,
    cadence_ms,
    longest_gap,
    split_outage,
    traffic,
)


def ms(*times: float) -> list[int]:
    return [round(t * MS) for t in times]


def test_only_acknowledgements_count() -> None:
    assert acknowledgement_times([op("a", 0, 3), op("b", 0, 2, "info"), op("c", 0, 1, "fail")]) == ms(3)


def test_the_gap_is_counted_from_the_last_acknowledgement_before_the_fault() -> None:
    assert longest_gap(ms(0, 8, 60, 62), 10 * MS, 100 * MS).length_ms == 52


def test_the_longest_gap_in_the_window_wins_not_the_first() -> None:
    # An answer that was already on its way arrives after the kill; the outage is behind it.
    gap = longest_gap(ms(8, 12, 400, 410), 10 * MS, 410 * MS)
    assert (gap.begin_ns, gap.end_ns) == (12 * MS, 400 * MS)


def test_a_gap_before_the_window_does_not_count() -> None:
    assert longest_gap(ms(0, 500, 502, 504, 506), 501 * MS, 505 * MS).length_ms == 2


def test_a_gap_that_reaches_out_of_the_window_counts_whole() -> None:
    assert longest_gap(ms(0, 10, 300), 5 * MS, 20 * MS).length_ms == 290


def test_no_acknowledgement_after_the_fault_is_an_open_gap() -> None:
    gap = longest_gap(ms(0, 9), 10 * MS, 5000 * MS)
    assert gap.open
    assert gap.length_ms == 4991


def test_no_acknowledgement_at_all() -> None:
    gap = longest_gap([], 10 * MS, 20 * MS)
    assert gap == Gap(10 * MS, 20 * MS, open=True)


@given(
    st.lists(st.integers(0, 200), max_size=30).map(sorted),
    st.integers(0, 200),
    st.integers(1, 100),
)
def test_longest_gap_agrees_with_looking_at_every_pair(acks: list[int], begin: int, length: int) -> None:
    end = begin + length
    before = [a for a in acks if a <= begin]
    points = [*acks] if before else [begin, *[a for a in acks if a > begin]]
    spans = [(b - a) for a, b in itertools.pairwise(points) if b > begin and a < end]
    if points and points[-1] < end:
        spans.append(end - points[-1])
    expected = max(spans, default=0)
    gap = longest_gap(acks, begin, end)
    assert gap.end_ns - gap.begin_ns == expected
    if gap.open:
        assert all(a <= gap.begin_ns for a in acks)


def test_split_of_an_election() -> None:
    statuses = [
        status("n2", 5, leader=1, term=2),
        status("n2", 20, leader=1, term=2),
        status("n3", 30, leader=0, term=2),
        status("n2", 45, leader=2, term=3),
        status("n3", 50, leader=2, term=3),
    ]
    split = split_outage(10 * MS, Gap(9 * MS, 60 * MS), 1, 2, statuses, {"n2", "n3"})
    assert (split.detect_ms, split.elect_ms, split.serve_ms) == (20, 15, 15)


def test_split_ignores_the_dead_and_what_was_asked_before_the_fault() -> None:
    statuses = [status("n1", 20, leader=0, term=2), status("n2", 30, error="timed out")]
    split = split_outage(10 * MS, Gap(9 * MS, 60 * MS), 1, 2, statuses, {"n2", "n3"})
    assert split.detect_ms is None


def test_a_gap_with_another_cause_is_not_split() -> None:
    statuses = [status("n2", 30, leader=2, term=3)]
    assert split_outage(10 * MS, Gap(900 * MS, 960 * MS), 1, 2, statuses, {"n2"}).detect_ms is None


def test_split_is_cut_at_the_first_acknowledged_write() -> None:
    statuses = [status("n2", 30, leader=0, term=2), status("n2", 80, leader=2, term=3)]
    split = split_outage(10 * MS, Gap(9 * MS, 60 * MS), 1, 2, statuses, {"n2"})
    assert (split.detect_ms, split.elect_ms, split.serve_ms) == (20, 30, 0)


@pytest.mark.parametrize(("acks", "expected"), [((), None), ((5,), None), ((5, 6, 9), 3.0), ((1, 5, 6, 90), 1.0)])
def test_cadence(acks: tuple[int, ...], expected: float | None) -> None:
    assert cadence_ms(ms(*acks), 4 * MS, 10 * MS) == expected


def test_traffic_gate_counts_within_the_window() -> None:
    gate = traffic(ms(1, 5, 6, 7, 20), 5 * MS, 7 * MS, 3)
    assert gate.acknowledged == 3
    assert gate.passed
    assert not traffic(ms(1, 5, 6, 7, 20), 5 * MS, 7 * MS, 4).passed
