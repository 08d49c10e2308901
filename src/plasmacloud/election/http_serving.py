"""uvicorn as a part of this server, not the master of the process: our sockets, our signals, our log, our TLS.

uvicorn takes SIGTERM for itself and answers it by draining connections, which would leave a leader in office until the
last client has gone. Here it serves until it is told to stop, and has no say in signals.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from plasmacloud.base.address import Address
from plasmacloud.base.errors import ConfigError
from plasmacloud.base.tls import ServerTls, TlsFiles
from plasmacloud.election.http_auth import PEER_SCOPE_KEY
from plasmacloud.election.server_config import ServerConfig

DRAIN_S = 2
_BACKLOG = 256
_MAX_CONNECTIONS = 512


def bind(address: Address) -> socket.socket:
    """A listening socket. Raises `ConfigError` when the address cannot be had."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        hint = (
            "another process listens there" if error.errno == errno.EADDRINUSE else "is it an address of this machine?"
        )
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ConfigError(f"cannot listen on {address}: {why}", hint=hint) from None
    return sock


class PeerCertificateProtocol(H11Protocol):
    """HTTP/1.1 that tells the application whose certificate the client showed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection, and with TLS its handshake, is there."""
        super().connection_made(transport)
        certificate = transport.get_extra_info("peercert")
        if not certificate:
            return
        app = self.app

        async def with_certificate(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("extensions", {})[PEER_SCOPE_KEY] = certificate
            await app(scope, receive, send)

        self.app = with_certificate


def server_tls(config: ServerConfig) -> ServerTls | None:
    """What the socket needs, with files that are looked at again before each handshake. Raises `ConfigError`."""
    if config.tls_cert is None:
        return None
    files = TlsFiles(config.tls_cert, config.tls_key, config.client_ca)
    return ServerTls(files, ask_client=config.client_ca is not None, protocols=("http/1.1",))


class HttpServer(uvicorn.Server):
    """Serves one application on one socket until `stop`."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        tls = server_tls(config)
        for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
            logging.getLogger(name).disabled = True
        super().__init__(
            uvicorn.Config(
                app,
                http=PeerCertificateProtocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=DRAIN_S,
                limit_concurrency=_MAX_CONNECTIONS,
                ssl_context_factory=None if tls is None else lambda *_: tls.context,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are not ours to take."""
        yield

    def stop(self) -> None:
        """Take no more connections, finish the requests under way, end."""
        self.should_exit = True
