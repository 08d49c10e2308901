"""Each check of val13x: passes on good evidence, and on nothing else."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from lab_handmade import write_record
from val13x_handmade import (
    MS,
    at,
    good_case,
    good_facts,
    good_gathered,
    good_record,
    leaders,
    trial_of,
    with_fact,
    write_own_files,
)

from plasmacloud.base.errors import ConfigError
from plasmacloud.election.fencing import FENCE_SQL
from plasmacloud.lab.election.guarded_sql import FENCE
from plasmacloud.lab.election.judging import check_fence
from plasmacloud.lab.judge import judge_directory
from plasmacloud.lab.judging import Case
from plasmacloud.lab.recorder import Record
from plasmacloud.lab.suites import suite_reports_differ, write_suite_reports
from plasmacloud.lab.val13x import names
from plasmacloud.lab.val13x.checks import backwards, scenario_checks, step_down_ms, takeover_ms
from plasmacloud.lab.val13x.drive import COURSES
from plasmacloud.lab.val13x.epoch_rule import check_epochs, check_never_two_leaders, check_one_writer_per_epoch
from plasmacloud.lab.val13x.facts import (
    AnyFact,
    Begun,
    Ended,
    EpochRow,
    Followed,
    Gathered,
    PoolerTried,
    Promoted,
    QuorumSaid,
    StaleAttempt,
    Standby,
    Told,
    gather,
)
from plasmacloud.lab.val13x.suite import Val13x
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.events import CaughtUp, FaultProof, NodeThawed, ServiceResumed
from plasmacloud.verify.history import Op, Outcome
from plasmacloud.verify.observations import StatusSample

PASS, FAIL, UNPROVEN = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


def found(case: Case, gathered: Gathered, name: str) -> Check:
    return next(check for check in scenario_checks(case, gathered) if check.name == names.title(name))


def changed(record: Record, **lists: object) -> Case:
    return Case(msgspec.structs.replace(record, **lists))


def test_good_evidence_passes_everything() -> None:
    checks = scenario_checks(good_case(), good_gathered())
    assert [check.name for check in checks] == [names.title(name) for name in names.COURSES]
    assert {check.name: check.findings for check in checks if check.verdict is not PASS} == {}


def test_the_whole_suite_passes_and_its_reports_follow_from_the_files(tmp_path: Path) -> None:
    record = good_record()
    directory = tmp_path / "val13x"
    write_record(directory, record)
    write_own_files(directory, good_gathered())
    judgement = judge_directory(directory)
    assert {check.name: check.findings for check in judgement.checks if check.verdict is not PASS} == {}
    assert judgement.verdict is PASS
    assert judgement.distributions["takeover_stop_ms"] == [1202.0]
    assert judgement.distributions["step_down_ms"] == [501.0]
    write_suite_reports(directory, judgement)
    text = (directory / names.REPORT_TEXT).read_text()
    assert all(names.title(name) in text for name in names.COURSES)
    assert suite_reports_differ(directory, judgement) is None
    (directory / names.FACTS).write_bytes(b"")
    assert judge_directory(directory).verdict is not PASS


Pick = Callable[[AnyFact], bool]


def of(kind: type, fault: str = "", **wanted: object) -> Pick:
    number = trial_of(fault) if fault else None

    def fits(fact: AnyFact) -> bool:
        right = isinstance(fact, kind) and number in (None, fact.trial)
        return right and all(getattr(fact, name) == value for name, value in wanted.items())

    return fits


@pytest.mark.parametrize(
    ("name", "pick", "changes", "verdict", "words"),
    [
        (
            names.SIGSTOP,
            of(StaleAttempt, names.FREEZE),
            {"outcome": Outcome.OK, "accepted": "1.1"},
            FAIL,
            "accepted a write in stale epoch 1.1",
        ),
        (names.SIGSTOP, of(StaleAttempt, names.FREEZE), {"outcome": Outcome.INFO}, UNPROVEN, "a stale write through"),
        (names.SIGSTOP, of(StaleAttempt, names.FREEZE), {"kind": ""}, UNPROVEN, "no stale write was refused"),
        (names.SIGSTOP, of(Followed, names.FREEZE), {"leader": ""}, FAIL, "followed nobody"),
        (names.PARTITION, of(Followed, names.CUT), {"trial": 99}, UNPROVEN, "whom it follows"),
        (
            names.PARTITION,
            of(StaleAttempt, names.CUT),
            {"outcome": Outcome.OK, "accepted": "1.2"},
            FAIL,
            "accepted a write in stale epoch",
        ),
        (names.PG_STOP, of(QuorumSaid, names.STOP_POSTGRES, wanted="lost"), {"health": "degraded"}, FAIL, "'degraded'"),
        (names.PG_KILL, of(QuorumSaid, names.KILL_POSTGRES, wanted="lost"), {"after_ms": 30_001.0}, FAIL, "30001 ms"),
        (
            names.PG_KILL,
            of(QuorumSaid, names.KILL_POSTGRES, wanted="healthy"),
            {"trial": 0},
            UNPROVEN,
            "not every server",
        ),
        (
            names.STALE,
            of(StaleAttempt, names.OVERTAKE, via="sql", current=False),
            {"outcome": Outcome.OK, "accepted": f"1.{trial_of(names.OVERTAKE)}"},
            FAIL,
            "accepted a write in stale epoch",
        ),
        (
            names.STALE,
            of(StaleAttempt, names.OVERTAKE, via="server"),
            {"kind": "not-leader"},
            UNPROVEN,
            "had stepped down before the fence was tried",
        ),
        (
            names.STALE,
            of(StaleAttempt, names.OVERTAKE, current=True),
            {"outcome": Outcome.FAIL},
            UNPROVEN,
            "in the newest epoch was not accepted",
        ),
        (
            names.STANDBY_LOST,
            of(QuorumSaid, names.KILL_STANDBY, wanted="lost"),
            {"write_ready": True},
            FAIL,
            "ready for",
        ),
        (names.STANDBY_LOST, of(Standby, names.KILL_STANDBY), {"state": "streaming"}, UNPROVEN, "without its standby"),
        (names.SYNC_FAILOVER, of(Promoted), {"timeline": 1}, FAIL, "timeline 1 after 1"),
        (names.SYNC_FAILOVER, of(Promoted), {"timeline": 3}, FAIL, "no epoch was raised on timeline 3"),
        (names.POOLER, of(PoolerTried), {"status": None}, FAIL, "went on"),
        (names.POOLER, of(PoolerTried), {"status": 1}, FAIL, "status 1"),
        (names.POOLER, of(PoolerTried), {"acquired": 1}, FAIL, "acquired leadership"),
        (names.POOLER, of(PoolerTried), {"said": "error: sorry"}, FAIL, "does not name it"),
        (names.POOLER, of(PoolerTried), {"shared": False}, UNPROVEN, "did not share"),
        (names.SPLIT_BRAIN, of(Told, command="release"), {"status": 3}, FAIL, "exit status 3"),
        (
            names.SPLIT_BRAIN,
            of(Told, command="detect", status=1),
            {"findings": ()},
            FAIL,
            "found nothing, not holder-without-lock",
        ),
        (names.KILLS, of(Ended, scenario=names.KILLS), {"problem": "x", "cause": "target"}, FAIL, "get to its end: x"),
        (names.KILLS, of(Ended, scenario=names.KILLS), {"problem": "x", "cause": "lab"}, UNPROVEN, "get to its end: x"),
        (names.KILLS, of(Begun, scenario=names.KILLS), {"scenario": "y"}, UNPROVEN, "did not get so far"),
    ],
)
def test_a_fact_that_is_wrong_or_missing(
    name: str, pick: Pick, changes: dict[str, object], verdict: Verdict, words: str
) -> None:
    gathered = good_gathered()
    fact = next(each for each in gathered.facts if pick(each))
    check = found(good_case(), with_fact(gathered, fact, **changes), name)
    assert check.verdict is verdict, check
    assert any(words in finding for finding in check.findings), check.findings


def test_a_former_leader_that_leads_again_may_write_in_the_newer_epoch() -> None:
    gathered = good_gathered()
    fact = next(each for each in gathered.facts if of(StaleAttempt, names.OVERTAKE, via="server")(each))
    assert isinstance(fact, StaleAttempt)
    again = msgspec.structs.replace(fact, outcome=Outcome.OK, accepted="1.99")
    more = msgspec.structs.replace(gathered, facts=[*gathered.facts, again])
    assert found(good_case(), more, names.STALE).verdict is PASS


def test_the_audit_must_have_every_step() -> None:
    gathered = good_gathered()
    check = found(good_case(), msgspec.structs.replace(gathered, audit=gathered.audit[1:]), names.SPLIT_BRAIN)
    assert check.verdict is FAIL
    assert any("no 'split-brain promote-leader' that was requested" in each for each in check.findings)


def test_a_fault_without_proof_is_not_judged() -> None:
    record = good_record()
    number = trial_of(names.CUT)
    events = [
        msgspec.structs.replace(e, landed=False) if isinstance(e, FaultProof) and e.trial == number else e
        for e in record.events
    ]
    check = found(changed(record, events=events), good_gathered(), names.PARTITION)
    assert check.verdict is UNPROVEN
    assert any("no proof of its fault" in each for each in check.findings)


def test_service_that_does_not_come_back() -> None:
    record = good_record()
    number = trial_of(names.KILL)
    events = [
        msgspec.structs.replace(e, ok=False) if isinstance(e, ServiceResumed) and e.trial == number else e
        for e in record.events
    ]
    assert found(changed(record, events=events), good_gathered(), names.KILLS).verdict is FAIL


def test_service_that_ends_again() -> None:
    record = good_record()
    number = trial_of(names.KILL_PRIMARY)
    events = [
        msgspec.structs.replace(e, ok=False) if isinstance(e, CaughtUp) and e.trial == number else e
        for e in record.events
    ]
    assert found(changed(record, events=events), good_gathered(), names.SYNC_FAILOVER).verdict is FAIL


def test_a_lost_write_fails_the_scenario_that_lost_it() -> None:
    record = good_record()
    number = trial_of(names.KILL_PRIMARY)
    (reading,) = record.readings
    kept = [each for each in reading.nodes["postgres"] if not each.key.startswith(f"lab.{number:04d}.1")]
    case = changed(record, readings=[msgspec.structs.replace(reading, nodes={"postgres": kept})])
    assert found(case, good_gathered(), names.SYNC_FAILOVER).verdict is FAIL
    assert found(case, good_gathered(), names.STANDBY_LOST).verdict is PASS


def test_a_takeover_that_takes_too_long() -> None:
    record = good_record()
    for fault, name in ((names.FREEZE, names.SIGSTOP), (names.CUT, names.PARTITION)):
        number = trial_of(fault)
        history = [
            msgspec.structs.replace(op, return_ns=op.return_ns + 900 * MS, invoke_ns=op.invoke_ns + 900 * MS)
            if op.trial == number and op.revision > number
            else op
            for op in record.history
        ]
        check = found(changed(record, history=history), good_gathered(), name)
        assert check.verdict is FAIL
        assert any("came after 2102 ms" in each for each in check.findings), check.findings


def test_a_thawed_leader_that_still_says_it_leads() -> None:
    record = good_record()
    number = trial_of(names.FREEZE)
    old, _ = leaders(number)
    late = StatusSample(at(number, 2900), at(number, 3050), old, 1, 1, 1, number)
    assert found(changed(record, statuses=[*record.statuses, late]), good_gathered(), names.SIGSTOP).verdict is FAIL
    events = [msgspec.structs.replace(e, states_before="SS") if isinstance(e, NodeThawed) else e for e in record.events]
    assert found(changed(record, events=events), good_gathered(), names.SIGSTOP).verdict is UNPROVEN


def test_a_leader_that_is_cut_off_must_step_down_first() -> None:
    record = good_record()
    number = trial_of(names.CUT)
    old, _ = leaders(number)
    case = good_case()
    trial = case.trials[number - 1]
    assert (step_down_ms(case, trial), takeover_ms(case, trial)) == (501.0, 1202.0)

    def moved(sample: StatusSample) -> StatusSample:
        down = sample.node == old and sample.sent_ns == at(number, 500)
        late = at(number, 1300)
        return msgspec.structs.replace(sample, sent_ns=late, at_ns=late + MS) if down else sample

    check = found(changed(record, statuses=list(map(moved, record.statuses))), good_gathered(), names.PARTITION)
    assert check.verdict is FAIL
    assert any("stepped down after 1301 ms, another led after 1151 ms" in each for each in check.findings)


def test_a_write_acknowledged_without_the_standby() -> None:
    record = good_record()
    number = trial_of(names.KILL_STANDBY)
    history = [
        msgspec.structs.replace(op, outcome=Outcome.OK, revision=number)
        if op.trial == number and op.outcome is Outcome.FAIL
        else op
        for op in record.history
    ]
    check = found(changed(record, history=history), good_gathered(), names.STANDBY_LOST)
    assert check.verdict is FAIL
    assert any("while no standby had it" in each for each in check.findings)


def test_epochs_never_go_back() -> None:
    assert backwards([(1, 1), (1, 2), (2, 3)]) == []
    assert backwards([(1, 2), (2, 2)]) == ["after epoch 1.2 comes 2.2"]
    assert backwards([(2, 2), (1, 3)]) == ["after epoch 2.2 comes 1.3"]


@pytest.mark.parametrize(
    ("number", "row", "words"),
    [
        (3, EpochRow(4, 1, names.NODE1, "", "", ""), "after epoch 2 comes 4"),
        (3, EpochRow(3, 1, names.INTRUDER, "", "", ""), "is held by 'cp-val13x-intruder'"),
        (3, EpochRow(3, 1, "", "", "", "resigned"), "is held by ''"),
        (2, EpochRow(2, 3, names.NODE1, "", "", ""), "after epoch 3.2 comes 1.3"),
    ],
)
def test_the_epoch_rule(number: int, row: EpochRow, words: str) -> None:
    gathered = good_gathered()
    assert check_epochs(gathered).verdict is PASS
    assert gathered.epochs is not None
    rows = [row if each.epoch == number else each for each in gathered.epochs]
    check = check_epochs(msgspec.structs.replace(gathered, epochs=rows))
    assert check.verdict is FAIL
    assert any(words in each for each in check.findings), check.findings


def test_an_epoch_that_an_operator_raised_has_no_holder() -> None:
    gathered = good_gathered()
    assert gathered.epochs is not None
    last = EpochRow(len(gathered.epochs) + 1, 2, "", "", "", "raised by ann: manual-reconcile")
    assert check_epochs(msgspec.structs.replace(gathered, epochs=[*gathered.epochs, last])).verdict is PASS
    assert check_epochs(msgspec.structs.replace(gathered, epochs=None)).verdict is UNPROVEN


def test_writes_belong_to_the_holder_of_their_epoch() -> None:
    record, gathered = good_record(), good_gathered()
    assert check_one_writer_per_epoch(Case(record), gathered).verdict is PASS
    first = record.history[0]
    other = msgspec.structs.replace(first, node=names.NODE2)
    check = check_one_writer_per_epoch(changed(record, history=[other, *record.history[1:]]), gathered)
    assert check.verdict is FAIL
    assert len(check.findings) == 2


def test_two_leaders_at_the_same_time() -> None:
    record = good_record()
    assert check_never_two_leaders(Case(record)).verdict is PASS
    old, new = leaders(2)
    claims = [
        StatusSample(at(2, ms), at(2, ms) + MS, node, 1, 1, 1, term)
        for node, ms, term in ((old, 600, 2), (old, 900, 2), (new, 700, 3), (new, 800, 3))
    ]
    check = check_never_two_leaders(changed(record, statuses=[*record.statuses, *claims]))
    assert check.verdict is FAIL
    touching = [msgspec.structs.replace(c, sent_ns=c.sent_ns, at_ns=c.at_ns) for c in claims[:2]]
    assert check_never_two_leaders(changed(record, statuses=[*record.statuses, *touching])).verdict is PASS
    assert check_never_two_leaders(changed(record, statuses=[])).verdict is UNPROVEN


def test_a_stale_write_after_a_newer_one_is_seen_in_the_history() -> None:
    record = good_record()
    late = Op(2, 1, 9999, leaders(1)[0], "lab.late", "v", at(2, -50), at(2, -40), Outcome.OK, 1)
    assert check_fence(Case(record)).verdict is PASS
    assert check_fence(changed(record, history=[*record.history, late])).verdict is FAIL


def test_scenarios_are_chosen_by_name_or_number() -> None:
    assert names.chosen(()) == tuple(names.COURSES)
    assert names.chosen(("val13x-10", names.SIGSTOP)) == (names.SIGSTOP, names.SPLIT_BRAIN)
    with pytest.raises(ConfigError, match="no scenario nothing"):
        names.chosen(("nothing",))
    assert list(COURSES) == list(names.COURSES)
    assert names.planned_trials(names.chosen(()), 3) == 3 * 9 + 2


def test_the_lab_sends_the_fence_that_is_documented() -> None:
    parts = {"%(election)s": "$1", "%(timeline)s": "$2", "%(epoch)s": "$3"}
    wanted = FENCE_SQL
    for old, new in parts.items():
        wanted = wanted.replace(old, new)
    assert wanted == FENCE


def test_facts_survive_their_file(tmp_path: Path) -> None:
    write_own_files(tmp_path, good_gathered())
    assert gather(tmp_path).facts == good_facts()


def test_only_a_clean_sheet_passes() -> None:
    suite = Val13x()
    assert suite.verdict([Check("a", PASS, "", ""), Check("b", UNPROVEN, "", "")]) is UNPROVEN
    assert suite.verdict([Check("a", FAIL, "", ""), Check("b", UNPROVEN, "", "")]) is FAIL
    assert suite.verdict([Check("a", PASS, "", "")]) is PASS
