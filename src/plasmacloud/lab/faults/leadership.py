"""A change of leader on request, without a crash. The proof is the new leader's name in every node's status."""

import time

from plasmacloud.lab.faults.base import Fault
from plasmacloud.lab.rig import Leadership, Rig
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.lab.wire import AttemptFailed, NodeApi
from plasmacloud.verify.events import FaultInjected, FaultProof

_DEADLINE_S = 5.0


class MoveLeader(Fault):
    """Ask the leader to hand over to the member behind node ``to``."""

    name = "move-leader"

    def __init__(self, leadership: Leadership, to: str) -> None:
        assert to != leadership.node
        self.leadership = leadership
        self.to = to

    async def inject(self, rig: Rig) -> int:
        rig.doing(f"moving leadership from {self.leadership.node} to {self.to}")
        rig.watcher.fast(True)
        sample = rig.watcher.latest.get(self.to)
        address = rig.cluster[self.leadership.node].spec.client
        api = NodeApi(address.host, address.port)
        at_ns = time.monotonic_ns()
        rig.record(FaultInjected, at_ns=at_ns, fault=self.name, nodes=(self.leadership.node,))
        evidence = f"{self.to} did not answer before the move"
        landed = False
        try:
            if sample is not None:
                await api.move_leader(sample.member, timeout=_DEADLINE_S)
                await rig.watcher.until(
                    lambda: self._moved(rig, sample.member), timeout=_DEADLINE_S, what=f"{self.to} leads"
                )
                landed = True
                evidence = f"all nodes name {self.to}, in a higher term than {self.leadership.term}"
        except (AttemptFailed, WaitedTooLong) as error:
            evidence = str(error)
        finally:
            await api.close()
        rig.record(FaultProof, fault=self.name, landed=landed, evidence=evidence)
        return at_ns

    async def undo(self, rig: Rig) -> None:
        """Nothing: any leader is as good as another."""

    def _moved(self, rig: Rig, member: int) -> bool:
        leadership = rig.agreed_leader()
        return leadership is not None and leadership.member == member and leadership.term > self.leadership.term
