"""quorum-recover: a majority is destroyed with its disks. One command makes a new cluster of the survivor.

Nothing can bring back what only the destroyed nodes had. So the scenario asks for the honest thing: everything up to
the revision at which the survivor begins is there, what was acknowledged above it is counted and listed, nothing is
lost after that, and the cluster grows to its full size again.
"""

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import msgspec

from plasmacloud.base.process import ManagedProcess, ProcessError
from plasmacloud.lab.faults.membership import JOIN_DEADLINE_S
from plasmacloud.lab.faults.process import EndProcess, terminate
from plasmacloud.lab.judging import (
    Case,
    check_completed,
    check_fault_landed,
    check_longest,
    check_traffic,
    data_checks,
    write_latencies_ms,
)
from plasmacloud.lab.rig import START_DEADLINE_S, Rig
from plasmacloud.lab.roster import Roster
from plasmacloud.lab.scenarios.base import Scenario
from plasmacloud.lab.scenarios.failover import start_under_load
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.lab.wire import AttemptFailed, NodeApi
from plasmacloud.lab.workload import KEY_PREFIX
from plasmacloud.verify.checks import Check, Verdict, shorten
from plasmacloud.verify.events import FaultInjected, FaultProof, Recovered
from plasmacloud.verify.history import Op, Outcome

COMMAND_DEADLINE_S = 30.0
QUIET_DEADLINE_S = 10.0


class QuorumRecover(Scenario):
    """Destruction of a majority, recovery from the survivor, growth to full size."""

    name = "quorum-recover"
    must_hold = "a majority destroyed: one command restores service from the survivor; what could be missing is said"
    default_trials = 3
    thresholds: ClassVar[Mapping[str, float]] = {"recover_max_ms": 30_000, "rejoin_max_ms": 60_000}

    async def drive(self, rig: Rig) -> None:
        await start_under_load(rig)
        for number in range(1, rig.plan.trials + 1):
            leadership = await rig.begin_trial(number)
            victims = rig.rng.sample(rig.cluster.names, len(rig.cluster.names) // 2 + 1)
            (survivor, *spared) = rig.cluster.others(*victims)
            assert not spared, f"with {leadership.node} as leader"
            await destroy(rig, victims)
            rig.cluster.members = [survivor]
            rig.workload.route([survivor])
            began_ns = await recover(rig, survivor)
            rig.doing("waiting for writes to succeed again")
            if not await rig.resumed(began_ns):
                raise WaitedTooLong("writes did not succeed after the recovery", hint=rig.watcher.describe())
            rig.doing("growing again")
            async with Roster(rig) as roster:
                await roster.join(victims, timeout=JOIN_DEADLINE_S)
            rig.workload.route(rig.cluster.names)
            await rig.aftermath()
            await rig.end_trial(_Nothing())
        await rig.finish(KEY_PREFIX)

    def judge(self, case: Case) -> list[Check]:
        honest = without_forfeited(case)
        return [
            check_recovery(case),
            check_what_could_be_missing(case),
            *data_checks(honest, contended=False),  # what was given up may have been seen before
            check_grown(case),
            check_fault_landed(case),
            check_traffic(case),
            check_completed(case, case.plan.trials),
        ]

    def distributions(self, case: Case) -> dict[str, list[float]]:
        values = {
            "recover_ms": [value for _, value in recovery_ms(case)],
            "rejoin_ms": [value for _, value in growth_ms(case)],
            "write_ms": write_latencies_ms(case),
        }
        return {name: each for name, each in values.items() if each}


class _Nothing:
    async def undo(self, rig: Rig) -> None:
        """The destroyed nodes have joined again already."""


async def destroy(rig: Rig, victims: list[str]) -> None:
    """Kill the nodes at the same instant and remove all that they had on disk."""
    await EndProcess("kill-majority", signal.SIGKILL, victims).inject(rig)
    rig.record(FaultInjected, fault="destroy", nodes=tuple(victims))
    for name in victims:
        rig.cluster.wipe(name)
    left = [name for name in victims if rig.cluster[name].spec.data_dir.exists()]
    evidence = f"data directories still there: {', '.join(left) or 'none'}"
    rig.record(FaultProof, fault="destroy", landed=not left, evidence=evidence)


async def recover(rig: Rig, survivor: str) -> int:
    """Stop the survivor, do what its operator would do, and start it again; returns when the recovery began, in ns.

    Clients rest until the revision has been read at which the survivor begins: what they wrote before could not be
    told from what they write afterwards.
    """
    rig.doing(f"recovering from {survivor}")
    cluster, target = rig.cluster, rig.cluster.target
    spec = cluster[survivor].spec
    rig.workload.pause()
    if not await rig.workload.wait(lambda: not rig.workload.under_way.total(), timeout=QUIET_DEADLINE_S):
        raise WaitedTooLong("writes to a cluster without a quorum did not end")
    began_ns = time.monotonic_ns()
    await terminate(survivor).inject(rig)
    command, told = target.recovery_command(spec), ""
    if command is not None:
        told = await run(command, rig.recorder.directory / "logs" / f"recover-{rig.trial}.txt")
    argv = target.recovered_argv(spec, told)
    cluster.prepare(survivor, argv)
    rig.start_node(survivor)
    await rig.stable(timeout=START_DEADLINE_S)
    revision = await _revision(rig, survivor)
    rig.record(
        Recovered, node=survivor, command=" ".join(command or argv), revision=revision, began_ns=began_ns, told=told
    )
    cluster.prepare(survivor, target.restart_argv(argv))
    rig.workload.resume()
    return began_ns


async def _revision(rig: Rig, node: str) -> int:
    """The revision of a linearizable read."""
    address = rig.cluster[node].spec.client
    api = NodeApi(address.host, address.port)
    try:
        revision, _ = await api.read("lab/none", timeout=5.0)
    except AttemptFailed as error:
        raise WaitedTooLong(f"the survivor does not answer a read: {error}") from error
    finally:
        await api.close()
    return revision


async def run(command: list[str], output: Path) -> str:
    """Run an operator's command to its end; returns what it printed. Raises `WaitedTooLong` unless it succeeded."""
    process = ManagedProcess("recover", command, log_path=output)
    process.start()
    try:
        status = await process.wait_async(COMMAND_DEADLINE_S)
    except ProcessError as error:
        raise WaitedTooLong(str(error)) from None
    finally:
        process.kill()
    told = _printed(output)
    if status != 0:
        last = " ".join(told.strip().splitlines()[-1:])
        raise WaitedTooLong(f"{' '.join(command)} ended with status {status}: {last}")
    return told


def _printed(output: Path) -> str:
    return output.read_text(errors="replace")


def forfeited(case: Case) -> list[Op]:
    """Writes that were acknowledged before a recovery, at a revision that the survivor did not have."""
    recoveries = [trial.recovered for trial in case.trials if trial.recovered is not None]
    return [
        op
        for op in case.record.history
        if op.outcome is Outcome.OK
        and any(op.return_ns < each.at_ns and op.revision > each.revision for each in recoveries)
    ]


def without_forfeited(case: Case) -> Case:
    """The same record, where writes that only destroyed nodes had may be there or not; all others must."""
    gone = {op.key for op in forfeited(case)}
    history = [
        msgspec.structs.replace(op, outcome=Outcome.INFO, revision=0) if op.key in gone else op
        for op in case.record.history
    ]
    return Case(msgspec.structs.replace(case.record, history=history))


def recovery_ms(case: Case) -> list[tuple[int, float]]:
    """From the beginning of the recovery (the survivor is told to stop) to the first acknowledged write."""
    values = []
    for trial in case.trials:
        if trial.recovered is None:
            continue
        first = next((ns for ns in case.ack_ns if ns >= trial.recovered.at_ns), None)
        if first is not None:
            values.append((trial.number, (first - trial.recovered.began_ns) / 1e6))
    return values


def growth_ms(case: Case) -> list[tuple[int, float]]:
    """From the recovery until all nodes are there again and have everything."""
    return [
        (trial.number, (trial.caught_up.at_ns - trial.recovered.at_ns) / 1e6)
        for trial in case.trials
        if trial.recovered is not None and trial.caught_up is not None and trial.caught_up.ok
    ]


def check_recovery(case: Case) -> Check:
    """Service from the survivor, in time."""
    stuck = [t.number for t in case.trials if t.resumed is not None and not t.resumed.ok]
    return check_longest("recovered", recovery_ms(case), stuck, case.plan.threshold("recover_max_ms"))


def check_what_could_be_missing(case: Case) -> Check:
    """The revision from which on acknowledged writes could be missing, and which ones they are. Not a judgement of
    the target: they were on destroyed disks. That nothing else is missing is for `rpo` to say."""
    threshold = "counted and listed; nothing below the survivor's revision"
    recoveries = [(trial.number, trial.recovered) for trial in case.trials if trial.recovered is not None]
    if not recoveries:
        return Check("could-be-missing", Verdict.INCONCLUSIVE, "nothing was recovered", threshold)
    gone = sorted(forfeited(case), key=lambda op: op.revision)
    begins = ", ".join(f"trial {number}: above revision {each.revision}" for number, each in recoveries)
    listed = shorten(f"trial {op.trial}: {op.key}, acknowledged by {op.node} at revision {op.revision}" for op in gone)
    return Check("could-be-missing", Verdict.PASS, f"{len(gone)} acknowledged writes ({begins})", threshold, listed)


def check_grown(case: Case) -> Check:
    """All nodes are members with everything again, in time."""
    recovered = [trial for trial in case.trials if trial.recovered is not None]
    behind = [trial.number for trial in recovered if trial.caught_up is not None and not trial.caught_up.ok]
    return check_longest("grown-again", growth_ms(case), behind, case.plan.threshold("rejoin_max_ms"))
