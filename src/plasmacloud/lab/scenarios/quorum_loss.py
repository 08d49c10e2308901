"""quorum-loss: a majority of the nodes is down. Nothing may be acknowledged, and nobody may be left hanging.

While the minority is alone, clients write to all nodes as ever and probes read linearizably. The survivor must say
that it cannot, in time, once it has had time to notice; and when the majority returns, the service resumes by itself.
"""

import asyncio
import signal
import time
from collections.abc import Mapping
from typing import ClassVar

import msgspec

from plasmacloud.lab.faults.process import EndProcess
from plasmacloud.lab.judging import (
    Case,
    bad_if,
    check_completed,
    check_fault_landed,
    check_longest,
    check_rejoin,
    check_stale_reads,
    check_traffic,
    data_checks,
    max_verdict,
    write_latencies_ms,
)
from plasmacloud.lab.probes import ReadProbes
from plasmacloud.lab.rig import Leadership, Rig
from plasmacloud.lab.scenarios.base import Scenario
from plasmacloud.lab.scenarios.failover import start_under_load
from plasmacloud.lab.trials import Trial
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.lab.workload import KEY_PREFIX
from plasmacloud.verify.checks import Check, Verdict, shorten
from plasmacloud.verify.history import Op, Outcome
from plasmacloud.verify.reads import ReadOp

DOWN_MIN_S = 2.0
DOWN_ELECTION_TIMEOUTS = 4
NOTICE_ELECTION_TIMEOUTS = 2
"""So long a survivor may take to notice that it is alone; after that it must answer at once."""
READ_DEADLINE_S = 1.0
READERS = 6
READ_PAUSE_S = 0.05
OVERRUN_MAX_MS = 250.0
UNCLEAR_SHARE_MAX = 0.05


class QuorumLoss(Scenario):
    """SIGKILL of a majority at the same instant; back after a while."""

    name = "quorum-loss"
    must_hold = "a majority down: reads and writes fail cleanly in time, none acknowledged; back: resumes, nothing lost"
    default_trials = 10
    thresholds: ClassVar[Mapping[str, float]] = {"resume_max_ms": 15_000, "rejoin_max_ms": 30_000}

    async def drive(self, rig: Rig) -> None:
        await start_under_load(rig)
        timeout_s = rig.plan.traits.election_timeout_ms / 1e3
        for number in range(1, rig.plan.trials + 1):
            leadership = await rig.begin_trial(number)
            fault = EndProcess("kill-majority", signal.SIGKILL, draw_majority(rig, leadership, number))
            async with ReadProbes(
                rig, rig.cluster.names, READERS, timeout_s=READ_DEADLINE_S, pause_s=READ_PAUSE_S
            ) as probes:
                probes.start()
                await fault.inject(rig)
                rig.doing("no quorum: nothing may be acknowledged")
                await asyncio.sleep(max(DOWN_MIN_S, DOWN_ELECTION_TIMEOUTS * timeout_s))
                back_ns = time.monotonic_ns()
                await fault.undo(rig)
                rig.doing("waiting for writes to succeed again")
                if not await rig.resumed(back_ns):
                    raise WaitedTooLong("writes did not succeed again", hint=rig.watcher.describe())
                await rig.aftermath()
            await rig.end_trial(fault)
        await rig.finish(KEY_PREFIX)

    def judge(self, case: Case) -> list[Check]:
        return [
            check_nothing_acknowledged(case),
            check_clean_failure(case),
            check_resumption(case),
            check_stale_reads(case),
            *data_checks(case),
            check_rejoin(case),
            check_fault_landed(case),
            check_traffic(case),
            check_completed(case, case.plan.trials),
        ]

    def distributions(self, case: Case) -> dict[str, list[float]]:
        values = {
            "resume_ms": [value for _, value in resumption_ms(case)],
            "refusal_ms": [took for alone in alone_times(case) for took in alone.refusals_ms(case)],
            "rejoin_ms": [trial.rejoin_ms for trial in case.trials if trial.rejoin_ms is not None],
            "write_ms": write_latencies_ms(case),
        }
        return {name: each for name, each in values.items() if each}


def draw_majority(rig: Rig, leadership: Leadership, number: int) -> list[str]:
    """The smallest majority: with the leader in odd trials, without it (where that is possible) in even ones."""
    followers = rig.cluster.others(leadership.node)
    rig.rng.shuffle(followers)
    size = len(rig.cluster.names) // 2 + 1
    return [leadership.node, *followers[: size - 1]] if number % 2 else followers[:size]


class Alone(msgspec.Struct, frozen=True):
    """The time of one trial in which there was no quorum: from the proof of the death of a majority to the first
    restart; ``noticed_ns`` is when the survivors had had time to notice."""

    trial: Trial
    begin_ns: int
    noticed_ns: int
    end_ns: int

    def attempts(self, case: Case) -> list[Op | ReadOp]:
        """Everything that was sent in this time."""
        every: list[Op | ReadOp] = [*case.record.history, *case.record.reads]
        return [each for each in every if self.begin_ns < each.invoke_ns < self.end_ns]

    def to_survivors(self, case: Case) -> list[Op | ReadOp]:
        """What was sent to survivors that had had time to notice, and ended (one way or the other) in this time."""
        assert self.trial.fault is not None
        return [
            each
            for each in self.attempts(case)
            if each.node not in self.trial.fault.nodes
            and self.noticed_ns < each.invoke_ns
            and each.return_ns < self.end_ns
        ]

    def refusals_ms(self, case: Case) -> list[float]:
        """How long the survivors took to refuse."""
        return [(each.return_ns - each.invoke_ns) / 1e6 for each in self.to_survivors(case) if refused(each)]


def alone_times(case: Case) -> list[Alone]:
    """One for each trial that got so far."""
    notice_ns = int(NOTICE_ELECTION_TIMEOUTS * case.plan.traits.election_timeout_ms * 1e6)
    return [
        Alone(trial, trial.proof.at_ns, trial.proof.at_ns + notice_ns, trial.restarts[0].at_ns)
        for trial in case.trials
        if trial.proof is not None and trial.proof.landed and trial.restarts
    ]


def resumption_ms(case: Case) -> list[tuple[int, float]]:
    """From the last restart of a trial to the first write acknowledged after the first restart."""
    values = []
    for trial in case.trials:
        if not trial.restarts:
            continue
        first = next((ns for ns in case.ack_ns if ns >= trial.restarts[0].at_ns), None)
        if first is not None:
            values.append((trial.number, max(0.0, (first - trial.restarts[-1].at_ns) / 1e6)))
    return values


def check_nothing_acknowledged(case: Case) -> Check:
    """No write and no linearizable read that was sent without a quorum was acknowledged without one."""
    threshold = "0 acknowledged without a quorum"
    findings: list[str] = []
    writes = reads = 0
    for alone in alone_times(case):
        for each in alone.attempts(case):
            writes, reads = (writes + 1, reads) if isinstance(each, Op) else (writes, reads + 1)
            if each.outcome is Outcome.OK and each.return_ns < alone.end_ns:
                what = "write of" if isinstance(each, Op) else "read of"
                findings.append(f"trial {each.trial}: {what} {each.key} was acknowledged by {each.node}")
    verdict, found = bad_if(findings)
    if verdict is Verdict.PASS and not (writes and reads):
        verdict, found = Verdict.INCONCLUSIVE, ("no write, or no read, was tried without a quorum",)
    measured = f"{len(findings)} of {writes} writes and {reads} reads"
    return Check("none-acknowledged", verdict, measured, threshold, found)


def refused(each: Op | ReadOp) -> bool:
    """Whether the client was told: of a write it knows that it was not executed, of a read that there was an answer."""
    return each.outcome is Outcome.FAIL if isinstance(each, Op) else each.answered


def check_clean_failure(case: Case) -> Check:
    """Everything ended by its deadline, and a survivor that had time to notice refuses, in place of letting the client
    wait for its deadline and wonder."""
    stall_ms = case.longest_stall_ms()
    deadlines_ms = {Op: float(case.plan.op_timeout_ms), ReadOp: READ_DEADLINE_S * 1e3}
    late: list[str] = []
    asked = 0
    unclear: list[str] = []
    for alone in alone_times(case):
        for each in alone.attempts(case):
            took_ms = (each.return_ns - each.invoke_ns) / 1e6
            if took_ms > deadlines_ms[type(each)] + OVERRUN_MAX_MS + stall_ms:
                late.append(f"trial {each.trial}: {each.key} to {each.node} ended after {took_ms:.0f} ms")
        for each in alone.to_survivors(case):
            asked += 1
            if not refused(each):
                unclear.append(f"trial {each.trial}: {each.key} to {each.node}: {each.error}")
    verdict, found = bad_if(late)
    if len(unclear) > UNCLEAR_SHARE_MAX * asked:
        # A lab that was late itself cannot blame the target for an answer that came too late.
        slow_lab = stall_ms > case.plan.op_timeout_ms / 2
        note = [f"the lab itself was late by up to {stall_ms:.0f} ms"] if slow_lab else []
        verdict = max_verdict(verdict, Verdict.INCONCLUSIVE if slow_lab else Verdict.FAIL)
        found = shorten([*late, *note, *unclear])
    elif verdict is Verdict.PASS and not asked:
        verdict, found = Verdict.INCONCLUSIVE, ("no survivor was asked",)
    measured = f"{asked - len(unclear)} of {asked} refused by survivors"
    return Check("clean-failure", verdict, measured, f"in time; >= {1 - UNCLEAR_SHARE_MAX:.0%} refused", found)


def check_resumption(case: Case) -> Check:
    """Writes are acknowledged again soon after the restart, without anybody's help."""
    values = resumption_ms(case)
    stuck = [t.number for t in case.trials if t.resumed is not None and not t.resumed.ok]
    return check_longest("resumption", values, stuck, case.plan.threshold("resume_max_ms"))
