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
from collections.abc import Callable
from functools import partial
from typing import Protocol

from plasmacloud.base.errors import PlasmaError
from plasmacloud.base.logging import get_logger
from plasmacloud.chainfire.commands import check_batch, encode_batch
from plasmacloud.chainfire.config import ServerConfig
from plasmacloud.chainfire.members import Member, Publication, publication_name
from plasmacloud.chainfire.proposals import Batch, Overloaded, ProposalQueue
from plasmacloud.chainfire.reads import ReadQueue
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.raft.codec import decode_message, encode_message
from plasmacloud.raft.errors import NotLeader, ProposalRefused
from plasmacloud.raft.messages import Message
from plasmacloud.raft.raft import Raft, Ready
from plasmacloud.rpc.peer import PeerTransport
from plasmacloud.rpc.status import StatusCode
from plasmacloud.storage.entry import Entry
from plasmacloud.storage.wal import Wal

# First byte of a frame between members.
_RAFT = b"\x00"  # a raft message
_COMMANDS = b"\x01"  # a batch of commands for the leader
_FLOOR = b"\x02"  # the index up to which every member has the log

_INDEX = struct.Struct("<Q")
_BATCH_BYTES = 1 << 20  # a batch of commands is closed beyond this size
_ENTRY_BYTES = 4 << 20  # so is an entry of several batches
_APPLY_BUDGET_S = 0.005  # applying yields to heartbeats after this long
_RESEND_MIN_S = 0.3
_RESEND_MAX_S = 2.0
_READ_RETRY_S = 0.15
_EXPIRE_TICKS = 5

log = get_logger("chainfire")


class Waiter(Protocol):
    """Where the answer to a request goes. Exactly one of `reply` and `fail` is called, once."""

    @property
    def done(self) -> bool:
        """Whether nobody waits any more."""

    def reply(self, body: bytes) -> None: ...

    def fail(self, code: StatusCode, message: str) -> None: ...


class ReadWaiter(Protocol):
    """A linearizable read: ``run`` is called when the local state is new enough."""

    def run(self) -> None: ...

    def fail(self, code: StatusCode, message: str) -> None: ...


NO_LEADER = "etcdserver: no leader"
TIMED_OUT = "etcdserver: request timed out"
TOO_MANY_REQUESTS = "etcdserver: too many requests"
STOPPING = "chainfire: not executed: the member is shutting down"
RESULT_LOST = "chainfire: outcome unknown: the write was executed while this member was catching up"


class Replica:
    """Drives one member. `start` and `stop` belong to the server; the rest to its services."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        incarnation: int,
        wal: Wal,
        machine: StateMachine,
        raft: Raft,
        on_leader_change: Callable[[int, int], None],
        on_fatal: Callable[[Exception], None],
    ) -> None:
        """``on_fatal`` is called once, when the replica has stopped because it must not go on."""
        self.config = config
        self.member_id = config.member.id
        self.machine = machine
        self.raft = raft
        self._wal = wal
        self._origin = (self.member_id, incarnation)
        self._on_leader_change = on_leader_change
        self._on_fatal = on_fatal
        self._loop = asyncio.get_running_loop()
        self.transport = PeerTransport(
            cluster_id=config.cluster.cluster_id,
            member_id=self.member_id,
            name=config.member.name,
            incarnation=incarnation,
            on_frame=self._on_frame,
            on_batch_end=self.wake,
            on_lost=self._on_peer_lost,
            on_connected=self._on_peer_connected,
        )
        self._proposals: ProposalQueue[Waiter] = ProposalQueue(
            max_commands=config.max_inflight_commands,
            max_bytes=config.max_inflight_bytes,
            is_gone=lambda waiter: waiter.done,
        )
        self._reads: ReadQueue[ReadWaiter] = ReadQueue(first_context=incarnation)
        self._forwarded: list[bytes] = []  # batches of other members, for the next entry
        self._to_apply: deque[Entry] = deque()
        self._readys_in_flight = 0
        self._pump_scheduled = False
        self._running = False
        self._stopping = False
        self._leader_seen = (0, 0)  # (leader, term)
        self._resend_at = float("inf")
        self._resend_delay_s = _RESEND_MIN_S
        self._ticks = 0
        self._next_tick_at = 0.0
        self._tick_handle: asyncio.TimerHandle | None = None
        self.floor = 0  # every member has the log up to here

    # What the server and the services use

    async def start(self) -> None:
        """Listen for the other members, dial them, and begin to tick."""
        for member in self.config.cluster.members:
            if member.id != self.member_id:
                self.transport.set_peer(member.id, member.peer.host, member.peer.port)
        await self.transport.start(self.config.listen_peer.host, self.config.listen_peer.port)
        self._running = True
        self._next_tick_at = self._loop.time() + self.config.tick_s
        self._tick_handle = self._loop.call_at(self._next_tick_at, self._tick)
        self.wake()

    def submit(self, kind: int, body: bytes, waiter: Waiter) -> None:
        """Execute a command, once, on whichever member leads; the waiter gets the result."""
        if self._stopping:
            waiter.fail(StatusCode.UNAVAILABLE, STOPPING)
            return
        try:
            self._proposals.submit(kind, body, waiter, self._loop.time() + self.config.request_timeout_s)
        except Overloaded:
            waiter.fail(StatusCode.RESOURCE_EXHAUSTED, TOO_MANY_REQUESTS)
            return
        self.wake()

    def read(self, waiter: ReadWaiter) -> None:
        """Call ``waiter.run`` when the local state includes everything acknowledged before this call."""
        if self._stopping:
            waiter.fail(StatusCode.UNAVAILABLE, STOPPING)
            return
        if len(self._reads) >= self.config.max_inflight_commands:
            waiter.fail(StatusCode.RESOURCE_EXHAUSTED, TOO_MANY_REQUESTS)
            return
        self._reads.submit(waiter, self._loop.time() + self.config.request_timeout_s)
        self.wake()

    @property
    def leader_id(self) -> int:
        """The leader as this member knows it; 0: none."""
        return self.raft.leader_id

    @property
    def is_leader(self) -> bool:
        """Whether this member leads, as far as it knows."""
        return self.raft.leader_id == self.member_id

    def members(self) -> list[Member]:
        """The members as of the local state."""
        found = []
        for member in self.config.cluster.members:
            published = self.machine.extra.get(publication_name(member.id))
            urls = () if published is None else Publication.decode(published).client_urls
            found.append(member.with_client_urls(urls))
        return found

    async def hand_over(self, target: int, timeout: float) -> bool:
        """Transfer leadership; True when another member leads before the timeout. Only on the leader."""
        self.raft.transfer_leader(target)
        self.wake()
        deadline = self._loop.time() + timeout
        while self._loop.time() < deadline:
            if not self.is_leader and self.raft.leader_id != 0:
                return True
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
        for waiter in self._proposals.refuse_unsent():
            waiter.fail(StatusCode.UNAVAILABLE, STOPPING)
        for waiter in self._proposals.abandon():
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
        return len(self._proposals) + len(self._reads) > 0

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
        elif kind == _FLOOR:
            (self.floor,) = _INDEX.unpack_from(frame, 1)
        else:
            raise PlasmaError(f"unknown kind of frame {kind!r}")

    def _on_peer_lost(self, member_id: int) -> None:
        if self._running:
            self.raft.peer_lost(member_id)
            self.wake()

    def _on_peer_connected(self, member_id: int) -> None:
        if member_id == self.raft.leader_id:
            self._resend_at = 0.0
            self.wake()

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
        self._ticks += 1
        if self._ticks % _EXPIRE_TICKS == 0:
            self._expire(now)
        if self.raft.has_ready() or self._reads.has_waiting or now >= self._resend_at:
            self.wake()

    def _expire(self, now: float) -> None:
        not_executed, unknown = self._proposals.expire(now)
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
        self._drive()
        if self._leader_seen != (self.raft.leader_id, self.raft.term):
            self._leader_changed()
        if self._loop.time() >= self._resend_at:
            self._send_again()
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
            if ready.must_sync or (ready.number and self._readys_in_flight):
                self._readys_in_flight += 1
                self._wal.append(ready.hard_state, ready.entries, partial(self._on_durable, ready))
            else:
                self._finish(ready)
            self._to_apply.extend(ready.committed)
            for context, index in ready.read_states:
                self._reads.confirmed(context, index)

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
            if not self.transport.send(message.to, _RAFT + encode_message(message)):
                self.raft.peer_unreachable(message.to)

    def _leader_changed(self) -> None:
        self._leader_seen = (self.raft.leader_id, self.raft.term)
        self._on_leader_change(*self._leader_seen)
        if self.raft.leader_id != 0:
            self._resend_at = 0.0
            self._resend_delay_s = _RESEND_MIN_S
            self._reads.retry(self._loop.time())

    # Commands to the leader

    def _send_commands(self) -> None:
        leader = self.raft.leader_id
        if leader == self.member_id:
            if self._forwarded or self._proposals.unsent_count:
                self._propose_all()
            return
        self._forwarded.clear()  # for the leader that this member no longer is; their senders will send them again
        if leader == 0 or not self._proposals.unsent_count or not self.transport.is_connected(leader):
            return
        while (batch := self._proposals.take(_BATCH_BYTES)) is not None:
            self._forward(leader, batch)
        self._expect_progress()

    def _propose_all(self) -> None:
        if not self.raft.takes_proposals:
            return
        batches = self._forwarded
        self._forwarded = []
        while (batch := self._proposals.take(_BATCH_BYTES)) is not None:
            batches.append(self._encode(batch))
        self._propose(batches)
        self._expect_progress()

    def _propose(self, batches: list[bytes]) -> None:
        data: list[bytes] = []
        size = 0
        try:
            for batch in batches:
                if data and size + len(batch) > _ENTRY_BYTES:
                    self.raft.propose(b"".join(data))
                    data, size = [], 0
                data.append(batch)
                size += len(batch)
            if data:
                self.raft.propose(b"".join(data))
        except (NotLeader, ProposalRefused) as error:
            log.debug("proposal refused, will be sent again", error=str(error))

    def _forward(self, leader: int, batch: Batch) -> None:
        self.transport.send(leader, _COMMANDS + self._encode(batch))

    def _encode(self, batch: Batch) -> bytes:
        return encode_batch(*self._origin, batch.first_seq, batch.commands)

    def _expect_progress(self) -> None:
        """Unless a command is executed before then, everything in flight is sent again."""
        if self._resend_at == float("inf") and self._proposals.in_flight_count:
            self._resend_at = self._loop.time() + self._resend_delay_s

    def _send_again(self) -> None:
        self._resend_at = float("inf")
        leader = self.raft.leader_id
        if leader == 0 or not self._proposals.in_flight_count:
            return
        if leader == self.member_id:
            self._propose([self._encode(batch) for batch in self._proposals.again(_BATCH_BYTES)])
        elif self.transport.is_connected(leader):
            for batch in self._proposals.again(_BATCH_BYTES):
                self._forward(leader, batch)
        self._resend_delay_s = min(self._resend_delay_s * 2, _RESEND_MAX_S)
        self._expect_progress()

    # Reads and results

    def _ask_reads(self) -> None:
        while self._reads.has_waiting and self.raft.leader_id != 0:
            self.raft.read_index(self._reads.start_round(self._loop.time()))

    def _apply(self) -> None:
        if not self._to_apply:
            return
        machine, proposals, until = self.machine, self._proposals, self._loop.time() + _APPLY_BUDGET_S
        progressed = False
        while self._to_apply:
            entry = self._to_apply.popleft()
            for seq, result in machine.apply_entry(entry, local_origin=self._origin):
                progressed = True
                waiter = proposals.executed(seq)
                if waiter is None:
                    continue
                if result.error is None:
                    waiter.reply(result.body)
                else:
                    waiter.fail(result.error.code, result.error.message)
            self.raft.applied_to(entry.index)
            if self._loop.time() >= until:
                break
        if progressed:
            self._resend_at = float("inf")
            self._resend_delay_s = _RESEND_MIN_S
            self._expect_progress()
        if self._to_apply:
            self.wake()

    # The length of the log

    def share_floor(self) -> None:
        """On the leader: tell every member up to which index all of them have the log."""
        if not self.is_leader:
            return
        self.floor = min(progress.match for progress in self.raft.status().progress.values())
        frame = _FLOOR + _INDEX.pack(self.floor)
        for member in self.config.cluster.members:
            if member.id != self.member_id:
                self.transport.send(member.id, frame)
