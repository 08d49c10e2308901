"""Each of the ten checks and of those beside them: passes on good evidence, and on nothing else."""

from pathlib import Path

import msgspec
import pytest
from lab_handmade import write_record
from val13_handmade import MS, good_case, good_files, good_record, quorum_text, status_text

from plasmacloud.lab.election.judging import (
    check_clean_stops,
    check_client_rto,
    check_fence,
    check_one_leader_per_epoch,
)
from plasmacloud.lab.judge import judge_directory
from plasmacloud.lab.judging import Case, check_rpo
from plasmacloud.lab.recorder import Record
from plasmacloud.lab.suites import suite_reports_differ, write_suite_reports
from plasmacloud.lab.val13 import names
from plasmacloud.lab.val13.checks import failover_times, ten_checks
from plasmacloud.lab.val13.drive import EpochRow
from plasmacloud.lab.val13.names import NODE1, NODE2
from plasmacloud.lab.val13.report import make_report, report_text
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.events import FaultProof, ProcessEnded
from plasmacloud.verify.files import encode_lines
from plasmacloud.verify.observations import StatusSample

PASS, FAIL, UNPROVEN = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


def verdicts(checks: list[Check]) -> dict[str, Verdict]:
    return {check.name.split()[0]: check.verdict for check in checks}


def test_good_evidence_passes_all_ten() -> None:
    found = ten_checks(good_case(), good_files())
    assert [check.name for check in found] == [names.check_title(identifier) for identifier in names.CHECKS]
    assert {check.verdict for check in found} == {PASS}


@pytest.mark.parametrize(
    ("file", "text", "check", "words"),
    [
        (names.NODE1_STATUS, status_text(NODE1, "", f"x.log: 1 x '{names.ACQUIRED}'\n"), "01", "names nobody"),
        (
            names.NODE1_STATUS,
            status_text(NODE1, NODE1, f"x.log: 0 x '{names.ACQUIRED}'\n"),
            "01",
            "node 1's log has no",
        ),
        (names.NODE2_STATUS, status_text(NODE2, NODE1, f"x.log: 1 x '{names.ACQUIRED}'\n"), "01", "node 2's first"),
        (names.PRE_KILL_WRITE, "INSERT INTO t;\nERROR\n", "02", "not inserted"),
        (names.TERM_TIMING, names.timing_line(5001, "TERM"), "03", "5001 ms"),
        (names.TERM_TIMING, names.timing_line(99999, "TERM"), "03", "never"),
        (names.DATA_PROBE, "SELECT;\n(0 rows)\n", "04", "not there"),
        (names.STATUS_AFTER, status_text(NODE2, NODE1), "05", f"names {NODE1}"),
        (names.QUORUM_LOST, quorum_text("healthy"), "06", "not 'lost'"),
        (names.QUORUM_LOST, quorum_text("lost", 30_001), "06", "only after 30001 ms"),
        (names.QUORUM_LOST, quorum_text("lost", reached=False), "06", "did not say"),
        (names.QUORUM_HEALTHY, quorum_text("degraded"), "07", "not 'healthy'"),
        (names.DATA_AFTER_RESTART, "(0 rows)\n", "07", "not there"),
        (
            names.CYCLES[1],
            f"{names.timing_line(5001, 'TERM')}stopped=a  leader={NODE2}\n{names.NOTE}\n",
            "08",
            "cycle 2",
        ),
        (
            names.CYCLES[0],
            f"{names.timing_line(1, 'TERM')}stopped=a  leader={NODE2}\n{names.NOTE}\n",
            "08",
            "not cp-val13",
        ),
        (names.CYCLES[2], f"{names.timing_line(1, 'TERM')}stopped=a  leader={NODE1}\n", "08", "the row is lost"),
        (names.POST_CYCLE_STATUS, status_text(NODE1, ""), "08", "nobody leads"),
        (names.DATA_AFTER_RAPID, "", "08", "not there"),
        (names.KILL_TIMING, names.timing_line(6000, "KILL"), "09", "6000 ms"),
        (names.FINAL_STATUS, status_text(NODE2, NODE1), "10", f"names {NODE1}"),
    ],
)
def test_what_is_wrong_fails_its_check_and_no_other(file: str, text: str, check: str, words: str) -> None:
    found = ten_checks(good_case(), good_files() | {file: text})
    bad = {each.name.split()[0]: each for each in found if each.verdict is not PASS}
    assert {name: each.verdict for name, each in bad.items()} == {f"VAL13-{check}": FAIL}
    assert words in "; ".join(bad[f"VAL13-{check}"].findings)


@pytest.mark.parametrize("file", sorted(set(good_files()) - {names.TABLE_CREATE, names.WRITE_READY}))
def test_without_its_file_a_check_has_proven_nothing(file: str) -> None:
    files = good_files()
    del files[file]
    found = verdicts(ten_checks(good_case(), files))
    assert sorted({*found.values()}, key=lambda verdict: verdict.value) == [UNPROVEN, PASS]


@pytest.mark.parametrize(("trial", "check"), [(1, "03"), (2, "06"), (4, "08"), (6, "09")])
def test_a_fault_without_proof_makes_its_check_inconclusive(trial: int, check: str) -> None:
    record = good_record()
    events = [
        msgspec.structs.replace(event, landed=False)
        if isinstance(event, FaultProof) and event.trial == trial
        else event
        for event in record.events
    ]
    case = Case(msgspec.structs.replace(record, events=events))
    bad = {name: verdict for name, verdict in verdicts(ten_checks(case, good_files())).items() if verdict is not PASS}
    assert bad == {f"VAL13-{check}": UNPROVEN}


def test_all_failover_times_are_collected_by_signal() -> None:
    more = {names.MORE_TRIALS: "trial=2  failover_ms=5  signal=TERM\ntrial=2  failover_ms=6  signal=KILL\n"}
    assert failover_times(good_files() | more) == {
        "failover_term_ms": [107, 200, 200, 200, 5],
        "failover_kill_ms": [120, 6],
    }


def test_the_clients_outage_is_measured_for_ends_of_a_leader_only() -> None:
    check = check_client_rto(good_case())
    assert check.verdict is PASS
    assert "over 5 trials" in check.measured
    assert "p50 110.0 ms" in check.measured


def test_a_write_of_an_older_epoch_after_a_newer_one_is_found() -> None:
    record = good_record()
    assert check_fence(Case(record)).verdict is PASS
    late = msgspec.structs.replace(
        record.history[-1], key="lab.stale", seq=999, revision=2, invoke_ns=8000 * MS, return_ns=8001 * MS
    )
    check = check_fence(Case(msgspec.structs.replace(record, history=[*record.history, late])))
    assert check.verdict is FAIL
    assert "lab.stale" in check.findings[0]


def test_two_leaders_of_one_epoch_are_found() -> None:
    record = good_record()
    assert check_one_leader_per_epoch(Case(record)).verdict is PASS
    second = StatusSample(1, 1, NODE2, 1, 2, 2, 1)
    check = check_one_leader_per_epoch(Case(msgspec.structs.replace(record, statuses=[*record.statuses, second])))
    assert check.verdict is FAIL
    assert check.findings == (f"epoch 1: {NODE1}, {NODE2} each say that they lead",)


def test_a_server_that_does_not_stop_cleanly_is_found() -> None:
    record = good_record()
    assert check_clean_stops(Case(record)).verdict is PASS
    events = [
        msgspec.structs.replace(event, status=1) if isinstance(event, ProcessEnded) and event.trial == 3 else event
        for event in record.events
    ]
    assert check_clean_stops(Case(msgspec.structs.replace(record, events=events))).verdict is FAIL


def write(directory: Path, record: Record, files: dict[str, str], epochs: int = 7) -> None:
    write_record(directory, record)
    for name, text in files.items():
        (directory / name).write_text(text)
    rows = [EpochRow(number, 1, NODE1 if number % 2 else NODE2, "t", "", "") for number in range(1, epochs + 1)]
    (directory / names.EPOCHS).write_bytes(encode_lines(rows))


def test_a_directory_is_judged_by_the_suites_own_rule_and_reported_in_its_own_form(tmp_path: Path) -> None:
    write(tmp_path / "val13", good_record(), good_files())
    judgement = judge_directory(tmp_path / "val13")
    assert (judgement.target, judgement.scenario, judgement.verdict) == ("election", "val13", PASS)
    assert judgement.distributions["failover_kill_ms"] == [120]
    write_suite_reports(tmp_path / "val13", judgement)
    assert suite_reports_differ(tmp_path / "val13", judgement) is None
    document = msgspec.json.decode((tmp_path / "val13" / names.REPORT_JSON).read_bytes())
    assert document["verdict"] == "PASS"
    assert document["gate_c"] == {"passed": True, "reads": dict.fromkeys(("VAL13-03", "VAL13-09", "VAL13-04"), "PASS")}
    text = (tmp_path / "val13" / names.REPORT_TEXT).read_text()
    assert "VAL13-09  leader_sigkill_disk_proxy     PASS" in text
    assert "verdict   PASS: all ten checks pass" in text
    (tmp_path / "val13" / names.REPORT_TEXT).write_text(text.replace("120 ms", "20 ms"))
    assert (
        suite_reports_differ(tmp_path / "val13", judgement)
        == "val13/val13-report.txt does not follow from the evidence"
    )


def test_a_partial_verdict_says_what_did_not_pass(tmp_path: Path) -> None:
    write(tmp_path / "val13", good_record(), good_files() | {names.FINAL_STATUS: status_text(NODE2, NODE1)})
    judgement = judge_directory(tmp_path / "val13")
    assert judgement.verdict is Verdict.PARTIAL
    assert "not PASS: VAL13-10 (FAIL)" in report_text(make_report(judgement))


def test_a_lost_write_is_a_fail_whatever_the_ten_say(tmp_path: Path) -> None:
    record = good_record()
    record.readings[0].nodes["postgres"].pop()
    assert check_rpo(Case(record)).verdict is FAIL
    write(tmp_path / "val13", record, good_files())
    judgement = judge_directory(tmp_path / "val13")
    assert judgement.verdict is FAIL
    report = make_report(judgement)
    assert report.verdict_of_the_ten is PASS
    assert "rpo (FAIL)" in report.reason


def test_a_gap_in_the_epochs_is_found(tmp_path: Path) -> None:
    write(tmp_path / "val13", good_record(), good_files())
    rows = [EpochRow(number, 1, NODE1, "t", "", "") for number in (1, 2, 4)]
    (tmp_path / "val13" / names.EPOCHS).write_bytes(encode_lines(rows))
    (check,) = (check for check in judge_directory(tmp_path / "val13").checks if check.name == "epochs")
    assert check.findings == ("after epoch 2 comes 4",)
