"""The verdict rule and Gate C, case by case; the forms of the evidence files; the catalogue's names."""

import itertools

import pytest

from plasmacloud.lab.val13 import names
from plasmacloud.lab.val13.names import CHECKS
from plasmacloud.lab.val13.rule import DECISIVE, GATE_C, REQUIRED, gate_c, rule
from plasmacloud.verify.checks import Verdict, combine

PASS, FAIL, UNPROVEN, PARTIAL = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PARTIAL


def judged(**changed: Verdict) -> dict[str, Verdict]:
    """All ten pass but these, given as ``n03=FAIL``."""
    return {f"VAL13-{number:02d}": changed.get(f"n{number:02d}", PASS) for number in range(1, 11)}


@pytest.mark.parametrize(
    ("found", "verdict", "gate"),
    [
        (judged(), PASS, True),
        (judged(n01=FAIL), PARTIAL, True),
        (judged(n02=FAIL), PARTIAL, True),
        (judged(n05=FAIL), PARTIAL, True),
        (judged(n08=FAIL), PARTIAL, True),
        (judged(n10=FAIL), PARTIAL, True),
        (judged(n01=FAIL, n02=FAIL, n05=FAIL, n08=FAIL, n10=FAIL), PARTIAL, True),
        (judged(n08=UNPROVEN), PARTIAL, True),
        (judged(n03=FAIL), FAIL, False),
        (judged(n04=FAIL), FAIL, False),
        (judged(n09=FAIL), FAIL, False),
        (judged(n03=FAIL, n01=UNPROVEN), FAIL, False),
        (judged(n06=FAIL), FAIL, True),
        (judged(n07=FAIL), FAIL, True),
        (judged(n06=UNPROVEN), UNPROVEN, True),
        (judged(n03=UNPROVEN), UNPROVEN, False),
        (judged(n03=UNPROVEN, n10=FAIL), FAIL, False),
        ({}, UNPROVEN, False),
    ],
)
def test_the_rule(found: dict[str, Verdict], verdict: Verdict, gate: bool) -> None:
    assert rule(found).verdict is verdict
    assert gate_c(found) is gate


def test_only_all_ten_are_a_pass_and_whatever_is_not_is_named() -> None:
    for count in (1, 2, 3):
        for failing in itertools.combinations(CHECKS, count):
            found = {identifier: FAIL if identifier in failing else PASS for identifier in CHECKS}
            ruling = rule(found)
            assert ruling.verdict is not PASS
            assert all(identifier in ruling.reason for identifier in failing)
            assert (ruling.verdict is PARTIAL) == (not {*failing} & {*REQUIRED})
            assert ruling.verdict is FAIL or not {*failing} & {*DECISIVE}


def test_partial_lies_between_pass_and_inconclusive() -> None:
    assert combine([PASS, PARTIAL]) is PARTIAL
    assert combine([PARTIAL, UNPROVEN]) is UNPROVEN
    assert combine([PARTIAL, FAIL]) is FAIL


def test_gate_c_reads_what_it_is_said_to_read() -> None:
    assert GATE_C == ("VAL13-03", "VAL13-09", "VAL13-04")


def test_the_lines_of_the_evidence_files() -> None:
    assert names.timing_line(107, "TERM") == "failover_ms=107  signal=TERM\n"
    assert names.read_timing("failover_ms=99999  signal=KILL\n") == (99999, "KILL")
    assert names.read_timing("failover_ms=  signal=TERM") is None
    assert names.summary_line([1, 20, 300]) == "cycle1_ms=1  cycle2_ms=20  cycle3_ms=300\n"
    assert names.read_summary("cycle1_ms=1  cycle2_ms=20  cycle3_ms=300\n") == (1, 20, 300)
    assert names.read_summary("cycle1_ms=1  cycle2_ms=20\n") is None


def test_the_names_are_those_of_the_catalogue() -> None:
    assert list(CHECKS.items()) == [
        ("VAL13-01", "ha_baseline_two_node"),
        ("VAL13-02", "pre_failover_data_written"),
        ("VAL13-03", "leader_sigterm_failover"),
        ("VAL13-04", "zero_data_loss"),
        ("VAL13-05", "post_failover_leader_active"),
        ("VAL13-06", "pg_crash_quorum_lost"),
        ("VAL13-07", "pg_crash_quorum_recovered"),
        ("VAL13-08", "rapid_leader_kill_3x"),
        ("VAL13-09", "leader_sigkill_disk_proxy"),
        ("VAL13-10", "leader_stable_post_chaos"),
    ]
    assert (names.NODES, names.PORTS) == (("cp-val13-node1", "cp-val13-node2"), (18997, 18998))
    assert " ".join(names.SERVER_OPTIONS) == (
        "--campaign 200ms --keepalive 500ms --quorum-monitor-interval 500ms --min-sync-replicas 0"
    )
    assert {*names.EVIDENCE} == {
        "probe-table-create.txt",
        "val13-node1-s0.log",
        "val13-node2-s0.log",
        "val13-node1-s1.log",
        "val13-node1-s2.log",
        "val13-node2-s1.log",
        "val13-node2-s2.log",
        "val13-01-node1-status.txt",
        "val13-01-node2-status.txt",
        "val13-02-pre-kill-write.txt",
        "val13-03-failover-timing.txt",
        "val13-03-node2-status-after.txt",
        "val13-04-data-probe.txt",
        "val13-05-write-ready.txt",
        "val13-06-quorum-lost.json",
        "val13-07-quorum-healthy.json",
        "val13-07-data-after-pg-restart.txt",
        "val13-08-cycle1.txt",
        "val13-08-cycle2.txt",
        "val13-08-cycle3.txt",
        "val13-08-rapid-summary.txt",
        "val13-08-post-cycle-status.txt",
        "val13-08-data-after-rapid.txt",
        "val13-09-sigkill-timing.txt",
        "val13-10-final-status.txt",
        "val13-report.txt",
        "val13-report.json",
    }
