"""Messages as bytes: what goes in comes out, and nothing but a whole message comes out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmacloud.base.errors import PlasmaError
from plasmacloud.raft.codec import BadMessage, decode_message, encode_message
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.storage.entry import Entry, EntryKind
from plasmacloud.storage.entry_codec import make_entry

u64 = st.integers(0, 2**64 - 1)
entries = st.builds(
    make_entry,
    st.integers(1, 2**64 - 1),
    st.integers(1, 2**64 - 1),
    st.sampled_from(EntryKind),
    st.binary(max_size=50),
)
messages = st.builds(
    Message,
    type=st.sampled_from(MessageType),
    to=u64,
    sender=u64,
    term=u64,
    log_term=u64,
    index=u64,
    commit=u64,
    hint_index=u64,
    hint_term=u64,
    context=u64,
    reject=st.booleans(),
    force=st.booleans(),
    entries=st.lists(entries, max_size=4),
    data=st.binary(max_size=50),
)


@given(messages)
def test_round_trip(message: Message) -> None:
    encoded = encode_message(message)
    assert decode_message(encoded) == message
    assert decode_message(memoryview(encoded)) == message


@given(st.binary(max_size=300))
def test_garbage_is_refused_and_nothing_else_happens(garbage: bytes) -> None:
    try:
        decode_message(garbage)
    except PlasmaError:
        return
    assert encode_message(decode_message(garbage)) == garbage


@given(messages, st.data())
def test_a_damaged_message_is_refused_or_is_another_valid_one(message: Message, data: st.DataObject) -> None:
    encoded = bytearray(encode_message(message))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode_message(bytes(encoded))
    except PlasmaError:
        return
    assert encode_message(decoded) == bytes(encoded)


@given(messages, st.data())
def test_a_message_cut_short_or_followed_by_more_is_refused(message: Message, data: st.DataObject) -> None:
    encoded = encode_message(message)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    for wrong in (encoded[:cut], encoded + b"\0"):
        with pytest.raises(BadMessage):
            decode_message(wrong)


def test_entries_travel_as_the_records_that_go_to_disk() -> None:
    entry = make_entry(3, 4, EntryKind.COMMANDS, b"put")
    encoded = encode_message(Message(MessageType.APPEND, 2, 1, 3, entries=[entry]))
    assert encoded.endswith(entry.record)


def test_a_flipped_bit_in_an_entry_is_noticed() -> None:
    entry: Entry = make_entry(3, 4, EntryKind.COMMANDS, b"put")
    encoded = bytearray(encode_message(Message(MessageType.APPEND, 2, 1, 3, entries=[entry])))
    encoded[-1] ^= 1
    with pytest.raises(BadMessage, match="checksum"):
        decode_message(bytes(encoded))


ids = st.frozensets(st.integers(1, 2**64 - 1), max_size=4)


@given(ids, ids, ids, ids, st.booleans())
def test_configurations_round_trip_or_are_refused(
    a: frozenset[int], b: frozenset[int], c: frozenset[int], d: frozenset[int], auto_leave: bool
) -> None:
    conf = ConfState(a, b, c, d, auto_leave)
    try:
        conf.check()
    except PlasmaError:
        with pytest.raises(PlasmaError):
            ConfState.decode(conf.encode())
        return
    assert ConfState.decode(conf.encode()) == conf


@given(st.binary(max_size=60))
def test_garbage_is_no_configuration(garbage: bytes) -> None:
    try:
        conf = ConfState.decode(garbage)
    except PlasmaError:
        return
    assert conf.encode() == garbage
