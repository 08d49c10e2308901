"""Durations and sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("200ms", 0.2), ("5s", 5), ("1.5s", 1.5), ("1h30m", 5400), ("250us", 0.00025), ("2d", 172_800), ("0s", 0)],
)
def test_a_duration_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5 s", "5s!", "1s,2s", "5sec", "nan"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_duration(text)
    assert "200ms" in (caught.value.hint or "")


@given(st.integers(0, 10**9))
def test_whole_milliseconds_survive_the_round_trip(ms: int) -> None:
    assert round(parse_duration(f"{ms}ms") * 1000) == ms


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00085, "850us"), (0.0123, "12.3ms"), (4.2, "4.20s"), (185, "3m05s"), (7325, "2h02m05s"), (-0.5, "-500.0ms")],
)
def test_durations_are_shown_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"), [("512B", 512), ("64MiB", 64 << 20), ("1.5GB", 1_500_000_000), ("2 KiB", 2048)]
)
def test_a_size_is_a_number_with_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "64", "MiB", "64Mib", "-1MiB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_size(text)


def test_sizes_are_shown_in_binary_units() -> None:
    assert [format_size(n) for n in (0, 512, 1536, 64 << 20, 3 << 30)] == [
        "0 B",
        "512 B",
        "1.5 KiB",
        "64.0 MiB",
        "3.0 GiB",
    ]
