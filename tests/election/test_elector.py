"""The elector's table, read as examples: what a candidate does next."""

import random
from typing import Any

import pytest

from plasmacloud.base.errors import ConfigError
from plasmacloud.election.elector import TABLE, Action, Elector, IllegalSignal, Signal, State
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.timers import Timers

FIRST = Epoch(1, 1)


def elector(**timers: Any) -> Elector:
    return Elector(Timers(**timers), random.Random(1))


def following(at: float = 0.0, **timers: Any) -> Elector:
    """Connected at that time, and asking since."""
    mind = elector(**timers)
    mind.handle(Signal.START, at)
    mind.handle(Signal.CONNECTED, at, session=1)
    assert mind.tick(at) == [Action.ASK]
    return mind


def leading(at: float = 0.0) -> Elector:
    """Leads since that time, with a lock that was asked for then."""
    mind = following(at)
    assert mind.handle(Signal.GRANTED, at, session=1) == [Action.RAISE_EPOCH]
    mind.handle(Signal.EPOCH_COMMITTED, at, session=1, epoch=FIRST)
    return mind


def test_from_start_to_leadership() -> None:
    mind = elector()
    assert mind.handle(Signal.START, 10.0) == [Action.CONNECT]
    mind.handle(Signal.CONNECTED, 10.1, session=1)
    assert mind.tick(10.1) == [Action.ASK]
    assert mind.handle(Signal.GRANTED, 10.3, session=1) == [Action.RAISE_EPOCH]
    assert not mind.leads(10.3)
    mind.handle(Signal.EPOCH_COMMITTED, 10.4, session=1, epoch=FIRST)
    assert mind.leads(10.4)
    assert mind.epoch == FIRST


def test_a_waiter_that_left_the_queue_enters_it_again_at_once() -> None:
    mind = following()
    mind.handle(Signal.DENIED, 0.5, session=1)
    assert mind.tick(0.5) == [Action.ASK]


def test_whoever_polls_asks_at_the_pace_of_the_campaign() -> None:
    mind = following(campaign=0.2)
    mind.handle(Signal.DENIED, 0.01, session=1)
    assert mind.next_deadline() == 0.2
    assert mind.tick(0.2) == [Action.ASK]


def test_time_counts_from_when_the_last_answered_keepalive_was_sent() -> None:
    mind = leading(at=0.0)
    assert mind.tick(0.5) == [Action.KEEPALIVE]
    mind.handle(Signal.ACKED, 0.9, session=1)
    assert mind.valid_until == 1.5
    assert mind.leads(1.49)
    assert not mind.leads(1.5)


def test_no_second_keepalive_while_one_is_under_way() -> None:
    mind = leading(at=0.0)
    assert mind.tick(0.5) == [Action.KEEPALIVE]
    assert mind.tick(0.99) == []
    assert mind.tick(1.0) == [Action.CUT]
    assert mind.state is State.PAUSED


def test_the_clock_alone_ends_leadership_without_timer_or_answer() -> None:
    mind = leading(at=0.0)
    assert mind.state is State.LEADING
    assert not mind.leads(7.0)


def test_an_answer_that_comes_after_a_standstill_is_too_late() -> None:
    mind = leading(at=0.0)
    mind.tick(0.5)
    assert mind.handle(Signal.ACKED, 20.0, session=1) == [Action.CUT]
    assert not mind.leads(20.0)
    assert mind.why == "no answer for too long"


def test_a_lock_that_was_granted_long_ago_is_not_taken() -> None:
    mind = following()
    assert mind.handle(Signal.GRANTED, 1.2, session=1) == [Action.CUT]
    assert mind.state is State.PAUSED


def test_an_epoch_that_is_committed_after_the_time_is_over_is_not_led_with() -> None:
    mind = following()
    mind.handle(Signal.GRANTED, 0.1, session=1)
    assert mind.handle(Signal.EPOCH_COMMITTED, 1.1, session=1, epoch=FIRST) == [Action.CUT]
    assert mind.epoch is None


def test_an_epoch_that_hangs_is_given_up_though_the_lock_is_alive() -> None:
    mind = following()
    mind.handle(Signal.GRANTED, 0.1, session=1)
    actions = []
    for tenth in range(2, 30):
        actions = mind.tick(tenth / 10)
        if actions == [Action.KEEPALIVE]:
            mind.handle(Signal.ACKED, tenth / 10, session=1)
        if actions == [Action.CUT]:
            break
    assert actions == [Action.CUT]
    assert mind.why == "the epoch takes too long"


def test_resigning_gives_up_first_and_holds_off() -> None:
    mind = leading(at=0.0)
    assert mind.handle(Signal.RESIGN, 0.2, hold_off_s=5.0) == [Action.RELEASE]
    assert not mind.leads(0.2)
    mind.handle(Signal.RELEASED, 0.3, session=1)
    assert mind.state is State.HELD_OFF
    assert mind.tick(0.8) == [Action.KEEPALIVE]
    mind.handle(Signal.ACKED, 0.8, session=1)


def test_a_lock_that_is_not_given_back_in_time_is_cut_off() -> None:
    mind = leading(at=0.0)
    mind.handle(Signal.STOP, 0.2)
    assert mind.state is State.STOPPING
    assert mind.tick(1.3) == [Action.CUT]
    assert mind.state is State.STOPPED


def test_a_session_that_is_cut_is_sent_nothing_before() -> None:
    mind = leading(at=0.0)
    assert mind.handle(Signal.SESSION_LOST, 0.6, session=1) == [Action.CUT]  # a keepalive was due, too


def test_pauses_grow_and_answers_make_them_short_again() -> None:
    mind = elector(retry_first=0.1, retry_max=1.0)
    now = 0.0
    mind.handle(Signal.START, now)
    pauses = []
    for _ in range(6):
        mind.handle(Signal.CONNECT_FAILED, now, session=mind.session)
        deadline = mind.next_deadline()
        assert deadline is not None
        pauses.append(deadline - now)
        now = deadline
        assert mind.tick(now) == [Action.CONNECT]
    for pause, longest in zip(pauses, [0.1, 0.2, 0.4, 0.8, 1.0, 1.0], strict=True):
        assert longest / 2 <= pause <= longest


def test_answers_of_an_earlier_session_are_dropped() -> None:
    mind = following()
    mind.handle(Signal.SESSION_LOST, 0.1, session=1)
    assert mind.handle(Signal.GRANTED, 0.1, session=1) == []
    assert mind.state is State.PAUSED


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("signal", list(Signal))
def test_what_is_not_in_the_table_raises_and_changes_nothing(state: State, signal: Signal) -> None:
    if (state, signal) in TABLE:
        return
    mind = elector()
    mind.state = state
    before = dict(vars(mind))
    with pytest.raises(IllegalSignal):
        mind.handle(signal, 1000.0)
    assert vars(mind) == before


def test_every_state_can_be_stopped_and_every_session_refused() -> None:
    for state in State:
        assert (state, Signal.STOP) in TABLE
    for (state, _), step in TABLE.items():
        if any(action is not Action.CUT for action in step.actions):
            assert (step.to, Signal.REFUSED) in TABLE, f"{state}: its request may be refused"


@pytest.mark.parametrize(
    ("timers", "complaint"),
    [
        ({"keepalive": 1.0}, "keepalive"),
        ({"demote_after": 1.5}, "demote-after"),
        ({"session_timeout": 0.9}, "session-timeout"),
        ({"lock_timeout": 1.0}, "lock-timeout"),
        ({"campaign": 1.0}, "campaign"),
        ({"keepalive": 0.0}, "positive"),
    ],
)
def test_timers_that_prove_nothing_are_refused(timers: dict[str, float], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as refusal:
        Timers(**timers)
    assert complaint == "positive" or refusal.value.hint
