"""One ChainFire member while it runs: what is on disk restored, the replica with all that looks after it, and an end.

A member knows nothing of processes, signals and clients' sockets: those who let clients in are its `Doors`. What it
needs from the machine comes from its `Environment`, time and threads from the event loop.

Leaving in good order means: hand leadership to a member that is up to date, finish the requests under way, write a
last checkpoint. Not leaving at all is safe too: everything that was acknowledged is on disk.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from plasmacloud.base.errors import PlasmaError, StorageError
from plasmacloud.base.logging import get_logger
from plasmacloud.base.units import format_duration
from plasmacloud.chainfire.checkpoints import Checkpointer
from plasmacloud.chainfire.cluster_state import ClusterState
from plasmacloud.chainfire.config import ServerConfig
from plasmacloud.chainfire.datadir import DataDir, open_data_dir
from plasmacloud.chainfire.environment import Environment
from plasmacloud.chainfire.forgetting import Forgetting
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.members import Publication, format_id
from plasmacloud.chainfire.passports import with_passports
from plasmacloud.chainfire.peer_memory import Evidence, Known, PeerRegister
from plasmacloud.chainfire.replica import Replica
from plasmacloud.chainfire.snapshot_flow import Received, SnapshotFlow
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.chainfire.state_meta import mark_of_state
from plasmacloud.raft.raft import Raft
from plasmacloud.rpc.status import StatusCode
from plasmacloud.storage.entry import HardState
from plasmacloud.storage.install import begin_install, finish_pending, forget_asides
from plasmacloud.storage.record_store import RecordStore
from plasmacloud.storage.snapshot import SnapshotInfo, write_snapshot
from plasmacloud.storage.wal import Wal
from plasmacloud.storage.wal_format import Identity, LogMark

_AGAIN_S = 0.1
_FOUNDER_QUIET_S = 1.0  # who founds a cluster alone may have done so before and lost its disk: the others will say so
_CLOSE_S = 5.0  # how long the log may take to write what is queued

log = get_logger("chainfire")


class Doors(Protocol):
    """Where clients come in. Made when the member's state is restored, closed before its files are."""

    async def open(self) -> None:
        """Let clients in: the other members can be heard. Raises `ConfigError` when that is impossible."""

    def set_serving(self, serving: bool) -> None:
        """Whether there is a leader, so that requests have a chance."""

    async def drain(self) -> None:
        """Let nobody in any more, and give those inside some time to finish."""

    async def close(self) -> None:
        """Put everybody out. Also called after `drain`, and when `open` failed or never was called."""


class ReplicaFailed(PlasmaError):
    """Something happened that the code says cannot happen."""


class RunningMember:
    """Everything that one member opens and starts. `open`, `start`, `run`, and in any case `close`.

    The attributes are there from `open` on.
    """

    log_class = Wal
    machine_class = StateMachine
    raft_class = Raft
    replica_class = Replica
    register_class = PeerRegister

    data: DataDir
    wal: Wal
    store: RecordStore
    machine: StateMachine
    raft: Raft
    peers: PeerRegister
    replica: Replica
    checkpointer: Checkpointer
    snapshots: SnapshotFlow
    doors: Doors

    def __init__(
        self, config: ServerConfig, environment: Environment, doors: "Callable[[RunningMember], Doors]"
    ) -> None:
        self.config = config
        self.environment = environment
        self.identity = Identity(config.cluster.cluster_id, config.member.id)
        self._make_doors = doors
        self._loop = asyncio.get_running_loop()
        self.fatal: asyncio.Future[None] = self._loop.create_future()  # never has a result, but perhaps an error
        self.fatal.add_done_callback(asyncio.Future.exception)  # `run` raises it, if it still runs; the log has it
        self._received: asyncio.Future[Received] = self._loop.create_future()
        self._led = asyncio.Event()
        self._closers = contextlib.AsyncExitStack()

    # Beginning

    def open(self, received: Received | None = None) -> None:
        """Open the data directory and restore the state. Blocks. Raises `ConfigError` and `StorageError`.

        ``received``: a snapshot that takes the place of the state first.
        """
        config, environment = self.config, self.environment
        started_ns = environment.now_ns()
        self.data = open_data_dir(
            config.data_dir,
            name=config.member.name,
            cluster_id=config.cluster.cluster_id,
            member_id=config.member.id,
            now_ns=started_ns,
            repair=partial(self._finish_installation, received),
            disk=environment.disk,
            randbits=environment.randbits,
        )
        self._closers.callback(self.data.close)
        self._restore()
        log.info(
            "restored",
            name=config.member.name,
            member=format_id(config.member.id),
            cluster=format_id(config.cluster.cluster_id),
            applied=self.machine.applied_index,
            last_index=self.wal.last_index(),
            revision=self.machine.store.revision,
            took=format_duration((environment.now_ns() - started_ns) / 1e9),
        )
        self.peers = self.register_class.open(
            self.data.peers,
            config.cluster.cluster_id,
            evidence=self._evidence,
            on_fatal=self._on_fatal,
            disk=environment.disk,
        )
        self._closers.callback(self.peers.close)
        self.replica = self.replica_class(
            config,
            data=self.data,
            judge=with_passports(self.peers.judge, config.contacts, lambda: self.machine.cluster),
            wal=self.wal,
            machine=self.machine,
            raft=self.raft,
            transport=environment.transport,
            alarms=environment.alarms,
            stopwatch=environment.stopwatch,
            on_leader_change=self._on_leader_change,
            on_fatal=self._on_fatal,
        )
        self.checkpointer = Checkpointer(
            self.replica, self.store, self.wal, interval_s=config.checkpoint_interval_s, on_fatal=self._on_fatal
        )
        self._closers.push_async_callback(self.checkpointer.close)
        self.doors = self._make_doors(self)
        self._closers.push_async_callback(self.doors.close)
        self._closers.push_async_callback(self.replica.stop)
        self.replica.snapshots = self.snapshots = self._snapshot_flow()
        self._closers.push_async_callback(self.snapshots.close)

    async def start(self) -> None:
        """Talk to the other members and let clients in. Raises `ConfigError` when an address cannot be used."""
        alone_and_new = self.wal.recovery.created and len(self.config.cluster.members) == 1
        await self.replica.start(quiet_s=_FOUNDER_QUIET_S if alone_and_new else 0.0)
        await self.doors.open()
        self._start_task(self._look_after())
        self._start_task(self.checkpointer.run())
        self._start_task(Forgetting(self.machine.store).run())

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        task.add_done_callback(self._task_ended)
        self._closers.push_async_callback(_end, task)

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        """A member without one of its tasks is not a member: nothing would be saved, or nobody looked after."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_fatal(error if isinstance(error, Exception) else ReplicaFailed(repr(error)))

    def _finish_installation(self, received: Received | None, path: Path) -> None:
        """Put a received snapshot in the place of the state, and finish what a crash may have interrupted."""
        disk = self.environment.disk
        if received is not None:
            begin_install(path, received.path, identity=self.identity, prepared=True, disk=disk)
        finished = finish_pending(path, disk=disk, segment_bytes=self.config.tuning.segment_bytes)
        if finished is not None:
            log.info("installed", what=finished.what)

    def _restore(self) -> None:
        """Log, applied state and raft, as the disk has them."""
        config, environment, tuning = self.config, self.environment, self.config.tuning
        # The founders begin behind entry 1, which holds nothing but themselves. A new member has not even that, and so
        # always gets a snapshot first: the only way in which it learns who belongs to the cluster.
        founded = ClusterState.founded(config.cluster)
        mark = LogMark(1, 1, founded.conf.encode()) if founded.members else LogMark(0, 0, founded.conf.encode())
        self.wal = wal = self.log_class.open(
            self.data.wal,
            identity=self.identity,
            disk=environment.disk,
            workers=environment.workers,
            stopwatch=environment.stopwatch,
            quick_s=tuning.quick_sync_s,
            segment_bytes=tuning.segment_bytes,
            window_bytes=tuning.window_bytes,
            initial_mark=mark,
        )
        self._closers.callback(wal.close, _CLOSE_S)
        wal.on_fatal = self._on_fatal
        wal.on_space = _on_space
        self.store = environment.stores.open(self.data.state, identity=self.identity)
        self._closers.callback(self.store.close)
        self.machine = machine = self.machine_class.restore(
            self.store,
            cluster_id=config.cluster.cluster_id,
            member_id=config.member.id,
            founding=founded,
        )
        machine.set_slice(tuning.slice_keys)
        machine.peer_scheme = config.security.peer_scheme
        if machine.applied_index == 0 and founded.members:
            machine.skip(1, 1)
        if wal.hard_state.term < wal.term(wal.last_index()):
            wal.append_blocking(HardState(wal.term(wal.last_index()), 0, wal.log_mark.index), [])
        if not wal.log_mark.index <= machine.applied_index <= wal.last_index():
            raise StorageError(
                f"the applied state in {self.data.state} is at index {machine.applied_index}, and the log in "
                f"{self.data.wal} covers {wal.log_mark.index} to {wal.last_index()}",
                hint="one of the two was replaced by another copy; restore both from the same backup, or move the data "
                "directory away and let the member join again while the others have a quorum",
            )
        self.raft = self.raft_class(
            msgspec.structs.replace(
                tuning.raft,
                id=config.member.id,
                election_ticks=config.election_ticks,
                heartbeat_ticks=config.heartbeat_ticks,
                lazy_commit=True,
            ),
            wal,
            wal.hard_state,
            machine.cluster.conf,
            machine.applied_index,
            random.Random(f"{config.member.id}/{self.data.incarnation}"),
        )

    def _snapshot_flow(self) -> SnapshotFlow:
        replica, config, wal = self.replica, self.config, self.wal
        return SnapshotFlow(
            self.data.path,
            self.data.snapshots,
            self.identity,
            make=self.make_snapshot,
            applied=lambda: self.machine.applied_index,
            continues=lambda index: index + 1 >= wal.first_index(),
            send=replica.send_snapshot_frame,
            report=replica.raft.report_snapshot,
            on_received=self._on_received,
            on_fatal=self._on_fatal,
            name_of=lambda member: replica.cluster.name_of(member),
            disk=self.environment.disk,
            stores=self.environment.stores,
            config=msgspec.structs.replace(config.tuning.transfer, rate_bytes_s=config.snapshot_rate_bytes_s),
        )

    async def make_snapshot(self, path: Path) -> SnapshotInfo:
        """Write the state as it is now to a file. Raises `StorageError`, among others when there is no space."""
        await self.checkpointer.save_now()
        write = partial(
            write_snapshot,
            self.store,
            path,
            cluster_id=self.config.cluster.cluster_id,
            describe=mark_of_state,
            disk=self.environment.disk,
        )
        return await self._loop.run_in_executor(None, write)

    # Running

    async def run(self, stop: asyncio.Event) -> Received | None:
        """Serve until told to stop, then hand over and drain.

        Returns a snapshot when the member has to start anew with it. Raises `StorageError` when the disk failed.
        """
        ready = self._loop.create_task(self._announce())
        ready.add_done_callback(self._task_ended)
        stopped = self._loop.create_task(stop.wait())
        first: list[asyncio.Future[Any]] = [stopped, self.fatal, self._received]
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if self.fatal.done():
                self.fatal.result()  # raises
            if self._received.done() and not stop.is_set():
                return self._received.result()
            await self._leave()
            return None
        finally:
            for task in (ready, stopped):
                task.cancel()
            await asyncio.gather(ready, stopped, return_exceptions=True)

    async def _announce(self) -> None:
        """When there is a leader, tell the others how clients reach this member, and the log that it is ready."""
        config = self.config
        while True:
            await self._led.wait()
            member, birth = config.member, self.data.life.birth
            publication = Publication(member.id, config.advertise_client, member.name, birth)
            answer: asyncio.Future[None] = self._loop.create_future()
            self.replica.submit(CommandKind.PUBLISH, publication.encode(), _FutureWaiter(answer))
            try:
                await answer
            except _NotPublished:
                await asyncio.sleep(_AGAIN_S)  # no leader in time: once more
                continue
            log.info("ready to serve clients", clients=str(config.listen_client))
            forget = partial(forget_asides, config.data_dir, disk=self.environment.disk)
            try:
                await self._loop.run_in_executor(None, forget)
            except StorageError as error:
                log.warning("what was kept aside stays", reason=str(error))
            return

    async def _look_after(self) -> None:
        """What a leader does about the members, and every member about its own timing, several times a second."""
        care = self.replica.care
        while True:
            await asyncio.sleep(care.beat_s)
            care.look_after_members()
            care.look_after_history()
            care.look_after_timing(self.wal.metrics)

    def _evidence(self, member_id: int) -> Evidence:
        """What the replicated state knows of a member's lives."""
        machine = self.machine
        member, session = machine.cluster.get(member_id), machine.sessions.get(member_id)
        known = Known(member.birth if member else 0, session.incarnation if session else 0)
        return Evidence(known, departed=member_id in machine.cluster.departed)

    def _on_received(self, received: Received) -> None:
        if not self._received.done():
            self._received.set_result(received)

    def _on_leader_change(self, leader: int, term: int) -> None:
        if leader == self.config.member.id:
            log.info("became leader", term=term)
        elif leader:
            log.info("leader changed", leader=self.replica.cluster.name_of(leader), term=term)
        else:
            log.warning("no leader", term=term)
        if leader != self.config.member.id:
            self.snapshots.stop_sending("this member does not lead any more")
        if leader:
            self._led.set()
        else:
            self._led.clear()
        self.doors.set_serving(leader != 0)

    def _on_fatal(self, error: Exception) -> None:
        if self.fatal.done():
            return
        if isinstance(error, PlasmaError):
            log.error("stopping at once", error=str(error))
        else:
            log.error("stopping at once, this is a bug", exc_info=error)
            error = ReplicaFailed(
                f"the member stopped because of a defect: {type(error).__name__}: {error}",
                hint="its data is intact; please report the log of this member",
            )
        self.fatal.set_exception(error)

    # Ending

    async def _leave(self) -> None:
        """Leadership to another member, answers to those who wait, a last checkpoint."""
        replica, config = self.replica, self.config
        if replica.is_leader and (target := replica.handover_target()):
            moved = await replica.hand_over(target, 2 * config.election_timeout_s)
            log.info("leadership handed over" if moved else "leadership not taken over in time", to=format_id(target))
        self.doors.set_serving(False)
        replica.refuse_new()
        await self.doors.drain()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self.checkpointer.save()
        except TimeoutError:
            log.warning("no last checkpoint in time; the next start replays the log")

    async def close(self) -> None:
        """Let go of everything that was opened, in whatever state `open`, `start` and `run` left it."""
        try:
            await self._closers.aclose()
        except StorageError as error:
            if not self.fatal.done():
                raise
            log.error("closing failed too", error=str(error))


class Lives:
    """A member from its start to its stop: it starts anew whenever it has received a snapshot."""

    def __init__(
        self,
        config: ServerConfig,
        environment: Environment,
        doors: Callable[[RunningMember], Doors],
        *,
        member_class: type[RunningMember] = RunningMember,
    ) -> None:
        self.member: RunningMember | None = None  # the present life
        self._config = config
        self._environment = environment
        self._doors = doors
        self._member_class = member_class

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until told to stop. Raises `ConfigError` and `StorageError`."""
        received: Received | None = None
        while True:
            self.member = member = self._member_class(self._config, self._environment, self._doors)
            try:
                member.open(received)
                await member.start()
                arrived = await member.run(stop)
            finally:
                await member.close()
                self.member = None
            if arrived is None:
                return
            # While it was checked and prepared, another leader may have sent everything that is in it, and more: then
            # the log may begin behind it. What was prepared is rubbish in that case, and the next start removes it.
            received = arrived if arrived.info.index > member.machine.applied_index else None


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class _NotPublished(PlasmaError):
    """The command was not executed, or nobody knows."""


class _FutureWaiter:
    """Lets a coroutine wait for a command."""

    def __init__(self, answer: "asyncio.Future[None]") -> None:
        self._answer = answer

    @property
    def done(self) -> bool:
        return self._answer.done()

    def reply(self, _body: bytes) -> None:
        if not self._answer.done():
            self._answer.set_result(None)

    def fail(self, _code: StatusCode, message: str) -> None:
        if not self._answer.done():
            self._answer.set_exception(_NotPublished(message))


def _on_space(problem: StorageError | None) -> None:
    if problem is None:
        log.info("the disk has space for the log again")
    else:
        log.warning("no space to prepare the next log segment", error=str(problem))
