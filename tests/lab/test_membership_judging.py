"""The judges of cluster-join, quorum-recover and membership-churn, and how targets let members come and go."""

import json
from pathlib import Path

import msgspec
import pytest
from lab_handmade import MS, good_record, plan, writes

from plasmacloud.base.address import Address
from plasmacloud.base.errors import ConfigError
from plasmacloud.lab.cluster import Cluster
from plasmacloud.lab.judging import Case, check_rpo
from plasmacloud.lab.recorder import Record
from plasmacloud.lab.scenarios import cluster_join, membership_churn, quorum_recover
from plasmacloud.lab.targets import etcd, find_target
from plasmacloud.lab.targets.base import NodeSpec
from plasmacloud.verify.checks import Verdict
from plasmacloud.verify.events import (
    AnyEvent,
    FaultInjected,
    FaultProof,
    MembershipChanged,
    NodeStarted,
    ProcessEnded,
    Recovered,
    RemovedEnded,
)
from plasmacloud.verify.history import Outcome
from plasmacloud.verify.observations import KeyRecord, MemberRecord, MembersSample

AT = 1000  # the one trial of a good record begins here, in ms; the fault comes 10 ms later


def member(number: int, *, learner: bool = False, started: bool = True) -> MemberRecord:
    clients = (f"http://127.0.0.1:{1000 + number}",) if started else ()
    return MemberRecord(number, f"n{number}", (f"http://127.0.0.1:{2000 + number}",), clients, learner)


def listed(at_ms: int, *members: MemberRecord) -> MembersSample:
    return MembersSample(1, (AT + at_ms) * MS, (AT + at_ms) * MS, "n1", members)


def fault(kind: str, *nodes: str, at_ms: int = 10) -> list[AnyEvent]:
    at_ns = (AT + at_ms) * MS
    return [
        FaultInjected(at_ns=at_ns, trial=1, fault=kind, nodes=nodes),
        FaultProof(at_ns=at_ns, trial=1, fault=kind, landed=True, evidence="members: ..."),
    ]


def record_of(scenario: str, *events: AnyEvent, members: tuple[MembersSample, ...] = ()) -> Record:
    """A good record with other faults."""
    record = good_record(trials=1)
    kept = [event for event in record.events if not isinstance(event, FaultInjected | FaultProof)]
    mixed = sorted([*kept, *events], key=lambda event: event.at_ns)
    return msgspec.structs.replace(record, plan=plan(scenario, trials=1), events=mixed, members=list(members))


def test_a_member_is_found_by_its_peer_address() -> None:
    assert member(1).reached_at("127.0.0.1:2001")
    assert not member(1).reached_at("127.0.0.1:200")
    assert listed(0, member(1), member(2, learner=True), member(3, started=False)).voters() == {"n1"}


def join_record(*samples: MembersSample) -> Case:
    started = NodeStarted(at_ns=(AT + 15) * MS, trial=1, node="n2", pid=5, incarnation=1)
    return Case(record_of("cluster-join", *fault("join", "n2", "n3"), started, members=samples))


def test_the_time_to_three_voters_is_read_from_the_member_list() -> None:
    two = (member(1), member(2))
    case = join_record(
        listed(0, member(1)),
        listed(40, *two, member(3, started=False)),
        listed(50, *two, member(3, learner=True)),
        listed(70, *two, member(3)),
    )
    assert cluster_join.voters_ms(case) == [(1, 60.0)]
    assert cluster_join.check_voters_in_time(case).verdict is Verdict.PASS


def test_voters_that_never_come_fail() -> None:
    assert cluster_join.check_voters_in_time(join_record(listed(0, member(1)))).verdict is Verdict.FAIL


def dead_weight(*samples: MembersSample) -> Case:
    before = listed(0, *THREE)
    one = record_of("cluster-join", *fault("never-starts", "n5"), *fault("join", "n4", at_ms=20), members=(before,))
    second = [
        msgspec.structs.replace(event, trial=2, **({"fault": "dies-half-way"} if kind == "never-starts" else {}))
        for event in one.events
        for kind in [getattr(event, "fault", "")]
    ]
    two = [msgspec.structs.replace(sample, trial=2) for sample in samples]
    return Case(msgspec.structs.replace(one, events=[*one.events, *second], members=[before, *samples, *two]))


GHOST = member(5, learner=True, started=False)
THREE = (member(1), member(2), member(3))


def test_a_node_that_joins_beside_a_dead_learner() -> None:
    check = cluster_join.check_dead_weight(dead_weight(listed(12, *THREE, GHOST), listed(30, *THREE, member(4), GHOST)))
    assert (check.verdict, check.measured) == (Verdict.PASS, "2 of 2 joined beside a dead learner")


def test_a_node_that_had_to_wait_for_the_dead_learner_to_go_fails() -> None:
    check = cluster_join.check_dead_weight(dead_weight(listed(12, *THREE, GHOST), listed(30, *THREE, member(4))))
    assert check.verdict is Verdict.FAIL
    assert "n4 did not become a voter" in check.findings[0]


def test_without_a_dead_learner_nothing_is_proven() -> None:
    assert cluster_join.check_dead_weight(join_record()).verdict is Verdict.INCONCLUSIVE


def test_dead_members_are_those_that_came_and_never_voted() -> None:
    case = join_record(listed(0, *THREE), listed(11, *THREE, GHOST), listed(12, *THREE, GHOST, member(4)))
    assert cluster_join.dead_members(case, case.trials[0]) == {5}


def stranger_case(*events: AnyEvent, members: tuple[MembersSample, ...] = ()) -> Case:
    record = record_of("cluster-join", *events, members=members)
    thresholds = {**record.plan.thresholds, "cleanup_max_ms": 100.0}
    return Case(msgspec.structs.replace(record, plan=msgspec.structs.replace(record.plan, thresholds=thresholds)))


def test_a_learner_left_alone_has_to_be_cleared_away_in_time() -> None:
    alone = fault("left-alone", "n5")
    in_time = (listed(0, *THREE), listed(12, *THREE, GHOST), listed(90, *THREE))
    assert cluster_join.check_cleanup(stranger_case(*alone, members=in_time)).verdict is Verdict.PASS
    late = (*in_time[:2], listed(130, *THREE))
    assert cluster_join.check_cleanup(stranger_case(*alone, members=late)).verdict is Verdict.FAIL
    never = in_time[:2]
    assert cluster_join.check_cleanup(stranger_case(*alone, members=never)).verdict is Verdict.FAIL
    assert cluster_join.check_cleanup(stranger_case()).verdict is Verdict.INCONCLUSIVE


def test_targets_without_a_policy_are_shown_no_strangers() -> None:
    assert not cluster_join.cares_for_members(join_record())
    assert cluster_join.cares_for_members(stranger_case())


@pytest.mark.parametrize(
    ("status", "verdict"), [(6, Verdict.INCONCLUSIVE), (0, Verdict.FAIL), (-9, Verdict.FAIL), (None, Verdict.FAIL)]
)
def test_strangers_have_to_stop_by_themselves_with_a_status(status: int | None, verdict: Verdict) -> None:
    events = fault("wrong-directory", "n5")
    if status is not None:
        events.append(ProcessEnded(at_ns=(AT + 20) * MS, trial=1, node="n5", pid=5, status=status))
    before = ProcessEnded(at_ns=(AT + 5) * MS, trial=1, node="n5", pid=4, status=3)
    check = cluster_join.check_refused(stranger_case(before, *events))
    assert check.verdict is verdict, "a status of its own is right, but only one of two came"


def recovery_case(revision: int, lost: list[int]) -> Case:
    """The survivor came back with ``revision``; the writes acknowledged at the revisions ``lost`` are nowhere."""
    recovered = Recovered(
        at_ns=(AT + 100) * MS, trial=1, node="n2", command="recover", revision=revision, began_ns=(AT + 60) * MS
    )
    record = record_of("quorum-recover", *fault("kill-majority", "n1", "n3"), recovered)
    held = [KeyRecord(op.key, op.value, op.revision, op.revision, 1) for op in record.history]
    kept = [item for item in held if item.mod_revision not in lost]
    readings = [msgspec.structs.replace(record.readings[0], nodes=dict.fromkeys(("n1", "n2", "n3"), kept))]
    return Case(msgspec.structs.replace(record, readings=readings))


def test_what_only_destroyed_nodes_had_is_counted_and_forgiven() -> None:
    case = recovery_case(107, [108, 109])
    check = quorum_recover.check_what_could_be_missing(case)
    assert check.verdict is Verdict.PASS
    assert check.measured == "2 acknowledged writes (trial 1: above revision 107)"
    assert [finding.split()[-1] for finding in check.findings] == ["108", "109"]
    assert check_rpo(quorum_recover.without_forfeited(case)).verdict is Verdict.PASS
    assert check_rpo(case).verdict is Verdict.FAIL


def test_what_the_survivor_had_must_be_there() -> None:
    assert check_rpo(quorum_recover.without_forfeited(recovery_case(108, [108, 109]))).verdict is Verdict.FAIL


def test_what_was_written_after_the_recovery_must_be_there() -> None:
    assert check_rpo(quorum_recover.without_forfeited(recovery_case(107, [115]))).verdict is Verdict.FAIL


def test_revisions_may_be_given_out_again_after_a_recovery() -> None:
    case = recovery_case(107, [108, 109])
    again = [msgspec.structs.replace(op, key=f"{op.key}x") for op in writes(1, AT + 300, 2, revision=108)]
    case = Case(msgspec.structs.replace(case.record, history=[*case.record.history, *again]))
    honest = quorum_recover.without_forfeited(case)
    assert [op.outcome for op in honest.record.history if op.seq in (108, 109)] == [Outcome.INFO] * 2 + [Outcome.OK] * 2


def test_the_recovery_is_timed_from_its_first_step() -> None:
    assert quorum_recover.recovery_ms(recovery_case(107, [])) == [(1, 69.5)]
    record = record_of("quorum-recover")
    assert quorum_recover.check_what_could_be_missing(Case(record)).verdict is Verdict.INCONCLUSIVE
    assert quorum_recover.check_recovery(Case(record)).verdict is Verdict.INCONCLUSIVE


def test_a_trial_in_which_nobody_left_is_no_churn() -> None:
    left = MembershipChanged(at_ns=(AT + 30) * MS, trial=1, change="removed", node="n1", member=1, took_ms=1)
    good = record_of("membership-churn", *fault("join", "n4"), left)
    assert membership_churn.check_churn(Case(good)).verdict is Verdict.PASS
    assert membership_churn.check_churn(Case(record_of("membership-churn", left))).verdict is Verdict.INCONCLUSIVE
    stayed = record_of("membership-churn", *fault("join", "n4"))
    assert membership_churn.check_churn(Case(stayed)).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [([6], Verdict.PASS), ([6, None], Verdict.FAIL), ([], Verdict.INCONCLUSIVE)],
)
def test_a_removed_member_has_to_stop_by_itself(statuses: list[int | None], verdict: Verdict) -> None:
    ends = [RemovedEnded(at_ns=(AT + 30) * MS, trial=1, node="n1", pid=7, status=status) for status in statuses]
    assert membership_churn.check_removed_end(Case(record_of("membership-churn", *ends))).verdict is verdict


def specs(tmp_path: Path) -> list[NodeSpec]:
    return [
        NodeSpec(f"n{i}", Address("127.0.0.1", 1000 + i), Address("127.0.0.1", 2000 + i), tmp_path / f"n{i}")
        for i in (1, 2, 3)
    ]


def test_chainfire_bootstraps_joins_and_follows_its_own_advice(tmp_path: Path) -> None:
    one, two, _ = specs(tmp_path)
    target = find_target("chainfire")
    assert "--bootstrap" in target.bootstrap_argv(one)
    joining = target.join_argv(two, {}, [one])
    assert joining[joining.index("--join") + 1] == "127.0.0.1:1001"
    command = target.recovery_command(one)
    assert command is not None
    assert {"recover", "--yes", str(one.data_dir)} <= set(command)
    told = "a warning\n" + json.dumps({"done": True, "commands": ["plasma chainfire serve --name 'n 1'", "more"]})
    assert target.recovered_argv(one, told)[-3:] == ["serve", "--name", "n 1"]
    for nonsense in ("", "{}", '{"commands": []}', '{"commands": ["rm -r /"]}'):
        with pytest.raises(ConfigError, match="plasma chainfire recover"):
            target.recovered_argv(one, nonsense)


def test_etcd_joins_what_exists_and_forces_a_new_cluster_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(etcd.Etcd, "_program", lambda self: Path("/bin/etcd"))
    one, two, _ = specs(tmp_path)
    target = find_target("etcd")
    joining = target.join_argv(two, {"n1": one.peer.url, "n2": two.peer.url}, [one])
    assert "--initial-cluster=n1=http://127.0.0.1:2001,n2=http://127.0.0.1:2002" in joining
    assert "--initial-cluster-state=existing" in joining
    recovered = target.recovered_argv(one, "")
    assert "--force-new-cluster" in recovered
    assert "--force-new-cluster" not in target.restart_argv(recovered)
    assert target.recovery_command(one) is None


def test_a_target_without_membership_says_so(tmp_path: Path) -> None:
    one, two, _ = specs(tmp_path)
    with pytest.raises(ConfigError, match="members of canary cannot change"):
        find_target("canary").join_argv(two, {}, [one])
    with pytest.raises(ConfigError, match="cannot be recovered"):
        find_target("canary").recovered_argv(one, "")


def test_spares_are_no_members_until_they_join(tmp_path: Path) -> None:
    cluster = Cluster(find_target("canary"), 3, tmp_path / "data", tmp_path / "logs", spares=2)
    assert cluster.names == ["n1", "n2", "n3"]
    assert cluster.outsiders() == ["n4", "n5"]
    cluster.members = ["n1", "n4"]
    assert cluster.others("n1") == ["n4"]
    with pytest.raises(AssertionError, match="nobody has said how to start n5"):
        cluster["n5"].start()
    cluster["n4"].spec.data_dir.mkdir(parents=True)
    (cluster["n4"].spec.data_dir / "file").touch()
    cluster.wipe("n4")
    assert not cluster["n4"].spec.data_dir.exists()
    cluster.wipe("n4")
