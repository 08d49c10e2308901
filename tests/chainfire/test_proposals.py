"""The proposal queue: at most once, in order, and honest about what is known."""

import random

import pytest

from plasmacloud.chainfire.proposals import Batch, Overloaded, ProposalQueue

PUT = 1


def queue(max_commands: int = 100, max_bytes: int = 10_000) -> ProposalQueue[str]:
    return ProposalQueue(max_commands=max_commands, max_bytes=max_bytes)


def test_commands_are_numbered_when_they_are_first_sent() -> None:
    q = queue()
    q.submit(PUT, b"a", "client-a", 10.0)
    q.submit(PUT, b"b", "client-b", 10.0)
    assert q.take(1000) == Batch(1, [(PUT, b"a"), (PUT, b"b")])
    q.submit(PUT, b"c", "client-c", 10.0)
    assert q.take(1000) == Batch(3, [(PUT, b"c")])
    assert q.take(1000) is None


def test_unanswered_commands_are_sent_again_under_their_old_numbers() -> None:
    q = queue()
    for body in (b"a", b"b", b"c"):
        q.submit(PUT, body, body.decode(), 10.0)
    q.take(1000)
    assert q.executed(1) == "a"
    assert list(q.again(1000)) == [Batch(2, [(PUT, b"b"), (PUT, b"c")])]


def test_sending_again_respects_the_batch_limit() -> None:
    q = queue()
    for _ in range(5):
        q.submit(PUT, b"x" * 10, "w", 10.0)
    q.take(1000)
    assert [(b.first_seq, len(b.commands)) for b in q.again(20)] == [(1, 2), (3, 2), (5, 1)]


def test_one_command_larger_than_the_limit_is_sent_alone() -> None:
    q = queue()
    q.submit(PUT, b"x" * 50, "big", 10.0)
    q.submit(PUT, b"y", "small", 10.0)
    assert q.take(20) == Batch(1, [(PUT, b"x" * 50)])


def test_an_unsent_command_that_expires_was_certainly_not_executed() -> None:
    q = queue()
    q.submit(PUT, b"a", "a", 5.0)
    assert q.expire(4.9) == ([], [])
    assert q.expire(5.0) == (["a"], [])
    assert q.take(1000) is None
    assert q.size_bytes == 0


def test_a_sent_command_that_expires_leaves_its_outcome_unknown_and_its_number_in_use() -> None:
    q = queue()
    q.submit(PUT, b"a", "a", 5.0)
    q.take(1000)
    assert q.expire(6.0) == ([], ["a"])
    assert q.expire(7.0) == ([], []), "a waiter is answered once"
    assert list(q.again(1000)) == [Batch(1, [(PUT, b"a")])]
    assert q.executed(1) is None


def test_a_snapshot_settles_commands_without_their_results() -> None:
    q = queue()
    for body in (b"a", b"b", b"c"):
        q.submit(PUT, body, body.decode(), 5.0)
    q.take(1000)
    assert q.executed_elsewhere(2) == ["a", "b"]
    assert list(q.again(1000)) == [Batch(3, [(PUT, b"c")])]


@pytest.mark.parametrize("limits", [{"max_commands": 1}, {"max_bytes": 3}])
def test_a_full_queue_refuses_and_keeps_what_it_has(limits: dict[str, int]) -> None:
    q = queue(**limits)
    q.submit(PUT, b"abc", "a", 5.0)
    with pytest.raises(Overloaded):
        q.submit(PUT, b"d", "b", 5.0)
    assert q.take(1000) == Batch(1, [(PUT, b"abc")])


def test_room_is_freed_by_execution() -> None:
    q = queue(max_commands=1)
    q.submit(PUT, b"a", "a", 5.0)
    q.take(1000)
    q.executed(1)
    q.submit(PUT, b"b", "b", 5.0)
    assert len(q) == 1


def test_a_command_whose_client_has_left_is_not_sent_at_all() -> None:
    gone: set[str] = set()
    q: ProposalQueue[str] = ProposalQueue(max_commands=10, max_bytes=100, is_gone=gone.__contains__)
    q.submit(PUT, b"a", "a", 5.0)
    q.submit(PUT, b"b", "b", 5.0)
    gone.add("a")
    assert q.take(1000) == Batch(1, [(PUT, b"b")])
    gone.add("b")
    assert list(q.again(1000)) == [Batch(1, [(PUT, b"b")])], "what was sent keeps its number"
    q.submit(PUT, b"c", "c", 5.0)
    gone.add("c")
    assert q.take(1000) is None
    assert q.size_bytes == 1


def test_commands_executed_out_of_order_are_a_bug() -> None:
    q = queue()
    q.submit(PUT, b"a", "a", 5.0)
    q.submit(PUT, b"b", "b", 5.0)
    q.take(1000)
    with pytest.raises(AssertionError, match="out of order"):
        q.executed(2)


def test_stopping_tells_apart_what_was_sent() -> None:
    q = queue()
    q.submit(PUT, b"a", "sent", 5.0)
    q.take(1000)
    q.submit(PUT, b"b", "unsent", 5.0)
    assert q.refuse_unsent() == ["unsent"]
    assert q.abandon() == ["sent"]


@pytest.mark.parametrize("seed", range(200))
def test_over_leaders_that_lose_batches_each_command_is_executed_at_most_once_and_in_order(seed: int) -> None:
    """A log that drops, repeats and delays batches, and the state machine's rule for numbers."""
    rng = random.Random(seed)
    q = queue(max_commands=10_000, max_bytes=1_000_000)
    executed: list[bytes] = []
    answered: dict[str, bytes] = {}
    refused: set[str] = set()
    last_seq = 0
    channel: list[Batch] = []

    def apply(batch: Batch) -> None:
        nonlocal last_seq
        for seq, (_, body) in enumerate(batch.commands, batch.first_seq):
            if seq == last_seq + 1:
                last_seq = seq
                executed.append(body)
                waiter = q.executed(seq)
                if waiter is not None:
                    assert waiter not in answered
                    answered[waiter] = body

    submitted = 0
    for step in range(300):
        for _ in range(rng.randrange(3)):
            body = b"%d" % submitted
            q.submit(PUT, body, body.decode(), step + rng.randrange(3, 30))
            submitted += 1
        if rng.random() < 0.6 and (batch := q.take(rng.randrange(1, 40))):
            channel.append(batch)
        if rng.random() < 0.1:
            channel.clear()  # the leader died with everything it had not replicated
            channel.extend(q.again(rng.randrange(1, 40)))
        if rng.random() < 0.1:
            channel.extend(q.again(1000))
        if channel and rng.random() < 0.7:
            apply(channel.pop(0))
        refused.update(q.expire(step)[0])
    while batch := q.take(1000):
        channel.append(batch)
    channel.extend(q.again(1000))
    for batch in channel:
        apply(batch)
    assert len(executed) == len(set(executed)), "executed twice"
    assert [int(body) for body in executed] == sorted(int(body) for body in executed), "executed out of order"
    assert not refused & {body.decode() for body in executed}, "told 'not executed', and executed"
    assert {int(body) for body in executed} == set(range(submitted)) - {int(name) for name in refused}
    assert q.in_flight_count == 0
