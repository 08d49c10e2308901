"""What the distributions of a report are called, and in which order they are shown."""

from collections.abc import Iterable

_WORDS = {
    "rto_ms": "outage (RTO)",
    "detect_ms": "noticed",
    "elect_ms": "elected",
    "serve_ms": "serving",
    "rto_term_ms": "outage, SIGTERM",
    "rto_kill_ms": "outage, SIGKILL",
    "rto_stop_ms": "outage, SIGSTOP",
    "rto_partition_ms": "outage, partition",
    "rto_overtaken_ms": "outage, overtaken",
    "rto_primary_lost_ms": "outage, primary lost",
    "takeover_stop_ms": "takeover, SIGSTOP",
    "takeover_partition_ms": "takeover, partition",
    "failover_term_ms": "log line, SIGTERM",
    "failover_kill_ms": "log line, SIGKILL",
    "storm_gap_ms": "longest gap",
    "resume_ms": "resumption",
    "resume_pg_stop_ms": "resumption, database stopped",
    "resume_pg_kill_ms": "resumption, database killed",
    "resume_standby_ms": "resumption, standby back",
    "resume_promoted_ms": "resumption, promoted",
    "refusal_ms": "refusal",
    "step_down_ms": "stepping down",
    "converge_ms": "convergence",
    "voters_ms": "three voters",
    "recover_ms": "recovery",
    "rejoin_ms": "rejoin",
    "formation_ms": "formation",
    "write_ms": "write latency",
}
PARTS = ("detect_ms", "elect_ms", "serve_ms")
"""Of an outage."""


def metric_words(metric: str) -> str:
    """What a distribution is called; an unknown one by its own name."""
    return _WORDS.get(metric, metric.removesuffix("_ms").replace("_", " "))


def in_order(metrics: Iterable[str]) -> list[str]:
    """The known ones as they belong together, then the others as they came."""
    found = list(dict.fromkeys(metrics))
    return [metric for metric in _WORDS if metric in found] + [metric for metric in found if metric not in _WORDS]
