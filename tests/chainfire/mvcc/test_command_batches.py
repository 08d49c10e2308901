"""The data of command entries: what is encoded comes back, and garbage is recognised."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmacloud.chainfire.commands import Batch, CommandError, check_batch, decode, encode_batch
from plasmacloud.chainfire.member_commands import CommandKind

u64 = st.integers(0, (1 << 64) - 1)
commands = st.lists(st.tuples(st.sampled_from(CommandKind), st.binary(max_size=50)), max_size=5)
batches = st.lists(st.builds(Batch, u64, u64, st.integers(1, 1 << 60), commands), max_size=4)


def encode(items: list[Batch]) -> bytes:
    return b"".join(encode_batch(*item) for item in items)


@given(items=batches)
def test_batches_survive(items: list[Batch]) -> None:
    assert decode(encode(items)) == items


@given(items=batches, cut=st.integers(1, 40))
def test_a_cut_entry_is_noticed(items: list[Batch], cut: int) -> None:
    data = encode(items)
    whole = {len(encode(items[:n])) for n in range(len(items) + 1)}
    if 0 < cut <= len(data) and len(data) - cut not in whole:
        with pytest.raises(CommandError):
            decode(data[:-cut])


@given(data=st.binary(max_size=200))
def test_garbage_raises_nothing_else(data: bytes) -> None:
    try:
        found = decode(data)
    except CommandError:
        return
    assert encode(found) == data, "what is accepted means what it says"


@pytest.mark.parametrize(
    "data",
    [
        encode_batch(1, 1, 1, [(9, b"")]),
        encode_batch(1, 1, 1, [(0, b"")]),
        bytes(28),  # sequence number 0
        encode_batch(1, 1, (1 << 64) - 1, [(1, b"")]),
        encode_batch(1, 1, 1, [])[:-4] + b"\xff\xff\xff\xff",
        encode_batch(1, 1, 1, [(1, b"abc")])[:-1],
    ],
)
def test_impossible_batches(data: bytes) -> None:
    with pytest.raises(CommandError):
        decode(data)


def test_a_forwarded_batch_is_exactly_one() -> None:
    one = encode_batch(1, 2, 3, [(CommandKind.PUT, b"x")])
    check_batch(one)
    for data in (b"", one + one, one[:-1]):
        with pytest.raises(CommandError):
            check_batch(data)
