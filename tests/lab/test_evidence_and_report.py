"""Evidence can be checked from its files alone, and tampering shows."""

import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest
from lab_handmade import good_record, write_record

from plasmacloud.lab.evidence import MANIFEST, RUN, describe_run, verify_manifest, write_manifest
from plasmacloud.lab.recorder import HISTORY, Record, load_record
from plasmacloud.lab.report import Report, build_report, encode_report, recheck, report_text, write_report
from plasmacloud.verify.checks import Verdict
from plasmacloud.verify.events import Stopped
from plasmacloud.verify.files import UnreadableEvidence

ONE = "etcd/leader-kill"


def seal(root: Path, records: dict[str, Record], planned: list[str] | None = None) -> Report:
    """An evidence directory as a run leaves it."""
    info = describe_run(["plasma", "lab", "run"], 7, root, planned or list(records), "0")
    (root / RUN).write_bytes(msgspec.json.encode(info))
    for name, record in records.items():
        write_record(root / name, record)
    report, unreadable = build_report(root)
    assert unreadable == []
    write_report(root, report)
    write_manifest(root)
    return report


def test_a_record_survives_the_way_to_disk_and_back(tmp_path: Path) -> None:
    write_record(tmp_path / "one", good_record())
    assert load_record(tmp_path / "one") == good_record()


def test_judging_again_gives_the_same_report(tmp_path: Path) -> None:
    report = seal(tmp_path, {ONE: good_record()})
    assert report.verdict is Verdict.PASS
    again = recheck(tmp_path)
    assert again.intact
    assert encode_report(again.report) == encode_report(report)


def test_sha256sum_accepts_the_manifest(tmp_path: Path) -> None:
    seal(tmp_path, {ONE: good_record()})
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", MANIFEST], cwd=tmp_path, check=True, timeout=30)


def test_changed_missing_and_added_files_are_named(tmp_path: Path) -> None:
    seal(tmp_path, {ONE: good_record()})
    assert verify_manifest(tmp_path) == []
    (tmp_path / ONE / "readings" / "final.n2.jsonl").write_bytes(b"")
    (tmp_path / ONE / "status.jsonl").unlink()
    (tmp_path / ONE / "extra").touch()
    assert verify_manifest(tmp_path) == [
        f"{ONE}/status.jsonl is missing",
        f"{ONE}/extra is not in the manifest",
        f"{ONE}/readings/final.n2.jsonl was changed",
    ]


def test_a_line_of_the_manifest_that_is_no_checksum_is_reported(tmp_path: Path) -> None:
    seal(tmp_path, {ONE: good_record()})
    with (tmp_path / MANIFEST).open("a") as file:
        file.write("trust me\n")
    (problem,) = verify_manifest(tmp_path)
    assert "is not a checksum" in problem


def test_evidence_changed_together_with_its_manifest_contradicts_the_report(tmp_path: Path) -> None:
    record = good_record()
    lost = record.readings[0].nodes["n3"].pop()
    assert seal(tmp_path, {ONE: record}).verdict is Verdict.FAIL
    history = tmp_path / ONE / HISTORY
    kept = [line for line in history.read_text().splitlines(keepends=True) if lost.key not in line]
    history.write_text("".join(kept))  # the lost write was never acknowledged, says the forger
    write_manifest(tmp_path)
    again = recheck(tmp_path)
    assert again.altered == []
    assert again.contradiction is not None


def test_a_prettified_report_is_found_out(tmp_path: Path) -> None:
    record = good_record()
    record.readings[0].nodes["n3"].pop()
    seal(tmp_path, {ONE: record})
    report = tmp_path / "report.json"
    report.write_text(report.read_text().replace('"FAIL"', '"PASS"'))
    write_manifest(tmp_path)
    again = recheck(tmp_path)
    assert again.report.verdict is Verdict.FAIL
    assert again.altered == []
    assert again.contradiction == "the report says PASS, the evidence FAIL"


def test_evidence_that_cannot_be_read_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    seal(tmp_path, {ONE: good_record()})
    (tmp_path / ONE / HISTORY).write_text('{"trial": 1')
    again = recheck(tmp_path)
    assert again.report.verdict is not Verdict.PASS
    assert not again.intact
    assert any("history.jsonl line 1" in problem for problem in again.altered)


def test_a_directory_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableEvidence, match="has no MANIFEST"):
        recheck(tmp_path)


def test_a_planned_scenario_that_never_began_prevents_a_pass(tmp_path: Path) -> None:
    report = seal(tmp_path, {ONE: good_record()}, planned=[ONE, "etcd/power-loss"])
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.not_run == ["etcd/power-loss"]
    assert "not run: etcd/power-loss" in report_text(report)


def test_an_interrupted_scenario_is_marked(tmp_path: Path) -> None:
    record = good_record()
    record.events.append(Stopped(at_ns=1, cause="user", reason="interrupted by a signal"))
    report = seal(tmp_path, {ONE: record})
    assert report.interrupted
    assert "(INTERRUPTED)" in report_text(report)


def test_junit_counts_agree_with_its_cases(tmp_path: Path) -> None:
    bad = good_record()
    bad.readings[0].nodes["n3"].pop()
    bad.statuses.clear()
    seal(tmp_path, {ONE: good_record(), "chainfire/leader-kill": bad})
    root = ET.parse(tmp_path / "junit.xml").getroot()
    assert root.tag == "testsuites"
    assert len(root) == 2
    for suite in [*root]:
        assert suite.get("tests") == str(len(suite.findall("testcase")))
        assert suite.get("failures") == str(len(suite.findall("testcase/failure")))
        assert suite.get("errors") == str(len(suite.findall("testcase/error")))
    assert root.get("failures") == "2"  # lost, and nodes differ
    assert root.get("errors") == "1"  # no status answers
    failure = root.find("testsuite/testcase[@name='rpo']/failure")
    assert failure is not None
    assert "1 of 60" in (failure.get("message") or "")


def test_the_text_shows_verdict_percentiles_loss_and_comparison(tmp_path: Path) -> None:
    report = seal(tmp_path, {"chainfire/leader-kill": good_record(target="chainfire"), ONE: good_record()})
    text = (tmp_path / "report.txt").read_text()
    assert text == report_text(report)
    assert "2 of 2 scenarios passed, 4 faults injected, 120 acknowledged writes, 0 lost" in text
    assert "Side by side: p50 / max (ms)" in text
    assert "120 / 120" in text
    assert "that the maximum of n trials bounds: of 2: 22%" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 110
    assert "\x1b" not in text


def test_the_text_names_what_went_wrong(tmp_path: Path) -> None:
    record = good_record()
    lost = record.readings[0].nodes["n3"].pop()
    text = report_text(seal(tmp_path, {ONE: record}))
    assert "1 of 60 acknowledged writes lost" in text
    assert lost.key in text


def test_a_reference_that_fails_is_shown_and_does_not_decide(tmp_path: Path) -> None:
    bad = good_record()
    bad.readings[0].nodes["n3"].pop()
    bad = msgspec.structs.replace(bad, plan=msgspec.structs.replace(bad.plan, reference=True))
    report = seal(tmp_path, {"chainfire/leader-kill": good_record(target="chainfire"), ONE: bad})
    assert report.verdict is Verdict.PASS
    assert [result.verdict for result in report.results] == [Verdict.PASS, Verdict.FAIL]
    text = report_text(report)
    assert "1 of 1 scenarios passed, 2 faults injected, 60 acknowledged writes, 0 lost" in text
    assert "for comparison only, not part of the verdict: etcd/leader-kill" in text
    assert ET.parse(tmp_path / "junit.xml").getroot().get("failures") == "0"


def test_references_alone_give_no_pass(tmp_path: Path) -> None:
    record = good_record()
    record = msgspec.structs.replace(record, plan=msgspec.structs.replace(record.plan, reference=True))
    assert seal(tmp_path, {ONE: record}).verdict is Verdict.VOID
