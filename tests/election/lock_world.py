"""A model of a lock server and its candidates: every clock has its own rate, every message its own delay.

The server does what PostgreSQL does, no more: a queue for the lock, sessions that end when they are idle for too long,
waiters that leave the queue in time, a row with the newest epoch. Messages of one session arrive in order, when the
test says so, or never. The elector is the real one.
"""

import random
from collections import deque
from typing import NamedTuple

from plasmacloud.election.elector import Action, Elector, Signal, State
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.timers import Timers

TINY_S = 1e-6


class Mail(NamedTuple):
    """A message between a node's session and the server. ``body``: an action, a signal, or ``end of session``."""

    node: int
    session: int
    body: object
    epoch: Epoch | None = None


class ServerSession:
    """What the server knows of one session."""

    def __init__(self, now: float) -> None:
        self.done_at = now
        self.waiting_since: float | None = None


class Node:
    """One candidate, and the two directions of its connection."""

    def __init__(self, number: int, timers: Timers, rate: float, offset: float) -> None:
        self.number = number
        self.elector = Elector(timers, random.Random(number))
        self.rate = rate
        self.offset = offset
        self.frozen = False
        self.to_server: deque[Mail] = deque()
        self.to_node: deque[Mail] = deque()

    def clock(self, now: float) -> float:
        """The node's own time."""
        return self.offset + self.rate * now

    def leads(self, now: float) -> bool:
        """What the node would answer if it were asked at this moment."""
        return self.elector.leads(self.clock(now))


class World:
    """True time, one server, some nodes."""

    def __init__(self, timers: Timers, rates: list[float], server_rate: float) -> None:
        self.now = 0.0
        self.timers = timers
        self.server_rate = server_rate
        self.nodes = [Node(i, timers, rate, 100.0 * i) for i, rate in enumerate(rates)]
        self.sessions: dict[tuple[int, int], ServerSession] = {}
        self.queue: list[tuple[int, int]] = []
        self.holder: tuple[int, int] | None = None
        self.terminated: set[tuple[int, int]] = set()
        self.epoch = Epoch(1, 0)
        self.raised: list[tuple[Epoch, int]] = []
        for node in self.nodes:
            self._do(node, node.elector.handle(Signal.START, node.clock(self.now)))

    # -- nodes -----------------------------------------------------------------------------------------------------

    def order(self, node: Node, signal: Signal, hold_off_s: float = 0.0) -> None:
        """RESIGN or STOP, where the elector takes it."""
        self._do(node, node.elector.handle(signal, node.clock(self.now), hold_off_s=hold_off_s))

    def deliver_to_node(self, node: Node) -> None:
        """The next message, unless the node is frozen or there is none."""
        if node.frozen or not node.to_node:
            return
        mail = node.to_node.popleft()
        assert isinstance(mail.body, Signal)
        now = node.clock(self.now)
        self._do(node, node.elector.handle(mail.body, now, session=mail.session, epoch=mail.epoch))

    def _do(self, node: Node, actions: list[Action]) -> None:
        number = node.elector.session
        for action in actions:
            if action is Action.CUT:
                node.to_server.append(Mail(node.number, number - 1, "end of session"))
            else:
                node.to_server.append(Mail(node.number, number, action))

    # -- the server ------------------------------------------------------------------------------------------------

    def deliver_to_server(self, node: Node) -> None:
        """The next message; a session in the queue is answered later, and what follows on it waits."""
        if not node.to_server:
            return
        mail = node.to_server[0]
        key = mail.node, mail.session
        if mail.body is Action.RAISE_EPOCH:
            node.to_server.popleft()
            self._raise(node, mail)
            return
        session = self.sessions.get(key)
        if session is not None and session.waiting_since is not None and mail.body != "end of session":
            return
        node.to_server.popleft()
        if mail.body is Action.CONNECT:
            self.sessions[key] = ServerSession(self.now)
            self._answer(node, mail, Signal.CONNECTED)
        elif mail.body == "end of session":
            self.end(key, tell=False)
        elif session is None:
            self._answer(node, mail, Signal.SESSION_LOST)
        else:
            self._serve(node, mail, key, session)
        self._grant()

    def _serve(self, node: Node, mail: Mail, key: tuple[int, int], session: ServerSession) -> None:
        session.done_at = self.now
        if mail.body is Action.ASK:
            session.waiting_since = self.now
            self.queue.append(key)
            if self.timers.polls and (self.holder is not None or self.queue[0] != key):
                self._deny(key)
        elif mail.body is Action.KEEPALIVE:
            self._answer(node, mail, Signal.ACKED)
        else:
            assert mail.body is Action.RELEASE
            if self.holder == key:
                self.holder = None
            self._answer(node, mail, Signal.RELEASED)

    def _raise(self, node: Node, mail: Mail) -> None:
        if self.holder != (mail.node, mail.session):
            self._answer(node, mail, Signal.EPOCH_FAILED)
            return
        self.epoch = Epoch(1, self.epoch.number + 1)
        self.raised.append((self.epoch, node.number))
        node.to_node.append(Mail(mail.node, mail.session, Signal.EPOCH_COMMITTED, self.epoch))

    def _grant(self) -> None:
        if self.holder is None and self.queue:
            key = self.holder = self.queue.pop(0)
            self._settle(key, Signal.GRANTED)

    def _deny(self, key: tuple[int, int]) -> None:
        self.queue.remove(key)
        self._settle(key, Signal.DENIED)

    def _settle(self, key: tuple[int, int], answer: Signal) -> None:
        session = self.sessions[key]
        session.waiting_since, session.done_at = None, self.now
        self.nodes[key[0]].to_node.append(Mail(*key, answer))

    def _answer(self, node: Node, mail: Mail, signal: Signal) -> None:
        node.to_node.append(Mail(mail.node, mail.session, signal))

    def end(self, key: tuple[int, int], *, tell: bool) -> None:
        """The session is over: its lock is free, its place in the queue too."""
        if self.sessions.pop(key, None) is None:
            return
        if key in self.queue:
            self.queue.remove(key)
        if self.holder == key:
            self.holder = None
        if tell:
            self.nodes[key[0]].to_node.append(Mail(*key, Signal.SESSION_LOST))
        self._grant()

    def terminate(self, key: tuple[int, int]) -> None:
        """The server ends a session before its time, as an operator or a crash does."""
        self.terminated.add(key)
        self.end(key, tell=True)

    # -- time ------------------------------------------------------------------------------------------------------

    def advance(self, seconds: float, *, prompt: bool) -> None:
        """Let time pass, with every timer at its time. ``prompt``: messages arrive at once, as far as nodes run."""
        end = self.now + seconds
        while True:
            if prompt:
                self._deliver_everything()
            self.now = min(end, max(self.now + TINY_S, self._next_event()))
            self._server_timers()
            for node in self.nodes:
                if not node.frozen:
                    self._do(node, node.elector.tick(node.clock(self.now)))
            if self.now >= end:
                return

    def _deliver_everything(self) -> None:
        for _ in range(100):
            before = [(len(n.to_server), len(n.to_node)) for n in self.nodes]
            for node in self.nodes:
                self.deliver_to_server(node)
                self.deliver_to_node(node)
            if before == [(len(n.to_server), len(n.to_node)) for n in self.nodes]:
                return

    def _next_event(self) -> float:
        times = [self._server_deadline(session) for session in self.sessions.values()]
        for node in self.nodes:
            deadline = node.elector.next_deadline()
            if deadline is not None and not node.frozen:
                times.append((deadline - node.offset) / node.rate + TINY_S)
        return min(times, default=float("inf"))

    def _server_deadline(self, session: ServerSession) -> float:
        if session.waiting_since is not None:
            return session.waiting_since + self.timers.lock_timeout / self.server_rate
        return session.done_at + self.timers.session_timeout / self.server_rate

    def _server_timers(self) -> None:
        for key, session in list(self.sessions.items()):
            if key in self.sessions and self.now >= self._server_deadline(session):
                if session.waiting_since is not None:
                    self._deny(key)
                else:
                    self.end(key, tell=True)

    # -- what must hold --------------------------------------------------------------------------------------------

    def leaders(self) -> list[Node]:
        """Who would answer *I lead* at this moment."""
        return [node for node in self.nodes if node.leads(self.now)]

    def leaders_by_their_timers(self) -> list[Node]:
        """As `leaders`, without those that have not heard yet that the server ended their session before its time."""
        return [node for node in self.leaders() if (node.number, node.elector.session) not in self.terminated]

    def heal(self) -> None:
        """Everybody runs, and is in time."""
        for node in self.nodes:
            node.frozen = False
        self.advance(30.0, prompt=True)

    def contending(self) -> list[Node]:
        """Who has not been stopped."""
        return [n for n in self.nodes if n.elector.state is not State.STOPPED]
