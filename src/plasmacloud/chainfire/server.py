"""One ChainFire member as a process: open what is on disk, serve, and leave in good order.

Leaving in good order (SIGTERM, SIGINT) means: hand leadership to a member that is up to date, finish the requests
under way, write a last checkpoint, exit with 0. A second signal exits at once, which is safe too: everything that was
acknowledged is on disk.
"""

import asyncio
import contextlib
import gc
import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from plasmacloud.base.errors import ConfigError, ExitCode, PlasmaError, StorageError
from plasmacloud.base.logging import get_logger
from plasmacloud.base.units import format_duration
from plasmacloud.chainfire.checkpoints import Checkpointer
from plasmacloud.chainfire.cluster_services import ClusterService
from plasmacloud.chainfire.cluster_state import ClusterState
from plasmacloud.chainfire.commands import CommandKind
from plasmacloud.chainfire.config import ServerConfig
from plasmacloud.chainfire.datadir import DataDir, open_data_dir
from plasmacloud.chainfire.forming import register_member
from plasmacloud.chainfire.member_web import member_web
from plasmacloud.chainfire.members import Publication, format_id
from plasmacloud.chainfire.peer_memory import Evidence, Known, PeerRegister
from plasmacloud.chainfire.place import find_place
from plasmacloud.chainfire.replica import Replica
from plasmacloud.chainfire.services import KvService, MaintenanceService
from plasmacloud.chainfire.snapshot_flow import Received, SnapshotFlow
from plasmacloud.chainfire.snapshot_transfer import TransferConfig
from plasmacloud.chainfire.state_machine import StateMachine, mark_of_state
from plasmacloud.chainfire.validate import MAX_MESSAGE_BYTES
from plasmacloud.raft.raft import Config as RaftConfig
from plasmacloud.raft.raft import Raft
from plasmacloud.rpc.health import HealthService, ServingStatus
from plasmacloud.rpc.limits import Limits
from plasmacloud.rpc.reflection import ReflectionService
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.service import ServiceTable
from plasmacloud.rpc.status import StatusCode
from plasmacloud.storage.entry import HardState
from plasmacloud.storage.install import begin_install, finish_pending, forget_asides
from plasmacloud.storage.snapshot import SnapshotInfo, write_snapshot
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.wal import Wal
from plasmacloud.storage.wal_format import Identity, LogMark

_CARE_S = 0.1  # how often a leader looks after the members, unless its heartbeats are slower
_DRAIN_S = 3.0  # how long requests under way may take when the member stops
_CLOSE_S = 5.0  # how long the log may take to write what is queued

_SERVICES = ("etcdserverpb.KV", "etcdserverpb.Cluster", "etcdserverpb.Maintenance")

log = get_logger("chainfire")


def run(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT. Blocks. Raises `ConfigError` and `StorageError`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config))


async def _serve(config: ServerConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, _on_signal, signum, stop)
    placing = loop.create_task(find_place(config))
    stopped = loop.create_task(stop.wait())
    try:
        await asyncio.wait({placing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not placing.done():
            return
        config = placing.result()
    finally:
        for task in (placing, stopped):
            task.cancel()
        await asyncio.gather(placing, stopped, return_exceptions=True)
    received: Received | None = None
    while True:
        member = MemberProcess(config)
        try:
            await member.start(received)
            received = await member.run(stop)
        finally:
            await member.close()
        if received is None:
            return


def _on_signal(signum: int, stop: asyncio.Event) -> None:
    name = signal.Signals(signum).name
    if stop.is_set():
        log.warning("second signal, leaving at once", signal=name)
        os._exit(ExitCode.INTERRUPTED)
    log.info("stopping", signal=name)
    stop.set()


class ReplicaFailed(PlasmaError):
    """Something happened that the code says cannot happen."""


class MemberProcess:
    """Everything that one member opens and starts, in the order in which it is closed again, reversed."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._fatal: asyncio.Future[None] = self._loop.create_future()
        self._led = asyncio.Event()
        self._closers = contextlib.ExitStack()
        self._server: Server | None = None
        self._replica: Replica | None = None
        self._checkpoints: asyncio.Task[None] | None = None
        self._caretaker: asyncio.Task[None] | None = None
        self._snapshots: SnapshotFlow | None = None
        self._store: StateStore | None = None
        self._received: asyncio.Future[Received] = self._loop.create_future()

    async def start(self, received: Received | None = None) -> None:
        """Open the data directory, restore the state, and serve. Raises `ConfigError` and `StorageError`.

        ``received``: a snapshot that takes the place of the state first.
        """
        config = self._config
        self._identity = Identity(config.cluster.cluster_id, config.member.id)
        data = open_data_dir(
            config.data_dir,
            name=config.member.name,
            cluster_id=config.cluster.cluster_id,
            member_id=config.member.id,
            now_ns=time.time_ns(),
            repair=partial(_finish_installation, identity=self._identity, received=received),
        )
        self._closers.callback(data.close)
        wal, store, machine, raft = self._restore(data)
        self._store = store
        peers = PeerRegister.open(
            data.peers,
            config.cluster.cluster_id,
            evidence=partial(_evidence, machine),
            on_fatal=self._on_fatal,
        )
        self._closers.callback(peers.close)
        self._data = data
        self._replica = Replica(
            config,
            data=data,
            peers=peers,
            wal=wal,
            machine=machine,
            raft=raft,
            on_leader_change=self._on_leader_change,
            on_fatal=self._on_fatal,
        )
        self._checkpointer = Checkpointer(
            self._replica, store, wal, interval_s=config.checkpoint_interval_s, on_fatal=self._on_fatal
        )
        self._replica.snapshots = self._snapshots = self._snapshot_flow(data, wal)
        table = ServiceTable()
        register_member(table, config)
        KvService(self._replica).register(table)
        ClusterService(self._replica).register(table)
        MaintenanceService(
            self._replica,
            size_bytes=lambda: (store.size_bytes(), store.in_use_bytes()),
            hand_over_timeout_s=2 * config.election_timeout_s,
            make_snapshot=self._make_snapshot,
            directory=data.snapshots,
        ).register(table)
        self._health = HealthService()
        self._health.register(table)
        table.set_batch_end(self._replica.wake)
        ReflectionService(table).register()
        web = member_web(table, self._replica, store, wal, lambda: self._server)
        self._server = Server(table, limits=Limits(max_recv_bytes=MAX_MESSAGE_BYTES), web=web)
        await self._listen()
        self._checkpoints = self._loop.create_task(self._checkpointer.run())
        self._caretaker = self._loop.create_task(self._look_after())
        # What was loaded will stay: keep the collector from walking over it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)

    async def _make_snapshot(self, path: Path) -> SnapshotInfo:
        """Write the state as it is now to a file."""
        assert self._store is not None
        store, cluster_id = self._store, self._config.cluster.cluster_id
        await self._checkpointer.save()
        return await self._loop.run_in_executor(
            None, lambda: write_snapshot(store, path, cluster_id=cluster_id, describe=mark_of_state)
        )

    def _snapshot_flow(self, data: DataDir, wal: Wal) -> SnapshotFlow:
        assert self._replica is not None
        replica, config = self._replica, self._config
        return SnapshotFlow(
            data.path,
            data.snapshots,
            self._identity,
            make=self._make_snapshot,
            continues=lambda index: index + 1 >= wal.first_index(),
            send=replica.send_snapshot_frame,
            report=replica.raft.report_snapshot,
            on_received=self._on_received,
            name_of=lambda member: replica.cluster.name_of(member),
            config=TransferConfig(rate_bytes_s=config.snapshot_rate_bytes_s),
        )

    def _restore(self, data: DataDir) -> tuple[Wal, StateStore, StateMachine, Raft]:
        config = self._config
        started = time.monotonic()
        identity = self._identity
        # The founders begin behind entry 1, which holds nothing but themselves. A new member has not even that, and so
        # always gets a snapshot first: the only way in which it learns who belongs to the cluster.
        founded = ClusterState.founded(config.cluster)
        mark = LogMark(1, 1, founded.conf.encode()) if founded.members else LogMark(0, 0, founded.conf.encode())
        wal = Wal.open(data.wal, identity=identity, initial_mark=mark)
        self._closers.callback(wal.close, _CLOSE_S)
        wal.on_fatal = self._on_fatal
        wal.on_space = _on_space
        store = StateStore.open(data.state, identity=identity)
        self._closers.callback(store.close)
        machine = StateMachine.restore(
            store,
            cluster_id=config.cluster.cluster_id,
            member_id=config.member.id,
            founding=founded,
        )
        if machine.applied_index == 0 and founded.members:
            machine.skip(1, 1)
        if wal.hard_state.term < wal.term(wal.last_index()):
            wal.append_blocking(HardState(wal.term(wal.last_index()), 0, wal.log_mark.index), [])
        if not wal.log_mark.index <= machine.applied_index <= wal.last_index():
            raise StorageError(
                f"the applied state in {data.state} is at index {machine.applied_index}, and the log in {data.wal} "
                f"covers {wal.log_mark.index} to {wal.last_index()}",
                hint="one of the two was replaced by another copy; restore both from the same backup, or move the data "
                "directory away and let the member join again while the others have a quorum",
            )
        raft = Raft(
            RaftConfig(
                id=config.member.id,
                election_ticks=config.election_ticks,
                heartbeat_ticks=config.heartbeat_ticks,
                lazy_commit=True,
            ),
            wal,
            wal.hard_state,
            machine.cluster.conf,
            machine.applied_index,
            random.Random(f"{config.member.id}/{data.incarnation}"),
        )
        log.info(
            "restored",
            name=config.member.name,
            member=format_id(config.member.id),
            cluster=format_id(config.cluster.cluster_id),
            applied=machine.applied_index,
            last_index=wal.last_index(),
            revision=machine.store.revision,
            took=format_duration(time.monotonic() - started),
        )
        return wal, store, machine, raft

    async def _listen(self) -> None:
        assert self._replica is not None
        assert self._server is not None
        config = self._config
        await self._replica.start()
        try:
            await self._server.start(config.listen_client.host, config.listen_client.port)
        except OSError as error:
            raise ConfigError(
                f"cannot listen for clients on {config.listen_client}: {error.strerror}",
                hint="another process uses the port, or the address is not this machine's; see --listen-client",
            ) from error
        log.info("listening", clients=str(config.listen_client), peers=str(config.listen_peer))

    async def run(self, stop: asyncio.Event) -> Received | None:
        """Serve until told to stop, then hand over and drain.

        Returns a snapshot when the member has to start anew with it. Raises `StorageError` when the disk failed.
        """
        ready = self._loop.create_task(self._announce())
        stopped = self._loop.create_task(stop.wait())
        first: set[asyncio.Future[Any]] = {stopped, self._fatal, self._received}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if self._fatal.done():
                self._fatal.result()
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
        assert self._replica is not None
        config = self._config
        while True:
            await self._led.wait()
            member, birth = config.member, self._data.life.birth
            publication = Publication(member.id, config.advertise_client, member.name, birth)
            answer: asyncio.Future[None] = self._loop.create_future()
            self._replica.submit(CommandKind.PUBLISH, publication.encode(), _FutureWaiter(answer))
            try:
                await answer
            except _NotPublished:
                await asyncio.sleep(_CARE_S)  # no leader in time: once more
                continue
            log.info("ready to serve clients", clients=str(config.listen_client))
            await self._loop.run_in_executor(None, forget_asides, config.data_dir)
            return

    def _on_received(self, received: Received) -> None:
        if not self._received.done():
            self._received.set_result(received)

    async def _look_after(self) -> None:
        """What a leader does about the members, several times a second."""
        assert self._replica is not None
        while True:
            await asyncio.sleep(max(self._config.heartbeat_interval_s, _CARE_S))
            self._replica.care.look_after_members()

    def _on_leader_change(self, leader: int, term: int) -> None:
        if leader == self._config.member.id:
            log.info("became leader", term=term)
        elif leader:
            assert self._replica is not None
            log.info("leader changed", leader=self._replica.cluster.name_of(leader), term=term)
        else:
            log.warning("no leader", term=term)
        if self._snapshots is not None and leader != self._config.member.id:
            self._snapshots.stop_sending("this member does not lead any more")
        if leader:
            self._led.set()
        else:
            self._led.clear()
        self._set_serving(leader != 0)

    def _set_serving(self, serving: bool) -> None:
        status = ServingStatus.SERVING if serving else ServingStatus.NOT_SERVING
        for service in ("", *_SERVICES):
            self._health.set(service, status)

    def _on_fatal(self, error: Exception) -> None:
        if self._fatal.done():
            return
        if isinstance(error, PlasmaError):
            log.error("stopping at once", error=str(error))
        else:
            log.error("stopping at once, this is a bug", exc_info=error)
            error = ReplicaFailed(
                f"the member stopped because of a defect: {type(error).__name__}: {error}",
                hint="its data is intact; please report the log of this member",
            )
        self._fatal.set_exception(error)

    async def _leave(self) -> None:
        """Leadership to another member, answers to those who wait, a last checkpoint."""
        assert self._replica is not None
        assert self._server is not None
        replica, config = self._replica, self._config
        if replica.is_leader and (target := replica.handover_target()):
            moved = await replica.hand_over(target, 2 * config.election_timeout_s)
            log.info("leadership handed over" if moved else "leadership not taken over in time", to=format_id(target))
        self._set_serving(False)
        replica.refuse_new()
        await self._server.close(_DRAIN_S)
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._checkpointer.save()
        except TimeoutError:
            log.warning("no last checkpoint in time; the next start replays the log")

    async def close(self) -> None:
        """Let go of everything that was opened, in whatever state `start` and `run` left it."""
        for task in (self._checkpoints, self._caretaker):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._snapshots is not None:
            await self._snapshots.close()
        if self._replica is not None:
            await self._replica.stop()
        if self._server is not None:
            await self._server.close(0.0)
        failed = self._fatal.done() and self._fatal.exception() is not None
        try:
            self._closers.close()
        except StorageError as error:
            if not failed:
                raise
            log.error("closing failed too", error=str(error))


def _evidence(machine: StateMachine, member_id: int) -> Evidence:
    """What the replicated state knows of a member's lives."""
    member, session = machine.cluster.get(member_id), machine.sessions.get(member_id)
    known = Known(member.birth if member else 0, session.incarnation if session else 0)
    return Evidence(known, departed=member_id in machine.cluster.departed)


def _finish_installation(path: Path, *, identity: Identity, received: Received | None) -> None:
    """Put a received snapshot in the place of the state, and finish what a crash may have interrupted."""
    if received is not None:
        begin_install(path, received.path, identity=identity, prepared=True)
    finished = finish_pending(path)
    if finished is not None:
        log.info("installed", what=finished.what)


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
