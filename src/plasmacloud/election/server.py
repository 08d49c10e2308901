"""One election server as a process: contend, serve, and leave in good order.

Leaving in good order (SIGTERM, SIGINT) means: resign first, so that another node leads within milliseconds; then finish
the requests under way, the hooks and the audit; exit with 0. Each step is bounded. A second signal exits at once: the
database frees the lock of a session whose client is gone.
"""

import asyncio
import os
import signal
import socket

import uvloop

from plasmacloud.base.errors import ExitCode
from plasmacloud.base.logging import get_logger
from plasmacloud.election.http_app import make_app
from plasmacloud.election.http_serving import HttpServer, bind
from plasmacloud.election.server_config import ServerConfig
from plasmacloud.election.server_service import RESIGN_S, ElectionService

log = get_logger("election")


def run(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT. Blocks. Raises `ConfigError`, and `ElectionRefused` when the store says no."""
    sock = bind(config.listen)
    with sock, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, sock))


async def _serve(config: ServerConfig, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, _on_signal, signum, stop)
    service = ElectionService(config)
    app = make_app(service)
    await app.warm_up()
    http = HttpServer(app, config)
    serving = loop.create_task(http.serve(sockets=[sock]))
    contending = loop.create_task(service.run())
    stopping = loop.create_task(stop.wait())
    log.info(
        "serving",
        url=config.advertise,
        node=config.node_id,
        election=config.election,
        campaign="polling" if config.timers.polls else "waiting",
    )
    try:
        await asyncio.wait({serving, contending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await _resign(service)
        http.stop()
        await service.close()
        await serving
        if contending.done():
            contending.result()  # raises what ended the election
    finally:
        for task in (serving, contending, stopping):
            task.cancel()
        await asyncio.gather(serving, contending, stopping, return_exceptions=True)
    log.info("stopped")


async def _resign(service: ElectionService) -> None:
    try:
        await service.resign()
    except TimeoutError:
        log.warning("resigning took too long; the server frees the lock with the session", limit_s=RESIGN_S)


def _on_signal(signum: int, stop: asyncio.Event) -> None:
    name = signal.Signals(signum).name
    if stop.is_set():
        log.warning("second signal, leaving at once", signal=name)
        os._exit(ExitCode.INTERRUPTED)
    log.info("stopping", signal=name)
    stop.set()
