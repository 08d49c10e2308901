"""One request, as many attempts as are safe, one deadline over all of them.

A round asks the endpoints one after the other. An attempt that certainly was not executed leads to the next endpoint,
and after the last one to a short pause and another round. The first verdict *refused* or *outcome unknown* ends the
request. While endpoints remain to be tried, one may use only its share of the time that is left: a read gives up on a
silent endpoint then; a write, which must not be repeated once it was sent, bounds only the connecting.

Rounds go on until the deadline as long as somebody answers ("no leader yet"). When nobody can even be reached, the
request fails after a few rounds: waiting for a cluster that is down is the caller's decision, and safe to make, since
the error says that nothing was executed.
"""

import asyncio
import os
import random
import re
from collections.abc import AsyncIterator, Sequence

import msgspec

from plasmacloud.base.tls import ClientTls, TlsFiles
from plasmacloud.base.units import format_duration
from plasmacloud.client.endpoints import Endpoint, EndpointPool
from plasmacloud.client.errors import (
    Attempt,
    ClientError,
    Compacted,
    DeadlineNotExecuted,
    DeadlineOutcomeUnknown,
    NotExecuted,
    OutcomeUnknown,
    RequestRefused,
    Unavailable,
)
from plasmacloud.client.link import Link
from plasmacloud.client.outcome import Effect, Verdict, judge
from plasmacloud.rpc.status import Execution, Metadata, RpcError, StatusCode

REQUIRE_LEADER: Metadata = (("hasleader", "true"),)
"""Asks a member without a leader to say so at once, in place of holding the request until its own time limit."""


class RetryPolicy(msgspec.Struct, frozen=True):
    """How persistent a client is. Times in seconds.

    ``enabled`` False: one attempt at one endpoint. ``unreachable_rounds``: rounds in which no endpoint could be
    reached before the request fails; 0: go on until the deadline. The pauses between rounds grow slowly, so that an
    election of some tens of milliseconds costs little more than itself.
    """

    enabled: bool = True
    unreachable_rounds: int = 2
    pause_first: float = 0.005
    pause_factor: float = 1.5
    pause_max: float = 0.2
    connect_timeout: float = 2.0
    endpoint_backoff_first: float = 0.1
    endpoint_backoff_max: float = 5.0


_ERRNO = re.compile(r"\[Errno (\d+)\] Connect call failed")

NO_RETRY = RetryPolicy(enabled=False)


class _Request:
    """One request on its way, with the record of its attempts."""

    def __init__(self, path: str, body: bytes, effect: Effect, metadata: Metadata, deadline: float, timeout: float):
        self.path = path
        self.body = body
        self.effect = effect
        self.metadata = metadata
        self.deadline = deadline  # loop time
        self.timeout = timeout  # seconds, as asked for
        self.attempts: list[Attempt] = []

    @property
    def tried(self) -> tuple[Attempt, ...]:
        return tuple(self.attempts)


class Caller:
    """Sends requests to the endpoints of one cluster. Lives on one event loop."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        policy: RetryPolicy,
        rng: random.Random,
        tls: ClientTls | None = None,
    ) -> None:
        self.policy = policy
        self._rng = rng
        self._tls = tls
        self._links = {endpoint: self._link(endpoint) for endpoint in endpoints}
        self._closed = False
        self.pool = EndpointPool(
            endpoints,
            rng,
            backoff_first=policy.endpoint_backoff_first,
            backoff_max=policy.endpoint_backoff_max,
        )

    def _link(self, endpoint: Endpoint) -> Link:
        tls = None
        if endpoint.secure:
            tls = self._tls = self._tls or ClientTls(TlsFiles())
        return Link(endpoint, connect_timeout=self.policy.connect_timeout, tls=tls)

    def connected(self, endpoint: Endpoint) -> bool:
        """Whether a connection with that endpoint is open."""
        return self._links[endpoint].connected

    async def close(self) -> None:
        """Close all connections. Requests under way fail with what is known about them."""
        self._closed = True
        await asyncio.gather(*(link.close() for link in self._links.values()))

    async def call(
        self,
        path: str,
        body: bytes,
        *,
        effect: Effect,
        timeout: float,
        require_leader: bool = False,
        endpoint: Endpoint | None = None,
    ) -> bytes:
        """The answer's bytes. With ``endpoint``: there and nowhere else, once. Raises `ClientError`."""
        deadline = asyncio.get_running_loop().time() + timeout
        request = _Request(path, body, effect, REQUIRE_LEADER if require_leader else (), deadline, timeout)
        if endpoint is not None:
            if endpoint not in self._links:
                self._links[endpoint] = self._link(endpoint)
            return await self._call_once(request, endpoint)
        if not self.policy.enabled:
            return await self._call_once(request, self.pool.order(self._now())[0])
        return await self._call_persistently(request)

    async def stream(self, path: str, body: bytes, endpoint: Endpoint, timeout: float) -> AsyncIterator[bytes]:
        """The messages that one endpoint answers with, to a request that only reads. Raises `ClientError`.

        ``timeout``: seconds for connecting, and for each message.
        """
        if endpoint not in self._links:
            self._links[endpoint] = self._link(endpoint)
        try:
            async for message in self._links[endpoint].stream(path, body, timeout=timeout):
                yield message
        except RpcError as error:
            attempts = (Attempt(str(endpoint), _problem(error, endpoint)),)
            text = f"{endpoint}: {attempts[0].problem}"
            if judge(error, Effect.READ) is Verdict.REFUSED:
                raise RequestRefused(text, code=error.code, reason=error.message, attempts=attempts) from error
            raise Unavailable(text, attempts=attempts) from error

    async def _call_once(self, request: _Request, endpoint: Endpoint) -> bytes:
        outcome = await self._attempt(request, endpoint, share=request.timeout)
        if isinstance(outcome, bytes):
            return outcome
        self._check_deadline(request)
        if outcome.executed is Execution.NOT_EXECUTED:
            raise Unavailable(f"{endpoint} cannot be reached: {request.tried[-1].problem}", attempts=request.tried)
        kind = Unavailable if outcome.code is StatusCode.UNAVAILABLE else NotExecuted
        raise kind(f"{endpoint}: {outcome.message}", attempts=request.tried)

    async def _call_persistently(self, request: _Request) -> bytes:
        unreachable_rounds = 0
        pause = self.policy.pause_first
        while True:
            order = self.pool.order(self._now())
            reached = False
            for at, endpoint in enumerate(order):
                share = self._left(request) / (len(order) - at)
                outcome = await self._attempt(request, endpoint, share)
                if isinstance(outcome, bytes):
                    return outcome
                self._check_deadline(request)
                reached = reached or outcome.executed is not Execution.NOT_EXECUTED
            unreachable_rounds = 0 if reached else unreachable_rounds + 1
            if unreachable_rounds == self.policy.unreachable_rounds > 0:
                raise _nobody_there(request, self.pool)
            await asyncio.sleep(min(pause * self._rng.uniform(0.5, 1.0), self._left(request)))
            self._check_deadline(request)
            pause = min(pause * self.policy.pause_factor, self.policy.pause_max)

    async def _attempt(self, request: _Request, endpoint: Endpoint, share: float) -> bytes | RpcError:
        """The answer, or the error of an attempt that was certainly not executed. Raises what ends the request."""
        if self._closed:
            raise NotExecuted("the client is closed", attempts=request.tried)
        try:
            answer = await self._links[endpoint].call(
                request.path,
                request.body,
                connect_within=min(share, self.policy.connect_timeout),
                timeout=share if request.effect is Effect.READ else self._left(request),
                metadata=request.metadata,
            )
        except RpcError as error:
            request.attempts.append(Attempt(str(endpoint), _problem(error, endpoint)))
            self._remember(endpoint, error)
            verdict = judge(error, request.effect)
            if verdict is Verdict.NOT_EXECUTED:
                return error
            raise self._final(verdict, error, request, endpoint) from error
        if endpoint in self.pool:
            self.pool.worked(endpoint)
        return answer

    def _remember(self, endpoint: Endpoint, error: RpcError) -> None:
        if endpoint not in self.pool:
            return
        if error.executed is not Execution.ANSWERED:
            self.pool.broke(endpoint, self._now(), error.message)
        elif error.code not in (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED):
            self.pool.worked(endpoint)  # it serves, and said no
        else:
            self.pool.declined(endpoint, error.message)

    def _final(self, verdict: Verdict, error: RpcError, request: _Request, endpoint: Endpoint) -> ClientError:
        """The error that ends a request."""
        tried = request.tried
        if verdict is Verdict.REFUSED:
            kind = Compacted if _is_compacted(error) else RequestRefused
            return kind(error.message, code=error.code, reason=error.message, attempts=tried)
        hint = "read the data back before repeating the request"
        if error.code is StatusCode.DEADLINE_EXCEEDED:
            return DeadlineOutcomeUnknown(
                f"{endpoint} did not answer within {format_duration(request.timeout)}; "
                "the request may or may not have been executed",
                attempts=tried,
                hint=hint,
            )
        return OutcomeUnknown(
            f"the request may or may not have been executed: {endpoint}: {_problem(error, endpoint)}",
            attempts=tried,
            hint=hint,
        )

    def _check_deadline(self, request: _Request) -> None:
        """Give up on a request that was not executed when its time is over."""
        if self._now() < request.deadline:
            return
        raise DeadlineNotExecuted(
            f"not executed within {format_duration(request.timeout)}: {_summary(request.tried)}",
            attempts=request.tried,
            hint="see `plasma chainfire status` for what each member says",
        )

    def _left(self, request: _Request) -> float:
        """Seconds until the deadline. For a first attempt all of them, to the digit: the encoded value is cached."""
        return max(0.0, request.deadline - self._now()) if request.attempts else request.timeout

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _nobody_there(request: _Request, pool: EndpointPool) -> Unavailable:
    if len(pool) == 1:
        message = f"{pool.states[0].endpoint} cannot be reached: {request.attempts[-1].problem}"
    else:
        message = f"no endpoint can be reached: {_summary(request.tried)}"
    return Unavailable(
        message,
        attempts=request.tried,
        hint="start a cluster with `plasma up`, or name one with --endpoints",
    )


def _summary(attempts: tuple[Attempt, ...]) -> str:
    """The last problem of each endpoint."""
    last = {attempt.endpoint: attempt.problem for attempt in attempts}
    if not last:
        return "no attempt was made"
    return "; ".join(f"{endpoint}: {problem}" for endpoint, problem in last.items())


def _problem(error: RpcError, endpoint: Endpoint) -> str:
    """The error in words for people, without the endpoint, which is named beside it."""
    text = error.message.removeprefix(f"{endpoint} is unreachable: ")
    refused = _ERRNO.match(text)
    return os.strerror(int(refused[1])).lower() if refused else text


def _is_compacted(error: RpcError) -> bool:
    return error.code is StatusCode.OUT_OF_RANGE and error.message.endswith("has been compacted")
