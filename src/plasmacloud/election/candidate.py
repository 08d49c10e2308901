"""The shell around the elector: a session with a store, one timer, and the order in which things are said.

Whatever the elector decides, the role changes first: before anything is awaited, before the session is cut, whoever
asks gets the new answer, and those who registered are called. Only then the actions are carried out, each as a task of
its session. When a session is cut, its tasks may end as they like; nobody listens to them any more.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from plasmacloud.base.errors import PlasmaError
from plasmacloud.base.logging import get_logger
from plasmacloud.election.elector import Action, Elector, Signal, State
from plasmacloud.election.errors import ElectionRefused, ElectionUnavailable
from plasmacloud.election.leadership import Epoch, Leadership, OnChange, OnKeepalive, Role
from plasmacloud.election.timers import Timers

_log = get_logger("election")
_TASKS_END_WITHIN_S = 1.0
_HINTS = {
    Signal.EPOCH_OVERDUE.value: "another transaction keeps the election's row, or the commit waits for a synchronous "
    "standby that is not there; pg_stat_activity shows which",
    Signal.EXPIRED.value: "the store, or the network between, stands still",
}


class Sighting(NamedTuple):
    """What the store says about the leadership. ``holder_id``: empty when nobody holds it at the moment."""

    holder_id: str
    epoch: Epoch | None


class Session(Protocol):
    """One session with a store. Its calls raise `ElectionError`, and end soon after `cut`."""

    async def connect(self) -> None:
        """Be ready for everything below."""
        ...

    async def ask(self) -> bool:
        """Try to get the lock; whether it was granted."""
        ...

    async def keepalive(self) -> None:
        """Show the store that this session lives, and see that it does."""
        ...

    async def raise_epoch(self) -> Epoch:
        """Commit a new epoch, which must not be possible without the lock."""
        ...

    async def release(self, epoch: Epoch) -> None:
        """Give the lock back, and note the end of the epoch."""
        ...

    def cut(self) -> None:
        """Drop every connection now, without a word to the server. May be called repeatedly."""
        ...


class Listener(NamedTuple):
    """Whom a session tells what it was not asked for."""

    lost: Callable[[str], None]  # the session ended; why
    seen: Callable[[Sighting], None]


OpenSession = Callable[[Listener], Session]
_ROLES = {
    State.IDLE: Role.STOPPED,
    State.CONFIRMING: Role.CANDIDATE,
    State.LEADING: Role.LEADER,
    State.STOPPING: Role.STOPPED,
    State.STOPPED: Role.STOPPED,
}


class SessionCandidate:
    """A `Candidate` on whatever store its sessions speak with. Use it on one event loop, once."""

    def __init__(
        self,
        open_session: OpenSession,
        *,
        node_id: str,
        timers: Timers,
        on_change: OnChange | None = None,
        on_keepalive: OnKeepalive | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.node_id = node_id
        self.timers = timers
        self._open_session = open_session
        self._on_change = on_change
        self._on_keepalive = on_keepalive
        self._elector = Elector(timers, rng or random.Random())
        self._session: Session | None = None
        self._sighting = Sighting("", None)
        self._role = Role.STOPPED
        self._since = time.time()
        self._told: Leadership | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._refusal: Exception | None = None
        self._last_problem = ""
        self._releasing: Epoch | None = None

    # -- the interface of a candidate ------------------------------------------------------------------------------

    @property
    def leadership(self) -> Leadership:
        """See `Candidate.leadership`."""
        elector, now = self._elector, time.monotonic()
        role = _ROLES.get(elector.state, Role.FOLLOWER)
        if role is Role.LEADER:
            if elector.leads(now):
                return self._view(role, self.node_id, elector.epoch, elector.valid_until)
            role = Role.FOLLOWER
        holder = self._sighting.holder_id
        return self._view(role, "" if holder == self.node_id else holder, self._sighting.epoch, 0.0)

    @property
    def problem(self) -> str:
        """Why the last attempt to use the store failed; empty when all is well."""
        return self._last_problem

    async def run(self) -> None:
        """See `Candidate.run`. Cancelling it gives leadership up without a word to the store."""
        if self._is_in(State.STOPPED):
            return
        self._feed(Signal.START)
        try:
            await self._until(State.STOPPED)
        finally:
            self._abandon()
            if self._timer is not None:
                self._timer.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_TASKS_END_WITHIN_S)
        if self._refusal is not None:
            raise self._refusal

    async def stop(self) -> None:
        """See `Candidate.stop`."""
        self._feed(Signal.STOP)
        await self._until(State.STOPPED)

    async def resign(self, hold_off_s: float) -> bool:
        """See `Candidate.resign`."""
        if not self._is_in(State.LEADING, State.CONFIRMING):
            return False
        self._feed(Signal.RESIGN, hold_off_s=hold_off_s)
        while self._is_in(State.RESIGNING):
            await self._changed.wait()
        return True

    def _abandon(self) -> None:
        """End without a word to the store, if `run` did not end by itself."""
        if not self._is_in(State.IDLE, State.PAUSED, State.STOPPED):
            self._feed(Signal.SESSION_LOST, session=self._elector.session, why="the candidate was cancelled")
        self._feed(Signal.STOP)

    # -- the machine -----------------------------------------------------------------------------------------------

    def _feed(
        self,
        signal: Signal,
        *,
        session: int = 0,
        why: str = "",
        epoch: Epoch | None = None,
        hold_off_s: float = 0.0,
    ) -> None:
        held = self._elector.epoch
        actions = self._elector.handle(
            signal, time.monotonic(), session=session, why=why, epoch=epoch, hold_off_s=hold_off_s
        )
        self._after(actions, held)

    def _on_time(self) -> None:
        self._timer = None
        held = self._elector.epoch
        self._after(self._elector.tick(time.monotonic()), held)

    def _after(self, actions: list[Action], held: Epoch | None) -> None:
        """The elector has moved on; ``held``: the epoch that it led with before."""
        elector = self._elector
        if held is not None and elector.epoch is None:
            self._releasing = held
            self._report_end(held)
        elif held is None and elector.epoch is not None:
            self._sighting = Sighting(self.node_id, elector.epoch)
            _log.info("acquired leadership", holder=self.node_id, epoch=str(elector.epoch))
        if elector.state is State.PAUSED and Action.CUT in actions and elector.why != Signal.RESIGN.value:
            self._note_problem(elector.why, _HINTS.get(elector.why))
        if elector.state in (State.PAUSED, State.CONNECTING, State.STOPPED):
            self._sighting = Sighting("", self._sighting.epoch)
        self._tell()
        for action in actions:
            self._carry_out(action)
        self._changed.set()
        self._changed = asyncio.Event()
        if self._timer is not None:
            self._timer.cancel()
        deadline = elector.next_deadline()
        self._timer = None
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._on_time)

    def _report_end(self, held: Epoch) -> None:
        if self._elector.state in (State.RESIGNING, State.STOPPING):
            _log.info("resigned leadership", holder=self.node_id, epoch=str(held))
        else:
            why = self._elector.why or "stopped"
            _log.warning("lost leadership", holder=self.node_id, epoch=str(held), why=why)

    def _tell(self) -> None:
        role = _ROLES.get(self._elector.state, Role.FOLLOWER)
        if role is not self._role:
            self._role, self._since = role, time.time()
        view = self.leadership
        told, self._told = self._told, view
        if told is not None and (told.role, told.leader_id, told.epoch) == (view.role, view.leader_id, view.epoch):
            return
        if self._on_change is not None:
            try:
                self._on_change(view)
            except Exception:  # noqa: BLE001 - whoever listens must not keep a leader in office
                _log.error("a listener failed", exc_info=True)

    def _view(self, role: Role, leader_id: str, epoch: Epoch | None, valid_until: float) -> Leadership:
        return Leadership(
            node_id=self.node_id,
            role=role,
            leader_id=leader_id,
            epoch=epoch,
            since=self._since,
            valid_until=valid_until,
        )

    # -- effects ---------------------------------------------------------------------------------------------------

    def _carry_out(self, action: Action) -> None:
        if action is Action.CUT:
            self._cut()
            return
        number = self._elector.session
        if action is Action.CONNECT:
            self._session = self._open_session(
                Listener(
                    lost=lambda why: self._lost(number, why),
                    seen=lambda sighting: self._seen(number, sighting),
                )
            )
        assert self._session is not None, f"{action.value}: there is no session"
        task = asyncio.get_running_loop().create_task(self._answer(action, self._session, number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cut(self) -> None:
        if self._session is not None:
            self._session.cut()
            self._session = None

    async def _answer(self, action: Action, session: Session, number: int) -> None:
        """Carry one action out, and feed what came of it."""
        try:
            await self._perform(action, session, number)
        except ElectionRefused as refusal:
            if self._is_current(number):
                self._refusal = refusal
                _log.error("the store cannot be used", problem=str(refusal), hint=refusal.hint)
                self._feed(Signal.REFUSED, session=number, why=str(refusal))
        except ElectionUnavailable as problem:
            self._failed(action, number, problem)
        except Exception as defect:  # noqa: BLE001 - run() raises it
            _log.error("a defect ends this candidate", doing=action.value, exc_info=True)
            if self._is_current(number):
                self._refusal = defect
                self._feed(Signal.REFUSED, session=number, why=repr(defect))

    async def _perform(self, action: Action, session: Session, number: int) -> None:
        if action is Action.CONNECT:
            await session.connect()
            self._feed(Signal.CONNECTED, session=number)
        elif action is Action.ASK:
            granted = await session.ask()
            if not granted:
                self._succeeded()
            self._feed(Signal.GRANTED if granted else Signal.DENIED, session=number)
        elif action is Action.KEEPALIVE:
            sent_at = time.monotonic()
            await session.keepalive()
            self._feed(Signal.ACKED, session=number)
            if self._on_keepalive is not None:
                self._on_keepalive(time.monotonic() - sent_at)
        elif action is Action.RAISE_EPOCH:
            epoch = await session.raise_epoch()
            self._succeeded()
            self._feed(Signal.EPOCH_COMMITTED, session=number, epoch=epoch)
        else:
            assert self._releasing is not None
            await session.release(self._releasing)
            self._feed(Signal.RELEASED, session=number)

    def _note_problem(self, problem: str, hint: str | None) -> None:
        if problem != self._last_problem:  # a store that is down for an hour is one line, not thousands
            _log.warning("the store cannot be used now", problem=problem, **({"hint": hint} if hint else {}))
        self._last_problem = problem

    def _succeeded(self) -> None:
        if self._last_problem:
            _log.info("the store can be used again")
        self._last_problem = ""

    def _failed(self, action: Action, number: int, problem: PlasmaError) -> None:
        if not self._is_current(number):
            return
        text = str(problem)
        self._note_problem(text, problem.hint)
        signals = {Action.CONNECT: Signal.CONNECT_FAILED, Action.RAISE_EPOCH: Signal.EPOCH_FAILED}
        self._feed(signals.get(action, Signal.SESSION_LOST), session=number, why=text)

    def _lost(self, number: int, why: str) -> None:
        if self._is_current(number):
            self._feed(Signal.SESSION_LOST, session=number, why=why)

    def _seen(self, number: int, sighting: Sighting) -> None:
        if not self._is_current(number):
            return
        own = self._elector.epoch
        if own is not None:
            if sighting.epoch is not None and sighting.epoch > own:
                why = f"epoch {sighting.epoch} was committed by {sighting.holder_id or 'another node'}"
                self._feed(Signal.SUPERSEDED, session=number, why=why)
            return
        self._sighting = sighting
        self._tell()

    def _is_current(self, number: int) -> bool:
        return number == self._elector.session

    async def _until(self, state: State) -> None:
        while not self._is_in(state):
            await self._changed.wait()

    def _is_in(self, *states: State) -> bool:
        return self._elector.state in states

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.node_id} {self._elector.state.value}>"
