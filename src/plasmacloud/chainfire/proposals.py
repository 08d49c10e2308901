"""Commands on their way into the log: each is executed at most once, wherever it has to be sent again.

Every member numbers the commands that its own clients gave it: 1, 2, 3 … within its incarnation. It sends them in
order to whoever leads (itself included), and sends all unanswered ones again, from the oldest, when the leader
changes, when the connection to it was lost, or when nothing has been heard for a while. The state machine keeps the
last number it executed for each member and ignores the ones it has seen, so sending again is always safe, and a write
survives the death of the leader without its client noticing more than a delay.

A command gets its number when it is first sent. Until then it has certainly not been executed, and its client can be
told so. Afterwards nobody but the log knows, and giving up means saying that the outcome is unknown. The command
itself stays queued even then: its number must not become a gap, which would block the ones behind it.

Pure: the time is an argument (seconds, monotonic).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from plasmacloud.base.errors import PlasmaError

W = TypeVar("W")

Command = tuple[int, bytes]  # (kind, body), as commands.py encodes them


class Overloaded(PlasmaError):
    """Too many commands wait already. The refused one was not executed."""


class Batch(NamedTuple):
    """Commands with consecutive numbers, in the order of their numbers."""

    first_seq: int
    commands: Sequence[Command]


class _Held(Generic[W]):
    """A command that waits, unsent or in flight."""

    __slots__ = ("command", "deadline", "size_bytes", "waiter")

    def __init__(self, command: Command, size_bytes: int, waiter: W, deadline: float) -> None:
        self.command = command
        self.size_bytes = size_bytes
        self.waiter: W | None = waiter  # None: its client has been told that the outcome is unknown
        self.deadline = deadline


class ProposalQueue(Generic[W]):
    """The commands of one member's clients. ``W`` is whatever the caller wants back when a command is answered.

    Invariant: the commands in flight have the numbers ``_next_seq - len(in flight) … _next_seq - 1``.
    """

    def __init__(self, *, max_commands: int, max_bytes: int, is_gone: Callable[[W], bool] = lambda _: False) -> None:
        """``is_gone`` tells that nobody waits any more: a command that was not sent by then is dropped."""
        self._is_gone = is_gone
        self.max_commands = max_commands
        self._max_bytes = max_bytes
        self._unsent: deque[_Held[W]] = deque()
        self._in_flight: deque[_Held[W]] = deque()
        self._next_seq = 1
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._unsent) + len(self._in_flight)

    @property
    def unsent_count(self) -> int:
        """Commands that have not been sent to any leader."""
        return len(self._unsent)

    @property
    def in_flight_count(self) -> int:
        """Commands that were sent and are not answered."""
        return len(self._in_flight)

    @property
    def size_bytes(self) -> int:
        """Bytes of all commands held."""
        return self._bytes

    @property
    def full(self) -> bool:
        """Whether the next command would be refused for want of a place."""
        return len(self._unsent) + len(self._in_flight) >= self.max_commands

    @property
    def oldest_deadline(self) -> float:
        """When the oldest command in flight gives up; deadlines lie one patience behind arrivals."""
        return self._in_flight[0].deadline

    def submit(self, kind: int, body: bytes, waiter: W, deadline: float) -> None:
        """Queue a command. Raises `Overloaded` when the queue is full."""
        size = len(body)
        if len(self._unsent) + len(self._in_flight) >= self.max_commands or self._bytes + size > self._max_bytes:
            raise Overloaded(f"{len(self)} commands of {self._bytes} bytes are waiting")
        self._bytes += size
        self._unsent.append(_Held((kind, body), size, waiter, deadline))

    def take(self, max_bytes: int) -> Batch | None:
        """Number the oldest unsent commands, up to ``max_bytes`` but at least one, for sending now."""
        first_seq = self._next_seq
        commands: list[Command] = []
        unsent, is_gone, send = self._unsent, self._is_gone, self._in_flight.append
        size = 0
        while unsent and (not commands or size + unsent[0].size_bytes <= max_bytes):
            held = unsent.popleft()
            assert held.waiter is not None
            if is_gone(held.waiter):
                self._bytes -= held.size_bytes
                continue
            size += held.size_bytes
            commands.append(held.command)
            send(held)
        self._next_seq += len(commands)
        return Batch(first_seq, commands) if commands else None

    def again(self, max_bytes: int) -> Iterator[Batch]:
        """Everything in flight, oldest first, in batches of up to ``max_bytes`` (but at least one command)."""
        seq = self._next_seq - len(self._in_flight)
        commands: list[Command] = []
        size = 0
        for item in self._in_flight:
            if commands and size + item.size_bytes > max_bytes:
                yield Batch(seq, commands)
                seq += len(commands)
                commands, size = [], 0
            commands.append(item.command)
            size += item.size_bytes
        if commands:
            yield Batch(seq, commands)

    def executed(self, seq: int) -> W | None:
        """The state machine has executed command ``seq``: who waits for its result?

        None when the waiter was answered before. Commands are executed in the order of their numbers, so ``seq`` is
        the oldest one in flight.
        """
        assert self._in_flight, "executed a command that was never sent"
        assert seq == self._next_seq - len(self._in_flight), "commands executed out of order"
        item = self._in_flight.popleft()
        self._bytes -= item.size_bytes
        return item.waiter

    def executed_elsewhere(self, last_seq: int) -> list[W]:
        """State arrived that includes all commands up to ``last_seq`` but not their results: who waited for them?"""
        waiters: list[W] = []
        while self._in_flight and self._next_seq - len(self._in_flight) <= last_seq:
            waiter = self.executed(self._next_seq - len(self._in_flight))
            if waiter is not None:
                waiters.append(waiter)
        return waiters

    def expire(self, now: float) -> tuple[list[W], list[W]]:
        """Give up on waiters whose deadline has passed: (certainly not executed, outcome unknown).

        Looks at the oldest only, in both queues: deadlines are given in the order of submission.
        """
        not_executed: list[W] = []
        while self._unsent and self._unsent[0].deadline <= now:
            item = self._unsent.popleft()
            self._bytes -= item.size_bytes
            if item.waiter is not None:
                not_executed.append(item.waiter)
        unknown: list[W] = []
        for flying in self._in_flight:
            if flying.deadline > now:
                break
            if flying.waiter is not None:
                unknown.append(flying.waiter)
                flying.waiter = None
        return not_executed, unknown

    def refuse_unsent(self) -> list[W]:
        """Drop all commands that were never sent, and return their waiters."""
        waiters = [item.waiter for item in self._unsent if item.waiter is not None]
        self._bytes -= sum(item.size_bytes for item in self._unsent)
        self._unsent.clear()
        return waiters

    def abandon(self) -> list[W]:
        """The member stops: the waiters of everything in flight, whose outcome stays unknown."""
        waiters = [item.waiter for item in self._in_flight if item.waiter is not None]
        for item in self._in_flight:
            item.waiter = None
        return waiters
