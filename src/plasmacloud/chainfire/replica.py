"""The replica: one member's share of the cluster, as effects around pure parts.

Everything that decides is elsewhere: `raft` (who leads, what is committed), `ProposalQueue` and `ReadQueue` (what
clients wait for), `StateMachine` (what commands do). This file moves bytes between them, the log, the other members
and the clients, on one event loop.

The rhythm is the loop's own. Requests, frames and finished disk writes that arrive in one turn of the loop only leave
their mark; then one *pump* serves them together: one entry in the log for all commands, one write to the disk, one
frame to each follower, one round of reads. Load makes the batches larger, so a request costs less the busier it gets.

Order of durability: an entry or a vote is acknowledged (``Ready.after_sync``, and the leader's own share in the commit
index through ``Raft.advance``) only when the log says that it is on disk. The applied state is written behind, in
checkpoints; the log is shortened only behind a finished checkpoint.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

from plasmacloud.base.errors import PlasmaError
from plasmacloud.base.logging import get_logger
from plasmacloud.chainfire.cluster_state import ClusterState
from plasmacloud.chainfire.commands import (
    MEMBERSHIP_KINDS,
    change_origin,
    check_batch,
    decode,
    encode_batch,
    removes,
)
from plasmacloud.chainfire.config import ServerConfig
from plasmacloud.chainfire.datadir import DataDir
from plasmacloud.chainfire.lane import Lane
from plasmacloud.chainfire.member_care import MemberCare
from plasmacloud.chainfire.members import format_id
from plasmacloud.chainfire.membership_policy import JoinProgress
from plasmacloud.chainfire.membership_view import MembershipView, admit, log_floor
from plasmacloud.chainfire.neighbours import Neighbours, own_address
from plasmacloud.chainfire.peer_memory import Forgotten, forgotten
from plasmacloud.chainfire.proposals import Overloaded, ProposalQueue
from plasmacloud.chainfire.reads import ReadQueue
from plasmacloud.chainfire.snapshot_flow import SnapshotFlow
from plasmacloud.chainfire.state_machine import Applied, StateMachine
from plasmacloud.chainfire.waiting import NO_LEADER, STOPPING, TIMED_OUT, TOO_MANY_REQUESTS, ReadWaiter, Waiter
from plasmacloud.raft.codec import decode_message, encode_message
from plasmacloud.raft.errors import NotLeader, ProposalRefused
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.raft import Raft, Ready
from plasmacloud.rpc.peer_wire import Refusal, RefusalCode
from plasmacloud.rpc.status import StatusCode
from plasmacloud.rpc.transport import Judge, TransportFactory
from plasmacloud.storage.entry import Entry, EntryKind
from plasmacloud.storage.wal import Wal

# First byte of a frame between members.
_RAFT = b"\x00"  # a raft message
_COMMANDS = b"\x01"  # a batch of commands for the leader
_FLOOR = b"\x02"  # the index up to which every member has the log
_CHANGE = b"\x03"  # a batch of one membership command for the leader
_SNAPSHOT = b"\x04"  # a frame of a snapshot transfer

_INDEX = struct.Struct("<Q")
_APPLY_BUDGET_S = 0.005  # applying yields to heartbeats after this long
_READ_RETRY_S = 0.15
_SINGLE_BYTES = 1024  # an entry of more than this holds more than one command, or a large one
_PATIENCE_S = 0.9  # without a leader, requests wait for this long (or three election timeouts) before they are refused
_EXPIRE_TICKS = 5

log = get_logger("chainfire")


class Replica:
    """Drives one member. `start` and `stop` belong to the server; the rest to its services."""

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
            on_batch_end=self.wake,
            on_lost=self._on_peer_lost,
            on_connected=self._on_peer_connected,
        )
        self._neighbours = Neighbours(config, self.transport)
        self._writes = self._lane(self.member_id, data.incarnation, batch_bytes=config.tuning.batch_bytes)
        self._changes = self._lane(change_origin(self.member_id), data.incarnation, batch_bytes=0)
        self._lanes = (self._writes, self._changes)
        self._reads: ReadQueue[ReadWaiter] = ReadQueue(first_context=data.incarnation)
        self._forwarders: list[int] = []  # the members that these came from
        self._forwarded: list[bytes] = []  # batches of other members, for the next entry
        self.care = MemberCare(self)
        self._asked: deque[bytes] = deque()  # membership commands, own and others', each for an entry of its own
        self._to_apply: deque[Entry] = deque()
        self._readys_in_flight = 0
        self._pump_scheduled = False
        self._running = False
        self._stopping = False
        self._leader_seen = (0, 0)  # (leader, term)
        self._leader_known_at = self._loop.time()
        self._leaderless = False  # for so long that it is no failover any more
        self._ticks = 0
        self._next_tick_at = 0.0
        self._tick_handle: asyncio.TimerHandle | None = None
        self.floor = 0  # every member has the log up to here
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
        self._sync_peers()
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
            waiter.fail(StatusCode.RESOURCE_EXHAUSTED, TOO_MANY_REQUESTS)
            return
        self.wake()

    def read(self, waiter: ReadWaiter) -> None:
        """Call ``waiter.run`` when the local state includes everything acknowledged before this call."""
        if self._stopping or self._leaderless:
            waiter.fail(StatusCode.UNAVAILABLE, STOPPING if self._stopping else NO_LEADER)
            return
        if len(self._reads) >= self.config.max_inflight_commands:
            waiter.fail(StatusCode.RESOURCE_EXHAUSTED, TOO_MANY_REQUESTS)
            return
        self._reads.submit(waiter, self._loop.time() + self.config.request_timeout_s)
        self.wake()

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
        best, best_match = 0, -1
        for member_id, progress in self.raft.status().progress.items():
            candidate = member_id in self.raft.conf.voters and self.transport.is_connected(member_id)
            if candidate and progress.match > best_match:
                best, best_match = member_id, progress.match
        return best

    async def stop(self) -> None:
        """Answer everybody who still waits, and let go of the other members. The log stays open."""
        self._stopping = True
        for lane in self._lanes:
            for waiter in lane.queue.refuse_unsent():
                waiter.fail(StatusCode.UNAVAILABLE, STOPPING)
            for waiter in lane.queue.abandon():
                waiter.fail(StatusCode.UNAVAILABLE, TIMED_OUT)
        for read in self._reads.abandon():
            read.fail(StatusCode.UNAVAILABLE, STOPPING)
        self._running = False
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        await self.transport.close()

    def refuse_new(self) -> None:
        """From now on no new request is taken; those under way are finished."""
        self._stopping = True

    @property
    def busy(self) -> bool:
        """Whether clients wait for something."""
        return sum(len(lane.queue) for lane in self._lanes) + len(self._reads) > 0

    # Events: each leaves its mark and wakes the pump

    def wake(self) -> None:
        """Run the pump at the end of this turn of the loop."""
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _on_frame(self, sender: int, frame: bytes) -> None:
        kind = frame[:1]
        if kind == _RAFT:
            message = decode_message(frame[1:])
            if message.sender != sender or message.to != self.member_id:
                raise PlasmaError(f"a raft message from {message.sender:x} to {message.to:x} on another's connection")
            try:
                self.raft.step(message)
            except Exception as error:  # noqa: BLE001 - see _fail
                self._fail(error)
        elif kind == _COMMANDS:
            batch = frame[1:]
            check_batch(batch)
            self._forwarded.append(batch)
            self._forwarders.append(sender)
        elif kind == _CHANGE:
            check_batch(frame[1:])
            self._asked.append(frame[1:])
        elif kind == _SNAPSHOT:
            if self.snapshots is not None:
                self.snapshots.on_frame(sender, frame[1:])
        elif kind == _FLOOR:
            (self.floor,) = _INDEX.unpack_from(frame, 1)
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
        self._next_tick_at = max(self._next_tick_at + self.config.tick_s, now)
        self._tick_handle = self._loop.call_at(self._next_tick_at, self._tick)
        try:
            self.raft.tick()
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
        self._reads.retry(now - _READ_RETRY_S)

    # The pump

    def _pump(self) -> None:
        self._pump_scheduled = False
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
            self._send_commands()  # what has waited for a leader travels with the entry that begins its term
        self._drive()
        if self._leader_seen != (self.raft.leader_id, self.raft.term):
            self._leader_changed()
        self._send_commands()
        self._ask_reads()
        self._drive()
        self._apply()
        self.transport.flush()
        for read in self._reads.take_ready(self.machine.applied_index):
            read.run()

    def _drive(self) -> None:
        """Carry out what raft wants done."""
        raft = self.raft
        while raft.has_ready():
            ready = raft.ready()
            self._send(ready.messages)
            if self._readys_in_flight == 0 and (not ready.must_sync or self._written_now(ready)):
                self._finish(ready)
            elif ready.must_sync or ready.number:
                self._readys_in_flight += 1
                self._wal.append(ready.hard_state, ready.entries, partial(self._on_durable, ready))
            else:
                self._finish(ready)
            self._to_apply.extend(ready.committed)
            for context, index in ready.read_states:
                self._reads.confirmed(context, index)

    def _written_now(self, ready: Ready) -> bool:
        """A follower waits for its disk alone; a leader for the others' too, unless it has a single command."""
        if self.raft.leader_id == self.member_id:
            if len(self._writes.queue) > 1 or sum([len(entry.record) for entry in ready.entries]) > _SINGLE_BYTES:
                return False
            self.transport.flush()
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
            elif not self.transport.send(message.to, _RAFT + encode_message(message)):
                self.raft.peer_unreachable(message.to)

    def _leader_changed(self) -> None:
        self._leader_seen = (self.raft.leader_id, self.raft.term)
        self._on_leader_change(*self._leader_seen)
        if self.raft.leader_id != 0:
            self._leader_known_at, self._leaderless = self._loop.time(), False
            for lane in self._lanes:
                lane.send_again_soon()
            self._reads.retry(self._loop.time())

    # Commands to the leader

    def _send_commands(self) -> None:
        leader = self.raft.leader_id
        if leader == self.member_id:
            self._propose_all()
            return
        # For the leader that this member no longer is: their senders will send them again.
        self._forwarded.clear()
        self._forwarders.clear()
        self._asked.clear()
        if leader == 0 or not self.transport.is_connected(leader):
            return
        for lane, kind in ((self._writes, _COMMANDS), (self._changes, _CHANGE)):
            for batch in self._due(lane):
                self.transport.send(leader, kind + batch)

    def _due(self, lane: Lane[Waiter]) -> list[bytes]:
        """What of a lane has to be sent to the leader now."""
        now = self._loop.time()
        batches = list(lane.again(now)) if lane.is_due(now) else []
        if lane.has_unsent:
            batches += lane.take(now)
        return batches

    def _propose_all(self) -> None:
        if not self.raft.takes_proposals:
            return
        batches, self._forwarded = self._forwarded, []
        batches += self._due(self._writes)
        if batches:
            self._propose(batches)
        self._asked.extend(self._due(self._changes))
        if self._asked and not self.raft.membership_pending:
            self._propose_change()

    def _propose(self, batches: list[bytes]) -> None:
        data: list[bytes] = []
        size = 0
        try:
            for batch in batches:
                if data and size + len(batch) > self.config.tuning.entry_bytes:
                    self.raft.propose(b"".join(data))
                    data, size = [], 0
                data.append(batch)
                size += len(batch)
            if data:
                self.raft.propose(b"".join(data))
            for member in self._forwarders:
                self.raft.hurry_commit(member)
            self._forwarders.clear()
        except (NotLeader, ProposalRefused) as error:
            log.debug("proposal refused, will be sent again", error=str(error))

    def _propose_change(self) -> None:
        """The next membership command, if its time has come; see `membership_view.admit` for what is refused here."""
        ((origin, incarnation, seq, ((kind, body),)),) = decode(self._asked.popleft())
        if self._is_done(origin, incarnation, seq):
            self.wake()
            return
        if removes(kind, body) == self.member_id and (target := self.handover_target()):
            # Whoever leaves hands over first. The member that asked will ask the next leader.
            log.info("handing over before leaving the cluster", to=self.cluster.name_of(target))
            self.raft.transfer_leader(target)
            return
        kind, body = admit(kind, body, self.membership_view())
        try:
            self.raft.propose_membership(encode_batch(origin, incarnation, seq, [(kind, body)]))
        except (NotLeader, ProposalRefused) as error:
            log.debug("membership change refused, will be sent again", error=str(error))

    def _is_done(self, origin: int, incarnation: int, seq: int) -> bool:
        """Whether a command that was sent twice has been executed already."""
        session = self.machine.sessions.get(origin)
        return session is not None and (incarnation, seq) <= (session.incarnation, session.last_seq)

    # Reads and results

    def _ask_reads(self) -> None:
        while self._reads.has_waiting and self.raft.leader_id != 0:
            self.raft.read_index(self._reads.start_round(self._loop.time()))

    def _apply(self) -> None:
        if not self._to_apply:
            return
        now = self._loop.time()
        until = now + _APPLY_BUDGET_S
        origin = self._writes.session
        while self._to_apply:
            entry = self._to_apply.popleft()
            if entry.kind is EntryKind.MEMBERSHIP:
                self._apply_change(entry, now)
            else:
                self._answer(self._writes, self.machine.apply_entry(entry, local_origin=origin), now)
            self.raft.applied_to(entry.index)
            if self._loop.time() >= until:
                break
        if self._to_apply:
            self.wake()

    def _answer(self, lane: Lane[Waiter], results: list[tuple[int, Applied]], now: float) -> None:
        for seq, result in results:
            waiter = lane.executed(seq, now)
            if waiter is None:
                continue
            if result.error is None:
                waiter.reply(result.body)
            else:
                waiter.fail(result.error.code, result.error.message)

    def _apply_change(self, entry: Entry, now: float) -> None:
        results = self.machine.apply_entry(entry, local_origin=self._changes.session)
        if self.cluster.conf != self.raft.conf:
            self.raft.apply_membership(self.cluster.conf)
            log.info("membership changed", members=", ".join(self.cluster.name_of(m.id) for m in self.cluster.members))
        self._sync_peers()
        self._answer(self._changes, results, now)
        self.wake()

    def _sync_peers(self) -> None:
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
        return self.transport.send(member_id, _SNAPSHOT + frame)

    def share_floor(self) -> None:
        """On the leader: tell every member up to which index all of them have the log (`log_floor`)."""
        if not self.is_leader:
            return
        self.floor = log_floor(self.membership_view())
        frame = _FLOOR + _INDEX.pack(self.floor)
        for member in self.cluster.members:
            if member.id != self.member_id:
                self.transport.send(member.id, frame)
