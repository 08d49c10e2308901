"""The next entry waits for clients that come back at once, and for nobody else."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from lone_member import Answer, run

from plasmacloud.chainfire.commands import decode, encode_batch
from plasmacloud.chainfire.gathering import MAX_BYTES, Gathering
from plasmacloud.chainfire.lane import Lane
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.proposals import ProposalQueue
from plasmacloud.chainfire.proposing import Proposer
from plasmacloud.chainfire.tuning import Tuning

LIMIT_S = 0.0005
TOOK_S = 0.0008


def drive(
    gathering: Gathering, now: float, *, count: int, arrivals: list[float], waiting: int = 0
) -> tuple[float, int]:
    """One round: made, answered, and then new commands, so many seconds after the answers.

    Returns when the next entry is made (after the answers), and how many commands it holds.
    """
    gathering.made(now)
    now += TOOK_S
    gathering.answered(count, waiting, now)
    times = sorted(arrivals)
    there, at = waiting, 0.0
    while True:
        while times and times[0] <= at:
            there += 1
            times.pop(0)
        if there:
            left_s = gathering.wait_s(there, now + at)
            if left_s == 0.0:
                return at, there
            assert left_s <= LIMIT_S
            at = min([at + left_s, *times[:1]])
        else:
            at = times[0]


def test_an_entry_is_made_when_everybody_is_back() -> None:
    gathering = Gathering(LIMIT_S)
    for number in range(100):
        arrivals = [0.00005 + 0.00001 * n for n in range(16)]
        at, size = drive(gathering, float(number), count=16, arrivals=arrivals)
        assert (at, size) == (arrivals[-1], 16)


def test_two_groups_become_one() -> None:
    gathering = Gathering(LIMIT_S)
    at, size = drive(gathering, 0.0, count=10, waiting=6, arrivals=[0.0001] * 10)
    assert (at, size) == (0.0001, 16)


def test_a_single_client_never_waits() -> None:
    gathering = Gathering(LIMIT_S)
    for number in range(40):
        arrival = 0.00005 if number % 2 else 0.3
        assert drive(gathering, float(number), count=1, arrivals=[arrival]) == (arrival, 1)


def test_who_does_not_come_back_is_waited_for_briefly_and_then_no_more() -> None:
    gathering = Gathering(LIMIT_S)
    waits = []
    for number in range(64):
        at, size = drive(gathering, float(number), count=8, waiting=2, arrivals=[])
        assert size == 2
        waits.append(at)
    assert waits[0] == pytest.approx(0.4 * LIMIT_S)
    assert [wait > 0 for wait in waits].count(True) <= 3 + 64 // 16
    assert all(wait == 0 for wait in waits[3:15])


def test_a_leader_that_gave_it_up_tries_again_and_learns() -> None:
    gathering = Gathering(LIMIT_S)
    for number in range(30):
        drive(gathering, float(number), count=8, waiting=2, arrivals=[])
    assert not gathering.worthwhile
    sizes = [drive(gathering, 100.0 + n, count=8, waiting=2, arrivals=[0.00005] * 8)[1] for n in range(64)]
    assert sizes[0] == 2
    assert sizes[-1] == 10
    assert gathering.worthwhile


def test_arrivals_at_random_are_not_worth_waiting_for() -> None:
    """As many come in the wait as always do: that is no coming back."""
    gathering = Gathering(LIMIT_S)
    waited = 0
    for number in range(160):
        # eight in a round, evenly: one every 0.1 ms, of which two came while the answers were given
        at, _ = drive(gathering, float(number), count=8, waiting=2, arrivals=[0.0001 * n for n in range(1, 9)])
        waited += at > 0
    assert waited <= 5 + 160 // 16


def test_late_ones_keep_nobody_waiting_longer_than_the_limit() -> None:
    gathering = Gathering(LIMIT_S)
    at, size = drive(gathering, 0.0, count=100, waiting=1, arrivals=[0.00009 * n for n in range(1, 100)])
    assert at <= min(LIMIT_S, TOOK_S / 2) + 1e-9
    assert 1 < size < 100


def test_who_comes_back_much_later_does_not_count_as_back() -> None:
    gathering = Gathering(LIMIT_S)
    for number in range(15):
        assert drive(gathering, float(number), count=8, arrivals=[0.01] * 8) == (0.01, 8)
    assert not gathering.worthwhile


def test_slow_entries_are_not_waited_for() -> None:
    gathering = Gathering(LIMIT_S)
    gathering.made(0.0)
    gathering.answered(8, 2, 20 * LIMIT_S)
    assert not gathering.worthwhile
    assert gathering.wait_s(2, 20 * LIMIT_S) == 0.0


def test_zero_means_never() -> None:
    gathering = Gathering(0.0)
    assert not gathering.worthwhile
    gathering.made(0.0)
    gathering.answered(8, 2, 0.0004)
    assert gathering.wait_s(2, 0.0004) == 0.0


class Bell:
    """An alarm that rings when the test says so."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self.ring = ring
        self.delay_s: float | None = None
        self.closed = False

    def set(self, delay_s: float) -> None:
        self.delay_s = delay_s

    def cancel(self) -> None:
        self.delay_s = None

    def close(self) -> None:
        self.closed = True


class Leader:
    """A `Proposer` with its lanes, on a leader whose log and clock the test moves."""

    member_id = 1

    def __init__(self) -> None:
        self.now = 100.0
        self.config = SimpleNamespace(tuning=Tuning())
        self.machine = SimpleNamespace(is_whole=True, sessions={})
        self.transport = None
        self.raft = self
        self.term, self.leader_id, self.takes_proposals, self.membership_pending = 1, 1, True, False
        self.last_index = self.applied = 0
        self.entries: list[int] = []  # commands in each
        self.woken = 0
        self.lanes: list[Lane[Answer]] = [
            Lane(
                origin,
                1,
                ProposalQueue(max_commands=1000, max_bytes=1 << 20, is_gone=lambda _: False),
                batch_bytes=size,
            )
            for origin, size in ((1, 1 << 20), (2, 0))
        ]
        self.proposer = Proposer(self, *self.lanes, alarms=self._bell, stopwatch=lambda: self.now)  # type: ignore[arg-type]
        self._next = 1

    def _bell(self, ring: Callable[[], None]) -> Bell:
        self.bell = Bell(ring)
        return self.bell

    def wake(self) -> None:
        self.woken += 1

    def propose(self, data: bytes) -> None:
        self.entries.append(sum(len(commands) for *_, commands in decode(data)))
        self.last_index += 1

    def arrive(self, count: int, size: int = 100) -> None:
        """Commands of this member's clients, and a turn of the pump."""
        for _ in range(count):
            self.lanes[0].queue.submit(CommandKind.PUT, bytes(size), Answer(), self.now + 5)
        self.proposer.send()

    def answer(self, count: int) -> None:
        """The last entry was executed; its commands came from clients of this member."""
        self.applied = self.last_index
        for _ in range(count):
            self.lanes[0].queue.executed(self._next)
            self._next += 1
        self.lanes[0].progressed(self.now)
        self.proposer.applied(count)


def on_a_leader(play: Callable[[Leader], None]) -> None:
    async def main() -> None:
        play(Leader())

    run(main)


def test_who_comes_while_an_entry_is_under_way_shares_the_next_with_those_it_answers() -> None:
    def play(leader: Leader) -> None:
        leader.arrive(3)
        leader.now += 0.0005
        leader.arrive(5)
        assert leader.entries == [3]
        leader.now += 0.0005
        leader.answer(3)
        assert leader.woken == 1
        leader.proposer.send()
        assert leader.entries == [3]
        assert leader.bell.delay_s == pytest.approx(0.4 * LIMIT_S)
        leader.now += 0.0001
        leader.arrive(3)
        assert leader.entries == [3, 8]
        assert leader.bell.delay_s is None

    on_a_leader(play)


def test_when_the_alarm_rings_the_entry_is_made_of_those_who_are_there() -> None:
    def play(leader: Leader) -> None:
        leader.arrive(3)
        leader.arrive(5)
        leader.now += 0.001
        leader.answer(3)
        leader.proposer.send()
        assert leader.bell.delay_s is not None
        leader.now += leader.bell.delay_s
        leader.woken = 0
        leader.bell.ring()
        assert leader.woken == 1
        leader.proposer.send()
        assert leader.entries == [3, 5]

    on_a_leader(play)


@pytest.mark.parametrize("change", ["large", "half applied", "due again", "another term", "nobody of ours waits"])
def test_nobody_waits(change: str) -> None:
    def play(leader: Leader) -> None:
        leader.arrive(3)
        if change == "half applied":
            leader.machine.is_whole = False
        elif change == "due again":
            leader.lanes[0].send_again_soon()
        elif change == "another term":
            leader.term = 2
            leader.applied = leader.last_index
        elif change == "nobody of ours waits":
            leader.answer(3)
            leader.now += 1.0
            leader.last_index += 1  # an entry without commands of this member's clients
        leader.arrive(2, MAX_BYTES if change == "large" else 100)
        assert leader.entries == [3, 2]

    on_a_leader(play)


def test_what_others_forward_waits_no_longer_than_the_rest() -> None:
    def play(leader: Leader) -> None:
        leader.arrive(3)
        leader.hurry_commit = lambda member: None  # type: ignore[attr-defined]
        leader.proposer.forwarded(7, encode_batch(7, 1, 1, [(CommandKind.PUT, b"x")]))
        leader.proposer.send()
        assert leader.entries == [3]
        leader.now += 0.001
        leader.answer(3)
        assert leader.woken == 1
        leader.proposer.send()
        assert leader.entries == [3]
        assert leader.bell.delay_s is not None
        leader.now += leader.bell.delay_s
        leader.bell.ring()
        leader.proposer.send()
        assert leader.entries == [3, 1]

    on_a_leader(play)


def test_the_alarm_ends_with_the_proposer() -> None:
    def play(leader: Leader) -> None:
        leader.proposer.close()
        assert leader.bell.closed

    on_a_leader(play)
