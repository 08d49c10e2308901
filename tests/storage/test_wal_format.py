"""The bytes of the log: what is encoded comes back, and anything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_model import entry

from plasmacloud.storage.entry import CorruptRecord, EntryKind, HardState
from plasmacloud.storage.entry_codec import decode_entry, make_entry
from plasmacloud.storage.wal_format import (
    BLOCK_BYTES,
    GROUP_HEADER_BYTES,
    KIND_HARD_STATE,
    KIND_MARK,
    KIND_RESET,
    BadBytes,
    GroupHeader,
    Identity,
    LogMark,
    SegmentHeader,
    decode_group_header,
    decode_hard_state,
    decode_payload,
    decode_segment_header,
    encode_group_header,
    encode_hard_state,
    encode_mark,
    encode_segment_header,
    salt_seed,
)

U64 = st.integers(0, 2**64 - 1)
HEADERS = st.builds(
    SegmentHeader,
    U64,
    U64,
    st.builds(Identity, U64, U64),
    U64,
    U64,
    U64,
    U64,
    st.builds(HardState, U64, U64, U64),
    st.builds(LogMark, U64, U64, st.binary(max_size=1500)),
)


@given(HEADERS)
def test_a_segment_header_comes_back_as_it_was(header: SegmentHeader) -> None:
    raw = encode_segment_header(header)
    assert len(raw) % BLOCK_BYTES == 0
    assert len(raw) == header.padded_bytes
    assert decode_segment_header(raw) == (1, header)


def test_every_flipped_bit_of_a_segment_header_is_noticed() -> None:
    header = SegmentHeader(3, 4096, Identity(1, 2), 99, 7, 40, 2, HardState(2, 1, 39), LogMark(30, 2, b"voters"))
    raw = encode_segment_header(header)
    size_bytes = len(raw.rstrip(b"\0"))
    for bit in range(size_bytes * 8):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadBytes):
            decode_segment_header(bytes(damaged))


@given(st.integers(1, 2**64 - 1), st.integers(1, 2**64 - 1), st.sampled_from(EntryKind), st.binary(max_size=300))
def test_an_entry_record_comes_back_as_it_was(term: int, index: int, kind: EntryKind, data: bytes) -> None:
    made = make_entry(term, index, kind, data)
    assert decode_entry(b"ab" + made.record + b"cd", 2) == (made, 2 + made.size_bytes)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_record_are_refused(garbage: bytes) -> None:
    with pytest.raises(CorruptRecord):
        decode_entry(garbage)


def test_a_group_holds_entries_and_state_records_in_order() -> None:
    first, second = entry(5, 2), entry(6, 3)
    state, mark = HardState(3, 9, 5), LogMark(4, 2, b"conf")
    payload = (
        first.record
        + second.record
        + encode_mark(mark, reset=False)
        + encode_mark(mark, reset=True)
        + encode_hard_state(state)
    )
    records = decode_payload(payload, 0, GroupHeader(1, len(payload), 5))
    assert [r.kind for r in records] == [EntryKind.COMMANDS, EntryKind.COMMANDS, KIND_MARK, KIND_RESET, KIND_HARD_STATE]
    assert (records[1].term, records[1].index, records[1].offset) == (3, 6, len(first.record))
    assert (records[2].index, records[2].term, records[2].data) == (4, 2, b"conf")
    assert decode_hard_state(records[4]) == state


@pytest.mark.parametrize("change", [-1, 1])
def test_a_group_with_another_number_of_records_is_refused(change: int) -> None:
    payload = entry(1).record + entry(2).record
    with pytest.raises(BadBytes, match="records instead of"):
        decode_payload(payload, 0, GroupHeader(1, len(payload), 2 + change))


def test_a_group_header_is_valid_only_with_the_salt_of_its_segment() -> None:
    raw = encode_group_header(salt_seed(1234), 5, 17, 100, 2) + bytes(100)
    assert len(raw) == GROUP_HEADER_BYTES + 100
    assert decode_group_header(raw, 0, salt_seed(1234), 5) == GroupHeader(17, 100, 2)
    assert decode_group_header(raw, 0, salt_seed(1235), 5) is None
    assert decode_group_header(raw, 0, salt_seed(1234), 6) is None
