"""Two runs side by side: which verdicts changed, and which times are really different.

Few trials say little. A difference is called slower or faster only when the rank-sum test (Mann and Whitney 1947; the
normal approximation, corrected for ties and continuity) finds it at the 1 % level and the medians are at least 10 %
apart; below eight values on either side nothing is said but the numbers. One comparison among many looks different by
chance now and then, and two runs on a busy machine differ for reasons that are not the code's.
"""

import math
from collections import Counter
from collections.abc import Sequence
from enum import Enum

import msgspec

from plasmacloud.lab.evidence import RunInfo
from plasmacloud.lab.judge import Judgement
from plasmacloud.verify.checks import Verdict
from plasmacloud.verify.statistics import Summary, summarize

LEAST_VALUES = 8
LEVEL = 0.01
LEAST_CHANGE = 0.10


class Change(Enum):
    """What two samples say about each other."""

    SLOWER = "slower"
    FASTER = "faster"
    ALIKE = "no difference shown"
    TOO_FEW = "too few values to say"
    NEW = "only in this run"
    GONE = "only in the earlier run"


class TimeChange(msgspec.Struct, frozen=True):
    """One distribution in both runs. ``chance``: probability of a difference like this if there were none."""

    name: str
    metric: str
    before: Summary | None
    after: Summary | None
    change: Change
    chance: float | None = None


class VerdictChange(msgspec.Struct, frozen=True):
    """A scenario (``check`` is empty), or one of its checks, whose verdict is not what it was. None: there was none."""

    name: str
    check: str
    before: Verdict | None
    after: Verdict | None


class Comparison(msgspec.Struct, frozen=True):
    """All differences of the scenarios that are in both. ``circumstances``: facts of the two runs that differ and
    could be the reason."""

    verdicts: list[VerdictChange]
    times: list[TimeChange]
    circumstances: list[tuple[str, str, str]]
    only_before: list[str] = []
    only_after: list[str] = []


def compare(
    before: Sequence[Judgement], after: Sequence[Judgement], run_before: RunInfo, run_after: RunInfo
) -> Comparison:
    """The differences of two runs, in the order of the later one."""
    old = {f"{result.target}/{result.scenario}": result for result in before}
    new = {f"{result.target}/{result.scenario}": result for result in after}
    both = [name for name in new if name in old]
    return Comparison(
        verdicts=[change for name in both for change in _verdict_changes(name, old[name], new[name])],
        times=[change for name in both for change in _time_changes(name, old[name], new[name])],
        circumstances=_circumstances(run_before, run_after),
        only_before=[name for name in old if name not in new],
        only_after=[name for name in new if name not in old],
    )


def _verdict_changes(name: str, before: Judgement, after: Judgement) -> list[VerdictChange]:
    changes = []
    if before.verdict is not after.verdict:
        changes.append(VerdictChange(name, "", before.verdict, after.verdict))
    old = {check.name: check.verdict for check in before.checks}
    new = {check.name: check.verdict for check in after.checks}
    changes += [
        VerdictChange(name, check, old.get(check), new.get(check))
        for check in dict.fromkeys([*new, *old])
        if old.get(check) is not new.get(check)
    ]
    return changes


def _time_changes(name: str, before: Judgement, after: Judgement) -> list[TimeChange]:
    old, new = before.distributions, after.distributions
    return [
        compare_samples(name, metric, old.get(metric, []), new.get(metric, []))
        for metric in dict.fromkeys([*new, *old])
        if old.get(metric) or new.get(metric)
    ]


def compare_samples(name: str, metric: str, before: Sequence[float], after: Sequence[float]) -> TimeChange:
    """Two samples of one metric; larger is slower."""
    one, two = summarize(before) if before else None, summarize(after) if after else None
    if one is None or two is None:
        return TimeChange(name, metric, one, two, Change.NEW if one is None else Change.GONE)
    if min(one.n, two.n) < LEAST_VALUES:
        return TimeChange(name, metric, one, two, Change.TOO_FEW)
    chance = rank_sum_chance(before, after)
    if chance >= LEVEL or abs(two.p50 - one.p50) < LEAST_CHANGE * max(one.p50, two.p50):
        return TimeChange(name, metric, one, two, Change.ALIKE, chance)
    return TimeChange(name, metric, one, two, Change.SLOWER if two.p50 > one.p50 else Change.FASTER, chance)


def rank_sum_chance(one: Sequence[float], two: Sequence[float]) -> float:
    """Two-sided p-value of the rank-sum test, normal approximation; 1.0 when all values are the same."""
    n, m = len(one), len(two)
    assert n > 0
    assert m > 0
    tally = Counter([*one, *two])
    rank_of: dict[float, float] = {}
    below = 0
    for value in sorted(tally):
        rank_of[value] = below + (tally[value] + 1) / 2
        below += tally[value]
    statistic = math.fsum(rank_of[value] for value in one) - n * (n + 1) / 2
    total = n + m
    ties = math.fsum(count**3 - count for count in tally.values()) / (total * (total - 1)) if total > 1 else 0.0
    variance = n * m / 12 * (total + 1 - ties)
    if variance <= 0:
        return 1.0
    distance = max(0.0, abs(statistic - n * m / 2) - 0.5)
    return math.erfc(distance / math.sqrt(2 * variance))


def _circumstances(before: RunInfo, after: RunInfo) -> list[tuple[str, str, str]]:
    facts = (
        "commit", "plasmacloud", "machine", "cpu_model", "cpu_count", "memory_mib", "kernel", "file_system", "python",
    )  # fmt: skip
    found = [
        (fact.replace("_", " "), str(getattr(before, fact)), str(getattr(after, fact)))
        for fact in facts
        if getattr(before, fact) != getattr(after, fact)
    ]
    if abs(before.load_average - after.load_average) >= 1.0:
        found.append(("load at the start", f"{before.load_average:g}", f"{after.load_average:g}"))
    return found
