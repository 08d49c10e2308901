"""Writes the hand-made part of the corpus: one well-formed conversation of each kind, for fuzzers to break.

Run: ``python tests/rpc/fuzz_seeds.py``. Files that exist stay; names tell what is inside.
"""

import gzip
import json
import zlib

from fuzz_targets import CORPUS
from rpc_harness import headers, message, request, request_block

from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.headers import encode_fields
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.request import RESPONSE_BLOCK, trailers_block
from plasmacloud.rpc.status import StatusCode

ONE_READ = b"\xff"
UNARY = "/test.Echo/Unary"
POST = b"POST /page/post HTTP/1.1\r\nHost: x\r\n"


def _page(stream: int, method: bytes, path: bytes, *, end: bool) -> bytes:
    fields = [(b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", b"x")]
    return frames.headers_frames(stream, encode_fields(fields), end_stream=end, max_frame_bytes=16_384)


def _packed(encoding: bytes, body: bytes) -> bytes:
    return headers(1, UNARY, (b"grpc-encoding", encoding), (b"grpc-accept-encoding", encoding)) + frames.data_frame(
        1, b"\x01" + len(body).to_bytes(4, "big") + body, end_stream=True
    )


def _server() -> dict[str, bytes]:
    block = request_block(UNARY, (b"x-bin", b"AP8"))
    padded = frames.frame_header(11, frames.DATA, frames.PADDED | frames.END_STREAM, 1) + b"\x03\0\0\0\0\x02hi\0\0\0"
    calls = b"".join(
        request(2 * i + 1, f"/test.Echo/{kind}", b"3", (b"grpc-timeout", b"50m"))
        for i, kind in enumerate(("Unary", "Keep", "Fail", "Async", "Hang", "Server", "Client", "Bidi", "Missing"))
    )
    return {
        "calls": calls,
        "continued": frames.headers_frames(1, block, end_stream=False, max_frame_bytes=20) + padded,
        "windows": frames.settings_frame([(4, 5), (5, 20_000), (1, 0)])
        + request(1, UNARY, bytes(100))
        + frames.window_update_frame(1, 30)
        + frames.settings_frame([(4, 70_000)])
        + frames.window_update_frame(0, 70_000),
        "resets": request(1, "/test.Echo/Hang", b"") + frames.rst_stream_frame(1, 8) + message(1, b"late"),
        "control": frames.ping_frame(bytes(8)) + frames.goaway_frame(0, 0) + frames.SETTINGS_ACK,
        "trailers": headers(1, UNARY)
        + message(1, b"x", end=False)
        + frames.headers_frames(1, b"\x00\x01a\x01b", end_stream=True, max_frame_bytes=99),
        "gzip": _packed(b"gzip", gzip.compress(bytes(2000), mtime=0)),
        "deflate": _packed(b"deflate", zlib.compress(b"text" * 400)),
        "pages": _page(1, b"GET", b"/page?a=b", end=True)
        + _page(3, b"POST", b"/page/post", end=False)
        + frames.data_frame(3, b"body", end_stream=True)
        + _page(5, b"PUT", b"/nowhere", end=True),
    }


def _client() -> dict[str, bytes]:
    def answer(stream: int) -> bytes:
        return (
            frames.headers_frames(stream, RESPONSE_BLOCK, end_stream=False, max_frame_bytes=999)
            + message(stream, b"reply", end=False)
            + frames.headers_frames(stream, trailers_block(StatusCode.OK, ""), end_stream=True, max_frame_bytes=999)
        )

    alone = trailers_block(StatusCode.ABORTED, "why", [("d-bin", b"\0")], alone=True)
    return {
        "answers": answer(1) + answer(3) + answer(5),
        "failure": frames.headers_frames(1, alone, end_stream=True, max_frame_bytes=999)
        + frames.rst_stream_frame(3, 7),
        "leaving": frames.goaway_frame(1, 0) + answer(1) + frames.goaway_frame(0, 11, b"too_many_pings"),
    }


def _http1() -> dict[str, bytes]:
    return {
        "get": b"GET /page?a=b HTTP/1.1\r\nHost: x\r\n\r\n" * 2,
        "post": b"POST /page/post HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbodyHEAD /page HTTP/1.0\r\n\r\n",
        "chunked": POST + b"Transfer-Encoding: chunked\r\n\r\n4;a=b\r\nbody\r\n0\r\nt: v\r\n\r\n",
        "expect": b"POST /page/post HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        "upgrade": b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "smuggle": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    }


def _requests() -> dict[str, bytes]:
    put = rpc_pb2.PutRequest(key=b"k", value=b"v", prev_kv=True)
    txn = rpc_pb2.TxnRequest(
        compare=[{"key": b"k", "target": rpc_pb2.Compare.VALUE, "value": b"v"}],
        success=[{"request_put": put}, {"request_txn": {"failure": [{"request_range": {"key": b"a"}}]}}],
    )
    found = rpc_pb2.RangeRequest(key=b"a", range_end=b"b", limit=7, revision=3, sort_order=1, sort_target=2)
    return {"put": put.SerializeToString(), "txn": txn.SerializeToString(), "range": found.SerializeToString()}


def _gateway() -> dict[str, bytes]:
    txn = {
        "compare": [{"key": "Zm9v", "target": "VALUE", "result": "EQUAL", "value": "YmFy"}],
        "success": [{"requestPut": {"key": "Zm9v", "value": "YQ=="}}, {"request_range": {"key": "Zm9v"}}],
    }
    ranged = {"key": "Zm9v", "limit": "5", "sortOrder": 1, "serializable": True, "unknown": [None]}
    return {"txn": json.dumps(txn).encode(), "range": json.dumps(ranged).encode()}


def main() -> None:
    block = request_block(UNARY, (b"grpc-timeout", b"1S"))
    inserting = b"\x83\x86\x44\x03/ab\xbe\x3f\xe1\x1f"
    greeting = frames.PREFACE + frames.settings_frame([])
    sets = {
        "server_connection": {name: ONE_READ + data for name, data in _server().items()},
        "client_connection": {name: ONE_READ + data for name, data in _client().items()},
        "port": {"h2": b"\x01" + greeting + request(1, UNARY, b""), "tls": b"\xff\x16\x03\x01", "h1": b"\xffGET / "},
        "http1": {name: b"\x02" + data for name, data in _http1().items()},
        "hpack": {
            "blocks": block + b"\xff\xfe\xfd" + inserting,
            "huffman": b"\x82\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b",
        },
        "messages": {
            "two": b"\x01" + b"\0\0\0\0\x02hi" * 2,
            "gzip": ONE_READ + b"\1\0\0\0\x17" + gzip.compress(b"abc", mtime=0),
        },
        "requests": _requests(),
        "gateway": _gateway(),
    }
    for target, files in sets.items():
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            path = CORPUS / target / name
            if not path.exists():
                path.write_bytes(data)


if __name__ == "__main__":
    main()
