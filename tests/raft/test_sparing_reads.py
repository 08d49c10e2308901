"""Read rounds for which only as many members are asked as a quorum needs, and when all are asked after all."""

from raft_cluster import Cluster, conf

from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.reads import RACE_EVERY


def elected(count: int = 3, **settings: int) -> Cluster:
    """With one read behind it, so that it is known who is quick: those with the lowest numbers."""
    cluster = Cluster.of(count, **settings)
    cluster.elect(1)
    cluster.tick()
    assert asked(cluster, 1) == set(range(2, count + 1)), "at first nobody is known to be quick"
    return cluster


def asked(cluster: Cluster, context: int, at: int = 1) -> set[int]:
    """Who is asked when a client of member ``at`` reads. The read is answered."""
    cluster.trace.clear()
    cluster[at].read_index(context)
    cluster.settle()
    assert cluster.nodes[at].reads[-1] == (context, cluster[1].commit)
    return {message.to for message in cluster.sent(MessageType.HEARTBEAT)}


def test_in_a_cluster_of_three_one_is_asked_and_in_one_of_five_two() -> None:
    cluster = elected(3)
    assert [asked(cluster, context) for context in range(2, 10)] == [{2}] * 8
    cluster = elected(5)
    assert asked(cluster, 2) == {2, 3}


def test_whoever_answers_first_is_the_one() -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    cluster.lost = lambda message: message.sender == 2
    asked(cluster, 1)
    cluster.heal()
    assert asked(cluster, 2) == {3}


def test_now_and_then_all_are_asked() -> None:
    cluster = elected()
    rounds = [asked(cluster, context) for context in range(2, 2 * RACE_EVERY + 2)]
    assert [at for at, who in enumerate(rounds, 2) if who == {2, 3}] == [RACE_EVERY, 2 * RACE_EVERY]


def test_all_are_asked_while_an_entry_is_under_way() -> None:
    cluster = elected()
    cluster.lost = lambda message: message.type is MessageType.APPEND_RESPONSE
    cluster[1].propose(b"a")
    assert asked(cluster, 2) == {2, 3}


def test_a_quick_one_that_falls_silent_costs_two_ticks() -> None:
    cluster = elected()
    cluster.isolate(2)
    cluster.trace.clear()
    cluster[1].read_index(2)
    cluster.settle()
    assert {message.to for message in cluster.sent(MessageType.HEARTBEAT)} == {2}
    cluster.tick(1, 1)
    assert cluster.nodes[1].reads[-1][0] == 1
    cluster.tick(1, 1)
    assert cluster.nodes[1].reads[-1][0] == 2
    assert asked(cluster, 3) == {3}, "the one that answered is asked from now on"


def test_a_lost_connection_is_noticed_at_once() -> None:
    cluster = elected()
    cluster.isolate(2)
    cluster[1].read_index(2)
    cluster.settle()
    cluster[1].peer_lost(2)
    cluster.settle()
    assert cluster.nodes[1].reads[-1][0] == 2


def test_the_loss_of_one_that_is_not_asked_anyway_changes_nothing() -> None:
    cluster = elected()
    cluster.isolate(3)
    cluster[1].peer_lost(3)
    assert asked(cluster, 2) == {2}


def test_a_reader_elsewhere_that_is_not_asked_is_told_of_the_commit() -> None:
    cluster = elected(lazy_commit=True)
    _, index = cluster[1].propose(b"a")
    cluster.settle()
    assert cluster[3].commit == index - 1
    assert asked(cluster, 2, at=3) == {2}
    assert cluster[3].commit == index
    assert not cluster.sent(MessageType.APPEND)


def test_a_change_of_the_membership_begins_anew() -> None:
    cluster = elected(5)
    for member in cluster.nodes:
        cluster[member].apply_membership(conf("1234"))
    assert asked(cluster, 2) == {2, 3, 4}
    assert asked(cluster, 3) == {2, 3}


def test_two_quorums_are_both_asked_in_full() -> None:
    cluster = elected(5)
    for member in cluster.nodes:
        cluster[member].apply_membership(conf("123", outgoing="145"))
    assert [asked(cluster, context) for context in (2, 3)] == [{2, 3, 4, 5}] * 2


def test_a_new_leader_knows_nobody() -> None:
    cluster = elected()
    cluster[2].campaign()
    cluster.tick(40, 2, 3)
    cluster.elect(2)
    cluster.trace.clear()
    cluster[2].read_index(2)
    cluster.settle()
    assert {message.to for message in cluster.sent(MessageType.HEARTBEAT)} == {1, 3}


def test_confirmations_of_many_open_rounds_settle_who_is_quick() -> None:
    cluster = Cluster.of(3)
    cluster.elect(1)
    under_way: list[Message] = []
    asked_late: set[int] = set()
    for context in range(1, RACE_EVERY):  # a round begins while another one is open: answers take two turns
        cluster[1].read_index(context)
        arriving, under_way = under_way, [message for node in cluster.nodes.values() for message in node.take()]
        for message in arriving:
            cluster[message.to].step(message)
        if context > 10:
            asked_late |= {message.to for message in arriving if message.type is MessageType.HEARTBEAT}
    assert asked_late == {2}
    for message in under_way:
        cluster[message.to].step(message)
    cluster.settle()
    assert [context for context, _ in cluster.nodes[1].reads] == list(range(1, RACE_EVERY))
