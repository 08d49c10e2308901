"""Rules about single steps, about many keys and about the past: each is broken by somebody, and finds it.

Like `test_sim_mutants`; here most are found by one seed in three.
"""

import pytest
from mutants_rules import (
    REPLACEMENT,
    AsksForWhatItMayLose,
    BelievesOldCopies,
    ForgetsMatches,
    ForgetsTheLiving,
    GoesRoundForEver,
    Impatient,
    LateQuestionsJoin,
    LeadsBeforeItsVoteIsDurable,
    LongerIsBetter,
    NeverAlone,
    NewVotersCommit,
    NewVotersConfirm,
    ReplacesAtOnce,
    ShowsHalf,
    with_log,
    with_tracker,
)
from rule_breakers import breaks, is_found

from plasmacloud.chainfire.running_member import RunningMember
from plasmacloud.raft.membership import ConfState, change, leave_joint
from plasmacloud.raft.messages import Message
from plasmacloud.rpc.proto import kv_pb2, rpc_pb2
from plasmacloud.sim import watchdog
from plasmacloud.sim.authority import WatchedRaft, bad_step
from plasmacloud.sim.many_keys import Past, seen_together
from plasmacloud.sim.options import FaultKind, Options
from plasmacloud.sim.simulation import Simulation
from plasmacloud.sim.violation import Violation

MAX_SEEDS = 24


CONFIRMED = "a read is confirmed by a majority behind its question"
GOOD_LOG = "a vote is for a log as good as the own"
MUTANTS = {
    "leader that notices no loneliness": breaks("who leads hears from a majority", raft_class=with_tracker(NeverAlone)),
    "reads confirmed by new voters alone": breaks(CONFIRMED, raft_class=with_tracker(NewVotersConfirm)),
    "reads that join a round under way": breaks(CONFIRMED, raft_class=LateQuestionsJoin),
    "commits by new voters alone": breaks(
        "what is committed is on a majority of disks", raft_class=with_tracker(NewVotersCommit)
    ),
    "matches forgotten": breaks("0 <= match < next", raft_class=with_tracker(ForgetsMatches)),
    "longer logs win": breaks(GOOD_LOG, raft_class=with_log(LongerIsBetter)),
    "leader whose vote is in memory": breaks("a leader's own vote is durable", raft_class=LeadsBeforeItsVoteIsDurable),
    "votes asked for a log in memory": breaks(
        "votes are asked for a log that is durable", seed=15, raft_class=with_log(AsksForWhatItMayLose)
    ),
    "leaders put off nothing": breaks("a calm cluster keeps its leader", raft_class=Impatient),
    "replacement without a joint phase": breaks(
        "a change of the membership keeps a majority in common", machine_class=ReplacesAtOnce
    ),
    "old copies are believed": breaks(
        "who has lost its memory keeps silent", FaultKind.SET_BACK, register_class=BelievesOldCopies
    ),
    "half of a request is visible": breaks("requests are atomic", seed=21, machine_class=ShowsHalf),
    "compaction takes the living": breaks("the past does not change", machine_class=ForgetsTheLiving),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_rule_finds_who_breaks_it(name: str) -> None:
    assert is_found(MUTANTS[name], MAX_SEEDS), f"not found with {MAX_SEEDS} seeds"


def _step_unwatched(raft: WatchedRaft, message: Message, _: object) -> None:
    super(WatchedRaft, raft).step(message)


def test_a_leader_that_lacks_what_is_committed_is_found_whoever_voted_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WatchedRaft, "_step_watched", _step_unwatched)
    mutant = breaks(
        "leader completeness",
        *(FaultKind.WIDOW, FaultKind.CHASE, FaultKind.KILL),
        raft_class=with_log(LongerIsBetter),
    )
    assert is_found(mutant, MAX_SEEDS)


def test_code_that_does_not_end_is_a_defect_with_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LIMIT_S", 1.5)
    member_class = type("MutantMember", (RunningMember,), {"raft_class": GoesRoundForEver})
    outcome = Simulation(Options(seed=1, fault_phase_s=20.0), member_class=member_class).run()
    assert outcome.rule == "no defect"
    assert "does not come to an end in" in outcome.text


def test_steps_of_the_membership_keep_a_majority_in_common() -> None:
    three = ConfState(frozenset({1, 2, 3}))
    joint = change(three, REPLACEMENT)
    after = leave_joint(joint)
    assert joint.joint
    assert not bad_step(three, joint)
    assert not bad_step(joint, after)
    assert bad_step(three, after) == "several voters change at once"
    assert bad_step(joint, three) == "the joint phase ends otherwise"
    assert bad_step(after, joint) == "the old voters have no say"


def test_a_group_of_keys_is_there_as_a_whole_or_not_at_all() -> None:
    kvs = [kv_pb2.KeyValue(key=b"m%d" % number, value=b"x", mod_revision=7) for number in range(3)]
    assert seen_together(3, kvs) == ("x", 7)
    assert seen_together(3, []) is None
    with pytest.raises(Violation, match="requests are atomic"):
        seen_together(3, kvs[:2])
    kvs[1].value = b"y"
    with pytest.raises(Violation, match="requests are atomic"):
        seen_together(3, kvs)


def test_the_past_is_remembered() -> None:
    past = Past()
    kv = kv_pb2.KeyValue(key=b"k", value=b"x", create_revision=3, mod_revision=5, version=2)
    past.saw(5, rpc_pb2.RangeResponse(kvs=[kv]))
    past.saw(5, rpc_pb2.RangeResponse(kvs=[kv]))
    with pytest.raises(Violation, match="as of revision 5 these keys differ"):
        past.saw(5, rpc_pb2.RangeResponse())
    with pytest.raises(Violation, match="version 2"):
        past.saw(4, rpc_pb2.RangeResponse(kvs=[kv]))
    with pytest.raises(Violation, match="compacted"):
        past.refused(5, "etcdserver: mvcc: required revision has been compacted")
    past.compacted = 6
    past.refused(5, "etcdserver: mvcc: required revision has been compacted")
