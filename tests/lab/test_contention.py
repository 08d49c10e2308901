"""Contended keys: from what was recorded to a verdict, and back from the files."""

from pathlib import Path

import msgspec
import pytest
from lab_handmade import MS, good_record, write_record

from plasmacloud.lab.judging import Case, check_linearizable
from plasmacloud.lab.recorder import Record, load_record
from plasmacloud.lab.scenarios import SCENARIOS
from plasmacloud.verify.checks import Verdict
from plasmacloud.verify.history import Outcome
from plasmacloud.verify.registers import Kind, RegisterOp


def with_registers(record: Record, registers: list[RegisterOp]) -> Record:
    return msgspec.structs.replace(record, registers=registers)


def later(record: Record, kind: Kind, **facts: object) -> RegisterOp:
    """An attempt of a new client after everything else; the key holds ``2.9`` at revision 249 then."""
    begin_ns = max(op.return_ns for op in record.registers) + MS
    given = {"outcome": Outcome.OK, **facts}
    return RegisterOp(2, 9, 1, "n3", "lab-register/0", kind, begin_ns, begin_ns + MS, **given)


def test_a_good_record_passes_and_says_what_it_stands_on() -> None:
    check = check_linearizable(Case(good_record()))
    assert check.verdict is Verdict.PASS
    assert check.measured == "0 of 1 contended keys not linearizable; 40 answers, 0 unknown outcomes"


@pytest.mark.parametrize(
    ("kind", "facts", "verdict"),
    [
        (Kind.READ, {"seen": "2.9", "seen_revision": 249}, Verdict.PASS),
        (Kind.READ, {"seen": "2.8", "seen_revision": 248}, Verdict.FAIL),
        (Kind.READ, {"seen": "2.9", "seen_revision": 248}, Verdict.FAIL),
        (Kind.READ, {}, Verdict.FAIL),
        (Kind.READ, {"outcome": Outcome.FAIL}, Verdict.PASS),
        (Kind.CAS, {"value": "x", "expected": "2.9", "executed": True, "revision": 300}, Verdict.PASS),
        (Kind.CAS, {"value": "x", "expected": "2.8", "executed": True, "revision": 300}, Verdict.FAIL),
        (Kind.CAS, {"value": "x", "expected": "2.9", "seen": "2.9", "seen_revision": 249}, Verdict.FAIL),
        (Kind.CAS, {"value": "x", "expected": "2.8", "seen": "2.9", "seen_revision": 249}, Verdict.PASS),
        (Kind.WRITE_AT, {"value": "x", "expected_revision": 249, "executed": True, "revision": 300}, Verdict.PASS),
        (Kind.WRITE_AT, {"value": "x", "expected_revision": 248, "executed": True, "revision": 300}, Verdict.FAIL),
        (Kind.WRITE, {"value": "x", "executed": True, "revision": 200}, Verdict.FAIL),
        (Kind.WRITE, {"value": "x", "outcome": Outcome.INFO}, Verdict.PASS),
    ],
)
def test_one_more_answer(kind: Kind, facts: dict[str, object], verdict: Verdict) -> None:
    record = good_record()
    check = check_linearizable(Case(with_registers(record, [*record.registers, later(record, kind, **facts)])))
    assert check.verdict is verdict
    assert bool(check.findings) == (verdict is Verdict.FAIL)


def test_an_unknown_write_may_show_up_later_but_a_refused_one_may_not() -> None:
    record = good_record()
    lost = later(record, Kind.WRITE, value="x", outcome=Outcome.INFO)
    base = with_registers(record, [*record.registers, lost])
    seen = later(base, Kind.READ, seen="x", seen_revision=400)
    assert check_linearizable(Case(with_registers(base, [*base.registers, seen]))).verdict is Verdict.PASS
    refused = msgspec.structs.replace(lost, outcome=Outcome.FAIL)
    check = check_linearizable(Case(with_registers(base, [*record.registers, refused, seen])))
    assert check.verdict is Verdict.FAIL
    assert "read -> (x, 400)" in check.findings[-1]


def test_too_few_answers_prove_nothing() -> None:
    record = good_record()
    check = check_linearizable(Case(with_registers(record, record.registers[:10])))
    assert (check.verdict, check.findings) == (Verdict.INCONCLUSIVE, ("only 10 answers about contended keys",))
    assert check_linearizable(Case(with_registers(record, []))).verdict is Verdict.INCONCLUSIVE


def test_a_search_that_was_given_up_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plasmacloud.lab.judging.REGISTER_STEPS", 3)
    check = check_linearizable(Case(good_record()))
    assert check.verdict is Verdict.INCONCLUSIVE
    assert check.findings == ("lab-register/0: not decided within more than 3 steps",)


def test_what_is_recorded_is_what_is_judged(tmp_path: Path) -> None:
    record = good_record()
    write_record(tmp_path / "x", record)
    assert load_record(tmp_path / "x").registers == record.registers
    (tmp_path / "x" / "registers.jsonl").unlink()
    assert load_record(tmp_path / "x").registers == []


@pytest.mark.parametrize("name", sorted(set(SCENARIOS) - {"quorum-recover"}))
def test_every_scenario_that_gives_nothing_up_checks_it(name: str) -> None:
    record = good_record()
    record = msgspec.structs.replace(
        record,
        plan=msgspec.structs.replace(record.plan, scenario=name, thresholds=dict(SCENARIOS[name].thresholds)),
    )
    assert "linearizable" in {check.name for check in SCENARIOS[name].judge(Case(record))}
