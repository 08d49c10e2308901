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
from typing import Any

import uvloop

from plasmacloud.base.errors import ConfigError, ExitCode, PlasmaError, StorageError
from plasmacloud.base.logging import get_logger
from plasmacloud.base.units import format_duration
from plasmacloud.chainfire.checkpoints import Checkpointer
from plasmacloud.chainfire.commands import CommandKind
from plasmacloud.chainfire.config import ServerConfig
from plasmacloud.chainfire.datadir import DataDir, open_data_dir
from plasmacloud.chainfire.members import Publication, format_id
from plasmacloud.chainfire.replica import Replica
from plasmacloud.chainfire.services import ClusterService, KvService
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.chainfire.validate import MAX_MESSAGE_BYTES
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.raft import Config as RaftConfig
from plasmacloud.raft.raft import Raft
from plasmacloud.rpc.health import HealthService, ServingStatus
from plasmacloud.rpc.limits import Limits
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.service import ServiceTable
from plasmacloud.rpc.status import StatusCode
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.wal import Wal
from plasmacloud.storage.wal_format import Identity, LogMark

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
    member = MemberProcess(config)
    try:
        await member.start()
        await member.run(stop)
    finally:
        await member.close()


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

    async def start(self) -> None:
        """Open the data directory, restore the state, and serve. Raises `ConfigError` and `StorageError`."""
        config = self._config
        data = open_data_dir(
            config.data_dir,
            name=config.member.name,
            cluster_id=config.cluster.cluster_id,
            member_id=config.member.id,
            now_ns=time.time_ns(),
        )
        wal, store, machine, raft = self._restore(data)
        self._replica = Replica(
            config,
            incarnation=data.incarnation,
            wal=wal,
            machine=machine,
            raft=raft,
            on_leader_change=self._on_leader_change,
            on_fatal=self._on_fatal,
        )
        self._checkpointer = Checkpointer(
            self._replica, store, wal, interval_s=config.checkpoint_interval_s, on_fatal=self._on_fatal
        )
        table = ServiceTable()
        KvService(self._replica).register(table)
        ClusterService(self._replica, size_bytes=lambda: (store.size_bytes(), store.in_use_bytes())).register(table)
        self._health = HealthService()
        self._health.register(table)
        table.set_batch_end(self._replica.wake)
        self._server = Server(table, limits=Limits(max_recv_bytes=MAX_MESSAGE_BYTES))
        await self._listen()
        self._checkpoints = self._loop.create_task(self._checkpointer.run())
        # What was loaded will stay: keep the collector from walking over it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)

    def _restore(self, data: DataDir) -> tuple[Wal, StateStore, StateMachine, Raft]:
        config = self._config
        started = time.monotonic()
        identity = Identity(config.cluster.cluster_id, config.member.id)
        founders = ConfState(voters=frozenset(m.id for m in config.cluster.members if not m.is_learner))
        wal = Wal.open(data.wal, identity=identity, initial_mark=LogMark(0, 0, founders.encode()))
        self._closers.callback(wal.close, _CLOSE_S)
        wal.on_fatal = self._on_fatal
        wal.on_space = _on_space
        store = StateStore.open(data.state, identity=identity)
        self._closers.callback(store.close)
        machine = StateMachine.restore(store, cluster_id=config.cluster.cluster_id, member_id=config.member.id)
        if not wal.log_mark.index <= machine.applied_index <= wal.last_index():
            raise StorageError(
                f"the applied state in {data.state} is at index {machine.applied_index}, and the log in {data.wal} "
                f"covers {wal.log_mark.index} to {wal.last_index()}",
                hint="one of the two was replaced by another copy; restore both from the same backup, or move the data "
                "directory away and let the member join again while the others have a quorum",
            )
        raft = Raft(
            RaftConfig(
                id=config.member.id, election_ticks=config.election_ticks, heartbeat_ticks=config.heartbeat_ticks
            ),
            wal,
            wal.hard_state,
            ConfState.decode(wal.log_mark.conf),
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

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until told to stop, then hand over and drain. Raises `StorageError` when the disk failed."""
        ready = self._loop.create_task(self._announce())
        stopped = self._loop.create_task(stop.wait())
        first: set[asyncio.Future[Any]] = {stopped, self._fatal}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if self._fatal.done():
                self._fatal.result()
            await self._leave()
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
            publication = Publication(config.member.id, config.advertise_client)
            answer: asyncio.Future[None] = self._loop.create_future()
            self._replica.submit(CommandKind.PUBLISH, publication.encode(), _FutureWaiter(answer))
            try:
                await answer
            except _NotPublished:
                continue  # no leader in time: once more
            log.info("ready to serve clients", clients=str(config.listen_client))
            return

    def _on_leader_change(self, leader: int, term: int) -> None:
        if leader == self._config.member.id:
            log.info("became leader", term=term)
        elif leader:
            names = {member.id: member.name for member in self._config.cluster.members}
            log.info("leader changed", leader=names.get(leader, format_id(leader)), term=term)
        else:
            log.warning("no leader", term=term)
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
        if self._checkpoints is not None:
            self._checkpoints.cancel()
            await asyncio.gather(self._checkpoints, return_exceptions=True)
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
