"""Time: when a member was last heard from, and timeouts that change while a replica runs."""

import random

import pytest
from raft_cluster import THREE, ListLog, changed, conf, group

from plasmacloud.base.errors import ConfigError
from plasmacloud.raft.messages import MessageType
from plasmacloud.raft.raft import Config, Raft, StateRole
from plasmacloud.storage.entry import HardState

M = MessageType


def test_the_status_tells_when_a_member_was_last_heard_from() -> None:
    cluster = group(conf("123", learners="4"))
    leader = cluster.elect(1)
    cluster.tick(7)
    cluster.isolate(3, 4)
    cluster.tick(21)
    contact = {id: each.last_contact_ticks for id, each in leader.status().progress.items()}
    assert contact[1] == 0
    assert contact[2] < leader.config.heartbeat_ticks
    assert contact[3] == contact[4]
    assert 21 <= contact[3] < 21 + leader.config.heartbeat_ticks
    changed(cluster, 1, conf("123", learners="45"))
    cluster.tick(9)
    assert leader.status().progress[5].last_contact_ticks == 9, "counted from when it was added"


def follower(**settings: int) -> Raft:
    return Raft(Config(id=1, **settings), ListLog(), HardState(), THREE, 0, random.Random(1))


def test_a_shorter_timeout_does_not_start_an_election_at_once() -> None:
    raft = follower(election_ticks=300, heartbeat_ticks=50)
    for _ in range(250):
        raft.tick()
    raft.set_timeouts(30, 5)
    assert raft.config.election_ticks == 30
    raft.tick()
    assert raft.role is StateRole.FOLLOWER
    for _ in range(60):
        raft.tick()
    assert raft.role is StateRole.PRE_CANDIDATE


def test_changing_the_timeouts_again_and_again_puts_no_election_off() -> None:
    raft = follower(election_ticks=30)
    ticks = 0
    while raft.role is StateRole.FOLLOWER:
        raft.tick()
        ticks += 1
        raft.set_timeouts(30 + ticks % 7, 5)
        assert ticks < 80


def test_time_in_which_a_follower_did_not_run_is_no_evidence_against_the_leader() -> None:
    raft = follower(election_ticks=30)
    for _ in range(25):
        raft.tick(missed=20)
    assert raft.role is StateRole.FOLLOWER


def test_a_leader_that_did_not_run_for_a_while_makes_up_for_the_heartbeats_and_nothing_else() -> None:
    cluster = group(THREE)
    leader = cluster.elect(1)
    leader.tick()
    assert not leader.has_ready()
    leader.tick(missed=leader.config.heartbeat_ticks)
    assert {m.to for m in leader.ready().messages if m.type is M.HEARTBEAT} == {2, 3}
    cluster.isolate(2, 3)
    for _ in range(leader.config.election_ticks - 3):
        leader.tick(missed=leader.config.election_ticks)
    assert leader.role is StateRole.LEADER, "nobody had a chance to be heard meanwhile"


def test_a_leader_takes_over_new_timeouts() -> None:
    cluster = group(THREE)
    leader = cluster.elect(1)
    leader.set_timeouts(100, 20)
    cluster.trace.clear()
    cluster.tick(40, 1)
    assert len(cluster.sent(M.HEARTBEAT)) == 4
    cluster.isolate(1)
    cluster.tick(98, 1)
    assert leader.role is StateRole.LEADER
    cluster.tick(102, 1)
    assert leader.role is StateRole.FOLLOWER


def test_timeouts_that_cannot_work_are_refused_and_change_nothing() -> None:
    raft = follower(election_ticks=30, heartbeat_ticks=5)
    with pytest.raises(ConfigError):
        raft.set_timeouts(5, 5)
    assert (raft.config.election_ticks, raft.config.heartbeat_ticks) == (30, 5)
