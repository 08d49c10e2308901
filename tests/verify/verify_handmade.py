"""Small histories, readings and status sequences written by hand."""

from plasmacloud.verify.history import Op, Outcome
from plasmacloud.verify.observations import KeyRecord, Reading, StatusSample

MS = 1_000_000


def op(
    key: str,
    invoke_ms: float,
    return_ms: float,
    outcome: str = "ok",
    *,
    revision: int | None = None,
    client: int = 0,
    trial: int = 1,
    error: str = "",
) -> Op:
    """A write of ``value-of-<key>``; acknowledged ones get revision 1 unless told."""
    kind = Outcome(outcome)
    if revision is None:
        revision = 1 if kind is Outcome.OK else 0
    return Op(
        trial=trial,
        client=client,
        seq=0,
        node="n1",
        key=key,
        value=f"value-of-{key}",
        invoke_ns=round(invoke_ms * MS),
        return_ns=round(return_ms * MS),
        outcome=kind,
        revision=revision,
        error=error,
    )


def record(
    key: str, revision: int, *, value: str | None = None, version: int = 1, created: int | None = None
) -> KeyRecord:
    """What a node holds."""
    value = f"value-of-{key}" if value is None else value
    return KeyRecord(key, value, revision if created is None else created, revision, version)


def reading(
    nodes: dict[str, list[KeyRecord]],
    *,
    prefix: str = "",
    began_ms: float = 1e6,
    missing: dict[str, str] | None = None,
    label: str = "final",
) -> Reading:
    """A reading of everything, taken long after the history."""
    return Reading(label, prefix, 0, round(began_ms * MS), nodes, missing or {})


def status(
    node: str,
    at_ms: float,
    *,
    leader: int = 0,
    term: int = 1,
    member: int = 0,
    incarnation: int = 1,
    revision: int = 0,
    error: str = "",
) -> StatusSample:
    """A status answer that took no time."""
    at_ns = round(at_ms * MS)
    return StatusSample(at_ns, at_ns, node, incarnation, member, leader, term, revision, error)
