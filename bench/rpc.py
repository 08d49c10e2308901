"""What one request costs: our server against grpc.aio's, with the same trivial Put handler.

Run: ``python bench/rpc.py [--seconds 2] [--rounds 3]``. Each server is a process of its own; h2load drives both in
alternating rounds, and the CPU time of the server process over the run gives µs per request. Medians are printed.
Without h2load our own channel generates the load (and is then the slower side of the two).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATH = "/etcdserverpb.KV/Put"
IN_FLIGHT = (1, 16, 64, 256)


def serve_ours() -> None:
    import uvloop

    from plasmacloud.rpc.proto import rpc_pb2
    from plasmacloud.rpc.server import Server
    from plasmacloud.rpc.service import ServiceTable, UnaryCall

    store: dict[bytes, bytes] = {}

    def put(call: UnaryCall, body: bytes) -> None:
        request = rpc_pb2.PutRequest.FromString(body)
        store[request.key] = request.value
        call.reply(rpc_pb2.PutResponse().SerializeToString())

    async def main() -> None:
        table = ServiceTable()
        table.unary(PATH, put)
        _, port = await Server(table).start("127.0.0.1", 0)
        print(port, flush=True)
        await asyncio.Event().wait()

    uvloop.run(main())


def serve_grpc_aio() -> None:
    import grpc.aio

    from plasmacloud.rpc.proto import rpc_pb2

    store: dict[bytes, bytes] = {}

    async def put(request: rpc_pb2.PutRequest, context: object) -> rpc_pb2.PutResponse:
        store[request.key] = request.value
        return rpc_pb2.PutResponse()

    async def main() -> None:
        server = grpc.aio.server()
        method = grpc.unary_unary_rpc_method_handler(
            put,
            request_deserializer=rpc_pb2.PutRequest.FromString,
            response_serializer=rpc_pb2.PutResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("etcdserverpb.KV", {"Put": method}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(port, flush=True)
        await server.wait_for_termination()

    asyncio.run(main())


SERVERS = {"plasmacloud": serve_ours, "grpc.aio": serve_grpc_aio}


class ServerProcess:
    """One server under test."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen([sys.executable, __file__, "--serve", name], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def put_body() -> bytes:
    from plasmacloud.rpc.proto import rpc_pb2

    return rpc_pb2.PutRequest(key=b"key-0001", value=bytes(100)).SerializeToString()


def drive_h2load(port: int, in_flight: int, seconds: float) -> tuple[int, float]:
    """(requests answered, requests per second)"""
    body = put_body()
    with tempfile.NamedTemporaryFile() as payload:
        payload.write(b"\0" + len(body).to_bytes(4, "big") + body)
        payload.flush()
        # fmt: off
        text = subprocess.run(
            ["h2load", "-c1", "-t1", f"-m{in_flight}", f"-D{seconds}", "-d", payload.name, "-H", "te: trailers",
             "-H", "content-type: application/grpc", f"http://127.0.0.1:{port}{PATH}"],
            capture_output=True, text=True, check=True, timeout=seconds + 30,
        ).stdout
        # fmt: on
    done = re.search(r"(\d+) succeeded, (\d+) failed", text)
    rate = re.search(r"([\d.]+) req/s", text)
    assert done is not None, text
    assert rate is not None, text
    return int(done[1]), float(rate[1])


def drive_channel(port: int, in_flight: int, seconds: float) -> tuple[int, float]:
    from plasmacloud.rpc.channel import Channel

    body = put_body()

    async def main() -> tuple[int, float]:
        channel = Channel("127.0.0.1", port)
        stop_at = time.monotonic() + seconds
        count = 0

        async def worker() -> None:
            nonlocal count
            while time.monotonic() < stop_at:
                await channel.unary(PATH, body, timeout=5.0)
                count += 1

        await asyncio.gather(*[worker() for _ in range(in_flight)])
        await channel.close()
        return count, count / seconds

    return asyncio.run(main())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=SERVERS)
    arguments = parser.parse_args()
    if arguments.serve:
        SERVERS[arguments.serve]()
        return
    drive = drive_h2load if shutil.which("h2load") else drive_channel
    servers = [ServerProcess(name) for name in SERVERS if arguments.only in (None, name)]
    try:
        for server in servers:
            drive(server.port, 16, 1)  # warm up
        print(f"{'in flight':>9} {'server':>12} {'req/s':>9} {'CPU µs/req':>11}   generator: {drive.__name__[6:]}")
        for in_flight in IN_FLIGHT:
            samples: dict[str, list[tuple[float, float]]] = {server.name: [] for server in servers}
            for _ in range(arguments.rounds):
                for server in servers:
                    before = server.cpu_s()
                    count, rate = drive(server.port, in_flight, arguments.seconds)
                    samples[server.name].append((rate, (server.cpu_s() - before) / count * 1e6))
            costs = {}
            for name, measured in samples.items():
                rate = statistics.median(r for r, _ in measured)
                costs[name] = statistics.median(c for _, c in measured)
                print(f"{in_flight:>9} {name:>12} {rate:>9.0f} {costs[name]:>11.1f}")
            if len(costs) == 2:
                print(f"{'':>9} {'CPU ratio':>12} {costs['grpc.aio'] / costs['plasmacloud']:>9.1f}x")
    finally:
        for server in servers:
            server.stop()


if __name__ == "__main__":
    main()
