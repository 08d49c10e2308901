"""A connection pooler in transaction mode, as small as one can be: the thing that must not be put under an election.

It speaks PostgreSQL's protocol, version 3, for servers that ask no password: a client's messages go to a free server
session, which is free again when the server says that no transaction is open.
"""

import asyncio
import struct
from typing import NamedTuple

_SSL_REQUEST = 80877103
_CANCEL_REQUEST = 80877102


class Backend(NamedTuple):
    """One session with the server, and what the server said at its start."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    greeting: bytes


class TransactionPooler:
    """Listens on ``port``, once started. Idle server sessions are used last in, first out."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._idle: list[Backend] = []
        self._all: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> "TransactionPooler":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._all:
            writer.transport.abort()
        await asyncio.sleep(0.05)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._all.append(writer)
        try:
            startup = await self._startup(reader, writer)
            backend = await self._take(startup)
            writer.write(backend.greeting)
            self._idle.append(backend)
            while True:
                message = await _message(reader)
                if message[:1] == b"X":
                    return
                await self._transaction(message, startup, reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            writer.transport.abort()

    async def _startup(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        while True:
            head = await reader.readexactly(8)
            length, code = struct.unpack("!II", head)
            if code == _SSL_REQUEST:
                writer.write(b"N")
            elif code == _CANCEL_REQUEST:
                raise asyncio.IncompleteReadError(b"", None)
            else:
                return head + await reader.readexactly(length - 8)

    async def _take(self, startup: bytes) -> Backend:
        if self._idle:
            return self._idle.pop()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        self._all.append(writer)
        writer.write(startup)
        greeting = b""
        while True:
            message = await _message(reader)
            greeting += message
            if message[:1] == b"Z":
                return Backend(reader, writer, greeting)

    async def _transaction(
        self, first: bytes, startup: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """From the first message to the moment in which the server has no transaction open."""
        backend = await self._take(startup)
        backend.writer.write(first)
        forward = asyncio.create_task(self._forward(reader, backend.writer))
        try:
            while (answer := await _message(backend.reader))[:1] + answer[5:] != b"ZI":
                writer.write(answer)
        finally:
            forward.cancel()
            await asyncio.wait({forward})
        self._idle.append(backend)
        writer.write(answer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(await _message(reader))


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
