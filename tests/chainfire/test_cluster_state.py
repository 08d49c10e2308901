"""Membership as replicated state: what each command does, what is refused in which words, and what is never lost."""

import random

import pytest
from dict_store import DictStore, new_machine
from hypothesis import given, settings
from hypothesis import strategies as st

from plasmacloud.base.address import Address
from plasmacloud.chainfire import cluster_state as rules
from plasmacloud.chainfire.cluster_state import BadClusterState, ClusterState
from plasmacloud.chainfire.commands import CommandError, encode_batch
from plasmacloud.chainfire.member_commands import (
    AddMember,
    CommandKind,
    MemberCommand,
    PromoteMember,
    Refused,
    RemoveMember,
    UpdateMember,
    encode_member_command,
)
from plasmacloud.chainfire.members import Publication, found_cluster
from plasmacloud.chainfire.mvcc.refusals import Refusal, RpcRefusal
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.chainfire.state_meta import Applied
from plasmacloud.raft.membership import ConfState
from plasmacloud.rpc.proto.rpc_pb2 import MemberAddResponse, MemberListResponse, PutRequest
from plasmacloud.rpc.status import StatusCode
from plasmacloud.storage.entry import EntryKind
from plasmacloud.storage.entry_codec import make_entry

THREE = found_cluster("n1=10.0.0.1:2380,n2=10.0.0.2:2380,n3=10.0.0.3:2380", "t")
N1, N2, N3 = (THREE.member(name).id for name in ("n1", "n2", "n3"))
KINDS = {
    AddMember: CommandKind.MEMBER_ADD,
    RemoveMember: CommandKind.MEMBER_REMOVE,
    UpdateMember: CommandKind.MEMBER_UPDATE,
    PromoteMember: CommandKind.MEMBER_PROMOTE,
    Refused: CommandKind.REFUSED,
}


def at(number: int) -> tuple[Address, ...]:
    return (Address(f"10.0.0.{number}", 2380),)


def change(state: ClusterState, command: MemberCommand, index: int = 7) -> int:
    return state.apply(KINDS[type(command)], encode_member_command(command), index)


def refusal(state: ClusterState, command: MemberCommand) -> RpcRefusal:
    before = state.encode()
    with pytest.raises(RpcRefusal) as refused:
        change(state, command)
    assert state.encode() == before, "a refused command changes nothing"
    return refused.value


def three() -> ClusterState:
    return ClusterState.founded(THREE)


def test_the_founders_vote_from_the_start() -> None:
    state = three()
    assert state.conf == ConfState(voters=frozenset({N1, N2, N3}))
    assert {member.name for member in state.members} == {"n1", "n2", "n3"}
    assert [member.id for member in state.members] == sorted((N1, N2, N3))


def test_a_new_member_is_a_learner_and_counts_in_no_quorum() -> None:
    state = three()
    new = change(state, AddMember(at(4), "n4"))
    assert state.conf.learners == {new}
    assert state.conf.voters == {N1, N2, N3}
    member = state.get(new)
    assert member is not None
    assert (member.is_learner, member.promote, member.started, member.name) == (True, True, False, "n4")
    assert state.by_peer(at(4)[0]) == member


def test_ids_are_the_same_everywhere_and_never_come_again() -> None:
    ids = [change(state, AddMember(at(4)), index=9) for state in (three(), three())]
    assert ids[0] == ids[1]
    state = three()
    seen = set()
    for index in range(10, 60):
        new = change(state, AddMember(at(4)), index)
        change(state, RemoveMember(new), index)
        seen.add(new)
    assert len(seen) == 50
    assert state.departed.keys() == seen


def test_promotion_makes_a_voter_and_ends_the_wish() -> None:
    state = three()
    new = change(state, AddMember(at(4)))
    assert change(state, PromoteMember(new)) == new
    assert new in state.conf.voters
    member = state.get(new)
    assert member is not None
    assert not member.is_learner
    assert not member.promote


def test_a_replacement_changes_two_voters_in_one_joint_step() -> None:
    state = three()
    new = change(state, AddMember(at(4), "n4", replaces=N3))
    change(state, PromoteMember(new))
    assert state.conf.joint
    assert state.conf.auto_leave
    assert N3 in state, "it still votes in the outgoing half"
    assert refusal(state, RemoveMember(N1)) == rules.CHANGE_UNDER_WAY()
    assert refusal(state, AddMember(at(5))) == rules.CHANGE_UNDER_WAY()
    assert state.apply(CommandKind.LEAVE_JOINT, b"", 12) == 0
    assert state.conf == ConfState(voters=frozenset({N1, N2, new}))
    assert N3 not in state
    assert state.departed == {N3: 12}
    assert state.apply(CommandKind.LEAVE_JOINT, b"", 13) == 0, "leaving twice is harmless"


def test_replacing_somebody_who_has_left_meanwhile_is_a_plain_promotion() -> None:
    state = three()
    new = change(state, AddMember(at(4), replaces=N3))
    change(state, RemoveMember(N3))
    change(state, PromoteMember(new))
    assert state.conf == ConfState(voters=frozenset({N1, N2, new}))


def test_several_learners_at_once() -> None:
    state = three()
    new = [change(state, AddMember(at(10 + n), promote=False), 20 + n) for n in range(rules.MAX_LEARNERS)]
    assert state.conf.learners == set(new)
    assert refusal(state, AddMember(at(99), promote=False)) == rules.TOO_MANY_LEARNERS()


def test_the_number_of_voters_is_limited_when_they_are_asked_for() -> None:
    state = three()
    for n in range(rules.MAX_VOTERS - 3):
        change(state, AddMember(at(10 + n)), 20 + n)
    assert refusal(state, AddMember(at(99))) == rules.TOO_MANY_VOTERS()
    change(state, AddMember(at(99), promote=False), 90)
    change(state, AddMember(at(98), replaces=N1), 91)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (AddMember(at(1)), rules.PEER_URL_EXISTS()),
        (AddMember((*at(9), *at(2))), rules.PEER_URL_EXISTS()),
        (AddMember(()), rules.BAD_MEMBER_URLS()),
        (AddMember(at(4), replaces=77), rules.MEMBER_NOT_FOUND()),
        (RemoveMember(77), rules.MEMBER_NOT_FOUND()),
        (RemoveMember(0), rules.MEMBER_NOT_FOUND()),
        (UpdateMember(77, ()), rules.MEMBER_NOT_FOUND()),
        (UpdateMember(N1, ()), rules.BAD_MEMBER_URLS()),
        (UpdateMember(N1, at(2)), rules.PEER_URL_EXISTS()),
        (PromoteMember(77), rules.MEMBER_NOT_FOUND()),
        (PromoteMember(N1), rules.NOT_A_LEARNER()),
    ],
)
def test_refusals(command: MemberCommand, expected: RpcRefusal) -> None:
    assert refusal(three(), command) == expected


def test_the_last_voter_stays() -> None:
    state = three()
    learner = change(state, AddMember(at(4)))
    for member in (N1, N2):
        change(state, RemoveMember(member))
    assert refusal(state, RemoveMember(N3)) == rules.NOT_ENOUGH_STARTED()
    change(state, RemoveMember(learner))
    assert state.conf == ConfState(voters=frozenset({N3}))


def test_addresses_can_be_updated_and_are_free_again_afterwards() -> None:
    state = three()
    assert change(state, UpdateMember(N1, at(1))) == N1
    change(state, UpdateMember(N1, (*at(8), *at(9))))
    member = state.get(N1)
    assert member is not None
    assert member.peer_urls() == ("http://10.0.0.8:2380", "http://10.0.0.9:2380")
    assert member.peer == at(8)[0]
    change(state, AddMember(at(1)))


def test_a_publication_fills_in_what_was_not_known() -> None:
    state = three()
    new = change(state, AddMember(at(4)))
    state.publish(Publication(new, ("http://10.0.0.4:2379",), "n4", birth=5))
    state.publish(Publication(new, ("http://10.0.0.4:4379",)))
    member = state.get(new)
    assert member is not None
    assert (member.name, member.client_urls, member.birth) == ("n4", ("http://10.0.0.4:4379",), 5)


def test_another_birth_under_a_known_id_is_refused() -> None:
    state = three()
    state.publish(Publication(N1, ("http://10.0.0.1:2379",), "n1", birth=5))
    with pytest.raises(RpcRefusal) as refused:
        state.publish(Publication(N1, ("http://10.0.0.1:2379",), "n1", birth=6))
    assert refused.value == rules.OTHER_BIRTH()
    with pytest.raises(RpcRefusal):
        state.publish(Publication(77, ("http://10.0.0.1:2379",)))


def test_the_state_survives_encoding_and_forgets_old_departures() -> None:
    state = three()
    for index in range(10, 1020):
        change(state, RemoveMember(change(state, AddMember(at(4)), index)), index)
    new = change(state, AddMember(at(4), "n4", replaces=N2), 5000)
    change(state, PromoteMember(new), 5001)
    again = ClusterState.decode(state.encode())
    assert again.encode() == state.encode()
    assert (again.members, again.conf, again.departed) == (state.members, state.conf, state.departed)
    assert len(state.departed) == 1000
    assert again.at_start().encode() == three().encode()
    for garbage in (b"", b"\x80", state.encode()[:-3]):
        with pytest.raises(BadClusterState):
            ClusterState.decode(garbage)


def test_a_survivor_alone_is_a_new_cluster_that_remembers_the_others() -> None:
    state = three()
    state.publish(Publication(N2, ("http://10.0.0.2:2379",), "n2", birth=9))
    alone = state.alone(99, N2)
    assert alone.cluster_id == 99
    assert alone.conf == ConfState(voters=frozenset({N2}))
    assert alone.departed.keys() == {N1, N3}
    (survivor,) = alone.members
    assert (survivor.name, survivor.birth) == ("n2", 9)
    assert ClusterState.decode(alone.encode()).encode() == alone.encode()


# -- in the state machine ------------------------------------------------------------------------------------------


def machine_of_three(store: DictStore | None = None) -> StateMachine:
    return StateMachine.restore(
        store or DictStore(), cluster_id=THREE.cluster_id, member_id=N1, founding=ClusterState.founded(THREE)
    )


class Log:
    """Commands of one member, one entry each."""

    def __init__(self, machine: StateMachine, origin: int = N1) -> None:
        self.machine = machine
        self.origin = (origin, 1)
        self.seq = 0
        self.entries: list[bytes] = []

    def __call__(self, command: MemberCommand, kind: EntryKind = EntryKind.MEMBERSHIP) -> Applied:
        self.seq += 1
        data = encode_batch(*self.origin, self.seq, [(KINDS[type(command)], encode_member_command(command))])
        self.entries.append(data)
        entry = make_entry(1, self.machine.applied_index + 1, kind, data)
        ((seq, applied),) = self.machine.apply_entry(entry, local_origin=self.origin)
        assert seq == self.seq
        return applied


def test_replies_are_etcds() -> None:
    log = Log(machine_of_three())
    reply = MemberAddResponse.FromString(log(AddMember(at(4), "n4")).body)
    assert reply.header.cluster_id == THREE.cluster_id
    assert reply.header.member_id == N1
    assert not reply.header.revision
    assert list(reply.member.peerURLs) == ["http://10.0.0.4:2380"]
    assert (reply.member.name, reply.member.isLearner) == ("", True), "etcd shows no name before the start"
    assert len(reply.members) == 4
    promoted = MemberListResponse.FromString(log(PromoteMember(reply.member.ID)).body)
    assert sum(member.isLearner for member in promoted.members) == 0
    assert log(PromoteMember(reply.member.ID)).error == rules.NOT_A_LEARNER


def test_a_membership_command_counts_only_in_an_entry_of_its_kind() -> None:
    machine = machine_of_three()
    before = machine.cluster.encode()
    assert Log(machine)(AddMember(at(4)), EntryKind.COMMANDS).error == rules.CHANGE_UNDER_WAY
    assert machine.cluster.encode() == before


def test_one_entry_changes_the_configuration_once() -> None:
    machine = machine_of_three()
    adds = [(CommandKind.MEMBER_ADD, encode_member_command(AddMember(at(n)))) for n in (1, 4, 5)]
    data = encode_batch(N1, 1, 1, adds)
    results = machine.apply(1, 1, data, local_origin=(N1, 1), membership=True)
    errors = [applied.error for _, applied in results]
    assert errors == [rules.PEER_URL_EXISTS, None, rules.CHANGE_UNDER_WAY]
    assert len(machine.cluster.conf.learners) == 1


def test_a_change_that_arrives_twice_is_executed_once() -> None:
    machine = machine_of_three()
    log = Log(machine)
    log(AddMember(at(4)))
    before = machine.cluster.encode()
    entry = make_entry(1, 2, EntryKind.MEMBERSHIP, log.entries[0])
    assert machine.apply_entry(entry, local_origin=log.origin) == []
    assert machine.cluster.encode() == before


def test_the_leaders_refusal_uses_up_the_number_of_the_command() -> None:
    machine = machine_of_three()
    log = Log(machine)
    applied = log(Refused(StatusCode.UNAVAILABLE, "etcdserver: unhealthy cluster"), EntryKind.COMMANDS)
    assert applied.error == Refusal(StatusCode.UNAVAILABLE, "etcdserver: unhealthy cluster")
    assert log(AddMember(at(4))).error is None


def test_nothing_of_a_former_member_is_executed_any_more() -> None:
    machine = machine_of_three()
    put = encode_batch(N3, 1, 1, [(CommandKind.PUT, PutRequest(key=b"a", value=b"1").SerializeToString())])
    machine.apply(1, 1, put)
    Log(machine)(RemoveMember(N3))
    assert N3 not in machine.sessions
    revision = machine.store.revision
    machine.apply(3, 1, put)  # sent twice, and its session is forgotten: it must not begin again
    assert machine.store.revision == revision
    assert N3 not in machine.sessions


def test_a_damaged_membership_entry_stops_the_member() -> None:
    with pytest.raises(CommandError):
        machine_of_three().apply_entry(make_entry(1, 1, EntryKind.MEMBERSHIP, b"?"))


def test_a_body_that_is_no_command_is_refused() -> None:
    machine = machine_of_three()
    data = encode_batch(N1, 1, 1, [(CommandKind.MEMBER_ADD, b"\xc1"), (CommandKind.REFUSED, b"\xc1")])
    results = machine.apply(1, 1, data, local_origin=(N1, 1), membership=True)
    assert [applied.error is not None for _, applied in results] == [True, True]


def test_checkpoints_hold_the_membership() -> None:
    disk = DictStore()
    machine = machine_of_three(disk)
    log = Log(machine)
    log(AddMember(at(4), "n4"))
    checkpoint = machine.take_checkpoint()
    assert checkpoint.conf == machine.cluster.conf
    disk.commit(checkpoint)
    machine.checkpoint_done()
    log(AddMember(at(5), "n5"))
    assert len(checkpoint.conf.learners) == 1, "a checkpoint is a moment"
    restored = machine_of_three(disk)
    assert restored.cluster.conf == checkpoint.conf
    restored.apply_entry(make_entry(1, 2, EntryKind.MEMBERSHIP, log.entries[1]))
    assert restored.state_hash() == machine.state_hash()
    assert new_machine().cluster.members == (), "without founders nothing is known"


commands = st.one_of(
    st.builds(AddMember, st.integers(1, 12).map(at), st.just(""), st.booleans(), st.integers(0, 6)),
    st.builds(RemoveMember, st.integers(0, 6)),
    st.builds(PromoteMember, st.integers(0, 6)),
    st.builds(UpdateMember, st.integers(0, 6), st.integers(1, 12).map(at)),
    st.none(),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(commands, max_size=40), st.randoms(use_true_random=False))
def test_all_members_agree_and_each_step_is_small(script: list[MemberCommand | None], rng: random.Random) -> None:
    """Any commands, in any order: the invariants hold, and whoever replays from any checkpoint ends up the same."""
    state = ClusterState.founded(THREE)
    replay = ClusterState.founded(THREE)
    for index, command in enumerate(script, start=1):
        before = state.conf
        ids = [0, 77, *sorted(member.id for member in state.members)]
        if command is None:
            kind, body = CommandKind.LEAVE_JOINT, b""
        else:
            fields = {name: getattr(command, name) for name in command.__struct_fields__}
            for name in ("member_id", "replaces"):
                if name in fields:
                    fields[name] = ids[fields[name] % len(ids)]
            kind, body = KINDS[type(command)], encode_member_command(type(command)(**fields))
        outcomes = []
        for member in (state, replay):
            try:
                outcomes.append(member.apply(kind, body, index))
            except RpcRefusal as refused:
                outcomes.append((refused.code, refused.message))
        assert outcomes[0] == outcomes[1]
        if rng.random() < 0.3:
            replay = ClusterState.decode(replay.encode())
        assert replay.encode() == state.encode()
        after = state.conf
        after.check()
        assert after.voters
        assert {member.id for member in state.members} == after.all_members()
        assert not state.departed.keys() & after.all_members()
        peers = [peer for member in state.members for peer in member.peers]
        assert len(peers) == len(set(peers)), "an address belongs to one member"
        if not before.joint and not after.joint:
            assert len(before.voters ^ after.voters) <= 1, "quorums of neighbouring configurations overlap"
        if before.joint:
            assert after == before or after == ConfState(voters=before.voters, learners=before.learners)
