"""A group whose members come and go under a random schedule.

On top of what `raft_simulation` does to it: learners are added (some start later, some never, some die half-way for
good), promoted whether or not they have caught up, demoted and removed; several members are swapped at once by a joint
change; leaders remove themselves. A removed member goes on undisturbed until one that has applied its removal tells it
so; then it is gone for ever. So everybody needs to be able to do without it from that moment on.

What a membership entry does is decided where it is applied: a change that the configuration of that moment does not
allow changes nothing, the same way everywhere.
"""

import random

from raft_machine import Machine
from raft_simulation import Faults, Simulation

from plasmacloud.raft.errors import NotLeader, ProposalRefused
from plasmacloud.raft.membership import BadChange, Change, ChangeKind, ConfState, change, leave_joint
from plasmacloud.raft.raft import Raft, StateRole
from plasmacloud.storage.entry import Entry, EntryKind

KINDS = {"v": ChangeKind.ADD_VOTER, "l": ChangeKind.ADD_LEARNER, "r": ChangeKind.REMOVE}
LEAVE = b"leave"
MAX_MEMBERS = 6
MAX_MACHINES = 14


def evolve(conf: ConfState, data: bytes) -> ConfState:
    """What the state machine makes of a membership entry."""
    try:
        if data == LEAVE:
            return leave_joint(conf)
        return change(conf, [Change(KINDS[word[0]], int(word[1:])) for word in data.decode().split()])
    except BadChange:
        return conf


class Churn(Simulation):
    """A simulation that changes the membership with probability ``churn`` per step."""

    def __init__(self, seed: int, founders: int, faults: Faults | None = None, churn: float | None = None) -> None:
        self.founders = ConfState(voters=frozenset(range(1, founders + 1)))
        super().__init__(seed, self.founders, faults)
        self.churn = churn if churn is not None else self.rng.choice((0.005, 0.02, 0.05))
        self.lost: set[int] = set()  # learners whose machine is never switched on, or died for good
        self.gone: set[int] = set()  # removed, told so, and switched off
        self.confs: dict[int, ConfState] = {}  # by the index of the entry
        self.changes = self.joint_changes = self.refused = self.self_removals = self.never_started = 0
        self.looks = 0

    # -- the members' fate -----------------------------------------------------------------------------------------

    def startable(self) -> list[Machine]:
        return [machine for machine in super().startable() if machine.id not in self.lost | self.gone]

    def step(self) -> None:
        if self.rng.random() < self.churn:
            dice = self.rng.random()
            if dice < 0.7:
                self.request_change()
            elif dice < 0.8:
                self.lose_a_learner()
            else:
                self.tell_the_removed()
        super().step()

    def lose_a_learner(self) -> None:
        """A learner's machine dies for good: the group has to do without it."""
        learners = [machine for machine in self.machines.values() if self.only_learner(machine.id)]
        if learners and self.rng.random() < 0.3:
            machine = self.rng.choice(learners)
            machine.crash()
            self.lost.add(machine.id)

    def only_learner(self, id: int) -> bool:
        """Whether nobody has ever been told that this member votes."""
        return all(not conf.is_voter(id) for conf in [self.founders, *self.confs.values()]) and not self.promised(id)

    def promised(self, id: int) -> bool:
        """Whether a log contains the wish to make it a voter."""
        word = b"v%d" % id
        return any(
            entry.kind is EntryKind.MEMBERSHIP and word in entry.data.split()
            for machine in self.machines.values()
            for log in (machine.durable, machine.view)
            for entry in log.items
        ) or any(
            word in entry.data.split()
            for machine in self.machines.values()
            if machine.raft is not None
            for entry in machine.raft.log._tail
            if entry.kind is EntryKind.MEMBERSHIP
        )

    def tell_the_removed(self) -> None:
        """Somebody who has applied a removal meets the removed member, which then leaves for good."""
        teller = self.rng.choice(list(self.machines.values()))
        if teller.raft is None or not teller.raft.conf.is_voter(teller.id):
            return
        for machine in list(self.machines.values()):
            once = any(
                machine.id in conf.all_members() for index, conf in self.confs.items() if index <= teller.applied
            )
            known = once or machine.id in self.founders.all_members()
            if known and machine.id not in teller.raft.conf.all_members() and self.rng.random() < 0.5:
                machine.crash()
                self.gone.add(machine.id)
                self.hint_loss_of(machine.id)

    # -- changes ---------------------------------------------------------------------------------------------------

    def request_change(self) -> None:
        leaders = [m for m in self.machines.values() if m.raft is not None and m.raft.role is StateRole.LEADER]
        if not leaders:
            return
        machine = self.rng.choice(leaders)
        assert machine.raft is not None
        conf = machine.raft.conf
        data = LEAVE if conf.joint and self.rng.random() < 0.7 else self.draw_wishes(machine.raft).encode()
        if data:
            self.propose_change(machine, data)

    def propose_change(self, machine: Machine, data: bytes) -> bool:
        raft = machine.raft
        assert raft is not None
        try:
            _, index = raft.propose_membership(data)
        except (NotLeader, ProposalRefused):
            self.refused += 1
            return False
        assert self.memberships_of(machine) == [index], "one membership change at a time"
        own = raft.log.term(machine.applied) == raft.term if machine.applied >= raft.log.first_index - 1 else False
        assert own, "a leader that has applied nothing of its own term changed the membership"
        for word in data.split():
            if word[:1] == b"v":
                self.lost.discard(int(word[1:]))  # who votes has to be able to come back
        self.self_removals += b"r%d" % raft.id in data.split()
        self.watch(machine)
        return True

    def draw_wishes(self, raft: Raft) -> str:
        conf, rng = raft.conf, self.rng
        members, voters, learners = sorted(conf.all_members()), sorted(conf.voters), sorted(conf.learners)
        full = len(members) >= MAX_MEMBERS or len(self.machines) >= MAX_MACHINES
        dice = rng.random()
        if dice < 0.25 and not full:
            return f"l{self.new_machine()}"
        if dice < 0.3 and not full:
            return f"v{self.new_machine()}"
        if dice < 0.5 and learners:
            return f"v{self.best_learner(raft, learners)}"
        if dice < 0.6:
            return f"r{rng.choice(members)}"
        if dice < 0.65:
            return f"l{rng.choice(voters)}"
        if dice < 0.7:
            return f"r{raft.id}"
        words = []
        for _ in range(rng.randrange(2, 5)):
            fresh = len(self.machines) < MAX_MACHINES and not full and rng.random() < 0.4
            member = self.new_machine() if fresh else rng.choice(members)
            words.append(rng.choice("vvlr") + str(member))
        return " ".join(words)

    def best_learner(self, raft: Raft, learners: list[int]) -> int:
        if self.rng.random() < 0.3:
            return self.rng.choice(learners)
        return max(learners, key=lambda member: raft.tracker.progress[member].match)

    def new_machine(self) -> int:
        """Another machine, empty but for the founding configuration; it may start at once, later, or never."""
        id = max(self.machines) + 1
        first = next(iter(self.machines.values()))
        machine = self.machines[id] = Machine(id, self.founders, self.rng, eager_view=first.eager_view)
        dice = self.rng.random()
        if dice < 0.5:
            machine.start()
        elif dice < 0.7:
            self.lost.add(id)
            self.never_started += 1
        return id

    def apply_membership(self, machine: Machine, entry: Entry) -> None:
        assert machine.raft is not None
        assert machine.hard_state.commit >= entry.index, "in force before its commit was durable"
        before, machine.conf = machine.conf, evolve(machine.conf, entry.data)
        if self.confs.setdefault(entry.index, machine.conf) is machine.conf:
            self.changes += before != machine.conf
            self.joint_changes += before != machine.conf and machine.conf.joint
        assert self.confs[entry.index] == machine.conf, "everybody sees the same configurations"
        machine.raft.apply_membership(machine.conf)

    # -- the checks ------------------------------------------------------------------------------------------------

    def memberships_of(self, machine: Machine) -> list[int]:
        """The membership entries in a log that are not applied, found the slow way."""
        raft = machine.raft
        assert raft is not None
        if machine.applied >= raft.last_index:
            return []
        entries = raft.log.entries(machine.applied + 1, raft.last_index + 1, 1 << 30)
        return [entry.index for entry in entries if entry.kind is EntryKind.MEMBERSHIP]

    def watch(self, machine: Machine) -> None:
        raft = machine.raft
        assert raft is not None
        before = machine.last_seen
        super().watch(machine)
        self.looks += 1
        log = raft.log
        if self.looks % 16 == 0:
            assert list(log.memberships) == self.memberships_of(machine)
        assert raft.conf == machine.conf
        assert all(index <= raft.commit for index in list(log.memberships)[:-1]), "only the last may be uncommitted"
        if raft.role is not StateRole.FOLLOWER:
            assert raft.conf.is_voter(raft.id), "only voters stand and lead"
            if raft.role is not StateRole.LEADER and before != (raft.term, raft.role):
                assert all(index > raft.commit for index in log.memberships), "stood with an outdated configuration"

    # -- liveness --------------------------------------------------------------------------------------------------

    def everybody_has(self, index: int) -> bool:
        """Every member of the latest configuration that is not lost has applied the entry, and so the same changes."""
        leader = self.leader()
        if leader is None:
            return False
        return all(self.machines[id].applied >= index for id in leader.conf.all_members() - self.lost)

    def converge(self, ticks: int = 300) -> None:
        """Besides what a group without changes must do: end a joint phase, and change the membership once more."""
        super().converge(ticks)
        for wanted in (self.leave_if_joint, self.remove_the_lost, self.leave_if_joint):
            for _ in range(ticks):
                if wanted():
                    break
                for machine in self.machines.values():
                    if machine.raft is not None:
                        machine.raft.tick()
                self.drain()
            else:
                raise AssertionError(f"seed {self.seed}: the membership cannot be changed any more")
        super().converge(ticks)

    def leave_if_joint(self) -> bool:
        leader = self.leader()
        if leader is None or leader.membership_pending:
            return False
        return not leader.conf.joint or (self.propose_change(self.machines[leader.id], LEAVE) and False)

    def remove_the_lost(self) -> bool:
        """Clean up: remove the learners that will never come, and somebody else if there is none."""
        leader = self.leader()
        if leader is None or leader.membership_pending:
            return False
        useless = sorted(self.lost & leader.conf.all_members())
        if useless:
            self.propose_change(self.machines[leader.id], " ".join(f"r{id}" for id in useless).encode())
        return not useless


def run(seed: int, steps: int, faults: Faults | None = None, churn: float | None = None) -> Churn:
    """One whole run: the bad time, and the recovery."""
    simulation = Churn(seed, random.Random(seed).choice((1, 2, 3, 3, 4)), faults, churn)
    simulation.run(steps)
    simulation.converge()
    return simulation
