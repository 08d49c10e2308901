"""The table of what a failure proves, case by case, and the direction in which it may err."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmacloud.client.outcome import REFUSALS, RULES, Effect, Verdict, judge
from plasmacloud.rpc.status import Execution, RpcError, StatusCode

NOT_EXECUTED, UNKNOWN, REFUSED = Verdict.NOT_EXECUTED, Verdict.UNKNOWN, Verdict.REFUSED

# code, message, a write, a read
ANSWERS = [
    (StatusCode.UNAVAILABLE, "chainfire: not executed: no leader", NOT_EXECUTED, NOT_EXECUTED),
    (StatusCode.UNAVAILABLE, "chainfire: outcome unknown: leader lost", UNKNOWN, NOT_EXECUTED),
    (StatusCode.UNAVAILABLE, "etcdserver: no leader", NOT_EXECUTED, NOT_EXECUTED),
    (StatusCode.FAILED_PRECONDITION, "etcdserver: not leader", NOT_EXECUTED, NOT_EXECUTED),
    (StatusCode.UNAVAILABLE, "etcdserver: not capable", NOT_EXECUTED, NOT_EXECUTED),
    (StatusCode.UNAVAILABLE, "etcdserver: rpc not supported for learner", NOT_EXECUTED, NOT_EXECUTED),
    (StatusCode.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner", NOT_EXECUTED, NOT_EXECUTED),
    (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", NOT_EXECUTED, NOT_EXECUTED),
    (StatusCode.UNAVAILABLE, "etcdserver: unhealthy cluster", NOT_EXECUTED, NOT_EXECUTED),
    (StatusCode.UNKNOWN, "raft proposal dropped", NOT_EXECUTED, NOT_EXECUTED),
    (StatusCode.UNAVAILABLE, "etcdserver: request timed out", UNKNOWN, NOT_EXECUTED),
    (
        StatusCode.UNAVAILABLE,
        "etcdserver: request timed out, possibly due to previous leader failure",
        UNKNOWN,
        NOT_EXECUTED,
    ),
    (
        StatusCode.UNAVAILABLE,
        "etcdserver: request timed out, possibly due to connection lost",
        UNKNOWN,
        NOT_EXECUTED,
    ),
    (StatusCode.UNAVAILABLE, "etcdserver: leader changed", UNKNOWN, NOT_EXECUTED),
    (StatusCode.UNAVAILABLE, "etcdserver: server stopped", UNKNOWN, NOT_EXECUTED),
    (StatusCode.UNKNOWN, "raft: stopped", UNKNOWN, REFUSED),
    (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", UNKNOWN, REFUSED),
    (StatusCode.DATA_LOSS, "etcdserver: corrupt cluster", REFUSED, REFUSED),
    (
        StatusCode.UNKNOWN,
        "etcdserver: re-configuration failed due to not enough started members",
        REFUSED,
        REFUSED,
    ),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided", REFUSED, REFUSED),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large", REFUSED, REFUSED),
    (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", REFUSED, REFUSED),
    (StatusCode.NOT_FOUND, "etcdserver: requested lease not found", REFUSED, REFUSED),
    (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", REFUSED, REFUSED),
    (StatusCode.UNIMPLEMENTED, "unknown method Foo", REFUSED, REFUSED),
    (StatusCode.DEADLINE_EXCEEDED, "context deadline exceeded", UNKNOWN, NOT_EXECUTED),
    (StatusCode.CANCELLED, "context canceled", UNKNOWN, NOT_EXECUTED),
    (StatusCode.INTERNAL, "panic", UNKNOWN, REFUSED),
    (StatusCode.RESOURCE_EXHAUSTED, "grpc: trying to send message larger than max (5 vs. 4)", UNKNOWN, REFUSED),
    (StatusCode.UNAVAILABLE, "a proxy's own words", UNKNOWN, NOT_EXECUTED),
]


@pytest.mark.parametrize(("code", "message", "write", "read"), ANSWERS)
def test_what_an_answer_proves(code: StatusCode, message: str, write: Verdict, read: Verdict) -> None:
    error = RpcError(code, message, executed=Execution.ANSWERED)
    assert judge(error, Effect.WRITE) is write
    assert judge(error, Effect.READ) is read


def test_every_rule_has_a_case() -> None:
    covered = {
        rule
        for rule in RULES
        for _, message, *_ in ANSWERS
        if (message == rule.message if rule.whole else message.startswith(rule.message))
    }
    assert covered == set(RULES)


@given(st.sampled_from(StatusCode), st.text(), st.sampled_from(Effect))
def test_a_call_that_never_left_was_not_executed_whatever_the_words(
    code: StatusCode, message: str, effect: Effect
) -> None:
    assert judge(RpcError(code, message, executed=Execution.NOT_EXECUTED), effect) is NOT_EXECUTED


@given(st.sampled_from(StatusCode), st.text() | st.sampled_from([rule.message for rule in RULES]))
def test_a_write_that_left_without_an_answer_is_unknown(code: StatusCode, message: str) -> None:
    """Words that look like a proof prove nothing when they are not the server's."""
    error = RpcError(code, message, executed=Execution.UNKNOWN)
    assert judge(error, Effect.WRITE) is UNKNOWN
    assert judge(error, Effect.READ) is NOT_EXECUTED


@given(st.sampled_from(sorted(set(StatusCode) - REFUSALS)), st.text())
def test_an_answer_nobody_knows_never_makes_a_write_repeatable(code: StatusCode, message: str) -> None:
    if not any(message.startswith(rule.message) for rule in RULES):
        assert judge(RpcError(code, message, executed=Execution.ANSWERED), Effect.WRITE) is UNKNOWN


@given(st.sampled_from(StatusCode), st.text() | st.sampled_from([message for _, message, *_ in ANSWERS]))
def test_a_read_never_has_an_unknown_outcome(code: StatusCode, message: str) -> None:
    assert judge(RpcError(code, message, executed=Execution.ANSWERED), Effect.READ) is not UNKNOWN
