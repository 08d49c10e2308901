"""The read queue: rounds, retries and deadlines."""

from plasmacloud.chainfire.reads import MAX_ROUNDS, ReadQueue


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


def test_a_lost_round_is_asked_again_under_a_new_context_and_its_late_answer_ignored() -> None:
    reads: ReadQueue[str] = ReadQueue()
    reads.submit("a", 10.0)
    lost = reads.start_round(1.0)
    assert reads.retry(0.5) == 0
    assert reads.retry(1.0) == 1
    again = reads.start_round(2.0)
    reads.confirmed(lost, 1)
    assert reads.take_ready(100) == [], "the answer to the round that was given up on proves nothing about the new one"
    reads.confirmed(again, 4)
    assert reads.take_ready(4) == ["a"]


def test_a_confirmed_round_is_not_retried() -> None:
    reads: ReadQueue[str] = ReadQueue()
    reads.submit("a", 10.0)
    reads.confirmed(reads.start_round(0.0), 9)
    assert reads.retry(5.0) == 0
    assert reads.take_ready(9) == ["a"]


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
