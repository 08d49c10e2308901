"""A good record passes; each way of being bad gets its own verdict."""

from collections.abc import Callable

import msgspec
import pytest
from lab_handmade import MS, OUTAGE_MS, good_record

from plasmacloud.lab.judging import Case
from plasmacloud.lab.recorder import Record
from plasmacloud.lab.scenarios import SCENARIOS, find_scenario
from plasmacloud.lab.scenarios.leader_only_write import check_followers_answer
from plasmacloud.lab.scenarios.leader_term import Timing, check_clean_exit, check_handed_over, timing_of
from plasmacloud.lab.trials import assemble
from plasmacloud.verify.checks import Check, Verdict, combine
from plasmacloud.verify.events import (
    CaughtUp,
    FaultProof,
    NodeRestarted,
    ProcessEnded,
    Stopped,
    UnexpectedExit,
    WindowClosed,
)
from plasmacloud.verify.history import Outcome
from plasmacloud.verify.observations import StatusSample


def judged(record: Record) -> dict[str, Check]:
    return {check.name: check for check in find_scenario(record.plan.scenario).judge(Case(record))}


def change(record: Record, kind: type, **facts: object) -> Record:
    events = [msgspec.structs.replace(e, **facts) if isinstance(e, kind) else e for e in record.events]
    return msgspec.structs.replace(record, events=events)


def without(record: Record, kind: type) -> Record:
    return msgspec.structs.replace(record, events=[e for e in record.events if not isinstance(e, kind)])


def adding(record: Record, event: object) -> Record:
    return msgspec.structs.replace(record, events=[*record.events, event])


def test_a_good_record_passes_every_check() -> None:
    checks = judged(good_record())
    assert {name: check.verdict for name, check in checks.items() if check.verdict is not Verdict.PASS} == {}
    assert combine(check.verdict for check in checks.values()) is Verdict.PASS


def test_distributions_of_a_good_record() -> None:
    values = find_scenario("leader-kill").distributions(Case(good_record()))
    assert values["rto_ms"] == [OUTAGE_MS, OUTAGE_MS]
    assert values["detect_ms"] == [50, 50]
    assert values["elect_ms"] == [50, 50]
    assert values["serve_ms"] == pytest.approx([19.5, 19.5])
    assert values["rejoin_ms"] == [39, 39]
    assert len(values["write_ms"]) == 20  # those that do not touch a fault's window


def test_a_lost_write_fails_and_is_listed() -> None:
    record = good_record()
    lost = record.readings[0].nodes["n3"].pop()
    check = judged(record)["rpo"]
    assert check.verdict is Verdict.FAIL
    assert check.measured == "1 of 60 acknowledged writes lost"
    assert f"lost {lost.key} on n3" in check.findings[0]


def test_nothing_read_back_proves_nothing() -> None:
    checks = judged(msgspec.structs.replace(good_record(), readings=[]))
    assert {checks[name].verdict for name in ("rpo", "integrity", "replicas-equal")} == {Verdict.INCONCLUSIVE}


def test_a_node_that_could_not_be_read_is_inconclusive() -> None:
    record = good_record()
    del record.readings[0].nodes["n3"]
    record.readings[0].missing["n3"] = "connection refused"
    checks = judged(record)
    assert checks["rpo"].verdict is Verdict.INCONCLUSIVE
    assert checks["replicas-equal"].verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("spoil", "check", "verdict"),
    [
        (lambda r: change(r, FaultProof, landed=False), "fault-landed", Verdict.INCONCLUSIVE),
        (lambda r: without(r, FaultProof), "fault-landed", Verdict.INCONCLUSIVE),
        (lambda r: change(r, NodeRestarted, old_pid=5, new_pid=5), "fault-landed", Verdict.INCONCLUSIVE),
        (lambda r: change(r, CaughtUp, ok=False, behind=("n1",)), "rejoin", Verdict.FAIL),
        (lambda r: without(r, WindowClosed), "completed", Verdict.INCONCLUSIVE),
        (lambda r: adding(r, Stopped(at_ns=1, cause="target", reason="no leader")), "completed", Verdict.FAIL),
        (lambda r: adding(r, UnexpectedExit(at_ns=1, node="n2", pid=9, status=1)), "completed", Verdict.FAIL),
        (
            lambda r: adding(without(r, WindowClosed), Stopped(at_ns=1, cause="user", reason="signal")),
            "completed",
            Verdict.INCONCLUSIVE,
        ),
        (lambda r: msgspec.structs.replace(r, statuses=[]), "one-leader-per-term", Verdict.INCONCLUSIVE),
    ],
)
def test_one_thing_wrong(spoil: Callable[[Record], Record], check: str, verdict: Verdict) -> None:
    assert judged(spoil(good_record()))[check].verdict is verdict


def test_too_little_traffic_before_the_fault_makes_the_run_void() -> None:
    record = good_record()
    history = [op for op in record.history if op.trial != 2 or op.invoke_ns > 2010 * MS or op.revision < 203]
    checks = judged(msgspec.structs.replace(record, history=history))
    assert checks["traffic"].verdict is Verdict.VOID
    assert checks["traffic"].findings == ("trial 2: 3 acknowledged writes before the fault",)


def test_an_outage_longer_than_the_threshold_fails() -> None:
    record = good_record()
    strict = msgspec.structs.replace(record.plan, thresholds={**record.plan.thresholds, "rto_max_ms": OUTAGE_MS - 1})
    check = judged(msgspec.structs.replace(record, plan=strict))["rto"]
    assert check.verdict is Verdict.FAIL
    assert len(check.findings) == 2


def test_writes_that_never_succeed_again_fail_the_rto() -> None:
    record = good_record(trials=1)
    history = [op for op in record.history if op.invoke_ns < 1010 * MS]
    check = judged(msgspec.structs.replace(record, history=history))["rto"]
    assert check.verdict is Verdict.FAIL
    assert "trial 1: not within the deadline" in check.findings


def test_an_unknown_outcome_is_no_acknowledgement_for_the_rto() -> None:
    record = good_record(trials=1)
    late = 1000 + 9 + OUTAGE_MS + 5
    history = [
        msgspec.structs.replace(op, outcome=Outcome.INFO, revision=0) if 1010 * MS < op.invoke_ns < late * MS else op
        for op in record.history
    ]
    values = find_scenario("leader-kill").distributions(Case(msgspec.structs.replace(record, history=history)))
    assert values["rto_ms"] == [OUTAGE_MS + 5]


def at(record: Record, ended_ms: int, *answers: tuple[str, int, int]) -> Record:
    """One trial: the old leader ends ``ended_ms`` after its SIGTERM; answers are (node, ms after it, leader)."""
    fault_ns = 1010 * MS
    events = [
        msgspec.structs.replace(e, at_ns=fault_ns + ended_ms * MS, status=0) if isinstance(e, ProcessEnded) else e
        for e in record.events
    ]
    statuses = [
        StatusSample(fault_ns + ms * MS, fault_ns + ms * MS, node, 1, 9, leader, 3) for node, ms, leader in answers
    ]
    return msgspec.structs.replace(record, events=events, statuses=statuses)


@pytest.mark.parametrize(
    ("answers", "timing"),
    [
        ([("n2", 5, 1), ("n2", 9, 2), ("n3", 5, 1), ("n3", 30, 2)], Timing.BEFORE),  # one survivor is enough
        ([("n2", 5, 1), ("n2", 15, 0), ("n2", 20, 2), ("n3", 5, 1), ("n3", 15, 1), ("n3", 20, 2)], Timing.AFTER),
        ([("n2", 5, 1), ("n2", 15, 2), ("n3", 5, 1), ("n3", 15, 2)], Timing.UNDECIDED),  # nobody was asked in between
        ([("n2", 5, 1), ("n2", 15, 2), ("n3", 5, 1), ("n3", 15, 1)], Timing.UNDECIDED),  # n3 is merely behind
        ([("n2", 15, 0), ("n3", 15, 0)], Timing.AFTER),  # nobody ever
    ],
)
def test_handing_over_comes_before_the_end_of_the_process(answers: list[tuple[str, int, int]], timing: Timing) -> None:
    case = Case(at(good_record(trials=1), 10, *answers))
    assert timing_of(case, case.trials[0]) is timing


def test_one_late_hand_over_fails_and_none_seen_proves_nothing() -> None:
    record = good_record(trials=1)
    in_time = [("n2", 5, 2)]
    late = [("n2", 15, 0), ("n3", 15, 0)]
    unclear = [("n2", 5, 1), ("n2", 15, 2)]
    assert check_handed_over(Case(at(record, 10, *in_time))).verdict is Verdict.PASS
    assert check_handed_over(Case(at(record, 10, *late))).verdict is Verdict.FAIL
    assert check_handed_over(Case(at(record, 10, *unclear))).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        ({}, Verdict.PASS),
        ({"outcome": Outcome.FAIL, "error": "not leader, the leader is n1"}, Verdict.PASS),
        ({"outcome": Outcome.FAIL, "error": "go away"}, Verdict.FAIL),
        ({"outcome": Outcome.INFO, "error": "leader=n1, but who knows"}, Verdict.FAIL),
        ({"outcome": Outcome.FAIL, "error": "refused", "answered": False}, Verdict.INCONCLUSIVE),
        ({"node": "n1"}, Verdict.INCONCLUSIVE),  # n1 leads
    ],
)
def test_what_a_follower_may_answer(facts: dict[str, object], verdict: Verdict) -> None:
    record = good_record(trials=1)
    revision = {} if facts.get("outcome", Outcome.OK) is Outcome.OK else {"revision": 0}
    history = [
        msgspec.structs.replace(op, **facts, **revision) if op.seq in (103, 104) else op for op in record.history
    ]
    assert check_followers_answer(Case(msgspec.structs.replace(record, history=history))).verdict is verdict


def test_a_clean_exit_is_told_from_a_killed_process() -> None:
    assert check_clean_exit(Case(change(good_record(), ProcessEnded, status=0))).verdict is Verdict.PASS
    assert check_clean_exit(Case(good_record())).verdict is Verdict.FAIL
    assert check_clean_exit(Case(without(good_record(), ProcessEnded))).verdict is Verdict.FAIL


def test_trials_are_assembled_and_incomplete_ones_are_known() -> None:
    trials = assemble(good_record().events)
    assert [(t.number, t.complete) for t in trials] == [(1, True), (2, True)]
    (first, _) = assemble(without(good_record(), WindowClosed).events)
    assert not first.complete


def test_every_scenario_judges_an_empty_record_without_passing_it() -> None:
    for scenario in SCENARIOS.values():
        record = good_record()
        plan = msgspec.structs.replace(record.plan, scenario=scenario.name, thresholds=dict(scenario.thresholds))
        empty = Record(plan, [], [], [], [])
        checks = scenario.judge(Case(empty))
        assert combine(check.verdict for check in checks) is not Verdict.PASS, scenario.name
        scenario.distributions(Case(empty))
