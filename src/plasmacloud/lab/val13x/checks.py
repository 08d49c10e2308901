"""The suite's checks, one for each scenario, from the record and the facts. Pure.

A scenario is held against three lists: what must not have happened (FAIL), what the evidence does not show although it
should (INCONCLUSIVE), and whether it came to its end. Every scenario also answers for its own acknowledged writes.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from plasmacloud.base.errors import ExitCode
from plasmacloud.lab.judging import Case
from plasmacloud.lab.trials import Trial
from plasmacloud.lab.val13x import names
from plasmacloud.lab.val13x.facts import (
    AnyFact,
    Begun,
    Ended,
    Followed,
    Gathered,
    PoolerTried,
    Promoted,
    QuorumSaid,
    StaleAttempt,
    Standby,
    Told,
)
from plasmacloud.verify.checks import Check, Verdict, shorten
from plasmacloud.verify.history import Op, Outcome
from plasmacloud.verify.ledger import Disagreement
from plasmacloud.verify.registers import Kind, RegisterOp

MIN_CLIENTS = 2
"""Fewer clients at work during a fault are no concurrency."""


class Scenario:
    """What is known of one scenario, and the lists that judging it fills."""

    def __init__(self, name: str, case: Case, gathered: Gathered) -> None:
        self.name = name
        self.case = case
        self.gathered = gathered
        self.wrong: list[str] = []
        self.missing: list[str] = []
        self.measured: list[str] = []
        self.began = next((f for f in gathered.facts if isinstance(f, Begun) and f.scenario == name), None)
        self.ended = next((f for f in gathered.facts if isinstance(f, Ended) and f.scenario == name), None)
        first = self.began.first_trial if self.began else 1
        last = self.ended.last_trial if self.ended else max((t.number for t in case.trials), default=0)
        self.trials = [t for t in case.trials if self.began and first <= t.number <= last]
        numbers = {trial.number for trial in self.trials}
        begin_ns = self.began.at_ns if self.began else 0
        end_ns = self.ended.at_ns if self.ended else case.end_ns
        self.facts: list[AnyFact] = [
            fact for fact in gathered.facts if fact.trial in numbers or begin_ns <= fact.at_ns <= end_ns
        ]

    def of_trial(self, trial: Trial) -> list[AnyFact]:
        """Facts of one trial."""
        return [fact for fact in self.facts if fact.trial == trial.number]

    def check(self, threshold: str) -> Check:
        """The verdict of the lists."""
        verdict = Verdict.FAIL if self.wrong else Verdict.INCONCLUSIVE if self.missing else Verdict.PASS
        measured = "; ".join(self.measured) or "not reached"
        return Check(names.title(self.name), verdict, measured, threshold, shorten([*self.wrong, *self.missing]))


def scenario_checks(case: Case, gathered: Gathered) -> list[Check]:
    """One check for each scenario of the plan, in order."""
    found = []
    for name in case.plan.options["scenarios"].split():
        scenario = Scenario(name, case, gathered)
        _came_to_its_end(scenario)
        threshold = _JUDGES[name](scenario) if scenario.began else "reached"
        found.append(scenario.check(threshold))
    return found


def _came_to_its_end(scenario: Scenario) -> None:
    if scenario.began is None:
        scenario.missing.append("the run did not get so far")
        return
    if scenario.ended is None:
        scenario.missing.append("the run ended within it")
    elif scenario.ended.problem:
        where = scenario.wrong if scenario.ended.cause == "target" else scenario.missing
        where.append(f"it did not get to its end: {scenario.ended.problem}")
    course = names.COURSES[scenario.name]
    planned = len(course.faults) * (scenario.case.plan.trials if course.repeated else 1)
    done = [trial for trial in scenario.trials if trial.complete]
    if len(done) < planned:
        scenario.missing.append(f"{len(done)} of {planned} trials were completed")
    for trial in scenario.trials:
        if trial.fault is not None and (trial.proof is None or not trial.proof.landed):
            said = trial.proof.evidence if trial.proof else "none was recorded"
            scenario.missing.append(f"trial {trial.number}: no proof of its fault: {said}")
        if trial.resumed is not None and not trial.resumed.ok:
            scenario.wrong.append(f"trial {trial.number}: no write was acknowledged within the deadline")
        elif trial.caught_up is not None and not trial.caught_up.ok:
            scenario.wrong.append(f"trial {trial.number}: at its end no write was acknowledged")
    _kept_what_it_acknowledged(scenario)


def _kept_what_it_acknowledged(scenario: Scenario) -> None:
    numbers = {trial.number for trial in scenario.trials}
    lost = [f for f in scenario.case.ledger.of_kind(Disagreement.LOST) if f.trial in numbers]
    scenario.wrong += [f"trial {finding.trial}: {finding}" for finding in lost]
    if numbers and (scenario.case.ledger.unread or not scenario.case.record.readings):
        scenario.missing.append("what the database holds was not read back")


# -- leaders -------------------------------------------------------------------------------------------------------


def takeover_ms(case: Case, trial: Trial) -> float | None:
    """From the fault to the first write that was acknowledged in a newer epoch; None: there was none."""
    if trial.fault is None:
        return None
    at_ns, until_ns = trial.fault.at_ns, trial.closed_ns or case.end_ns
    times = [
        op.return_ns
        for op in case.record.history
        if op.outcome is Outcome.OK and op.revision > trial.term and at_ns <= op.return_ns <= until_ns
    ]
    return (min(times) - at_ns) / 1e6 if times else None


def step_down_ms(case: Case, trial: Trial) -> float | None:
    """From the fault to the first answer in which the old leader no longer says that it leads; None: it never did."""
    if trial.fault is None:
        return None
    at_ns, until_ns = trial.fault.at_ns, trial.closed_ns or case.end_ns
    for sample in case.record.statuses:
        own = sample.node == trial.leader and sample.answered and at_ns <= sample.sent_ns <= until_ns
        if own and not sample.claims_leadership:
            return (sample.at_ns - at_ns) / 1e6
    return None


def claim_ms(case: Case, trial: Trial) -> float | None:
    """From the fault to the first answer in which another server says that it leads, in a newer epoch."""
    if trial.fault is None:
        return None
    at_ns, until_ns = trial.fault.at_ns, trial.closed_ns or case.end_ns
    times = [
        sample.at_ns
        for sample in case.record.statuses
        if sample.claims_leadership
        and sample.node != trial.leader
        and sample.term > trial.term
        and at_ns <= sample.sent_ns <= until_ns
    ]
    return (min(times) - at_ns) / 1e6 if times else None


def _taken_over(scenario: Scenario) -> float:
    limit = scenario.case.plan.threshold("takeover_max_ms")
    found = []
    for trial in scenario.trials:
        took = takeover_ms(scenario.case, trial)
        if took is None:
            scenario.wrong.append(f"trial {trial.number}: nobody wrote in a newer epoch")
            continue
        found.append(took)
        if took > limit:
            scenario.wrong.append(f"trial {trial.number}: the first write of a new leader came after {took:.0f} ms")
    if found:
        scenario.measured.append(f"takeover {_range(found)}")
    return limit


def _refused(scenario: Scenario, trial: Trial, *, via: str) -> list[StaleAttempt]:
    """Attempts under an epoch that was over: none may get through, and there must have been some."""
    tried = [f for f in scenario.of_trial(trial) if isinstance(f, StaleAttempt) and f.via == via and not f.current]
    for each in tried:
        if each.got_through:
            scenario.wrong.append(f"trial {trial.number}: {each.target} accepted a write in stale epoch {each.epoch}")
        elif each.outcome is Outcome.INFO:
            scenario.missing.append(f"trial {trial.number}: a stale write through {each.target}: {each.said}")
    refused = [each for each in tried if each.outcome is Outcome.FAIL and each.kind]
    if not refused:
        scenario.missing.append(f"trial {trial.number}: no stale write was refused by {via}")
    return refused


def _followed(scenario: Scenario, trial: Trial) -> None:
    said = [fact for fact in scenario.of_trial(trial) if isinstance(fact, Followed)]
    if not said:
        scenario.missing.append(f"trial {trial.number}: nobody asked {trial.leader} whom it follows")
    scenario.wrong += [
        f"trial {trial.number}: {each.server} followed nobody for {each.after_ms:.0f} ms"
        for each in said
        if not each.leader
    ]


def _sigstop(scenario: Scenario) -> str:
    limit = _taken_over(scenario)
    refused = 0
    for trial in scenario.trials:
        refused += len(_refused(scenario, trial, via="server"))
        _followed(scenario, trial)
        thawed = trial.thawed
        if thawed is None:
            scenario.missing.append(f"trial {trial.number}: {trial.leader} was not told to go on")
            continue
        if set(thawed.states_before) != {"T"}:
            scenario.missing.append(f"trial {trial.number}: it was not frozen to the end ({thawed.states_before})")
        scenario.wrong += [
            f"trial {trial.number}: {sample.node} still said that it leads in epoch {sample.term} after it went on"
            for sample in scenario.case.record.statuses
            if sample.node == trial.leader
            and sample.claims_leadership
            and sample.term <= trial.term
            and thawed.at_ns < sample.at_ns <= (trial.closed_ns or scenario.case.end_ns)
        ]
    scenario.measured.append(f"{refused} waiting writes refused")
    return f"a new leader writes within {limit:g} ms; the old one writes nothing more and follows"


def _partition(scenario: Scenario) -> str:
    limit = _taken_over(scenario)
    margins = []
    for trial in scenario.trials:
        _refused(scenario, trial, via="server")
        _followed(scenario, trial)
        down, up = step_down_ms(scenario.case, trial), claim_ms(scenario.case, trial)
        if down is None:
            scenario.wrong.append(f"trial {trial.number}: {trial.leader} never stopped saying that it leads")
        elif up is None:
            scenario.missing.append(f"trial {trial.number}: nobody else was seen to lead")
        elif down >= up:
            scenario.wrong.append(
                f"trial {trial.number}: {trial.leader} stepped down after {down:.0f} ms, another led after {up:.0f} ms"
            )
        else:
            margins.append(up - down)
    if margins:
        scenario.measured.append(f"stepped down {_range(margins)} before the next one led")
    return f"the old leader steps down by itself before another leads; that one writes within {limit:g} ms"


def _kills(scenario: Scenario) -> str:
    limit = scenario.case.plan.threshold("rto_max_ms")
    numbers = {trial.number for trial in scenario.trials}
    found = []
    for outage in scenario.case.outages:
        if outage.trial in numbers:
            found.append(outage.gap.length_ms)
            if outage.gap.open or outage.gap.length_ms > limit:
                scenario.wrong.append(f"trial {outage.trial}: no acknowledged write for {outage.gap.length_ms:.0f} ms")
    for trial in scenario.trials:
        clients = _clients_during(scenario.case, trial)
        if clients < MIN_CLIENTS:
            scenario.missing.append(f"trial {trial.number}: {clients} clients wrote through the fault")
    if found:
        scenario.measured.append(f"without an acknowledged write for {_range(found)}")
    return f"<= {limit:g} ms without an acknowledged write, nothing acknowledged is lost"


def _clients_during(case: Case, trial: Trial) -> int:
    if trial.fault is None:
        return 0
    begin, end = trial.fault.at_ns, trial.closed_ns or case.end_ns
    return len({op.client for op in case.record.history if begin <= op.return_ns and op.invoke_ns <= end})


def _stale(scenario: Scenario) -> str:
    fenced = by_sql = 0
    for trial in scenario.trials:
        by_server = _refused(scenario, trial, via="server")
        if by_server and not any(each.kind == "stale-epoch" for each in by_server):
            scenario.missing.append(f"trial {trial.number}: the leader had stepped down before the fence was tried")
        fenced += sum(each.kind == "stale-epoch" for each in by_server)
        by_sql += len(_refused(scenario, trial, via="sql"))
        controls = [f for f in scenario.of_trial(trial) if isinstance(f, StaleAttempt) and f.current]
        if not any(each.outcome is Outcome.OK for each in controls):
            scenario.missing.append(f"trial {trial.number}: a write in the newest epoch was not accepted either")
    scenario.measured.append(f"{fenced} refused through the stale leader, {by_sql} by SQL")
    return "every write in an old epoch is refused, one in the newest is accepted"


def resume_ms(case: Case, trial: Trial) -> float | None:
    """From the moment in which a database took sessions again to the first acknowledged write; None: there was none."""
    if not trial.restarts:
        return None
    ready_ns = trial.restarts[0].at_ns
    first = next((at_ns for at_ns in case.ack_ns if at_ns > ready_ns), None)
    return (first - ready_ns) / 1e6 if first is not None else None


# -- databases -----------------------------------------------------------------------------------------------------


def _quorum(scenario: Scenario, trial: Trial, wanted: str, limit_ms: float) -> list[QuorumSaid]:
    said = [f for f in scenario.of_trial(trial) if isinstance(f, QuorumSaid) and f.wanted == wanted]
    if {each.server for each in said} != set(names.NODES):
        scenario.missing.append(f"trial {trial.number}: not every server was asked until the quorum is {wanted}")
    for each in said:
        if not each.reached:
            scenario.wrong.append(f"trial {trial.number}: {each.server} said {each.health!r}, not {wanted!r}")
        elif each.after_ms > limit_ms:
            scenario.wrong.append(f"trial {trial.number}: {each.server} said {wanted!r} after {each.after_ms:.0f} ms")
    return said


def _database(scenario: Scenario) -> str:
    limit_s = scenario.case.plan.threshold("quorum_lost_max_s")
    resumed, lost = [], []
    for trial in scenario.trials:
        lost += [each.after_ms for each in _quorum(scenario, trial, "lost", limit_s * 1e3)]
        _quorum(scenario, trial, "healthy", scenario.case.plan.recovery_deadline_s * 1e3)
        took = resume_ms(scenario.case, trial)
        resumed += [took] if took is not None else []
    if resumed:
        scenario.measured.append(f"lost after {_range(lost)}; writes {_range(resumed)} after it took sessions again")
    return f"quorum lost within {limit_s:g} s, then healthy; a leader; nothing acknowledged is lost"


def _standby_lost(scenario: Scenario) -> str:
    case = scenario.case
    limit_s = case.plan.threshold("quorum_lost_max_s")
    tried, resumed = 0, []
    for trial in scenario.trials:
        for each in _quorum(scenario, trial, "lost", limit_s * 1e3):
            if each.reached and each.write_ready:
                scenario.wrong.append(f"trial {trial.number}: {each.server} said that it is ready for writes")
        _quorum(scenario, trial, "healthy", case.plan.recovery_deadline_s * 1e3)
        states = [fact for fact in scenario.of_trial(trial) if isinstance(fact, Standby)]
        if not any(not each.state for each in states):
            scenario.missing.append(f"trial {trial.number}: the primary was not seen without its standby")
        if not trial.ended or not trial.restarts:
            scenario.missing.append(f"trial {trial.number}: when the standby was away is not on record")
            continue
        gone_ns, back_ns = trial.ended[0].at_ns, trial.restarts[0].at_ns
        contended = [op for op in case.record.registers if op.kind is Kind.WRITE]
        attempts: list[Op | RegisterOp] = [*case.record.history, *contended]
        within = [op for op in attempts if gone_ns < op.invoke_ns and op.return_ns < back_ns]
        tried += len(within)
        scenario.wrong += [
            f"trial {trial.number}: {op.key} was acknowledged by {op.node} while no standby had it"
            for op in within
            if op.outcome is Outcome.OK
        ]
        if not within:
            scenario.missing.append(f"trial {trial.number}: nobody tried to write while the standby was away")
        resumed += [trial.resumed.waited_ms] if trial.resumed is not None else []
    if resumed:
        scenario.measured.append(f"0 of {tried} writes acknowledged" if not scenario.wrong else f"{tried} writes tried")
        scenario.measured.append(f"again {_range(resumed)} after the standby was started")
    return "quorum lost, no write acknowledged without the standby; all well when it is back"


def _sync_failover(scenario: Scenario) -> str:
    epochs = scenario.gathered.epochs
    took = []
    for trial in scenario.trials:
        promoted = [fact for fact in scenario.of_trial(trial) if isinstance(fact, Promoted)]
        if not promoted:
            scenario.missing.append(f"trial {trial.number}: no promotion is on record")
        for each in promoted:
            took.append(takeover_ms(scenario.case, trial) or 0.0)
            if each.timeline <= each.old_timeline:
                scenario.wrong.append(f"trial {trial.number}: timeline {each.timeline} after {each.old_timeline}")
            if epochs is not None and not any(row.timeline == each.timeline for row in epochs):
                scenario.wrong.append(f"trial {trial.number}: no epoch was raised on timeline {each.timeline}")
        _quorum(scenario, trial, "healthy", scenario.case.plan.recovery_deadline_s * 1e3)
    if epochs is None:
        scenario.missing.append("leader_epochs was not read")
    else:
        scenario.wrong += backwards([(row.timeline, row.epoch) for row in epochs])
    if took:
        scenario.measured.append(f"first write {_range(took)} after the loss, with the promotion")
    return "epochs rise across timelines, nothing acknowledged is lost, the old primary follows"


def backwards(epochs: Sequence[tuple[int, int]]) -> list[str]:
    """Where (timeline, number) does not rise. ``epochs``: in the order in which they were raised."""
    return [
        f"after epoch {a[0]}.{a[1]} comes {b[0]}.{b[1]}" for a, b in pairwise(epochs) if b[0] < a[0] or b[1] <= a[1]
    ]


# -- operators -----------------------------------------------------------------------------------------------------


def _pooler(scenario: Scenario) -> str:
    tried = [fact for fact in scenario.facts if isinstance(fact, PoolerTried)]
    if not tried:
        scenario.missing.append("no server was put behind a pooler")
    for each in tried:
        if not each.shared:
            scenario.missing.append(f"{each.pooler} did not share sessions")
        if each.acquired:
            scenario.wrong.append(f"behind {each.pooler} it acquired leadership {each.acquired} times")
        if each.status is None:
            scenario.wrong.append(f"behind {each.pooler} it went on")
        elif each.status != ExitCode.CONFIG:
            scenario.wrong.append(f"behind {each.pooler} it ended with status {each.status}")
        if "pooler" not in each.said:
            scenario.wrong.append(f"behind {each.pooler}, what it said does not name it: {each.said!r}")
        scenario.measured.append(f"{each.pooler}: exit status {each.status}")
    return f"exit status {ExitCode.CONFIG.value}, an error that names the pooler, no leadership"


_SPLIT_BRAIN: tuple[tuple[str, int, str], ...] = (
    ("detect", 0, ""),
    ("detect", 1, "holder-without-lock"),
    ("recover --strategy promote-leader", 0, ""),
    ("detect", 0, ""),
    ("detect", 1, "lock-held-by-stranger"),
    ("recover --strategy manual-reconcile", 0, ""),
    ("release", 0, ""),
    ("detect", 0, ""),
)
_AUDITED = ("split-brain promote-leader", "split-brain manual-reconcile", "split-brain release")


def _split_brain(scenario: Scenario) -> str:
    told = [fact for fact in scenario.facts if isinstance(fact, Told)]
    for number, (command, status, finding) in enumerate(_SPLIT_BRAIN):
        if number >= len(told):
            scenario.missing.append(f"{command}: not asked")
            continue
        each = told[number]
        if each.command != command or each.status != status:
            scenario.wrong.append(f"{each.command}: exit status {each.status}, not {status}")
        if finding and finding not in each.findings:
            scenario.wrong.append(f"{each.command} found {', '.join(each.findings) or 'nothing'}, not {finding}")
    rows = {(row.action, row.outcome) for row in scenario.gathered.audit if row.operator == names.OPERATOR}
    for action in _AUDITED:
        for outcome in ("requested", "done"):
            if (action, outcome) not in rows:
                scenario.wrong.append(f"the audit has no {action!r} that was {outcome}")
    found = sorted({kind for each in told for kind in each.findings})
    scenario.measured.append(f"found {', '.join(found) or 'nothing'}; both strategies, {len(rows)} audited steps")
    return "both are found, both strategies end it, all of it audited"


_JUDGES: dict[str, Callable[[Scenario], str]] = {
    names.SIGSTOP: _sigstop,
    names.PARTITION: _partition,
    names.PG_STOP: _database,
    names.PG_KILL: _database,
    names.KILLS: _kills,
    names.STALE: _stale,
    names.STANDBY_LOST: _standby_lost,
    names.SYNC_FAILOVER: _sync_failover,
    names.POOLER: _pooler,
    names.SPLIT_BRAIN: _split_brain,
}


def _range(values: Iterable[float]) -> str:
    found = sorted(values)
    if not found:
        return "never"
    low, high = found[0], found[-1]
    return f"{low:.0f} ms" if round(low) == round(high) else f"{low:.0f}..{high:.0f} ms"
