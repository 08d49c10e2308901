"""The read queue: rounds, retries and deadlines."""

from itertools import pairwise

from plasmacloud.chainfire.reads import FIRST_WAIT_S, LONGEST_WAIT_S, MAX_ROUNDS, ReadQueue


def test_reads_that_wait_together_share_a_round() -> None:
    reads: ReadQueue[str] = ReadQueue()
    reads.submit("a", 10.0)
    reads.submit("b", 10.0)
    context = reads.start_round(0.0)
    assert not reads.has_waiting
    reads.confirmed(context, 7)
    assert reads.take_ready(6) == [], "the state is older than the question"
    assert reads.take_ready(7) == ["a", "b"]
    assert len(reads) == 0


def test_a_read_that_arrives_during_a_round_waits_for_the_next() -> None:
    reads: ReadQueue[str] = ReadQueue()
    reads.submit("early", 10.0)
    first = reads.start_round(0.0)
    reads.submit("late", 10.0)
    reads.confirmed(first, 5)
    assert reads.take_ready(5) == ["early"]
    second = reads.start_round(0.1)
    assert second > first
    reads.confirmed(second, 5)
    assert reads.take_ready(5) == ["late"]


def test_a_later_round_may_be_answered_before_an_earlier_one() -> None:
    reads: ReadQueue[str] = ReadQueue()
    reads.submit("first", 10.0)
    first = reads.start_round(0.0)
    reads.submit("second", 10.0)
    second = reads.start_round(0.0)
    reads.confirmed(second, 3)
    assert reads.take_ready(3) == ["second"]
    reads.confirmed(first, 3)
    assert reads.take_ready(3) == ["first"]


def test_rounds_under_way_are_bounded() -> None:
    reads: ReadQueue[int] = ReadQueue()
    for n in range(MAX_ROUNDS):
        reads.submit(n, 10.0)
        reads.start_round(0.0)
    reads.submit(99, 10.0)
    assert not reads.has_waiting


def test_a_round_without_an_answer_is_asked_again_and_any_answer_to_it_counts() -> None:
    """The way to the leader and back may be longer than the first wait."""
    reads: ReadQueue[str] = ReadQueue()
    reads.submit("a", 10.0)
    context = reads.start_round(1.0)
    assert reads.ask_again(1.0 + FIRST_WAIT_S / 2) == []
    assert reads.ask_again(1.0 + FIRST_WAIT_S) == [context]
    reads.confirmed(context, 4)
    assert reads.take_ready(4) == ["a"]
    assert reads.ask_again(100.0) == []


def test_who_arrived_later_is_not_answered_by_an_earlier_question() -> None:
    reads: ReadQueue[str] = ReadQueue()
    reads.submit("early", 10.0)
    first = reads.start_round(1.0)
    reads.submit("late", 10.0)
    assert reads.ask_again(2.0) == [first]
    reads.confirmed(first, 4)
    assert reads.take_ready(4) == ["early"]
    assert reads.has_waiting


def test_the_waits_grow_and_a_new_leader_is_asked_at_once() -> None:
    reads: ReadQueue[str] = ReadQueue()
    reads.submit("a", 100.0)
    context = reads.start_round(0.0)
    asked = [n / 100 for n in range(1000) if reads.ask_again(n / 100)]
    waits = [later - earlier for earlier, later in pairwise(asked)]
    assert waits == sorted(waits)
    assert waits[-1] <= LONGEST_WAIT_S + 0.011
    assert len(asked) < 10
    assert reads.ask_again(10.0, all_of_them=True) == [context]
    assert reads.ask_again(10.0 + FIRST_WAIT_S) == [context], "and then as if it were new"


def test_a_confirmed_round_is_not_asked_again() -> None:
    reads: ReadQueue[str] = ReadQueue()
    reads.submit("a", 10.0)
    reads.confirmed(reads.start_round(0.0), 9)
    assert reads.ask_again(5.0, all_of_them=True) == []
    assert reads.take_ready(9) == ["a"]


def test_a_round_whose_readers_have_all_gone_makes_room() -> None:
    reads: ReadQueue[int] = ReadQueue()
    for n in range(MAX_ROUNDS):
        reads.submit(n, 1.0)
        reads.start_round(0.0)
    reads.submit(99, 10.0)
    assert not reads.has_waiting
    assert reads.expire(1.0) == list(range(MAX_ROUNDS))
    assert reads.has_waiting


def test_expired_reads_leave_the_queue_wherever_they_are() -> None:
    reads: ReadQueue[str] = ReadQueue()
    reads.submit("old", 1.0)
    reads.submit("young", 5.0)
    context = reads.start_round(0.0)
    reads.submit("waiting", 1.0)
    assert sorted(reads.expire(1.0)) == ["old", "waiting"]
    reads.confirmed(context, 1)
    assert reads.take_ready(1) == ["young"]


def test_stopping_returns_every_waiter_once() -> None:
    reads: ReadQueue[str] = ReadQueue()
    reads.submit("a", 1.0)
    reads.start_round(0.0)
    reads.submit("b", 1.0)
    assert sorted(reads.abandon()) == ["a", "b"]
    assert reads.abandon() == []
