"""Where a member waits for the others, in plaintext or with TLS, and what can be wrong with an address."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.tls import ServerTls
from plasmacloud.base.tls_errors import describe_tls_error
from plasmacloud.rpc.peer_link import IncomingLink, format_address
from plasmacloud.rpc.peer_options import PeerOptions
from plasmacloud.rpc.peer_wire import Refusal, RefusalCode, encode_refusal
from plasmacloud.rpc.tls_listener import TlsListener, bind

_BACKLOG = 128
_SPEAK_TLS = encode_refusal(Refusal(RefusalCode.CERTIFICATE, "members talk to each other over TLS here (--tls)"))


class Listening(Protocol):
    """What accepts connections."""

    def close(self) -> None:
        """Accept no more."""

    async def wait_closed(self) -> None:
        """Until that is done."""


async def listen(
    link: Callable[[], IncomingLink],
    host: str,
    port: int,
    *,
    tls: ServerTls | None,
    options: PeerOptions,
    on_refused: Callable[[str, str], None],
) -> tuple[Listening, tuple[str, int]]:
    """Accept connections from now on; the second value is the address. Raises OSError.

    ``on_refused(host:port, reason)``: somebody could not even finish the handshake of TLS.
    """
    if tls is not None:
        sockets = await bind(host, port, backlog=_BACKLOG)
        secured = TlsListener(
            sockets,
            tls,
            link,
            on_refused=on_refused,
            to_plaintext=lambda _: _SPEAK_TLS,
            handshake_s=options.handshake_timeout_s,
            max_handshakes=options.max_unauthenticated,
        )
        return secured, secured.address
    loop = asyncio.get_running_loop()
    server = await loop.create_server(link, host, port, reuse_address=True, backlog=_BACKLOG)
    name = server.sockets[0].getsockname()
    return server, (str(name[0]), int(name[1]))


def describe(error: OSError | UnicodeError) -> str:
    """Why there is no connection, in one line."""
    if isinstance(error, OSError) and not isinstance(error, (ssl.SSLError, socket.gaierror)) and error.errno:
        return os.strerror(error.errno)  # the same words whatever the event loop
    return describe_tls_error(error)


def listen_refused(host: str, port: int, error: OSError) -> ConfigError:
    """What an operator has to know when a member cannot listen."""
    address = format_address((host, port))
    if error.errno == errno.EADDRINUSE:
        hint = "another process (an earlier instance of this member?) listens there; stop it or change --listen-peer"
        return ConfigError(f"peer address {address} is in use", hint=hint)
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(
            f"peer address {address} does not belong to this machine",
            hint="--listen-peer takes an address of this host, or 0.0.0.0 or [::] for all of them",
        )
    return ConfigError(f"cannot listen on peer address {address}: {describe(error)}")
