"""Committed entries become state, and their results answers.

Every member applies every entry; the commands that came from its own clients are answered on the way.

An entry that takes long, because it deletes very many keys, is applied in slices, one in each turn of the pump:
heartbeats, votes, appends and reads are served in between, and see the state before it. Entries behind it wait, and so
does a checkpoint, which has to be that of a whole entry.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from plasmacloud.base.logging import get_logger
from plasmacloud.chainfire.lane import Lane
from plasmacloud.chainfire.proposing import Proposer
from plasmacloud.chainfire.state_machine import Results
from plasmacloud.chainfire.waiting import Waiter
from plasmacloud.storage.entry import Entry, EntryKind

if TYPE_CHECKING:
    from plasmacloud.chainfire.replica import Replica

_BUDGET_S = 0.005  # applying yields to heartbeats after this long

T = TypeVar("T")

log = get_logger("chainfire")


class Applier:
    """Belongs to one replica, which calls `run` once in each turn of its pump."""

    def __init__(self, replica: "Replica", proposer: Proposer, writes: Lane[Waiter], changes: Lane[Waiter]) -> None:
        self._replica = replica
        self._proposer = proposer
        self._machine = replica.machine
        self._raft = replica.raft
        self._writes = writes
        self._changes = changes
        self._loop = asyncio.get_running_loop()
        self._entries: deque[Entry] = deque()  # the first may be half applied
        self._waiting: list[Callable[[], None]] = []  # for a state that is whole

    def take(self, entries: Iterable[Entry]) -> None:
        """These are committed, and follow the ones before."""
        self._entries.extend(entries)

    def run(self) -> None:
        """Apply entries for a few milliseconds; the rest waits for the next turn."""
        entries = self._entries
        if not entries:
            return
        now = self._loop.time()
        until = now + _BUDGET_S
        origin = self._writes.session
        machine = self._machine
        answered = 0
        while entries:
            entry = entries[0]
            if entry.kind is EntryKind.MEMBERSHIP:
                self._apply_change(entry, now)
            else:
                results = machine.begin(entry, local_origin=origin) if machine.is_whole else machine.go_on()
                if results is None:
                    self._writes.put_off(now)
                    self._changes.put_off(now)
                    break
                self._answer(self._writes, results, now)
                answered += len(results)
            entries.popleft()
            self._raft.applied_to(entry.index)
            if self._waiting:
                self._tell_waiting()
            if self._loop.time() >= until:
                break
        self._proposer.applied(answered)
        if entries:
            self._replica.wake()

    async def when_whole(self, work: Callable[[], T]) -> T:
        """The result of ``work``, which is called at once or as soon as no entry is half applied.

        It may have been called although whoever waits for it has been cancelled meanwhile.
        """
        if self._machine.is_whole:
            return work()
        result: asyncio.Future[T] = self._loop.create_future()

        def call() -> None:
            if not result.done():
                result.set_result(work())

        self._waiting.append(call)
        return await result

    def _tell_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def _answer(self, lane: Lane[Waiter], results: Results, now: float) -> None:
        if not results:
            return
        if lane is self._writes:
            self._replica.note_executed(len(results), now)
        executed = lane.queue.executed
        for seq, result in results:
            waiter = executed(seq)
            if waiter is None:
                continue
            error = result.error
            try:
                if error is None:
                    waiter.reply(result.body)
                else:
                    self._replica.tally.commands_failed += 1
                    waiter.fail(error.code, error.message)
            except Exception:  # the state is as it should be: one client hears nothing, the replica goes on
                log.error("an answer could not be given", exc_info=True)
        lane.progressed(now)

    def _apply_change(self, entry: Entry, now: float) -> None:
        results = self._machine.apply_entry(entry, local_origin=self._changes.session)
        cluster, raft = self._machine.cluster, self._raft
        if cluster.conf != raft.conf:
            raft.apply_membership(cluster.conf)
            log.info("membership changed", members=", ".join(cluster.name_of(m.id) for m in cluster.members))
        self._replica.follow_members()
        self._answer(self._changes, results, now)
        self._replica.wake()
