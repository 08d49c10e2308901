"""Commands on their way into the log: to the leader, or on the leader into the next entry.

The commands of this member's clients wait in two lanes (`lane`); those of the other members' clients arrive in frames
and wait here. Writes that have gathered become one entry. A change of membership gets an entry of its own, and waits
until the one before it is applied.

A member that hears nothing for a while sends everything again. What this leader has in its log already, in its present
term, will be committed or lost with that term, so it is not proposed twice: where entries take longer than senders
wait, every repetition would make them take longer still, for ever.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from plasmacloud.base.alarm import AlarmFactory
from plasmacloud.base.logging import get_logger
from plasmacloud.chainfire import frames
from plasmacloud.chainfire.commands import batch_span, check_batch, decode, encode_batch, join_batches
from plasmacloud.chainfire.gathering import MAX_BYTES, UNTIL_ANSWERED, Gathering
from plasmacloud.chainfire.lane import Lane
from plasmacloud.chainfire.member_commands import removes
from plasmacloud.chainfire.membership_view import admit
from plasmacloud.chainfire.waiting import Waiter
from plasmacloud.raft.errors import NotLeader, ProposalRefused

if TYPE_CHECKING:
    from plasmacloud.chainfire.replica import Replica

log = get_logger("chainfire")


class Proposer:
    """Belongs to one replica, which calls `send` once in each turn of its pump."""

    def __init__(
        self,
        replica: "Replica",
        writes: Lane[Waiter],
        changes: Lane[Waiter],
        *,
        alarms: AlarmFactory,
        stopwatch: Callable[[], float],
    ) -> None:
        self._replica = replica
        self._raft = replica.raft
        self._transport = replica.transport
        self._entry_bytes = replica.config.tuning.entry_bytes
        self._writes = writes
        self._changes = changes
        self._loop = asyncio.get_running_loop()
        self._forwarders: list[int] = []  # the members that these came from
        self._forwarded: list[bytes] = []  # batches of other members, for the next entry
        self._proposed: dict[
            int, tuple[int, int]
        ] = {}  # in this term: origin -> (incarnation, last number without gap)
        self._proposed_term = 0
        self._gather_s = replica.config.tuning.gather_s
        self._gathering = Gathering(self._gather_s)
        self._stopwatch = stopwatch  # the loop's clock may count in milliseconds
        self._alarm = alarms(self._ring)
        self._alarm_set = False
        self._asked: deque[bytes] = deque()  # membership commands, own and others', each for an entry of its own

    def forwarded(self, sender: int, batch: bytes) -> None:
        """Another member takes this one for the leader. Raises `CommandError`."""
        check_batch(batch)
        self._forwarded.append(batch)
        self._forwarders.append(sender)

    def asked(self, batch: bytes) -> None:
        """The same with a membership command. Raises `CommandError`."""
        check_batch(batch)
        self._asked.append(batch)

    def applied(self, answered: int) -> None:
        """Entries have been applied, and so many writes of this member's clients were answered with that."""
        waiting = self._writes.queue.unsent_count
        if answered:
            self._gathering.answered(answered, waiting, self._stopwatch())
        if waiting or self._forwarded:
            self._replica.wake()

    def close(self) -> None:
        """The last call."""
        self._alarm.close()

    def send(self) -> None:
        """Whatever can be sent to the leader now, or be proposed by it."""
        leader = self._raft.leader_id
        if leader == self._replica.member_id:
            self._propose_all()
            return
        # For the leader that this member no longer is: their senders will send them again.
        self._forwarded.clear()
        self._forwarders.clear()
        self._asked.clear()
        if leader == 0 or not self._transport.is_connected(leader):
            return
        for lane, kind in ((self._writes, frames.COMMANDS), (self._changes, frames.CHANGE)):
            for batch in self._due(lane):
                self._transport.send(leader, kind + batch)

    def _due(self, lane: Lane[Waiter]) -> list[bytes]:
        """What of a lane has to be sent to the leader now."""
        now = self._loop.time()
        batches = list(lane.again(now)) if lane.is_due(now) else []
        if lane.has_unsent:
            batches += lane.take(now)
        return batches

    def _propose_all(self) -> None:
        if not self._raft.takes_proposals:
            return
        if self._proposed_term != self._raft.term:
            self._proposed_term = self._raft.term
            self._proposed.clear()
            self._gathering = Gathering(self._gather_s)
        if not self._waits_for_more():
            self._propose_writes()
        self._asked.extend(self._due(self._changes))
        if self._asked and not self._raft.membership_pending:
            self._propose_change()

    def _propose_writes(self) -> None:
        batches, self._forwarded = self._forwarded, []
        batches += self._due(self._writes)
        batches = [batch for batch in batches if self._note_proposed(batch)]
        if batches:
            self._propose(batches)
        else:
            self._forwarders.clear()

    def _waits_for_more(self) -> bool:
        """Whether the next entry has to wait, for more commands or for the answers to those before (`gathering`)."""
        queue = self._writes.queue
        unsent = queue.unsent_count
        wait_s = 0.0
        if (
            (unsent or self._forwarded)
            and self._gathering.worthwhile
            and queue.size_bytes <= MAX_BYTES
            and not self._writes.is_due(self._loop.time())
        ):
            wait_s = UNTIL_ANSWERED if self._answers_are_near() else self._gathering.wait_s(unsent, self._stopwatch())
        if self._alarm_set and not wait_s:
            self._alarm_set = False
            self._alarm.cancel()
        elif not self._alarm_set and 0.0 < wait_s < UNTIL_ANSWERED:
            self._alarm_set = True
            self._alarm.set(wait_s)
        return wait_s > 0.0

    def _answers_are_near(self) -> bool:
        """Whether clients of this member wait for an entry that is on its way, or is being applied."""
        if not self._writes.queue.in_flight_count:
            return False
        return self._raft.applied < self._raft.last_index and self._replica.machine.is_whole

    def _note_proposed(self, batch: bytes) -> bool:
        """Whether the batch has anything that is not in the log of this term, or executed, already."""
        origin, incarnation, first_seq, last_seq = batch_span(batch)
        done = 0
        known = self._proposed.get(origin)
        if known is not None and known[0] == incarnation:
            done = known[1]
        elif (session := self._replica.machine.sessions.get(origin)) is not None and session[0] == incarnation:
            done = session[1]
        if last_seq <= done:
            return False
        if first_seq <= done + 1:  # what comes behind a gap is not executed, and has to come again
            self._proposed[origin] = (incarnation, last_seq)
        return True

    def _ring(self) -> None:
        self._alarm_set = False
        self._replica.wake()

    def _propose(self, batches: list[bytes]) -> None:
        try:
            for data in join_batches(batches, self._entry_bytes):
                self._raft.propose(data)
            self._gathering.made(self._stopwatch())
            for member in self._forwarders:
                self._raft.hurry_commit(member)
            self._forwarders.clear()
        except (NotLeader, ProposalRefused) as error:
            self._proposed.clear()
            log.debug("proposal refused, will be sent again", error=str(error))

    def _propose_change(self) -> None:
        """The next membership command, if its time has come; see `membership_view.admit` for what is refused here."""
        ((origin, incarnation, seq, ((kind, body),)),) = decode(self._asked.popleft())
        if self._is_done(origin, incarnation, seq):
            self._replica.wake()
            return
        leaver = removes(kind, body, self._replica.cluster.replaced_by)
        if leaver == self._replica.member_id and (target := self._replica.handover_target()):
            # Whoever leaves hands over first. The member that asked will ask the next leader.
            log.info("handing over before leaving the cluster", to=self._replica.cluster.name_of(target))
            self._raft.transfer_leader(target)
            return
        kind, body = admit(kind, body, self._replica.membership_view())
        try:
            self._raft.propose_membership(encode_batch(origin, incarnation, seq, [(kind, body)]))
        except (NotLeader, ProposalRefused) as error:
            log.debug("membership change refused, will be sent again", error=str(error))

    def _is_done(self, origin: int, incarnation: int, seq: int) -> bool:
        """Whether a command that was sent twice has been executed already."""
        session = self._replica.machine.sessions.get(origin)
        return session is not None and (incarnation, seq) <= (session.incarnation, session.last_seq)
