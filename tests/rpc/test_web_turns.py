"""Plain HTTP takes its turns with gRPC, is refused under load where that is safe, and never piles up answers."""

from __future__ import annotations

import asyncio
import json
import threading
from base64 import b64encode
from collections.abc import Awaitable
from contextlib import closing

import pytest
from rpc_harness import FakeTransport, Wire, run

from plasmacloud.rpc import gateway
from plasmacloud.rpc.gateway import Gateway, _Bound, _Converter, to_json
from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.headers import encode_fields
from plasmacloud.rpc.http1_connection import Http1Connection
from plasmacloud.rpc.limits import Limits
from plasmacloud.rpc.local_call import call_locally
from plasmacloud.rpc.proto import kv_pb2, rpc_pb2
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.service import ServiceTable, Shedding, UnaryCall
from plasmacloud.rpc.status import RpcError, StatusCode
from plasmacloud.rpc.turns import Turns
from plasmacloud.rpc.web import HttpRequest, HttpResponse, WebTable, json_response, text_response

BUSY = "etcdserver: too many requests"
GET = b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n"
COST_S = HttpRequest("GET", "/page").cost_s


def post(path: str, body: bytes) -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body)


PUT = post("/v3/kv/put", json.dumps({"key": "YQ==", "value": "Yg=="}).encode())


class Rig:
    """A server with pages and a gateway, on a clock of the test's; connections on fake transports."""

    def __init__(self, *, limits: Limits | None = None, requests_per_turn: float = 2.5) -> None:
        self.now = 50.0
        self.shed = False
        self.full = False
        self.served: list[str] = []
        self.size = 5
        self.table = ServiceTable()
        for name in ("Put", "Range"):
            self.table.unary(f"/etcdserverpb.KV/{name}", self._serve, Shedding(lambda: self.shed, BUSY))
        self.web = WebTable()
        self.web.get("/page", self._page)
        self.web.get("/broken", self._broken)
        Gateway(self.table, self.web).bind(
            {"/v3/kv/put": "/etcdserverpb.KV/Put", "/v3/kv/range": "/etcdserverpb.KV/Range"}, rpc_pb2.DESCRIPTOR
        )
        self.server = Server(self.table, limits=limits, web=self.web)
        loop = asyncio.get_running_loop()
        self.server.turns = Turns(loop.call_soon, lambda: self.now, requests_per_turn * COST_S)

    def _serve(self, call: UnaryCall, body: bytes) -> None:
        self.served.append(call.path.rpartition("/")[2])
        if self.full:
            call.fail(StatusCode.RESOURCE_EXHAUSTED, BUSY)
        else:
            call.reply(b"")

    async def _page(self, request: HttpRequest) -> HttpResponse:
        self.served.append("page")
        return text_response(200, "x" * self.size)

    async def _broken(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, b"", "text/plain\r\nnot a header")

    def connect(self) -> tuple[Http1Connection, FakeTransport]:
        transport = FakeTransport()
        connection = Http1Connection(self.server, self.web, transport, "test:1")
        self.server.connections.add(connection)
        return connection, transport


async def turn(turns: int = 1) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def answers(transport: FakeTransport) -> list[int]:
    """The status codes of everything written."""
    text = b"".join(transport.writes)
    return [int(part[:3]) for part in text.split(b"HTTP/1.1 ")[1:]]


def test_a_crowd_on_http1_gets_no_more_of_a_turn_than_its_budget() -> None:
    async def main() -> None:
        rig = Rig()
        crowd = [rig.connect() for _ in range(30)]
        for connection, _ in crowd:
            connection.data_received(GET)
        begun = [0]
        while len(rig.served) < 30:
            await turn()
            begun.append(len(rig.served))
            assert begun[-1] - begun[-2] <= 3, "two and the half of one fit into the budget"
            assert len(begun) < 100
        assert [answers(transport) for _, transport in crowd] == [[200]] * 30
        assert rig.server.totals().put_off >= 27
        assert all(transport.reading for _, transport in crowd)

    run(main())


def test_a_client_that_sends_ahead_has_one_request_in_a_turn() -> None:
    async def main() -> None:
        rig = Rig()
        greedy, greedy_transport = rig.connect()
        modest, modest_transport = rig.connect()
        greedy.data_received(GET * 50)
        modest.data_received(GET)
        await turn(6)
        assert answers(modest_transport) == [200]
        assert 1 <= len(answers(greedy_transport)) <= 6
        await turn(200)
        assert len(answers(greedy_transport)) == 50

    run(main())


def test_pages_on_http2_are_charged_too() -> None:
    async def main() -> None:
        rig = Rig()
        wire = Wire(rig.table)
        wire.server.web, wire.connection._turns = rig.web, rig.server.turns
        wire.server.turns = rig.server.turns
        block = encode_fields(
            [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/page"), (b":authority", b"x")]
        )
        ask = [
            frames.headers_frames(stream, block, end_stream=True, max_frame_bytes=16_384)
            for stream in range(1, 1001, 2)
        ]
        wire.send(b"".join(ask))
        assert not wire.transport.reading, "one share is begun, the rest stands in line"
        await turn()
        assert len(rig.served) <= 128
        await turn(100)
        assert len(rig.served) == 500
        wire.lose()

    run(main())


def test_writes_by_json_are_shed_before_their_body_is_looked_at() -> None:
    async def main() -> None:
        rig = Rig(requests_per_turn=1e9)
        rig.shed = True
        connection, transport = rig.connect()
        connection.data_received(post("/v3/kv/put", b"{ this is no JSON"))
        await turn(5)
        (written,) = transport.writes
        assert written.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nretry-after: 1\r\n" in written.lower()
        assert json.loads(written.partition(b"\r\n\r\n")[2]) == {"error": BUSY, "code": 8, "message": BUSY}
        assert rig.server.totals().shed == 1
        connection.data_received(GET)
        await turn(5)
        assert answers(transport) == [503, 200], "pages about the server are answered"
        rig.shed = False
        connection.data_received(PUT)
        await turn(5)
        assert answers(transport)[2:] == [200]
        rig.full = True  # told only when the call has begun
        connection.data_received(PUT)
        await turn(5)
        assert answers(transport)[3:] == [503]
        assert rig.server.totals().shed == 2

    run(main())


def test_what_has_waited_for_its_turn_for_too_long_is_shed() -> None:
    async def main() -> None:
        rig = Rig(limits=Limits(max_line_s=-1.0, max_line_turns=4), requests_per_turn=1.0)
        crowd = [rig.connect() for _ in range(12)]
        for connection, _ in crowd:
            connection.data_received(PUT)
        reader, page = rig.connect()
        reader.data_received(GET)
        await turn(60)
        codes = [answers(transport)[0] for _, transport in crowd]
        assert codes[:4] == [200] * 4
        assert codes[-4:] == [503] * 4
        assert codes == sorted(codes)
        assert answers(page) == [200], "nobody is told that the server is dead because it has much to do"

    run(main())


def test_who_asks_how_the_server_is_is_not_shed() -> None:
    async def main() -> None:
        rig = Rig()
        rig.shed = True
        path = "/etcdserverpb.KV/Range"
        assert await call_locally(rig.table, path, b"", metadata=[], shed=False) == b""
        with pytest.raises(RpcError, match=BUSY):
            await call_locally(rig.table, path, b"", metadata=[])

    run(main())


def test_a_client_that_reads_no_answers_gets_no_more_of_them() -> None:
    async def main() -> None:
        rig = Rig(requests_per_turn=1e9)
        connection, transport = rig.connect()
        connection.data_received(GET)
        await turn(5)
        connection.pause_writing()  # the transport's buffer is full
        assert not transport.reading
        for _ in range(5):
            connection.data_received(GET)  # what the transport had already
            await turn(5)
        assert answers(transport) == [200]
        connection.resume_writing()
        await turn(50)
        assert answers(transport) == [200] * 6
        assert transport.reading

    run(main())


def test_an_answer_that_cannot_be_sent_ends_the_connection(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        rig = Rig(requests_per_turn=1e9)
        connection, transport = rig.connect()
        connection.data_received(GET.replace(b"page", b"broken"))
        await turn(5)
        assert transport.closed, "else it would wait for ever"

    run(main())
    assert "request failed" in capsys.readouterr().out


@pytest.mark.parametrize("rest", [b"", b"GET /pa"])
def test_requests_in_line_are_answered_when_the_server_closes(rest: bytes) -> None:
    async def main() -> None:
        rig = Rig(requests_per_turn=1.0)
        ahead = [rig.connect() for _ in range(3)]
        for connection, _ in ahead:
            connection.data_received(GET)
        connection, transport = rig.connect()
        connection.data_received(rest or GET)
        connection.drain()
        assert not transport.closed
        await turn(30)
        assert transport.closed
        assert answers(transport) == ([] if rest else [200])

    run(main())


def test_what_is_large_is_converted_beside_the_loop() -> None:
    threads: list[tuple[str, bool]] = []
    loops = threading.get_ident()
    many = rpc_pb2.RangeResponse(
        header=rpc_pb2.ResponseHeader(revision=7),
        kvs=[kv_pb2.KeyValue(key=b"key %d" % number, value="ä\0".encode() * 9) for number in range(2000)],
        count=2000,
    )

    class Watched(_Bound):
        def _parse(self, body: bytes) -> bytes:
            threads.append(("parse", threading.get_ident() == loops))
            return super()._parse(body)

        def _render(self, reply: bytes) -> bytes:
            threads.append(("render", threading.get_ident() == loops))
            return super()._render(reply)

    async def main() -> None:
        table, web = ServiceTable(), WebTable()
        asked: list[rpc_pb2.RangeRequest] = []

        def serve(call: UnaryCall, body: bytes) -> None:
            asked.append(rpc_pb2.RangeRequest.FromString(body))
            reply = many if asked[-1].limit else rpc_pb2.RangeResponse(count=1)
            call.reply(reply.SerializeToString())

        table.unary("/etcdserverpb.KV/Range", serve)
        with closing(_Converter()) as converter:
            bound = Watched(
                table, web, converter, "/etcdserverpb.KV/Range", rpc_pb2.RangeRequest, rpc_pb2.RangeResponse
            )
            web.post("/range", bound)
            small = await web.respond(HttpRequest("POST", "/range", body=b'{"key":"YQ=="}'))
            key = b64encode(b"k" * 20_000).decode()
            large = await web.respond(
                HttpRequest("POST", "/range", body=json.dumps({"key": key, "limit": 5000}).encode())
            )
            wrong = await web.respond(HttpRequest("POST", "/range", body=b'{"key": "' + b"?" * 20_000 + b'"}'))
        assert small.body == b'{"count":"1"}'
        assert threads == [("parse", True), ("render", True), ("parse", False), ("render", False), ("parse", False)]
        assert asked[-1].key == b"k" * 20_000
        assert large.body == json_response(to_json(many)).body
        assert (large.status, large.content_type) == (200, "application/json")
        assert wrong.status == 400

    run(main())


def test_large_answers_wait_while_others_are_made_json_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would pile up: what makes JSON of them is slower than what reads them."""
    monkeypatch.setattr(gateway, "_MAX_WAITING_BYTES", 100_000)
    monkeypatch.setattr(gateway, "_MAX_REPLY_BYTES", 300_000)
    rendering, go_on = threading.Event(), threading.Event()

    class Slow(_Bound):
        def _render(self, reply: bytes) -> bytes:
            rendering.set()
            assert go_on.wait(30)
            return super()._render(reply)

    async def main() -> None:
        table, web = ServiceTable(), WebTable()
        occupied: list[bool] = []

        def serve(call: UnaryCall, body: bytes) -> None:
            occupied.append(call.occupied)
            size = rpc_pb2.RangeRequest.FromString(body).limit
            call.reply(rpc_pb2.RangeResponse(kvs=[kv_pb2.KeyValue(key=b"k" * size)]).SerializeToString())

        def ask(size: int) -> Awaitable[HttpResponse]:
            return web.respond(HttpRequest("POST", "/range", body=b'{"limit":"%d"}' % size))

        table.unary("/etcdserverpb.KV/Range", serve)
        with closing(_Converter()) as converter:
            path = "/etcdserverpb.KV/Range"
            web.post("/range", Slow(table, web, converter, path, rpc_pb2.RangeRequest, rpc_pb2.RangeResponse))
            try:
                first = asyncio.ensure_future(ask(200_000))
                await asyncio.to_thread(rendering.wait, 30)
                second = asyncio.ensure_future(ask(50_000))
                await asyncio.sleep(0)
                too_large = await ask(300_000)
            finally:
                go_on.set()
            assert (await first).status == (await second).status == 200
            assert too_large.status == 429
            assert b"use gRPC" in too_large.body
            await ask(1)
        assert occupied == [False, True, True, False]

    run(main())
