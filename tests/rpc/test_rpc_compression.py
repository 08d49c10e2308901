"""Compression as negotiated, and status details: what grpcio sends and understands, and the frames in between."""

import asyncio
import gzip
import zlib

import grpc
import pytest
from rpc_harness import EchoService, Wire, data_of, headers, on_wire, run, serving, status

from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.grpc_framing import PREFIX, answer_encoding
from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.frames import HEADERS
from plasmacloud.rpc.proto import kv_pb2, rpc_pb2
from plasmacloud.rpc.service import ServiceTable, UnaryCall
from plasmacloud.rpc.status import RpcError, StatusCode
from plasmacloud.rpc.status_details import DETAILS_KEY, detailed_error, find_detail

TEXT = b"a compressible text, " * 500
PACK = {b"gzip": gzip.compress, b"deflate": zlib.compress}
UNPACK = {b"gzip": gzip.decompress, b"deflate": zlib.decompress}


def test_answers_are_compressed_as_the_client_compresses_if_it_says_it_understands_that() -> None:
    assert answer_encoding(b"gzip", b"identity, deflate, gzip") == b"gzip"
    assert answer_encoding(b"deflate", b"deflate") == b"deflate"
    assert answer_encoding(b"gzip", b"identity") is None
    assert answer_encoding(b"identity", b"gzip,deflate") is None
    assert answer_encoding(b"br", b"br") is None


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
@pytest.mark.parametrize("path", ["/test.Echo/Unary", "/test.Echo/Async", "/test.Echo/Bidi"])
def test_a_conversation_in_one_encoding(encoding: bytes, path: str) -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        packed = PACK[encoding](TEXT)
        negotiated = ((b"grpc-encoding", encoding), (b"grpc-accept-encoding", b"identity," + encoding))
        body = PREFIX.pack(1, len(packed)) + packed
        wire.connection.data_received(headers(1, path, *negotiated) + frames.data_frame(1, body, end_stream=True))
        found = await wire.settle()
        first = next(frame for frame in found if frame.kind == HEADERS)
        assert wire.fields(first)["grpc-encoding"] == encoding.decode()
        answer = data_of(found)
        flag, length = PREFIX.unpack_from(answer)
        assert (flag, length) == (1, len(answer) - 5)
        assert UNPACK[encoding](answer[5:]) == TEXT
        small = PREFIX.pack(0, 2) + b"hi"
        wire.connection.data_received(headers(3, path, *negotiated) + frames.data_frame(3, small, end_stream=True))
        assert data_of(await wire.settle()) == small, "not worth it"

    on_wire(test)


def test_an_unknown_encoding_is_refused_with_what_is_accepted() -> None:
    async def test(wire: Wire, service: EchoService) -> None:
        data = headers(1, "/test.Echo/Unary", (b"grpc-encoding", b"snappy"))
        found = wire.send(data, frames.data_frame(1, PREFIX.pack(1, 1) + b"x", end_stream=True))
        ending = wire.fields(found[-1])
        assert (ending["grpc-status"], ending["grpc-accept-encoding"]) == ("12", "identity,deflate,gzip")

        plain = frames.data_frame(3, PREFIX.pack(0, 1) + b"x", end_stream=True)
        found = wire.send(headers(3, "/test.Echo/Unary", (b"grpc-encoding", b"snappy")), plain)
        assert status(wire, found, 3) is StatusCode.OK, "nothing was compressed"

    on_wire(test)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_grpcio_compresses_and_is_answered_in_kind(compression: grpc.Compression) -> None:
    def session(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}", compression=compression) as channel:
            assert channel.unary_unary("/test.Echo/Unary")(TEXT, timeout=10) == TEXT
            bodies = [TEXT, b"", b"short", TEXT * 3]
            assert list(channel.stream_stream("/test.Echo/Bidi")(iter(bodies), timeout=10)) == bodies

    async def main() -> None:
        async with serving(EchoService().table) as (server, _, port):
            await asyncio.to_thread(session, port)
            totals = server.totals()
            assert totals.bytes_received < 5 * len(TEXT)
            assert totals.bytes_sent < len(TEXT), "the answers were compressed, too"

    run(main())


def detailed_table() -> ServiceTable:
    table = ServiceTable()

    def fail(call: UnaryCall, body: bytes) -> None:
        details = [kv_pb2.KeyValue(key=b"which"), rpc_pb2.ResponseHeader(revision=7)]
        raise detailed_error(StatusCode.FAILED_PRECONDITION, "not now", details)

    table.unary("/test.Details/Fail", fail)
    return table


def test_status_details_reach_our_client_and_grpcio() -> None:
    def theirs(port: int) -> None:
        from plasmacloud.rpc.proto import status_pb2

        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.Details/Fail")(b"", timeout=10)
        trailers = dict(caught.value.trailing_metadata())
        found = status_pb2.Status.FromString(trailers[DETAILS_KEY])
        assert (found.code, found.message) == (9, "not now")
        assert [d.type_url for d in found.details] == [
            "type.googleapis.com/mvccpb.KeyValue",
            "type.googleapis.com/etcdserverpb.ResponseHeader",
        ]

    async def main() -> None:
        async with serving(detailed_table()) as (_, host, port):
            channel = Channel(host, port)
            with pytest.raises(RpcError) as caught:
                await channel.unary("/test.Details/Fail", b"", timeout=10)
            await channel.close()
            header = find_detail(caught.value, rpc_pb2.ResponseHeader)
            assert header is not None
            assert header.revision == 7
            assert find_detail(caught.value, rpc_pb2.PutRequest) is None
            await asyncio.to_thread(theirs, port)

    run(main())


def test_details_that_contradict_the_status_are_ignored() -> None:
    error = detailed_error(StatusCode.ABORTED, "x", [kv_pb2.KeyValue(key=b"k")])
    assert find_detail(error, kv_pb2.KeyValue) is not None
    other = RpcError(StatusCode.INTERNAL, "x", metadata=error.metadata)
    assert find_detail(other, kv_pb2.KeyValue) is None
    broken = RpcError(StatusCode.INTERNAL, "x", metadata=[(DETAILS_KEY, b"\xff\xff")])
    assert find_detail(broken, kv_pb2.KeyValue) is None
