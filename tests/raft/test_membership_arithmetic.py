"""The arithmetic of configurations: what each transition does, against a dumb oracle, and why it is safe."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raft_cluster import conf

from plasmacloud.raft.membership import (
    BadChange,
    Change,
    ChangeKind,
    ConfState,
    Objection,
    change,
    enter_joint,
    leave_joint,
    simple,
)

KINDS = {"v": ChangeKind.ADD_VOTER, "l": ChangeKind.ADD_LEARNER, "r": ChangeKind.REMOVE}


def wishes(text: str) -> list[Change]:
    """Changes in the notation of the vectors: v1 l2 r3."""
    return [Change(KINDS[word[0]], int(word[1:])) for word in text.split()]


def refused(objection: Objection, transition: object, *arguments: object, **named: object) -> None:
    assert callable(transition)
    with pytest.raises(BadChange) as caught:
        transition(*arguments, **named)
    assert caught.value.objection is objection


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_a_simple_change_touches_one_voter_and_any_number_of_learners() -> None:
    assert simple(conf("12"), wishes("v3 l4 l5")) == conf("123", learners="45")
    assert simple(conf("123", learners="45"), wishes("r4 r5 l3")) == conf("12", learners="3")
    refused(Objection.TOO_MANY, simple, conf("12"), wishes("v3 v4"))
    refused(Objection.TOO_MANY, simple, conf("12"), wishes("r1 v3"))
    refused(Objection.JOINT, simple, conf("12", outgoing="1"), wishes("l3"))


def test_a_learner_is_promoted_and_a_voter_demoted_by_a_simple_change() -> None:
    assert simple(conf("123", learners="4"), wishes("v4")) == conf("1234")
    assert simple(conf("123"), wishes("l3")) == conf("12", learners="3")


def test_the_last_wish_about_a_member_counts_and_member_zero_is_nobody() -> None:
    assert simple(conf("1"), wishes("v2 r2 l2 v0 r0 l0")) == conf("1", learners="2")
    assert simple(conf("12"), wishes("r2 v2")) == conf("12")


def test_a_joint_change_keeps_the_old_voters_until_it_is_left() -> None:
    joint = enter_joint(conf("123"), wishes("r1 l2 v4 v5 l6"), auto_leave=False)
    assert joint == conf("345", outgoing="123", learners="6", learners_next="2")
    assert leave_joint(joint) == conf("345", learners="26")
    refused(Objection.JOINT, enter_joint, joint, wishes("v1"), auto_leave=True)
    refused(Objection.NOT_JOINT, leave_joint, conf("345"))


def test_a_learner_to_be_can_still_stay_a_voter_only_before_the_joint_phase() -> None:
    assert enter_joint(conf("12"), wishes("l1 v1"), auto_leave=True) == ConfState(
        frozenset({1, 2}), frozenset({1, 2}), auto_leave=True
    )


def test_no_way_leads_to_a_group_without_voters() -> None:
    refused(Objection.NO_VOTER, simple, conf("1"), wishes("r1"))
    refused(Objection.NO_VOTER, simple, conf("1"), wishes("l1"))
    refused(Objection.NO_VOTER, enter_joint, conf("12"), wishes("r1 l2"), auto_leave=True)
    refused(Objection.NO_VOTER, change, conf("12"), wishes("r1 r2"))
    refused(Objection.NO_VOTER, change, ConfState(), wishes("l1"))
    refused(Objection.EMPTY, enter_joint, ConfState(), wishes("v1"), auto_leave=True)


def test_change_takes_the_joint_way_only_where_it_must() -> None:
    assert change(conf("123"), wishes("v4 l5")) == conf("1234", learners="5")
    swapped = change(conf("123"), wishes("r1 v4"))
    assert swapped == ConfState(frozenset({2, 3, 4}), frozenset({1, 2, 3}), auto_leave=True)
    assert leave_joint(swapped) == conf("234")
    refused(Objection.JOINT, change, swapped, wishes("v5"))


# -- against an oracle ------------------------------------------------------------------------------------------------

members = st.integers(0, 6)
changes = st.lists(st.builds(Change, st.sampled_from(ChangeKind), members), max_size=8)


@st.composite
def configurations(draw: st.DrawFn) -> ConfState:
    """Any configuration that passes its own check, the empty and the joint ones included."""
    roles = [draw(st.sampled_from(["v", "l", "-", "ov", "on", "o"])) for _ in range(6)]
    if not any("v" in role for role in roles):
        return ConfState()
    joint = any("o" in role for role in roles)
    voters = frozenset(id for id, role in enumerate(roles, 1) if "v" in role)
    return ConfState(
        voters,
        frozenset(id for id, role in enumerate(roles, 1) if "o" in role),
        frozenset(id for id, role in enumerate(roles, 1) if role == "l"),
        frozenset(id for id, role in enumerate(roles, 1) if role == "on"),
        joint and draw(st.booleans()),
    )


def dumb(before: ConfState, outgoing: frozenset[int], wanted: list[Change]) -> ConfState | None:
    """Ask for every member alone what the last wish about it was."""
    voters, learners, learners_next = set(), set(), set()
    for member in range(1, 7):
        last = next((wish.kind for wish in reversed(wanted) if wish.member == member), None)
        if last is ChangeKind.ADD_VOTER or (last is None and member in before.voters):
            voters.add(member)
        elif (last is ChangeKind.ADD_LEARNER and member not in outgoing) or (
            last is None and member in before.learners
        ):
            learners.add(member)
        elif last is ChangeKind.ADD_LEARNER:
            learners_next.add(member)
    return ConfState(frozenset(voters), outgoing, frozenset(learners), frozenset(learners_next)) if voters else None


@given(configurations(), changes)
def test_simple_is_what_the_oracle_says(before: ConfState, wanted: list[Change]) -> None:
    expected = None if before.joint else dumb(before, frozenset(), wanted)
    if expected is None or len(expected.voters - before.voters) + len(before.voters - expected.voters) > 1:
        with pytest.raises(BadChange):
            simple(before, wanted)
    else:
        assert simple(before, wanted) == expected


@given(configurations(), changes, st.booleans())
def test_a_joint_change_is_what_the_oracle_says(before: ConfState, wanted: list[Change], auto_leave: bool) -> None:
    expected = None if before.joint or not before.voters else dumb(before, before.voters, wanted)
    if expected is None:
        with pytest.raises(BadChange):
            enter_joint(before, wanted, auto_leave=auto_leave)
        return
    joint = enter_joint(before, wanted, auto_leave=auto_leave)
    joint.check()
    assert joint == ConfState(expected.voters, expected.outgoing, expected.learners, expected.learners_next, auto_leave)
    after = leave_joint(joint)
    after.check()
    assert after == dumb(before, frozenset(), wanted), "the joint way ends where the wishes said"


# -- safety -----------------------------------------------------------------------------------------------------------


def deciding(configuration: ConfState) -> list[frozenset[int]]:
    """Every set of members that may decide, by trying them all."""
    everybody = sorted(configuration.all_members())
    sets = (frozenset(some) for count in range(len(everybody) + 1) for some in combinations(everybody, count))
    return [
        some
        for some in sets
        if all(2 * len(some & half) > len(half) for half in (configuration.voters, configuration.outgoing) if half)
    ]


def overlap(one: ConfState, other: ConfState) -> bool:
    return all(left & right for left in deciding(one) for right in deciding(other))


@given(st.sampled_from(["1", "12", "123", "1234"]), st.lists(changes, min_size=1, max_size=4))
def test_who_may_decide_before_and_after_a_transition_always_overlaps(start: str, path: list[list[Change]]) -> None:
    now = conf(start)
    for wanted in path:
        try:
            after = change(now, wanted)
        except BadChange:
            continue
        assert overlap(now, after)
        assert overlap(after, after)
        now = after
        if now.joint:
            after = leave_joint(now)
            assert overlap(now, after)
            now = after


def test_the_overlap_would_be_missing_without_the_joint_phase() -> None:
    """The check above can fail: this is the transition that `simple` refuses."""
    assert not overlap(conf("12"), conf("34"))
    assert not overlap(conf("123"), conf("345"))
