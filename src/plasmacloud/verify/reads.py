"""Linearizable reads: did any of them show a state older than one that had been acknowledged before it was sent?

A read is sent to one node, asks for one key and carries back the node's revision. Three things are checked, all in
real time as the lab saw it:

- the revision is not below that of any write acknowledged before the read was sent;
- nor below that of any linearizable read that had returned before;
- a key whose write was acknowledged before the read was sent is there, with its value.

The first two catch a leader of yesterday that still answers; the third does not trust the node's own revision. A read
that was refused, or that nobody answered, is never stale: refusing is what a node without a quorum must do.
"""

from collections.abc import Iterable, Sequence

import msgspec

from plasmacloud.verify.history import Op, Outcome, acknowledged


class ReadOp(msgspec.Struct, frozen=True, omit_defaults=True):
    """One linearizable read of ``key`` at one node. Times are CLOCK_MONOTONIC nanoseconds of the lab process.

    ``outcome`` is ok or fail: a read leaves nothing behind that could be unknown. ``value`` is None when the key was
    not there. ``answered``: the outcome is the node's own word.
    """

    trial: int
    client: int
    seq: int
    node: str
    key: str
    invoke_ns: int
    return_ns: int
    outcome: Outcome
    revision: int = 0
    value: str | None = None
    error: str = ""
    answered: bool = True

    def __post_init__(self) -> None:
        if self.return_ns < self.invoke_ns:
            raise ValueError(f"read of {self.key}: returned before it was invoked")
        if self.outcome is Outcome.INFO:
            raise ValueError(f"read of {self.key}: a read has no unknown outcome")


class ReadResult(msgspec.Struct, frozen=True):
    """How many answered reads were compared, and the stale ones."""

    compared: int
    findings: list[str]


def check_reads(history: Iterable[Op], reads: Iterable[ReadOp]) -> ReadResult:
    """Every successful read against all writes and reads that were over when it was sent. O(n log n)."""
    acked = acknowledged(history)
    by_key = {op.key: op for op in acked}
    good = sorted((read for read in reads if read.outcome is Outcome.OK), key=lambda read: read.invoke_ns)
    write_floor = _Floor((op.return_ns, op.revision, op.key) for op in acked)
    read_floor = _Floor((read.return_ns, read.revision, f"a read from {read.node}") for read in good)
    findings: list[str] = []
    for read in good:
        name = f"read {read.client}.{read.seq} of {read.node} in trial {read.trial}"
        revision, source = write_floor.before(read.invoke_ns)
        if read.revision < revision:
            findings.append(
                f"{name} shows revision {read.revision}, after {source} was acknowledged at revision {revision}"
            )
            continue
        revision, source = read_floor.before(read.invoke_ns)
        if read.revision < revision:
            findings.append(f"{name} shows revision {read.revision}, after {source} had shown revision {revision}")
            continue
        op = by_key.get(read.key)
        if op is not None and op.return_ns < read.invoke_ns and read.value != op.value:
            what = "nothing" if read.value is None else repr(read.value)
            findings.append(f"{name} finds {what} under {read.key}, acknowledged before as {op.value!r}")
    return ReadResult(len(good), findings)


class _Floor:
    """The highest revision seen so far, asked with ascending times."""

    def __init__(self, seen: Iterable[tuple[int, int, str]]) -> None:
        self._seen: Sequence[tuple[int, int, str]] = sorted(seen)
        self._at = 0
        self._highest = (0, "")

    def before(self, time_ns: int) -> tuple[int, str]:
        """The highest revision of anything that was over before ``time_ns``, and what it was."""
        while self._at < len(self._seen) and self._seen[self._at][0] < time_ns:
            _, revision, source = self._seen[self._at]
            if revision > self._highest[0]:
                self._highest = (revision, source)
            self._at += 1
        return self._highest
