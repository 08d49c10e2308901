"""Asks every node for its status, all the time: who leads, in which term, how far has it applied.

Each node is polled by a task of its own, so that a silent node does not delay the others. Polling is slow in quiet
times and fast around a fault, where it resolves detection and election.
"""

import asyncio
import time
from collections.abc import Callable

from plasmacloud.base.errors import PlasmaError
from plasmacloud.lab.changes import Changes
from plasmacloud.lab.cluster import Cluster, Node
from plasmacloud.lab.recorder import Recorder
from plasmacloud.lab.wire import AttemptFailed, NodeApi
from plasmacloud.verify.observations import StatusSample

CALM_S = 0.05
FAST_S = 0.004
_TIMEOUT_S = 0.5


class WaitedTooLong(PlasmaError):
    """The system did not get into the awaited state within the deadline."""


class Watcher:
    """Polls the cluster; ``latest`` holds the newest answer of each running node."""

    def __init__(self, cluster: Cluster, recorder: Recorder) -> None:
        self._cluster = cluster
        self._recorder = recorder
        self._interval_s = CALM_S
        self._changes = Changes()
        self._tasks: list[asyncio.Task[None]] = []
        self.latest: dict[str, StatusSample] = {}

    def start(self) -> None:
        """Begin polling."""
        self._tasks = [asyncio.create_task(self._watch(node)) for node in self._cluster.nodes.values()]

    async def stop(self) -> None:
        """End polling."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def fast(self, on: bool) -> None:
        """Poll fast (around a fault) or calmly."""
        self._interval_s = FAST_S if on else CALM_S

    def forget(self, *names: str) -> None:
        """Drop the newest answers of nodes that are about to be hit."""
        for name in names:
            self.latest.pop(name, None)

    async def until(self, condition: Callable[[], bool], *, timeout: float, what: str) -> None:
        """Wait until ``condition`` holds; it is evaluated after every answer. Raises `WaitedTooLong`."""
        if not await self._changes.until(condition, timeout=timeout):
            raise WaitedTooLong(f"not within {timeout:g} s: {what}", hint=self.describe())

    def describe(self) -> str:
        """One line about every node, for error messages."""
        parts = []
        for node in self._cluster.nodes.values():
            sample = self.latest.get(node.name)
            if not node.running:
                parts.append(f"{node.name} does not run")
            elif sample is None:
                parts.append(f"{node.name} does not answer")
            else:
                parts.append(
                    f"{node.name} follows {sample.leader:x} in term {sample.term} at revision {sample.revision}"
                )
        return "; ".join(parts)

    async def _watch(self, node: Node) -> None:
        api = NodeApi(node.spec.client.host, node.spec.client.port)
        incarnation = node.incarnation
        quiet = False  # the last poll failed and that has been recorded
        try:
            while True:
                if node.incarnation != incarnation:
                    # A new process gets a new connection, without the old one's waiting time between attempts.
                    incarnation = node.incarnation
                    await api.close()
                    api = NodeApi(node.spec.client.host, node.spec.client.port)
                if node.running:
                    sample = await self._ask(node, api)
                    if sample.answered or not quiet:
                        self._recorder.status(sample)
                    quiet = not sample.answered
                    if sample.answered and sample.incarnation == node.incarnation and node.running:
                        self.latest[node.name] = sample
                    else:
                        self.latest.pop(node.name, None)
                else:
                    self.latest.pop(node.name, None)
                self._changes.tell()
                await asyncio.sleep(self._interval_s)
        finally:
            await api.close()

    async def _ask(self, node: Node, api: NodeApi) -> StatusSample:
        incarnation = node.incarnation
        sent_ns = time.monotonic_ns()
        try:
            answer = await api.status(timeout=_TIMEOUT_S)
        except AttemptFailed as error:
            return StatusSample(sent_ns, time.monotonic_ns(), node.name, incarnation, error=str(error))
        return StatusSample(
            sent_ns=sent_ns,
            at_ns=time.monotonic_ns(),
            node=node.name,
            incarnation=incarnation,
            member=answer.header.member_id,
            leader=answer.leader,
            term=answer.raftTerm,
            revision=answer.header.revision,
        )
