"""Plain HTTP beside gRPC: what a person, a browser or Prometheus asks, whichever version of HTTP carries it.

`Http1Connection` and `WebCall` (HTTP/2) read requests and write answers; what is answered stands in a `WebTable`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import parse_qs

import msgspec

from plasmacloud.base.logging import get_logger

log = get_logger("rpc")

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"
_REQUEST_S: Final = 2e-4
_BYTE_S: Final = 1e-7  # JSON to protobuf


class HttpRequest(msgspec.Struct, frozen=True):
    """One whole request. Names of headers are in lower case."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = {}
    body: bytes = b""
    late: bool = False
    """It has waited for its turn for too long (`Limits.max_line_s`): refuse it if that is safe to repeat."""

    @property
    def cost_s(self) -> float:
        """What answering costs, roughly: tasks have no part in the turns of the loop, so it is charged in advance."""
        return _REQUEST_S + _BYTE_S * len(self.body)

    def parameters(self) -> dict[str, list[str]]:
        """The query's parameters; one without a value is there with an empty one."""
        return parse_qs(self.query, keep_blank_values=True)


class HttpResponse(msgspec.Struct, frozen=True):
    """One whole answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()


HttpHandler = Callable[[HttpRequest], Awaitable[HttpResponse]]


def text_response(status: int, text: str, *headers: tuple[str, str]) -> HttpResponse:
    """A line of text."""
    return HttpResponse(status, text.encode() + b"\n", TEXT, headers)


def json_response(value: object, status: int = 200) -> HttpResponse:
    """A JSON document without spaces, as Go's encoder writes it."""
    return HttpResponse(status, json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(), JSON)


class WebTable:
    """Paths and what answers them. Fill it before the server starts."""

    def __init__(self) -> None:
        self._handlers: dict[str, tuple[str, HttpHandler]] = {}
        self.requests = 0
        self.shed = 0
        """Requests refused because of load."""

    def get(self, path: str, handler: HttpHandler) -> None:
        """Serve GET (and HEAD) of a path."""
        self._add(path, "GET", handler)

    def post(self, path: str, handler: HttpHandler) -> None:
        """Serve POST of a path."""
        self._add(path, "POST", handler)

    def _add(self, path: str, method: str, handler: HttpHandler) -> None:
        assert path.startswith("/"), path
        assert path not in self._handlers, path
        self._handlers[path] = (method, handler)

    async def respond(self, request: HttpRequest) -> HttpResponse:
        """The answer to a request. A handler that fails is logged and hidden."""
        self.requests += 1
        known = self._handlers.get(request.path)
        if known is None:
            return text_response(404, "404 page not found")
        method, handler = known
        if ("GET" if request.method == "HEAD" else request.method) != method:
            return text_response(405, "Method Not Allowed", ("allow", method))
        if method == "POST" and "origin" in request.headers:
            # A web page of somebody else's may send POST requests to loopback and private addresses without asking.
            return text_response(403, "requests made by web pages of other origins are refused")
        try:
            return await handler(request)
        except Exception:  # a bug of ours is one answer, not the end of the connection
            log.error("handler failed", path=request.path, exc_info=True)
            return text_response(500, "internal error")
