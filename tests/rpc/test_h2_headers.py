"""HPACK: the RFC 7541 examples byte for byte, and agreement with the ``hpack`` package on generated blocks."""

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plasmacloud.rpc.h2.errors import ConnectionFault, ErrorCode
from plasmacloud.rpc.h2.headers import HeaderDecoder, encode_field, encode_fields

REQUESTS = [
    ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", []),
    ("8286 84be 5808 6e6f 2d63 6163 6865", [(b"cache-control", b"no-cache")]),
]
REQUESTS_HUFFMAN = [
    ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", []),
    ("8286 84be 5886 a8eb 1064 9cbf", [(b"cache-control", b"no-cache")]),
]


@pytest.mark.parametrize("blocks", [REQUESTS, REQUESTS_HUFFMAN], ids=["C.3", "C.4"])
def test_rfc_request_examples(blocks: list[tuple[str, list[tuple[bytes, bytes]]]]) -> None:
    decoder = HeaderDecoder(10_000)
    versions = []
    for encoded, extra in blocks:
        fields = decoder.decode(bytes.fromhex(encoded))
        assert fields == [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":path", b"/"),
            (b":authority", b"www.example.com"),
            *extra,
        ]
        versions.append(decoder.version)
    assert versions[0] < versions[1], "each of these blocks inserts into the table"


@pytest.mark.parametrize(
    ("encoded", "field", "inserts"),
    [
        ("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", (b"custom-key", b"custom-header"), True),
        ("040c 2f73 616d 706c 652f 7061 7468", (b":path", b"/sample/path"), False),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", (b"password", b"secret"), False),
        ("82", (b":method", b"GET"), False),
    ],
    ids=["C.2.1", "C.2.2", "C.2.3", "C.2.4"],
)
def test_rfc_field_examples_and_whether_they_touch_the_table(
    encoded: str, field: tuple[bytes, bytes], inserts: bool
) -> None:
    decoder = HeaderDecoder(10_000)
    before = decoder.version
    assert decoder.decode(bytes.fromhex(encoded)) == [field]
    assert (decoder.version != before) == inserts


@pytest.mark.parametrize(
    "encoded",
    ["80", "be", "ffffffffff7f", "0f", "00", "0005", "40", "8220", "3fe21f", "0085ffffffffff00", "7f"],
)
def test_malformed_blocks_are_compression_errors(encoded: str) -> None:
    with pytest.raises(ConnectionFault) as caught:
        HeaderDecoder(10_000).decode(bytes.fromhex(encoded))
    assert caught.value.code is ErrorCode.COMPRESSION_ERROR


def test_an_oversized_list_is_refused_and_the_table_stays_in_step() -> None:
    encoder = hpack.Encoder()
    decoder = HeaderDecoder(200)
    big = [(b"a", b"x" * 150), (b"b", b"y" * 150)]
    assert decoder.decode(encoder.encode(big, huffman=False)) is None
    assert decoder.decode(encoder.encode([(b"b", b"y" * 150)])) == [(b"b", b"y" * 150)]


def test_a_bomb_of_references_costs_no_memory() -> None:
    decoder = HeaderDecoder(16_384)
    decoder.decode(encode_insert(b"bomb", b"x" * 4000))
    assert decoder.decode(b"\xbe" * 15) is None
    with pytest.raises(ConnectionFault) as caught:
        decoder.decode(b"\xbe" * 60_000)
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


def encode_insert(name: bytes, value: bytes) -> bytes:
    return bytes(hpack.Encoder().encode([(name, value)], huffman=False))


names = st.one_of(
    st.sampled_from([b":path", b":method", b":status", b"content-type", b"grpc-timeout", b"te", b"x-a", b"x-b"]),
    st.binary(min_size=1, max_size=40),
)
values = st.one_of(st.sampled_from([b"", b"POST", b"/", b"200", b"1S"]), st.binary(max_size=200))
field_lists = st.lists(st.tuples(names, values), max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(field_lists, st.booleans(), st.one_of(st.none(), st.integers(0, 4096))), max_size=8))
def test_we_decode_what_the_reference_encoder_writes(blocks: list) -> None:
    encoder, decoder, reference = hpack.Encoder(), HeaderDecoder(1 << 20), hpack.Decoder()
    for fields, huffman, table_size in blocks:
        if table_size is not None:
            encoder.header_table_size = table_size
        block = encoder.encode(fields, huffman=huffman)
        assert decoder.decode(block) == fields
        assert [tuple(f) for f in reference.decode(block, raw=True)] == fields


@settings(max_examples=150, deadline=None)
@given(field_lists)
def test_the_reference_decodes_what_we_encode(fields: list[tuple[bytes, bytes]]) -> None:
    decoder = hpack.Decoder()
    block = encode_fields(fields)
    assert [tuple(f) for f in decoder.decode(block, raw=True)] == fields
    assert not decoder.header_table.dynamic_entries, "our encoder must not insert"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_random_blocks_decode_like_the_reference_or_fault(blocks: list[bytes]) -> None:
    decoder, reference = HeaderDecoder(1 << 20), hpack.Decoder()
    for block in blocks:
        try:
            ours = decoder.decode(block)
        except ConnectionFault:
            return  # any other exception is the bug this looks for
        try:
            theirs = reference.decode(block, raw=True)
        except hpack.HPACKError:
            return  # the reference is stricter in places (lengths of integers)
        assert ours == [tuple(f) for f in theirs]


def test_static_fields_are_one_byte() -> None:
    assert encode_field(b":method", b"POST") == b"\x83"
    assert encode_field(b":status", b"200") == b"\x88"
    assert encode_field(b"content-type", b"x") == b"\x0f\x10\x01x"
