"""The ledger: is everything that was acknowledged there, and nothing that was not?

The history says what clients were told; readings say what every node holds. Because each write has its own key, the
comparison is a table join, and each disagreement has one name:

- LOST: acknowledged, and missing on some node. The recovery point objective is zero, so one is too many.
- ALTERED: acknowledged, and a node holds another value.
- MOVED: acknowledged at one revision, stored at another.
- TWICE: applied more than once (a retry inside the system executed a write again).
- GHOST: the client was told that the write was *not* executed, and it is there.
- UNKNOWN KEY: nobody wrote it.

Writes with an unknown outcome may be there or not: both are right.
"""

from collections.abc import Iterable, Mapping
from enum import Enum

import msgspec

from plasmacloud.verify.history import Op, Outcome
from plasmacloud.verify.observations import KeyRecord, Reading


class Disagreement(Enum):
    """How the history and a node disagree about one key."""

    LOST = "lost"
    ALTERED = "altered"
    MOVED = "moved"
    TWICE = "twice"
    GHOST = "ghost"
    UNKNOWN_KEY = "unknown key"


class LedgerFinding(msgspec.Struct, frozen=True):
    """One disagreement. ``trial`` is 0 when no operation is behind it."""

    kind: Disagreement
    key: str
    node: str
    trial: int
    detail: str

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.key} on {self.node}: {self.detail}"


class LedgerResult(msgspec.Struct, frozen=True):
    """The outcome of the join. ``unread`` is empty when every node was read in every reading."""

    acknowledged: int
    verified: int
    unknown_applied: int
    unknown_absent: int
    findings: list[LedgerFinding]
    unread: list[str]

    def lost_keys(self) -> set[str]:
        """Acknowledged writes missing on at least one node: the RPO, counted."""
        return {finding.key for finding in self.findings if finding.kind is Disagreement.LOST}

    def of_kind(self, *kinds: Disagreement) -> list[LedgerFinding]:
        """The findings of the given kinds."""
        return [finding for finding in self.findings if finding.kind in kinds]


def check_ledger(history: Iterable[Op], readings: Iterable[Reading]) -> LedgerResult:
    """Join the history with the readings. A key lost in two readings is reported once per node."""
    ops = {op.key: op for op in history}
    acked = {key for key, op in ops.items() if op.outcome is Outcome.OK}
    unknown = {key for key, op in ops.items() if op.outcome is Outcome.INFO}
    demanded: set[str] = set()
    seen_anywhere: set[str] = set()
    unread: list[str] = []
    found: dict[tuple[Disagreement, str, str], LedgerFinding] = {}
    for reading in readings:
        unread.extend(f"{node} in {reading.label}: {why}" for node, why in sorted(reading.missing.items()))
        due = [key for key in acked if key.startswith(reading.prefix) and ops[key].return_ns <= reading.began_ns]
        demanded.update(due if reading.nodes else ())
        for node, records in reading.nodes.items():
            held = {record.key: record for record in records}
            seen_anywhere.update(held)
            for finding in _compare_node(ops, due, node, reading.label, held):
                found.setdefault((finding.kind, finding.key, finding.node), finding)
    assert demanded <= acked
    bad = {finding.key for finding in found.values()}
    return LedgerResult(
        acknowledged=len(acked),
        verified=len(demanded - bad),
        unknown_applied=len(unknown & seen_anywhere),
        unknown_absent=len(unknown - seen_anywhere),
        findings=sorted(found.values(), key=lambda f: (f.kind.value, f.trial, f.key, f.node)),
        unread=unread,
    )


def _compare_node(
    ops: Mapping[str, Op], due: Iterable[str], node: str, label: str, held: Mapping[str, KeyRecord]
) -> Iterable[LedgerFinding]:
    for key in due:
        if key not in held:
            op = ops[key]
            detail = f"acknowledged by {op.node} at revision {op.revision}, absent in reading {label}"
            yield LedgerFinding(Disagreement.LOST, key, node, op.trial, detail)
    for key, record in held.items():
        op_or_none = ops.get(key)
        if op_or_none is None:
            yield LedgerFinding(Disagreement.UNKNOWN_KEY, key, node, 0, f"value {record.value!r} was never written")
            continue
        yield from _compare_record(op_or_none, node, record)


def _compare_record(op: Op, node: str, record: KeyRecord) -> Iterable[LedgerFinding]:
    def finding(kind: Disagreement, detail: str) -> LedgerFinding:
        return LedgerFinding(kind, op.key, node, op.trial, detail)

    if op.outcome is Outcome.FAIL:
        yield finding(Disagreement.GHOST, f"reported as not executed ({op.error}), stored at {record.mod_revision}")
    if record.value != op.value:
        yield finding(Disagreement.ALTERED, f"wrote {op.value!r}, holds {record.value!r}")
    if record.version != 1 or record.create_revision != record.mod_revision:
        detail = f"version {record.version}, created at {record.create_revision}, changed at {record.mod_revision}"
        yield finding(Disagreement.TWICE, detail)
    elif op.outcome is Outcome.OK and record.mod_revision != op.revision:
        yield finding(Disagreement.MOVED, f"acknowledged at {op.revision}, stored at {record.mod_revision}")
