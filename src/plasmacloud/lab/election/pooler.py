"""A connection pooler in transaction mode, as small as one can be: what must not stand between a server and its lock.

It speaks PostgreSQL's protocol, version 3 (https://www.postgresql.org/docs/current/protocol.html), for roles that are
let in without a password. From the first message of a transaction until the server says that none is open, a client has
a session of the server; the next transaction gets whichever has been free for longest.
"""

import asyncio
import struct
from collections import deque

from plasmacloud.base.process import free_ports
from plasmacloud.postgres.sessions import open_session

_SSL_REQUEST = 80_877_103
_GSS_REQUEST = 80_877_104
_CANCEL_REQUEST = 80_877_102
_HEAD = struct.Struct("!II")
_READY_IDLE = b"ZI"
HOST = "127.0.0.1"
_LOOKS = 6


class _Session:
    """One session of the server. ``greeting``: what the server said when it began, which every client is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.greeting = b""


class SharingPooler:
    """Listens on ``port`` and hands statements to the server at ``server_port``. Use as an async context."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._free: deque[_Session] = deque()
        self._writers: set[asyncio.StreamWriter] = set()
        (self.port,) = free_ports(1)

    async def __aenter__(self) -> "SharingPooler":
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            startup = await self._startup(reader, writer)
            session = await self._take(startup)
            writer.write(session.greeting)
            self._free.append(session)
            while (message := await _message(reader))[:1] != b"X":
                await self._transaction(message, startup, reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        except asyncio.CancelledError:
            pass  # the loop ends
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _startup(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """The message in which the client says who it is; encryption is declined, cancelling ignored."""
        while True:
            head = await reader.readexactly(_HEAD.size)
            length, code = _HEAD.unpack(head)
            if code in (_SSL_REQUEST, _GSS_REQUEST):
                writer.write(b"N")
            elif code == _CANCEL_REQUEST:
                raise asyncio.IncompleteReadError(b"", None)
            else:
                return head + await reader.readexactly(length - _HEAD.size)

    async def _take(self, startup: bytes) -> _Session:
        """The session that has been free for longest; a new one when there are fewer than two."""
        if len(self._free) > 1:
            return self._free.popleft()
        reader, writer = await asyncio.open_connection(HOST, self._server_port)
        self._writers.add(writer)
        session = _Session(reader, writer)
        writer.write(startup)
        while True:
            message = await _message(reader)
            session.greeting += message
            if message[:1] == b"E":
                raise ConnectionRefusedError(f"the server refuses the pooler: {message[5:]!r}")
            if message[:1] == b"Z":
                return session

    async def _transaction(
        self, first: bytes, startup: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """From a first message to the moment in which no transaction is open."""
        session = await self._take(startup)
        session.writer.write(first)
        forward = asyncio.create_task(_forward(reader, session.writer))
        try:
            while (answer := await _message(session.reader))[:1] + answer[5:] != _READY_IDLE:
                writer.write(answer)
        finally:
            forward.cancel()
            await asyncio.wait({forward})
        self._free.append(session)
        writer.write(answer)


async def shares_sessions(url: str) -> bool:
    """Whether statements of one connection run in several sessions of the server: then somebody in between shares them.

    The simple protocol (one message) is all that gets through such a pooler for sure, so a notice brings the answer.
    """
    first, second = await open_session(url, timeout=5.0), await open_session(url, timeout=5.0)
    seen: set[str] = set()
    first.add_log_listener(lambda _connection, message: seen.add(message.message))
    try:
        await first.execute("BEGIN", timeout=5.0)
        await second.execute("SELECT 1", timeout=5.0)  # while the other one keeps its session to itself
        await first.execute("COMMIT", timeout=5.0)
        for _ in range(_LOOKS):
            await first.execute("DO $$ BEGIN RAISE NOTICE 'session %', pg_backend_pid(); END $$", timeout=5.0)
            await asyncio.sleep(0)
        return len(seen) > 1
    finally:
        first.terminate()
        second.terminate()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(await _message(reader))


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
