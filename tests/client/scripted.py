"""Servers that fail on purpose: a scripted gRPC server, a port that is silent, a port that is closed."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from plasmacloud.base.process import free_ports
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.service import ServiceTable, UnaryCall

PUT = "/etcdserverpb.KV/Put"
RANGE = "/etcdserverpb.KV/Range"
TXN = "/etcdserverpb.KV/Txn"
STATUS = "/etcdserverpb.Maintenance/Status"
ANSWERS = {
    PUT: rpc_pb2.PutResponse(header=rpc_pb2.ResponseHeader(revision=7)).SerializeToString(),
    RANGE: rpc_pb2.RangeResponse(header=rpc_pb2.ResponseHeader(revision=7), count=1).SerializeToString(),
    TXN: rpc_pb2.TxnResponse(header=rpc_pb2.ResponseHeader(revision=7), succeeded=True).SerializeToString(),
    STATUS: rpc_pb2.StatusResponse(version="scripted").SerializeToString(),
}

Script = Callable[[UnaryCall, int], None]
"""What to do with a call; the number counts the calls of this server from 1. None: answer OK."""


class Scripted:
    """A server that knows the methods above and does with each call what its script says."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script
        self.calls: list[str] = []
        self.metadata: list[list[tuple[str, bytes | str]]] = []
        table = ServiceTable()
        for path in ANSWERS:
            table.unary(path, self._handle)
        self.server = Server(table)
        self.endpoint = ""

    async def start(self) -> None:
        host, port = await self.server.start("127.0.0.1", 0)
        self.endpoint = f"{host}:{port}"

    def _handle(self, call: UnaryCall, body: bytes) -> None:
        self.calls.append(call.path)
        self.metadata.append(call.metadata)
        if self.script is None:
            answer(call)
        else:
            self.script(call, len(self.calls))


def answer(call: UnaryCall) -> None:
    """OK."""
    call.reply(ANSWERS[call.path])


def die(call: UnaryCall) -> None:
    """The request arrived, and the connection ends without an answer: what a killed server looks like."""
    call.connection.abort()


def ignore(call: UnaryCall) -> None:
    """Never answer."""


@asynccontextmanager
async def scripted(*scripts: Script | None) -> AsyncIterator[list[Scripted]]:
    """Servers with these scripts."""
    servers = [Scripted(script) for script in scripts]
    try:
        for server in servers:
            await server.start()
        yield servers
    finally:
        for server in servers:
            await server.server.close(0.0)


@asynccontextmanager
async def silent_endpoint() -> AsyncIterator[str]:
    """A port that takes connections and never says a word: what a frozen server looks like."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        await asyncio.sleep(0)


def closed_endpoint() -> str:
    """A port where nobody listens."""
    return f"127.0.0.1:{free_ports(1)[0]}"
