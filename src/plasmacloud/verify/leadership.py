"""Leadership: at most one leader per term, judged from what the nodes say about themselves.

Raft's election safety, seen from outside: whenever nodes name a leader for a term, they name the same one.

Some systems answer Status from two counters that do not move together: etcd reports the term of the last *applied*
entry beside the leader it follows *now*, so for a moment after an election, or after its own start, a node names the
new leader with the old term. For such a system (``term_lags``) a leader first named under an inherited term counts
only once the node has had ``settle_ns`` and has applied something since: the first entry that it can apply from a new
leader is of the new term. What was set aside is counted, and said.
"""

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

import msgspec

from plasmacloud.verify.observations import StatusSample

SETTLE_NS = 250_000_000


class LeadershipResult(msgspec.Struct, frozen=True):
    """Leaders by term, violations, and how many samples of a lagging term were excused."""

    samples: int
    leaders: dict[int, list[int]]
    excused: int
    findings: list[str]

    @property
    def terms(self) -> int:
        return len(self.leaders)


def check_leadership(
    statuses: Iterable[StatusSample], *, term_lags: bool = False, settle_ns: int = SETTLE_NS
) -> LeadershipResult:
    """Every term has one leader, and no node's term goes back while it runs."""
    lives: dict[tuple[str, int], list[StatusSample]] = defaultdict(list)
    samples = 0
    for sample in statuses:
        if sample.answered:
            lives[sample.node, sample.incarnation].append(sample)
            samples += 1
    witnesses: dict[int, dict[int, StatusSample]] = defaultdict(dict)
    findings: list[str] = []
    excused = 0
    for (node, _), life in sorted(lives.items()):
        life.sort(key=lambda sample: sample.at_ns)
        for earlier, later in pairwise(life):
            if later.term < earlier.term and later.sent_ns >= earlier.at_ns:
                findings.append(f"{node} went back from term {earlier.term} to {later.term}")
        credible = _settled(life, settle_ns) if term_lags else life
        excused += len(life) - len(credible)
        for sample in credible:
            if sample.leader:
                witnesses[sample.term].setdefault(sample.leader, sample)
    for term, claims in sorted(witnesses.items()):
        if len(claims) > 1:
            names = "; ".join(f"{s.node} names {leader:x}" for leader, s in sorted(claims.items()))
            findings.append(f"term {term} has {len(claims)} leaders: {names}")
    return LeadershipResult(samples, {term: sorted(claims) for term, claims in witnesses.items()}, excused, findings)


def _settled(life: list[StatusSample], settle_ns: int) -> list[StatusSample]:
    """Leave out samples that may name a new leader under the term of the one before."""
    kept: list[StatusSample] = []
    first = life[0]  # the sample in which the present leader was named first
    term, inherited = life[0].term, True
    leader = 0
    for sample in life:
        if sample.leader == 0:
            kept.append(sample)
            continue
        if sample.term != term:
            leader, term, inherited = sample.leader, sample.term, False
        elif sample.leader != leader:
            leader, first, inherited = sample.leader, sample, True
        applied_since = sample.revision > first.revision
        if not inherited or (applied_since and sample.at_ns - first.at_ns >= settle_ns):
            kept.append(sample)
    return kept


def elections_between(statuses: Iterable[StatusSample], begin_ns: int, end_ns: int) -> set[tuple[int, int]]:
    """All (term, leader) pairs that any node reported in the window, leaderless answers as leader 0."""
    return {(s.term, s.leader) for s in statuses if s.answered and begin_ns <= s.at_ns <= end_ns}
