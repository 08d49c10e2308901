"""`plasma up`: a cluster of three on this machine, with one command, until Ctrl-C.

Each node is a `plasma chainfire serve` process of its own, with its own data and log. This process only watches: it
tells when a node is ready, starts one again that ended, and stops all of them when it is told to stop. They die with it
in any case.
"""

import asyncio
import fcntl
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plasmacloud.base.errors import ConfigError, ExitCode, PlasmaError
from plasmacloud.base.process import ManagedProcess
from plasmacloud.base.units import format_duration
from plasmacloud.cli.errors import say
from plasmacloud.cli.lazy import examples
from plasmacloud.cli.output import emit, table
from plasmacloud.cli.settings import Duration, Settings, cluster_command
from plasmacloud.cli.up_plan import (
    Ending,
    NodePlan,
    Plan,
    Restarts,
    check_ports,
    describe_ending,
    load_plan,
    save_plan,
)
from plasmacloud.client import Client, ClientError

if TYPE_CHECKING:
    from plasmacloud.cli.up_election import ElectionSide

STOP_GRACE_S = 10.0
WATCH_S = 0.1
LOG_LINES = 5


class StartError(PlasmaError):
    """The cluster did not come up."""


@click.command(
    epilog=examples(
        "plasma up",
        "plasma up --election                               # and leader election, on a PostgreSQL of its own",
        "plasma up --data-dir /var/lib/plasma --port-base 12379",
        "plasma up -o json > cluster.json &                 # for scripts: written when the cluster is ready",
    )
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("plasma-data"),
    show_default=True,
    help="Where data, logs and addresses are kept; a second run continues with them.",
)
@click.option(
    "--port-base",
    type=click.IntRange(1, 65000),
    metavar="PORT",
    help="Listen on PORT, PORT+1, PORT+10, PORT+11, PORT+20 and PORT+21 in place of 2379, 2380, 22379, …",
)
@click.option(
    "--ready-timeout", type=Duration(), default="30s", show_default=True, metavar="TIME", help="Time to become ready."
)
@click.option(
    "--election",
    "with_election",
    is_flag=True,
    help="Also start a PostgreSQL, kept in the data directory, and two election servers for `plasma ha` to ask.",
)
@cluster_command
def up(settings: Settings, data_dir: Path, port_base: int | None, ready_timeout: float, with_election: bool) -> None:
    """Start a three-node cluster on this machine and keep it running until Ctrl-C.

    The first run creates the data directory, later ones continue with it. A node that crashes is started again. To see
    it survive, kill one: `kill -9 PID`.
    """
    with _only_one(data_dir):
        plan, existed = load_plan(data_dir, port_base)
        check_ports(plan, fixed=existed)
        beside = _election_side(data_dir, port_base) if with_election else None
        if not existed:
            save_plan(plan, data_dir)
        say(f"{'continuing with' if existed else 'creating'} the cluster in {data_dir}")
        supervisor = Supervisor(plan, data_dir, ready_timeout_s=ready_timeout, output=settings.output, beside=beside)
        code = asyncio.run(supervisor.run())
    click.get_current_context().exit(code)


def _election_side(data_dir: Path, port_base: int | None) -> "ElectionSide":
    from plasmacloud.cli.up_election import ElectionSide

    return ElectionSide(data_dir, port_base)


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Hold the directory for this process."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "up.lock").open("w")
    except OSError as error:
        raise ConfigError(f"cannot use the data directory {data_dir}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"another `plasma up` runs with {data_dir}", hint="stop it, or choose another --data-dir"
            ) from None
        yield


class _Node:
    """One node: its process and what is being done about it."""

    def __init__(self, plan: NodePlan, process: ManagedProcess) -> None:
        self.plan = plan
        self.process = process
        self.restarts = Restarts()
        self.started_at = 0.0
        self.restart_at: float | None = None  # loop time; None: running, or given up
        self.gave_up = False
        self.watcher: asyncio.Task[None] | None = None  # tells when it is ready

    @property
    def name(self) -> str:
        return self.plan.name


Argv = Callable[[Plan, NodePlan, Path], Sequence[str]]
"""The command line of one node, given its data directory."""


def serve_argv(plan: Plan, node: NodePlan, directory: Path) -> Sequence[str]:
    """Run a node of ChainFire with this very Python."""
    argv = [sys.executable, "-m", "plasmacloud", "chainfire", "serve"]
    argv += ["--name", node.name, "--data-dir", str(directory)]
    argv += ["--listen-client", node.client, "--listen-peer", node.peer]
    return [*argv, "--initial-cluster", plan.initial_cluster]


class Supervisor:
    """Runs the nodes of one plan until a signal says stop."""

    def __init__(
        self,
        plan: Plan,
        data_dir: Path,
        *,
        ready_timeout_s: float,
        output: str,
        argv: Argv = serve_argv,
        beside: "ElectionSide | None" = None,
    ) -> None:
        self._plan = plan
        self._beside = beside
        self._data_dir = data_dir
        self._ready_timeout_s = ready_timeout_s
        self._output = output
        self._nodes = [
            _Node(
                node,
                ManagedProcess(
                    node.name, argv(plan, node, data_dir / node.name), log_path=data_dir / f"{node.name}.log"
                ),
            )
            for node in plan.nodes
        ]
        self._stop = asyncio.Event()
        self._exit_code = int(ExitCode.OK)

    async def run(self) -> int:
        """Start, wait until ready, watch, stop. Returns the exit code; raises `StartError`."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(signum, self._on_signal)
        async with Client(self._plan.endpoints, timeout=1.0) as client:
            watch = None
            try:
                for node in self._nodes:
                    self._start(node, client)
                watch = asyncio.create_task(self._watch(client))
                if await self._become_ready() and await self._beside_is_ready():
                    self._announce()
                    await self._stop.wait()
            finally:
                if watch is not None:
                    watch.cancel()
                    await asyncio.wait({watch})
                if self._beside is not None:
                    await self._beside.stop()
                await self._stop_all()
        return self._exit_code

    def _on_signal(self) -> None:
        if self._stop.is_set():
            for node in self._nodes:  # asked twice: no more patience
                node.process.kill()
            if self._beside is not None:
                self._beside.kill()
        self._stop.set()

    def _start(self, node: _Node, client: Client) -> None:
        node.process.start()
        node.started_at = asyncio.get_running_loop().time()
        node.restart_at = None
        node.watcher = asyncio.create_task(self._tell_when_ready(node, client))

    async def _tell_when_ready(self, node: _Node, client: Client) -> None:
        while True:
            try:
                status = await client.status(node.plan.client)
            except ClientError:
                status = None
            if status is not None and status.leader != 0:
                break
            await asyncio.sleep(WATCH_S)
        took = format_duration(asyncio.get_running_loop().time() - node.started_at)
        say(f"{node.name} ready at {node.plan.client} after {took} (process {node.process.pid})", color="green")

    async def _become_ready(self) -> bool:
        """Wait for all nodes. False: told to stop. Raises `StartError` when one cannot, or not in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._ready_timeout_s
        while not all(node.watcher is not None and node.watcher.done() for node in self._nodes):
            refused = [node for node in self._nodes if node.gave_up]
            if refused:
                raise StartError(
                    f"{refused[0].name} cannot run:\n{self._log_tail(refused[0])}",
                    hint=f"its whole log is {refused[0].process.log_path}",
                )
            if loop.time() >= deadline:
                late = [node for node in self._nodes if node.watcher is None or not node.watcher.done()]
                raise StartError(
                    f"{', '.join(node.name for node in late)} not ready within "
                    f"{format_duration(self._ready_timeout_s)}:\n{self._log_tail(late[0])}",
                    hint="more time: --ready-timeout",
                )
            if await self._stopped_within(WATCH_S):
                return False
        return True

    async def _beside_is_ready(self) -> bool:
        """Start what runs beside the nodes. False: told to stop meanwhile."""
        if self._beside is None:
            return True
        starting = asyncio.create_task(self._beside.start(self._ready_timeout_s))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                return False
            await starting  # raises what went wrong
            return True
        finally:
            for task in (starting, stopping):
                task.cancel()
            await asyncio.wait({starting, stopping})

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return False
        return True

    def _announce(self) -> None:
        nodes = [
            {
                "name": node.name,
                "client": node.plan.client,
                "peer": node.plan.peer,
                "pid": node.process.pid,
                "log": str(node.process.log_path),
            }
            for node in self._nodes
        ]
        endpoints = ",".join(self._plan.endpoints)
        if self._output == "table":
            table(["NODE", "CLIENTS", "PEERS", "PID", "LOG"], [list(node.values()) for node in nodes])
            if self._beside is not None:
                self._beside.show()
        else:
            told = {"endpoints": endpoints, "data_dir": str(self._data_dir), "nodes": nodes}
            emit(told if self._beside is None else told | {"election": self._beside.facts()}, self._output)
        sys.stdout.flush()
        say("\nThe cluster is ready. Try, in another terminal:")
        say(f"  export PLASMA_ENDPOINTS={endpoints}")
        say("  plasma kv put greeting hello")
        say("  plasma chainfire status")
        if self._beside is not None:
            self._beside.suggest()
        say("Ctrl-C stops it; the data stays.")

    async def _watch(self, client: Client) -> None:
        """Start nodes again that ended."""
        loop = asyncio.get_running_loop()
        while True:
            for node in self._nodes:
                if node.gave_up or node.process.running:
                    continue
                if node.restart_at is None:
                    self._ended(node, loop.time())
                elif loop.time() >= node.restart_at:
                    self._start(node, client)
            if all(node.gave_up for node in self._nodes):
                say("no node is left that could run", color="red")
                self._exit_code = self._nodes[0].process.returncode or int(ExitCode.FAILED)
                self._stop.set()
                return
            await asyncio.sleep(WATCH_S)

    def _ended(self, node: _Node, now: float) -> None:
        code = node.process.returncode
        assert code is not None
        if node.watcher is not None:
            node.watcher.cancel()
            node.watcher = None
        ending, wait_s = node.restarts.ended(code, now - node.started_at)
        told = f"{node.name} {describe_ending(code)}"
        if ending is Ending.GIVE_UP:
            node.gave_up = True
            say(f"{told} and is not started again; see {node.process.log_path}", color="red")
        else:
            node.restart_at = now + wait_s
            say(f"{told}; starting it again in {format_duration(wait_s)}", color="yellow")

    async def _stop_all(self) -> None:
        for node in self._nodes:
            if node.watcher is not None:
                node.watcher.cancel()
        if any(node.process.running for node in self._nodes):
            say("stopping")
        codes = await asyncio.gather(*(node.process.stop_async(STOP_GRACE_S) for node in self._nodes))
        for node, code in zip(self._nodes, codes, strict=True):
            if code not in (0, None) and not node.gave_up and node.restart_at is None:
                say(f"{node.name} {describe_ending(code)}", color="yellow")

    def _log_tail(self, node: _Node) -> str:
        try:
            with node.process.log_path.open(errors="replace") as log:
                lines = deque(log, maxlen=LOG_LINES)
        except OSError:
            return "  (it left no log)"
        return "".join(f"  {line}" for line in lines).rstrip()
