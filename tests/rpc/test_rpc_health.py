"""grpc.health.v1: Check and Watch."""

import pytest
from rpc_harness import run, serving, until

from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.health import NOT_SERVING, SERVICE_UNKNOWN, SERVING, HealthService
from plasmacloud.rpc.proto import health_pb2
from plasmacloud.rpc.service import ServiceTable
from plasmacloud.rpc.status import RpcError, StatusCode


def ask(service: str) -> bytes:
    return health_pb2.HealthCheckRequest(service=service).SerializeToString()


def status(body: bytes) -> int:
    return health_pb2.HealthCheckResponse.FromString(body).status


def test_check_and_watch() -> None:
    async def main() -> None:
        health, table = HealthService(), ServiceTable()
        health.register(table)
        async with serving(table) as (_, host, port):
            channel = Channel(host, port)
            check = "/grpc.health.v1.Health/Check"
            assert status(await channel.unary(check, ask(""), timeout=5)) == NOT_SERVING
            health.set("", SERVING)
            assert status(await channel.unary(check, ask(""), timeout=5)) == SERVING
            for body, code in ((ask("other"), StatusCode.NOT_FOUND), (b"\xff", StatusCode.INVALID_ARGUMENT)):
                with pytest.raises(RpcError) as caught:
                    await channel.unary(check, body, timeout=5)
                assert caught.value.code is code
            async with channel.stream("/grpc.health.v1.Health/Watch", timeout=10) as watch:
                await watch.send(ask("other"))
                assert status(await watch.__anext__()) == SERVICE_UNKNOWN
                health.set("other", SERVING)
                assert status(await watch.__anext__()) == SERVING
                health.set("other", SERVING)
                health.set("other", NOT_SERVING)
                assert status(await watch.__anext__()) == NOT_SERVING
            await until(lambda: not health._watchers)
            await channel.close()

    run(main())


@pytest.mark.parametrize("bodies", [[], [b"\xff"]])
def test_a_watch_of_nothing_is_refused(bodies: list[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        health, table = HealthService(), ServiceTable()
        health.register(table)
        async with serving(table) as (_, host, port):
            channel = Channel(host, port)
            async with channel.stream("/grpc.health.v1.Health/Watch", timeout=10) as watch:
                for body in bodies:
                    await watch.send(body)
                watch.done_sending()
                with pytest.raises(RpcError) as caught:
                    await watch.__anext__()
                assert caught.value.code is StatusCode.INVALID_ARGUMENT
            await channel.close()

    run(main())
    assert "handler failed" not in capsys.readouterr().out
