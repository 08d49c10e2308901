"""The member protocol as bytes: layouts, the table of allowed frames, every reason to refuse a caller, garbage."""

import itertools
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmacloud.base.errors import PlasmaError
from plasmacloud.rpc.peer_frames import MAGIC, Expected, FrameParser, FrameType, PeerProtocolError
from plasmacloud.rpc.peer_wire import (
    DIALER_GREETING,
    DIALER_OPEN,
    LISTENER_GREETING,
    MAX_EARLIER,
    MAX_GREETING_BYTES,
    MAX_REASON_BYTES,
    Hello,
    Identity,
    PeerClaim,
    Refusal,
    RefusalCode,
    Welcome,
    decode_hello,
    decode_refusal,
    decode_stamp,
    decode_welcome,
    encode_frame,
    encode_hello,
    encode_refusal,
    encode_stamp,
    encode_welcome,
    listener_open,
)

OPEN = listener_open(1000)
TABLES = [LISTENER_GREETING, DIALER_GREETING, DIALER_OPEN, OPEN]
US = Identity(
    cluster_id=0xC1,
    member_id=0xA,
    incarnation=77,
    version_min=2,
    version_max=4,
    name="n1",
    birth=0xF0,
    earlier=(76,),
)
U64 = st.integers(0, 2**64 - 1)


def parse(expected: Expected, data: bytes, *, magic: bool = False) -> list[tuple[int, bytes]]:
    return list(FrameParser(expected, magic=magic).feed(data))


def hello(**changes: object) -> Hello:
    fields: dict[str, object] = {
        "version_min": 1,
        "version_max": 3,
        "cluster_id": 0xC1,
        "member_id": 0xB,
        "incarnation": 5,
        "receiver_id": 0xA,
        "name": "n2",
        "birth": 0xF1,
        "earlier": (4, 3),
    }
    return Hello(**(fields | changes))  # type: ignore[arg-type]


def test_hello_bytes_never_change() -> None:
    """Two versions of the program must always be able to read each other's greeting."""
    assert encode_hello(hello()) == bytes.fromhex(
        "89504c41534d410a"  # magic
        "40000000 01"  # 64 bytes, HELLO
        "0100 0300"  # versions 1 to 3
        "c100000000000000 0b00000000000000 0500000000000000 0a00000000000000"  # cluster, member, incarnation, receiver
        "02 6e32"  # name
        "f100000000000000 02 0400000000000000 0300000000000000"  # behind what version 1 had: birth, the lives before
    )


def test_the_address_follows_what_was_there_before_and_is_left_out_where_there_is_no_room() -> None:
    plain, with_address = encode_hello(hello()), encode_hello(hello(address="h:1"))
    assert with_address[len(MAGIC) + 5 :] == plain[len(MAGIC) + 5 :] + b"\x03h:1"
    crowded = hello(name="n" * 255, earlier=tuple(range(MAX_EARLIER, 0, -1)), address="h" * 200 + ":1")
    ((_, payload),) = parse(LISTENER_GREETING, encode_hello(crowded), magic=True)
    assert len(payload) <= MAX_GREETING_BYTES
    assert decode_hello(payload) == msgspec.structs.replace(crowded, address="")
    assert decode_hello(payload + b"\x05h:1").address == "", "cut short"


def test_answer_bytes_never_change() -> None:
    assert encode_welcome(Welcome(3, 0xC1, 0xA, 77, 0xF0, (76,))) == bytes.fromhex(
        "2b000000 02 0300 c100000000000000 0a00000000000000 4d00000000000000 f000000000000000 01 4c00000000000000"
    )
    assert encode_refusal(Refusal(RefusalCode.CLUSTER, "no")) == bytes.fromhex("03000000 03 02 6e6f")


def test_data_and_pings_come_out_as_they_went_in() -> None:
    stream = encode_frame(FrameType.DATA, b"") + encode_stamp(FrameType.PING, 9) + encode_frame(FrameType.DATA, b"xyz")
    frames = parse(OPEN, stream)
    assert frames == [(FrameType.DATA, b""), (FrameType.PING, struct.pack("<Q", 9)), (FrameType.DATA, b"xyz")]
    assert decode_stamp(frames[1][1]) == 9


@given(
    st.builds(
        Hello,
        st.integers(1, 5),
        st.integers(5, 9),
        U64,
        U64,
        U64,
        U64,
        st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=60),
        U64,
        st.lists(U64, max_size=MAX_EARLIER).map(tuple),
        st.sampled_from(["", "10.0.0.1:2380", "[::1]:2380"]),
    )
)
def test_hello_round_trip(original: Hello) -> None:
    ((kind, payload),) = parse(LISTENER_GREETING, encode_hello(original), magic=True)
    assert kind == FrameType.HELLO
    assert decode_hello(payload) == original
    assert decode_hello(payload + b"a field of a later version") == original


def test_texts_of_strangers_are_clipped_and_printable() -> None:
    frame = encode_refusal(Refusal(RefusalCode.SENDER, "é" * 2000))
    ((_, payload),) = parse(DIALER_GREETING, frame)
    assert decode_refusal(payload) == Refusal(RefusalCode.SENDER, "é" * (MAX_REASON_BYTES // 2))
    assert decode_refusal(b"\xfaa\x1b[2J\nb") == Refusal(RefusalCode.OTHER, "a?[2J?b")


@pytest.mark.parametrize(
    ("expected", "frame", "why"),
    [
        (LISTENER_GREETING, encode_frame(FrameType.DATA, b"x"), "DATA frame where none is allowed"),
        (OPEN, encode_frame(FrameType.HELLO, bytes(40)), "HELLO frame where none is allowed"),
        (OPEN, encode_frame(FrameType.PONG, bytes(8)), "PONG frame where none is allowed"),
        (DIALER_OPEN, encode_frame(FrameType.DATA, b"x"), "DATA frame where none is allowed"),
        (OPEN, encode_frame(FrameType.DATA, bytes(1001)), "DATA frame of 1001 bytes, allowed are 0 to 1000"),
        (OPEN, encode_frame(FrameType.PING, bytes(7)), "PING frame of 7 bytes"),
        (OPEN, struct.pack("<IB", 0, 99), "unknown type 99"),
        (OPEN, struct.pack("<IB", 2**32 - 1, FrameType.DATA), "DATA frame of 4294967295 bytes"),
    ],
)
def test_a_wrong_header_is_refused_before_its_payload_arrives(expected: Expected, frame: bytes, why: str) -> None:
    parser = FrameParser(expected, magic=False)
    with pytest.raises(PeerProtocolError, match=why):
        list(parser.feed(frame[:5]))
    with pytest.raises(PeerProtocolError, match=why):
        list(parser.feed(b""))
    assert parser.buffered_bytes == 0


@pytest.mark.parametrize("greeting", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"\x89PNG", b"P"])
def test_another_protocol_is_noticed_at_its_first_wrong_byte(greeting: bytes) -> None:
    with pytest.raises(PeerProtocolError, match="not a member's greeting"):
        parse(LISTENER_GREETING, greeting, magic=True)


def test_frames_before_the_garbage_are_delivered() -> None:
    parser = FrameParser(OPEN, magic=False)
    frames = parser.feed(encode_frame(FrameType.DATA, b"good") + b"\xff" * 10)
    assert next(frames) == (FrameType.DATA, b"good")
    with pytest.raises(PeerProtocolError):
        next(frames)


def test_the_table_may_change_between_two_frames_of_one_read() -> None:
    parser = FrameParser(LISTENER_GREETING, magic=True)
    seen = []
    for kind, _ in parser.feed(encode_hello(hello()) + encode_frame(FrameType.DATA, b"x")):
        seen.append(kind)
        parser.expected = OPEN
    assert seen == [FrameType.HELLO, FrameType.DATA]


def chunks_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def feed_all(expected: Expected, chunks: list[bytes], *, magic: bool) -> tuple[list[tuple[int, bytes]], str | None]:
    """Frames, and the words of the refusal if there was one. Checks the memory bound on the way."""
    parser = FrameParser(expected, magic=magic)
    most = 5 + max(longest for _, longest in expected.values())
    frames: list[tuple[int, bytes]] = []
    for chunk in chunks:
        try:
            frames.extend(parser.feed(chunk))
        except PlasmaError as error:
            return frames, str(error)
        assert parser.buffered_bytes < most
    return frames, None


@given(
    st.sampled_from(TABLES),
    st.booleans(),
    st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.one_of(
                st.binary(max_size=60).map(lambda p: encode_frame(FrameType.DATA, p)),
                st.integers(0, 2**64 - 1).map(lambda n: encode_stamp(FrameType.PING, n)),
                st.sampled_from([MAGIC, encode_hello(hello()), encode_welcome(Welcome(1, 2, 3, 4))]),
                st.binary(max_size=8),
            ),
            max_size=8,
        ).map(b"".join),
    ),
    st.lists(st.integers(0, 10_000), max_size=12),
)
def test_any_bytes_in_any_slicing_give_the_same_frames_and_the_same_refusal(
    expected: Expected, magic: bool, data: bytes, cuts: list[int]
) -> None:
    whole = feed_all(expected, [data], magic=magic)
    assert feed_all(expected, chunks_of(data, cuts), magic=magic) == whole
    assert feed_all(expected, [data[i : i + 1] for i in range(len(data))], magic=magic) == whole
    for kind, payload in whole[0]:
        shortest, longest = expected[kind]
        assert shortest <= len(payload) <= longest


@given(st.lists(st.binary(max_size=1000), max_size=10), st.lists(st.integers(0, 10_000), max_size=12))
def test_frames_survive_any_slicing(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(encode_frame(FrameType.DATA, p) for p in payloads)
    frames, refusal = feed_all(OPEN, chunks_of(stream, cuts), magic=False)
    assert refusal is None
    assert frames == [(FrameType.DATA, p) for p in payloads]


@given(st.binary(max_size=80))
def test_any_payload_decodes_or_is_refused(payload: bytes) -> None:
    for decode in (decode_hello, decode_welcome, decode_refusal):
        try:
            decode(payload)
        except PeerProtocolError:
            pass


def test_a_caller_of_our_cluster_is_welcome_in_the_highest_common_version() -> None:
    assert US.judge_hello(hello(version_min=1, version_max=3)) == Welcome(3, 0xC1, 0xA, 77, 0xF0, (76,))
    assert US.judge_hello(hello(version_min=4, version_max=9)) == Welcome(4, 0xC1, 0xA, 77, 0xF0, (76,))


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"version_min": 5, "version_max": 6}, RefusalCode.VERSION, "versions 2 to 4 .* the caller speaks 5 to 6"),
        ({"version_min": 1, "version_max": 1}, RefusalCode.VERSION, "the caller speaks 1 to 1"),
        ({"cluster_id": 0xC2}, RefusalCode.CLUSTER, "cluster 0+c1, the caller belongs to cluster 0+c2"),
        ({"receiver_id": 0xD}, RefusalCode.RECEIVER, "member 0+a, the caller looked for member 0+d"),
        ({"member_id": 0xA}, RefusalCode.SENDER, "calls itself member 0+a"),
        ({"member_id": 0}, RefusalCode.SENDER, "calls itself member 0+"),
    ],
)
def test_reasons_to_refuse_a_caller(changes: dict[str, object], code: RefusalCode, words: str) -> None:
    verdict = US.judge_hello(hello(**changes))
    assert isinstance(verdict, Refusal)
    assert verdict.code == code
    with pytest.raises(PeerProtocolError, match=words):
        raise PeerProtocolError(verdict.reason)


def test_a_greeting_of_the_first_version_is_understood_well_enough_to_be_refused() -> None:
    """It ends with the name."""
    old = encode_hello(hello(version_min=1, version_max=1))[13:-25]
    verdict = US.judge_hello(decode_hello(old))
    assert isinstance(verdict, Refusal)
    assert verdict.code == RefusalCode.VERSION
    assert (decode_hello(old).birth, decode_hello(old).earlier) == (0, ())
    assert decode_welcome(encode_welcome(Welcome(1, 2, 3, 4))[5:-9]) == Welcome(1, 2, 3, 4)


def test_a_greeting_of_this_version_must_say_which_life_it_is() -> None:
    with pytest.raises(PeerProtocolError, match="HELLO is cut short"):
        decode_hello(encode_hello(hello())[13:-1])
    with pytest.raises(PeerProtocolError, match="WELCOME is cut short"):
        decode_welcome(encode_welcome(Welcome(2, 2, 3, 4))[5:-1])


def test_a_greeting_carries_the_claim_that_is_judged() -> None:
    assert hello().claim == PeerClaim(member_id=0xB, birth=0xF1, incarnation=5, earlier=(4, 3))
    assert Welcome(2, 1, 0xA, 77, 0xF0, (76,)).claim == PeerClaim(0xA, 0xF0, 77, (76,))
    assert US.hello_to(0xB).claim == PeerClaim(0xA, 0xF0, 77, (76,))


def test_the_longest_greeting_fits_and_leaves_out_the_oldest_lives() -> None:
    ((_, payload),) = parse(
        LISTENER_GREETING, encode_hello(hello(name="n" * 999, earlier=tuple(range(1000, 0, -1)))), magic=True
    )
    assert decode_hello(payload).earlier == tuple(range(1000, 1000 - MAX_EARLIER, -1))


def test_a_removed_member_is_told_so() -> None:
    verdict = US.judge_hello(hello(), sender_removed=True)
    assert verdict == Refusal(RefusalCode.REMOVED, "member 000000000000000b was removed from the cluster")


def test_impossible_versions_are_garbage() -> None:
    ((_, payload),) = parse(LISTENER_GREETING, encode_hello(hello(version_min=3, version_max=2)), magic=True)
    with pytest.raises(PeerProtocolError, match="impossible versions 3 to 2"):
        decode_hello(payload)


@pytest.mark.parametrize("welcome", [Welcome(5, 0xC1, 0xB, 1), Welcome(3, 0xC2, 0xB, 1), Welcome(3, 0xC1, 0xD, 1)])
def test_a_welcome_that_contradicts_the_greeting_is_refused(welcome: Welcome) -> None:
    with pytest.raises(PeerProtocolError, match="expected member 000000000000000b in cluster 00000000000000c1"):
        US.check_welcome(welcome, 0xB)
