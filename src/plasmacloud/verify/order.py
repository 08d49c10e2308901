"""Order: one sequence of writes, the same for every client and on every node.

A revision is the system's own claim about the position of a write. Three properties follow from "there is one order":

- no two acknowledged writes have the same revision;
- a write that was acknowledged before another was sent has the smaller revision (real time is respected; together
  with unique keys this is linearizability of the writes);
- after a barrier, all nodes hold the same keys with the same values *and* the same revisions.
"""

from collections.abc import Iterable, Iterator

import msgspec

from plasmacloud.verify.history import Op, acknowledged
from plasmacloud.verify.observations import KeyRecord, Reading


class OrderResult(msgspec.Struct, frozen=True):
    """How many writes (or readings) were compared, and what was wrong."""

    compared: int
    findings: list[str]


def check_real_time_order(history: Iterable[Op]) -> OrderResult:
    """Revisions are unique and never contradict real time. O(n log n)."""
    acked = sorted(acknowledged(history), key=lambda op: op.invoke_ns)
    findings: list[str] = []
    by_revision: dict[int, Op] = {}
    for op in acked:
        other = by_revision.setdefault(op.revision, op)
        if other is not op:
            findings.append(f"{other.key} and {op.key} were both acknowledged at revision {op.revision}")
    findings += [
        f"{op.key} (revision {op.revision}) was sent after the acknowledgement of {newer.key} "
        f"(revision {newer.revision})"
        for newer, op in backwards(acked)
    ]
    return OrderResult(len(acked), findings)


def backwards(acked: Iterable[Op]) -> Iterator[tuple[Op, Op]]:
    """Acknowledged writes that go back behind a newer one: (the newest acknowledged before it was sent, the write)."""
    by_invoke = sorted(acked, key=lambda op: op.invoke_ns)
    by_return = sorted(by_invoke, key=lambda op: op.return_ns)
    returned = 0
    newest: Op | None = None
    for op in by_invoke:
        while returned < len(by_return) and by_return[returned].return_ns < op.invoke_ns:
            candidate = by_return[returned]
            if newest is None or candidate.revision > newest.revision:
                newest = candidate
            returned += 1
        if newest is not None and op.revision < newest.revision:
            yield newest, op


def check_same_everywhere(readings: Iterable[Reading]) -> OrderResult:
    """In every reading all nodes hold the same records. ``compared`` counts records on the reference nodes."""
    findings: list[str] = []
    compared = 0
    for reading in readings:
        nodes = sorted(reading.nodes)
        if not nodes:
            continue
        reference = {record.key: record for record in reading.nodes[nodes[0]]}
        compared += len(reference)
        for node in nodes[1:]:
            held = {record.key: record for record in reading.nodes[node]}
            findings.extend(_differences(reading.label, nodes[0], reference, node, held))
    return OrderResult(compared, findings)


def _differences(
    label: str, left: str, left_records: dict[str, KeyRecord], right: str, right_records: dict[str, KeyRecord]
) -> Iterable[str]:
    for key in sorted(left_records.keys() | right_records.keys()):
        one, two = left_records.get(key), right_records.get(key)
        if one is None or two is None:
            holder, other = (right, left) if one is None else (left, right)
            yield f"{label}: {holder} holds {key}, {other} does not"
        elif one != two:
            yield f"{label}: {key} is {_text(one)} on {left} and {_text(two)} on {right}"


def _text(record: KeyRecord) -> str:
    return f"{record.value!r} at revision {record.mod_revision} version {record.version}"
