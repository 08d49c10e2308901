"""A frozen process: SIGSTOP and, later, SIGCONT. It keeps its connections and its beliefs, and says nothing.

The proof is the state of every one of its threads in /proc: ``T``, stopped, a moment after the signal and still so
just before the process is told to go on.
"""

import asyncio
import signal
import time
from pathlib import Path

from plasmacloud.base.process import ProcessError
from plasmacloud.lab.faults.base import Fault
from plasmacloud.lab.rig import Rig
from plasmacloud.verify.events import FaultInjected, FaultProof, NodeThawed

_STATE_DEADLINE_S = 1.0
_STOPPED = "T"


def thread_states(pid: int) -> str:
    """The states of all threads of a process, one letter each, as in /proc/PID/task/TID/stat; empty when it is gone."""
    letters = []
    for stat in sorted(Path(f"/proc/{pid}/task").glob("*/stat")):
        try:
            letters.append(stat.read_text().rpartition(")")[2].split()[0])
        except OSError:
            continue
    return "".join(letters)


def all_stopped(states: str) -> bool:
    """Whether there are threads, and all of them are stopped."""
    return bool(states) and set(states) == {_STOPPED}


class Freeze(Fault):
    """SIGSTOP of one node; `undo` sends SIGCONT."""

    name = "freeze"

    def __init__(self, node: str) -> None:
        self.node = node
        self._frozen_ns: int | None = None

    async def inject(self, rig: Rig) -> int:
        rig.doing(f"freezing {self.node}")
        process = rig.cluster[self.node].process
        rig.watcher.fast(True)
        rig.watcher.forget(self.node)
        at_ns = time.monotonic_ns()
        rig.record(FaultInjected, at_ns=at_ns, fault=self.name, nodes=(self.node,))
        try:
            process.signal(signal.SIGSTOP)
        except ProcessError as error:
            rig.record(FaultProof, fault=self.name, landed=False, evidence=str(error))
            return at_ns
        self._frozen_ns = at_ns
        states = await _wait_for_states(process.pid, stopped=True)
        rig.record(
            FaultProof,
            fault=self.name,
            landed=all_stopped(states),
            evidence=f"/proc: threads of {self.node} (process {process.pid}) are in states {states or 'none'}",
        )
        return at_ns

    async def undo(self, rig: Rig) -> None:
        if self._frozen_ns is None:
            return
        rig.doing(f"{self.node} goes on")
        process = rig.cluster[self.node].process
        before = thread_states(process.pid)
        at_ns = time.monotonic_ns()
        process.signal(signal.SIGCONT)
        after = await _wait_for_states(process.pid, stopped=False)
        rig.record(
            NodeThawed,
            at_ns=at_ns,
            node=self.node,
            pid=process.pid,
            frozen_ms=(at_ns - self._frozen_ns) / 1e6,
            states_before=before,
            states_after=after,
        )
        self._frozen_ns = None


async def _wait_for_states(pid: int, *, stopped: bool) -> str:
    """The states once all threads are stopped, or none is; what they are after the deadline otherwise."""
    deadline = time.monotonic() + _STATE_DEADLINE_S
    while True:
        states = thread_states(pid)
        reached = all_stopped(states) if stopped else _STOPPED not in states
        if reached or time.monotonic() >= deadline:
            return states
        await asyncio.sleep(0.001)
