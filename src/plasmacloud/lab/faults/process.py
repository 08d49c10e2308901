"""Faults that end processes: SIGKILL and SIGTERM, of one node or of all at the same instant.

The proof is the exit status that waitpid reports, which no other process can forge; after the restart, that the PID
is another one.
"""

import asyncio
import signal
import time
from collections.abc import Sequence

from plasmacloud.base.process import ProcessError
from plasmacloud.lab.faults.base import Fault
from plasmacloud.lab.rig import Rig
from plasmacloud.verify.events import FaultInjected, FaultProof, NodeRestarted, ProcessEnded

END_DEADLINE_S = 15.0


class EndProcess(Fault):
    """Send a signal that ends the processes of ``nodes``; `undo` starts them again."""

    def __init__(self, name: str, signum: signal.Signals, nodes: Sequence[str]) -> None:
        assert nodes
        self.name = name
        self.nodes = tuple(nodes)
        self._signum = signum
        self._old_pids: dict[str, int] = {}

    async def inject(self, rig: Rig) -> int:
        rig.doing(f"{self.name}: {', '.join(self.nodes)}")
        processes = {name: rig.cluster[name].process for name in self.nodes}
        self._old_pids = {name: process.pid for name, process in processes.items()}
        rig.ended_pids.update(self._old_pids.values())
        rig.watcher.fast(True)
        rig.watcher.forget(*self.nodes)
        at_ns = time.monotonic_ns()
        try:
            for process in processes.values():
                process.signal(self._signum)
        except ProcessError as error:
            rig.record(FaultInjected, at_ns=at_ns, fault=self.name, nodes=self.nodes)
            rig.record(FaultProof, fault=self.name, landed=False, evidence=str(error))
            return at_ns
        spread_us = (time.monotonic_ns() - at_ns) / 1e3
        rig.record(FaultInjected, at_ns=at_ns, fault=self.name, nodes=self.nodes)
        proofs = await asyncio.gather(*(self._ended(rig, name) for name in self.nodes))
        evidence = "; ".join(text for _, text in proofs)
        if len(self.nodes) > 1:
            evidence += f"; all signals sent within {spread_us:.0f} us"
        rig.record(FaultProof, fault=self.name, landed=all(ok for ok, _ in proofs), evidence=evidence)
        return at_ns

    async def undo(self, rig: Rig) -> None:
        rig.doing(f"restarting {', '.join(self.nodes)}")
        for name in self.nodes:
            if not rig.cluster[name].running:
                pid = rig.start_node(name)
                rig.record(NodeRestarted, node=name, old_pid=self._old_pids[name], new_pid=pid)

    async def _ended(self, rig: Rig, name: str) -> tuple[bool, str]:
        process = rig.cluster[name].process
        pid = process.pid
        try:
            status = await process.wait_async(END_DEADLINE_S)
        except ProcessError:
            process.kill()
            return False, f"{name} (process {pid}) ignored {self._signum.name} for {END_DEADLINE_S:g} s"
        rig.record(ProcessEnded, node=name, pid=pid, status=status)
        landed = status == -self._signum if self._signum is signal.SIGKILL else True
        cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return landed, f"waitpid: {name} (process {pid}) ended by {cause}"


def kill(*nodes: str) -> EndProcess:
    """A crash: SIGKILL of one node."""
    return EndProcess("kill", signal.SIGKILL, nodes)


def terminate(*nodes: str) -> EndProcess:
    """A clean stop: SIGTERM."""
    return EndProcess("terminate", signal.SIGTERM, nodes)


def power_loss(nodes: Sequence[str]) -> EndProcess:
    """The whole cluster at the same instant."""
    return EndProcess("power-loss", signal.SIGKILL, nodes)
