"""From evidence to checks: the judgements that most scenarios share. Pure; works on a loaded record alone."""

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise, zip_longest

import msgspec

from plasmacloud.lab.recorder import Record
from plasmacloud.lab.trials import Trial, assemble
from plasmacloud.verify.availability import (
    Gap,
    acknowledgement_times,
    cadence_ms,
    longest_gap,
    split_outage,
    traffic,
)
from plasmacloud.verify.checks import Check, Verdict, shorten
from plasmacloud.verify.counterexample import summary
from plasmacloud.verify.events import LoopStall, Stopped, UnexpectedExit
from plasmacloud.verify.history import Outcome, OutcomeCounts, broken_assumptions, count_outcomes
from plasmacloud.verify.leadership import check_leadership
from plasmacloud.verify.ledger import Disagreement, LedgerResult, check_ledger
from plasmacloud.verify.linearizability import Result
from plasmacloud.verify.order import check_real_time_order, check_same_everywhere
from plasmacloud.verify.reads import check_reads
from plasmacloud.verify.registers import check_registers
from plasmacloud.verify.search import Answer
from plasmacloud.verify.statistics import summarize

REGISTER_STEPS = 3_000_000
"""Bounds the judgement of one contended key. In steps, not in time: judging again must give the same verdict."""
REGISTER_MIN = 20
"""Fewer answers on contended keys say nothing."""


class Outage(msgspec.Struct, frozen=True):
    """The interruption of service that one trial's fault caused."""

    trial: int
    gap: Gap
    detect_ms: float | None
    elect_ms: float | None
    serve_ms: float | None


class Case:
    """One record, and everything derived from it that checks need more than once."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.plan = record.plan
        self.trials: list[Trial] = assemble(record.events)
        self.ack_ns = acknowledgement_times(record.history)

    @cached_property
    def ledger(self) -> LedgerResult:
        """History against readings."""
        return check_ledger(self.record.history, self.record.readings)

    @cached_property
    def outcomes(self) -> OutcomeCounts:
        """Operations by outcome."""
        return count_outcomes(self.record.history)

    @cached_property
    def registers(self) -> Result:
        """The linearizability of the contended keys."""
        return check_registers(self.record.registers, max_steps=REGISTER_STEPS)

    @cached_property
    def end_ns(self) -> int:
        """The last moment on record."""
        last_event = max((event.at_ns for event in self.record.events), default=0)
        return max([last_event, *(op.return_ns for op in self.record.history)])

    @cached_property
    def outages(self) -> list[Outage]:
        """One for each trial whose fault was injected."""
        return [self._outage(trial) for trial in self.trials if trial.fault is not None]

    def _outage(self, trial: Trial) -> Outage:
        assert trial.fault is not None
        fault_ns = trial.fault.at_ns
        gap = longest_gap(self.ack_ns, fault_ns, max(fault_ns, trial.closed_ns or self.end_ns))
        survivors = {s.node for s in self.record.statuses} - set(trial.fault.nodes)
        window = [s for s in self.record.statuses if fault_ns <= s.sent_ns <= (trial.closed_ns or self.end_ns)]
        split = split_outage(fault_ns, gap, trial.leader_member, trial.term, window, survivors)
        return Outage(trial.number, gap, split.detect_ms, split.elect_ms, split.serve_ms)

    def longest_stall_ms(self) -> float:
        """The worst delay of the lab's own event loop."""
        return max((event.late_ms for event in self.record.events if isinstance(event, LoopStall)), default=0.0)

    def cadence_before_faults_ms(self) -> float | None:
        """The longest pause in undisturbed traffic before any fault: no shorter outage can be told from noise."""
        pauses = [cadence_ms(self.ack_ns, trial.began_ns, trial.fault.at_ns) for trial in self.trials if trial.fault]
        return max((pause for pause in pauses if pause is not None), default=None)


def bad_if(findings: Iterable[str], bad: Verdict = Verdict.FAIL) -> tuple[Verdict, tuple[str, ...]]:
    """PASS without findings, else ``bad`` and the findings, shortened."""
    found = shorten(findings)
    return (bad if found else Verdict.PASS), found


def check_completed(case: Case, planned: int) -> Check:
    """The scenario ran to its end: all trials, all steps, no server ended on its own."""
    done = sum(trial.complete for trial in case.trials)
    findings: list[str] = []
    verdict = Verdict.PASS if done >= planned else Verdict.INCONCLUSIVE
    for event in case.record.events:
        match event:
            case Stopped():
                findings.append(f"stopped by the {event.cause}: {event.reason}")
                verdict = Verdict.FAIL if event.cause == "target" else max_verdict(verdict, Verdict.INCONCLUSIVE)
            case UnexpectedExit():
                findings.append(f"{event.node} (process {event.pid}) ended on its own with status {event.status}")
                verdict = Verdict.FAIL
            case _:
                pass
    measured = f"{done} of {planned} trials" if planned else "stopped early" if findings else "all steps"
    return Check("completed", verdict, measured, f"{planned} trials" if planned else "all steps", shorten(findings))


def max_verdict(one: Verdict, two: Verdict) -> Verdict:
    """FAIL stays FAIL; otherwise the second."""
    return one if one is Verdict.FAIL else two


def check_assumptions(case: Case) -> Check:
    """What the checkers take for granted about the history."""
    verdict, findings = bad_if(broken_assumptions(case.record.history), Verdict.INCONCLUSIVE)
    return Check("history", verdict, f"{case.outcomes.total} writes", "sequential clients, unique keys", findings)


def check_traffic(case: Case) -> Check:
    """Enough acknowledged writes before every fault, or the run says nothing."""
    required = case.plan.min_traffic
    counts = [
        (trial.number, traffic(case.ack_ns, trial.began_ns, trial.fault.at_ns, required))
        for trial in case.trials
        if trial.fault is not None
    ]
    short = [
        f"trial {n}: {gate.acknowledged} acknowledged writes before the fault" for n, gate in counts if not gate.passed
    ]
    verdict, findings = bad_if(short if counts else ["no fault was injected"], Verdict.VOID)
    least = min((gate.acknowledged for _, gate in counts), default=0)
    return Check("traffic", verdict, f"at least {least} writes before each fault", f">= {required} writes", findings)


def check_total_traffic(case: Case, required: int) -> Check:
    """For scenarios without a fault: enough acknowledged writes in all."""
    verdict = Verdict.PASS if case.outcomes.ok >= required else Verdict.VOID
    return Check("traffic", verdict, f"{case.outcomes.ok} acknowledged writes", f">= {required} writes")


def check_fault_landed(case: Case) -> Check:
    """Every fault left proof that it happened."""
    injected = sum(len(trial.faults) for trial in case.trials)
    unproven = [
        f"trial {t.number}: {proof.evidence if proof else 'no proof was recorded'}"
        for t in case.trials
        for _, proof in zip_longest(t.faults, t.proofs[: len(t.faults)])
        if proof is None or not proof.landed
    ]
    unproven += [
        f"trial {t.number}: {r.node} has the same process {r.new_pid} as before its restart"
        for t in case.trials
        for r in t.restarts
        if r.old_pid == r.new_pid
    ]
    verdict, findings = bad_if(unproven if injected else ["no fault was injected"], Verdict.INCONCLUSIVE)
    measured = f"{max(0, injected - len(unproven))} of {injected} proven"
    return Check("fault-landed", verdict, measured, "all proven", findings)


def check_rpo(case: Case) -> Check:
    """No acknowledged write is missing on any node."""
    ledger = case.ledger
    lost = ledger.lost_keys()
    missing_on: dict[str, list[str]] = defaultdict(list)
    details: dict[str, str] = {}
    for finding in ledger.of_kind(Disagreement.LOST):
        missing_on[finding.key].append(finding.node)
        details[finding.key] = f"trial {finding.trial}: {finding.detail}"
    verdict, findings = bad_if(f"lost {key} on {', '.join(missing_on[key])}; {details[key]}" for key in missing_on)
    if verdict is Verdict.PASS and (ledger.unread or not case.record.readings):
        verdict, findings = Verdict.INCONCLUSIVE, shorten(ledger.unread or ["nothing was read back"])
    measured = f"{len(lost)} of {ledger.acknowledged} acknowledged writes lost"
    return Check("rpo", verdict, measured, "0 lost, on every node", findings)


def check_integrity(case: Case) -> Check:
    """What is stored is what was written: right value, right revision, once, and nothing that nobody wrote."""
    kinds = [kind for kind in Disagreement if kind is not Disagreement.LOST]
    wrong = case.ledger.of_kind(*kinds)
    verdict, findings = bad_if(str(finding) for finding in wrong)
    if verdict is Verdict.PASS and not case.record.readings:
        verdict, findings = Verdict.INCONCLUSIVE, ("nothing was read back",)
    tally = ", ".join(f"{len(case.ledger.of_kind(kind))} {kind.value}" for kind in kinds if case.ledger.of_kind(kind))
    return Check("integrity", verdict, tally or "every write as it was sent, applied once", "no disagreement", findings)


def check_replicas(case: Case) -> Check:
    """All nodes hold the same records at the same revisions."""
    result = check_same_everywhere(case.record.readings)
    complete = bool(case.record.readings) and all(r.complete for r in case.record.readings)
    verdict, findings = bad_if(result.findings)
    if verdict is Verdict.PASS and not complete:
        verdict, findings = Verdict.INCONCLUSIVE, ("not every node was read in every reading",)
    measured = f"{len(result.findings)} differences in {result.compared} records"
    return Check("replicas-equal", verdict, measured, "no difference", findings)


def check_order(case: Case) -> Check:
    """One order of writes that agrees with real time."""
    result = check_real_time_order(case.record.history)
    verdict, findings = bad_if(result.findings)
    measured = f"{len(result.findings)} contradictions in {result.compared} writes"
    return Check("order", verdict, measured, "no contradiction", findings)


def check_one_leader_per_term(case: Case) -> Check:
    """From all status answers."""
    result = check_leadership(case.record.statuses, term_lags=case.plan.traits.term_lags)
    verdict, findings = bad_if(result.findings)
    if verdict is Verdict.PASS and not result.leaders:
        verdict, findings = Verdict.INCONCLUSIVE, ("no node ever named a leader",)
    measured = f"{result.terms} terms in {result.samples} status answers"
    if result.excused:
        measured += f", {result.excused} with a lagging term set aside"
    return Check("one-leader-per-term", verdict, measured, "at most 1 leader per term", findings)


def check_longest(
    name: str, values_ms: list[tuple[int, float]], open_trials: Iterable[int], threshold_ms: float
) -> Check:
    """The longest of a time measured in each trial against a threshold; a trial that never got there fails."""
    findings = [f"trial {trial}: {value:.0f} ms" for trial, value in values_ms if value > threshold_ms]
    findings += [f"trial {trial}: not within the deadline" for trial in open_trials]
    if not values_ms and not findings:
        return Check(name, Verdict.INCONCLUSIVE, "not measured", f"max <= {threshold_ms:g} ms")
    verdict, found = bad_if(findings)
    measured = "not reached"
    if values_ms:
        summary = summarize([value for _, value in values_ms])
        measured = f"p50 {summary.p50:.1f} ms, max {summary.maximum:.1f} ms over {summary.n} trials"
    return Check(name, verdict, measured, f"max <= {threshold_ms:g} ms", found)


def check_rto(case: Case, name: str = "rto") -> Check:
    """Longest time without an acknowledged write around each fault, against ``rto_max_ms``."""
    values = [(outage.trial, outage.gap.length_ms) for outage in case.outages]
    open_trials = [outage.trial for outage in case.outages if outage.gap.open]
    return check_longest(name, values, open_trials, case.plan.threshold("rto_max_ms"))


def check_rejoin(case: Case) -> Check:
    """After its restart the node has everything, within ``rejoin_max_ms``."""
    restarted = [trial for trial in case.trials if trial.restarts]
    values = [(t.number, t.rejoin_ms) for t in restarted if t.rejoin_ms is not None]
    behind = [t.number for t in restarted if t.caught_up is not None and not t.caught_up.ok]
    return check_longest("rejoin", values, behind, case.plan.threshold("rejoin_max_ms"))


def check_stale_reads(case: Case) -> Check:
    """No linearizable read showed less than had been acknowledged before it was sent."""
    result = check_reads(case.record.history, case.record.reads)
    verdict, findings = bad_if(result.findings)
    if verdict is Verdict.PASS and not result.compared:
        verdict, findings = Verdict.INCONCLUSIVE, ("no read succeeded",)
    measured = f"{len(result.findings)} stale of {result.compared} successful reads, {len(case.record.reads)} sent"
    return Check("linearizable-reads", verdict, measured, "0 stale", findings)


def check_linearizable(case: Case) -> Check:
    """All answers about the contended keys follow from one order that respects real time."""
    result = case.registers
    findings = [f"{part.key}: not decided within {part.reason}" for part in result.parts if part.reason]
    verdict = Verdict.INCONCLUSIVE if result.answer is Answer.UNKNOWN else Verdict.PASS
    if result.answer is Answer.VIOLATION:
        verdict, findings = Verdict.FAIL, [line for each in result.violations() for line in summary(each)] + findings
    answered = sum(op.outcome is Outcome.OK for op in case.record.registers)
    if verdict is Verdict.PASS and answered < REGISTER_MIN:
        verdict, findings = Verdict.INCONCLUSIVE, [f"only {answered} answers about contended keys"]
    opened = sum(op.outcome is Outcome.INFO for op in case.record.registers)
    measured = (
        f"{len(result.violations())} of {len(result.parts)} contended keys not linearizable; "
        f"{answered} answers, {opened} unknown outcomes"
    )
    return Check("linearizable", verdict, measured, "one order explains every answer", shorten(findings))


def data_checks(case: Case, *, contended: bool = True) -> list[Check]:
    """What must hold for the data and the leadership in every scenario. ``contended``: nothing acknowledged may have
    been given up on purpose, so the contended keys must be linearizable too."""
    return [
        check_rpo(case),
        check_integrity(case),
        check_replicas(case),
        check_order(case),
        *([check_linearizable(case)] if contended else []),
        check_one_leader_per_term(case),
        check_assumptions(case),
    ]


def outage_distributions(case: Case) -> dict[str, list[float]]:
    """RTO, and how long rejoining took: one value for each trial that has one."""
    result: dict[str, list[float]] = {"rto_ms": [outage.gap.length_ms for outage in case.outages]}
    result["rejoin_ms"] = [trial.rejoin_ms for trial in case.trials if trial.rejoin_ms is not None]
    return {name: values for name, values in result.items() if values}


def split_distributions(case: Case) -> dict[str, list[float]]:
    """The parts of an outage that began with the death of a leader."""
    parts = {
        "detect_ms": [outage.detect_ms for outage in case.outages],
        "elect_ms": [outage.elect_ms for outage in case.outages],
        "serve_ms": [outage.serve_ms for outage in case.outages],
    }
    known = {name: [value for value in values if value is not None] for name, values in parts.items()}
    return {name: values for name, values in known.items() if values}


def write_latencies_ms(case: Case) -> list[float]:
    """Round-trip times of acknowledged writes that did not overlap a fault's window."""
    windows = sorted(
        (t.fault.at_ns, t.caught_up.at_ns if t.caught_up else case.end_ns) for t in case.trials if t.fault is not None
    )
    assert all(one[1] <= two[0] for one, two in pairwise(windows)), "fault windows overlap"
    calm = (
        op
        for op in case.record.history
        if op.outcome is Outcome.OK and not any(begin <= op.return_ns and op.invoke_ns <= end for begin, end in windows)
    )
    return [(op.return_ns - op.invoke_ns) / 1e6 for op in calm]
