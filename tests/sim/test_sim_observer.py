"""The rules by themselves. That members which break them are found: `test_sim_mutants`."""

from typing import Any

import pytest

from plasmacloud.sim.clock import World
from plasmacloud.sim.observer import Observer
from plasmacloud.sim.trace import Trace
from plasmacloud.sim.violation import Violation


def observer() -> Observer:
    return Observer(Trace(World()))


def test_a_vote_may_be_given_once() -> None:
    watching = observer()
    watching.voted(1, 5, 2)
    watching.voted(1, 5, 2)
    watching.voted(1, 6, 3)
    with pytest.raises(Violation, match="a vote is never forgotten"):
        watching.voted(1, 5, 3)


def test_what_the_simulation_ends_with_names_the_rule() -> None:
    violation: Any = Violation("a rule", "and what broke it")
    assert (violation.rule, str(violation)) == ("a rule", "a rule: and what broke it")


def test_acknowledgements_go_to_the_leader_of_their_term() -> None:
    watching = observer()
    watching.leaders[5] = 2
    watching.acknowledged(1, 5, 10, 2)
    with pytest.raises(Violation, match="only the leader of the term is followed"):
        watching.acknowledged(1, 5, 10, 3)


def test_who_has_lost_its_memory_keeps_silent() -> None:
    watching = observer()
    watching.promised(1, 5)
    watching.took_part(1)
    watching.forgets(1)
    watching.took_part(2)
    with pytest.raises(Violation, match="who has lost its memory keeps silent"):
        watching.took_part(1)
