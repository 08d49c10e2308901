"""JSON over HTTP for unary gRPC methods, as etcd's gateway speaks it (grpc-gateway version 1).

Bytes travel in base64, 64-bit integers as strings, enums by name; fields have the names of the .proto file, zero values
are left out. Requests may name fields in either spelling; unknown fields are ignored. Unlike etcd's gateway this one
refuses base64 with stray characters (protobuf's own reader would skip them and write to another key).

What is large is converted on a thread, one at a time: a list of a hundred thousand keys takes a second, and the event
loop has other things to do.

A call that is shed because of load is answered with 503 and ``Retry-After``, its body unread: it was not executed.
(etcd's gateway says 429, as it does when a request is too large, which no repetition helps.)
"""

from __future__ import annotations

import asyncio
import binascii
import json
from base64 import b64decode
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, Final, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from msgspec.structs import replace

from plasmacloud.rpc.limits import MIB
from plasmacloud.rpc.local_call import call_locally
from plasmacloud.rpc.routes import Shedding
from plasmacloud.rpc.service import ServiceTable
from plasmacloud.rpc.status import RpcError, StatusCode
from plasmacloud.rpc.web import JSON, HttpRequest, HttpResponse, WebTable, json_response

HTTP_STATUS: Final[Mapping[StatusCode, HTTPStatus]] = {
    StatusCode.OK: HTTPStatus.OK,
    StatusCode.CANCELLED: HTTPStatus.REQUEST_TIMEOUT,
    StatusCode.UNKNOWN: HTTPStatus.INTERNAL_SERVER_ERROR,
    StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    StatusCode.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    StatusCode.ABORTED: HTTPStatus.CONFLICT,
    StatusCode.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
    StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    StatusCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    StatusCode.DATA_LOSS: HTTPStatus.INTERNAL_SERVER_ERROR,
    StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
}

_SHED: Final = StatusCode.RESOURCE_EXHAUSTED
_LARGE_BYTES: Final = 16 * 1024
_MAX_WAITING_BYTES: Final = 64 * MIB
_MAX_REPLY_BYTES: Final = 256 * MIB  # in the form of gRPC; small values take up ten times as much on their way to JSON
_FORWARDED: Final = "grpc-metadata-"
_decoder = json.JSONDecoder()
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class BadJson(ValueError):
    """A body that is no JSON form of its message."""


class Gateway:
    """Binds HTTP paths of a `WebTable` to the unary methods of a `ServiceTable`."""

    def __init__(self, table: ServiceTable, web: WebTable) -> None:
        self._table = table
        self._web = web
        self._converter = _Converter()

    def bind(self, bindings: Mapping[str, str], file: FileDescriptor) -> None:
        """``bindings``: HTTP path to gRPC path; ``file`` describes the services."""
        for http_path, path in bindings.items():
            service, method = path.strip("/").split("/")
            described = file.services_by_name[service.rpartition(".")[2]].methods_by_name[method]
            request, reply = GetMessageClass(described.input_type), GetMessageClass(described.output_type)
            self._web.post(http_path, _Bound(self._table, self._web, self._converter, path, request, reply))


class _Converter:
    """Does what is large on a thread, one after the other, and knows how much waits for that."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "plasma-json")
        self._waiting_bytes = 0

    def close(self) -> None:
        """Wait for what is under way, and end the thread."""
        self._thread.shutdown()

    def is_occupied(self) -> bool:
        """Whether so much waits that further large answers had better not come."""
        return self._waiting_bytes > _MAX_WAITING_BYTES

    async def convert(self, convert: Callable[[bytes], bytes], data: bytes) -> bytes:
        if len(data) <= _LARGE_BYTES:
            return convert(data)
        self._waiting_bytes += len(data)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, convert, data)
        finally:
            self._waiting_bytes -= len(data)


class _Bound:
    """One method."""

    def __init__(
        self,
        table: ServiceTable,
        web: WebTable,
        converter: _Converter,
        path: str,
        request: type[Message],
        reply: type[Message],
    ) -> None:
        self._table = table
        self._converter = converter
        self._web = web
        self._shedding = table.routes[path.encode()].shedding
        self._path = path
        self._request = request
        self._reply = reply

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        shedding = self._shedding
        if shedding is not None and (request.late or shedding.due()):
            return self._shed(shedding)
        try:
            body = await self._converter.convert(self._parse, request.body)
            occupied = self._converter.is_occupied
            reply = await call_locally(self._table, self._path, body, metadata=_metadata(request), occupied=occupied)
        except BadJson as error:
            return error_response(StatusCode.INVALID_ARGUMENT, str(error))
        except RpcError as error:
            if shedding is not None and (error.code, error.message) == (_SHED, shedding.message):
                return self._shed(shedding)
            return error_response(error.code, error.message)
        if len(reply) > _MAX_REPLY_BYTES:
            return error_response(_SHED, f"the answer has {len(reply)} bytes, ask for a part of it, or use gRPC")
        return HttpResponse(200, await self._converter.convert(self._render, reply), JSON)

    def _parse(self, body: bytes) -> bytes:
        return parse_message(self._request, body).SerializeToString()

    def _render(self, reply: bytes) -> bytes:
        """As pieces: the encoder's quick way, all at once, would keep the interpreter to itself."""
        return "".join(_encoder.iterencode(to_json(self._reply.FromString(reply)))).encode()

    def _shed(self, shedding: Shedding) -> HttpResponse:
        self._web.shed += 1
        refusal = error_response(_SHED, shedding.message)
        return replace(refusal, status=HTTPStatus.SERVICE_UNAVAILABLE, headers=(("retry-after", "1"),))


def error_response(code: StatusCode, message: str) -> HttpResponse:
    """An error as etcd's gateway words it."""
    return json_response({"error": message, "code": int(code), "message": message}, HTTP_STATUS[code])


def to_json(message: Message) -> dict[str, Any]:
    """The JSON form of a message."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def parse_message(kind: type[Message], body: bytes) -> Message:
    """The message that a JSON body means; an empty body is an empty message. Raises `BadJson`.

    What follows the first JSON value is ignored, as etcd does.
    """
    message = kind()
    try:
        text = body.decode("utf-8").strip()
        value = _decoder.raw_decode(text)[0] if text else {}
        _check_bytes(cast(Descriptor, kind.DESCRIPTOR), value)
        json_format.ParseDict(value, message, ignore_unknown_fields=True)
    except BadJson:
        raise
    except json.JSONDecodeError as error:
        raise BadJson(f"the body is not JSON: {error.msg} at character {error.pos}") from error
    except (json_format.ParseError, DecodeError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadJson(f"the body does not describe a {kind.DESCRIPTOR.name}: {error}"[:500]) from error
    return message


def _check_bytes(described: Descriptor, value: object) -> None:
    """Every bytes field must be whole base64."""
    if not isinstance(value, dict):
        raise BadJson(f"a {described.name} is a JSON object")
    for name, item in value.items():
        field = described.fields_by_name.get(name) or described.fields_by_camelcase_name.get(name)
        if field is None or item is None:
            continue
        for one in item if isinstance(item, list) else (item,):
            if field.type == FieldDescriptor.TYPE_BYTES:
                _check_base64(field.name, one)
            elif field.type == FieldDescriptor.TYPE_MESSAGE:
                assert field.message_type is not None
                _check_bytes(field.message_type, one)


def _check_base64(field: str, value: object) -> None:
    if not isinstance(value, str):
        raise BadJson(f"{field}: bytes are a base64 string")
    try:
        b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadJson(f"{field}: illegal base64 data: {error}") from error


def _metadata(request: HttpRequest) -> list[tuple[str, bytes | str]]:
    metadata: list[tuple[str, bytes | str]] = []
    for name, value in request.headers.items():
        if name.startswith(_FORWARDED) and not name.endswith("-bin"):
            metadata.append((name.removeprefix(_FORWARDED), value))
        elif name == "authorization":
            metadata.append((name, value))
    return metadata
