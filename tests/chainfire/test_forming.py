"""Machines that look for each other, and answers that are none."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from plasmacloud.base.process import free_ports
from plasmacloud.chainfire.config import make_config
from plasmacloud.chainfire.forming import EXCHANGE, _Forming, form
from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.proto import formation_pb2
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.service import ServiceTable
from plasmacloud.rpc.status import RpcError, StatusCode
from plasmacloud.storage.disk import OsDisk

GARBAGE = b"\xff\xff\xff"
NO_ADDRESS = formation_pb2.FormationReport(
    sender=formation_pb2.Founder(name="b", peer="nowhere", client="nowhere")
).SerializeToString()


def config_for(directory: Path, port: int, peer: int, *seeds: str):
    return make_config(
        name="a",
        data_dir=directory / "a",
        listen_client=f"127.0.0.1:{port}",
        listen_peer=f"127.0.0.1:{peer}",
        bootstrap_expect=1,
        seeds=seeds,
    )


@pytest.mark.parametrize("answer", [GARBAGE, NO_ADDRESS])
def test_what_is_no_answer_of_a_machine_is_as_good_as_none(tmp_path: Path, answer: bytes) -> None:
    """A seed may be the address of something else altogether: that must not end the process."""

    async def main() -> None:
        asked = 0

        def strange(call, _body: bytes) -> None:
            nonlocal asked
            asked += 1
            call.reply(answer)

        table = ServiceTable()
        table.unary(EXCHANGE, strange)
        server = Server(table)
        _, seed = await server.start("127.0.0.1", 0)
        try:
            async with asyncio.timeout(30):
                formed = await form(config_for(tmp_path, *free_ports(2), f"127.0.0.1:{seed}"), disk=OsDisk())
        finally:
            await server.close(0)
        assert [machine.name for machine in formed.founders] == ["a"]
        assert asked > 0

    asyncio.run(main())


def test_reports_that_are_none_are_refused_and_their_number_is_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        port, peer = free_ports(2)
        forming = _Forming(config_for(tmp_path, port, peer), OsDisk())
        await forming.listen()
        channel = Channel("127.0.0.1", port)
        try:
            for body in (GARBAGE, NO_ADDRESS):
                with pytest.raises(RpcError) as refused:
                    await channel.unary(EXCHANGE, body, timeout=10)
                assert refused.value.code is StatusCode.INVALID_ARGUMENT
            for number in range(400):
                place = formation_pb2.Founder(name=f"m{number}", peer=f"10.0.0.1:{number + 1}", client="10.0.0.2:1")
                others = [
                    formation_pb2.Founder(name=f"o{n}", peer="10.1.1.1:1", client=f"10.1.{number % 250}.{n}:1")
                    for n in range(5)
                ]
                report = formation_pb2.FormationReport(sender=place, expect=3, known=others)
                refused = pytest.raises(RpcError, match="more than") if number >= 256 else contextlib.nullcontext()
                with refused:
                    await channel.unary(EXCHANGE, report.SerializeToString(), timeout=10)
            assert len(forming._reports) == len(forming._known) == 256
        finally:
            await channel.close()
            await forming.close()

    asyncio.run(main())
