"""One HTTP/1.1 connection that is kept open, and what a failed request on it proves.

Only a connection whose every byte we see tells a request that was certainly not executed (nothing was sent) from one
that may have been. Client libraries pool, retry and hide this; a tester must not.
"""

import asyncio
from typing import Any

import h11
import msgspec

from plasmacloud.lab.wire import AttemptFailed, Known

_CHUNK_BYTES = 65_536


class Answer(msgspec.Struct, frozen=True):
    """A status code and a body."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The decoded body. Raises `AttemptFailed` (the outcome is unknown) when it is not JSON."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as error:
            raise AttemptFailed(
                f"status {self.status} with a body that is not JSON", Known.UNKNOWN, answered=True
            ) from (error)


class HttpLink:
    """Sequential requests to one server. Timeouts in seconds cover everything; every failure is an `AttemptFailed`."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._http = h11.Connection(h11.CLIENT)

    async def request(self, method: str, path: str, body: object = None, *, timeout: float) -> Answer:
        """One request, sent once. ``body`` is sent as JSON."""
        sent = False
        done = False
        try:
            async with asyncio.timeout(timeout):
                await self._connect()
                sent = True
                self._send(method, path, body)
                answer = await self._receive()
                done = True
                return answer
        except TimeoutError:
            raise AttemptFailed(f"no answer within {timeout:g} s", _known(sent), answered=False) from None
        except (OSError, EOFError, h11.ProtocolError) as error:
            reason = str(error) or type(error).__name__
            raise AttemptFailed(reason, _known(sent), answered=False) from error
        finally:
            if not done:
                self.drop()

    async def _connect(self) -> None:
        if self._writer is not None and self._reader is not None:
            if not self._reader.at_eof() and not self._writer.is_closing():
                return
            self.drop()
        self._reader, self._writer = await asyncio.open_connection(self.host, self.port)
        self._http = h11.Connection(h11.CLIENT)

    def _send(self, method: str, path: str, body: object) -> None:
        assert self._writer is not None
        payload = b"" if body is None else msgspec.json.encode(body)
        headers = [("host", f"{self.host}:{self.port}"), ("accept", "application/json")]
        if body is not None:
            headers += [("content-type", "application/json"), ("content-length", str(len(payload)))]
        data = self._http.send(h11.Request(method=method, target=path, headers=headers)) or b""
        if payload:
            data += self._http.send(h11.Data(data=payload)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        self._writer.write(data)

    async def _receive(self) -> Answer:
        assert self._reader is not None
        status, parts = 0, []
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(_CHUNK_BYTES))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise EOFError("the server closed the connection")
        if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is not h11.DONE:
            self.drop()
        else:
            self._http.start_next_cycle()
        return Answer(status, b"".join(parts))

    def drop(self) -> None:
        """Close the connection; the next request opens another."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


def _known(sent: bool) -> Known:
    return Known.UNKNOWN if sent else Known.NOT_EXECUTED
