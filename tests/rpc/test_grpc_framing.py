"""gRPC's own encodings: messages, compression and its bombs, timeouts, status texts, metadata."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmacloud.rpc.grpc_framing import (
    MessageAssembler,
    decode_metadata,
    encode_message,
    encode_metadata,
    format_timeout,
    parse_timeout,
    percent_decode,
    percent_encode,
)
from plasmacloud.rpc.status import RpcError, StatusCode


def test_a_message_is_a_flag_a_length_and_the_body() -> None:
    assert encode_message(b"abc") == b"\x00\x00\x00\x00\x03abc"


@given(st.lists(st.binary(max_size=300)), st.lists(st.integers(1, 50)))
def test_messages_survive_any_cut(bodies: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(encode_message(b) for b in bodies)
    assembler = MessageAssembler(1000)
    found = []
    for size in cuts:
        found += assembler.feed(wire[:size])
        wire = wire[size:]
    found += assembler.feed(wire)
    assert found == bodies
    assert assembler.partial_bytes == 0


def test_a_message_above_the_limit_is_refused_at_its_prefix() -> None:
    assembler = MessageAssembler(10)
    with pytest.raises(RpcError) as caught:
        assembler.feed(b"\0\0\0\0\x0b")
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
    assert MessageAssembler(10).feed(encode_message(bytes(10))) == [bytes(10)]


def compressed(body: bytes) -> bytes:
    packed = gzip.compress(body, mtime=0)
    return b"\x01" + len(packed).to_bytes(4, "big") + packed


def test_gzip_is_understood_and_bombs_are_not_inflated() -> None:
    assert MessageAssembler(5000, b"gzip").feed(compressed(b"abc" * 1000)) == [b"abc" * 1000]
    with pytest.raises(RpcError) as caught:
        MessageAssembler(20_000, b"gzip").feed(compressed(bytes(10_000_000)))
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("encoding", "wire", "code"),
    [
        (b"identity", compressed(b"x"), StatusCode.INTERNAL),
        (b"snappy", compressed(b"x"), StatusCode.UNIMPLEMENTED),
        (b"gzip", b"\x01\0\0\0\x03abc", StatusCode.INTERNAL),
        (b"gzip", b"\x01\0\0\0\x0a" + gzip.compress(bytes(100), mtime=0)[:10], StatusCode.INTERNAL),
        (b"gzip", b"\x02\0\0\0\x00", StatusCode.INTERNAL),
    ],
)
def test_unusable_compression_is_a_status(encoding: bytes, wire: bytes, code: StatusCode) -> None:
    with pytest.raises(RpcError) as caught:
        MessageAssembler(1000, encoding).feed(wire)
    assert caught.value.code is code
    told = ("grpc-accept-encoding", b"identity,deflate,gzip") in caught.value.metadata
    assert (code is StatusCode.UNIMPLEMENTED) == told


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1S", 1.0),
        (b"250m", 0.25),
        (b"10u", 1e-5),
        (b"2M", 120.0),
        (b"1H", 3600.0),
        (b"99999999n", 0.099999999),
        (b"123456789S", None),
        (b"S", None),
        (b"-1S", None),
        (b"1x", None),
        (b"", None),
        (b"1.5S", None),
    ],
)
def test_timeouts(value: bytes, seconds: float | None) -> None:
    assert parse_timeout(value) == (None if seconds is None else pytest.approx(seconds))


@given(st.floats(1e-6, 1e8))
def test_a_timeout_never_shrinks_on_the_wire(seconds: float) -> None:
    value = format_timeout(seconds)
    parsed = parse_timeout(value)
    assert parsed is not None
    assert seconds * (1 - 1e-9) <= parsed <= seconds * 1.02 + 2e-6


def test_status_texts_are_percent_encoded() -> None:
    assert percent_encode("plain text") == b"plain text"
    assert percent_encode("100% ä\n") == b"100%25 %C3%A4%0A"
    assert percent_decode(b"a%zzb%2") == "a%zzb%2"


@given(st.text())
def test_status_texts_survive(text: str) -> None:
    expected = text.encode("utf-8", "replace").decode()
    assert percent_encode(text).isascii()
    assert percent_decode(percent_encode(text)) == expected


def test_metadata_text_and_binary() -> None:
    fields = encode_metadata([("Key", "value"), ("data-bin", b"\x00\xff\x01"), ("text-bin", "x")])
    assert fields == [(b"key", b"value"), (b"data-bin", b"AP8B"), (b"text-bin", b"eA")]
    assert decode_metadata([(b":path", b"/"), (b"te", b"trailers"), *fields]) == [
        ("key", "value"),
        ("data-bin", b"\x00\xff\x01"),
        ("text-bin", b"x"),
    ]
    assert decode_metadata([(b"a-bin", b"AP8B,eA==,!")]) == [("a-bin", b"\x00\xff\x01"), ("a-bin", b"x")]


@pytest.mark.parametrize("entry", [("key", b"\x00"), ("ke y", "x"), ("", "x"), (":path", "x"), ("key", "a\nb")])
def test_metadata_that_http2_cannot_carry_is_refused(entry: tuple[str, bytes | str]) -> None:
    with pytest.raises(ValueError):
        encode_metadata([entry])
