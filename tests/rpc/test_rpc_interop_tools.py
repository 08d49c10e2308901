"""Independent clients on our server: the h2 library, h2load, curl, etcdctl."""

import asyncio
import os
import re
import shutil
import socket

import h2.config
import h2.connection
import h2.events
import pytest
from rpc_harness import EchoService, run, serving

from plasmacloud.rpc.grpc_framing import encode_message
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.service import ServiceTable, UnaryCall
from plasmacloud.rpc.web import HttpRequest, HttpResponse, WebTable


async def tool(*argv: str, env: dict[str, str] | None = None) -> str:
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={**os.environ, **(env or {})}
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


def h2_session(port: int) -> dict[int, dict]:
    """Several calls with the h2 library, which checks every frame of ours."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    streams: dict[int, dict] = {}
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        for path, body in (("Unary", b"a"), ("Unary", bytes(60_000)), ("Fail", b""), ("Missing", b"")):
            stream = connection.get_next_available_stream_id()
            streams[stream] = {"data": b"", "headers": {}, "ended": False}
            fields = [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", f"/test.Echo/{path}"),
                (":authority", "x"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
            ]
            connection.send_headers(stream, fields)
            data = encode_message(body)
            for start in range(0, len(data), 16_384):
                connection.send_data(stream, data[start : start + 16_384])
            connection.end_stream(stream)
        connection.ping(b"12345678")
        sock.sendall(connection.data_to_send())
        while not all(s["ended"] for s in streams.values()):
            for event in connection.receive_data(sock.recv(65_536)):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    streams[event.stream_id]["headers"].update(dict(event.headers))
                elif isinstance(event, h2.events.DataReceived):
                    streams[event.stream_id]["data"] += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    streams[event.stream_id]["ended"] = True
                elif isinstance(event, h2.events.PingAckReceived):
                    streams[1]["pinged"] = True
            sock.sendall(connection.data_to_send())
    return streams


def test_the_h2_library() -> None:
    async def main() -> None:
        async with serving(EchoService().table) as (_, _, port):
            streams = await asyncio.to_thread(h2_session, port)
            assert [s["headers"]["grpc-status"] for s in streams.values()] == ["0", "0", "9", "12"]
            assert streams[1]["data"] == encode_message(b"a")
            assert streams[3]["data"] == encode_message(bytes(60_000))
            assert streams[1]["pinged"]

    run(main())


@pytest.mark.parametrize("in_flight", [1, 100])
def test_h2load(in_flight: int, tmp_path) -> None:
    async def main() -> None:
        (tmp_path / "body").write_bytes(encode_message(b"x" * 100))
        counted = 0

        def count(call: UnaryCall, body: bytes) -> None:
            nonlocal counted
            counted += 1
            call.reply(body)

        table = ServiceTable()
        table.unary("/test.Echo/Count", count)
        async with serving(table) as (_, _, port):
            output = await tool(
                "h2load", "-n5000", "-c3", f"-m{in_flight}", "-d", str(tmp_path / "body"),
                "-H", "content-type: application/grpc", "-H", "te: trailers",
                f"http://127.0.0.1:{port}/test.Echo/Count",
            )  # fmt: skip
        assert re.search(r"5000 succeeded, 0 failed, 0 errored", output), output
        assert counted == 5000

    run(main(), seconds=60)


def test_curl(tmp_path) -> None:
    async def main() -> None:
        body, reply = tmp_path / "body", tmp_path / "reply"
        body.write_bytes(encode_message(b"from curl" * 10_000))
        async with serving(EchoService().table) as (_, _, port):
            base = ("curl", "-sS", "--max-time", "10", "-o", str(reply), "-w", "%{http_code}")
            url = f"http://127.0.0.1:{port}/test.Echo/Unary"
            post = ("--http2-prior-knowledge", "--data-binary", f"@{body}")
            code = await tool(*base, *post, "-H", "content-type: application/grpc", "-H", "te: trailers", url)
            assert code == "200"
            assert reply.read_bytes() == body.read_bytes()
            assert await tool(*base, "--http2-prior-knowledge", url) == "405"
            assert await tool(*base, "--http1.1", url) == "505"

    run(main())


def test_nghttp_and_h2load_on_a_page() -> None:
    async def main() -> None:
        web = WebTable()

        async def page(request: HttpRequest) -> HttpResponse:
            return HttpResponse(200, b"<page>" * 20_000)

        web.get("/page", page)
        server = Server(ServiceTable(), web=web)
        _, port = await server.start("127.0.0.1", 0)
        try:
            url = f"http://127.0.0.1:{port}/page"
            told = await tool(
                "nghttp", "-nv", "--no-dep", "--timeout=10", "-w14", "-W15", *[f"{url}?{i}" for i in range(3)]
            )
            assert told.count(":status: 200") == 3
            assert "GOAWAY frame <length=8" in told
            for protocol in ([], ["--h1"]):
                told = await tool("h2load", *protocol, "-n300", "-c3", "-m5", url)
                assert "300 succeeded, 0 failed" in told
        finally:
            await server.close(0)

    run(main())


def test_etcdctl() -> None:
    async def main() -> None:
        table, store = ServiceTable(), {}

        def put(call: UnaryCall, body: bytes) -> None:
            request = rpc_pb2.PutRequest.FromString(body)
            store[request.key] = request.value
            call.reply(rpc_pb2.PutResponse(header={"revision": len(store)}).SerializeToString())

        table.unary("/etcdserverpb.KV/Put", put)
        async with serving(table) as (_, host, port):
            environment = {"ETCDCTL_API": "3"}
            endpoint = f"--endpoints={host}:{port}"
            assert "OK" in await tool("etcdctl", endpoint, "put", "key", "value", env=environment)
            assert store == {b"key": b"value"}

    run(main())
