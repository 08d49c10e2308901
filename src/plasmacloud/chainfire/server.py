"""One ChainFire member as a process: its event loop, its signals, and the doors through which clients come in.

SIGTERM and SIGINT make the member leave in good order (see `running_member`), and the process exit with 0. A second
signal exits at once, which is safe too.
"""

import asyncio
import gc
import os
import signal

import uvloop

from plasmacloud.base.descriptors import connections_within, raise_descriptor_limit
from plasmacloud.base.errors import ConfigError, ExitCode
from plasmacloud.base.logging import get_logger
from plasmacloud.chainfire.cluster_services import ClusterService
from plasmacloud.chainfire.config import ServerConfig
from plasmacloud.chainfire.environment import Environment
from plasmacloud.chainfire.forming import register_member
from plasmacloud.chainfire.member_web import member_web
from plasmacloud.chainfire.place import find_place
from plasmacloud.chainfire.running_member import Lives, RunningMember
from plasmacloud.chainfire.services import KvService, MaintenanceService
from plasmacloud.chainfire.validate import MAX_MESSAGE_BYTES
from plasmacloud.rpc.health import HealthService, ServingStatus
from plasmacloud.rpc.limits import Limits
from plasmacloud.rpc.reflection import ReflectionService
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.service import ServiceTable

_DRAIN_S = 3.0  # how long requests under way may take when the member stops

_SERVICES = ("etcdserverpb.KV", "etcdserverpb.Cluster", "etcdserverpb.Maintenance")

log = get_logger("chainfire")


def run(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT. Blocks. Raises `ConfigError` and `StorageError`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, Environment.production(config.security)))


async def _serve(config: ServerConfig, environment: Environment) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, _on_signal, signum, stop)
    placing = loop.create_task(find_place(config, environment))
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
    await Lives(config, environment, ClientDoors).run(stop)


def _on_signal(signum: int, stop: asyncio.Event) -> None:
    name = signal.Signals(signum).name
    if stop.is_set():
        log.warning("second signal, leaving at once", signal=name)
        os._exit(ExitCode.INTERRUPTED)
    log.info("stopping", signal=name)
    stop.set()


def _limits() -> Limits:
    """What clients may, as far as this process may."""
    wanted = Limits().max_connections
    connections = connections_within(raise_descriptor_limit(), wanted)
    if connections < wanted:
        log.warning("the limit of open files leaves room for fewer connections of clients", connections=connections)
    return Limits(max_recv_bytes=MAX_MESSAGE_BYTES, max_connections=connections)


class ClientDoors:
    """The services of a member on its client address."""

    def __init__(self, member: RunningMember) -> None:
        config, replica, store = member.config, member.replica, member.store
        table = ServiceTable()
        register_member(table, config, disk=member.environment.disk)
        KvService(replica).register(table)
        ClusterService(replica, peer_scheme=config.security.peer_scheme).register(table)
        MaintenanceService(
            replica,
            size_bytes=lambda: (store.size_bytes(), store.in_use_bytes()),
            hand_over_timeout_s=2 * config.election_timeout_s,
            make_snapshot=member.make_snapshot,
            directory=member.data.snapshots,
        ).register(table)
        self._health = HealthService()
        self._health.register(table)
        table.set_batch_end(replica.wake)
        ReflectionService(table).register()
        self._config = config
        web = member_web(table, replica, member.store, member.wal, lambda: self._server)
        self._server = Server(table, limits=_limits(), web=web)

    async def open(self) -> None:
        """Listen. Raises `ConfigError` when the address cannot be used."""
        config = self._config
        try:
            tls = config.security.for_clients()
            await self._server.start(config.listen_client.host, config.listen_client.port, tls=tls)
        except OSError as error:
            raise ConfigError(
                f"cannot listen for clients on {config.listen_client}: {error.strerror}",
                hint="another process uses the port, or the address is not this machine's; see --listen-client",
            ) from error
        security = config.security
        log.info(
            "listening",
            clients=config.listen_client.url_with(security.client_scheme),
            peers=config.listen_peer.url_with(security.peer_scheme),
            client_certificates="demanded" if security.client_auth else "not asked for",
        )
        # What was loaded will stay: keep the collector from walking over it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)

    def set_serving(self, serving: bool) -> None:
        status = ServingStatus.SERVING if serving else ServingStatus.NOT_SERVING
        for service in ("", *_SERVICES):
            self._health.set(service, status)

    async def drain(self) -> None:
        await self._server.close(_DRAIN_S)

    async def close(self) -> None:
        await self._server.close(0.0)
