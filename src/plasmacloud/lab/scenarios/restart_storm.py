"""restart-storm: every node is killed and restarted at random, for a while, under load. Then calm must come back.

The schedule is drawn from the seed before the storm begins; each node has its own, so that at times one is down, at
times two, at times all of them, some killed while they are still starting. Whether anything is served during the
storm is not judged (often there is no quorum); that nothing is lost, and that the cluster converges, is.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from plasmacloud.lab.faults.process import EndProcess, kill
from plasmacloud.lab.judging import (
    Case,
    bad_if,
    check_completed,
    check_fault_landed,
    check_longest,
    check_traffic,
    data_checks,
    outage_distributions,
    write_latencies_ms,
)
from plasmacloud.lab.rig import START_DEADLINE_S, Rig
from plasmacloud.lab.scenarios.base import Scenario
from plasmacloud.lab.scenarios.failover import start_under_load
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.lab.workload import KEY_PREFIX
from plasmacloud.verify.availability import traffic
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.events import LeaderSeen, UnexpectedExit

UP_S = (0.3, 4.0)
DOWN_S = (0.05, 1.5)


class Strike(msgspec.Struct, frozen=True, order=True):
    """One kill and its restart; times in seconds from the beginning of the storm."""

    at_s: float
    node: str
    back_s: float


def draw_storm(rng: random.Random, nodes: Sequence[str], length_s: float) -> list[Strike]:
    """When to kill which node, and when to start it again: ascending; every node at least once."""
    strikes: list[Strike] = []
    for node in nodes:
        at_s = rng.uniform(0.0, min(UP_S[1], length_s) / 2)
        while not strikes or strikes[-1].node != node or at_s < length_s:
            back_s = at_s + rng.uniform(*DOWN_S)
            strikes.append(Strike(at_s, node, back_s))
            at_s = back_s + rng.uniform(*UP_S)
    return sorted(strikes)


class RestartStorm(Scenario):
    """SIGKILL of any node at any time, restart after a moment."""

    name = "restart-storm"
    must_hold = "every node killed and restarted at random, again and again: then the cluster converges, nothing lost"
    default_trials = 1
    thresholds: ClassVar[Mapping[str, float]] = {
        "converge_max_ms": 15_000,
        "rejoin_max_ms": 30_000,
        "kills_per_node_min": 1,
        "traffic_min": 200,
    }

    async def drive(self, rig: Rig) -> None:
        await start_under_load(rig)
        await rig.begin_trial(1)
        last_ns = await storm(rig, draw_storm(rig.rng, rig.cluster.names, rig.plan.storm_s))
        rig.doing("the storm is over: waiting for writes to succeed again")
        if not await rig.resumed(last_ns):
            raise WaitedTooLong("writes did not succeed again after the storm", hint=rig.watcher.describe())
        await rig.stable(timeout=START_DEADLINE_S)
        await rig.aftermath()
        await rig.end_trial(kill(*rig.cluster.names))
        await rig.finish(KEY_PREFIX)

    def judge(self, case: Case) -> list[Check]:
        return [
            check_convergence(case),
            *data_checks(case),
            check_longest("rejoin", rejoin_ms(case), [], case.plan.threshold("rejoin_max_ms")),
            check_everyone_was_hit(case),
            check_fault_landed(case),
            check_traffic(case),
            check_storm_traffic(case),
            check_completed(case, 1),
        ]

    def distributions(self, case: Case) -> dict[str, list[float]]:
        values = {
            "storm_gap_ms": outage_distributions(case).get("rto_ms", []),
            "converge_ms": [value for _, value in convergence_ms(case)],
            "rejoin_ms": [value for _, value in rejoin_ms(case)],
            "write_ms": write_latencies_ms(case),
        }
        return {name: each for name, each in values.items() if each}


async def storm(rig: Rig, strikes: Sequence[Strike]) -> int:
    """Carry out the schedule, one step after the other; returns the time of the last restart in ns."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    faults: dict[str, EndProcess] = {}
    steps = sorted(
        [(strike.at_s, "kill", strike.node) for strike in strikes]
        + [(strike.back_s, "start", strike.node) for strike in strikes]
    )
    for number, (at_s, what, node) in enumerate(steps):
        await asyncio.sleep(max(0.0, began + at_s - loop.time()))
        if what == "kill":
            process = rig.cluster[node].process
            status = process.returncode
            if status is not None:
                rig.record(UnexpectedExit, node=node, pid=process.pid, status=status)
            faults[node] = kill(node)
            await faults[node].inject(rig)
        else:
            await faults[node].undo(rig)
        rig.doing(f"storm: {number + 1} of {len(steps)} kills and restarts")
        rig.watcher.fast(False)
        rig.recorder.flush()
    return time.monotonic_ns()


def convergence_ms(case: Case) -> list[tuple[int, float]]:
    """From the last restart of a storm until every node had named the same leader, twice."""
    values = []
    for trial in case.trials:
        last_ns = trial.restarts[-1].at_ns if trial.restarts else case.end_ns
        agreed = [
            event.at_ns
            for event in case.record.events
            if isinstance(event, LeaderSeen) and event.trial == trial.number and event.at_ns > last_ns
        ]
        if agreed:
            values.append((trial.number, (agreed[0] - last_ns) / 1e6))
    return values


def rejoin_ms(case: Case) -> list[tuple[int, float]]:
    """From the last restart of a storm until every node had everything."""
    return [
        (trial.number, (trial.caught_up.at_ns - trial.restarts[-1].at_ns) / 1e6)
        for trial in case.trials
        if trial.restarts and trial.caught_up is not None and trial.caught_up.ok
    ]


def check_storm_traffic(case: Case) -> Check:
    """There were writes in the storm that could have been lost."""
    required = int(case.plan.threshold("traffic_min"))
    storms = [(t.fault.at_ns, t.restarts[-1].at_ns) for t in case.trials if t.fault is not None and t.restarts]
    count = sum(traffic(case.ack_ns, begin, end, required).acknowledged for begin, end in storms)
    verdict = Verdict.PASS if count >= required else Verdict.VOID
    return Check("storm-traffic", verdict, f"{count} acknowledged writes", f">= {required} writes")


def check_convergence(case: Case) -> Check:
    """After the last restart all nodes agree on a leader within ``converge_max_ms``."""
    return check_longest("converged", convergence_ms(case), [], case.plan.threshold("converge_max_ms"))


def check_everyone_was_hit(case: Case) -> Check:
    """The storm was one: every node was killed, and came back, often enough."""
    least = int(case.plan.threshold("kills_per_node_min"))
    kills = Counter(node for trial in case.trials for fault in trial.faults for node in fault.nodes)
    nodes = sorted({sample.node for sample in case.record.statuses} | set(kills))
    returns = Counter(restart.node for trial in case.trials for restart in trial.restarts)
    findings = [
        f"{node} was killed {kills[node]} times and came back {returns[node]} times"
        for node in nodes
        if kills[node] < least or returns[node] < kills[node]
    ]
    verdict, found = bad_if(findings if nodes else ["there was no node"], Verdict.INCONCLUSIVE)
    measured = ", ".join(f"{node}: {kills[node]}" for node in nodes) or "nothing"
    return Check("everyone-hit", verdict, f"kills {measured}", f">= {least} per node", found)
