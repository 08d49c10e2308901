"""Every refusal of the HTTP API as a problem document (RFC 9457).

``type`` is stable and what programs should look at. ``outcome`` says what is known of the request: ``not-executed``, or
``unknown`` when it may have been. ``request_id`` finds the request in the log and in the audit table.
"""

from enum import StrEnum
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec

from plasmacloud.base.errors import PlasmaError
from plasmacloud.base.logging import get_logger

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:plasma:problem:"

log = get_logger("election")


class Outcome(StrEnum):
    """What is known of a request that did not succeed."""

    NOT_EXECUTED = "not-executed"
    UNKNOWN = "unknown"


class ProblemKind(msgspec.Struct, frozen=True):
    """One ``type`` of problem: its name, its status code, its title."""

    name: str
    status: int
    title: str

    @property
    def type(self) -> str:
        """The URI in the document."""
        return TYPE_PREFIX + self.name


INVALID = ProblemKind("invalid-request", 400, "The request cannot be understood")
UNAUTHENTICATED = ProblemKind("unauthenticated", 401, "This call needs a token or a client certificate")
FORBIDDEN = ProblemKind("forbidden", 403, "This call is not allowed from there")
NOT_FOUND = ProblemKind("not-found", 404, "There is no such thing")
METHOD = ProblemKind("method-not-allowed", 405, "There is no such method here")
NOT_LEADER = ProblemKind("not-leader", 409, "Another node leads, or none does")
STALE_EPOCH = ProblemKind("stale-epoch", 409, "Leadership was lost: the epoch was raised by somebody else")
LAG_CRITICAL = ProblemKind("replication-lag-critical", 409, "A replica is too far behind")
NO_CONTENDER = ProblemKind("no-contender", 409, "Nobody is there to take over")
QUORUM_LOST = ProblemKind("quorum-lost", 503, "The database takes no writes")
ELECTIONS_HELD = ProblemKind("elections-held", 409, "Elections are held off by an operator")
NOTHING_TO_RECOVER = ProblemKind("nothing-to-recover", 409, "There is no split brain to recover from")
KEY_REUSED = ProblemKind("idempotency-key-reused", 422, "The same Idempotency-Key came with another request")
BACKEND = ProblemKind("backend-unavailable", 503, "The database does not answer")
NOT_SUPPORTED = ProblemKind("not-supported", 501, "The backend cannot do this")
UNFINISHED = ProblemKind("failover-unfinished", 504, "Leadership was given up, and nobody has taken it yet")
OUTCOME_UNKNOWN = ProblemKind("outcome-unknown", 503, "The write may or may not have been committed")
INTERNAL = ProblemKind("internal", 500, "A defect in the server")

_BY_STATUS = {kind.status: kind for kind in (INVALID, UNAUTHENTICATED, FORBIDDEN, NOT_FOUND, METHOD)}


class ProblemDocument(msgspec.Struct, frozen=True):
    """A refusal. Some types carry more members, such as ``leader_url``."""

    type: str
    title: str
    status: int
    detail: str
    outcome: Outcome
    request_id: str
    hint: str | None = None


def refusals(*kinds: ProblemKind) -> dict[int, ResponseSpec]:
    """What a call may answer besides its answer, for the OpenAPI document. Any call may be misunderstood."""
    by_status: dict[int, list[str]] = {}
    for kind in (INVALID, *kinds):
        by_status.setdefault(kind.status, []).append(f"{kind.title} ({kind.name})")
    return {
        status: ResponseSpec(
            ProblemDocument, generate_examples=False, description="; ".join(titles), media_type=MEDIA_TYPE
        )
        for status, titles in by_status.items()
    }


class Problem(PlasmaError):
    """Raised anywhere behind the API. ``more``: members of the document beside the usual ones."""

    def __init__(
        self,
        kind: ProblemKind,
        detail: str,
        *,
        hint: str | None = None,
        outcome: Outcome = Outcome.NOT_EXECUTED,
        **more: object,
    ) -> None:
        super().__init__(detail, hint=hint)
        self.kind = kind
        self.outcome = outcome
        self.more = more

    def document(self, request_id: str) -> dict[str, Any]:
        """The body."""
        body: dict[str, Any] = {
            "type": self.kind.type,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": str(self),
            "outcome": str(self.outcome),
            "request_id": request_id,
        }
        if self.hint:
            body["hint"] = self.hint
        return body | self.more


def request_id_of(request: "Request[Any, Any, Any]") -> str:
    """The ID that the outermost layer gave this request."""
    return str(request.scope["state"].get("request_id", ""))


def answer_problem(request: "Request[Any, Any, Any]", error: Problem) -> "Response[dict[str, Any]]":
    """The exception handler for our own refusals."""
    headers = {"WWW-Authenticate": "Bearer"} if error.kind is UNAUTHENTICATED else {}
    body = error.document(request_id_of(request))
    return Response(body, status_code=error.kind.status, media_type=MEDIA_TYPE, headers=headers)


def answer_http_exception(request: "Request[Any, Any, Any]", error: HTTPException) -> "Response[dict[str, Any]]":
    """The exception handler for what the framework refuses: paths, methods, bodies that do not decode."""
    if error.status_code >= 500:
        return answer_defect(request, error)
    kind = _BY_STATUS.get(error.status_code) or ProblemKind("invalid-request", error.status_code, INVALID.title)
    return answer_problem(request, Problem(kind, _explain(error, request)))


def _explain(error: HTTPException, request: "Request[Any, Any, Any]") -> str:
    if error.status_code == 404:
        return f"nothing at {request.url.path}"
    if error.status_code == 405:
        return f"{request.method} is not possible at {request.url.path}"
    if request.method in ("POST", "PUT") and request.headers.get("content-length", "0") == "0":
        return "a JSON object is expected in the body, and there is none"
    extra = error.extra if isinstance(error.extra, list) else []
    said = [" ".join(str(part) for part in (item.get("key"), item.get("message")) if part) for item in extra]
    return "; ".join(said) or error.detail


def answer_defect(request: "Request[Any, Any, Any]", error: Exception) -> "Response[dict[str, Any]]":
    """The exception handler for everything else: a defect, with its traceback in the log."""
    log.error("defect", request_id=request_id_of(request), path=request.url.path, exc_info=error)
    problem = Problem(
        INTERNAL, type(error).__name__, outcome=Outcome.UNKNOWN, hint="the server's log has the traceback"
    )
    return answer_problem(request, problem)
