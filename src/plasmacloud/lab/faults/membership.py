"""Members that come, never come, or die on the way: each is a disturbance that service must not notice.

The proof is the linearizable member list, and for a death what waitpid says.
"""

import asyncio
import time
from collections.abc import Sequence

from plasmacloud.lab.faults.base import Fault
from plasmacloud.lab.faults.process import kill
from plasmacloud.lab.rig import Rig
from plasmacloud.lab.roster import Roster
from plasmacloud.verify.events import FaultInjected, FaultProof

JOIN_DEADLINE_S = 30.0
_APPEAR_DEADLINE_S = 15.0
_KILL_AFTER_S = (0.0, 0.15)


class Join(Fault):
    """Empty nodes join, one after the other, and become voters."""

    name = "join"

    def __init__(self, roster: Roster, nodes: Sequence[str]) -> None:
        assert nodes
        self._roster = roster
        self.nodes = tuple(nodes)

    async def inject(self, rig: Rig) -> int:
        rig.doing(f"{', '.join(self.nodes)} join")
        at_ns = time.monotonic_ns()
        rig.record(FaultInjected, at_ns=at_ns, fault=self.name, nodes=self.nodes)
        await self._roster.join(self.nodes, timeout=JOIN_DEADLINE_S)
        landed = self._roster.votes(*rig.cluster.members)
        rig.record(FaultProof, fault=self.name, landed=landed, evidence=self._roster.describe())
        return at_ns

    async def undo(self, rig: Rig) -> None:
        """Nothing: they stay."""


class NeverStarts(Fault):
    """A learner is added at an address where nobody listens; `undo` removes it."""

    name = "never-starts"

    def __init__(self, roster: Roster, node: str) -> None:
        self._roster = roster
        self.node = node

    async def inject(self, rig: Rig) -> int:
        rig.doing(f"adding {self.node}, which never starts")
        at_ns = time.monotonic_ns()
        rig.record(FaultInjected, at_ns=at_ns, fault=self.name, nodes=(self.node,))
        member = await self._roster.add(self.node, learner=not rig.cluster.target.promotes_by_itself)
        answers = await listens(rig, self.node)
        peer = rig.cluster[self.node].spec.peer
        evidence = f"{peer} {'accepts' if answers else 'refuses'} connections; {self._roster.describe()}"
        landed = member.learner and not member.started and not answers
        rig.record(FaultProof, fault=self.name, landed=landed, evidence=evidence)
        return at_ns

    async def undo(self, rig: Rig) -> None:
        await self._roster.dismiss(self.node)


class DiesHalfWay(Fault):
    """A node begins to join and is killed before it votes; `undo` removes it."""

    name = "dies-half-way"

    def __init__(self, roster: Roster, node: str) -> None:
        self._roster = roster
        self.node = node

    async def inject(self, rig: Rig) -> int:
        rig.doing(f"{self.node} joins and dies half-way")
        at_ns = time.monotonic_ns()
        rig.record(FaultInjected, at_ns=at_ns, fault=self.name, nodes=(self.node,))
        await self._roster.begin_join(self.node)
        await self._roster.until(
            lambda: self._roster.find(self.node) is not None,
            timeout=_APPEAR_DEADLINE_S,
            what=f"{self.node} is in the member list",
        )
        await asyncio.sleep(rig.rng.uniform(*_KILL_AFTER_S))
        end = kill(self.node)
        await end.inject(rig)  # leaves a fault and its proof of its own
        member = await self._roster.fresh(self.node)
        landed = member is not None and member.learner
        rig.record(FaultProof, fault=self.name, landed=landed, evidence=self._roster.describe())
        return at_ns

    async def undo(self, rig: Rig) -> None:
        await self._roster.dismiss(self.node)


async def listens(rig: Rig, node: str) -> bool:
    """Whether anybody accepts connections at the node's peer address."""
    address = rig.cluster[node].spec.peer
    try:
        async with asyncio.timeout(1.0):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except OSError:
        return False
    writer.close()
    return True
