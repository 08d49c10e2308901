"""Members that must not be: one that never comes, one with another cluster's disk, one whose disk was set back.

What is wanted of the target: to clear away the first by itself, and to let neither of the others in. The proof is the
member list, and the exit status with which a process that was refused ended by itself.
"""

import shutil
import time

import msgspec

from plasmacloud.base.address import Address
from plasmacloud.base.process import ManagedProcess, ProcessError, free_ports
from plasmacloud.lab.cluster import HOST
from plasmacloud.lab.faults.base import Fault
from plasmacloud.lab.faults.membership import JOIN_DEADLINE_S
from plasmacloud.lab.faults.process import terminate
from plasmacloud.lab.rig import START_DEADLINE_S, Rig
from plasmacloud.lab.roster import Roster
from plasmacloud.lab.targets.base import NodeSpec
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.lab.wire import AttemptFailed, NodeApi
from plasmacloud.verify.events import FaultInjected, FaultProof, ProcessEnded

REFUSED_ENDS_S = 15.0


class LeftAlone(Fault):
    """A learner is added that never starts, and nobody removes it: the target has to, by its own policy."""

    name = "left-alone"

    def __init__(self, roster: Roster, node: str, deadline_s: float) -> None:
        self._roster = roster
        self.node = node
        self._deadline_s = deadline_s

    async def inject(self, rig: Rig) -> int:
        rig.doing(f"adding {self.node}, which never starts, and leaving it to the policy")
        at_ns = time.monotonic_ns()
        rig.record(FaultInjected, at_ns=at_ns, fault=self.name, nodes=(self.node,))
        member = await self._roster.add(self.node, learner=False)
        landed = member.learner and not member.started
        rig.record(FaultProof, fault=self.name, landed=landed, evidence=self._roster.describe())
        await self._roster.until(
            lambda: self._roster.find(self.node) is None,
            timeout=self._deadline_s,
            what=f"{self.node}, which never started, is no member any more",
        )
        return time.monotonic_ns()

    async def undo(self, rig: Rig) -> None:
        """Nothing: it is gone."""


class WrongDirectory(Fault):
    """A node that has founded a cluster of its own is started so as to join this one. `undo` wipes it."""

    name = "wrong-directory"

    def __init__(self, roster: Roster, node: str) -> None:
        self._roster = roster
        self.node = node

    async def inject(self, rig: Rig) -> int:
        cluster, target = rig.cluster, rig.cluster.target
        spec = cluster[self.node].spec
        rig.doing(f"{self.node} founds a cluster of its own")
        await _found_elsewhere(rig, spec)
        rig.doing(f"{self.node} joins with the disk of that cluster")
        at_ns = time.monotonic_ns()
        rig.record(FaultInjected, at_ns=at_ns, fault=self.name, nodes=(self.node,))
        seeds = [cluster[other].spec for other in cluster.running()]
        cluster.prepare(self.node, target.join_argv(spec, {}, seeds))
        rig.start_node(self.node)
        evidence = await _await_refusal(rig, self.node)
        rig.record(FaultProof, fault=self.name, landed=True, evidence=f"{evidence}; {self._roster.describe()}")
        return at_ns

    async def undo(self, rig: Rig) -> None:
        rig.cluster.wipe(self.node)


class RolledBack(Fault):
    """A member's disk is replaced by a copy from before its last writes. `undo` removes it and lets it join anew."""

    name = "rolled-back"

    def __init__(self, roster: Roster, node: str) -> None:
        self._roster = roster
        self.node = node

    async def inject(self, rig: Rig) -> int:
        cluster = rig.cluster
        directory = cluster[self.node].spec.data_dir
        copy = directory.with_name(f"{directory.name}.copy")
        stop = terminate(self.node)
        rig.workload.route(cluster.others(self.node))
        await stop.inject(rig)
        shutil.copytree(directory, copy)
        await stop.undo(rig)
        if not await rig.caught_up():
            raise WaitedTooLong("a node did not catch up after its restart", hint=rig.watcher.describe())
        await stop.inject(rig)
        shutil.rmtree(directory)
        copy.rename(directory)
        rig.doing(f"{self.node} starts with an old copy of its disk")
        at_ns = time.monotonic_ns()
        rig.record(FaultInjected, at_ns=at_ns, fault=self.name, nodes=(self.node,))
        rig.start_node(self.node)
        evidence = await _await_refusal(rig, self.node)
        rig.record(FaultProof, fault=self.name, landed=True, evidence=evidence)
        return at_ns

    async def undo(self, rig: Rig) -> None:
        await self._roster.dismiss(self.node)
        await self._roster.join([self.node], timeout=JOIN_DEADLINE_S)
        rig.workload.route(rig.cluster.names)


async def _found_elsewhere(rig: Rig, spec: NodeSpec) -> None:
    """Let the node found a cluster and write to it, at other addresses: nobody observes that cluster."""
    client, peer = free_ports(2, HOST)
    elsewhere = msgspec.structs.replace(spec, client=Address(HOST, client), peer=Address(HOST, peer))
    argv = rig.cluster.target.bootstrap_argv(elsewhere)
    process = ManagedProcess(spec.name, argv, log_path=rig.recorder.directory / "logs" / f"{spec.name}-elsewhere.log")
    process.start()
    try:
        await _until_it_serves(elsewhere)
        await process.stop_async(START_DEADLINE_S)
    finally:
        process.kill()


async def _until_it_serves(spec: NodeSpec) -> None:
    """Wait until the node takes a write."""
    node, api = spec.name, NodeApi(spec.client.host, spec.client.port)
    deadline = time.monotonic() + START_DEADLINE_S
    try:
        while True:
            try:
                await api.put("stranger", node, timeout=1.0)
                return
            except AttemptFailed as error:
                if time.monotonic() >= deadline:
                    raise WaitedTooLong(f"{node} does not serve alone: {error}") from error
    finally:
        await api.close()


async def _await_refusal(rig: Rig, node: str) -> str:
    """A server that may not take part has to notice and to stop; that it went on is for the judge to say."""
    process = rig.cluster[node].process
    rig.ended_pids.add(process.pid)
    try:
        status = await process.wait_async(REFUSED_ENDS_S)
    except ProcessError:
        process.kill()
        return f"{node} (process {process.pid}) still ran after {REFUSED_ENDS_S:g} s"
    rig.record(ProcessEnded, node=node, pid=process.pid, status=status)
    return f"waitpid: {node} (process {process.pid}) ended with status {status}"
