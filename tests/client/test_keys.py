"""Ranges of keys against the plain meaning of the words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmacloud.client.keys import FIRST_KEY, TO_THE_END, after, key_range, prefix_end


def in_range(key: bytes, start: bytes, end: bytes) -> bool:
    return key >= start and (end == TO_THE_END or key < end)


# Few different bytes, so that prefixes and neighbours are frequent.
keys = st.lists(st.sampled_from([0, 1, 0x61, 0xFE, 0xFF]), min_size=1, max_size=5).map(bytes)


@given(keys, keys)
def test_a_prefix_range_holds_exactly_the_keys_with_that_prefix(prefix: bytes, key: bytes) -> None:
    assert in_range(key, prefix, prefix_end(prefix)) == key.startswith(prefix)


@given(keys, keys)
def test_no_key_lies_between_a_key_and_the_one_after_it(key: bytes, other: bytes) -> None:
    assert key < after(key)
    assert not key < other < after(key)


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"a", b"b"), (b"a\xff", b"b"), (b"a\xfe\xff", b"a\xff"), (b"\xff\xff", TO_THE_END), (b"", TO_THE_END)],
)
def test_prefix_end_examples(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end


def test_the_ways_to_name_a_range() -> None:
    assert key_range("k") == (b"k", b"")
    assert key_range("a", range_end="c") == (b"a", b"c")
    assert key_range("a", prefix=True) == (b"a", b"b")
    assert key_range("", prefix=True) == (FIRST_KEY, TO_THE_END)
    assert key_range("m", from_key=True) == (b"m", TO_THE_END)
    assert key_range(b"", from_key=True) == (FIRST_KEY, TO_THE_END)
    with pytest.raises(ValueError, match="exclude"):
        key_range("a", prefix=True, range_end="b")
