"""cluster-join: one node founds a cluster and serves; the others join while writes go on.

Then come those that do not: a member that was added and never starts, and one that dies while it is joining. Neither
may hold up a write, nor another node that joins meanwhile. Everything is judged by linearizable member lists.

A target that cares for its members by itself (threshold ``cleanup_max_ms`` above 0) is shown strangers, too: a learner
that never starts, and that it has to remove by its own policy; a node with the disk of another cluster, and a member
whose disk was set back to an old copy, which it has to refuse.
"""

from collections.abc import Mapping
from typing import ClassVar

from plasmacloud.lab.faults.base import Fault
from plasmacloud.lab.faults.membership import DiesHalfWay, Join, NeverStarts
from plasmacloud.lab.faults.strangers import REFUSED_ENDS_S, LeftAlone, RolledBack, WrongDirectory
from plasmacloud.lab.judging import (
    Case,
    bad_if,
    check_completed,
    check_fault_landed,
    check_longest,
    check_rto,
    check_traffic,
    data_checks,
    outage_distributions,
    write_latencies_ms,
)
from plasmacloud.lab.rig import START_DEADLINE_S, Rig
from plasmacloud.lab.roster import Roster
from plasmacloud.lab.scenarios.base import Scenario
from plasmacloud.lab.trials import Trial
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.lab.workload import KEY_PREFIX
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.events import NodeStarted
from plasmacloud.verify.observations import MembersSample

DEAD_WEIGHT = (NeverStarts.name, DiesHalfWay.name)
REFUSED = (WrongDirectory.name, RolledBack.name)
LEARNER_DEADLINE_S = 10.0
"""How long a target with a cleanup policy is told to wait for a learner: longer than any join may take here."""


class ClusterJoin(Scenario):
    """Bootstrap of one node; joins under load, with and without dead weight."""

    name = "cluster-join"
    must_hold = (
        "one node founds the cluster, the others join under load within 10 s; learners that never come block nothing"
    )
    default_trials = 3
    spares = 2
    thresholds: ClassVar[Mapping[str, float]] = {"voters_max_ms": 10_000, "rto_max_ms": 1000, "cleanup_max_ms": 0}

    async def drive(self, rig: Rig) -> None:
        cluster = rig.cluster
        everyone = cluster.names
        first, *others = everyone
        cluster.target = cluster.target.with_learner_deadline(LEARNER_DEADLINE_S)
        cluster.members = [first]
        cluster.prepare(first, cluster.target.bootstrap_argv(cluster[first].spec))
        rig.workload.route([first])
        await rig.start()
        await rig.stable(timeout=START_DEADLINE_S)
        rig.workload.start()
        async with Roster(rig) as roster:
            for number in range(1, rig.plan.trials + 1):
                if number > 1:
                    rig.doing("shrinking to one node again")
                    for name in reversed(others):
                        await roster.dismiss(name)
                await disturb(rig, number, Join(roster, others))
            one, two = cluster.outsiders()
            await self._dead_weight(rig, rig.plan.trials + 1, roster, NeverStarts(roster, two), one)
            await self._dead_weight(rig, rig.plan.trials + 2, roster, DiesHalfWay(roster, one), two)
            if cleanup_ms := rig.plan.threshold("cleanup_max_ms"):
                number = rig.plan.trials + 1 + len(DEAD_WEIGHT)
                await disturb(rig, number, LeftAlone(roster, two, 2 * cleanup_ms / 1000))
                await self._dead_weight(rig, number + 1, roster, WrongDirectory(roster, two), one)
                await disturb(rig, number + 2, RolledBack(roster, others[-1]))
        await rig.finish(KEY_PREFIX)

    async def _dead_weight(self, rig: Rig, number: int, roster: Roster, fault: Fault, healthy: str) -> None:
        """While ``fault`` holds, ``healthy`` joins; afterwards both are gone again."""
        await disturb(rig, number, fault, Join(roster, [healthy]))
        await roster.dismiss(healthy)
        rig.recorder.flush()

    def judge(self, case: Case) -> list[Check]:
        return [
            check_voters_in_time(case),
            check_rto(case, "writes-go-on"),
            check_dead_weight(case),
            *(check_strangers(case) if cares_for_members(case) else []),
            *data_checks(case),
            check_fault_landed(case),
            check_traffic(case),
            check_completed(
                case, case.plan.trials + len(DEAD_WEIGHT) + (1 + len(REFUSED) if cares_for_members(case) else 0)
            ),
        ]

    def distributions(self, case: Case) -> dict[str, list[float]]:
        values = {
            **outage_distributions(case),
            "voters_ms": [value for _, value in voters_ms(case)],
            "write_ms": write_latencies_ms(case),
        }
        return {name: each for name, each in values.items() if each}


async def disturb(rig: Rig, number: int, *faults: Fault) -> None:
    """One trial in which nobody should notice anything: the faults in order, then read back, then undone in reverse."""
    await rig.begin_trial(number)
    began_ns = 0
    for fault in faults:
        began_ns = await fault.inject(rig)
    if not await rig.resumed(began_ns):
        raise WaitedTooLong("writes did not succeed", hint=rig.watcher.describe())
    await rig.aftermath()
    await rig.end_trial(faults[-1])
    for fault in reversed(faults[:-1]):
        await fault.undo(rig)


def joins(case: Case) -> list[Trial]:
    """The trials in which the cluster grew from one node."""
    return [trial for trial in case.trials if trial.fault is not None and trial.fault.fault == Join.name]


def voters_ms(case: Case) -> list[tuple[int, float]]:
    """From the start of the first process that joins until the member list shows all of them as voters."""
    values = []
    for trial in joins(case):
        assert trial.fault is not None
        began_ns = trial.fault.at_ns
        started = [
            event.at_ns
            for event in case.record.events
            if isinstance(event, NodeStarted) and event.trial == trial.number and event.at_ns >= began_ns
        ]
        listed = [
            sample.at_ns
            for sample in _during(case, trial)
            if len(sample.voters()) >= case.plan.nodes and sample.at_ns >= began_ns
        ]
        if started and listed:
            # Adding a member is part of joining where it is a step of its own, before the process starts.
            values.append((trial.number, (listed[0] - min(began_ns, started[0])) / 1e6))
    return values


def _during(case: Case, trial: Trial) -> list[MembersSample]:
    return [sample for sample in case.record.members if sample.trial == trial.number]


def check_voters_in_time(case: Case) -> Check:
    """All nodes are voters within ``voters_max_ms`` of the first step of their joining."""
    values = voters_ms(case)
    got = {number for number, _ in values}
    missing = [trial.number for trial in joins(case) if trial.number not in got]
    return check_longest("all-voters", values, missing, case.plan.threshold("voters_max_ms"))


def check_dead_weight(case: Case) -> Check:
    """While a learner that is not there is in the list, another node joined and became a voter."""
    trials = [trial for trial in case.trials if trial.fault is not None and trial.fault.fault in DEAD_WEIGHT]
    findings = []
    missing = []
    for trial in trials:
        assert trial.fault is not None
        joined = [node for fault in trial.faults if fault.fault == Join.name for node in fault.nodes]
        samples = _during(case, trial)
        dead = dead_members(case, trial)
        if not dead or not joined:
            missing.append(f"trial {trial.number}: no dead learner was listed, or nobody joined beside it")
        elif not any(_joined_beside(sample, dead, joined) for sample in samples):
            findings.append(f"trial {trial.number}: {', '.join(joined)} did not become a voter beside the dead learner")
    verdict, found = bad_if(findings)
    if verdict is Verdict.PASS and (missing or len(trials) < len(DEAD_WEIGHT)):
        verdict, found = Verdict.INCONCLUSIVE, tuple(missing or ["there was no dead learner"])
    measured = f"{len(trials) - len(findings) - len(missing)} of {len(trials)} joined beside a dead learner"
    return Check("dead-learners-block-nothing", verdict, measured, "every other join succeeds", found)


def cares_for_members(case: Case) -> bool:
    """Whether the target was shown strangers."""
    return case.plan.threshold("cleanup_max_ms") > 0


def check_strangers(case: Case) -> list[Check]:
    """What became of those that must not be members."""
    return [check_cleanup(case), check_refused(case)]


def check_cleanup(case: Case) -> Check:
    """The learner that never started is gone from the list in time, without anybody's request."""
    trials = [trial for trial in case.trials if trial.fault is not None and trial.fault.fault == LeftAlone.name]
    values, missing = [], []
    for trial in trials:
        dead = dead_members(case, trial)
        samples = _during(case, trial)
        came = next((s.at_ns for s in samples if any(member.id in dead for member in s.members)), None)
        went = next(
            (s.at_ns for s in samples if came and s.at_ns > came and not any(m.id in dead for m in s.members)), None
        )
        if came is None or went is None:
            missing.append(trial.number)
        else:
            values.append((trial.number, (went - came) / 1e6))
    return check_longest("cleaned-up", values, missing, case.plan.threshold("cleanup_max_ms"))


def check_refused(case: Case) -> Check:
    """Whoever came with another cluster's disk, or an old copy of its own, stopped by itself and said so (a status
    above 0; a signal, or 0, would be something else)."""
    trials = [trial for trial in case.trials if any(fault.fault in REFUSED for fault in trial.faults)]
    findings = []
    for trial in trials:
        (fault,) = (fault for fault in trial.faults if fault.fault in REFUSED)
        status = [end.status for end in trial.ended if end.node in fault.nodes and end.at_ns >= fault.at_ns]
        if not status:
            findings.append(f"trial {trial.number}: {fault.fault}: still ran after {REFUSED_ENDS_S:g} s")
        elif status[0] <= 0:
            findings.append(f"trial {trial.number}: {fault.fault}: ended with status {status[0]}")
    verdict, found = bad_if(findings)
    if verdict is Verdict.PASS and len(trials) < len(REFUSED):
        verdict, found = Verdict.INCONCLUSIVE, ("not all of them came",)
    measured = f"{len(trials) - len(findings)} of {len(trials)} stopped by themselves"
    return Check("strangers-refused", verdict, measured, f"all, within {REFUSED_ENDS_S:g} s", found)


def dead_members(case: Case, trial: Trial) -> set[int]:
    """Members that were added in this trial and never voted: no list had them before the fault, and in no list of
    the trial they are voters."""
    assert trial.fault is not None
    before = [sample for sample in case.record.members if sample.at_ns < trial.fault.at_ns]
    known = {member.id for member in before[-1].members} if before else set()
    during = _during(case, trial)
    seen = {member.id for sample in during for member in sample.members}
    voted = {member.id for sample in during for member in sample.members if not member.learner}
    return seen - known - voted


def _joined_beside(sample: MembersSample, dead: set[int], joined: list[str]) -> bool:
    there = any(member.id in dead and member.learner for member in sample.members)
    return there and sample.voters() >= set(joined)
