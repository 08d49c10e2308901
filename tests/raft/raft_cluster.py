"""Several replicas in one process: a stable log in a list, and a network that delivers when told to."""

import random
from collections.abc import Callable, Iterable

from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.raft import Config, Raft, Ready, StateRole
from plasmacloud.storage.entry import Entry, EntryKind, HardState
from plasmacloud.storage.entry_codec import make_entry


class ListLog:
    """A stable log in memory: durable as soon as written. ``start`` is the index covered by a snapshot."""

    def __init__(self, entries: Iterable[Entry] = (), *, start: int = 0, start_term: int = 0) -> None:
        self.start = start
        self.start_term = start_term
        self.items: list[Entry] = list(entries)

    def first_index(self) -> int:
        return self.start + 1

    def last_index(self) -> int:
        return self.start + len(self.items)

    def term(self, index: int) -> int:
        assert self.start <= index <= self.last_index()
        return self.start_term if index == self.start else self.items[index - self.start - 1].term

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        assert self.start < lo < hi <= self.last_index() + 1
        result: list[Entry] = []
        for entry in self.items[lo - self.start - 1 : hi - self.start - 1]:
            max_bytes -= entry.size_bytes
            if max_bytes < 0 and result:
                break
            result.append(entry)
        return result

    def write(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            assert self.start < entry.index <= self.last_index() + 1
            del self.items[entry.index - self.start - 1 :]
            self.items.append(entry)

    def compact(self, index: int) -> None:
        term = self.term(index)
        del self.items[: index - self.start]
        self.start, self.start_term = index, term

    def reset(self, index: int, term: int) -> None:
        self.items, self.start, self.start_term = [], index, term


def log_of(*terms: int) -> list[Entry]:
    """Entries 1, 2, ... with the given terms."""
    return [make_entry(term, at, EntryKind.COMMANDS, b"%d.%d" % (term, at)) for at, term in enumerate(terms, 1)]


class Node:
    """A replica with its disk, written through at once."""

    def __init__(
        self,
        id: int,
        conf: ConfState,
        *,
        entries: Iterable[Entry] = (),
        hard_state: HardState | None = None,
        seed: int = 0,
        **settings: int | bool,
    ) -> None:
        self.id = id
        self.conf = conf
        self.disk = ListLog(entries)
        if hard_state is None:
            hard_state = HardState(term=self.disk.term(self.disk.last_index()))
        self.hard_state = hard_state
        self.settings = settings
        self.applied: list[Entry] = []
        self.reads: list[tuple[int, int]] = []
        self.held = False  # the disk has stalled: Readys are taken and not written
        self.writing: list[Ready] = []
        self.seed = seed
        self.raft = self._start()

    def _start(self) -> Raft:
        config = Config(id=self.id, **self.settings)  # type: ignore[arg-type]
        applied = len(self.applied)
        return Raft(config, self.disk, self.hard_state, self.conf, applied, random.Random(self.seed * 1000 + self.id))

    def restart(self) -> None:
        """Crash and start again: what was not written is lost."""
        self.writing.clear()
        self.held = False
        self.raft = self._start()

    def store(self, rd: Ready) -> None:
        if rd.hard_state is not None:
            self.hard_state = rd.hard_state
        if rd.snapshot is not None:
            self.disk.reset(rd.snapshot.index, rd.snapshot.term)
        self.disk.write(rd.entries)

    def take(self) -> list[Message]:
        """Do what the Readys ask until there is nothing left; returns the messages that leave."""
        sent: list[Message] = []
        while self.raft.has_ready():
            rd = self.raft.ready()
            sent += rd.messages
            self.writing.append(rd)
            if not self.held:
                sent += self.sync()
            self.applied += rd.committed
            if rd.committed:
                self.raft.applied_to(rd.committed[-1].index)
            self.reads += rd.read_states
        return sent

    def sync(self) -> list[Message]:
        """Finish the writes under way; returns the messages that waited for them."""
        sent: list[Message] = []
        while self.writing:
            rd = self.writing.pop(0)
            self.store(rd)
            self.raft.advance(rd)
            sent += rd.after_sync
        return sent


class Cluster:
    """Nodes and the messages between them."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = {node.id: node for node in nodes}
        self.cut: set[tuple[int, int]] = set()
        self.lost: Callable[[Message], bool] = lambda message: False
        self.trace: list[Message] = []

    @classmethod
    def of(cls, count: int, **settings: int | bool) -> "Cluster":
        conf = ConfState(voters=frozenset(range(1, count + 1)))
        return cls(Node(id, conf, **settings) for id in range(1, count + 1))

    def __getitem__(self, id: int) -> Raft:
        return self.nodes[id].raft

    def isolate(self, *ids: int) -> None:
        for id in ids:
            for other in self.nodes:
                self.cut |= {(id, other), (other, id)}

    def heal(self) -> None:
        self.cut.clear()
        self.lost = lambda message: False

    def settle(self, rounds: int = 1000) -> None:
        """Deliver until nobody has anything to say."""
        for _ in range(rounds):
            batch = [message for node in self.nodes.values() for message in node.take()]
            if not batch:
                return
            for message in batch:
                self.trace.append(message)
                if (message.sender, message.to) in self.cut or self.lost(message):
                    continue
                if message.to in self.nodes:
                    self.nodes[message.to].raft.step(message)
        raise AssertionError("the cluster does not come to rest")

    def tick(self, count: int = 1, *ids: int) -> None:
        """Let time pass for all nodes (or the given ones), delivering after each tick."""
        for _ in range(count):
            for id in ids or tuple(self.nodes):
                self[id].tick()
            self.settle()

    def elect(self, id: int) -> Raft:
        self[id].campaign()
        self.settle()
        assert self[id].role is StateRole.LEADER
        return self[id]

    def leader(self) -> Raft:
        leaders = [node.raft for node in self.nodes.values() if node.raft.role is StateRole.LEADER]
        return max(leaders, key=lambda raft: raft.term)

    def sent(self, kind: MessageType) -> list[Message]:
        return [message for message in self.trace if message.type is kind]


THREE = ConfState(voters=frozenset({1, 2, 3}))


def conf(voters: str, *, outgoing: str = "", learners: str = "", learners_next: str = "") -> ConfState:
    """A configuration of members with ids of one digit."""
    return ConfState(*(frozenset(map(int, some)) for some in (voters, outgoing, learners, learners_next)))


def alone(id: int = 1, *, conf: ConfState = THREE, **arguments: object) -> Node:
    return Node(id, conf, **arguments)  # type: ignore[arg-type]


def answers(node: Node, message: Message) -> list[Message]:
    node.raft.step(message)
    return node.take()


def lead_with(conf: ConfState = THREE, **arguments: object) -> Node:
    """Replica 1, elected by everybody, its first messages taken."""
    node = alone(conf=conf, pre_vote=False, **arguments)
    node.raft.campaign()
    node.take()
    for voter in sorted(conf.all_voters() - {1}):
        node.raft.step(Message(MessageType.VOTE_RESPONSE, 1, voter, node.raft.term))
    assert node.raft.role is StateRole.LEADER
    return node


class Member(Node):
    """A replica whose state machine takes a membership entry's data for the configuration."""

    slow = False  # committed entries are handed out, and stay unapplied

    def take(self) -> list[Message]:
        sent: list[Message] = []
        while self.raft.has_ready():
            rd = self.raft.ready()
            sent += rd.messages
            self.writing.append(rd)
            if not self.held:
                sent += self.sync()
            self.applied += rd.committed
            if not self.slow:
                self.catch_up()
        return sent

    def catch_up(self) -> None:
        for entry in self.applied[self.raft.applied :]:
            if entry.kind is EntryKind.MEMBERSHIP:
                self.conf = ConfState.decode(entry.data)
                self.raft.apply_membership(self.conf)
            self.raft.applied_to(entry.index)


def group(initial: ConfState, *others: int, **settings: int) -> Cluster:
    """Members of a configuration, and others that have just been started, empty."""
    return Cluster(Member(id, initial, **settings) for id in sorted({*initial.all_members(), *others}))


def member(cluster: Cluster, id: int) -> Member:
    """A member of a `group`, with what only those have."""
    node = cluster.nodes[id]
    assert isinstance(node, Member)
    return node


def changed(cluster: Cluster, leader: int, new: ConfState) -> None:
    """Propose a configuration, and let everybody talk."""
    cluster[leader].propose_membership(new.encode())
    cluster.settle()
