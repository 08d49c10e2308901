"""The epoch rule, over the whole run: one holder for each epoch, no gap, no two leaders at the same time. Pure."""

from collections import defaultdict
from itertools import combinations, pairwise

from plasmacloud.lab.judging import Case, bad_if
from plasmacloud.lab.val13x import names
from plasmacloud.lab.val13x.checks import backwards
from plasmacloud.lab.val13x.facts import EpochRow, Gathered
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.history import acknowledged

_BY_OPERATOR = "raised by "
"""How the notes of an epoch begin that an operator raised to fence everybody: it has no holder, on purpose."""


def check_epochs(gathered: Gathered) -> Check:
    """Durable epochs, in ``leader_epochs``: each number once, none left out, timelines never back, holders that are."""
    rows = gathered.epochs
    if rows is None:
        return Check("epochs", Verdict.INCONCLUSIVE, "not read", "no gap", ("leader_epochs was not read",))
    wrong = [f"after epoch {a.epoch} comes {b.epoch}" for a, b in pairwise(rows) if b.epoch != a.epoch + 1]
    wrong += backwards([(row.timeline, row.epoch) for row in rows])
    wrong += [f"epoch {row.epoch} is held by {row.holder_id!r}" for row in rows if not _holder_is_known(row)]
    verdict, findings = bad_if(wrong if rows else ["leader_epochs is empty"])
    timelines = len({row.timeline for row in rows})
    return Check("epochs", verdict, f"{len(rows)} epochs on {timelines} timelines", "no gap, never back", findings)


def _holder_is_known(row: EpochRow) -> bool:
    if row.holder_id:
        return row.holder_id in names.NODES
    return row.notes.startswith(_BY_OPERATOR)


def check_one_writer_per_epoch(case: Case, gathered: Gathered) -> Check:
    """Acknowledged writes of one epoch come from one server, the one that ``leader_epochs`` names for it."""
    writers: dict[int, set[str]] = defaultdict(set)
    acked = acknowledged(case.record.history)
    for op in acked:
        writers[op.revision].add(op.node)
    holders = {row.epoch: row.holder_id for row in gathered.epochs or ()}
    wrong = [
        f"epoch {epoch}: writes were acknowledged by {', '.join(sorted(nodes))}"
        for epoch, nodes in sorted(writers.items())
        if len(nodes) > 1
    ]
    wrong += [
        f"epoch {epoch}: {node} acknowledged a write, and it belongs to {holders.get(epoch) or 'nobody'}"
        for epoch, nodes in sorted(writers.items())
        for node in sorted(nodes)
        if gathered.epochs is not None and holders.get(epoch) != node
    ]
    verdict, findings = bad_if(wrong)
    if verdict is Verdict.PASS and (not acked or gathered.epochs is None):
        verdict, findings = Verdict.INCONCLUSIVE, ("there is nothing to compare",)
    measured = f"{len(acked)} acknowledged writes in {len(writers)} epochs"
    return Check("one-writer-per-epoch", verdict, measured, "each epoch's writes by its holder", findings)


def check_never_two_leaders(case: Case) -> Check:
    """No server said that it leads while another certainly did.

    A server leads for certain from the first answer in which it said so, in an epoch, to the moment in which the last
    such answer was asked for. Two such times must not overlap.
    """
    times: dict[tuple[str, int, int], tuple[int, int]] = {}
    for sample in case.record.statuses:
        if sample.claims_leadership:
            key = sample.node, sample.incarnation, sample.term
            first, last = times.get(key, (sample.at_ns, sample.sent_ns))
            times[key] = min(first, sample.at_ns), max(last, sample.sent_ns)
    wrong = []
    for (one, a), (two, b) in combinations(sorted(times.items()), 2):
        overlap_ns = min(a[1], b[1]) - max(a[0], b[0])
        if one[0] != two[0] and overlap_ns > 0:
            wrong.append(f"{one[0]} (epoch {one[2]}) and {two[0]} (epoch {two[2]}) for {overlap_ns / 1e6:.0f} ms")
    verdict, findings = bad_if(wrong)
    if not times:
        verdict, findings = Verdict.INCONCLUSIVE, ("no server ever said that it leads",)
    return Check("never-two-leaders", verdict, f"{len(times)} leaderships seen", "no overlap", findings)
