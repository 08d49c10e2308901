"""The hand-made encoder against the protobuf runtime."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plasmacloud.chainfire.mvcc import encoding
from plasmacloud.rpc.proto.kv_pb2 import KeyValue
from plasmacloud.rpc.proto.rpc_pb2 import PutRequest, RangeResponse, ResponseHeader, TxnResponse

numbers = st.one_of(
    st.integers(1, 300), st.integers(1 << 13, 1 << 15), st.integers(1 << 27, 1 << 29), st.integers(1, (1 << 63) - 1)
)
ids = st.one_of(st.just(0), st.integers(0, (1 << 64) - 1))
names = st.binary(min_size=1, max_size=300)
leases = st.integers(-(1 << 63), (1 << 63) - 1)
contents = st.one_of(st.binary(max_size=10), st.integers(0, 20_000).map(bytes))


@given(
    key=names,
    create=numbers,
    mod=numbers,
    version=numbers,
    value=contents,
    lease=st.integers(-(1 << 63), (1 << 63) - 1),
)
def test_a_record_is_the_canonical_encoding(
    key: bytes, create: int, mod: int, version: int, value: bytes, lease: int
) -> None:
    kv = KeyValue(key=key, create_revision=create, mod_revision=mod, version=version, value=value, lease=lease)
    record = encoding.encode_record(key, create, mod, version, value, lease)
    assert record == kv.SerializeToString()
    kv.ClearField("value")
    assert encoding.without_value(record) == kv.SerializeToString()


@given(
    key=st.one_of(st.binary(max_size=4), st.binary(min_size=126, max_size=129)),
    value=st.one_of(st.binary(max_size=4), st.sampled_from([127, 128, 129, 16_383, 16_384, 70_000]).map(bytes)),
    lease=st.sampled_from([0, 0, 7]),
    prev_kv=st.booleans(),
)
def test_a_put_of_key_and_value_is_plain(key: bytes, value: bytes, lease: int, prev_kv: bool) -> None:
    body = PutRequest(key=key, value=value, lease=lease, prev_kv=prev_kv).SerializeToString()
    plain = 0 < len(key) < 128 and 0 < len(value) < 1 << 14 and not lease and not prev_kv
    assert encoding.plain_put(body) == (len(key) + 2 if plain else 0)


# Tags, lengths and fillers: bytes that are nearly a request.
scraps = st.sampled_from(
    [b"\n", b"\x12", b"\x00", b"\x01", b"\x02", b"\x7f", b"\x80", b"\x82\x00", b"\x85\x01", b"k", bytes(125)]
)


@given(body=st.one_of(st.binary(max_size=12), st.lists(scraps, max_size=9).map(b"".join)))
@example(body=b"\n\x01k\x12\x81\x00v")  # a length that is not in its shortest form
@example(body=b"\n\x01k\x12\x01v\x12\x01w")
def test_what_is_taken_for_a_plain_put_is_one(body: bytes) -> None:
    value_at = encoding.plain_put(body)
    if value_at:
        request = PutRequest.FromString(body)
        assert request == PutRequest(key=body[2:value_at], value=request.value)
        assert request.SerializeToString() == body
        assert encoding.splice_record(body, value_at, 3, 1 << 20, 1 << 15) == encoding.encode_record(
            request.key, 3, 1 << 20, 1 << 15, request.value, 0
        )


@given(key=names, mod=numbers)
def test_a_tombstone_has_key_and_revision(key: bytes, mod: int) -> None:
    assert encoding.encode_tombstone(key, mod) == KeyValue(key=key, mod_revision=mod).SerializeToString()


@given(cluster=ids, member=ids, steps=st.lists(st.tuples(numbers, st.integers(0, 1 << 40)), min_size=1))
def test_headers_are_right_whatever_came_before(cluster: int, member: int, steps: list[tuple[int, int]]) -> None:
    encoder = encoding.HeaderEncoder(cluster, member)
    for start, term in steps:
        encoder.set_term(term)
        for revision in (start, start + 1, start + (1 << 14)):
            if revision < 1 << 63:
                header = ResponseHeader(cluster_id=cluster, member_id=member, revision=revision, raft_term=term)
                assert encoder.field(revision) == TxnResponse(header=header).SerializeToString()


@given(revision=numbers)
def test_the_header_inside_a_transaction(revision: int) -> None:
    assert encoding.bare_header(revision) == TxnResponse(header=ResponseHeader(revision=revision)).SerializeToString()


@given(values=st.lists(contents, max_size=20))
def test_joined_records_are_the_kvs_of_a_reply(values: list[bytes]) -> None:
    kvs = [KeyValue(key=b"k", value=value) for value in values]
    joined = encoding.join_kvs([kv.SerializeToString() for kv in kvs])
    assert joined == RangeResponse(kvs=kvs).SerializeToString()


@pytest.mark.parametrize("n", [0, 127, 128, (1 << 14) - 1, 1 << 14, (1 << 28) - 1, 1 << 28, (1 << 64) - 1])
def test_varints_at_the_edges_of_the_tables(n: int) -> None:
    assert encoding.read_varint(b"?" + encoding.varint(n), 1) == (n, 1 + len(encoding.varint(n)))
    assert ResponseHeader.FromString(b"\x08" + encoding.varint(n)).cluster_id == n
