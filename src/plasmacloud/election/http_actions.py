"""What changes something, over HTTP: hand leadership over, end a split brain, and write under the fence.

Each call is admitted, named and audited here, whether it was done, refused or failed; what it does is elsewhere.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Controller, Request, get, post, put
from litestar.params import HeaderParameter

from plasmacloud.base.errors import PlasmaError
from plasmacloud.election.errors import StaleEpoch
from plasmacloud.election.http_auth import PEER_SCOPE_KEY, Door, check_operator, subject_of
from plasmacloud.election.http_models import (
    FailoverAnswer,
    FailoverRequest,
    ProbeAnswer,
    ProbeRequest,
    RecoverAnswer,
    RecoverRequest,
    SplitBrainAnswer,
)
from plasmacloud.election.http_problems import (
    BACKEND,
    ELECTIONS_HELD,
    FORBIDDEN,
    INVALID,
    KEY_REUSED,
    LAG_CRITICAL,
    NO_CONTENDER,
    NOT_FOUND,
    NOT_LEADER,
    NOT_SUPPORTED,
    NOTHING_TO_RECOVER,
    OUTCOME_UNKNOWN,
    QUORUM_LOST,
    STALE_EPOCH,
    UNAUTHENTICATED,
    UNFINISHED,
    Outcome,
    Problem,
    refusals,
    request_id_of,
)
from plasmacloud.election.idempotency import Replies
from plasmacloud.election.probe import WriteNotExecuted, WriteOutcomeUnknown
from plasmacloud.election.server_failover import fail_over, not_leader
from plasmacloud.election.server_service import ElectionService
from plasmacloud.election.split_brain_looking import answer_findings, look_around
from plasmacloud.election.split_brain_recovery import recover

MAX_KEY_CHARS = 256

_ORDERS = (UNAUTHENTICATED, FORBIDDEN, ELECTIONS_HELD, KEY_REUSED, BACKEND)
_FAILOVER = (NOT_LEADER, LAG_CRITICAL, NO_CONTENDER, QUORUM_LOST, UNFINISHED)
_RECOVERY = (NOTHING_TO_RECOVER, NOT_SUPPORTED)
_WRITES = (UNAUTHENTICATED, FORBIDDEN, NOT_LEADER, STALE_EPOCH, BACKEND, OUTCOME_UNKNOWN)

T = TypeVar("T")
IdempotencyKey = Annotated[
    str, HeaderParameter(name="Idempotency-Key", required=False, description="The same call twice is done once.")
]
AnyRequest = Request[Any, Any, Any]


class Actions(Controller):
    """Orders of an operator."""

    path = "/v1/ha"
    tags = ["operator"]  # noqa: RUF012

    @post("/failover", status_code=200, summary="Hand leadership over", responses=refusals(*_ORDERS, *_FAILOVER))
    async def failover(
        self,
        request: AnyRequest,
        data: FailoverRequest,
        service: ElectionService,
        door: Door,
        replies: Replies,
        idempotency_key: IdempotencyKey = "",
    ) -> FailoverAnswer:
        """On the leader only: a follower refuses and names it."""

        async def work(operator: str) -> FailoverAnswer:
            try:
                answer = await fail_over(service, force=data.force)
            except Problem as problem:
                service.metrics.failovers.labels(problem.kind.name).inc()
                raise
            service.metrics.failovers.labels("done").inc()
            service.metrics.failover_s.observe(answer.took_ms / 1000)
            return answer

        return await replies.once(
            idempotency_key, data, lambda: _audited(request, service, door, "failover", data, work)
        )

    @get("/split-brain", summary="Look for contradictions about who leads", responses=refusals(NOT_SUPPORTED, BACKEND))
    async def split_brain(self, service: ElectionService) -> SplitBrainAnswer:
        """Asks every server and every database host that is known. Takes a second or two."""
        sight, findings = await look_around(service)
        return answer_findings(sight, findings, service)

    @post(
        "/split-brain/recover", status_code=200, summary="End a split brain", responses=refusals(*_ORDERS, *_RECOVERY)
    )
    async def recover(
        self,
        request: AnyRequest,
        data: RecoverRequest,
        service: ElectionService,
        door: Door,
        replies: Replies,
        idempotency_key: IdempotencyKey = "",
    ) -> RecoverAnswer:
        """`promote-leader`, `manual-reconcile`, or `release` after the latter."""

        async def work(operator: str) -> RecoverAnswer:
            return await recover(service, data.strategy, operator=operator, reason=data.reason, force=data.force)

        action = f"split-brain {data.strategy.value}"
        return await replies.once(idempotency_key, data, lambda: _audited(request, service, door, action, data, work))


async def _audited(
    request: AnyRequest,
    service: ElectionService,
    door: Door,
    action: str,
    data: FailoverRequest | RecoverRequest,
    work: Callable[[str], Awaitable[T]],
) -> T:
    """Admit, name, write down what is asked, do it, write down how it ended."""
    subject = _subject(request)
    facts = {
        "reason": data.reason[:1024],
        "force": data.force,
        "client": request.client.host if request.client else "",
        "certificate": subject,
        "request_id": request_id_of(request),
    }
    named = data.operator.strip() or subject or "-"
    audit = service.audit
    try:
        _admit(request, door, subject)
        operator = check_operator(data.operator, subject, data.reason)
    except Problem as problem:
        await audit.record(named[:128], action, "refused", **facts, problem=problem.kind.name, detail=str(problem))
        raise
    await audit.record(operator, action, "requested", **facts)
    try:
        answer = await work(operator)
    except Problem as problem:
        outcome = "refused" if problem.outcome is Outcome.NOT_EXECUTED else "failed"
        await audit.record(operator, action, outcome, **facts, problem=problem.kind.name, detail=str(problem))
        raise
    except (PlasmaError, OSError, TimeoutError) as error:
        why = str(error) or type(error).__name__
        await audit.record(operator, action, "failed", **facts, detail=why)
        raise Problem(BACKEND, why, outcome=Outcome.UNKNOWN) from error
    except asyncio.CancelledError:
        await audit.record(operator, action, "failed", **facts, detail="the server stopped meanwhile")
        raise
    await audit.record(operator, action, "done", **facts, answer=msgspec.to_builtins(answer))
    return answer


def _subject(request: AnyRequest) -> str:
    extensions: dict[str, Any] = dict(request.scope.get("extensions") or {})
    return subject_of(extensions.get(PEER_SCOPE_KEY))


def _admit(request: AnyRequest, door: Door, subject: str) -> None:
    headers = request.headers
    door.admit(
        authorization=headers.get("authorization", ""),
        subject=subject,
        origin=headers.get("origin", ""),
        host=headers.get("host", ""),
    )


class ProbeRoutes(Controller):
    """Keys and values for end-to-end checks, fenced by the epoch of the node that writes."""

    path = "/v1/probe"
    tags = ["probe"]  # noqa: RUF012

    @put("/{key:str}", summary="Write under the fence", responses=refusals(*_WRITES))
    async def write(
        self, request: AnyRequest, key: str, data: ProbeRequest, service: ElectionService, door: Door
    ) -> ProbeAnswer:
        """On the leader only. A problem says whether the write was certainly not executed."""
        _admit(request, door, _subject(request))
        _check_key(key)
        leadership = service.leadership
        if not leadership.leads or leadership.epoch is None:
            raise _count(service, not_leader(service))
        try:
            written = await service.probe.put(key, data.value, leadership.epoch)
        except StaleEpoch as error:
            raise _count(service, Problem(STALE_EPOCH, str(error), hint=error.hint)) from error
        except WriteOutcomeUnknown as error:
            hint = "read the key back before writing it again"
            raise _count(service, Problem(OUTCOME_UNKNOWN, str(error), hint=hint, outcome=Outcome.UNKNOWN)) from error
        except WriteNotExecuted as error:
            raise _count(service, Problem(BACKEND, str(error))) from error
        service.metrics.probe_writes.labels("ok").inc()
        return ProbeAnswer(written.key, written.value, written.epoch, written.version)

    @get("/{key:str}", summary="What is committed under a key", responses=refusals(NOT_FOUND, BACKEND))
    async def read(self, key: str, service: ElectionService) -> ProbeAnswer:
        """On any node whose database is the primary."""
        _check_key(key)
        try:
            found = await service.probe.get(key)
        except WriteNotExecuted as error:
            raise Problem(BACKEND, str(error)) from error
        if found is None:
            raise Problem(NOT_FOUND, f"there is no key {key!r}")
        return ProbeAnswer(found.key, found.value, found.epoch, found.version)


def _count(service: ElectionService, problem: Problem) -> Problem:
    service.metrics.probe_writes.labels(problem.kind.name).inc()
    return problem


def _check_key(key: str) -> None:
    if len(key) > MAX_KEY_CHARS or not key.isprintable():
        raise Problem(INVALID, f"a key has 1 to {MAX_KEY_CHARS} printable characters")
