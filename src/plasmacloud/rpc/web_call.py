"""A plain HTTP request on an HTTP/2 stream: its body is collected within limits, its answer written in one piece."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from plasmacloud.rpc.h2.frames import END_STREAM, data_frame, window_update_frame
from plasmacloud.rpc.h2.headers import Field, encode_fields
from plasmacloud.rpc.h2.stream import CLOSED, OPEN, Stream, StreamEvent
from plasmacloud.rpc.request import RequestHead
from plasmacloud.rpc.web import HttpRequest, HttpResponse, WebTable, text_response

if TYPE_CHECKING:
    from plasmacloud.rpc.server_connection import ServerConnection

TOO_LARGE: Final = text_response(413, "the request's body exceeds the limit")


class WebCall(Stream):
    """One request; `WebTable.respond` runs in a task of the server, which ends with the stream."""

    __slots__ = ("_body", "_counted", "_head", "_late", "_server_side", "_task", "_web", "_window")

    def __init__(
        self, connection: ServerConnection, stream_id: int, head: RequestHead, web: WebTable, late: bool = False
    ) -> None:
        super().__init__(connection, stream_id, OPEN)
        self._server_side = connection
        self._head = head
        self._web = web
        self._late = late
        self._body = bytearray()
        self._counted = 0
        self._window = connection.receive_window(stream_id)
        self._task: asyncio.Task[None] | None = None

    def on_data(self, flags: int, data: bytes, start: int, stop: int, frame_bytes: int) -> None:
        self.advance(StreamEvent.RECV_DATA)
        self._window.received(frame_bytes)
        limits = self.connection.limits
        size = stop - start
        self._body += data[start:stop]
        self._counted += size
        self.connection.buffered_bytes += size
        if flags & END_STREAM:
            self.advance(StreamEvent.RECV_END)
        if len(self._body) > limits.max_recv_bytes or self.connection.buffered_bytes > limits.max_buffered_bytes:
            self._answer(TOO_LARGE)
        elif flags & END_STREAM:
            self.on_request_end()
        else:
            self._window.release(frame_bytes)
            if increment := self._window.take_update():
                self.connection.write(window_update_frame(self.id, increment))

    def on_headers(self, fields: list[Field] | None, end_stream: bool) -> None:
        self._server_side.check_trailers(self, end_stream)
        self.on_request_end()

    def on_request_end(self) -> None:
        """The client has sent everything."""
        request = self._request()
        self._server_side.server.turns.charge(request.cost_s)
        self._task = self._server_side.spawn(self._run(request))

    async def _run(self, request: HttpRequest) -> None:
        self._answer(await self._web.respond(request))

    def _request(self) -> HttpRequest:
        fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._head.fields}
        path, _, query = self._head.path.partition("?")
        headers = {name: value for name, value in fields.items() if name[:1] != ":"}
        return HttpRequest(fields[":method"], path, query, headers, bytes(self._body), self._late)

    def _answer(self, response: HttpResponse) -> None:
        self._uncount()
        if self.state is CLOSED:
            return
        fields = [(b":status", b"%d" % response.status), (b"content-type", response.content_type.encode())]
        fields.append((b"content-length", b"%d" % len(response.body)))
        fields += [(name.encode(), value.encode()) for name, value in response.headers]
        body = b"" if (b":method", b"HEAD") in self._head.fields else response.body
        self.connection.send_headers(self, encode_fields(fields), end_stream=not body)
        if body:
            self.connection.send_data(self, body)
            self.connection.send_tail(self, data_frame(self.id, b"", end_stream=True))

    def _uncount(self) -> None:
        self.connection.buffered_bytes -= self._counted
        self._counted = 0

    def on_reset(self, code: int) -> None:
        self.on_lost("")

    def on_lost(self, reason: str) -> None:
        self._uncount()
        if self._task is not None:
            self._task.cancel()
