"""The elector against a model, under arbitrary delays, standstills and clock rates.

Two machines. In one, clocks keep to the bounds that the timers state: nobody leads beside anybody else, at any moment,
but for whoever has not heard yet that the server ended its session before its time. In the other they do not: then two
may believe that they lead, but only writes of the newest epoch are accepted, and each epoch belongs to one node.
"""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from lock_world import Node, World

from plasmacloud.election.elector import Signal, State
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.timers import Timers

NODES = st.integers(0, 2)
TIMERS = st.sampled_from(
    [
        Timers(),
        Timers(campaign=0.2),
        Timers(keepalive=0.1, demote_after=0.3, session_timeout=0.4, lock_timeout=0.1),
    ]
)


class Contest(RuleBasedStateMachine):
    """Three candidates and everything that can happen to them."""

    lowest_rate, highest_rate = (
        0.95,
        1.05,
    )  # 1.05 / 0.95 is less than the least ratio of session_timeout to demote_after

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Timers(), [], 1.0)
        self.pending: list[tuple[int, Epoch]] = []
        self.accepted: list[tuple[Epoch, int]] = []

    @initialize(data=st.data(), timers=TIMERS)
    def begin(self, data: st.DataObject, timers: Timers) -> None:
        rates = st.floats(self.lowest_rate, self.highest_rate)
        self.world = World(timers, [data.draw(rates) for _ in range(3)], data.draw(rates))

    def node(self, number: int) -> Node:
        return self.world.nodes[number]

    @rule(seconds=st.floats(0.001, 2.0))
    def time_passes_and_messages_arrive(self, seconds: float) -> None:
        self.world.advance(seconds, prompt=True)

    @rule(seconds=st.floats(0.001, 2.0))
    def time_passes_and_nothing_arrives(self, seconds: float) -> None:
        self.world.advance(seconds, prompt=False)

    @rule(number=NODES)
    def a_request_arrives(self, number: int) -> None:
        self.world.deliver_to_server(self.node(number))

    @rule(number=NODES)
    def an_answer_arrives(self, number: int) -> None:
        self.world.deliver_to_node(self.node(number))

    @rule(number=NODES)
    def stands_still(self, number: int) -> None:
        self.node(number).frozen = True

    @rule(number=NODES)
    def goes_on(self, number: int) -> None:
        self.node(number).frozen = False

    @rule(number=NODES, hold_off_s=st.floats(0.0, 3.0))
    def resigns(self, number: int, hold_off_s: float) -> None:
        node = self.node(number)
        if not node.frozen and node.elector.state in (State.LEADING, State.CONFIRMING):
            self.world.order(node, Signal.RESIGN, hold_off_s)

    @rule()
    @precondition(lambda self: self.world.holder is not None)
    def the_holders_session_is_terminated(self) -> None:
        assert self.world.holder is not None
        self.world.terminate(self.world.holder)

    @rule(number=NODES)
    def a_write_begins(self, number: int) -> None:
        node = self.node(number)
        if not node.frozen and node.leads(self.world.now):
            assert node.elector.epoch is not None
            self.pending.append((number, node.elector.epoch))

    @rule(at=st.integers(0, 20))
    @precondition(lambda self: self.pending)
    def a_write_arrives(self, at: int) -> None:
        number, epoch = self.pending.pop(at % len(self.pending))
        if epoch == self.world.epoch:
            self.accepted.append((epoch, number))

    @invariant()
    def at_most_one_leads(self) -> None:
        assert len(self.world.leaders_by_their_timers()) <= 1

    @invariant()
    def at_most_one_passes_the_fence(self) -> None:
        passing = [node for node in self.world.leaders() if node.elector.epoch == self.world.epoch]
        assert len(passing) <= 1
        owners = dict(self.world.raised)
        assert len(owners) == len(self.world.raised), "an epoch was given twice"
        assert [epoch.number for epoch, _ in self.world.raised] == list(range(1, len(owners) + 1)), "a gap"
        assert all(owners[epoch] == number for epoch, number in self.accepted)
        assert self.accepted == sorted(self.accepted, key=lambda write: write[0]), "a stale write was accepted"

    def teardown(self) -> None:
        if self.world.nodes:
            self.world.heal()
            assert len(self.world.leaders()) == 1, "nobody leads although everything works"


class ContestOfBadClocks(Contest):
    """As above with clocks beyond every bound: only the fence is left."""

    lowest_rate, highest_rate = 0.5, 2.0

    @invariant()
    def at_most_one_leads(self) -> None:
        """Not promised here."""


@pytest.mark.parametrize("machine", [Contest, ContestOfBadClocks])
def test_contest(machine: type[Contest]) -> None:
    bounds = settings(
        max_examples=100,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    run_state_machine_as_test(machine, settings=bounds)


def test_a_session_that_the_server_ends_early_leaves_only_the_fence() -> None:
    """A leader that cannot hear that its lock was taken away knows it only `demote_after` later."""
    world = World(Timers(), [1.0, 1.0], 1.0)
    world.advance(1.0, prompt=True)
    (old,) = world.leaders()
    old.frozen = True
    assert world.holder is not None
    world.terminate(world.holder)
    world.advance(0.1, prompt=True)
    believers = world.leaders()
    assert len(believers) == 2
    assert [node for node in believers if node.elector.epoch == world.epoch] != [old]
    world.advance(Timers().demote_after, prompt=True)
    assert old not in world.leaders()
    assert len(world.leaders()) == 1
