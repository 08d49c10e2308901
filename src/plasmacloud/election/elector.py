"""The elector: what a candidate does next, as a table. Pure: time goes in as an argument, what to do comes out.

`TABLE` maps (state, signal) to the next state and the actions that go with the step. A signal is something that
happened, or a time that came; which times count in a state is what `_deadlines` says. What is not in the table is
illegal: it raises, and nothing has changed.

Why two nodes do not lead at once, as long as clocks run at about the same rate:

1. Whoever leads was granted the lock, and the server takes it back only when the session ends, which the leader is
   told at once, or has been silent for ``session_timeout`` since the last request was *done*.
2. The leader counts ``demote_after``, which is shorter, from when it *sent* the last request that was answered. That is
   never later than when the request was done, so its time is over first. The clock is looked at whenever anybody asks
   who leads; no timer and no answer has to arrive for that.
3. Times that came are dealt with before the signal at hand. After a standstill the elector therefore learns first that
   its time is over, however promising the answers are that waited in its sockets; and since the session is given up
   with that step, the answers belong to the past, and are dropped.

A standstill between looking at the clock and acting on it is beyond this argument, and so is a session that the server
ends before its time while the leader cannot hear it. These are the fence's part.
"""

import random
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from plasmacloud.election.leadership import Epoch
from plasmacloud.election.timers import Timers


class State(Enum):
    """Where a candidate stands."""

    IDLE = "idle"  # not started
    CONNECTING = "connecting"
    FOLLOWING = "following"  # in the queue for the lock, or between two attempts to take it
    CONFIRMING = "confirming"  # holds the lock; its epoch is not committed
    LEADING = "leading"
    RESIGNING = "resigning"  # leads no more; gives the lock back
    HELD_OFF = "held-off"  # connected, but does not ask for the lock for a while
    PAUSED = "paused"  # without a session, until the next attempt to connect
    STOPPING = "stopping"  # gives the lock back for the last time
    STOPPED = "stopped"


class Signal(Enum):
    """What happens to a candidate: orders, answers of the store, and times that come."""

    START = "start"
    STOP = "stop"
    RESIGN = "resign"

    CONNECTED = "connected"
    CONNECTED_EARLY = "connected, and held off"
    CONNECT_FAILED = "connect failed"
    REFUSED = "refused for good"
    SESSION_LOST = "session lost"
    GRANTED = "granted"
    GRANTED_LATE = "granted too late"
    DENIED = "denied"
    ACKED = "keepalive acknowledged"
    EPOCH_COMMITTED = "epoch committed"
    EPOCH_FAILED = "epoch failed"
    SUPERSEDED = "superseded"
    RELEASED = "released"

    RETRY_DUE = "time to connect again"
    ASK_DUE = "time to ask for the lock"
    KEEPALIVE_DUE = "time for a keepalive"
    EXPIRED = "no answer for too long"
    EPOCH_OVERDUE = "the epoch takes too long"
    RELEASE_OVERDUE = "giving the lock back takes too long"
    HOLD_OFF_OVER = "held off long enough"


class Action(Enum):
    """What the candidate's shell has to do. All but CUT are answered by a signal."""

    CONNECT = "connect"  # CONNECTED, CONNECT_FAILED or REFUSED
    ASK = "ask for the lock"  # GRANTED or DENIED
    KEEPALIVE = "send a keepalive"  # ACKED
    RAISE_EPOCH = "raise the epoch"  # EPOCH_COMMITTED or EPOCH_FAILED
    RELEASE = "give the lock back"  # RELEASED
    CUT = "cut the session"  # at once, without asking anybody; nothing of it is heard of again


class Step(NamedTuple):
    """One entry of the table."""

    to: State
    actions: tuple[Action, ...] = ()


class IllegalSignal(AssertionError):
    """A signal that cannot occur in this state: a defect of the shell. Nothing has changed."""


_DOWN = Step(State.PAUSED, (Action.CUT,))
_END = Step(State.STOPPED, (Action.CUT,))

TABLE: dict[tuple[State, Signal], Step] = {
    (State.IDLE, Signal.START): Step(State.CONNECTING, (Action.CONNECT,)),
    (State.IDLE, Signal.STOP): Step(State.STOPPED),
    (State.CONNECTING, Signal.CONNECTED): Step(State.FOLLOWING),
    (State.CONNECTING, Signal.CONNECTED_EARLY): Step(State.HELD_OFF),
    (State.CONNECTING, Signal.CONNECT_FAILED): _DOWN,
    (State.CONNECTING, Signal.SESSION_LOST): _DOWN,
    (State.CONNECTING, Signal.EXPIRED): _DOWN,
    (State.CONNECTING, Signal.REFUSED): _END,
    (State.CONNECTING, Signal.STOP): _END,
    (State.FOLLOWING, Signal.ASK_DUE): Step(State.FOLLOWING, (Action.ASK,)),
    (State.FOLLOWING, Signal.DENIED): Step(State.FOLLOWING),
    (State.FOLLOWING, Signal.ACKED): Step(State.FOLLOWING),
    (State.FOLLOWING, Signal.GRANTED): Step(State.CONFIRMING, (Action.RAISE_EPOCH,)),
    (State.FOLLOWING, Signal.GRANTED_LATE): _DOWN,
    (State.FOLLOWING, Signal.SESSION_LOST): _DOWN,
    (State.FOLLOWING, Signal.EXPIRED): _DOWN,
    (State.FOLLOWING, Signal.REFUSED): _END,
    (State.FOLLOWING, Signal.STOP): _END,
    (State.CONFIRMING, Signal.EPOCH_COMMITTED): Step(State.LEADING),
    (State.CONFIRMING, Signal.KEEPALIVE_DUE): Step(State.CONFIRMING, (Action.KEEPALIVE,)),
    (State.CONFIRMING, Signal.ACKED): Step(State.CONFIRMING),
    (State.CONFIRMING, Signal.EPOCH_FAILED): _DOWN,
    (State.CONFIRMING, Signal.EPOCH_OVERDUE): _DOWN,
    (State.CONFIRMING, Signal.SESSION_LOST): _DOWN,
    (State.CONFIRMING, Signal.EXPIRED): _DOWN,
    (State.CONFIRMING, Signal.RESIGN): _DOWN,
    (State.CONFIRMING, Signal.REFUSED): _END,
    (State.CONFIRMING, Signal.STOP): _END,
    (State.LEADING, Signal.KEEPALIVE_DUE): Step(State.LEADING, (Action.KEEPALIVE,)),
    (State.LEADING, Signal.ACKED): Step(State.LEADING),
    (State.LEADING, Signal.EXPIRED): _DOWN,
    (State.LEADING, Signal.SESSION_LOST): _DOWN,
    (State.LEADING, Signal.SUPERSEDED): _DOWN,
    (State.LEADING, Signal.REFUSED): _END,
    (State.LEADING, Signal.RESIGN): Step(State.RESIGNING, (Action.RELEASE,)),
    (State.LEADING, Signal.STOP): Step(State.STOPPING, (Action.RELEASE,)),
    (State.RESIGNING, Signal.ACKED): Step(State.RESIGNING),
    (State.RESIGNING, Signal.RELEASED): Step(State.HELD_OFF),
    (State.RESIGNING, Signal.RELEASE_OVERDUE): _DOWN,
    (State.RESIGNING, Signal.SESSION_LOST): _DOWN,
    (State.RESIGNING, Signal.REFUSED): _END,
    (State.RESIGNING, Signal.STOP): Step(State.STOPPING),
    (State.HELD_OFF, Signal.HOLD_OFF_OVER): Step(State.FOLLOWING),
    (State.HELD_OFF, Signal.KEEPALIVE_DUE): Step(State.HELD_OFF, (Action.KEEPALIVE,)),
    (State.HELD_OFF, Signal.ACKED): Step(State.HELD_OFF),
    (State.HELD_OFF, Signal.EXPIRED): _DOWN,
    (State.HELD_OFF, Signal.SESSION_LOST): _DOWN,
    (State.HELD_OFF, Signal.REFUSED): _END,
    (State.HELD_OFF, Signal.STOP): _END,
    (State.PAUSED, Signal.RETRY_DUE): Step(State.CONNECTING, (Action.CONNECT,)),
    (State.PAUSED, Signal.STOP): Step(State.STOPPED),
    (State.STOPPING, Signal.ACKED): Step(State.STOPPING),
    (State.STOPPING, Signal.RELEASED): _END,
    (State.STOPPING, Signal.RELEASE_OVERDUE): _END,
    (State.STOPPING, Signal.SESSION_LOST): _END,
    (State.STOPPING, Signal.REFUSED): _END,
    (State.STOPPING, Signal.STOP): Step(State.STOPPING),
    (State.STOPPED, Signal.STOP): Step(State.STOPPED),
}

_ANSWERS = frozenset({Signal.GRANTED, Signal.DENIED, Signal.ACKED})
"""Signals that end the request under way, and prove that the session lived when it was sent."""
_WITHOUT_LOCK = frozenset({Signal.CONNECTED, Signal.CONNECTED_EARLY, Signal.RELEASED})
"""Signals of a session that lives and holds nothing: there is no claim that time could outlast."""
_ORDERS = frozenset({Signal.START, Signal.STOP, Signal.RESIGN})
"""Signals that come from outside, and belong to no session."""


class Elector:
    """One candidate's mind. All times are monotonic seconds of one clock, and never go back."""

    def __init__(self, timers: Timers, rng: random.Random) -> None:
        self.timers = timers
        self.state = State.IDLE
        self.session = 0  # number of the session; answers of an earlier one are dropped
        self.epoch: Epoch | None = None  # of the leadership, while leading
        self.why = ""  # the reason for the last step down
        self._rng = rng
        self._now = float("-inf")
        self._entered_at = 0.0
        self._sent_at = 0.0  # when the last request of the session was sent
        self._proved_at = 0.0  # when the last request that was answered was sent
        self._in_flight = False
        self._ask_at = 0.0
        self._retry_at = 0.0
        self._hold_off_until = float("-inf")
        self._failures = 0

    # -- what the candidate may rely on ----------------------------------------------------------------------------

    @property
    def valid_until(self) -> float:
        """Until when the lock is certainly this session's, if it is at all."""
        return self._proved_at + self.timers.demote_after

    def leads(self, now: float) -> bool:
        """Whether this node may act as leader at this moment."""
        return self.state is State.LEADING and now < self.valid_until

    def next_deadline(self) -> float | None:
        """When `tick` has to be called at the latest."""
        return min((at for at, _ in self._deadlines()), default=None)

    # -- what happens to it ----------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """Deal with the times that came. Returns what to do, in order."""
        assert now >= self._now, "the clock went back"
        self._now = now
        actions: list[Action] = []
        while True:
            due = min(
                ((at, signal) for at, signal in self._deadlines() if at <= now),
                key=lambda entry: (entry[1] is not Signal.EXPIRED, entry[0]),
                default=None,
            )
            if due is None:
                return actions
            actions = _followed_by(actions, self._take(due[1], why=due[1].value))

    def handle(
        self,
        signal: Signal,
        now: float,
        *,
        session: int = 0,
        why: str = "",
        epoch: Epoch | None = None,
        hold_off_s: float = 0.0,
    ) -> list[Action]:
        """Deal with the times that came, and then with the signal. Returns what to do, in order.

        ``session``: the one that an answer belongs to; answers of an earlier one are dropped. ``epoch``: with
        EPOCH_COMMITTED. ``hold_off_s``: with RESIGN. Raises `IllegalSignal` for what cannot occur, changing nothing.
        """
        if signal not in _ORDERS and session != self.session:
            return []
        if (self.state, signal) not in TABLE:
            raise IllegalSignal(f"{signal.value!r} in state {self.state.value!r}")
        before = self.session
        actions = self.tick(now)
        overtaken = self.session != before and signal not in _ORDERS
        if overtaken or (self.state, signal) not in TABLE:
            return actions  # a time that came first has made it void
        if signal is Signal.CONNECTED and now < self._hold_off_until:
            signal = Signal.CONNECTED_EARLY
        if signal is Signal.GRANTED and now >= self._sent_at + self.timers.demote_after:
            signal = Signal.GRANTED_LATE
        if signal is Signal.RESIGN:
            self._hold_off_until = now + hold_off_s
        if signal is Signal.EPOCH_COMMITTED:
            assert epoch is not None, "a committed epoch has a value"
            self.epoch = epoch
        return _followed_by(actions, self._take(signal, why or signal.value))

    # -- steps -----------------------------------------------------------------------------------------------------

    def _take(self, signal: Signal, why: str) -> list[Action]:
        step = TABLE[self.state, signal]
        now = self._now
        if signal in _ANSWERS:
            self._in_flight = False
            self._proved_at = self._sent_at
        if signal in _WITHOUT_LOCK:
            self._in_flight = False
            self._sent_at = self._proved_at = now
        if signal is Signal.DENIED:
            self._ask_at = max(now, self._sent_at + (self.timers.campaign or 0.0))
        if signal in (Signal.DENIED, Signal.EPOCH_COMMITTED):
            self._failures = 0
        if step.to is not self.state:
            self._enter(step.to, why)
        for action in step.actions:
            self._note(action)
        return list(step.actions)

    def _enter(self, state: State, why: str) -> None:
        if state is not State.LEADING:
            self.epoch = None
        if state in (State.PAUSED, State.STOPPED, State.RESIGNING, State.STOPPING):
            self.why = why
        if state is State.FOLLOWING:
            self._ask_at = self._now
        if state is State.PAUSED:
            longest = min(self.timers.retry_max, self.timers.retry_first * 2.0 ** min(self._failures, 30))
            self._retry_at = self._now + longest * self._rng.uniform(0.5, 1.0)
            self._failures += 1
        self.state = state
        self._entered_at = self._now

    def _note(self, action: Action) -> None:
        if action in (Action.CONNECT, Action.CUT):
            self.session += 1
            self._in_flight = False
        if action in (Action.CONNECT, Action.ASK, Action.KEEPALIVE):
            self._in_flight = True
            self._sent_at = self._now

    def _deadlines(self) -> Iterator[tuple[float, Signal]]:
        """The times that count in this state."""
        state, timers = self.state, self.timers
        if state is State.PAUSED:
            yield self._retry_at, Signal.RETRY_DUE
        elif state is State.CONNECTING:
            yield self._entered_at + timers.connect_timeout, Signal.EXPIRED
        elif state is State.FOLLOWING:
            if self._in_flight:
                queue = 0.0 if timers.polls else timers.lock_timeout
                yield self._sent_at + queue + timers.demote_after, Signal.EXPIRED
            else:
                yield self._ask_at, Signal.ASK_DUE
        elif state in (State.RESIGNING, State.STOPPING):
            yield self._entered_at + timers.demote_after, Signal.RELEASE_OVERDUE
        elif state in (State.CONFIRMING, State.LEADING, State.HELD_OFF):
            yield self.valid_until, Signal.EXPIRED
            if not self._in_flight:
                yield self._sent_at + timers.keepalive, Signal.KEEPALIVE_DUE
            if state is State.CONFIRMING:
                yield self._entered_at + timers.epoch_timeout, Signal.EPOCH_OVERDUE
            if state is State.HELD_OFF:
                yield self._hold_off_until, Signal.HOLD_OFF_OVER


def _followed_by(actions: list[Action], more: list[Action]) -> list[Action]:
    """What is left to do: a session that is cut at once needs nothing sent before."""
    return more if Action.CUT in more else actions + more
