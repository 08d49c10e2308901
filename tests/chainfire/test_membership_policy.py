"""When the leader promotes, removes and reports members on its own, and when it lets them be."""

from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plasmacloud.chainfire.cluster_state import NOT_ENOUGH_STARTED
from plasmacloud.chainfire.member_commands import (
    CommandKind,
    PromoteMember,
    RemoveMember,
    decode_member_command,
    encode_member_command,
)
from plasmacloud.chainfire.membership_policy import (
    DeadPolicy,
    Decision,
    MembershipPolicy,
    PolicyConfig,
    Promote,
    RemoveDead,
    RemoveStaleLearner,
    ReportBack,
    ReportDead,
)
from plasmacloud.chainfire.membership_view import (
    LEARNER_NOT_READY,
    UNHEALTHY,
    MemberRole,
    MembershipView,
    MemberView,
    admit,
    refuse,
)
from plasmacloud.chainfire.mvcc.refusals import RpcRefusal

LEADER = 1
LAST = 10_000
STEP_S = 0.1


def leader() -> MemberView:
    return MemberView(
        id=LEADER,
        name="n1",
        role=MemberRole.VOTER,
        started=True,
        state="leader",
        match=LAST,
        last_contact_s=0.0,
        active=True,
    )


def voter(member_id: int, *, silent_s: float = 0.0, started: bool = True) -> MemberView:
    return MemberView(
        id=member_id,
        name=f"n{member_id}",
        role=MemberRole.VOTER,
        started=started,
        state="replicate",
        match=LAST,
        last_contact_s=silent_s,
        active=silent_s < 1.0,
    )


def learner(member_id: int = 9, **fields: Any) -> MemberView:
    """One that has caught up, unless ``fields`` say otherwise."""
    base = voter(member_id)
    return msgspec.structs.replace(base, **{"role": MemberRole.LEARNER, "promote": True, "started": False, **fields})


def never_came(member_id: int = 9, **fields: Any) -> MemberView:
    return learner(member_id, **{"state": "probe", "match": 0, "last_contact_s": None, "active": False, **fields})


def view(*others: MemberView, **fields: Any) -> MembershipView:
    members = tuple(sorted((leader(), *others), key=lambda member: member.id))
    base = MembershipView(own_id=LEADER, leader_id=LEADER, term=3, last_index=LAST, commit=LAST, members=members)
    return msgspec.structs.replace(base, **fields)


class Watch:
    """The policy with a clock that is asked ten times a second."""

    def __init__(self, **config: Any) -> None:
        self.policy = MembershipPolicy(PolicyConfig(**config))
        self.now = 100.0

    def once(self, seen: MembershipView, step_s: float = STEP_S) -> list[Decision]:
        self.now += step_s
        return self.policy.decide(seen, self.now)

    def run(self, seen: MembershipView, seconds: float, step_s: float = STEP_S) -> list[Decision]:
        """All decisions of that time; each change is refused, so that it may come again."""
        decisions: list[Decision] = []
        for _ in range(round(seconds / step_s)):
            decisions += self.once(seen, step_s)
            self.policy.settled()
        return decisions


# -- promotion -----------------------------------------------------------------------------------------------------


def test_a_learner_that_has_caught_up_is_promoted_after_three_rounds() -> None:
    watch = Watch()
    seen = view(learner())
    assert [watch.once(seen) for _ in range(4)] == [[], [], [], [Promote(9)]]
    assert watch.policy.in_flight == Promote(9)


def test_only_one_change_is_under_way() -> None:
    watch = Watch()
    seen = view(learner(8), learner(9))
    decisions = [decision for _ in range(50) for decision in watch.once(seen)]
    assert decisions == [Promote(8)]
    promoted = view(voter(8), learner(9))
    assert watch.once(promoted) == [Promote(9)], "seen to be done: the next one's turn"


def test_a_change_nobody_answers_is_given_up() -> None:
    watch = Watch(change_timeout_s=5.0)
    seen = view(learner())
    decisions = [decision for _ in range(100) for decision in watch.once(seen)]
    assert decisions == [Promote(9)] * 2


def test_a_refused_change_is_not_repeated_at_once() -> None:
    assert Watch(retry_s=5.0).run(view(learner()), 9.0) == [Promote(9)] * 2


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("lags behind", view(learner(match=LAST - 1001))),
        ("lags behind in a short log", view(learner(match=80), last_index=100)),
        ("has nothing, and the log is nearly empty", view(learner(match=0), last_index=5)),
        ("probes", view(learner(state="probe"))),
        ("gets a snapshot", view(learner(state="snapshot", snapshot_percent=99))),
        ("is silent", view(learner(last_contact_s=4.0, active=False))),
        ("was never heard", view(never_came())),
        ("shall stay a learner", view(learner(promote=False))),
        ("waits for another change", view(learner(), change_pending=True)),
        ("waits for the end of a joint change", view(learner(), joint=True)),
        ("would need a quorum that is not there", view(voter(2, silent_s=9.0), voter(3, silent_s=9.0), learner())),
        ("is seen by a follower", view(learner(), own_id=2)),
        ("is seen by nobody's follower", view(learner(), leader_id=0)),
    ],
)
def test_who_is_not_promoted(name: str, seen: MembershipView) -> None:
    assert Watch().run(seen, 20.0) == [], name


def test_promotion_can_be_left_to_the_operator() -> None:
    assert Watch(auto_promote=False).run(view(learner()), 20.0) == []


def test_a_learner_that_is_always_the_same_bit_behind_keeps_up() -> None:
    """Under load the learner is never equal to the leader; what counts is how fast it finishes a round."""
    watch = Watch()
    decisions: list[Decision] = []
    for n in range(20):
        last = LAST + 500 * n
        decisions += watch.once(view(learner(match=last - 400), last_index=last))
    assert Promote(9) in decisions


def test_a_learner_that_needs_long_rounds_is_not_promoted_however_small_its_lag() -> None:
    watch = Watch()
    for n in range(200):
        last = LAST + 100 * n  # 100 entries per check, and the learner is 900 behind: 0.9 s for a round
        assert watch.once(view(learner(match=last - 900), last_index=last)) == []


def test_rounds_must_follow_each_other() -> None:
    watch = Watch()
    good, bad = view(learner()), view(learner(last_contact_s=2.0, active=False))
    for _ in range(20):
        assert [watch.once(good), watch.once(good), watch.once(bad)] == [[], [], []]


def test_a_new_term_begins_from_nothing() -> None:
    watch = Watch()
    for term in range(3, 20):
        assert [watch.once(view(learner(), term=term)) for _ in range(3)] == [[]] * 3


def test_the_member_it_replaces_does_not_count() -> None:
    dead = voter(2, silent_s=100.0)
    assert Watch().run(view(dead, voter(3), learner(replaces=2)), 1.0) == [Promote(9)]


# -- removal -------------------------------------------------------------------------------------------------------


def test_a_learner_that_never_came_is_removed_after_the_deadline() -> None:
    watch = Watch(learner_deadline_s=600.0)
    seen = view(voter(2), never_came())
    assert watch.run(seen, 599.0) == []
    (decision,) = watch.run(seen, 2.0)
    assert decision == RemoveStaleLearner(9, "it has not received anything for 10m00s since it was added")


def test_so_is_one_that_was_meant_to_stay_a_learner() -> None:
    assert Watch(learner_deadline_s=60.0).run(view(never_came(promote=False)), 62.0) != []


@pytest.mark.parametrize(
    "moving", [{"match": 1}, {"match": 0, "state": "snapshot", "snapshot_percent": 1}, {"started": True}]
)
def test_who_has_received_anything_gets_more_time(moving: dict[str, Any]) -> None:
    watch = Watch(learner_deadline_s=60.0, learner_stall_s=1800.0)
    seen = view(never_came(**moving))
    changes = [decision for decision in watch.run(seen, 1700.0) if not isinstance(decision, ReportDead)]
    assert changes == []
    (decision,) = watch.run(seen, 101.0)
    assert isinstance(decision, RemoveStaleLearner)
    assert "no progress" in decision.why


def test_progress_however_slow_keeps_a_learner() -> None:
    watch = Watch(learner_deadline_s=60.0, learner_stall_s=60.0)
    for percent in range(100):
        assert watch.run(view(learner(state="snapshot", match=0, snapshot_percent=percent)), 50.0, 1.0) == []


def test_a_member_that_shall_stay_a_learner_is_not_removed_for_a_long_pause() -> None:
    away = learner(promote=False, started=True, match=LAST - 5000, last_contact_s=1e6, active=False)
    decisions = Watch(learner_stall_s=60.0).run(view(away), 4000.0, 1.0)
    assert decisions == [ReportDead(9, pytest.approx(300.0, abs=2.0))]


def test_a_dead_member_is_reported_once_and_its_return_too() -> None:
    watch = Watch(dead_after_s=300.0)
    dead = view(voter(2), voter(3, silent_s=1e6))
    assert watch.run(dead, 299.0) == []
    assert watch.run(dead, 1000.0) == [ReportDead(3, pytest.approx(300.0, abs=1.0))]
    assert watch.run(view(voter(2), voter(3)), 5.0) == [ReportBack(3)]
    assert len(watch.run(dead, 1000.0)) == 1


def test_a_short_silence_is_nothing() -> None:
    watch = Watch(dead_after_s=300.0)
    assert watch.run(view(voter(2), voter(3, silent_s=299.0)), 1000.0) == []


def test_a_dead_member_is_removed_where_the_operator_wants_it() -> None:
    decisions = Watch(dead_policy=DeadPolicy.REMOVE).run(view(voter(2), voter(3, silent_s=1e6)), 301.0)
    assert [type(decision) for decision in decisions] == [ReportDead, RemoveDead]


def test_but_never_without_a_quorum_of_the_others() -> None:
    watch = Watch(dead_policy=DeadPolicy.REMOVE)
    decisions = watch.run(view(voter(2), *(voter(n, silent_s=1e6) for n in (3, 4, 5))), 1000.0, 1.0)
    assert [type(decision) for decision in decisions] == [ReportDead] * 3, "2 of 4 would be left"
    assert Watch(dead_policy=DeadPolicy.REMOVE).run(view(voter(2, silent_s=1e6)), 1000.0, 1.0)[1:] == [
        RemoveDead(2, pytest.approx(300.0 + 5.0 * n, abs=2.0)) for n in range(140)
    ], "the leader alone is a quorum of itself"


def test_time_in_which_nobody_asked_is_no_evidence() -> None:
    watch = Watch(dead_policy=DeadPolicy.REMOVE, learner_deadline_s=60.0)
    seen = view(voter(2), voter(3, silent_s=1e6), never_came())
    watch.once(seen)
    for _ in range(20):
        assert watch.once(seen, step_s=3600.0) == []
    assert watch.once(seen, step_s=-5.0) == []


# -- what operators see --------------------------------------------------------------------------------------------


def test_progress_tells_how_far_how_fast_and_how_long() -> None:
    watch = Watch()
    for n in range(100):
        seen = view(learner(match=50 * n), entry_bytes=200.0)
        watch.once(seen)
    (progress,) = watch.policy.progress(seen).values()
    assert progress.percent == 49
    assert progress.lag_entries == LAST - 50 * 99
    assert progress.lag_bytes == progress.lag_entries * 200
    assert progress.rate == pytest.approx(500.0, rel=0.01)
    assert progress.eta_s == pytest.approx(progress.lag_entries / 500.0, rel=0.01)
    assert progress.rounds_done == 0


def test_progress_of_one_that_never_came_tells_when_it_goes() -> None:
    watch = Watch(learner_deadline_s=600.0)
    seen = view(never_came())
    watch.run(seen, 100.0)
    (progress,) = watch.policy.progress(seen).values()
    assert progress.percent == 0
    assert progress.eta_s is None
    assert progress.expires_in_s == pytest.approx(500.0, abs=1.0)


# -- the leader's checks -------------------------------------------------------------------------------------------


def promotion(member_id: int) -> tuple[int, bytes]:
    return CommandKind.MEMBER_PROMOTE, encode_member_command(PromoteMember(member_id))


def removal(member_id: int) -> tuple[int, bytes]:
    return CommandKind.MEMBER_REMOVE, encode_member_command(RemoveMember(member_id))


@pytest.mark.parametrize(
    ("command", "seen", "expected"),
    [
        (promotion(9), view(learner()), None),
        (promotion(9), view(learner(match=LAST // 2)), LEARNER_NOT_READY()),
        (promotion(9), view(never_came()), LEARNER_NOT_READY()),
        (promotion(9), view(learner(active=False)), LEARNER_NOT_READY()),
        (promotion(77), view(learner()), None),  # the state machine knows better words
        (promotion(2), view(voter(2)), None),
        (promotion(9), view(voter(2, silent_s=9), voter(3, silent_s=9), voter(4), learner()), None),
        (promotion(9), view(voter(2, silent_s=9), voter(3, silent_s=9), learner()), UNHEALTHY()),
        (removal(77), view(voter(2)), None),
        (removal(9), view(never_came()), None),
        (removal(2), view(voter(2), voter(3)), None),
        (removal(3), view(voter(2), voter(3, silent_s=9)), None),
        (removal(2), view(voter(2), voter(3, silent_s=9)), UNHEALTHY()),
        (removal(2), view(voter(2), voter(3, silent_s=9, started=False)), NOT_ENOUGH_STARTED()),
        (removal(LEADER), view(voter(2), voter(3)), None),
        (removal(LEADER), view(), NOT_ENOUGH_STARTED()),
        ((CommandKind.MEMBER_REMOVE, b"\xc1"), view(), None),
        ((CommandKind.MEMBER_ADD, b""), view(), None),
    ],
)
def test_what_the_leader_refuses(command: tuple[int, bytes], seen: MembershipView, expected: RpcRefusal | None) -> None:
    assert refuse(*command, seen) == expected
    kind, body = admit(*command, seen)
    if expected is None:
        assert (kind, body) == command
    else:
        assert kind == CommandKind.REFUSED
        refused = decode_member_command(kind, body)
        assert (refused.code, refused.message) == (expected.code, expected.message)  # type: ignore[union-attr]


# -- anything at all -----------------------------------------------------------------------------------------------


class Moment(NamedTuple):
    """What may change from one look to the next."""

    step_s: float
    term: int
    leads: bool
    last_index: int
    busy: bool
    members: tuple[tuple[MemberRole, bool, bool, str, int, float | None, int], ...]


members_at_some_moment = st.tuples(
    st.sampled_from(MemberRole),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["probe", "replicate", "replicate", "snapshot"]),
    st.integers(0, 3000),
    st.sampled_from([None, 0.0, 0.0, 0.0, 2.0, 400.0]),
    st.sampled_from([0, 2, 3]),
)
moments = st.builds(
    Moment,
    st.sampled_from([0.0, 0.1, 0.1, 1.0, 1.0, 500.0, -3.0]),
    st.sampled_from([3, 3, 3, 4]),
    st.sampled_from([True, True, True, False]),
    st.integers(3000, 3200),
    st.sampled_from([False, False, True]),
    st.lists(members_at_some_moment, max_size=5).map(tuple),
)


def view_at(moment: Moment) -> MembershipView:
    members = [msgspec.structs.replace(leader(), match=moment.last_index)]
    for at, (role, promote, started, state, match, contact, replaces) in enumerate(moment.members, start=2):
        members.append(
            MemberView(
                id=at,
                name="",
                role=role,
                promote=promote,
                replaces=replaces,
                started=started,
                state=state,
                match=match,
                last_contact_s=contact,
                active=contact == 0.0,
            )
        )
    return view(
        term=moment.term,
        leader_id=LEADER if moment.leads else 2,
        last_index=moment.last_index,
        change_pending=moment.busy,
        members=tuple(members),
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(moments, st.integers(1, 30)), min_size=1, max_size=12), st.data())
def test_no_decision_is_ever_dangerous(script: list[tuple[Moment, int]], data: st.DataObject) -> None:
    policy = MembershipPolicy(PolicyConfig(dead_policy=DeadPolicy.REMOVE, dead_after_s=20.0, learner_deadline_s=30.0))
    now = 0.0
    for moment, times in script:
        seen = view_at(moment)
        for _ in range(times):
            now += moment.step_s
            decisions = policy.decide(seen, now)
            changes = [d for d in decisions if not isinstance(d, ReportDead | ReportBack)]
            assert len(changes) <= 1
            if changes:
                check(seen, changes[0])
                assert policy.in_flight == changes[0]
            if data.draw(st.booleans()):
                policy.settled()


def check(seen: MembershipView, change: Any) -> None:
    """What must hold for a change, in the plainest words."""
    assert seen.leader_id == seen.own_id
    assert not seen.change_pending
    member = next(m for m in seen.members if m.id == change.member_id)
    assert member.id != seen.own_id, "the leader does nothing to itself"
    voters = [m for m in seen.members if m.role is MemberRole.VOTER]
    if isinstance(change, Promote):
        assert member.role is MemberRole.LEARNER
        assert member.promote
        assert member.active
        assert member.state == "replicate"
        assert seen.last_index - (member.match or 0) <= 1000
        voters = [m for m in voters if m.id != member.replaces] + [member]
    elif isinstance(change, RemoveStaleLearner):
        assert member.role is MemberRole.LEARNER
    else:
        assert isinstance(change, RemoveDead)
        assert not member.active
        voters = [m for m in voters if m is not member]
    if not isinstance(change, RemoveStaleLearner):
        assert 2 * sum(m.active for m in voters) > len(voters), "what remains is a quorum without help"
