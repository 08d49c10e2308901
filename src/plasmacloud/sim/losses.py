"""Faults that take from a member what it has on its disk: some of it, all of it, or what was written since a copy."""

from collections.abc import Callable
from functools import partial

from plasmacloud.sim.clock import NS_PER_S
from plasmacloud.sim.cluster import Cluster
from plasmacloud.sim.decay import corrupt_log, corrupt_memory, corrupt_record, lose_part, misdirect_log
from plasmacloud.sim.node import Node
from plasmacloud.sim.schedule import Fault


class Losses:
    """For the `Injector`. Never more is lost than a cluster can bear (`Cluster.can_spare`)."""

    def __init__(
        self,
        cluster: Cluster,
        victim: Callable[[Fault], Node],
        happened: Callable[[Fault, str], None],
        is_open: Callable[[], bool],
    ) -> None:
        """``victim``: whom a fault hits. ``happened`` is told that it did. ``is_open``: faults are not over yet."""
        self._cluster = cluster
        self._victim = victim
        self._happened = happened
        self._is_open = is_open

    def _decay(self, fault: Fault, harm: Callable[[Node], bool]) -> Callable[[], None] | None:
        """A machine loses power, and comes back with a disk that is not what it was."""
        node = self._victim(fault)
        if node.name in self._cluster.ruined or not self._cluster.can_spare(node) or node.damaged:
            return None
        self._cluster.kill(node, power_lost=True)
        if harm(node):
            self._happened(fault, node.name)
            node.damaged = True
        return partial(self._cluster.start, node)

    def corrupt(self, fault: Fault) -> Callable[[], None] | None:
        """Bits change: of the log, of a record, or of what is remembered of the others."""
        if fault.pick % 4 == 2:
            return self._forget_others(fault)
        return self._decay(fault, corrupt_log if fault.pick & 1 else corrupt_record)

    def _forget_others(self, fault: Fault) -> Callable[[], None] | None:
        """A machine loses power, and comes back without what its member remembers of the others: it bears that."""
        node = self._victim(fault)
        if node.name in self._cluster.ruined:
            return None
        self._cluster.kill(node, power_lost=True)
        if corrupt_memory(node):
            self._happened(fault, node.name)
        return partial(self._cluster.start, node)

    def misdirect(self, fault: Fault) -> Callable[[], None] | None:
        """A sector of the log is found in another's place, or a part of the log is gone."""
        return self._decay(fault, misdirect_log if fault.pick & 1 else lose_part)

    def wipe(self, fault: Fault) -> None:
        """The disk is replaced by an empty one."""
        node = self._victim(fault)
        if node.name not in self._cluster.ruined and self._cluster.can_spare(node):
            self._happened(fault, node.name)
            self._cluster.ruin(node)
            node.disk.wipe()

    def amnesia(self, fault: Fault) -> Callable[[], None] | None:
        """Only where everybody else has met the victim's present life: then all of them know better than it.

        Somebody who has not met it cannot know, and is lost to the cluster together with it (`peer_memory`). And a
        member that founded a cluster alone founds it anew on an empty disk, before anybody can tell it otherwise.
        """
        node, cluster = self._victim(fault), self._cluster
        if not self._is_missed(node):
            return None
        self._happened(fault, node.name)
        cluster.ruin(node)
        cluster.amnesiacs.add(node.name)
        node.disk.wipe()
        return partial(self._start_against_advice, node)

    def _is_missed(self, node: Node) -> bool:
        """Whether its data may be lost, and all others would know, by what they remember and by their state."""
        cluster, member = self._cluster, node.member
        alone = cluster.options.members == 1
        if member is None or alone or node.name in cluster.ruined or node.damaged or not cluster.can_spare(node):
            return False
        for other in cluster.intact():
            if other is node or not cluster.observer.belongs(other.member_id):
                continue
            if other.member is None or other.member.peers.memory.known(node.member_id) != member.data.life[:2]:
                return False
            session = other.member.machine.sessions.get(node.member_id)
            if session is None or session.incarnation != member.data.incarnation:
                return False
        return True

    def _start_against_advice(self, node: Node) -> None:
        if not node.running and self._is_open():
            node.start()

    def set_back(self, fault: Fault) -> Callable[[], None] | None:
        """A copy is made while the member does not run. It runs again, and later the copy takes the place of its disk:
        what it promised meanwhile is forgotten. Like `amnesia`, only where all others have met the life that is lost.
        """
        node, cluster = self._victim(fault), self._cluster
        if node.member is None or node.name in cluster.ruined:
            return None
        cluster.kill(node, power_lost=True)
        copy = node.disk.root.copy()
        cluster.restart_later(node, 0.3)

        def set_back() -> None:
            if self._is_open() and self._is_missed(node):
                self._happened(fault, node.name)
                cluster.ruin(node)
                cluster.amnesiacs.add(node.name)
                node.disk.root = copy
                cluster.world.after(NS_PER_S // 2, self._start_against_advice, node)

        return set_back
