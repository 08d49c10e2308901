"""The news of a commit that waits for the next append: what is saved, and that nobody waits for it too long."""

from raft_cluster import Cluster

from plasmacloud.raft.messages import MessageType


def elected(**settings: int) -> Cluster:
    cluster = Cluster.of(3, **settings)
    cluster.elect(1)
    cluster.tick()
    cluster.trace.clear()
    return cluster


def test_without_it_every_commit_is_told_at_once() -> None:
    cluster = elected()
    cluster[1].propose(b"a")
    cluster.settle()
    assert len(cluster.sent(MessageType.COMMIT)) >= 2
    assert {cluster[id].log.commit for id in (1, 2, 3)} == {cluster[1].log.last_index}


def test_the_news_rides_on_the_next_append() -> None:
    cluster = elected(lazy_commit=True)
    _, first = cluster[1].propose(b"a")
    cluster.settle()
    assert cluster[1].log.commit == first
    assert cluster[2].log.commit == first - 1
    cluster[1].propose(b"b")
    cluster.settle()
    assert cluster[2].log.commit == cluster[3].log.commit == first
    assert not cluster.sent(MessageType.COMMIT)


def test_no_later_than_at_the_next_tick() -> None:
    cluster = elected(lazy_commit=True)
    _, index = cluster[1].propose(b"a")
    cluster.settle()
    cluster.tick(1, 1)
    assert cluster[2].log.commit == cluster[3].log.commit == index
    assert len(cluster.sent(MessageType.COMMIT)) == 2
    cluster.trace.clear()
    cluster.tick(1, 1)
    assert not cluster.sent(MessageType.COMMIT), "it is told once"


def test_a_member_where_somebody_waits_is_told_at_once() -> None:
    cluster = elected(lazy_commit=True)
    _, index = cluster[1].propose(b"for a client of member 2")
    cluster[1].hurry_commit(2)
    cluster.settle()
    assert cluster[2].log.commit == index
    assert cluster[3].log.commit == index - 1
    assert {message.to for message in cluster.sent(MessageType.COMMIT)} == {2}


def test_hurrying_a_stranger_or_without_leading_does_nothing() -> None:
    cluster = elected(lazy_commit=True)
    cluster[1].hurry_commit(9)
    cluster[2].hurry_commit(1)
    cluster.settle()
    assert not cluster.trace


def test_a_linearizable_read_elsewhere_brings_the_commit_with_it() -> None:
    cluster = elected(lazy_commit=True)
    _, index = cluster[1].propose(b"a")
    cluster.settle()
    cluster[3].read_index(7)
    cluster.settle()
    assert cluster.nodes[3].reads == [(7, index)]
    assert cluster[3].log.commit == index, "the reader need not wait for a tick"


def test_the_slowest_member_s_acknowledgement_leaves_nothing_to_do() -> None:
    cluster = elected(lazy_commit=True)
    _, index = cluster[1].propose(b"a")
    (to_two, to_three) = (message for message in cluster.nodes[1].take() if message.type is MessageType.APPEND)
    cluster[2].step(to_two)
    cluster[3].step(to_three)
    for member in (2, 3):
        (answer,) = cluster.nodes[member].take()
        assert not cluster[1].has_ready()
        cluster[1].step(answer)
        cluster.nodes[1].take()
        assert cluster[1].log.commit == index
        cluster[1].step(answer)  # once more: what it says is known
    assert not cluster[1].has_ready()


def test_an_acknowledgement_that_makes_room_in_a_full_window_is_acted_on() -> None:
    cluster = elected(lazy_commit=True, max_inflight_messages=1)
    cluster[1].propose(b"a")
    (first, _) = (message for message in cluster.nodes[1].take() if message.type is MessageType.APPEND)
    _, index = cluster[1].propose(b"b")
    assert not [message for message in cluster.nodes[1].take() if message.entries]
    cluster[2].step(first)
    (answer,) = cluster.nodes[2].take()
    cluster[1].step(answer)
    (second,) = (message for message in cluster.nodes[1].take() if message.entries)
    assert (second.to, second.entries[-1].index) == (2, index)
