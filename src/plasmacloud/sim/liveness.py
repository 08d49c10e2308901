"""Behind the faults: a healed majority must work, and then everybody must agree.

All bounds are of virtual time, generous, and multiples of what is drawn: a cluster that needs longer hangs.
"""

from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.status import StatusCode
from plasmacloud.sim.clock import NS_PER_S
from plasmacloud.sim.cluster import Cluster
from plasmacloud.sim.node import Life, Node
from plasmacloud.sim.violation import Violation
from plasmacloud.sim.workload import Workload

_SLICE_S = 0.25
_PATIENCE_S = 40.0
_CALM_S = 1.0
_CALM_TIMEOUTS = 8.0
_PATIENCE_TIMEOUTS = 60.0  # election timeouts on top


class Probe:
    """A write and a read that one member has to answer."""

    def __init__(self) -> None:
        self.done = False
        self.failed = False

    def reply(self, _body: bytes) -> None:
        """The write was executed."""
        self.done = True

    def run(self) -> None:
        """The read may be answered."""
        self.done = True

    def fail(self, _code: StatusCode, _message: str) -> None:
        """It was not, or nobody knows."""
        self.failed = True


class Probes:
    """Everybody who is asked answers: those who do not lead, too."""

    def __init__(self) -> None:
        self._asked: dict[str, tuple[Life, Probe, Probe]] = {}

    def answered(self, nodes: list[Node]) -> bool:
        """Whether all of them have. Asks those who were not asked, or failed to answer, or died since."""
        return all([self._answered(node) for node in nodes])  # noqa: C419 - all are asked

    def _answered(self, node: Node) -> bool:
        member, life = node.member, node.life
        if member is None or life is None:
            return False
        known = self._asked.get(node.name)
        if known is None or known[0] is not life or known[1].failed or known[2].failed:
            write, read = Probe(), Probe()
            self._asked[node.name] = (life, write, read)
            body = rpc_pb2.PutRequest(key=b"probe", value=node.name.encode()).SerializeToString()
            life.loop.enter(member.replica.submit, CommandKind.PUT, body, write)
            life.loop.enter(member.replica.read, read)
            return False
        return known[1].done and known[2].done


class Recovery:
    """The second half of a run."""

    def __init__(self, cluster: Cluster, workload: Workload) -> None:
        self._cluster = cluster
        self._workload = workload
        self._candidates: list[Node] = []
        self._patience_s = _PATIENCE_S + _PATIENCE_TIMEOUTS * cluster.options.election_timeout_s

    def run(self) -> None:
        """Demand progress of a majority, then of all."""
        cluster = self._cluster
        cluster.operator.active = False
        cluster.operator.forget_wishes()
        self._candidates = [node for node in cluster.intact() if not node.damaged]
        cluster.rng.shuffle(self._candidates)
        core: list[Node] = []
        self._extend(core)
        self._break_rest(core)
        self._heal(core)
        cluster.trace.note("", f"faults stop; healed: {' '.join(node.name for node in core)}")
        self._demand(core, "a healed majority makes progress")
        if cluster.violation is not None:
            return
        cluster.operator.active = True
        cluster.held_down.clear()
        self._heal(cluster.intact())
        cluster.trace.note("", "everybody is healed")
        self._demand(None, "everybody catches up")
        self._workload.stop()
        if cluster.violation is None:
            self._settle()

    def _extend(self, core: list[Node]) -> list[Node]:
        """Take in intact voters, as few as make the core a majority of every electorate. Returns the new ones.

        A change of the membership that was under way may come into force behind the choice: then it takes others.
        """
        cluster = self._cluster
        added: list[Node] = []
        for voters in cluster.observer.electorates():
            for node in self._candidates:
                chosen = [member for member in core if member.member_id in voters]
                if 2 * len(chosen) > len(voters):
                    break
                if node.member_id in voters and node not in core and node in cluster.intact():
                    core.append(node)
                    added.append(node)
        return added

    def _break_rest(self, core: list[Node]) -> None:
        cluster = self._cluster
        names = {node.name for node in core}
        for node in list(cluster.nodes.values()):
            if node.name not in names:
                cluster.held_down.add(node.name)
                if node.running:
                    cluster.kill(node, power_lost=cluster.rng.random() < 0.5)

    def _heal(self, nodes: list[Node]) -> None:
        cluster = self._cluster
        cluster.network.faulty = False
        cluster.held_down -= {node.name for node in nodes}
        for node in nodes:
            node.disk.on_step = None
            node.disk.capacity_bytes = None
            node.disk.false_install = None
            node.resume()
            cluster.start(node)

    def _demand(self, core: list[Node] | None, rule: str) -> None:
        """Let time pass until everybody who is meant has what was committed now, and answers."""
        cluster = self._cluster
        world = cluster.world
        end_ns = world.now_ns + round(self._patience_s * NS_PER_S)
        goal = None
        answered = self._workload.answered
        probes = Probes()
        while world.now_ns < end_ns and cluster.violation is None:
            world.run(world.now_ns + round(_SLICE_S * NS_PER_S))
            if core is not None:
                self._heal(self._extend(core))
            members = self._members() if core is None else self._members_of(core)
            leader = cluster.leader()
            if goal is None and leader is not None and self._workload.answered > answered + 3:
                goal = cluster.observer.commit
            quiet = core is not None or (cluster.operator.idle and not self._lingering())
            arrived = goal is not None and quiet and all(_has_applied(node, goal) for node in members)
            if arrived and probes.answered(members):
                return
        if cluster.violation is None:
            cluster.fail(
                Violation(
                    rule,
                    f"not within {self._patience_s:.0f} s: goal {goal}, "
                    f"{self._workload.answered - answered} answers, operator: {cluster.operator.describe()}, "
                    f"removed and still there: {' '.join(node.name for node in self._lingering()) or 'nobody'}; "
                    + "; ".join(_describe(node) for node in core or self._members()),
                )
            )

    def _members(self) -> list[Node]:
        """Everybody who belongs to the cluster and whose data was not lost."""
        return self._members_of(self._cluster.intact())

    def _members_of(self, nodes: list[Node]) -> list[Node]:
        observer = self._cluster.observer
        return [node for node in nodes if observer.belongs(node.member_id)]

    def _lingering(self) -> list[Node]:
        """Who was removed from the cluster and does not know it: it is told so, and ends."""
        cluster = self._cluster
        return [node for node in cluster.intact() if cluster.observer.has_left(node.member_id)]

    def _settle(self) -> None:
        """Without clients everybody must end with the same state."""
        cluster = self._cluster
        world = cluster.world
        end_ns = world.now_ns + round(self._patience_s * NS_PER_S)
        while world.now_ns < end_ns and cluster.violation is None:
            world.run(world.now_ns + NS_PER_S)
            nodes = [node for node in self._members() if node.member is not None]
            applied = {node.member.machine.applied_index for node in nodes if node.member is not None}
            whole = all(node.member is not None and node.member.machine.is_whole for node in nodes)
            if len(applied) == 1 and whole:
                for node in nodes:
                    assert node.member is not None
                    try:
                        cluster.observer.compare_states(node.member)
                    except Violation as violation:
                        cluster.fail(violation)
                self._keep_calm()
                return
        if cluster.violation is None:
            described = "; ".join(_describe(node) for node in self._members())
            cluster.fail(Violation("everybody catches up", f"without clients: {described}"))

    def _keep_calm(self) -> None:
        """Nobody wants to lead while somebody does, and nothing is wrong."""
        cluster = self._cluster
        observer, world = cluster.observer, cluster.world
        world.run(world.now_ns + round(_CALM_S * NS_PER_S))  # who was removed a moment ago is about to learn it
        before, conf = observer.candidacies, observer.latest_conf
        world.run(world.now_ns + round((_CALM_S + _CALM_TIMEOUTS * cluster.options.election_timeout_s) * NS_PER_S))
        if observer.candidacies != before and observer.latest_conf == conf and cluster.violation is None:
            described = "; ".join(_describe(node) for node in self._members())
            cluster.fail(Violation("a calm cluster keeps its leader", f"somebody wanted to lead: {described}"))


def _has_applied(node: Node, index: int) -> bool:
    return node.member is not None and node.member.machine.applied_index >= index


def _describe(node: Node) -> str:
    if node.member is None:
        return f"{node.name} does not run ({node.exit})"
    raft = node.member.raft
    return (
        f"{node.name} is {raft.role.value} of term {raft.term}, applied {node.member.machine.applied_index}, "
        f"commit {raft.commit}, last {raft.last_index}"
    )
