"""Carries out a schedule of faults, and takes them back when their time is over."""

import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from plasmacloud.sim.aside import change_aside, write_aside
from plasmacloud.sim.clock import NS_PER_S
from plasmacloud.sim.cluster import Cluster
from plasmacloud.sim.disk import SECTOR_BYTES
from plasmacloud.sim.losses import Losses
from plasmacloud.sim.node import Node
from plasmacloud.sim.options import FaultKind
from plasmacloud.sim.schedule import Fault, is_short

Way = tuple[str, str]
_LOOK_NS = NS_PER_S // 1000
_START_STEPS = 30  # operations of the disk that a start takes
_INSTALL_STEPS = 60  # and one that installs a snapshot before
_DECIDED_STEPS = 6  # times that a name is named behind the decision


class Injector:
    """``stop`` ends all faults that last, and those that have not begun."""

    def __init__(self, cluster: Cluster, schedule: Sequence[Fault]) -> None:
        self._cluster = cluster
        self._schedule = schedule
        self._open = True
        self._undo: dict[int, Callable[[], None]] = {}  # how each fault that lasts is taken back
        losses = Losses(cluster, self._victim, self._happened, lambda: self._open)
        self._acts: dict[FaultKind, Callable[[Fault], Callable[[], None] | None]] = {
            FaultKind.KILL: partial(self._end, power_lost=False),
            FaultKind.POWER: partial(self._end, power_lost=True),
            FaultKind.POWER_ALL: self._power_all,
            FaultKind.RESTART: self._restart,
            FaultKind.PAUSE: self._pause,
            FaultKind.PARTITION: self._partition,
            FaultKind.ONE_WAY: self._one_way,
            FaultKind.SLOW_LINK: self._slow_link,
            FaultKind.CUT: self._cut,
            FaultKind.DARK: self._dark,
            FaultKind.SLOW_DISK: self._slow_disk,
            FaultKind.FULL_DISK: self._full_disk,
            FaultKind.FAILED_SYNC: partial(self._fail_disk, operation="sync"),
            FaultKind.FAILED_READ: partial(self._fail_disk, operation="read"),
            FaultKind.CORRUPT: losses.corrupt,
            FaultKind.MISDIRECT: losses.misdirect,
            FaultKind.CLOCK_JUMP: self._clock_jump,
            FaultKind.TRANSFER: self._transfer,
            FaultKind.JOIN: self._join,
            FaultKind.LEAVE: self._leave,
            FaultKind.WIPE: losses.wipe,
            FaultKind.AMNESIA: losses.amnesia,
            FaultKind.FALSE_START: self._false_start,
            FaultKind.TEAR: self._tear,
            FaultKind.AMBUSH: self._ambush,
            FaultKind.CHASE: self._chase,
            FaultKind.REPLACE: self._replace,
            FaultKind.RIFT: self._rift,
            FaultKind.SET_BACK: losses.set_back,
            FaultKind.WIDOW: self._widow,
        }

    def start(self) -> None:
        """Put the schedule on the agenda."""
        world = self._cluster.world
        for number, fault in enumerate(self._schedule):
            world.at(round(fault.at_s * NS_PER_S), None, self._happen, number, fault)

    def stop(self) -> None:
        """It is over."""
        self._open = False
        for number in list(self._undo):
            self._take_back(number)

    def _happen(self, number: int, fault: Fault) -> None:
        if not self._open or not self._cluster.nodes:
            return
        undo = self._acts[fault.kind](fault)
        if undo is not None:
            self._undo[number] = undo
            self._cluster.world.after(round(fault.for_s * NS_PER_S), self._take_back, number)

    def _take_back(self, number: int) -> None:
        undo = self._undo.pop(number, None)
        if undo is not None:
            undo()

    # Whom it hits

    def _victim(self, fault: Fault) -> Node:
        """The leader, one time in three; otherwise anybody who has not left."""
        leader = self._cluster.leader()
        if leader is not None and fault.pick % 3 == 0:
            return leader
        nodes = self._cluster.intact() or list(self._cluster.nodes.values())
        return nodes[fault.pick // 3 % len(nodes)]

    def _ways(self, fault: Fault) -> list[Way]:
        """From one side to the other; who is on which side is in the bits of ``pick``. Or away from the leader, if the
        fault is as short as an election: that is when its words arrive in the term of the next one.
        """
        names = list(self._cluster.nodes)
        leader = self._cluster.leader()
        if leader is not None and is_short(fault):
            return [(leader.name, there) for there in names if there != leader.name]
        side = {name for position, name in enumerate(names) if fault.pick >> position % 16 & 1}
        if not side or len(side) == len(names):
            side = {self._victim(fault).name}
        return [(here, there) for here in names for there in names if here in side and there not in side]

    def _happened(self, fault: Fault, who: str) -> None:
        self._cluster.trace.count(fault.kind.value)
        self._cluster.trace.note(who, fault.kind.value)

    # Processes

    def _end(self, fault: Fault, *, power_lost: bool) -> Callable[[], None] | None:
        node = self._victim(fault)
        if not node.running:
            return None
        self._happened(fault, node.name)
        self._cluster.kill(node, power_lost=power_lost)
        return partial(self._cluster.start, node)

    def _ambush(self, fault: Fault) -> Callable[[], None] | None:
        """The worst moment is waited for: a promise has just been made, or is just being made durable."""
        node, cluster = self._victim(fault), self._cluster
        life = node.life
        if life is None:
            return None
        waits = True

        def strike() -> None:
            nonlocal waits
            if waits and node.life is life:
                waits = False
                self._happened(fault, node.name)
                cluster.kill(node, power_lost=power_lost)
                cluster.restart_later(node, 0.1 + fault.amount)

        def undo() -> None:
            nonlocal waits
            waits = False

        # Of a process that dies alone, the next one reads what it wrote and did not sync.
        power_lost = not fault.pick & 1 or bool(fault.pick & 2)
        if fault.pick & 1:
            share = fault.amount
            life.workshop.on_begin = lambda takes_s: cluster.world.after(round(takes_s * share * NS_PER_S), strike)
        else:
            cluster.observer.on_vote[node.member_id] = lambda: cluster.world.after(0, strike)
        return undo

    def _tear(self, fault: Fault) -> Callable[[], None] | None:
        """The next write to the log is the last thing that happens: some of its sectors are on the disk."""
        node, cluster = self._victim(fault), self._cluster
        if node.life is None:
            return None
        disk = node.disk

        def torn() -> None:
            self._happened(fault, node.name)
            cluster.world.after(0, strike, node.life)

        def strike(life: object) -> None:
            if node.life is life:
                cluster.kill(node, power_lost=True)
                cluster.restart_later(node, 0.1 + fault.amount)

        def undo() -> None:
            if disk.on_log_write is torn:
                disk.on_log_write = None

        disk.on_log_write, disk.least_torn_bytes = torn, (fault.pick & 1) * 2 * SECTOR_BYTES
        return undo

    def _false_start(self, fault: Fault) -> None:
        """A member is killed, and again while it starts; or while it installs the next snapshot that it receives."""
        node = self._victim(fault)
        if node.life is None:
            return
        self._happened(fault, node.name)
        if fault.pick & 1:
            behind_start = _START_STEPS // 2 + round((_INSTALL_STEPS - _START_STEPS // 2) * fault.amount)
            node.disk.false_install = -1 - fault.pick // 4 % _DECIDED_STEPS if fault.pick & 2 else behind_start
        else:
            self._cluster.kill(node, power_lost=bool(fault.pick & 2))
            node.start(false_start=round(_START_STEPS * fault.amount))

    def _power_all(self, fault: Fault) -> Callable[[], None]:
        self._happened(fault, "all")
        nodes = [node for node in self._cluster.nodes.values() if node.running]
        for node in nodes:
            self._cluster.kill(node, power_lost=True)

        def restart() -> None:
            for node in nodes:
                self._cluster.start(node)

        return restart

    def _restart(self, fault: Fault) -> None:
        node = self._victim(fault)
        if node.member is not None and not node.paused:
            self._happened(fault, node.name)
            node.leave()

    def _pause(self, fault: Fault) -> Callable[[], None] | None:
        node = self._victim(fault)
        life = node.life
        if life is None:
            return None
        self._happened(fault, node.name)
        node.pause()
        if fault.pick & 2:  # what two leaders have told it meanwhile, it hears in one breath
            away_s = fault.for_s * fault.amount
            self._cluster.world.after(round(away_s * NS_PER_S), self._hand_over)
            if fault.pick & 4:  # or what one leader has told it in two terms
                back_s = away_s + (fault.for_s - away_s) / 2
                self._cluster.world.after(round(back_s * NS_PER_S), self._hand_over)
        return life.loop.resume

    # The network

    def _block(self, fault: Fault, ways: list[Way]) -> Callable[[], None]:
        network = self._cluster.network
        self._happened(fault, " ".join(f"{here}>{there}" for here, there in ways))
        for here, there in ways:
            network.block(here, there)

        def undo() -> None:
            for here, there in ways:
                network.unblock(here, there)

        return undo

    def _partition(self, fault: Fault) -> Callable[[], None]:
        ways = self._ways(fault)
        return self._block(fault, ways + [(there, here) for here, there in ways])

    def _one_way(self, fault: Fault) -> Callable[[], None]:
        return self._block(fault, self._ways(fault))

    def _slow_link(self, fault: Fault) -> Callable[[], None]:
        network, ways, options = self._cluster.network, self._ways(fault), self._cluster.options
        self._happened(fault, str(len(ways)))
        # Up to three election timeouts: what a leader says then arrives when there is another one.
        factor = 1.0 + 3.0 * fault.amount**2 * options.election_timeout_s / options.network.delay_s
        for here, there in ways:
            network.slow_down(here, there, factor)

        def undo() -> None:
            for here, there in ways:
                network.slow_down(here, there, 1.0)

        return undo

    def _cut(self, fault: Fault) -> None:
        for here, there in self._ways(fault)[:1]:
            self._happened(fault, f"{here} {there}")
            self._cluster.network.cut(here, there)

    def _dark(self, fault: Fault) -> None:
        for here, there in self._ways(fault)[:1]:
            self._happened(fault, f"{here} {there}")
            self._cluster.network.darken(here, there)

    def _chase(self, fault: Fault) -> Callable[[], None] | None:
        """What a leader could not spread any more is the end of its log when it comes back, and the next one is away.

        Every other time it still reaches one of the others. And every other time it is made the leader again as soon as
        it is back: what it could not spread it has lost by then, and has to know that.
        """
        cluster = self._cluster
        step_ns = round((2.0 + 2.0 * fault.amount) * cluster.options.election_timeout_s * NS_PER_S)
        cut: dict[str, Callable[[], None]] = {}  # by the name of the leader that is cut off
        over = len(cluster.nodes) < 2

        def step() -> None:
            if over:
                return
            leader = cluster.leader()
            if leader is not None and cut and leader.name not in cut and fault.pick & 0x100:
                before = cluster.nodes[next(iter(cut))]
                take_back()
                self._hand_over_to(leader, before)
            elif leader is not None and leader.name not in cut:
                take_back()
                others = [name for name in cluster.nodes if name != leader.name]
                if fault.pick & 1 and len(others) > 1:
                    del others[fault.pick // 2 % len(others)]
                ways = [(leader.name, other) for other in others]
                cut[leader.name] = self._block(fault, ways + [(there, here) for here, there in ways])
                cluster.world.after(0, change_aside, leader)
                self._flood(leader, round(40 * fault.amount), step_ns // 2)
            cluster.world.after(step_ns, step)

        def take_back() -> None:
            for undo in cut.values():
                undo()
            cut.clear()

        def end() -> None:
            nonlocal over
            over = True
            take_back()

        step()
        return end

    def _flood(self, node: Node, writes: int, for_ns: int) -> None:
        """Give a member writes of which nobody wants to know more: one entry of the log each."""
        for number in range(writes):
            self._cluster.world.after((number + 1) * for_ns // writes, write_aside, node, number)

    def _widow(self, fault: Fault) -> Callable[[], None] | None:
        """Whoever leads is kept from one of the others for a few entries, and dies when they are committed: that one
        lacks them, and may well be the first that wants to lead.
        """
        cluster, leader = self._cluster, self._cluster.leader()
        voters = cluster.observer.latest_conf.voters
        others = [node for node in cluster.alive() if node is not leader and node.member_id in voters]
        if leader is None or leader.paused or len(others) < 2:
            return None
        life, entries = leader.life, 1 + fault.pick // 16 % 3
        undo = self._block(fault, [(leader.name, others[fault.pick % len(others)].name)])
        goal, waits = cluster.observer.commit + entries, True
        self._flood(leader, entries, entries * NS_PER_S // 50)

        def look() -> None:
            if waits and cluster.observer.commit < goal:
                cluster.world.after(_LOOK_NS, look)
            elif waits and leader.life is life:
                cluster.kill(leader, power_lost=bool(fault.pick & 8))
                cluster.restart_later(leader, 0.3 + fault.amount)
                end()

        def end() -> None:
            nonlocal waits
            if waits:
                waits = False
                undo()

        look()
        return end

    def _rift(self, fault: Fault) -> Callable[[], None]:
        """While members disagree about who has a say: the leader is left with a majority of the newest members, or the
        sides are random. Asks for the change that it waits for.
        """
        cluster, key = self._cluster, object()
        timeout_ns = round(cluster.options.election_timeout_s * NS_PER_S)
        split: list[Callable[[], None]] = []
        waits = True

        def strike(_: object) -> None:
            nonlocal waits
            if waits:
                waits = False
                cluster.world.after(round(fault.amount**2 * timeout_ns), begin)

        def begin() -> None:
            if key in cluster.authority.on_conf:
                split.append(self._block(fault, self._rift_ways(fault)))
                cluster.world.after(round((2 + fault.pick % 9) * timeout_ns), end)

        def end() -> None:
            cluster.authority.on_conf.pop(key, None)
            while split:
                split.pop()()

        cluster.authority.on_conf[key] = strike
        wish = (self._ask_to_replace, self._ask_to_replace, self._ask_to_join, self._ask_to_leave)[fault.pick // 4 % 4]
        wish(fault)
        return end

    def _rift_ways(self, fault: Fault) -> list[Way]:
        cluster, leader = self._cluster, self._cluster.leader()
        voters = cluster.observer.latest_conf.voters
        if leader is None or not fault.pick & 1:
            ways = self._ways(fault)
        else:
            side = {leader.name}
            for node in reversed(cluster.nodes.values()):
                count = sum(cluster.nodes[name].member_id in voters for name in side)
                if node.member_id in voters and 2 * count <= len(voters):
                    side.add(node.name)
            ways = [(here, there) for here in side for there in cluster.nodes if there not in side]
            ways.sort()
        return ways + [(there, here) for here, there in ways]

    # Disks and clocks

    def _slow_disk(self, fault: Fault) -> Callable[[], None]:
        node = self._victim(fault)
        self._happened(fault, node.name)
        node.set_disk_factor(1.0 + 500.0 * fault.amount**3)
        return partial(node.set_disk_factor, 1.0)

    def _full_disk(self, fault: Fault) -> Callable[[], None]:
        node = self._victim(fault)
        self._happened(fault, node.name)
        node.had_trouble = True
        if fault.pick & 8:
            return self._refuse_state(node)
        node.disk.capacity_bytes = node.disk.root.size_bytes() + round(fault.amount**4 * 100_000)

        def undo() -> None:
            node.disk.capacity_bytes = None

        return undo

    def _refuse_state(self, node: Node) -> Callable[[], None]:
        """The log has its space reserved, and goes on; the applied state has none."""

        def fail(what: str, path: Path) -> None:
            if what == "write" and path.name.startswith("state"):
                self._cluster.trace.count("checkpoints without space")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        node.disk.on_step = fail

        def undo() -> None:
            if node.disk.on_step is fail:
                node.disk.on_step = None

        return undo

    def _fail_disk(self, fault: Fault, *, operation: str) -> Callable[[], None]:
        node = self._victim(fault)
        self._happened(fault, node.name)
        node.had_trouble = True
        left = 1 + fault.pick % 3

        def fail(what: str, path: Path) -> None:
            nonlocal left
            if what == operation and left:
                left -= 1
                self._cluster.trace.note(node.name, f"{operation} of {path.name} fails")
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

        node.disk.on_step = fail

        def undo() -> None:
            if node.disk.on_step is fail:
                node.disk.on_step = None

        return undo

    def _clock_jump(self, fault: Fault) -> None:
        node = self._victim(fault)
        self._happened(fault, node.name)
        node.wall_offset_ns += round((fault.amount - 0.7) * 3600 * NS_PER_S)

    # Members

    def _transfer(self, fault: Fault) -> Callable[[], None] | None:
        """Every other time nothing passes between the two from then on; else a third one may stand still meanwhile."""
        leader, target = self._heir()
        if leader is None or target is None:
            return None
        undo = None
        if fault.pick & 1:
            undo = self._block(fault, [(leader.name, target.name), (target.name, leader.name)])
        else:
            self._happened(fault, leader.name)
            if fault.pick & 2:
                self._pause_witness(fault, leader, target)
        self._hand_over()
        return undo

    def _pause_witness(self, fault: Fault, leader: Node, target: Node) -> None:
        """Somebody hears two leaders in one breath; or, every other time, one of them in two terms."""
        cluster = self._cluster
        others = [node for node in cluster.alive() if node not in (leader, target) and not node.paused]
        if not others:
            return
        node = others[fault.pick // 8 % len(others)]
        assert node.life is not None
        node.pause()
        write_aside(leader, 0)
        timeout_ns = round(cluster.options.election_timeout_s * NS_PER_S)
        if fault.pick & 4:
            cluster.world.after(timeout_ns, self._hand_over)
        cluster.world.after(2 * timeout_ns, node.life.loop.resume)

    def _heir(self) -> tuple[Node | None, Node | None]:
        """The leader, and to whom it would hand over."""
        leader = self._cluster.leader()
        if leader is None or leader.paused or leader.member is None:
            return None, None
        return leader, self._cluster.node_of(leader.member.replica.handover_target())

    def _hand_over(self) -> None:
        leader, target = self._heir()
        if self._open and leader is not None and target is not None:
            self._hand_over_to(leader, target)

    def _hand_over_to(self, leader: Node, target: Node) -> None:
        member, life, for_s = leader.member, leader.life, 2 * self._cluster.options.election_timeout_s
        if member is None or life is None:
            return
        replica = member.replica

        async def hand_over() -> None:
            if replica.is_leader and target.member_id in replica.raft.conf.voters:  # it may have stood still meanwhile
                await replica.hand_over(target.member_id, for_s)

        life.loop.enter(lambda: life.loop.create_task(hand_over()))

    def _join(self, fault: Fault) -> None:
        if self._ask_to_join(fault):
            self._happened(fault, "")

    def _ask_to_join(self, _: Fault) -> bool:
        room = len(self._cluster.observer.latest_conf.all_members()) < self._cluster.options.members + 2
        if room:
            self._cluster.operator.add_member()
        return room

    def _leave(self, fault: Fault) -> None:
        if self._ask_to_leave(fault):
            self._happened(fault, "")

    def _ask_to_leave(self, fault: Fault) -> bool:
        several = len(self._cluster.observer.latest_conf.voters) > 1
        if several:
            self._cluster.operator.remove_member(self._victim(fault))
        return several

    def _replace(self, fault: Fault) -> None:
        if self._ask_to_replace(fault):
            self._happened(fault, "")

    def _ask_to_replace(self, fault: Fault) -> bool:
        several = len(self._cluster.observer.latest_conf.voters) > 1
        if several:
            self._cluster.operator.replace_member(self._victim(fault))
        return several
