"""The replica: one member's share of the cluster, as effects around pure parts.

Everything that decides is elsewhere: `raft` (who leads, what is committed), `ProposalQueue` and `ReadQueue` (what
clients wait for), `StateMachine` (what commands do). This file moves bytes between them, the log, the other members
and the clients, on one event loop; how commands reach the leader and how entries become state are files of their own
(`proposing`, `applying`).

The rhythm is the loop's own. Requests, frames and finished disk writes that arrive in one turn of the loop only leave
their mark; then one *pump* serves them together: one entry in the log for all commands, one write to the disk, one
frame to each follower, one round of reads. Load makes the batches larger, so a request costs less the busier it gets.

Order of durability: an entry or a vote is acknowledged (``Ready.after_sync``, and the leader's own share in the commit
index through ``Raft.advance``) only when the log says that it is on disk. The applied state is written behind, in
checkpoints; the log is shortened only behind a finished checkpoint.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from plasmacloud.base.alarm import AlarmFactory
from plasmacloud.base.errors import PlasmaError
from plasmacloud.base.logging import get_logger
from plasmacloud.chainfire import frames
from plasmacloud.chainfire.admission import Admission
from plasmacloud.chainfire.applying import Applier
from plasmacloud.chainfire.cluster_state import ClusterState
from plasmacloud.chainfire.config import ServerConfig
from plasmacloud.chainfire.datadir import DataDir
from plasmacloud.chainfire.handover import best_successor
from plasmacloud.chainfire.lane import Lane
from plasmacloud.chainfire.member_care import MemberCare
from plasmacloud.chainfire.member_commands import MEMBERSHIP_KINDS, change_origin
from plasmacloud.chainfire.members import format_id
from plasmacloud.chainfire.membership_policy import JoinProgress
from plasmacloud.chainfire.membership_view import MembershipView, log_floor
from plasmacloud.chainfire.neighbours import Neighbours, own_address
from plasmacloud.chainfire.peer_memory import Forgotten, forgotten
from plasmacloud.chainfire.proposals import Overloaded, ProposalQueue
from plasmacloud.chainfire.proposing import Proposer
from plasmacloud.chainfire.reads import ReadQueue
from plasmacloud.chainfire.snapshot_flow import SnapshotFlow
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.chainfire.tally import Tally
from plasmacloud.chainfire.waiting import NO_LEADER, STOPPING, TIMED_OUT, TOO_MANY_REQUESTS, ReadWaiter, Waiter
from plasmacloud.raft.codec import decode_message, encode_message
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.raft import Raft, Ready
from plasmacloud.rpc.peer_door import Judge
from plasmacloud.rpc.peer_wire import Refusal, RefusalCode
from plasmacloud.rpc.status import StatusCode
from plasmacloud.rpc.transport import TransportFactory
from plasmacloud.storage.wal import Wal

_LITTLE_BYTES = 4096  # a leader waits for its own disk to write so much: another thread would cost more than that saves
_PATIENCE_S = 0.9  # without a leader, requests wait for this long (or three election timeouts) before they are refused
_EXPIRE_TICKS = 5
_READS_S = 0.005  # answering reads yields to heartbeats after this long

T = TypeVar("T")

log = get_logger("chainfire")


class Replica:
    """Drives one member. `start` and `stop` belong to the server; the rest to its services."""

    proposer_class = Proposer

    def __init__(
        self,
        config: ServerConfig,
        *,
        data: DataDir,
        judge: Judge,
        wal: Wal,
        machine: StateMachine,
        raft: Raft,
        transport: TransportFactory,
        alarms: AlarmFactory,
        stopwatch: Callable[[], float],
        on_leader_change: Callable[[int, int], None],
        on_fatal: Callable[[Exception], None],
    ) -> None:
        """``on_fatal`` is called once, when the replica has stopped because it must not go on."""
        self.config = config
        self.member_id = config.member.id
        self.machine = machine
        self.raft = raft
        self._wal = wal
        self._data = data
        self._on_leader_change = on_leader_change
        self._on_fatal = on_fatal
        self._loop = asyncio.get_running_loop()
        self.transport = transport(
            cluster_id=config.cluster.cluster_id,
            member_id=self.member_id,
            name=config.member.name,
            birth=data.life.birth,
            incarnation=data.life.incarnation,
            earlier=data.life.earlier,
            address=str(own_address(config, machine.cluster)),
            judge=judge,
            on_refused=self._on_refused,
            on_stranger=self._on_stranger,
            on_frame=self._on_frame,
            on_batch_end=self._on_frames,
            on_lost=self._on_peer_lost,
            on_connected=self._on_peer_connected,
        )
        self._neighbours = Neighbours(config, self.transport)
        self._writes = self._lane(self.member_id, data.incarnation, batch_bytes=config.tuning.batch_bytes)
        self._changes = self._lane(change_origin(self.member_id), data.incarnation, batch_bytes=0)
        self._lanes = (self._writes, self._changes)
        self._reads: ReadQueue[ReadWaiter] = ReadQueue(first_context=data.incarnation)
        self._answerable: deque[ReadWaiter] = deque()  # reads for which the local state is new enough
        self._proposer = self.proposer_class(self, self._writes, self._changes, alarms=alarms, stopwatch=stopwatch)
        self._applier = Applier(self, self._proposer, self._writes, self._changes)
        self.care = MemberCare(self)
        self._readys_in_flight = 0
        self._pump_scheduled = False
        self._frames_matter = False  # some came that are not raft's
        self._running = False
        self._stopping = False
        self._leader_seen = (0, 0)  # (leader, term)
        self._leader_known_at = self._loop.time()
        self._leaderless = False  # for so long that it is no failover any more
        self._ticks = 0
        self._next_tick_at = 0.0
        self._tick_handle: asyncio.TimerHandle | None = None
        self.floor = 0  # every member has the log up to here
        self.tally = Tally()
        self._admission = Admission(config.max_inflight_commands)
        self.snapshots: SnapshotFlow | None = None  # set by the server before `start`

    # What the server and the services use

    def _lane(self, origin: int, incarnation: int, *, batch_bytes: int) -> Lane[Waiter]:
        queue: ProposalQueue[Waiter] = ProposalQueue(
            max_commands=self.config.max_inflight_commands,
            max_bytes=self.config.max_inflight_bytes,
            is_gone=lambda waiter: waiter.done,
        )
        return Lane(origin, incarnation, queue, batch_bytes=batch_bytes)

    async def start(self, quiet_s: float = 0.0) -> None:
        """Listen for the other members, dial them, and begin to tick, ``quiet_s`` seconds later."""
        self.follow_members()
        await self.transport.start(self.config.listen_peer.host, self.config.listen_peer.port)
        self._running = True
        self._next_tick_at = self._loop.time() + max(self.config.tick_s, quiet_s)
        self._tick_handle = self._loop.call_at(self._next_tick_at, self._tick)
        self.wake()

    def submit(self, kind: int, body: bytes, waiter: Waiter) -> None:
        """Execute a command, once, on whichever member leads; the waiter gets the result."""
        if self._stopping or self._leaderless:
            waiter.fail(StatusCode.UNAVAILABLE, STOPPING if self._stopping else NO_LEADER)
            return
        lane = self._changes if kind in MEMBERSHIP_KINDS else self._writes
        try:
            lane.queue.submit(kind, body, waiter, self._loop.time() + self.config.request_timeout_s)
        except Overloaded:
            self.tally.overload_refusals += 1
            waiter.fail(StatusCode.RESOURCE_EXHAUSTED, TOO_MANY_REQUESTS)
            return
        self.wake()

    def read(self, waiter: ReadWaiter) -> None:
        """Call ``waiter.run`` when the local state includes everything acknowledged before this call."""
        if self._stopping or self._leaderless:
            waiter.fail(StatusCode.UNAVAILABLE, STOPPING if self._stopping else NO_LEADER)
            return
        if self.sheds_read():
            waiter.fail(StatusCode.RESOURCE_EXHAUSTED, TOO_MANY_REQUESTS)
            return
        self._reads.submit(waiter, self._loop.time() + self.config.request_timeout_s)
        self.wake()

    def sheds_command(self) -> bool:
        """Whether a write is refused now because of load: to be asked before anything is done about it."""
        if full := self._writes.queue.full:
            self._admission.refused(self._loop.time())
            self.tally.overload_refusals += 1
        return full

    def sheds_read(self) -> bool:
        """Whether a linearizable read is refused now because of load."""
        if full := len(self._reads) >= self.config.max_inflight_commands:
            self.tally.overload_refusals += 1
        return full

    @property
    def commands_limit(self) -> int:
        """How many commands of this member's clients may wait now."""
        return self._writes.queue.max_commands

    @property
    def stopping(self) -> bool:
        """Whether no new request is taken any more."""
        return self._stopping

    @property
    def change_waits(self) -> bool:
        """Whether a membership command of this member's clients is on its way."""
        return len(self._changes.queue) > 0

    @property
    def leader_id(self) -> int:
        """The leader as this member knows it; 0: none."""
        return self.raft.leader_id

    @property
    def is_leader(self) -> bool:
        """Whether this member leads, as far as it knows."""
        return self.raft.leader_id == self.member_id

    @property
    def raft_term(self) -> int:
        """The current term."""
        return self.raft.term

    @property
    def cluster(self) -> ClusterState:
        """The membership as of the local state."""
        return self.machine.cluster

    async def when_whole(self, work: Callable[[], T]) -> T:
        """The result of ``work``, which is called when no entry is half applied (`Applier.when_whole`)."""
        return await self._applier.when_whole(work)

    def membership_view(self) -> MembershipView:
        """What this member knows about the others now."""
        return self.care.view()

    def join_progress(self) -> Mapping[int, JoinProgress]:
        """How far the learners are; empty on a member that does not lead."""
        return self.care.progress()

    async def hand_over(self, target: int, timeout: float) -> bool:
        """Transfer leadership; True when another member leads before the timeout. Only on the leader."""
        self.raft.transfer_leader(target)
        self.wake()
        deadline = self._loop.time() + timeout
        while self._loop.time() < deadline:
            if not self.is_leader and self.raft.leader_id != 0:
                return True
            if not self.transport.is_connected(target):
                return False
            await asyncio.sleep(min(0.001, self.config.tick_s))
        return False

    def handover_target(self) -> int:
        """The voter that is best prepared to lead instead of this member; 0: none is reachable."""
        return best_successor(self.raft, self.transport.is_connected)

    async def stop(self) -> None:
        """Answer everybody who still waits, and let go of the other members. The log stays open."""
        self._stopping = True
        for lane in self._lanes:
            for waiter in lane.queue.refuse_unsent():
                waiter.fail(StatusCode.UNAVAILABLE, STOPPING)
            for waiter in lane.queue.abandon():
                waiter.fail(StatusCode.UNAVAILABLE, TIMED_OUT)
        for read in (*self._reads.abandon(), *self._answerable):
            read.fail(StatusCode.UNAVAILABLE, STOPPING)
        self._answerable.clear()
        self._running = False
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        self._proposer.close()
        await self.transport.close()

    def refuse_new(self) -> None:
        """From now on no new request is taken; those under way are finished."""
        self._stopping = True

    def pending(self) -> tuple[int, int]:
        """Commands and reads of this member's clients that are not answered."""
        return sum(len(lane.queue) for lane in self._lanes), len(self._reads) + len(self._answerable)

    # Events: each leaves its mark and wakes the pump

    def wake(self) -> None:
        """Run the pump at the end of this turn of the loop."""
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _on_frames(self) -> None:
        """All frames of one read were handed over. What a follower makes of them need not wait for other members."""
        if self.raft.leader_id == self.member_id:
            if self._frames_matter or self.raft.has_ready() or self._leader_seen != (self.member_id, self.raft.term):
                self.wake()  # most answers of those who are not needed for a majority change nothing
        elif not self._pump_scheduled:
            self._pump()

    def _on_frame(self, sender: int, frame: bytes) -> None:
        kind = frame[:1]
        if kind == frames.RAFT:
            message = decode_message(frame[1:])
            if message.sender != sender or message.to != self.member_id:
                raise PlasmaError(f"a raft message from {message.sender:x} to {message.to:x} on another's connection")
            try:
                self.raft.step(message)
            except Exception as error:  # noqa: BLE001 - see _fail
                self._fail(error)
            return
        self._frames_matter = True
        if kind == frames.COMMANDS:
            self._proposer.forwarded(sender, frame[1:])
        elif kind == frames.CHANGE:
            self._proposer.asked(frame[1:])
        elif kind == frames.SNAPSHOT:
            if self.snapshots is not None:
                self.snapshots.on_frame(sender, frame[1:])
        elif kind == frames.FLOOR:
            self.floor = frames.read_floor(frame)
        else:
            raise PlasmaError(f"unknown kind of frame {kind!r}")

    def _on_peer_lost(self, member_id: int) -> None:
        if self._running:
            self.raft.peer_lost(member_id)
            self.wake()

    def _on_refused(self, accuser: int, refusal: Refusal) -> None:
        """Another member knows better than this one what this one has promised, or that it is a member no more."""
        if self._running and refusal.code is RefusalCode.AMNESIA:
            self._data.withdraw()
        member = self.cluster.get(accuser)
        self._fail(forgotten(member.name if member else format_id(accuser), self.member_id, refusal))

    def _on_peer_connected(self, member_id: int) -> None:
        if member_id == self.raft.leader_id:
            for lane in self._lanes:
                lane.send_again_soon()
            self.wake()
        if self.snapshots is not None:
            self.snapshots.connected(member_id)

    def _tick(self) -> None:
        if not self._running:
            return
        now = self._loop.time()
        # A tick that comes late is one tick: time in which this process did not run is no evidence against the leader.
        tick_s = self.config.tick_s
        missed = max(0, int((now - self._next_tick_at) / tick_s))
        self._next_tick_at = max(self._next_tick_at + tick_s, now)
        self._tick_handle = self._loop.call_at(self._next_tick_at, self._tick)
        try:
            self.raft.tick(missed)
        except Exception as error:  # noqa: BLE001 - see _fail
            self._fail(error)
            return
        if self.snapshots is not None:
            self.snapshots.tick()
        self._ticks += 1
        if self._ticks % _EXPIRE_TICKS == 0:
            self._expire(now)
        if self.raft.has_ready() or self._reads.has_waiting or any(lane.is_due(now) for lane in self._lanes):
            self.wake()

    def _expire(self, now: float) -> None:
        if self.raft.leader_id != 0:
            self._leader_known_at = now
        # A failover is waited for; a cluster without a quorum is not: whoever asks it is told so at once.
        self._leaderless = now - self._leader_known_at > max(_PATIENCE_S, 3 * self.config.election_timeout_s)
        if self._leaderless:
            for read in self._reads.abandon():
                read.fail(StatusCode.UNAVAILABLE, NO_LEADER)
        for lane in self._lanes:
            not_executed, unknown = lane.queue.expire(now)
            if self._leaderless:
                not_executed += lane.queue.refuse_unsent()
            for waiter in not_executed:
                waiter.fail(StatusCode.UNAVAILABLE, NO_LEADER)
            for waiter in unknown:
                waiter.fail(StatusCode.UNAVAILABLE, TIMED_OUT)
        for read in self._reads.expire(now):
            read.fail(StatusCode.UNAVAILABLE, TIMED_OUT)
        if self.raft.leader_id != 0:
            self._repeat_questions(self._reads.ask_again(now))

    # The pump

    def _pump(self) -> None:
        self._pump_scheduled = self._frames_matter = False
        if self._running:
            try:
                self._serve()
            except Exception as error:  # noqa: BLE001 - see _fail
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        """A replica whose log, state or reasoning failed must not say another word: its promises may be wrong."""
        if self._running:
            self._running = False
            self._on_fatal(error)

    def _serve(self) -> None:
        if self._leader_seen != (self.raft.leader_id, self.raft.term):
            self._leader_changed()
            self._proposer.send()  # what has waited for a leader travels with the entry that begins its term
        self._drive()
        if self._leader_seen != (self.raft.leader_id, self.raft.term):
            self._leader_changed()
        self._proposer.send()
        self._ask_reads()
        self._drive()
        self.transport.flush()  # the others work while this member applies
        self._applier.run()
        self._answer_reads()

    def _answer_reads(self) -> None:
        """For a few milliseconds; the rest has its turn later, and sees a later state."""
        answerable = self._answerable
        answerable.extend(self._reads.take_ready(self.machine.applied_index))
        if not answerable:
            return
        until = self._loop.time() + _READS_S
        while answerable:
            answerable.popleft().run()
            if self._loop.time() >= until:
                self.wake()
                break

    def _drive(self) -> None:
        """Carry out what raft wants done."""
        raft = self.raft
        while raft.has_ready():
            ready = raft.ready()
            self._send(ready.messages)
            if ready.must_sync:
                self.transport.flush()  # the others' disks need not wait for this one
            if self._readys_in_flight == 0 and (not ready.must_sync or self._written_now(ready)):
                self._finish(ready)
            elif ready.must_sync or ready.number:
                self._readys_in_flight += 1
                self._wal.append(ready.hard_state, ready.entries, partial(self._on_durable, ready))
            else:
                self._finish(ready)
            self._applier.take(ready.committed)
            for context, index in ready.read_states:
                self._reads.confirmed(context, index)

    def _written_now(self, ready: Ready) -> bool:
        """A follower waits for its disk alone; a leader has more to do, but not while little is under way."""
        leads = self.raft.leader_id == self.member_id
        if leads and sum([len(entry.record) for entry in ready.entries]) > _LITTLE_BYTES:
            return False
        return self._wal.append_now(ready.hard_state, ready.entries)

    def _on_durable(self, ready: Ready) -> None:
        self._readys_in_flight -= 1
        if self._running:
            try:
                self._finish(ready)
                self.transport.flush()
            except Exception as error:  # noqa: BLE001 - see _fail
                self._fail(error)
            self.wake()

    def _finish(self, ready: Ready) -> None:
        self.raft.advance(ready)
        self._send(ready.after_sync)

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            if message.type is MessageType.SNAPSHOT:
                assert self.snapshots is not None
                log.debug(
                    "needs a snapshot", member=self.cluster.name_of(message.to), log_begins=self._wal.first_index()
                )
                self.snapshots.wanted(message.to)
            elif not self.transport.send(message.to, frames.RAFT + encode_message(message)):
                self.raft.peer_unreachable(message.to)

    def _leader_changed(self) -> None:
        self._leader_seen = (self.raft.leader_id, self.raft.term)
        self._on_leader_change(*self._leader_seen)
        if self.raft.leader_id != 0:
            self.tally.leaders_seen += 1
            self._leader_known_at, self._leaderless = self._loop.time(), False
            for lane in self._lanes:
                lane.send_again_soon()
            self._repeat_questions(self._reads.ask_again(self._loop.time(), all_of_them=True))

    def _ask_reads(self) -> None:
        while self._reads.has_waiting and self.raft.leader_id != 0:
            self.raft.read_index(self._reads.start_round(self._loop.time()))

    def _repeat_questions(self, contexts: list[int]) -> None:
        for context in contexts:
            self.raft.read_index(context)

    def note_executed(self, count: int, now: float) -> None:
        """So many writes of this member's clients have been executed; called before they are taken off the queue."""
        queue = self._writes.queue
        waited_s = now - queue.oldest_deadline + self.config.request_timeout_s
        self.tally.executed(waited_s)
        queue.max_commands = self._admission.executed(waited_s, count, len(queue) - count, now)

    def follow_members(self) -> None:
        """Dial the members of the cluster, unless this one has left it."""
        if self.member_id in self.cluster.departed:
            if not self._running:
                raise Forgotten(
                    f"{self.config.member.name} has been removed from the cluster",
                    hint="to bring this machine back as a new member: start it with an empty --data-dir and --join",
                )
            # The others may still need to hear from this member that the entry is here. When they have put the removal
            # into force they refuse it, and then it ends (`_on_refused`).
            log.warning("this member has been removed from the cluster")
            return
        self._neighbours.follow(self.cluster)

    def _on_stranger(self, member_id: int, address: str) -> None:
        self._neighbours.welcome(member_id, address, self.cluster)

    # The length of the log

    def send_snapshot_frame(self, member_id: int, frame: bytes) -> bool:
        """For `SnapshotFlow`."""
        self.wake()  # the pump flushes
        return self.transport.send(member_id, frames.SNAPSHOT + frame)

    def share_floor(self) -> None:
        """On the leader: tell every member up to which index all of them have the log (`log_floor`)."""
        if not self.is_leader:
            return
        self.floor = log_floor(self.membership_view())
        frame = frames.floor(self.floor)
        for member in self.cluster.members:
            if member.id != self.member_id:
                self.transport.send(member.id, frame)
