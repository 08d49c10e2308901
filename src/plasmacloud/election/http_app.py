"""The HTTP API as one ASGI application: what can be read, in one place, and how errors, IDs and metrics are put around.

What changes something is in `http_actions`. The OpenAPI document is at ``/schema/openapi.json``; no page of it loads
anything from elsewhere.
"""

import re
import secrets
import time
from typing import Annotated, Any

from litestar import Controller, Litestar, Response, get
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin, YamlRenderPlugin
from litestar.params import QueryParameter
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from plasmacloud import __version__
from plasmacloud.base.logging import get_logger
from plasmacloud.election.http_actions import Actions, ProbeRoutes
from plasmacloud.election.http_auth import Door
from plasmacloud.election.http_metrics import CONTENT_TYPE, Metrics
from plasmacloud.election.http_models import NodeAnswer, QuorumAnswer, ReadyAnswer, StatusAnswer
from plasmacloud.election.http_problems import Problem, answer_defect, answer_http_exception, answer_problem
from plasmacloud.election.idempotency import Replies
from plasmacloud.election.quorum import Health
from plasmacloud.election.server_service import ElectionService

MAX_BODY_BYTES = 128 * 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_NOT_READY = {503: ResponseSpec(ReadyAnswer, generate_examples=False, description="It is not; the body says why.")}
_NOT_READY_TEXT = {
    503: ResponseSpec(
        str, generate_examples=False, description="It cannot; the body says why.", media_type="text/plain"
    )
}

log = get_logger("election")


class StatusRoutes(Controller):
    """Who leads, how the database is, who else takes part."""

    path = "/v1/ha"
    tags = ["status"]  # noqa: RUF012 - the framework's way

    @get("/status", summary="What this node knows", sync_to_thread=False)
    def status(self, service: ElectionService) -> StatusAnswer:
        """Role, leader, epoch, health."""
        return service.status()

    @get("/quorum", summary="Whether the database can be trusted with a write", sync_to_thread=False)
    def quorum(self, service: ElectionService) -> QuorumAnswer:
        """Health with its reasons, replicas, and the last changes."""
        return service.quorum()

    @get("/nodes", summary="Everybody who takes part", sync_to_thread=False)
    def nodes(self, service: ElectionService) -> list[NodeAnswer]:
        """From the database, as of the last probe."""
        return service.nodes()


class HealthRoutes(Controller):
    """For load balancers: 200 or 503, and why."""

    path = "/v1/health"
    tags = ["health"]  # noqa: RUF012

    @get("/leader", responses=_NOT_READY, summary="Whether this node leads", sync_to_thread=False)
    def leader(self, service: ElectionService) -> Response[ReadyAnswer]:
        """200 on the leader only."""
        return _ready(service.leader_ready())

    @get("/read-ready", responses=_NOT_READY, summary="Whether the database answers", sync_to_thread=False)
    def read_ready(self, service: ElectionService) -> Response[ReadyAnswer]:
        """200 on every node whose database can be read."""
        return _ready(service.read_ready())

    @get(
        "/write-ready",
        responses=_NOT_READY,
        summary="Whether a guarded write would be accepted here",
        sync_to_thread=False,
    )
    def write_ready(self, service: ElectionService) -> Response[ReadyAnswer]:
        """200 on the leader, while the database takes writes."""
        return _ready(service.write_ready())


def _ready(answer: ReadyAnswer) -> Response[ReadyAnswer]:
    return Response(answer, status_code=200 if answer.ready else 503)


Verbose = Annotated[str | None, QueryParameter(name="verbose", description="List the checks.")]


@get("/livez", summary="Whether the process works", media_type="text/plain", sync_to_thread=False, tags=["process"])
def livez() -> str:
    """200 as long as requests are answered."""
    return "ok\n"


@get(
    "/readyz",
    responses=_NOT_READY_TEXT,
    summary="Whether it can do its work",
    media_type="text/plain",
    sync_to_thread=False,
    tags=["process"],
)
def readyz(service: ElectionService, verbose: Verbose = None) -> Response[str]:
    """200 when this node takes part in the election and its database answers."""
    verdict = service.watch.judge.verdict
    checks = [
        ("election", service.leadership.role.value != "stopped", service.leadership.role.value),
        ("quorum", verdict.health is not Health.LOST, "; ".join(verdict.reasons) or verdict.health.value),
    ]
    good = all(well for _, well, _ in checks)
    lines = [f"[{'+' if well else '-'}]{name}: {why}" for name, well, why in checks]
    if verbose is None and good:
        lines = []
    text = "\n".join([*lines, "ok" if good else "not ready", ""])
    return Response(text, status_code=200 if good else 503, media_type="text/plain")


@get("/metrics", summary="For Prometheus", media_type="text/plain", sync_to_thread=False, tags=["process"])
def metrics(service: ElectionService) -> Response[bytes]:
    """In the text format 0.0.4."""
    return Response(service.metrics_text(), media_type=CONTENT_TYPE)


def make_app(service: ElectionService) -> "Observed":
    """The application of one server."""
    config = service.config
    door = Door(token=config.token, certificates=config.client_ca is not None)
    replies = Replies()

    def provide_service() -> ElectionService:
        return service

    def provide_door() -> Door:
        return door

    def provide_replies() -> Replies:
        return replies

    app = Litestar(
        route_handlers=[StatusRoutes, HealthRoutes, Actions, ProbeRoutes, livez, readyz, metrics],
        dependencies={
            "service": Provide(provide_service, sync_to_thread=False),
            "door": Provide(provide_door, sync_to_thread=False),
            "replies": Provide(provide_replies, sync_to_thread=False),
        },
        exception_handlers={
            Problem: answer_problem,
            HTTPException: answer_http_exception,
            Exception: answer_defect,
        },
        openapi_config=OpenAPIConfig(
            title="PlasmaCloud election",
            version=__version__,
            description="Who leads, whether the database can be trusted with a write, and what an operator can do.",
            path="/schema",
            render_plugins=[JsonRenderPlugin(path="/openapi.json"), YamlRenderPlugin(path="/openapi.yaml")],
        ),
        logging_config=None,
        request_max_body_size=MAX_BODY_BYTES,
        debug=False,
        pdb_on_exception=False,
    )
    return Observed(app, service.metrics)


class Observed:
    """Around the application: every request gets an ID, and is counted when it is answered."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def warm_up(self) -> None:
        """Go a write's way through the framework once, without a value: it is refused, and counted nowhere.

        Whatever the framework builds with the first request of a kind takes it tens of milliseconds, which would
        otherwise pass when the first client comes to a new leader.
        """
        body = b"{}"
        headers = ((b"host", b"-"), (b"content-type", b"application/json"), (b"content-length", b"2"))
        scope: Any = {
            "type": ScopeType.HTTP,
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "PUT",
            "scheme": "http",
            "path": "/v1/probe/-",
            "raw_path": b"/v1/probe/-",
            "query_string": b"",
            "root_path": "",
            "headers": list(headers),
            "client": None,
            "server": None,
            "extensions": {},
            "state": {"request_id": "warm-up"},
        }

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(_message: Message) -> None:
            return None

        await self._app(scope, receive, send)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        began_s = time.perf_counter()
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        finally:
            took_s = time.perf_counter() - began_s
            path = str(scope.get("path_template") or "other")
            method = scope["method"] if path != "other" else "other"
            self._metrics.requests.labels(method, path, str(status)).inc()
            self._metrics.request_s.labels(method, path).observe(took_s)
            log.debug("request", method=method, path=scope["path"], status=status, request_id=request_id)


def _request_id(scope: Any) -> str:
    """The caller's, if it is one; else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(text):
                return str(text)
    return secrets.token_hex(8)
