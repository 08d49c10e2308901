"""Leader election on PostgreSQL: from the fault to the new leader's first write under the fence.

Two candidate processes, one PostgreSQL, one fault per trial at a random phase of the keepalives. All times are taken by
the processes themselves on the clock that they share, so that nobody's polling is in the figures.
"""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from bench._election_served import served_series
from bench.harness import BenchError, busy_machine, percentile, tail
from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.lab.network import Network, both, choose, make_network
from plasmacloud.lab.network.base import LOOPBACK
from plasmacloud.lab.network.namespaces import SUBNET
from plasmacloud.postgres import PostgresServer, StopMode, find_binaries

FAULTS = ("TERM", "KILL", "STOP", "PARTITION", "RESTART")
MODES = {"blocking": 0.0, "polling": 0.2}
NODE = Path(__file__).with_name("_election_node.py")
DATABASE = "db"
"""The database's host."""
TRIAL_DEADLINE_S = 20.0
TARGETS_MS = {"TERM": (25.0, 250.0), "KILL": (25.0, 250.0), "STOP": (None, 2000.0), "PARTITION": (None, 2000.0)}
"""(p50, max) of the first fenced write, blocking."""
_POLL_S = 0.005


class Times(msgspec.Struct, frozen=True):
    """One trial, in milliseconds after the fault."""

    leads_ms: float
    wrote_ms: float


class Contest:
    """Two processes of one election, and what they have said. ``network``: where they run, if it can be cut."""

    def __init__(
        self, server: PostgresServer, directory: Path, election: str, campaign: float, network: Network | None = None
    ) -> None:
        self.server = server
        self.network = network
        self.directory = directory
        self.election = election
        self.campaign = campaign
        self.nodes: dict[str, ManagedProcess] = {}

    def start(self, name: str) -> None:
        url = f"{self.server.url()}?passfile={self.server.passfile}"
        inside: Sequence[str] = ()
        if self.network is not None:
            host, port = self.network.reach(name, DATABASE, self.server.port)
            url = url.replace(f"{self.server.host}:{self.server.port}", f"{host}:{port}")
            inside = self.network.inside(name)
        log = self.directory / f"{self.election}-{name}.log"
        log.unlink(missing_ok=True)
        argv = [*inside, sys.executable, str(NODE), url, self.election, name, str(self.campaign)]
        self.nodes[name] = ManagedProcess(name, argv, log_path=log)
        self.nodes[name].start()

    def said(self, name: str, word: str, after: float = 0.0) -> float | None:
        """When that node said so, after a time; the last time it did. A word without a time counts as now."""
        try:
            text = self.nodes[name].log_path.read_text()
        except OSError:
            return None
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n") and line.startswith(word)]
        times = [float(line.split()[-1]) if " " in line else time.monotonic() for line in whole]
        return max((at for at in times if at > after), default=None)

    async def wait(self, name: str, word: str, after: float = 0.0) -> float:
        """Raises `BenchError` when the node does not say it in time."""
        deadline = time.monotonic() + TRIAL_DEADLINE_S
        while (at := self.said(name, word, after)) is None:
            if time.monotonic() > deadline:
                raise BenchError(f"{name} never said {word!r}", hint=tail(self.nodes[name].log_path))
            await asyncio.sleep(_POLL_S)
        return at

    async def last_word(self, name: str, word: str) -> None:
        """Wait until this is the last thing that the node has said."""
        deadline = time.monotonic() + TRIAL_DEADLINE_S
        while not tail(self.nodes[name].log_path, 1).startswith(word):
            if time.monotonic() > deadline:
                raise BenchError(f"{name} never came to {word!r}", hint=tail(self.nodes[name].log_path))
            await asyncio.sleep(_POLL_S)

    def end(self) -> None:
        for node in self.nodes.values():
            node.kill()


async def trial(contest: Contest, fault: str, leader: str, follower: str, rng: random.Random) -> Times:
    """One fault, and everything as before when it is over, with the roles exchanged."""
    await contest.last_word(leader, "wrote")
    await contest.last_word(follower, "waits")
    await asyncio.sleep(rng.uniform(0.1, 0.6))
    process = contest.nodes[leader]
    if fault == "RESTART":
        await contest.server.stop(StopMode.FAST)
        fault_at = time.monotonic()
        contest.server.spawn()
        heirs = [leader, follower]
    elif fault == "PARTITION":
        assert contest.network is not None
        fault_at = time.monotonic()
        await contest.network.cut(both(leader, DATABASE))
        heirs = [follower]
    else:
        fault_at = time.monotonic()
        process.signal(getattr(signal, f"SIG{fault}"))
        heirs = [follower]
    wrote_at, heir = await first_write(contest, heirs, fault_at)
    leads_at = await contest.wait(heir, "leads", fault_at)
    if fault == "STOP":
        process.signal(signal.SIGCONT)
        await contest.wait(leader, "follows", fault_at)
    elif fault == "PARTITION":
        assert contest.network is not None
        await contest.network.heal()
        await contest.wait(leader, "follows", fault_at)
    elif fault != "RESTART":
        await process.wait_async(TRIAL_DEADLINE_S)
        contest.start(leader)
    return Times((leads_at - fault_at) * 1e3, (wrote_at - fault_at) * 1e3)


async def first_write(contest: Contest, heirs: Sequence[str], fault_at: float) -> tuple[float, str]:
    """When the first of these wrote after the fault, and which one it was."""
    deadline = time.monotonic() + TRIAL_DEADLINE_S
    while True:
        for heir in heirs:
            at = contest.said(heir, "wrote", fault_at)
            if at is not None:
                return at, heir
        if time.monotonic() > deadline:
            raise BenchError("nobody wrote after the fault", hint=tail(contest.nodes[heirs[0]].log_path))
        await asyncio.sleep(_POLL_S)


async def series(
    server: PostgresServer,
    directory: Path,
    mode: str,
    fault: str,
    trials: int,
    seed: int,
    network: Network | None = None,
) -> list[Times]:
    """All trials of one fault in one mode. Raises `BenchError` when the ledger shows a write of a stale epoch."""
    election = f"bench-{mode}-{fault.lower()}"
    contest = Contest(server, directory, election, MODES[mode], network)
    rng = random.Random(seed)
    found: list[Times] = []
    try:
        contest.start("a")
        await contest.wait("a", "wrote")
        contest.start("b")
        for _ in range(trials):
            leader, follower = ("a", "b") if tail(contest.nodes["a"].log_path, 1).startswith("wrote") else ("b", "a")
            found.append(await trial(contest, fault, leader, follower, rng))
    finally:
        contest.end()
    rows = await server.fetch("SELECT epoch FROM bench_ledger WHERE election = $1 ORDER BY id", election)
    epochs = [row[0] for row in rows]
    if epochs != sorted(epochs) or len(epochs) < trials:
        raise BenchError(f"{election}: the ledger is not in the order of the epochs: {epochs}")
    return found


@asynccontextmanager
async def running_network(directory: Path, port: int) -> AsyncIterator[Network]:
    """Hosts for the two processes and for the database; the best network that there can be here."""
    mechanism, why = choose()
    network = make_network(mechanism, {"a": (), "b": (), DATABASE: (port,)}, directory)
    network.open()
    try:
        for name in ("a", "b"):
            network.reach(name, DATABASE, port)
        await network.start()
        print(f"partitions by {network.kind}{f' ({why})' if why else ''}", flush=True)
        yield network
    finally:
        network.close()


@asynccontextmanager
async def running_server(directory: Path, port: int, network: Network | None = None) -> AsyncIterator[PostgresServer]:
    """PostgreSQL with its defaults, durable as shipped; on a host of the network if there is one."""
    listen = network.listen(DATABASE) if network is not None else LOOPBACK
    server = PostgresServer(
        "postgres",
        find_binaries(),
        directory / "data",
        port,
        log_path=directory / "postgres.log",
        settings={} if listen == LOOPBACK else {"listen_addresses": listen},
        inside=network.inside(DATABASE, refuses_root=True) if network is not None else (),
        allow=() if listen == LOOPBACK else (f"{SUBNET}.0/24",),
    )
    try:
        await server.create()
        await server.start()
        await server.execute(
            "CREATE TABLE bench_ledger (id bigint GENERATED ALWAYS AS IDENTITY, election text, node text, epoch bigint)"
        )
        yield server
    finally:
        await server.remove()


def line(mode: str, fault: str, found: Sequence[Times]) -> str:
    leads = sorted(times.leads_ms for times in found)
    wrote = sorted(times.wrote_ms for times in found)
    p50, highest = percentile(wrote, 0.5), wrote[-1]
    target = TARGETS_MS.get(fault, (None, None)) if mode == "blocking" else (None, None)
    verdict = "-"
    if target[1] is not None:
        met = (target[0] is None or p50 <= target[0]) and highest <= target[1]
        limit = f"max ≤ {target[1]:.0f}" if target[0] is None else f"p50 ≤ {target[0]:.0f}, max ≤ {target[1]:.0f}"
        verdict = f"{'met' if met else 'MISSED'} ({limit})"
    figures = [percentile(leads, 0.5), percentile(leads, 0.99), leads[-1], p50, percentile(wrote, 0.99), highest]
    return f"{mode:<9} {fault:<9} {len(found):>3}  " + " ".join(f"{ms:>8.1f}" for ms in figures) + f"  {verdict}"


def served_line(mode: str, fault: str, found: Sequence[float]) -> str:
    ordered = sorted(found)
    figures = [percentile(ordered, 0.5), percentile(ordered, 0.99), ordered[-1]]
    return f"{mode:<9} {fault:<9} {len(found):>3}  " + " ".join(f"{ms:>8.1f}" for ms in figures)


async def measure_served(options: argparse.Namespace, directory: Path) -> None:
    """What a client of election servers sees."""
    print(f"ms from the fault to the first write acknowledged over HTTP, {options.trials} trials each\n")
    print(f"{'mode':<9} {'fault':<9} {'n':>3}  " + " ".join(f"{name:>8}" for name in ("p50", "p99", "max")))
    faults = [fault for fault in options.fault or FAULTS if fault != "PARTITION"]
    async with running_server(directory, *free_ports(1)) as server:
        for mode in options.mode or MODES:
            for fault in faults:
                name = f"served-{mode}-{fault.lower()}"
                found = await served_series(
                    server, directory, name, MODES[mode], fault, trials=options.trials, seed=options.seed
                )
                print(served_line(mode, fault, found), flush=True)


async def measure(options: argparse.Namespace, directory: Path) -> None:
    print(f"failover in ms after the fault, {options.trials} trials each (RESTART: after the start of PostgreSQL)\n")
    print(f"{'':<24}{'epoch committed':>26} {'first fenced write':>27}")
    print(
        f"{'mode':<9} {'fault':<9} {'n':>3}  "
        + " ".join(f"{name:>8}" for name in ("p50", "p99", "max") * 2)
        + "  target"
    )
    faults = options.fault or FAULTS
    plain = [fault for fault in faults if fault != "PARTITION"]
    port, other = free_ports(2)
    if plain:
        async with running_server(directory, port) as server:
            for mode in options.mode or MODES:
                for fault in plain:
                    found = await series(server, directory, mode, fault, options.trials, options.seed)
                    print(line(mode, fault, found), flush=True)
    if "PARTITION" in faults:
        apart = directory / "apart"
        apart.mkdir(mode=0o755)
        async with running_network(apart, other) as network, running_server(apart, other, network) as server:
            for mode in options.mode or MODES:
                found = await series(server, apart, mode, "PARTITION", options.trials, options.seed, network)
                print(line(mode, "PARTITION", found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench election", description=__doc__)
    parser.add_argument("--trials", type=int, default=20, help="trials of each fault (default 20)")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="only this one; may be repeated")
    parser.add_argument("--mode", action="append", choices=list(MODES), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=1, help="of the phases at which faults happen")
    parser.add_argument("--server", action="store_true", help="through `plasma election serve`, as a client sees it")
    options = parser.parse_args()
    warning = busy_machine()
    if warning:
        print(f"note: {warning}\n")
    directory = Path(tempfile.mkdtemp(prefix="plasma-bench-election-"))
    directory.chmod(0o755)  # as root, the server runs as somebody else
    try:
        asyncio.run((measure_served if options.server else measure)(options, directory))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
