"""Election timeouts that follow the network and the disk."""

from hypothesis import given
from hypothesis import strategies as st

from plasmacloud.chainfire.timing import IN_A_ROW, MAX_FACTOR, ROUND_TRIPS, ElectionTiming


def test_in_a_machine_room_nothing_is_raised() -> None:
    timing = ElectionTiming(0.3)
    assert {timing.observe(round_trip_s=0.0005, sync_s=0.002) for _ in range(100)} == {1.0}


def test_one_slow_answer_proves_nothing() -> None:
    timing = ElectionTiming(0.3)
    assert timing.observe(round_trip_s=5.0, sync_s=5.0) == 1.0
    assert timing.observe(round_trip_s=0.001, sync_s=0.001) == 1.0


def test_a_slow_disk_raises_the_timeout() -> None:
    timing = ElectionTiming(0.3)
    factor = [timing.observe(round_trip_s=0.001, sync_s=0.1) for _ in range(IN_A_ROW)][-1]
    assert factor * 0.3 >= ROUND_TRIPS * 0.101


def test_it_comes_down_again_slowly_and_completely() -> None:
    timing = ElectionTiming(0.3)
    for _ in range(IN_A_ROW):
        timing.observe(round_trip_s=0.1, sync_s=0.0)
    factors = [timing.observe(round_trip_s=0.0, sync_s=0.0) for _ in range(300)]
    assert factors[0] > 1.0
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == 1.0


def test_there_is_an_end_to_patience() -> None:
    timing = ElectionTiming(0.15)
    assert [timing.observe(round_trip_s=60.0, sync_s=60.0) for _ in range(IN_A_ROW)][-1] == MAX_FACTOR


@given(st.floats(0.05, 60), st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=IN_A_ROW, max_size=50))
def test_the_timeout_covers_what_was_measured_several_times(
    election_timeout_s: float, seen: list[tuple[float, float]]
) -> None:
    timing = ElectionTiming(election_timeout_s)
    factors = [timing.observe(round_trip_s=trip, sync_s=sync) for trip, sync in seen]
    least = min(ROUND_TRIPS * (trip + sync) for trip, sync in seen[-IN_A_ROW:])
    assert factors[-1] == MAX_FACTOR or factors[-1] * election_timeout_s >= least - 1e-6
    assert all(1.0 <= factor <= MAX_FACTOR and factor * 2 == round(factor * 2) for factor in factors)
