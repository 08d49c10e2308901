"""What the client does and says when servers fail. Real sockets, scripted servers, no clocks."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from scripted import PUT, RANGE, answer, closed_endpoint, die, ignore, scripted, silent_endpoint

from plasmacloud.base.errors import ExitCode
from plasmacloud.client import (
    NO_RETRY,
    Client,
    DeadlineExceeded,
    DeadlineNotExecuted,
    DeadlineOutcomeUnknown,
    NotExecuted,
    OutcomeUnknown,
    RequestRefused,
    RetryPolicy,
    Txn,
    Unavailable,
    get,
    put,
)
from plasmacloud.rpc.service import UnaryCall
from plasmacloud.rpc.status import StatusCode

LONG = 30.0  # a deadline that a passing test never reaches
SHORT = 0.4  # one that a test waits for


class First(random.Random):
    """A generator that makes the client begin with its first endpoint."""

    def randrange(self, *args: Any, **kwargs: Any) -> int:
        return 0


def client(*endpoints: str, timeout: float = LONG, retry: RetryPolicy | None = None) -> Client:
    return Client(endpoints, timeout=timeout, retry=retry, rng=First(0))


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def say(code: StatusCode, message: str) -> Callable[[UnaryCall, int], None]:
    return lambda call, number: call.fail(code, message)


NO_LEADER = say(StatusCode.UNAVAILABLE, "etcdserver: no leader")
TIMED_OUT = say(StatusCode.UNAVAILABLE, "etcdserver: request timed out")


@pytest.mark.parametrize("count", [1, 3])
def test_nobody_listens_fails_long_before_the_deadline_and_says_not_executed(count: int) -> None:
    async def main() -> None:
        dead = [closed_endpoint() for _ in range(count)]
        async with (
            client(*dead) as c,
            asyncio.timeout(LONG / 2),
        ):
            with pytest.raises(Unavailable) as caught:
                await c.put("k", "v")
            assert not isinstance(caught.value, DeadlineExceeded)
            assert caught.value.exit_code is ExitCode.UNAVAILABLE
            assert {attempt.endpoint for attempt in caught.value.attempts} == set(dead)
            assert all(attempt.problem == "connection refused" for attempt in caught.value.attempts)
            assert "--endpoints" in (caught.value.hint or "")

    run(main)


def test_a_patient_client_waits_for_a_cluster_that_is_down() -> None:
    async def main() -> None:
        async with client(closed_endpoint(), timeout=SHORT, retry=RetryPolicy(unreachable_rounds=0)) as c:
            with pytest.raises(DeadlineNotExecuted) as caught:
                await c.put("k", "v")
            assert len(caught.value.attempts) > 2

    run(main)


def test_one_dead_endpoint_of_three_costs_nothing_but_an_attempt() -> None:
    async def main() -> None:
        async with scripted(None, None) as (a, b), client(closed_endpoint(), a.endpoint, b.endpoint) as c:
            for _ in range(5):
                await c.put("k", "v")
            assert [len(a.calls), len(b.calls)] == [5, 0]
            assert [health.failures for health in c.endpoint_health()] == [1, 0, 0]

    run(main)


def test_a_read_leaves_a_silent_endpoint_for_the_next_one() -> None:
    async def main() -> None:
        async with (
            silent_endpoint() as silent,
            scripted(None) as (good,),
            client(silent, good.endpoint, timeout=8.0) as c,
        ):
            assert (await c.get("k")).count == 1
            assert c.endpoint_health()[0].failures == 1

    run(main)


def test_a_write_leaves_a_silent_endpoint_for_the_next_one_because_it_was_not_sent() -> None:
    """The HTTP/2 handshake is not answered, so the request never leaves."""

    async def main() -> None:
        async with (
            silent_endpoint() as silent,
            scripted(None) as (good,),
            client(silent, good.endpoint, timeout=8.0) as c,
        ):
            assert (await c.put("k", "v")).header.revision == 7

    run(main)


def test_a_lone_silent_endpoint_ends_with_the_deadline_and_not_executed() -> None:
    async def main() -> None:
        async with silent_endpoint() as silent, client(silent, timeout=SHORT) as c:
            for call in (c.get("k"), c.put("k", "v")):
                with pytest.raises(DeadlineNotExecuted) as caught:
                    await call
                assert caught.value.exit_code is ExitCode.UNAVAILABLE

    run(main)


def test_a_server_that_never_answers_a_write_leaves_the_outcome_unknown() -> None:
    async def main() -> None:
        async with (
            scripted(lambda call, n: ignore(call), None) as (frozen, good),
            client(frozen.endpoint, good.endpoint, timeout=SHORT) as c,
        ):
            with pytest.raises(DeadlineOutcomeUnknown) as caught:
                await c.put("k", "v")
            assert caught.value.exit_code is ExitCode.OUTCOME_UNKNOWN
            assert good.calls == []
            await c.put("k", "v")  # the next one goes elsewhere
            assert good.calls == [PUT]

    run(main)


def test_a_server_that_never_answers_a_read_is_left_for_the_next_one() -> None:
    async def main() -> None:
        async with (
            scripted(lambda call, n: ignore(call), None) as (frozen, good),
            client(frozen.endpoint, good.endpoint, timeout=2.0) as c,
        ):
            assert (await c.get("k")).count == 1
            assert (frozen.calls, good.calls) == ([RANGE], [RANGE])

    run(main)


def test_a_connection_that_went_silent_is_replaced() -> None:
    """After a call timed out without any sign of life, the next one does not trust the old connection."""

    async def main() -> None:
        connections = []

        def first_is_ignored(call: UnaryCall, number: int) -> None:
            connections.append(call.connection)
            if number > 1:
                answer(call)

        async with scripted(first_is_ignored) as (server,), client(server.endpoint, timeout=SHORT) as c:
            with pytest.raises(DeadlineOutcomeUnknown):
                await c.put("k", "v")
            await c.put("k", "v")
            assert connections[0] is not connections[1]

    run(main)


def test_a_server_that_dies_with_a_write_leaves_the_outcome_unknown_and_it_is_not_repeated() -> None:
    async def main() -> None:
        async with (
            scripted(lambda call, n: die(call), None) as (dying, good),
            client(dying.endpoint, good.endpoint) as c,
        ):
            with pytest.raises(OutcomeUnknown) as caught:
                await c.put("k", "v")
            assert not isinstance(caught.value, DeadlineExceeded)
            assert len(caught.value.attempts) == 1
            assert (dying.calls, good.calls) == ([PUT], [])

    run(main)


def test_a_server_that_dies_with_a_read_costs_a_repetition() -> None:
    async def main() -> None:
        async with (
            scripted(lambda call, n: die(call), None) as (dying, good),
            client(dying.endpoint, good.endpoint) as c,
        ):
            assert (await c.get("k")).count == 1
            assert (await c.txn(Txn().then(get("k")))).succeeded

    run(main)


def test_a_transaction_that_writes_is_not_repeated() -> None:
    async def main() -> None:
        async with (
            scripted(lambda call, n: die(call), None) as (dying, good),
            client(dying.endpoint, good.endpoint) as c,
        ):
            with pytest.raises(OutcomeUnknown):
                await c.txn(Txn().then(get("k")).otherwise(put("k", "v")))
            assert good.calls == []

    run(main)


def test_a_write_goes_to_the_next_endpoint_when_one_proves_that_it_did_nothing() -> None:
    async def main() -> None:
        async with scripted(NO_LEADER, None) as (alone, good), client(alone.endpoint, good.endpoint) as c:
            await c.put("k", "v")
            await c.put("k", "v")
            assert (alone.calls, good.calls) == ([PUT], [PUT, PUT])

    run(main)


def test_writes_wait_for_a_leader_as_long_as_somebody_answers() -> None:
    async def main() -> None:
        def elected_at_the_twelfth(call: UnaryCall, number: int) -> None:
            if number < 12:
                call.fail(StatusCode.UNAVAILABLE, "chainfire: not executed: no leader")
            else:
                answer(call)

        async with (
            scripted(elected_at_the_twelfth) as (server,),
            client(closed_endpoint(), server.endpoint) as c,
        ):
            await c.put("k", "v")
            assert len(server.calls) == 12

    run(main)


def test_without_a_leader_until_the_deadline_the_cluster_is_unavailable() -> None:
    async def main() -> None:
        async with scripted(NO_LEADER, NO_LEADER) as (a, b), client(a.endpoint, b.endpoint, timeout=SHORT) as c:
            with pytest.raises(DeadlineNotExecuted, match="no leader") as caught:
                await c.put("k", "v")
            assert caught.value.exit_code is ExitCode.UNAVAILABLE
            assert a.calls
            assert b.calls

    run(main)


def test_an_answer_that_proves_nothing_ends_a_write_but_not_a_read() -> None:
    async def main() -> None:
        async with scripted(TIMED_OUT, None) as (lost, good), client(lost.endpoint, good.endpoint) as c:
            with pytest.raises(OutcomeUnknown, match="request timed out"):
                await c.put("k", "v")
            assert good.calls == []
            assert (await c.get("k")).count == 1

    run(main)


def test_a_refusal_is_final_and_carries_the_servers_words() -> None:
    async def main() -> None:
        refuse = say(StatusCode.PERMISSION_DENIED, "etcdserver: permission denied")
        async with scripted(refuse, None) as (a, b), client(a.endpoint, b.endpoint) as c:
            for call in (c.put("k", "v"), c.get("k")):
                with pytest.raises(RequestRefused) as caught:
                    await call
                assert caught.value.code is StatusCode.PERMISSION_DENIED
                assert caught.value.reason == "etcdserver: permission denied"
            assert b.calls == []

    run(main)


def test_no_retry_means_one_attempt() -> None:
    async def main() -> None:
        async with scripted(NO_LEADER, None) as (a, b), client(a.endpoint, b.endpoint, retry=NO_RETRY) as c:
            with pytest.raises(Unavailable, match="no leader"):
                await c.put("k", "v")
            assert (len(a.calls), len(b.calls)) == (1, 0)
        async with client(closed_endpoint(), retry=NO_RETRY) as c:
            with pytest.raises(Unavailable, match="connection refused") as caught:
                await c.get("k")
            assert len(caught.value.attempts) == 1

    run(main)


def test_a_question_for_one_endpoint_is_asked_there_and_nowhere_else() -> None:
    async def main() -> None:
        async with scripted(NO_LEADER, None) as (a, b), client(b.endpoint) as c:
            assert (await c.status(b.endpoint)).version == "scripted"
            with pytest.raises(Unavailable, match="no leader"):
                await c.status(a.endpoint)
            assert len(a.calls) == 1
            assert [health.endpoint for health in c.endpoint_health()] == [b.endpoint]

    run(main)


def test_only_what_needs_a_quorum_asks_for_a_leader() -> None:
    async def main() -> None:
        async with scripted(None) as (server,), client(server.endpoint) as c:
            await c.put("k", "v")
            await c.get("k")
            await c.get("k", serializable=True)
            await c.status(server.endpoint)
            await c.txn(Txn().then(get("k", serializable=True)))
            asked = [("hasleader", "true") in metadata for metadata in server.metadata]
            assert asked == [True, True, False, False, False]

    run(main)


def test_a_server_that_leaves_politely_costs_nothing() -> None:
    """GOAWAY: the calls it answered are done, the next one goes to the other endpoint."""

    async def main() -> None:
        async with scripted(None, None) as (leaving, good), client(leaving.endpoint, good.endpoint) as c:
            await c.put("k", "v")
            await leaving.server.close(1.0)
            for _ in range(3):
                await c.put("k", "v")
            assert (len(leaving.calls), len(good.calls)) == (1, 3)

    run(main)


def test_the_client_comes_back_to_an_endpoint_that_recovered() -> None:
    async def main() -> None:
        down = True

        def script(call: UnaryCall, number: int) -> None:
            if down:
                die(call)
            else:
                answer(call)

        retry = RetryPolicy(endpoint_backoff_first=0.01, endpoint_backoff_max=0.01)
        async with scripted(script) as (server,), client(server.endpoint, retry=retry) as c:
            with pytest.raises(OutcomeUnknown):
                await c.put("k", "v")
            down = False
            await c.put("k", "v")
            assert c.endpoint_health()[0].failures == 0

    run(main)


def test_a_closed_client_says_so() -> None:
    async def main() -> None:
        async with scripted(None) as (server,):
            c = client(server.endpoint)
            await c.put("k", "v")
            await c.close()
            with pytest.raises(NotExecuted, match="closed"):
                await c.put("k", "v")

    run(main)


def test_a_call_under_way_when_the_client_closes_is_unknown() -> None:
    async def main() -> None:
        async with scripted(lambda call, n: ignore(call)) as (server,):
            c = client(server.endpoint)
            call = asyncio.create_task(c.put("k", "v"))
            while not server.calls:
                await asyncio.sleep(0.001)
            await c.close()
            with pytest.raises(OutcomeUnknown):
                await call

    run(main)


def test_cancelled_calls_leave_no_task_and_a_working_client() -> None:
    async def main() -> None:
        async with (
            scripted(lambda call, n: answer(call) if n > 40 else ignore(call)) as (server,),
            client(server.endpoint) as c,
        ):
            before = len(asyncio.all_tasks())
            calls = [asyncio.create_task(c.put("k", "v")) for _ in range(40)]
            while len(server.calls) < 40:
                await asyncio.sleep(0.001)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert len(asyncio.all_tasks()) == before
            await c.put("k", "v")

    run(main)


def test_a_connection_shared_by_many_fails_each_call_on_its_own_terms() -> None:
    async def main() -> None:
        async def one(call: Coroutine[Any, Any, object]) -> str:
            try:
                await call
            except OutcomeUnknown:
                return "unknown"
            return "ok"

        def die_with_all(call: UnaryCall, number: int) -> None:
            if number == 6:
                die(call)

        async with scripted(die_with_all, None) as (dying, good), client(dying.endpoint, good.endpoint) as c:
            outcomes = await asyncio.gather(
                *(one(c.put("k", "v")) for _ in range(3)), *(one(c.get("k")) for _ in range(3))
            )
            assert outcomes == ["unknown"] * 3 + ["ok"] * 3
            assert good.calls == [RANGE] * 3

    run(main)
