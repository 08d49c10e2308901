"""Reflection, asked by grpcio as grpcurl asks: what is served, and every file needed to understand it."""

import asyncio

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from rpc_harness import EchoService, run, serving

from plasmacloud.rpc.health import SERVING, HealthService
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.reflection import ReflectionService, Request, Response
from plasmacloud.rpc.service import ServiceTable, UnaryCall
from plasmacloud.rpc.status import StatusCode


def table() -> ServiceTable:
    services = EchoService().table  # has no descriptor, so it is not told

    def put(call: UnaryCall, body: bytes) -> None:
        request = rpc_pb2.PutRequest.FromString(body)
        call.reply(rpc_pb2.PutResponse(prev_kv={"key": request.key}).SerializeToString())

    services.unary("/etcdserverpb.KV/Put", put)
    health = HealthService()
    health.register(services)
    health.set("", SERVING)
    ReflectionService(services).register()
    return services


def ask(port: int, version: str, *requests: Request) -> list[Response]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=Request.SerializeToString,
            response_deserializer=Response.FromString,
        )
        return list(method(iter(requests), timeout=20))


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_services_are_listed_and_described(version: str) -> None:
    async def main() -> None:
        async with serving(table()) as (_, _, port):
            requests = (Request(list_services="*"), Request(file_containing_symbol="etcdserverpb.KV.Put"))
            listed, described = await asyncio.to_thread(ask, port, version, *requests)
            names = [service.name for service in listed.list_services_response.service]
            assert names == ["etcdserverpb.KV", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]
            assert described.original_request == requests[1]
            files = [
                FileDescriptorProto.FromString(f) for f in described.file_descriptor_response.file_descriptor_proto
            ]
            assert [service.name for service in files[0].service] == ["KV", "Cluster", "Maintenance"]

    run(main())


def call_by_description(port: int) -> bytes:
    """A call by a client that knows nothing but what reflection tells it."""
    (described,) = ask(port, "v1", Request(file_containing_symbol="etcdserverpb.KV"))
    pool = DescriptorPool()
    for raw in reversed(described.file_descriptor_response.file_descriptor_proto):
        pool.AddSerializedFile(raw)
    method = pool.FindServiceByName("etcdserverpb.KV").methods_by_name["Put"]
    request, reply = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        put = channel.unary_unary(
            "/etcdserverpb.KV/Put",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        return put(request(key=b"found out"), timeout=20).prev_kv.key


def test_what_is_told_is_enough_to_make_a_call() -> None:
    async def main() -> None:
        async with serving(table()) as (_, _, port):
            assert await asyncio.to_thread(call_by_description, port) == b"found out"

    run(main())


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (Request(file_containing_symbol="no.such.Thing"), StatusCode.NOT_FOUND),
        (Request(file_by_filename="no_such.proto"), StatusCode.NOT_FOUND),
        (Request(all_extension_numbers_of_type="no.such.Type"), StatusCode.NOT_FOUND),
        (Request(file_containing_extension={"containing_type": "etcdserverpb.PutRequest"}), StatusCode.NOT_FOUND),
        (Request(), StatusCode.INVALID_ARGUMENT),
    ],
)
def test_what_is_not_known_is_an_answer(request_: Request, code: StatusCode) -> None:
    answer = ReflectionService(table()).answer(request_)
    assert answer.error_response.error_code == code
    assert answer.original_request == request_


def test_files_by_name_and_types_without_extensions() -> None:
    service = ReflectionService(table())
    answer = service.answer(Request(file_by_filename="plasmacloud/rpc/proto/rpc.proto"))
    assert len(answer.file_descriptor_response.file_descriptor_proto) == 2, "rpc.proto and the kv.proto it imports"
    answer = service.answer(Request(all_extension_numbers_of_type="etcdserverpb.PutRequest"))
    assert list(answer.all_extension_numbers_response.extension_number) == []
    assert not answer.HasField("error_response")
