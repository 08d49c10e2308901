"""The quorum's judge: what it says, and that it never says healthy by mistake."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmacloud.election.quorum import Health, Judge, Limits, Observation, Replica

GOOD = Observation(0.0, readable=True, write_ms=1.0, read=True)
STREAMING = Replica("s1", "streaming", "sync", lag_bytes=0, lag_ms=0.0)


def good(sent_s: float, *replicas: Replica) -> Observation:
    return Observation(sent_s, readable=True, write_ms=1.0, read=True, replicas=replicas)


def test_nothing_is_trusted_before_the_first_probe() -> None:
    judge = Judge(Limits())
    assert judge.verdict.health is Health.LOST
    assert not judge.verdict.write_ready
    assert judge.tick(1e9) is None


def test_one_committed_write_is_enough() -> None:
    judge = Judge(Limits())
    change = judge.observe(good(0.0), 0.01)
    assert change is not None
    assert (change.before, change.after) == (Health.LOST, Health.HEALTHY)
    assert judge.verdict.write_ready
    assert judge.observe(good(0.5), 0.51) is None


@pytest.mark.parametrize("why", ["connection refused", "the server is a standby: it takes no writes"])
def test_a_refusal_is_lost_at_once(why: str) -> None:
    judge = Judge(Limits())
    judge.observe(good(0.0), 0.01)
    change = judge.observe(Observation(0.5, refusal=why), 0.5)
    assert change is not None
    assert change.after is Health.LOST
    assert change.reason == why
    assert not judge.verdict.read_ready


def test_silence_is_degraded_first_and_lost_when_the_last_good_probe_is_too_old() -> None:
    judge = Judge(Limits(lost_after_s=2.0))
    judge.observe(good(0.0), 0.01)
    change = judge.observe(Observation(0.5, silence="no answer within 1 s"), 1.5)
    assert change is not None
    assert change.after is Health.DEGRADED
    assert judge.verdict.write_ready
    change = judge.observe(Observation(1.5, silence="no answer within 1 s"), 2.5)
    assert change is not None
    assert change.after is Health.LOST
    assert "2.5 s ago" in change.reason


def test_a_probe_that_hangs_for_ever_does_not_hold_up_the_verdict() -> None:
    judge = Judge(Limits(lost_after_s=2.0))
    judge.observe(good(10.0), 10.01)
    assert judge.expires_s() == 12.0
    assert judge.tick(11.99) is None
    change = judge.tick(12.0)
    assert change is not None
    assert change.after is Health.LOST
    assert judge.expires_s() is None


def test_an_answer_counts_from_when_it_was_asked_for() -> None:
    judge = Judge(Limits(lost_after_s=2.0))
    assert judge.observe(good(0.0), 3.0) is None
    assert judge.verdict.reasons == ("a write took 3.0 s",)


def test_too_few_synchronous_replicas_are_a_lost_quorum() -> None:
    judge = Judge(Limits(min_sync_replicas=1))
    judge.observe(good(0.0, STREAMING), 0.01)
    assert judge.verdict.health is Health.HEALTHY
    assert judge.verdict.sync_replicas == 1
    asynchronous = Replica("s1", "streaming", "async", 0, 0.0)
    change = judge.observe(good(0.5, asynchronous), 0.51)
    assert change is not None
    assert change.reason == "0 synchronous replicas of the 1 that are required"
    assert not judge.verdict.write_ready
    assert judge.verdict.read_ready


def test_a_write_that_hangs_because_the_replica_is_gone_is_lost_at_once() -> None:
    judge = Judge(Limits(min_sync_replicas=1))
    judge.observe(good(0.0, STREAMING), 0.01)
    hung = Observation(0.5, silence="a write was not committed within 1 s", readable=True, read=True)
    change = judge.observe(hung, 1.5)
    assert change is not None
    assert change.after is Health.LOST


def test_hidden_replicas_cannot_be_counted() -> None:
    hidden = Observation(0.0, readable=True, write_ms=1.0, read=True, replicas_hidden=True, replicas=(STREAMING,))
    judge = Judge(Limits(min_sync_replicas=1))
    judge.observe(hidden, 0.01)
    assert "pg_monitor" in judge.verdict.reasons[0]
    relaxed = Judge(Limits())
    relaxed.observe(hidden, 0.01)
    assert relaxed.verdict.health is Health.HEALTHY


def test_lag_beyond_the_limit_is_degraded_and_critical() -> None:
    judge = Judge(Limits(max_lag_bytes=1000))
    judge.observe(good(0.0, Replica("s1", "streaming", "async", 1000, 5.0)), 0.01)
    assert judge.verdict.health is Health.HEALTHY
    judge.observe(good(0.5, Replica("s1", "streaming", "async", 1001, 5.0)), 0.51)
    assert judge.verdict.health is Health.DEGRADED
    assert judge.verdict.lag_critical
    assert judge.verdict.write_ready
    assert judge.verdict.max_lag_bytes == 1001


def test_a_replica_that_does_not_stream_is_degraded() -> None:
    judge = Judge(Limits())
    judge.observe(good(0.0, Replica("s1", "catchup", "async", 10, 5.0)), 0.01)
    assert judge.verdict.reasons == ("replica s1 is catchup",)


REPLICAS = st.lists(
    st.builds(
        Replica,
        st.sampled_from(["a", "b"]),
        st.sampled_from(["streaming", "catchup", ""]),
        st.sampled_from(["sync", "quorum", "async", ""]),
        st.one_of(st.none(), st.integers(0, 5000)),
        st.none(),
    ),
    max_size=3,
).map(tuple)
STEPS = st.lists(
    st.tuples(
        st.floats(0, 3), st.floats(0, 3), st.sampled_from(["good", "refusal", "silence", "hung", "tick"]), REPLICAS
    ),
    max_size=30,
)


@given(STEPS, st.integers(0, 2), st.sampled_from([0, 1000]))
def test_healthy_means_a_recent_write_and_every_promise_kept(
    steps: list[tuple[float, float, str, tuple[Replica, ...]]], wanted: int, max_lag: int
) -> None:
    limits = Limits(min_sync_replicas=wanted, max_lag_bytes=max_lag, lost_after_s=2.0)
    judge = Judge(limits)
    now_s = 0.0
    last: Observation | None = None
    for pause_s, took_s, kind, replicas in steps:
        now_s += pause_s
        sent_s = now_s
        now_s += took_s
        before = judge.verdict.health
        if kind == "tick":
            change = judge.tick(now_s)
        else:
            seen = Observation(
                sent_s,
                refusal="no" if kind == "refusal" else "",
                silence="late" if kind in ("silence", "hung") else "",
                read=kind in ("good", "hung"),
                replicas=replicas if kind in ("good", "hung") else (),
            )
            last = seen if kind == "good" else None if kind == "refusal" else last
            change = judge.observe(seen, now_s)
        verdict = judge.verdict
        assert (change is not None) == (before is not verdict.health)
        if verdict.write_ready:
            assert last is not None
            assert now_s - last.sent_s < limits.lost_after_s or kind == "tick"
            assert sum(r.synchronous for r in last.replicas) >= wanted
        if verdict.health is Health.HEALTHY:
            assert last is not None
            assert all(r.state == "streaming" for r in last.replicas)
            assert not max_lag or all((r.lag_bytes or 0) <= max_lag for r in last.replicas)
        judge.tick(now_s)
        expires_s = judge.expires_s()
        assert not judge.verdict.write_ready or (expires_s is not None and expires_s > now_s)
