"""The door of a host: runs inside of its network namespace, and hands connections from outside to services inside.

A socket belongs to the namespace in which it was made. The lab makes the listening sockets outside and this process
inherits them; whom it connects to, it connects to from inside. So nothing has to join the two networks. The process is
also what keeps the namespace alive: when it ends, and everybody else in there, the kernel removes it.

Run as a program, with nothing but the standard library: ``door.py FD:PORT …``. It says ``ready`` and its PID.
"""

import asyncio
import os
import socket
import sys

_CHUNK_BYTES = 65_536


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """One connection, until both sides are done or one of them breaks."""
    other: asyncio.StreamWriter | None = None
    try:
        inner, other = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pump(reader, other), _pump(inner, writer))
    except OSError:
        pass
    finally:
        for each in (writer, other):
            if each is not None:
                each.transport.abort()


async def _serve(doors: list[tuple[int, int]]) -> None:
    for fd, port in doors:
        listener = socket.socket(fileno=fd)
        await asyncio.start_server(lambda r, w, port=port: _carry(r, w, port), sock=listener)  # type: ignore[misc]
    print(f"ready {os.getpid()}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve([(int(fd), int(port)) for fd, port in (word.split(":") for word in sys.argv[1:])]))
