"""Verdicts: what a check can say, and how many checks add up to one answer.

``PASS``          the property held, and everything needed to judge it was observed;
``PARTIAL``       of a suite whose own rule says so: what it demands held, something beside it did not;
``INCONCLUSIVE``  no violation seen, but the evidence does not prove the property (the fault did not land, a node
                  could not be read);
``VOID``          the experiment itself was worthless (too little traffic before the fault);
``FAIL``          a violation was observed. A violation counts whatever else went wrong.
"""

from collections.abc import Iterable
from enum import Enum

import msgspec


class Verdict(Enum):
    """The answer of a check, a scenario or a run; in the order of severity. Only PASS is success."""

    PASS = "PASS"
    PARTIAL = "PARTIAL"
    INCONCLUSIVE = "INCONCLUSIVE"
    VOID = "VOID"
    FAIL = "FAIL"


_SEVERITY = {verdict: severity for severity, verdict in enumerate(Verdict)}


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of them; nothing checked is VOID, never PASS."""
    found = list(verdicts)
    if not found:
        return Verdict.VOID
    return max(found, key=_SEVERITY.__getitem__)


class Check(msgspec.Struct, frozen=True):
    """One judged property: what was measured against which threshold, and the findings behind a bad verdict."""

    name: str
    verdict: Verdict
    measured: str
    threshold: str
    findings: tuple[str, ...] = ()


MAX_FINDINGS = 20


def shorten(findings: Iterable[str], limit: int = MAX_FINDINGS) -> tuple[str, ...]:
    """The first ``limit`` findings and a line that says how many more there are."""
    every = list(findings)
    if len(every) <= limit:
        return tuple(every)
    return (*every[:limit], f"... and {len(every) - limit} more")
