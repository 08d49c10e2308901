"""The machines of a run and what keeps them going: the operator, whom nothing surprises, and the supervisor.

The supervisor starts again what ended by itself. The operator knows which disks are lost for good (`ruined`) and
replaces such members, as the documentation of the product tells him to: the member is removed, and a new one joins on
a new machine. He never does two things at a time, and he does nothing that would leave fewer intact voters than a
majority: a cluster that lost more than that may lose data, by whatever protocol, so losing it proves nothing.
"""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from plasmacloud.base.address import Address
from plasmacloud.base.errors import ConfigError, StorageError
from plasmacloud.chainfire.config import ServerConfig
from plasmacloud.chainfire.join import Membership
from plasmacloud.chainfire.member_commands import (
    AddMember,
    CommandKind,
    MemberCommand,
    RemoveMember,
    encode_member_command,
)
from plasmacloud.chainfire.members import ClusterIdentity, Member, found_cluster
from plasmacloud.chainfire.membership_policy import PolicyConfig
from plasmacloud.chainfire.peer_memory import Forgotten
from plasmacloud.chainfire.place import take_place
from plasmacloud.chainfire.running_member import ReplicaFailed, RunningMember
from plasmacloud.raft.membership import ConfState
from plasmacloud.rpc.status import StatusCode
from plasmacloud.sim.authority import Authority, watched_members
from plasmacloud.sim.clock import NS_PER_S, World
from plasmacloud.sim.execution import check_executed
from plasmacloud.sim.loop import SimLoop
from plasmacloud.sim.network import Network
from plasmacloud.sim.node import Machinery, Node
from plasmacloud.sim.observer import Observer
from plasmacloud.sim.options import Options
from plasmacloud.sim.trace import Trace
from plasmacloud.sim.violation import Violation
from plasmacloud.sim.watch import watched_transport
from plasmacloud.storage.wal_errors import CorruptLog

_PEER_PORT = 2380
_CLIENT_PORT = 2379
_SUPERVISOR_S = 0.5
_OPERATOR_S = 1.0


class Cluster:
    """``violation`` is the first rule that was broken; the world stops there."""

    def __init__(self, options: Options, member_class: type[RunningMember] = RunningMember) -> None:
        self.options = options
        self.world = World()
        self.trace = Trace(self.world)
        self.observer = Observer(self.trace)
        self.authority = Authority(self.observer, self.fail)
        self.observer.on_begin = self.authority.begins
        self.violation: Violation | None = None
        self.rng = random.Random(f"cluster/{options.seed}")
        self.nodes: dict[str, Node] = {}
        self.ruined: set[str] = set()  # machines whose data is lost, or may be
        self.retired: set[str] = set()  # machines whose member has left
        self.amnesiacs: set[str] = set()  # machines that were started with an empty disk, against all advice
        self.held_down: set[str] = set()  # machines that nobody starts for the moment
        self.disk_trouble = False  # a process may end because of its disk
        self.on_death: Callable[[Node], None] = lambda _: None
        self.network = Network(
            self.world,
            options.network,
            random.Random(f"network/{options.seed}"),
            self.trace,
            lambda name: name in self.nodes and self.nodes[name].reachable,
        )
        self._machinery = Machinery(
            world=self.world,
            network=self.network,
            trace=self.trace,
            disk_options=options.disk,
            transport=partial(watched_transport, self.observer, self.authority, self.fail, options.peers),
            member_class=watched_members(member_class, self.fail, self._executed),
            observe=self._observe,
            ended=self._ended,
            died=self._died,
        )
        self.operator = Operator(self)

    # Machines

    def found(self) -> None:
        """The founding members start."""
        names = [f"n{i}" for i in range(1, self.options.members + 1)]
        identity = found_cluster(",".join(f"{name}={name}:{_PEER_PORT}" for name in names), f"sim-{self.options.seed}")
        for name in names:
            self.add_machine(name, self.config(name, identity.member(name), identity))
        for name in names:
            self.nodes[name].start()

    def config(
        self, name: str, member: Member, cluster: ClusterIdentity, contacts: tuple[Member, ...] = ()
    ) -> ServerConfig:
        """The settings of a member on a machine."""
        options = self.options
        return ServerConfig(
            member=member,
            cluster=cluster,
            contacts=contacts,
            data_dir=Path("/data"),
            listen_client=Address(name, _CLIENT_PORT),
            listen_peer=Address(name, _PEER_PORT),
            advertise_client=(f"http://{name}:{_CLIENT_PORT}",),
            policy=PolicyConfig(round_s=options.election_timeout_s),
            election_timeout_s=options.election_timeout_s,
            heartbeat_interval_s=options.heartbeat_interval_s,
            request_timeout_s=options.request_timeout_s,
            checkpoint_interval_s=options.checkpoint_interval_s,
            tuning=options.tuning,
        )

    def add_machine(self, name: str, config: ServerConfig) -> Node:
        """A new machine, switched off."""
        node = Node(self._machinery, name, config, random.Random(f"node/{self.options.seed}/{name}"))
        node.clock_rate = 1.0 + self.options.clock_drift * node.rng.uniform(-1.0, 1.0)
        node.wall_offset_ns = node.rng.randrange(-NS_PER_S, NS_PER_S)
        self.nodes[name] = node
        return node

    def start(self, node: Node) -> None:
        """Start a process on a machine, unless there is one or there should be none."""
        if not node.running and node.name not in self.held_down | self.ruined | self.retired:
            node.start()

    def kill(self, node: Node, *, power_lost: bool) -> None:
        """End a process, or the power of a machine."""
        self.trace.note(node.name, "loses power" if power_lost else "is killed")
        life = node.life
        node.end(power_lost=power_lost)
        if life is not None:
            self.on_death(node)

    def ruin(self, node: Node) -> None:
        """Its data is lost for good."""
        if node.running:
            self.kill(node, power_lost=True)
        self.ruined.add(node.name)
        self.observer.forgets(node.member_id)

    def restart_later(self, node: Node, after_s: float) -> None:
        """Somebody switches it on again."""
        self.world.after(round(after_s * NS_PER_S), self.start, node)

    # What everybody knows

    def alive(self) -> list[Node]:
        """Machines with a process that takes requests, be it paused."""
        return [node for node in self.nodes.values() if node.member is not None]

    def leader(self) -> Node | None:
        """The running member that leads the latest term."""
        leaders = [node for node in self.alive() if node.member is not None and node.member.replica.is_leader]
        return max(leaders, key=lambda node: node.member.raft.term, default=None)  # type: ignore[union-attr]

    def intact(self) -> list[Node]:
        """Machines whose data is what their member left there."""
        return [node for node in self.nodes.values() if node.name not in self.ruined | self.retired]

    def node_of(self, member_id: int) -> Node | None:
        """The machine of a member."""
        return next((node for node in self.nodes.values() if node.member_id == member_id), None)

    def can_spare(self, node: Node) -> bool:
        """Whether the data of one more machine may be lost: a majority of intact voters is left in every case."""
        lost = {other.member_id for other in self.nodes.values() if other.damaged or other.name in self.ruined}
        lost.add(node.member_id)
        leaving = self.operator.asked_to_leave
        conf = self.observer.latest_conf
        electorates = [*self.observer.electorates(), conf.voters | conf.learners]  # they may be promoted any moment,
        for learner in sorted(conf.learners):  # or one of them, in place of whom it replaces
            electorates.append(conf.voters | {learner})
            electorates += [conf.voters - {voter} | {learner} for voter in self._replaced_by(learner)]
        electorates += [voters - leaving for voters in electorates if voters & leaving]
        return all(2 * len(voters - lost) > len(voters) for voters in electorates)

    def _replaced_by(self, learner: int) -> list[int]:
        """Whose place a learner is meant to take, as far as anybody knows: one member or none."""
        states = [node.member.machine.cluster for node in self.nodes.values() if node.member is not None]
        return sorted({state.replaced_by(learner) for state in states} - {0})

    # What happens

    def _observe(self, node: Node, loop: SimLoop, member: RunningMember | None) -> None:
        """Behind every turn of a process. ``member`` is None until it has opened its data."""
        if loop.errors:
            context = loop.errors.pop(0)
            error = context.get("exception")
            if not isinstance(error, StorageError):
                self.fail(Violation("no defect", f"{node.name}: {context.get('message')}: {error!r}"), error)
        if member is not None and self.violation is None:
            try:
                self.observer.look(member)
            except Violation as violation:
                self.fail(violation)

    def _executed(self, *what: Any) -> None:
        """A member has executed an entry."""
        try:
            check_executed(self.observer.model, *what)
        except Violation as violation:
            self.fail(violation)

    def fail(self, violation: Violation, cause: object = None) -> None:
        """A rule was broken: the run is over."""
        if self.violation is None:
            if isinstance(cause, BaseException):
                violation.__cause__ = cause
            self.violation = violation
            self.trace.note("", f"violated: {violation}")
        self.world.stop()

    def _died(self, node: Node) -> None:
        """In the middle of a start: half of the times it is the machine that lost power."""
        self.trace.count("false starts")
        self.kill(node, power_lost=node.disk.coin())
        self.restart_later(node, _SUPERVISOR_S)

    def _ended(self, node: Node, error: BaseException | None) -> None:
        """A process ended by itself."""
        self.on_death(node)
        self.trace.count("processes that ended by themselves")
        if node.name in self.amnesiacs:
            self.trace.count("members without memory that were sent away", int(isinstance(error, Forgotten)))
        elif isinstance(error, Forgotten):
            if self.observer.has_left(node.member_id):
                self.retired.add(node.name)
                return
            self.fail(Violation("no healthy member is refused", f"{node.name}: {error}"), error)
        elif isinstance(error, ReplicaFailed) or (
            error is not None and not isinstance(error, StorageError | ConfigError)
        ):
            self.fail(Violation("no defect", f"{node.name}: {error}"), error)
        elif isinstance(error, CorruptLog) and not node.damaged:
            self.fail(Violation("a healthy disk is believed", f"{node.name}: {error}"), error)
        elif isinstance(error, StorageError) and node.damaged:
            self.ruin(node)
        elif error is not None and not node.had_trouble:
            self.fail(Violation("a healthy disk is believed", f"{node.name}: {error}"), error)
        else:
            self.restart_later(node, _SUPERVISOR_S)


class Operator:
    """One change of the membership at a time, and the care of machines that were lost."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._joining: str | None = None  # the machine for which a place was asked
        self._wanted = 0  # machines that shall join
        self._leaving: set[str] = set()  # machines whose members shall leave
        self._surely_replaced: set[str] = set()  # and whose place somebody new shall take
        self._replaces = 0  # the member whose place the one that joins takes, in one joint change
        self._machines = cluster.options.members
        self._busy = False
        self.active = True
        self.asked_to_leave: set[int] = set()  # members: perhaps they have left, perhaps they will

    def start(self) -> None:
        """Look after the cluster from now on."""
        self._cluster.world.after(round(_OPERATOR_S * NS_PER_S), self._round)

    def add_member(self) -> None:
        """One more shall join."""
        self._wanted += 1

    def remove_member(self, node: Node) -> None:
        """It shall leave."""
        self._leaving.add(node.name)

    def replace_member(self, node: Node) -> None:
        """It shall leave, and somebody new take its place in the same step."""
        self._leaving.add(node.name)
        self._surely_replaced.add(node.name)

    def forget_wishes(self) -> None:
        """From now on only what was lost is replaced."""
        self._wanted = 0
        self._leaving.clear()

    @property
    def idle(self) -> bool:
        """Whether everything is as it should be."""
        return not (self._wanted or self._leaving or self._joining or self._to_replace())

    def describe(self) -> str:
        """What is still to be done."""
        lost = [node.name for node in self._to_replace()]
        return f"wanted {self._wanted}, leaving {sorted(self._leaving)}, joining {self._joining}, lost {lost}"

    def _to_replace(self) -> list[Node]:
        cluster = self._cluster
        return [
            node
            for name, node in cluster.nodes.items()
            if name in cluster.ruined and cluster.observer.belongs(node.member_id)
        ]

    def _round(self) -> None:
        cluster = self._cluster
        cluster.world.after(round(_OPERATOR_S * NS_PER_S), self._round)
        leader = cluster.leader()
        if not self.active or self._busy or leader is None or leader.paused or leader.member is None:
            return
        self._find_place(leader)
        conf = leader.member.raft.conf
        if conf.joint:
            return
        if not cluster.observer.belongs(self._replaces) or (not conf.learners and self._joining is None):
            self._replaces = 0
        lost = [node for node in self._to_replace() if node.member_id != self._replaces]
        if lost:
            if self._replace(lost[0], conf):
                return
            if lost[0].member_id in conf.voters:
                self._wanted += 1
            self._remove(leader, lost[0])
        elif conf.learners:
            return  # one after the other
        elif self._joining is not None:
            place = AddMember((Address(self._joining, _PEER_PORT),), self._joining, replaces=self._replaces)
            self._ask(leader, CommandKind.MEMBER_ADD, place)
        elif self._wanted:
            self._wanted -= 1
            self._join()
        elif self._leaving:
            node = cluster.nodes[min(self._leaving)]
            self._leaving.discard(node.name)
            leaves = node.member_id in conf.voters and len(conf.voters) > 1 and cluster.can_spare(node)
            if leaves and not self._replace(node, conf):
                self._remove(leader, node)

    def _join(self) -> None:
        self._machines += 1
        self._joining = f"n{self._machines}"

    def _replace(self, node: Node, conf: ConfState) -> bool:
        """Let somebody new take a voter's place, if that is asked for or every other time: that is a joint change."""
        busy = self._joining is not None or conf.learners or node.member_id not in conf.voters
        if busy or (node.name not in self._surely_replaced and self._cluster.rng.random() < 0.5):
            return False
        self._replaces = node.member_id
        self.asked_to_leave.add(node.member_id)
        self._join()
        return True

    def _remove(self, leader: Node, node: Node) -> None:
        self.asked_to_leave.add(node.member_id)
        self._ask(leader, CommandKind.MEMBER_REMOVE, RemoveMember(node.member_id))

    def _ask(self, node: Node, kind: CommandKind, command: MemberCommand) -> None:
        member, life = node.member, node.life
        assert member is not None
        assert life is not None
        self._cluster.trace.note("operator", f"asks {node.name}: {kind.name} {command}"[:150])
        self._busy = True
        answer = Answer(self._answered)
        life.loop.enter(member.replica.submit, kind, encode_member_command(command), answer)
        self._cluster.world.after(3 * NS_PER_S, answer.give_up)

    def _answered(self, problem: str) -> None:
        self._busy = False
        if problem:
            self._cluster.trace.note("operator", f"is told: {problem}"[:150])

    def _find_place(self, leader: Node) -> None:
        """The machine that joins starts as soon as the cluster has a place for it."""
        name, cluster = self._joining, self._cluster
        if name is None or leader.member is None:
            return
        machine = leader.member.machine
        found = next((member for member in machine.cluster.members if member.peer.host == name), None)
        if found is None:
            return
        self._joining = None
        mine = Member(id=found.id, name=name, peers=found.peers)
        empty = ClusterIdentity(cluster_id=0, members=())
        node = cluster.add_machine(name, cluster.config(name, mine, empty))
        membership = Membership(machine.cluster.cluster_id, found.id, tuple(machine.cluster.members))
        node.config = take_place(node.config, membership, disk=node.disk)
        cluster.trace.count("joined")
        cluster.start(node)


class Answer(msgspec.Struct):
    """Waits for the outcome of the operator's request."""

    told: Callable[[str], None]
    done: bool = False

    def reply(self, _body: bytes) -> None:
        """It was done."""
        self._tell("")

    def fail(self, code: StatusCode, message: str) -> None:
        """It was not done, or nobody knows."""
        self._tell(f"{code.name} {message}")

    def give_up(self) -> None:
        """No answer."""
        self._tell("nothing")

    def _tell(self, problem: str) -> None:
        if not self.done:
            self.done = True
            self.told(problem)
