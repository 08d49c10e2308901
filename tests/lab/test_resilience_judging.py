"""The judges of quorum-loss, pause, restart-storm and rolling-restart: one good record, and each way of being bad."""

import os
import random
from itertools import pairwise

import msgspec
import pytest
from lab_handmade import MS, good_record, plan, writes

from plasmacloud.lab.faults.pause import all_stopped, thread_states
from plasmacloud.lab.judging import Case, check_fault_landed, check_stale_reads
from plasmacloud.lab.recorder import Record
from plasmacloud.lab.scenarios import pause, quorum_loss, restart_storm, rolling_restart
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.events import (
    AnyEvent,
    FaultInjected,
    FaultProof,
    LeaderSeen,
    LoopStall,
    NodeRestarted,
    NodeThawed,
    WindowClosed,
)
from plasmacloud.verify.history import Outcome
from plasmacloud.verify.observations import StatusSample
from plasmacloud.verify.reads import ReadOp

AT = 1000  # the one trial of a good record begins here, in ms; the fault comes 10 ms later, service 120 ms after it


def record_of(scenario: str, **changes: object) -> Record:
    """A good leader-kill record, under the plan of another scenario."""
    return msgspec.structs.replace(good_record(trials=1), plan=plan(scenario, trials=1), **changes)


def read(invoke_ms: float, return_ms: float, *, node: str = "n3", ok: bool = False, **facts: object) -> ReadOp:
    """A read of the one trial, refused by the node unless told otherwise."""
    outcome = Outcome.OK if ok else Outcome.FAIL
    base = ReadOp(1, 0, 1, node, "lab/none", int((AT + invoke_ms) * MS), int((AT + return_ms) * MS), outcome)
    return msgspec.structs.replace(base, **({} if ok else {"error": "no leader"}) | facts)


def replaced(record: Record, kind: type, **facts: object) -> list[AnyEvent]:
    return [msgspec.structs.replace(e, **facts) if isinstance(e, kind) else e for e in record.events]


def alone(*reads: ReadOp, **changes: object) -> Case:
    """n1 and n2 are dead from 12 ms to 900 ms; n3 has noticed at 612 ms."""
    record = record_of("quorum-loss", reads=list(reads))
    events = replaced(record, FaultInjected, nodes=("n1", "n2"))
    events = [msgspec.structs.replace(e, at_ns=(AT + 900) * MS) if isinstance(e, NodeRestarted) else e for e in events]
    history = [op for op in record.history if op.return_ns < (AT + 10) * MS]
    lonely = msgspec.structs.replace(
        history[0],
        node="n3",
        key="lab/0001/000/999999",
        invoke_ns=(AT + 700) * MS,
        return_ns=(AT + 701) * MS,
        outcome=Outcome.FAIL,
        revision=0,
        error="no leader",
    )
    lonely = msgspec.structs.replace(lonely, **changes)
    return Case(msgspec.structs.replace(record, events=events, history=[*history, lonely]))


def test_refusing_without_a_quorum_is_right() -> None:
    case = alone(read(650, 651))
    assert quorum_loss.check_nothing_acknowledged(case).verdict is Verdict.PASS
    check = quorum_loss.check_clean_failure(case)
    assert (check.verdict, check.measured) == (Verdict.PASS, "2 of 2 refused by survivors")
    assert [value for each in quorum_loss.alone_times(case) for value in each.refusals_ms(case)] == [1, 1]


def test_a_write_or_a_read_acknowledged_without_a_quorum_fails() -> None:
    check = quorum_loss.check_nothing_acknowledged(alone(read(650, 651), outcome=Outcome.OK, revision=1, error=""))
    assert check.verdict is Verdict.FAIL
    check = quorum_loss.check_nothing_acknowledged(alone(read(650, 651, ok=True)))
    assert check.verdict is Verdict.FAIL
    assert "read of" in check.findings[0]


def test_a_write_that_returns_after_the_restart_may_be_acknowledged() -> None:
    late = {"outcome": Outcome.OK, "revision": 900, "error": "", "return_ns": (AT + 950) * MS}
    assert quorum_loss.check_nothing_acknowledged(alone(read(650, 651), **late)).verdict is Verdict.PASS


def test_without_any_attempt_nothing_is_proven() -> None:
    assert quorum_loss.check_nothing_acknowledged(alone()).verdict is Verdict.INCONCLUSIVE
    case = alone(read(20, 21), node="n1")
    assert quorum_loss.check_clean_failure(case).verdict is Verdict.INCONCLUSIVE  # n3 had had no time to notice


def test_a_silent_survivor_and_a_client_left_hanging_fail() -> None:
    assert quorum_loss.check_clean_failure(alone(read(650, 800, answered=False))).verdict is Verdict.FAIL
    check = quorum_loss.check_clean_failure(alone(read(20, 1500, node="n1")))
    assert check.verdict is Verdict.FAIL
    assert "ended after 1480 ms" in check.findings[0]


def test_a_survivor_that_lets_clients_wait_for_their_deadline_fails_unless_the_lab_was_late_itself() -> None:
    unknown = {"outcome": Outcome.INFO, "error": "DEADLINE_EXCEEDED: the deadline passed"}
    case = alone(read(650, 651), **unknown)
    assert quorum_loss.check_clean_failure(case).verdict is Verdict.FAIL
    events = [*case.record.events, LoopStall(at_ns=1, late_ms=200)]
    slow = Case(msgspec.structs.replace(case.record, events=events))
    check = quorum_loss.check_clean_failure(slow)
    assert check.verdict is Verdict.INCONCLUSIVE
    assert "late by up to 200 ms" in check.findings[0]


def woken(*reads: ReadOp, leader_then: int = 2, **facts: object) -> Case:
    """n1 leads, is frozen at 10 ms, replaced at 130 ms, woken at 400 ms; at 410 ms it names ``leader_then``."""
    record = record_of("pause", reads=list(reads))
    thawed = NodeThawed(
        at_ns=(AT + 400) * MS,
        trial=1,
        node="n1",
        pid=7,
        frozen_ms=390,
        states_before="TTT",
        states_after="SSR",
    )
    events = [e for e in record.events if not isinstance(e, NodeRestarted)]
    events.append(msgspec.structs.replace(thawed, **facts))
    at_ns = (AT + 410) * MS
    statuses = [*record.statuses, StatusSample(at_ns, at_ns, "n1", 1, 1, leader_then, 3)]
    closed = [msgspec.structs.replace(e, at_ns=(AT + 600) * MS) if isinstance(e, WindowClosed) else e for e in events]
    history = [*record.history, *writes(1, AT + 605, 3, revision=500)]
    return Case(msgspec.structs.replace(record, events=closed, statuses=statuses, history=history))


def verdicts(*checks: Check) -> list[Verdict]:
    return [check.verdict for check in checks]


def test_an_old_leader_that_refuses_and_follows() -> None:
    case = woken(read(390, 402, node="n1"))
    assert (
        verdicts(
            pause.check_old_leader_was_asked(case), pause.check_stepped_down(case), pause.check_frozen_long_enough(case)
        )
        == [Verdict.PASS] * 3
    )
    assert pause.step_down_ms(case, case.trials[0]) == 10


def test_an_old_leader_that_answers_from_memory_is_caught() -> None:
    check = check_stale_reads(woken(read(390, 402, node="n1", ok=True, revision=109)))
    assert check.verdict is Verdict.FAIL
    assert "shows revision 109" in check.findings[0]


@pytest.mark.parametrize(
    "waiting",
    [
        read(390, 402, node="n2"),  # another node
        read(410, 412, node="n1"),  # sent after it woke up
        read(20, 402, node="n1"),  # sent before its successor had served
        read(390, 402, node="n1", answered=False),
    ],
)
def test_reads_that_do_not_put_the_old_leader_to_the_test(waiting: ReadOp) -> None:
    assert pause.check_old_leader_was_asked(woken(waiting)).verdict is Verdict.INCONCLUSIVE


def test_an_old_leader_that_never_steps_down_fails() -> None:
    assert pause.check_stepped_down(woken(leader_then=1)).verdict is Verdict.FAIL


@pytest.mark.parametrize("facts", [{"states_before": "TST"}, {"states_after": "TT"}, {"frozen_ms": 299}])
def test_a_freeze_without_proof_proves_nothing(facts: dict[str, object]) -> None:
    assert pause.check_frozen_long_enough(woken(**facts)).verdict is Verdict.INCONCLUSIVE


def test_the_outage_is_measured_in_election_timeouts() -> None:
    assert pause.check_replaced_in_time(woken()).verdict is Verdict.PASS
    strict = msgspec.structs.replace(plan("pause", trials=1), thresholds={"rto_max_election_timeouts": 0.3})
    case = Case(msgspec.structs.replace(woken().record, plan=strict))
    assert pause.check_replaced_in_time(case).verdict is Verdict.FAIL


def test_thread_states_are_read_from_proc() -> None:
    states = thread_states(os.getpid())
    assert states
    assert not all_stopped(states)
    assert all_stopped("TT")
    assert not all_stopped("TS")
    assert not all_stopped("")


@pytest.mark.parametrize("length_s", [1.0, 5.0, 60.0])
@pytest.mark.parametrize("seed", range(20))
def test_a_storm_hits_every_node_and_never_one_that_is_down(seed: int, length_s: float) -> None:
    nodes = ["n1", "n2", "n3"]
    strikes = restart_storm.draw_storm(random.Random(seed), nodes, length_s)
    assert strikes == restart_storm.draw_storm(random.Random(seed), nodes, length_s)
    assert strikes == sorted(strikes)
    assert {strike.node for strike in strikes} == set(nodes)
    assert all(strike.at_s <= length_s for strike in strikes)
    for node in nodes:
        mine = [strike for strike in strikes if strike.node == node]
        assert all(strike.at_s < strike.back_s for strike in mine)
        assert all(one.back_s + restart_storm.UP_S[0] <= two.at_s for one, two in pairwise(mine))


def storm_case(nodes: tuple[str, ...], back: tuple[str, ...]) -> Case:
    record = record_of("restart-storm")
    kept = [e for e in record.events if not isinstance(e, FaultInjected | FaultProof | NodeRestarted)]
    for number, node in enumerate(nodes):
        at_ns = (AT + 10 + number) * MS
        kept.append(FaultInjected(at_ns=at_ns, trial=1, fault="kill", nodes=(node,)))
        kept.append(FaultProof(at_ns=at_ns, trial=1, fault="kill", landed=True, evidence="waitpid"))
    for number, node in enumerate(back):
        kept.append(NodeRestarted(at_ns=(AT + 140 + number) * MS, trial=1, node=node, old_pid=1, new_pid=2))
    kept.append(LeaderSeen(at_ns=(AT + 170) * MS, trial=1, node="n2", member=2, term=3))
    kept.sort(key=lambda event: event.at_ns)
    return Case(msgspec.structs.replace(record, events=kept))


def test_every_kill_of_a_storm_is_counted_and_proven() -> None:
    case = storm_case(("n1", "n2", "n3", "n1"), ("n2", "n3", "n1", "n1"))
    assert check_fault_landed(case).measured == "4 of 4 proven"
    assert restart_storm.check_everyone_was_hit(case).verdict is Verdict.PASS
    assert restart_storm.convergence_ms(case) == [(1, 27.0)]
    assert restart_storm.check_convergence(case).verdict is Verdict.PASS


def test_a_storm_that_spared_a_node_or_did_not_bring_it_back_proves_nothing() -> None:
    case = storm_case(("n1", "n2"), ("n1", "n2"))
    assert (
        restart_storm.check_everyone_was_hit(
            Case(msgspec.structs.replace(case.record, statuses=[StatusSample(1, 1, "n3", 1)]))
        ).verdict
        is Verdict.INCONCLUSIVE
    )
    assert restart_storm.check_everyone_was_hit(storm_case(("n1",), ())).verdict is Verdict.INCONCLUSIVE


def test_an_unproven_fault_among_proven_ones_is_noticed() -> None:
    record = storm_case(("n1", "n2", "n3"), ("n1", "n2", "n3")).record
    last = [e for e in record.events if isinstance(e, FaultProof)][-1]
    check = check_fault_landed(
        Case(msgspec.structs.replace(record, events=[e for e in record.events if e is not last]))
    )
    assert check.verdict is Verdict.INCONCLUSIVE
    assert check.measured == "2 of 3 proven"


def test_a_write_that_failed_for_good_fails_the_rolling_restart() -> None:
    record = record_of("rolling-restart")
    assert rolling_restart.check_no_failed_write(Case(record)).verdict is Verdict.PASS
    for outcome in (Outcome.FAIL, Outcome.INFO):
        bad = msgspec.structs.replace(record.history[0], outcome=outcome, revision=0, error="refused", attempts=9)
        again = msgspec.structs.replace(record.history[1], attempts=2)
        case = Case(msgspec.structs.replace(record, history=[bad, again, *record.history[2:]]))
        check = rolling_restart.check_no_failed_write(case)
        assert check.verdict is Verdict.FAIL
        assert check.measured == "1 of 30 failed; 2 needed another attempt"
        assert "after 9 attempts: refused" in check.findings[0]
