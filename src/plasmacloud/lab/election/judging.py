"""Judgements that everything on the election rig shares: what the writers lived through, and who led in which epoch.

Pure; from the record alone. A write's revision is the number of the epoch that fenced it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from plasmacloud.lab.judging import Case, Outage, bad_if, check_longest
from plasmacloud.lab.trials import Trial
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.events import ProcessEnded
from plasmacloud.verify.history import acknowledged
from plasmacloud.verify.order import backwards

LEADER_FAULTS = ("terminate", "kill")


def leader_trials(case: Case, *faults: str) -> list[Trial]:
    """Trials in which the leader was ended, in one of these ways if given."""
    wanted = faults or LEADER_FAULTS
    return [trial for trial in case.trials if trial.fault is not None and trial.fault.fault in wanted]


def outages_of(case: Case, *faults: str) -> list[Outage]:
    """What those faults cost the writers."""
    numbers = {trial.number for trial in leader_trials(case, *faults)}
    return [outage for outage in case.outages if outage.trial in numbers]


def check_client_rto(case: Case) -> Check:
    """The longest time without an acknowledged fenced write around each end of a leader, against ``rto_max_ms``."""
    outages = outages_of(case)
    values = [(outage.trial, outage.gap.length_ms) for outage in outages]
    open_trials = [outage.trial for outage in outages if outage.gap.open]
    return check_longest("client-rto", values, open_trials, case.plan.threshold("rto_max_ms"))


def check_one_leader_per_epoch(case: Case) -> Check:
    """No two servers ever said that they lead in the same epoch, in all status answers."""
    claims: dict[int, set[str]] = defaultdict(set)
    for sample in case.record.statuses:
        if sample.claims_leadership:
            claims[sample.term].add(sample.node)
    verdict, findings = bad_if(
        f"epoch {epoch}: {', '.join(sorted(nodes))} each say that they lead"
        for epoch, nodes in sorted(claims.items())
        if len(nodes) > 1
    )
    if not claims:
        verdict, findings = Verdict.INCONCLUSIVE, ("no server ever said that it leads",)
    measured = f"{len(claims)} epochs in {len(case.record.statuses)} status answers on record"
    return Check("one-leader-per-epoch", verdict, measured, "at most 1 leader per epoch", findings)


def check_fence(case: Case) -> Check:
    """A write that was sent after another had been acknowledged never carries an older epoch: once a new leader has
    written, the old one's writes are refused. O(n log n)."""
    acked = acknowledged(case.record.history)
    verdict, findings = bad_if(
        f"{op.key}: accepted by {op.node} in epoch {op.revision} after {newer.node} had acknowledged "
        f"{newer.key} in epoch {newer.revision}"
        for newer, op in backwards(acked)
    )
    if not acked:
        verdict, findings = Verdict.INCONCLUSIVE, ("no write was acknowledged",)
    measured = f"{len(findings)} writes of a stale epoch in {len(acked)} acknowledged"
    return Check("fence", verdict, measured, "0 stale", findings)


def check_clean_stops(case: Case) -> Check:
    """Servers that were told to end (SIGTERM) ended with the status of a clean stop."""
    allowed = case.plan.traits.graceful_statuses
    ends = [end for trial in leader_trials(case, "terminate") for end in trial.ended]
    verdict, findings = bad_if(_unclean(ends, allowed))
    if not ends:
        verdict, findings = Verdict.INCONCLUSIVE, ("no server was told to end",)
    return Check("clean-stop", verdict, f"{len(ends) - len(findings)} of {len(ends)} clean", "all clean", findings)


def _unclean(ends: Iterable[ProcessEnded], allowed: Sequence[int]) -> Iterable[str]:
    for end in ends:
        if end.status not in allowed:
            yield f"trial {end.trial}: {end.node} (process {end.pid}) ended with status {end.status}"


def outage_distributions(case: Case) -> dict[str, list[float]]:
    """The writers' view of all ends of a leader, and of each kind of end; and its parts."""
    every = outages_of(case)
    found: dict[str, list[float]] = {"rto_ms": [outage.gap.length_ms for outage in every]}
    found["rto_term_ms"] = [outage.gap.length_ms for outage in outages_of(case, "terminate")]
    found["rto_kill_ms"] = [outage.gap.length_ms for outage in outages_of(case, "kill")]
    for name in ("detect_ms", "elect_ms", "serve_ms"):
        parts = [getattr(outage, name) for outage in every]
        found[name] = [part for part in parts if part is not None]
    return {name: values for name, values in found.items() if values}
