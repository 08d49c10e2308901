"""Dialling with TLS in two steps: the connection, then the handshake.

In one step they would share one deadline, and a host that is cut off, where a connection has to be tried anew several
times a second, could not be told from one that takes its time with the handshake. And so, as in `tls_listener`, the
other side hears why its certificate is not accepted.
"""

import asyncio
import socket

from plasmacloud.base.tls import ClientTls
from plasmacloud.base.tls_errors import PartingWord, describe_tls_error
from plasmacloud.rpc.tls_listener import say_goodbye


async def connect(host: str, port: int) -> socket.socket:
    """A TCP connection to the first address of the host that takes one. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError | None = None
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setblocking(False)
            await loop.sock_connect(connection, address)
            return connection
        except OSError as error:
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
    raise failure or OSError(f"{host} has no address")


async def secure(connection: socket.socket, protocol: asyncio.Protocol, tls: ClientTls) -> None:
    """Hand the connection to the protocol, behind a handshake. Raises OSError. Cancelled or failed, it is closed.

    No name is checked: ``tls`` was made for those who look at the certificate themselves.
    """
    PartingWord(lambda alert, _: say_goodbye(connection, alert))
    try:
        await asyncio.get_running_loop().create_connection(
            lambda: protocol, sock=connection, ssl=tls.context, server_hostname=""
        )
    except ConnectionError as error:
        connection.close()
        raise ConnectionError(f"{describe_tls_error(error)}; does it speak TLS there?") from error
    except BaseException:
        connection.close()
        raise
