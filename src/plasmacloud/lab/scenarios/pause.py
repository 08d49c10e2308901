"""pause: the leader is frozen past its election timeout, replaced, and then wakes up believing that it still leads.

Nothing tells the others: connections stay open, only silence. A new leader must serve meanwhile. Around the moment of
waking up, probes read from the old leader: each read was sent after the new leader had acknowledged writes that the
old one cannot know, so an answer from memory would be stale, and the lab would see it.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import ClassVar

from plasmacloud.lab.faults.pause import Freeze, all_stopped
from plasmacloud.lab.judging import (
    Case,
    bad_if,
    check_completed,
    check_fault_landed,
    check_longest,
    check_stale_reads,
    check_traffic,
    data_checks,
    outage_distributions,
    split_distributions,
    write_latencies_ms,
)
from plasmacloud.lab.probes import ReadProbes
from plasmacloud.lab.rig import AFTERMATH_OPS, Rig
from plasmacloud.lab.scenarios.base import Scenario
from plasmacloud.lab.scenarios.failover import start_under_load
from plasmacloud.lab.trials import Trial
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.lab.workload import KEY_PREFIX
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.reads import ReadOp

FROZEN_MIN_S = 1.0
FROZEN_ELECTION_TIMEOUTS = 3
PROBES = 12
PROBE_LEAD_S = 0.3
"""The first reads go out spread over this time before the leader wakes up."""
PROBE_AFTER_S = 0.5
PROBE_TIMEOUT_S = 1.5
PROBE_PAUSE_S = 0.004


class Pause(Scenario):
    """SIGSTOP of the leader, SIGCONT after it has been replaced."""

    name = "pause"
    must_hold = "SIGSTOP of the leader: a new one serves; after SIGCONT the old one reads nothing stale and steps down"
    default_trials = 20
    thresholds: ClassVar[Mapping[str, float]] = {"rto_max_election_timeouts": 2, "step_down_max_ms": 1000}

    async def drive(self, rig: Rig) -> None:
        await start_under_load(rig)
        for number in range(1, rig.plan.trials + 1):
            leadership = await rig.begin_trial(number)
            await self._trial(rig, Freeze(leadership.node))
        await rig.finish(KEY_PREFIX)

    async def _trial(self, rig: Rig, fault: Freeze) -> None:
        frozen_s = max(FROZEN_MIN_S, FROZEN_ELECTION_TIMEOUTS * rig.plan.traits.election_timeout_ms / 1e3)
        async with ReadProbes(rig, [fault.node], PROBES, timeout_s=PROBE_TIMEOUT_S, pause_s=PROBE_PAUSE_S) as probes:
            fault_ns = await fault.inject(rig)
            rig.doing("waiting for a new leader to serve")
            if not await rig.resumed(fault_ns):
                raise WaitedTooLong("writes did not succeed while the leader was frozen", hint=rig.watcher.describe())
            await rig.traffic(AFTERMATH_OPS)
            frozen_for = (time.monotonic_ns() - fault_ns) / 1e9
            await asyncio.sleep(max(0.0, frozen_s - PROBE_LEAD_S - frozen_for))
            rig.doing("reading from the old leader as it wakes up")
            probes.start(spread_s=PROBE_LEAD_S)
            await asyncio.sleep(PROBE_LEAD_S)
            await fault.undo(rig)
            await asyncio.sleep(PROBE_AFTER_S)
        await rig.aftermath()
        await rig.end_trial(fault)

    def judge(self, case: Case) -> list[Check]:
        return [
            check_replaced_in_time(case),
            check_stale_reads(case),
            check_old_leader_was_asked(case),
            check_stepped_down(case),
            *data_checks(case),
            check_frozen_long_enough(case),
            check_fault_landed(case),
            check_traffic(case),
            check_completed(case, case.plan.trials),
        ]

    def distributions(self, case: Case) -> dict[str, list[float]]:
        stepped = [value for value in (step_down_ms(case, trial) for trial in case.trials) if value is not None]
        values = {
            **outage_distributions(case),
            **split_distributions(case),
            "step_down_ms": stepped,
            "write_ms": write_latencies_ms(case),
        }
        return {name: each for name, each in values.items() if each}


def check_replaced_in_time(case: Case) -> Check:
    """The outage against a multiple of the election timeout."""
    factor = case.plan.threshold("rto_max_election_timeouts")
    limit_ms = factor * case.plan.traits.election_timeout_ms
    values = [(outage.trial, outage.gap.length_ms) for outage in case.outages]
    check = check_longest("rto", values, [o.trial for o in case.outages if o.gap.open], limit_ms)
    return Check(
        check.name, check.verdict, check.measured, f"{check.threshold} ({factor:g} x election timeout)", check.findings
    )


def exposed_reads(case: Case, trial: Trial) -> list[ReadOp]:
    """Reads of one trial that the old leader answered after it woke up, sent after its successor had served."""
    thawed, resumed = trial.thawed, trial.resumed
    if thawed is None or resumed is None:
        return []
    return [
        read
        for read in case.record.reads
        if read.trial == trial.number
        and read.node == thawed.node
        and read.answered
        and resumed.at_ns < read.invoke_ns < thawed.at_ns <= read.return_ns
    ]


def check_old_leader_was_asked(case: Case) -> Check:
    """In every trial there were reads waiting for the old leader when it woke up, and it answered them somehow."""
    trials = [trial for trial in case.trials if trial.thawed is not None]
    counts = {trial.number: len(exposed_reads(case, trial)) for trial in trials}
    verdict, findings = bad_if(
        (f"trial {number}: no read was waiting when the old leader woke up" for number, n in counts.items() if not n),
        Verdict.INCONCLUSIVE,
    )
    if not trials:
        verdict, findings = Verdict.INCONCLUSIVE, ("no frozen leader was woken up",)
    measured = f"{sum(counts.values())} reads were waiting for it, at least {min(counts.values(), default=0)} per trial"
    return Check("old-leader-asked", verdict, measured, ">= 1 per trial", findings)


def step_down_ms(case: Case, trial: Trial) -> float | None:
    """From waking up to the first answer in which the old leader no longer names itself."""
    thawed = trial.thawed
    if thawed is None:
        return None
    until = trial.closed_ns or case.end_ns
    for sample in case.record.statuses:
        mine = sample.answered and sample.node == thawed.node and thawed.at_ns <= sample.at_ns <= until
        if mine and sample.leader != trial.leader_member:
            return (sample.at_ns - thawed.at_ns) / 1e6
    return None


def check_stepped_down(case: Case) -> Check:
    """The old leader follows, or knows no leader, soon after it woke up."""
    values, never = [], []
    for trial in case.trials:
        if trial.thawed is None or trial.closed_ns is None:
            continue
        value = step_down_ms(case, trial)
        if value is None:
            never.append(trial.number)
        else:
            values.append((trial.number, value))
    return check_longest("stepped-down", values, never, case.plan.threshold("step_down_max_ms"))


def check_frozen_long_enough(case: Case) -> Check:
    """Every thread stood still until it was woken up, for longer than the election timeout, and ran afterwards."""
    limit_ms = case.plan.traits.election_timeout_ms
    frozen = [trial for trial in case.trials if trial.fault is not None]
    findings = []
    for trial in frozen:
        thawed = trial.thawed
        if thawed is None:
            findings.append(f"trial {trial.number}: not woken up")
        elif not all_stopped(thawed.states_before):
            findings.append(f"trial {trial.number}: threads were in states {thawed.states_before} before SIGCONT")
        elif "T" in thawed.states_after or not thawed.states_after:
            findings.append(f"trial {trial.number}: threads were in states {thawed.states_after} after SIGCONT")
        elif thawed.frozen_ms <= limit_ms:
            findings.append(f"trial {trial.number}: frozen for {thawed.frozen_ms:.0f} ms only")
    verdict, found = bad_if(findings if frozen else ["no leader was frozen"], Verdict.INCONCLUSIVE)
    least = min((trial.thawed.frozen_ms for trial in frozen if trial.thawed), default=0.0)
    return Check("frozen", verdict, f"for at least {least:.0f} ms, every thread", f"> {limit_ms} ms", found)
