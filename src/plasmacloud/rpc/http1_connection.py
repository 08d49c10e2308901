"""HTTP/1.1 on the port of gRPC: one request at a time, strictly read by h11, answered from the server's `WebTable`.

A connection holds one request, one answer, and a little of what the client sends ahead; beyond that it is not read. It
takes its turns with the connections of HTTP/2 (`turns`): one request is a share. Nor is it read while its client does
not read the answers.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11

from plasmacloud.base.logging import get_logger
from plasmacloud.rpc.web import HttpRequest, HttpResponse, WebTable, text_response
from plasmacloud.rpc.web_call import TOO_LARGE

if TYPE_CHECKING:
    from plasmacloud.rpc.server import Server

log = get_logger("rpc")

_MAX_HEADERS: Final = 128
_MAX_AHEAD_BYTES: Final = 64 * 1024
_LINGER_S: Final = 1.0  # how long a client that was refused is read (and ignored), so that the answer arrives


class Http1Connection(asyncio.Protocol):
    """Takes over the transport of a connection whose first bytes were not HTTP/2."""

    def __init__(self, server: Server, web: WebTable, transport: asyncio.Transport, peer: str) -> None:
        self._server = server
        self._web = web
        self._transport = transport
        self._limits = server.limits
        self._loop = asyncio.get_running_loop()
        self._wire = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.max_header_list_bytes)
        self.peer = peer
        self.requests = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.streams: dict[int, object] = {}  # as a connection of HTTP/2 has them: what is being answered
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._turns = server.turns
        self._in_line = False
        self._arrived = (0, 0.0)  # in which turn, and when, what stands in line came
        self._late = False
        self._write_paused = False
        self._refused = False
        self._leaving = False
        self._linger: asyncio.TimerHandle | None = None
        self._waits_since_s = self._loop.time()  # for a request to begin, or to be complete
        self._sent_seen = (0, self._waits_since_s)

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        if self._refused:
            return
        if self._request is None and not self._wire.trailing_data[0]:
            self._waits_since_s = self._loop.time()
        self._wire.receive_data(data)
        self._handle()

    def eof_received(self) -> bool:
        if not self._refused and (self._task is not None or self._in_line):
            self._leaving = True
            return True  # a client that has shut its side still reads the answer
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._linger is not None:
            self._linger.cancel()
        self._refused = True
        self._server.dismiss(self)

    def pause_writing(self) -> None:
        self._write_paused = True
        self._set_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        self._handle()

    # Reading, in turns with the other connections

    def _handle(self) -> None:
        """Look at what has arrived, now or when it is this connection's turn."""
        if not (self._in_line or self._write_paused or self._task is not None or self._refused):
            if self._turns.may_begin():
                self._read()
            elif self._wire.trailing_data[0]:
                self._in_line = True
                self._arrived = (self._turns.number, self._loop.time())
                self._turns.join(self)
        self._set_reading()

    def take_turn(self) -> None:
        """The head of the line is reached: handle one request, or as much of one as there is."""
        self._in_line = False
        if self._refused or self._transport.is_closing():
            return
        turn, arrived_s = self._arrived
        self._late = (
            self._turns.number - turn >= self._limits.max_line_turns
            and self._loop.time() - arrived_s > self._limits.max_line_s
        )
        if not self._write_paused:
            self._read()
        self._late = False
        if self._leaving and self._task is None and not self._refused:
            self._transport.close()  # what stood in line was no whole request
        self._set_reading()

    def _set_reading(self) -> None:
        if self._transport.is_closing():
            return
        ahead = self._task is not None and len(self._wire.trailing_data[0]) > _MAX_AHEAD_BYTES
        if (self._in_line or self._write_paused or ahead) and not self._refused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _read(self) -> None:
        try:
            while self._task is None and not self._refused:
                event = self._wire.next_event()
                if event is h11.NEED_DATA:
                    if self._wire.they_are_waiting_for_100_continue:
                        self._send(h11.InformationalResponse(status_code=100, headers=[]))
                    return
                if event is h11.PAUSED:
                    return
                self._on_event(event)
        except h11.RemoteProtocolError as error:
            self._refuse(text_response(error.error_status_hint, f"malformed request: {error}"))
        except Exception:  # nobody else would end this connection
            log.error("connection failed", peer=self.peer, exc_info=True)
            self.abort()

    def _on_event(self, event: object) -> None:
        if isinstance(event, h11.Request):
            self._request = event
            self._body.clear()
            self._check_head(event)
        elif isinstance(event, h11.Data):
            self._body += event.data
            if len(self._body) > self._limits.max_recv_bytes:
                self._refuse(TOO_LARGE)
        elif isinstance(event, h11.EndOfMessage):
            self._begin()
        elif isinstance(event, h11.ConnectionClosed):
            self._transport.close()
            self._refused = True

    def _check_head(self, request: h11.Request) -> None:
        if len(request.headers) > _MAX_HEADERS:
            self._refuse(text_response(431, f"more than {_MAX_HEADERS} headers"))
            return
        for name, value in request.headers:
            if name == b"content-length" and int(value) > self._limits.max_recv_bytes:
                self._refuse(TOO_LARGE)
            elif name == b"expect" and value.lower() != b"100-continue":
                self._refuse(text_response(417, "only 100-continue can be expected"))
            if self._refused:
                return

    # Answering

    def _begin(self) -> None:
        assert self._request is not None
        path, _, query = self._request.target.decode("latin-1").partition("?")
        request = HttpRequest(
            self._request.method.decode("latin-1"),
            path,
            query,
            {name.decode("latin-1"): value.decode("latin-1") for name, value in self._request.headers},
            bytes(self._body),
            self._late,
        )
        self._body.clear()
        self.requests += 1
        self.streams[0] = request
        self._turns.charge(request.cost_s)
        self._task = self._server.spawn(self._serve(request))

    async def _serve(self, request: HttpRequest) -> None:
        try:
            response = await self._web.respond(request)
            if not self._refused:
                self._answer(response)
        except Exception:  # else the connection would wait for this answer for ever
            log.error("request failed", peer=self.peer, path=request.path, exc_info=True)
            self.abort()

    def _answer(self, response: HttpResponse) -> None:
        self._send_response(response, close=self._leaving or self._server.closing)
        self._task = None
        self._request = None
        self.streams.clear()
        self._waits_since_s = self._loop.time()
        if self._wire.our_state is h11.MUST_CLOSE:
            self._transport.close()
        else:
            self._wire.start_next_cycle()
            self._handle()

    def _send_response(self, response: HttpResponse, *, close: bool) -> None:
        headers = [
            ("content-type", response.content_type),
            ("content-length", str(len(response.body))),
            ("date", formatdate(time.time(), usegmt=True)),
            *response.headers,
        ]
        if close:
            headers.append(("connection", "close"))
        reason = HTTPStatus(response.status).phrase
        head = self._request is not None and self._request.method == b"HEAD"
        self._send(
            h11.Response(status_code=response.status, headers=headers, reason=reason.encode()),
            None if head else h11.Data(data=response.body),
            h11.EndOfMessage(),
        )

    def _send(self, *events: h11.Event | None) -> None:
        data = b"".join([self._wire.send(event) or b"" for event in events if event is not None])
        self.bytes_sent += len(data)
        self._transport.write(data)

    def _refuse(self, response: HttpResponse) -> None:
        """Answer at once and close, whatever the client was about to send."""
        if self._refused:
            return
        if self._wire.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send_response(response, close=True)
        self._refused = True
        self._body.clear()
        self._server.noted.info("request refused", peer=self.peer, status=response.status)
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._linger = self._loop.call_later(_LINGER_S, self.abort)
        else:
            self._transport.close()

    # What the server asks of all its connections

    def check(self, now_s: float) -> None:
        """Lose patience with a client that sends half a request, reads nothing, or is idle."""
        unsent = self._transport.get_write_buffer_size()
        sent = self.bytes_sent - unsent
        if not unsent or sent != self._sent_seen[0]:
            self._sent_seen = (sent, now_s)
        if now_s - self._sent_seen[1] >= self._limits.stall_timeout_s:
            self.abort()
        elif (
            self._transport.is_closing()
            or self._task is not None
            or self._refused
            or self._in_line
            or self._write_paused
        ):
            return
        elif self._request is not None or self._wire.trailing_data[0]:
            if now_s - self._waits_since_s >= self._limits.frame_timeout_s:
                self._refuse(text_response(408, "the request did not arrive in time"))
        elif now_s - self._waits_since_s >= self._limits.http1_idle_timeout_s:
            self._transport.close()

    @property
    def held_bytes(self) -> int:
        """Memory that the request of this client, and the answer to it, take up."""
        return len(self._body) + len(self._wire.trailing_data[0]) + self._transport.get_write_buffer_size()

    def relieve(self, reason: str) -> None:
        """Close, and let go of what is held."""
        self.abort()

    def drain(self) -> None:
        """Finish the request under way and close."""
        self._leaving = True
        if self._task is None and not self._in_line:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()
