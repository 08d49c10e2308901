"""Read probes: linearizable reads sent to chosen nodes, each checked against what had been acknowledged before.

A probe is sequential and has a connection of its own, opened while all is well. So when its node is frozen, a read
already sits in the node's socket when it wakes up: the very moment in which a leader that has been replaced may still
believe that it leads.
"""

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType

from plasmacloud.lab.rig import Rig
from plasmacloud.lab.wire import AttemptFailed, NodeApi
from plasmacloud.verify.history import Outcome
from plasmacloud.verify.reads import ReadOp


class ReadProbes:
    """``count`` sequential readers, spread over ``nodes``. Use as an async context: leaving it ends them."""

    def __init__(self, rig: Rig, nodes: Sequence[str], count: int, *, timeout_s: float, pause_s: float) -> None:
        assert nodes
        self._rig = rig
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._readers = [_Reader(number, nodes[number % len(nodes)]) for number in range(count)]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "ReadProbes":
        for reader in self._readers:
            address = self._rig.cluster[reader.node].spec.client
            reader.api = NodeApi(address.host, address.port)
        await asyncio.gather(*(self._read(reader) for reader in self._readers))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(reader.api.close() for reader in self._readers if reader.api is not None))
        for result in ended:
            # A probe that breaks is a fault of the lab; it must not look like a node that does not answer.
            if isinstance(result, Exception) and error is None:
                raise result

    def start(self, *, spread_s: float = 0.0) -> None:
        """Begin to read; the first reads are sent evenly over ``spread_s`` seconds."""
        step_s = spread_s / len(self._readers)
        self._tasks = [
            asyncio.create_task(self._run(reader, number * step_s)) for number, reader in enumerate(self._readers)
        ]

    async def _run(self, reader: "_Reader", delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        while True:
            await self._read(reader)
            await asyncio.sleep(self._pause_s)

    async def _read(self, reader: "_Reader") -> None:
        assert reader.api is not None
        reader.seq += 1
        key = self._rig.workload.newest_key or "lab/none"
        trial = self._rig.trial
        invoke_ns = time.monotonic_ns()
        outcome, revision, problem, answered = Outcome.FAIL, 0, "cancelled", False
        value: str | None = None
        try:
            revision, value = await reader.api.read(key, timeout=self._timeout_s)
            outcome, problem, answered = Outcome.OK, "", True
        except AttemptFailed as error:
            problem, answered = str(error), error.answered
        self._rig.recorder.read(
            ReadOp(
                trial=trial,
                client=reader.number,
                seq=reader.seq,
                node=reader.node,
                key=key,
                invoke_ns=invoke_ns,
                return_ns=time.monotonic_ns(),
                outcome=outcome,
                revision=revision,
                value=value,
                error=problem,
                answered=answered,
            )
        )


class _Reader:
    def __init__(self, number: int, node: str) -> None:
        self.number = number
        self.node = node
        self.api: NodeApi | None = None
        self.seq = 0
