"""A listening socket on which every connection begins with a TLS handshake.

The event loops can do this by themselves, but then nobody learns of a handshake that failed: not the log here, and not
the other side. Here both do, which is most of what an operator needs to set certificates up. The certificate is the one
that lies on disk when the handshake begins, and handshakes that take too long, or are too many, give way.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from plasmacloud.base.logging import get_logger
from plasmacloud.base.tls import ServerTls
from plasmacloud.base.tls_errors import PartingWord, describe_tls_error, speaks_no_tls

HANDSHAKE_S = 10.0
MAX_HANDSHAKES = 256
_LINGER_S = 1.0
_NO_ROOM_S = 0.1  # the process has no file descriptor left, or the machine no memory: try again after this long

log = get_logger("rpc")


class TlsListener:
    """Accepts connections until it is closed. Made by `listen`. ``address``: where it listens."""

    def __init__(
        self,
        sockets: list[socket.socket],
        tls: ServerTls,
        protocol: Callable[[], asyncio.Protocol],
        *,
        on_refused: Callable[[str, str], None],
        to_plaintext: Callable[[ssl.SSLError], bytes],
        handshake_s: float = HANDSHAKE_S,
        max_handshakes: int = MAX_HANDSHAKES,
    ) -> None:
        """``on_refused(host:port, reason)``: a handshake failed. The oldest of more than ``max_handshakes`` gives way.

        ``to_plaintext``: what somebody gets to read who does not speak TLS.
        """
        self._loop = asyncio.get_running_loop()
        self._tls = tls
        self._protocol = protocol
        self._on_refused = on_refused
        self._to_plaintext = to_plaintext
        self._handshake_s = handshake_s
        self._max_handshakes = max_handshakes
        self._handshakes: dict[asyncio.Task[None], None] = {}  # oldest first
        self._sockets = sockets
        self.address: tuple[str, int] = sockets[0].getsockname()[:2]
        self._accepting = [self._loop.create_task(self._accept(sock)) for sock in sockets]

    def close(self) -> None:
        """Accept nothing more; handshakes under way end, and what came through them stays."""
        for task in (*self._accepting, *self._handshakes):
            task.cancel()
        for sock in self._sockets:
            with suppress(OSError):
                self._loop.remove_reader(sock)
            sock.close()

    async def wait_closed(self) -> None:
        """Behind `close`: until nothing of it runs."""
        tasks = [*self._accepting, *self._handshakes]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, address = await self._loop.sock_accept(listening)
            except ConnectionError:  # it left before it was taken
                continue
            except OSError as error:
                log.warning("cannot accept connections", reason=error.strerror)
                await asyncio.sleep(_NO_ROOM_S)
                continue
            if len(self._handshakes) >= self._max_handshakes:
                next(iter(self._handshakes)).cancel()
            task = self._loop.create_task(self._let_in(connection, _place(address)))
            self._handshakes[task] = None
            task.add_done_callback(partial(self._ended, connection))

    def _ended(self, connection: socket.socket, task: "asyncio.Task[None]") -> None:
        self._handshakes.pop(task, None)
        if task.cancelled():
            connection.close()  # a task that is cancelled before its first step has not
        else:
            task.result()  # an error nobody foresaw goes to the loop's exception handler

    async def _let_in(self, connection: socket.socket, place: str) -> None:
        parted: list[socket.socket] = []
        PartingWord(partial(self._part, connection, parted))
        try:
            await self._loop.connect_accepted_socket(
                self._protocol, connection, ssl=self._tls.latest(), ssl_handshake_timeout=self._handshake_s
            )
        except OSError as error:  # ssl.SSLError, ConnectionError and TimeoutError are
            connection.close()
            self._on_refused(place, describe_tls_error(error))
            for last in parted:
                await self._linger(last)
        except BaseException:  # cancelled; or nobody foresaw it, then it is logged
            connection.close()
            raise
        finally:
            for last in parted:
                last.close()

    def _part(self, connection: socket.socket, parted: list[socket.socket], alert: bytes, error: ssl.SSLError) -> None:
        with suppress(OSError):
            parted.append(connection.dup())
        say_goodbye(connection, self._to_plaintext(error) if speaks_no_tls(error) else alert)

    async def _linger(self, connection: socket.socket) -> None:
        """Wait for the other side to hang up.

        A client of TLS 1.3 begins to speak before it knows that it was refused. What arrives at a closed socket is
        answered with a reset, and a reset makes the other side forget what it has not read yet: the reason.
        """
        with suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(_LINGER_S):
                while await self._loop.sock_recv(connection, 65536):
                    pass


def say_goodbye(connection: socket.socket, farewell: bytes) -> None:
    """Write straight to the socket of a connection that is closed as soon as this returns."""
    with suppress(OSError):  # nobody there: then without a word
        os.write(connection.fileno(), farewell)
        connection.shutdown(socket.SHUT_WR)


def _place(address: tuple[str, int]) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


async def bind(host: str, port: int, *, backlog: int) -> list[socket.socket]:
    """Listening sockets on all addresses of a host name. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            sock = socket.create_server(address[:2], family=family, backlog=backlog)
            sockets.append(sock)
            sock.setblocking(False)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets
