"""What VAL13 fixes: nodes, ports, flags, checks, and the name and form of every evidence file.

People quote these names and scripts look for these files, so they stand in one place and do not change.
"""

import re
from collections.abc import Sequence

NODE1, NODE2 = "cp-val13-node1", "cp-val13-node2"
NODES = (NODE1, NODE2)
PORTS = (18997, 18998)
SERVER_OPTIONS = (
    *("--campaign", "200ms"),
    *("--keepalive", "500ms"),
    *("--quorum-monitor-interval", "500ms"),
    *("--min-sync-replicas", "0"),
)
ACQUIRED = "acquired leadership"
NEVER_MS = 99999
LOG_POLL_S = 0.05
NOTE = "note = pre-kill"

CHECKS = {
    "VAL13-01": "ha_baseline_two_node",
    "VAL13-02": "pre_failover_data_written",
    "VAL13-03": "leader_sigterm_failover",
    "VAL13-04": "zero_data_loss",
    "VAL13-05": "post_failover_leader_active",
    "VAL13-06": "pg_crash_quorum_lost",
    "VAL13-07": "pg_crash_quorum_recovered",
    "VAL13-08": "rapid_leader_kill_3x",
    "VAL13-09": "leader_sigkill_disk_proxy",
    "VAL13-10": "leader_stable_post_chaos",
}

TABLE_CREATE = "probe-table-create.txt"
NODE1_STATUS = "val13-01-node1-status.txt"
NODE2_STATUS = "val13-01-node2-status.txt"
PRE_KILL_WRITE = "val13-02-pre-kill-write.txt"
TERM_TIMING = "val13-03-failover-timing.txt"
STATUS_AFTER = "val13-03-node2-status-after.txt"
DATA_PROBE = "val13-04-data-probe.txt"
WRITE_READY = "val13-05-write-ready.txt"
QUORUM_LOST = "val13-06-quorum-lost.json"
QUORUM_HEALTHY = "val13-07-quorum-healthy.json"
DATA_AFTER_RESTART = "val13-07-data-after-pg-restart.txt"
CYCLES = ("val13-08-cycle1.txt", "val13-08-cycle2.txt", "val13-08-cycle3.txt")
RAPID_SUMMARY = "val13-08-rapid-summary.txt"
POST_CYCLE_STATUS = "val13-08-post-cycle-status.txt"
DATA_AFTER_RAPID = "val13-08-data-after-rapid.txt"
KILL_TIMING = "val13-09-sigkill-timing.txt"
FINAL_STATUS = "val13-10-final-status.txt"
REPORT_TEXT = "val13-report.txt"
REPORT_JSON = "val13-report.json"
SESSION_LOGS = tuple(f"val13-node{node}-s{session}.log" for node in (1, 2) for session in (0, 1, 2))

STEPS = (
    TABLE_CREATE,
    NODE1_STATUS,
    NODE2_STATUS,
    PRE_KILL_WRITE,
    TERM_TIMING,
    STATUS_AFTER,
    DATA_PROBE,
    WRITE_READY,
    QUORUM_LOST,
    QUORUM_HEALTHY,
    DATA_AFTER_RESTART,
    *CYCLES,
    RAPID_SUMMARY,
    POST_CYCLE_STATUS,
    DATA_AFTER_RAPID,
    KILL_TIMING,
    FINAL_STATUS,
)
"""Written while the suite runs, in this order."""

EVIDENCE = (*SESSION_LOGS, *STEPS, REPORT_TEXT, REPORT_JSON)
"""All that a complete run leaves, besides the files that every scenario leaves."""

MORE_TRIALS = "val13-trials.txt"
"""With ``--trials``: one line for each further failover."""
EPOCHS = "val13-leader-epochs.jsonl"
"""What ``leader_epochs`` held in the end."""

TERM_TRIAL, POSTGRES_TRIAL, CYCLE_TRIALS, KILL_TRIAL = 1, 2, (3, 4, 5), 6
"""Which trial of the record belongs to which check; later ones are repetitions."""

_TIMING = re.compile(r"failover_ms=(\d+)  signal=(TERM|KILL)")
_SUMMARY = re.compile(r"cycle1_ms=(\d+)  cycle2_ms=(\d+)  cycle3_ms=(\d+)")


def check_title(identifier: str) -> str:
    """``VAL13-01 ha_baseline_two_node``."""
    return f"{identifier} {CHECKS[identifier]}"


def session_log(number: int, session: int) -> str:
    """The log of one session of one node."""
    return f"val13-node{number}-s{session}.log"


def timing_line(failover_ms: int, signal: str) -> str:
    """As VAL13 writes a failover time."""
    return f"failover_ms={failover_ms}  signal={signal}\n"


def read_timing(text: str) -> tuple[int, str] | None:
    """Time and signal of the first timing line; None when there is none."""
    return next(iter(read_timings(text)), None)


def read_timings(text: str) -> list[tuple[int, str]]:
    """Time and signal of every timing line."""
    return [(int(took_ms), signal) for took_ms, signal in _TIMING.findall(text)]


def summary_line(cycles_ms: Sequence[int]) -> str:
    """As VAL13 writes the three rapid cycles."""
    return "  ".join(f"cycle{number}_ms={ms}" for number, ms in enumerate(cycles_ms, 1)) + "\n"


def read_summary(text: str) -> tuple[int, ...] | None:
    """The three times; None when they are not all there."""
    match = _SUMMARY.search(text)
    return tuple(map(int, match.groups())) if match else None
