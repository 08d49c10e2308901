"""Admission against a model of a server: a queue, a rate, and a crowd that does not care."""

from collections import deque

import pytest

from plasmacloud.chainfire.admission import CALM_S, TARGET_S, Admission

CEILING = 20_000
TURN_S = 0.01


class Shop:
    """Executes so many commands per second, all that its turn allows at once, oldest first."""

    def __init__(self, rate_per_s: float, delay_s: float = 0.0) -> None:
        self.admission = Admission(CEILING)
        self.rate_per_s = rate_per_s
        self.delay_s = delay_s  # on top: a slow disk, a long way
        self.now = 100.0
        self.waiting: deque[float] = deque()
        self.executed = 0
        self.refused = 0
        self.waits: list[float] = []
        self._credit = 0.0

    def run(self, seconds: float, offered_per_s: float) -> None:
        self.executed = self.refused = 0
        self.waits = []
        arriving = 0.0
        until = self.now + seconds
        while self.now < until:
            self.now += TURN_S
            arriving += offered_per_s * TURN_S
            for _ in range(int(arriving)):
                arriving -= 1
                if len(self.waiting) >= self.admission.limit:
                    self.refused += 1
                    self.admission.refused(self.now)
                else:
                    self.waiting.append(self.now)
            self._serve()

    def _serve(self) -> None:
        self._credit = min(self._credit + self.rate_per_s * TURN_S, self.rate_per_s)
        batch = 0
        while self.waiting and batch < int(self._credit) and self.now - self.waiting[0] >= self.delay_s:
            if batch == 0:
                oldest = self.now - self.waiting[0]
            self.waits.append(self.now - self.waiting.popleft())
            batch += 1
        self._credit -= batch
        if batch:
            self.executed += batch
            self.admission.executed(oldest, batch, len(self.waiting), self.now)


def test_a_calm_member_refuses_nobody() -> None:
    shop = Shop(10_000)
    shop.run(5, 9_000)
    assert shop.refused == 0
    assert not shop.admission.shedding
    assert shop.admission.limit == CEILING


def test_a_burst_is_no_crowd() -> None:
    shop = Shop(10_000)
    shop.run(0.1, 45_000)  # nearly half a second of work
    shop.run(2, 1_000)
    assert shop.refused == 0
    assert not shop.admission.shedding


@pytest.mark.parametrize("rate", [3_000, 10_000, 30_000])
@pytest.mark.parametrize("times", [1.5, 2, 4])
def test_a_crowd_is_limited_to_the_delay_worth_waiting_for_at_the_full_rate(rate: float, times: float) -> None:
    shop = Shop(rate)
    shop.run(4, times * rate)  # what came before the limit is served, too
    shop.run(5, times * rate)  # what follows is the steady state
    assert shop.admission.shedding
    assert shop.executed >= 0.95 * 5 * rate, "nothing is lost of what could be done"
    assert max(shop.waits) <= 2 * TARGET_S, "200 ms"
    assert shop.refused >= 0.9 * 5 * (times - 1) * rate


def test_when_the_crowd_goes_the_limit_goes() -> None:
    shop = Shop(10_000)
    shop.run(5, 40_000)
    assert shop.admission.shedding
    shop.run(3 * CALM_S, 5_000)
    assert not shop.admission.shedding
    shop.run(1, 9_000)
    assert shop.refused == 0


def test_a_server_that_becomes_slower_lowers_the_limit_and_one_that_recovers_raises_it() -> None:
    shop = Shop(30_000)
    shop.run(4, 80_000)
    high = shop.admission.limit
    shop.rate_per_s = 5_000
    shop.run(8, 80_000)
    low = shop.admission.limit
    assert low < high / 4
    shop.rate_per_s = 30_000
    shop.run(8, 80_000)
    assert shop.admission.limit > 0.9 * high


@pytest.mark.parametrize("delay_s", [0.3, 1.0])
def test_slowness_that_is_no_queue_is_none(delay_s: float) -> None:
    """Every command takes longer than the target, however few there are."""
    shop = Shop(100_000, delay_s)
    shop.run(10, 3_000)
    assert shop.refused == 0
    assert not shop.admission.shedding


@pytest.mark.parametrize("offered", [100, 1_000, 3_000])
def test_a_network_that_becomes_slow_is_no_queue_either(offered: float) -> None:
    """The first waits above the bound look like a queue's, until a limit or the calm shows that they are not."""
    shop = Shop(20_000, 0.005)
    shop.run(5, offered)
    shop.delay_s = 0.4
    shop.run(5, offered)
    shop.run(10, offered)
    assert shop.refused == 0
    assert not shop.admission.shedding
    assert shop.admission.bound_s == pytest.approx(0.4 + TARGET_S, abs=0.05)
    shop.delay_s = 0.005
    shop.run(5, offered)
    assert shop.admission.bound_s < 2 * TARGET_S, "and when it is fast again, it is expected to be"


def test_behind_a_slow_network_a_crowd_is_limited_above_what_is_on_its_way() -> None:
    shop = Shop(5_000, 0.3)
    shop.run(5, 2_000)
    shop.run(5, 20_000)
    shop.run(5, 20_000)
    assert shop.executed >= 0.9 * 5 * 5_000
    assert max(shop.waits) <= 0.3 + 2 * TARGET_S


def test_a_pause_says_nothing_about_the_rate() -> None:
    """A failover: nothing is executed for seconds, then what has piled up is, at full speed."""
    shop = Shop(10_000)
    shop.run(2, 2_000)
    shop.rate_per_s = 0
    shop.run(3, 500)
    shop.rate_per_s = 10_000
    shop.run(3, 2_000)
    assert shop.refused == 0
    assert not shop.admission.shedding
