"""The standard gRPC reflection service: generic clients (grpcurl, Postman, …) learn what a server offers.

Served are the services of a `ServiceTable` whose descriptors are known, and the files that describe them.
Specification: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

from __future__ import annotations

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message import DecodeError

from plasmacloud.rpc.proto import reflection_pb2
from plasmacloud.rpc.service import ServiceTable, StreamCall
from plasmacloud.rpc.status import RpcError, StatusCode

_METHOD = "ServerReflection/ServerReflectionInfo"
_VERSIONS = ("v1", "v1alpha")  # the same messages; old clients ask for the second

Request = reflection_pb2.ServerReflectionRequest
Response = reflection_pb2.ServerReflectionResponse


class ReflectionService:
    """``grpc.reflection.v1`` and ``v1alpha``."""

    def __init__(self, table: ServiceTable, pool: DescriptorPool | None = None) -> None:
        self._table = table
        self._pool = pool if pool is not None else Default()

    def register(self) -> None:
        """Serve reflection from the table that it describes."""
        for version in _VERSIONS:
            self._table.stream(f"/grpc.reflection.{version}.{_METHOD}", self._serve)

    def services(self) -> list[str]:
        """Full names of the services that can be described, sorted."""
        names = {route.path.split("/")[1] for route in self._table.routes.values()}
        return sorted(name for name in names if self._known(name))

    def _known(self, service: str) -> bool:
        try:
            self._pool.FindServiceByName(service)
        except KeyError:
            return False
        return True

    async def _serve(self, call: StreamCall) -> None:
        async for body in call:
            try:
                request = Request.FromString(body)
            except DecodeError as error:
                raise RpcError(StatusCode.INVALID_ARGUMENT, "malformed ServerReflectionRequest") from error
            await call.send(self.answer(request).SerializeToString())

    def answer(self, request: Request) -> Response:
        """One answer; what is not known is an answer, too."""
        response = Response(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        try:
            if kind == "list_services":
                response.list_services_response.service.extend(
                    [reflection_pb2.ServiceResponse(name=name) for name in self.services()]
                )
            elif kind == "file_by_filename":
                self._describe(response, self._pool.FindFileByName(request.file_by_filename))
            elif kind == "file_containing_symbol":
                self._describe(response, self._file_of(request.file_containing_symbol))
            elif kind == "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                self._pool.FindMessageTypeByName(name)  # we define no extensions: known types have none
                response.all_extension_numbers_response.base_type_name = name
            elif kind == "file_containing_extension":
                raise KeyError("no extensions")
            else:
                response.error_response.error_code = StatusCode.INVALID_ARGUMENT
                response.error_response.error_message = "the request asks for nothing"
        except KeyError:
            response.error_response.error_code = StatusCode.NOT_FOUND
            response.error_response.error_message = "not found"
        return response

    def _file_of(self, symbol: str) -> FileDescriptor:
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            # Methods and fields are symbols as well; the pool knows what holds them.
            return self._pool.FindFileContainingSymbol(symbol.rpartition(".")[0])

    def _describe(self, response: Response, file: FileDescriptor) -> None:
        """The file and everything it imports."""
        files = {file.name: file}
        waiting = [file]
        while waiting:
            for imported in waiting.pop().dependencies:
                if imported.name not in files:
                    files[imported.name] = imported
                    waiting.append(imported)
        response.file_descriptor_response.file_descriptor_proto.extend([f.serialized_pb for f in files.values()])
