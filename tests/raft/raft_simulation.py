"""A whole group under a random schedule: an unreliable network, disks that write late, processes that die.

Everything is drawn from one seed, so a run can be repeated. The network drops, duplicates, delays and reorders. A disk
takes a Ready's writes at once and makes them durable later, in order; a crash loses any suffix of what is not durable,
and what the process had not been told about may still have become durable. Committed entries are applied some time
after they were handed out. Connection-loss hints come true and false.

The checks are those of the Raft paper (figure 3) and of this house's promises; they look at the disks and not only at
what the replicas say.
"""

import random
from typing import NamedTuple

from raft_machine import Machine

from plasmacloud.raft.codec import decode_message, encode_message
from plasmacloud.raft.errors import NoLeader, NotLeader, ProposalRefused
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.quorum import VoteResult, joint_vote
from plasmacloud.raft.raft import Raft, Ready, StateRole
from plasmacloud.storage.entry import Entry, EntryKind

PROMISES = {
    MessageType.APPEND,
    MessageType.APPEND_RESPONSE,
    MessageType.VOTE_RESPONSE,
    MessageType.TIMEOUT_NOW,
    MessageType.READ_INDEX_RESPONSE,
}

ACTIONS = ("deliver", "ready", "write", "apply", "tick", "propose", "read")
ANY_TIME = ("tick", "propose", "read")


class Faults(NamedTuple):
    """Probabilities per step (or per message, for drop and duplicate)."""

    drop: float = 0.02
    duplicate: float = 0.02
    reorder: float = 0.3
    crash: float = 0.003
    hint: float = 0.003
    partition: float = 0.002
    transfer: float = 0.003
    compact: float = 0.002


class Read(NamedTuple):
    """A read under way: what it must at least see."""

    member: int
    at_least: int


class Simulation:
    """The schedule, the network, and the checks."""

    def __init__(self, seed: int, conf: ConfState, faults: Faults | None = None) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.conf = conf
        self.faults = faults or self.draw_faults()
        self.weights = self.draw_weights()
        eager_view = self.rng.random() < 0.5
        members = sorted(conf.all_members())
        self.machines = {id: Machine(id, conf, self.rng, eager_view=eager_view) for id in members}
        self.network: list[Message] = []
        self.cut: set[tuple[int, int]] = set()
        self.encoded = self.rng.random() < 0.25  # messages travel as bytes
        self.faulty = True
        # what the checks remember
        self.leaders: dict[int, int] = {}
        self.votes: dict[tuple[int, int], int] = {}
        self.written: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.committed: dict[int, Entry] = {}
        self.highest_commit = 0
        self.reads: dict[int, Read] = {}
        self.next_context = 0
        self.proposals = 0
        self.answered_reads = 0
        self.elections = 0
        self.snapshots = 0
        for machine in self.machines.values():
            machine.start()

    def draw_faults(self) -> Faults:
        """Every seed has its own kind of bad luck: a rare fault needs runs in which it is frequent."""
        scale = [self.rng.choice((0.0, 0.3, 1.0, 3.0, 10.0)) for _ in Faults._fields]
        return Faults(*(min(0.5, value * factor) for value, factor in zip(Faults(), scale, strict=True)))

    def draw_weights(self) -> list[float]:
        """How often a step is: deliver, take a Ready, finish a write, apply, tick, propose, read."""
        return [self.rng.choice((0.2, 1.0, 1.0, 3.0)) * usual for usual in (40, 30, 20, 20, 5, 3, 2)]

    # -- running ---------------------------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        rng = self.rng
        if self.faulty:
            self.misbehave()
        running = [machine for machine in self.machines.values() if machine.raft is not None]
        stopped = self.startable()
        if stopped and (not running or rng.random() < 0.02):
            rng.choice(stopped).start()
            return
        choices: dict[str, list[Machine]] = {
            "ready": [machine for machine in running if machine.raft is not None and machine.raft.has_ready()],
            "write": [machine for machine in running if machine.writing],
            "apply": [machine for machine in running if machine.to_apply],
        }
        weights = [
            weight if action in ANY_TIME or (self.network if action == "deliver" else choices[action]) else 0.0
            for action, weight in zip(ACTIONS, self.weights, strict=True)
        ]
        (action,) = rng.choices(ACTIONS, weights)
        if action == "deliver":
            self.deliver()
        else:
            self.act(action, rng.choice(choices.get(action, running)))

    def startable(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if machine.raft is None]

    def act(self, action: str, machine: Machine) -> None:
        raft = machine.raft
        assert raft is not None
        if action == "ready":
            self.take_ready(machine)
        elif action == "write":
            self.finish_write(machine)
        elif action == "apply":
            self.apply(machine, self.rng.choice((1, 3, 100)))
        elif action == "tick":
            raft.tick()
        elif action == "propose":
            self.propose(raft)
        else:
            self.read(raft)
        self.watch(machine)

    def misbehave(self) -> None:
        rng, faults = self.rng, self.faults
        dice = rng.random()
        machine = self.machines[rng.choice(tuple(self.machines))]
        raft = machine.raft
        if dice < faults.crash:
            if raft is not None:
                machine.crash()
                self.hint_loss_of(machine.id)
            return
        dice -= faults.crash
        if raft is None:
            return
        if dice < faults.hint:
            raft.peer_lost(raft.leader_id if rng.random() < 0.7 else rng.choice(tuple(self.machines)))
        elif dice < faults.hint + faults.partition:
            self.cut = set()
            if rng.random() < 0.5:
                side = {id for id in self.machines if rng.random() < 0.5}
                both = rng.random() < 0.7
                self.cut = {
                    (a, b)
                    for a in self.machines
                    for b in self.machines
                    if (a in side and b not in side) or (both and b in side and a not in side)
                }
        elif dice < faults.hint + faults.partition + faults.transfer:
            if raft.role is StateRole.LEADER:
                raft.transfer_leader(rng.choice(sorted(raft.conf.voters)))
        elif dice < faults.hint + faults.partition + faults.transfer + faults.compact:
            self.compact(machine)
        self.watch(machine)

    def hint_loss_of(self, lost: int) -> None:
        for machine in self.machines.values():
            if machine.raft is not None and self.rng.random() < 0.7:
                machine.raft.peer_lost(lost)
                self.watch(machine)

    def compact(self, machine: Machine) -> None:
        """Make the applied state durable and drop the log before it."""
        assert machine.raft is not None
        if machine.writing or machine.restoring or machine.applied <= machine.checkpoint:
            return
        machine.checkpoint, machine.checkpoint_conf = machine.applied, machine.conf
        if self.rng.random() < 0.5:
            machine.durable.compact(machine.checkpoint)
            machine.view.compact(machine.checkpoint)

    # -- the network -----------------------------------------------------------------------------------------------

    def send(self, machine: Machine, messages: list[Message]) -> None:
        for message in messages:
            self.check_message(machine, message)
            if self.faulty and self.rng.random() < self.faults.drop:
                if machine.raft is not None and self.rng.random() < 0.5:
                    machine.raft.peer_unreachable(message.to)
                self.note_undelivered(message)
                continue
            self.network.append(message)
            if self.faulty and self.rng.random() < self.faults.duplicate:
                self.network.append(message)

    def deliver(self) -> None:
        at = 0
        if self.faulty and self.rng.random() < self.faults.reorder:
            at = self.rng.randrange(min(len(self.network), 30))
        message = self.network.pop(at)
        machine = self.machines.get(message.to)
        if machine is None or machine.raft is None or (message.sender, message.to) in self.cut:
            self.note_undelivered(message)
            return
        if self.encoded:
            message = decode_message(encode_message(message))
        machine.raft.step(message)
        if message.type is MessageType.SNAPSHOT:
            self.carry_snapshot(machine, message)
        self.watch(machine)

    def note_undelivered(self, message: Message) -> None:
        """The shell that carries a snapshot knows when it failed, and says so."""
        leader = self.machines[message.sender].raft
        if message.type is MessageType.SNAPSHOT and leader is not None:
            leader.report_snapshot(message.to, False)

    def carry_snapshot(self, machine: Machine, message: Message) -> None:
        """Bring the data of an announced snapshot, or fail to, and report to the leader."""
        assert machine.raft is not None
        success = not self.faulty or self.rng.random() < 0.7
        if success:
            conf = ConfState.decode(message.data)
            if machine.raft.restore(message.index, message.log_term, conf):
                machine.to_apply.clear()
                machine.applied, machine.conf, machine.restoring = message.index, conf, message.index
                self.snapshots += 1
        leader = self.machines[message.sender].raft
        if leader is not None:
            leader.report_snapshot(machine.id, success)

    # -- the shell -------------------------------------------------------------------------------------------------

    def take_ready(self, machine: Machine) -> None:
        raft = machine.raft
        assert raft is not None
        if not raft.has_ready():
            return
        rd = raft.ready()
        self.check_entries(machine, rd)
        if machine.eager_view:
            machine.persist(machine.view, rd)
        self.send(machine, rd.messages)
        machine.to_apply += rd.committed
        for context, index in rd.read_states:
            self.check_read(context, index)
        if rd.number:
            machine.writing.append(rd)
        else:
            assert not rd.after_sync
            assert not rd.must_sync

    def finish_write(self, machine: Machine) -> None:
        raft = machine.raft
        assert raft is not None
        if machine.writing:
            rd = machine.writing.popleft()
            machine.make_durable(rd)
            raft.advance(rd)
            self.send(machine, rd.after_sync)

    def apply(self, machine: Machine, count: int = 100) -> None:
        assert machine.raft is not None
        while machine.to_apply and count:
            count -= 1
            entry = machine.to_apply.popleft()
            assert entry.index == machine.applied + 1, "applied in order, without gaps"
            known = self.committed.setdefault(entry.index, entry)
            assert known == entry, "state machine safety"
            assert machine.durable.term(entry.index) == entry.term, "applied before it was durable here"
            machine.applied = entry.index
            if entry.kind is EntryKind.MEMBERSHIP:
                self.apply_membership(machine, entry)
            machine.raft.applied_to(machine.applied)

    def apply_membership(self, machine: Machine, entry: Entry) -> None:
        raise AssertionError("nobody changes the membership here")

    def propose(self, raft: Raft) -> None:
        try:
            term, index = raft.propose(b"%d" % self.proposals)
        except (NotLeader, ProposalRefused):
            return
        assert (index, term) not in self.written
        self.proposals += 1

    def read(self, raft: Raft) -> None:
        try:
            raft.read_index(self.next_context)
        except NoLeader:
            return
        self.reads[self.next_context] = Read(raft.id, self.highest_commit)
        self.next_context += 1

    # -- the checks ------------------------------------------------------------------------------------------------

    def watch(self, machine: Machine) -> None:
        """After every step: what the replica just became, and what it considers committed."""
        raft = machine.raft
        assert raft is not None
        term, _ = machine.last_seen
        if raft.role is StateRole.LEADER:
            holder = self.leaders.setdefault(raft.term, raft.id)
            assert holder == raft.id, f"election safety: two leaders in term {raft.term}"
            if machine.last_seen != (raft.term, StateRole.LEADER):
                self.elections += 1
                vote = (machine.hard_state.term, machine.hard_state.vote)
                assert vote == (raft.term, raft.id), "leads on a vote for itself that is not durable"
                key = (raft.term, raft.id)
                assert self.votes.setdefault(key, raft.id) == raft.id, "two votes in one term"
                self.check_election(raft)
                self.check_completeness(raft)
            for member, progress in raft.tracker.progress.items():
                assert 0 <= progress.match < progress.next, member
        machine.last_seen = (raft.term, raft.role)
        log = raft.log
        assert log.applied <= log.commit <= log.last_index
        assert log.durable <= log.last_index
        assert raft.term >= machine.hard_state.term
        del term
        if raft.commit > self.highest_commit:
            self.check_commit(raft)
            self.highest_commit = raft.commit

    def check_election(self, leader: Raft) -> None:
        """The votes that were really given are a majority of the leader's configuration, or of both."""
        given = {id: self.votes.get((leader.term, id)) == leader.id or id == leader.id for id in self.machines}
        assert joint_vote(leader.conf.voters, leader.conf.outgoing, given) is VoteResult.WON, "elected by too few"

    def check_completeness(self, leader: Raft) -> None:
        """Leader completeness: every committed entry is in the log of every later leader."""
        for index in range(self.highest_commit, max(leader.log.first_index - 1, self.highest_commit - 50), -1):
            entry = self.committed.get(index)
            if entry is not None and entry.term < leader.term:
                assert leader.log.matches(index, entry.term), f"leader completeness: entry {index}"

    def check_commit(self, raft: Raft) -> None:
        """The first to consider an entry committed: a quorum of disks must hold it, now and for ever."""
        term = raft.log.term(raft.commit)
        holding = {}
        for id, machine in self.machines.items():
            disk = machine.durable
            covered = raft.commit <= disk.last_index() and (raft.commit < disk.start or disk.term(raft.commit) == term)
            holding[id] = covered
        result = joint_vote(raft.conf.voters, raft.conf.outgoing, holding)
        assert result is VoteResult.WON, f"entry {raft.commit} is committed, but only {holding} hold it durably"

    def check_message(self, machine: Machine, message: Message) -> None:
        """What leaves must be backed by the disk."""
        if message.type in PROMISES:
            assert machine.hard_state.term >= message.term, f"{message} leaves before its term is durable"
        if message.type is MessageType.VOTE_RESPONSE and not message.reject:
            key = (message.term, message.sender)
            assert self.votes.setdefault(key, message.to) == message.to, "two votes in one term"
        if message.type is MessageType.VOTE:
            # A request promises nothing, but votes for the log that it tells of must find it again after a crash.
            assert machine.durable.last_index() >= message.index, "stands with a log that is not durable"
            assert machine.durable.term(message.index) == message.log_term, "stands with a log that is not durable"
        if (
            message.type is MessageType.APPEND_RESPONSE
            and not message.reject
            and machine.hard_state.term == message.term
        ):
            assert machine.durable.last_index() >= message.index, "acknowledged before it was durable"

    def check_entries(self, machine: Machine, rd: Ready) -> None:
        """Log matching: an index and a term name one entry with one history."""
        raft = machine.raft
        assert raft is not None
        for entry in rd.entries:
            if entry.index > raft.log.last_index:
                continue
            before = raft.log.term(entry.index - 1)
            known = self.written.setdefault((entry.index, entry.term), (entry.data, before))
            assert known == (entry.data, before), "log matching"

    def check_read(self, context: int, index: int) -> None:
        read = self.reads.get(context)
        assert read is not None, "an answer to a question that nobody asked"
        assert index >= read.at_least, f"stale read: {index}, but {read.at_least} was committed before it began"
        self.answered_reads += 1

    # -- liveness --------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Faults stop; everybody is up."""
        self.faulty = False
        self.cut = set()
        for machine in self.startable():
            machine.start()

    def converge(self, ticks: int = 200) -> None:
        """From now on the group must elect a leader, commit a new entry, answer a read, and agree, in bounded time."""
        self.heal()
        marker = context = None
        for _ in range(ticks):
            for machine in self.machines.values():
                if machine.raft is not None:
                    machine.raft.tick()
            self.drain()
            leader = self.leader()
            if leader is not None and (marker is None or leader.term != marker[0]):
                try:
                    marker = leader.propose(b"marker")
                except ProposalRefused:
                    continue
                context = self.next_context
                self.read(leader)
            self.drain()
            if marker is not None and self.everybody_has(marker[1]):
                assert self.committed[marker[1]].term == marker[0]
                assert context is not None
                return
        raise AssertionError(f"seed {self.seed}: no progress in {ticks} ticks after all faults stopped")

    def everybody_has(self, index: int) -> bool:
        return all(machine.applied >= index for machine in self.machines.values())

    def leader(self) -> Raft | None:
        leaders = [m.raft for m in self.machines.values() if m.raft and m.raft.role is StateRole.LEADER]
        return max(leaders, key=lambda raft: raft.term, default=None)

    def drain(self) -> None:
        """Deliver and write until everything is quiet."""
        for _ in range(100_000):
            busy = False
            while self.network:
                self.deliver()
                busy = True
            for machine in self.machines.values():
                if machine.raft is not None and (machine.raft.has_ready() or machine.writing or machine.to_apply):
                    for step in (self.take_ready, self.finish_write, self.apply):
                        step(machine)
                        self.watch(machine)
                    busy = True
            if not busy:
                return
        raise AssertionError("the group never comes to rest")
