"""A channel that is given up while it connects leaves nothing behind."""

import asyncio
import gc
import socket

import pytest

from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.status import Execution, RpcError


def test_closing_during_the_handshake_closes_the_socket() -> None:
    async def main(port: int) -> Execution:
        channel = Channel("127.0.0.1", port)
        with pytest.raises(RpcError) as failed:
            await channel.connect(0.05)
        await channel.close()
        return failed.value.executed

    with socket.create_server(("127.0.0.1", 0)) as silent:
        executed = asyncio.run(main(silent.getsockname()[1]))
        connection, _ = silent.accept()
        with connection:
            connection.settimeout(20.0)
            while connection.recv(65536):
                pass  # the greeting, then the end: a socket left behind would keep it open
    gc.collect()
    assert executed is Execution.NOT_EXECUTED


def test_an_attempt_nobody_waits_for_any_more_fails_quietly() -> None:
    complaints: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context)))
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        channel = Channel("127.0.0.1", port)
        call = asyncio.ensure_future(channel.unary("/x/Y", b"", timeout=5.0))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)
        await channel.close()

    asyncio.run(main())
    gc.collect()
    assert complaints == []
