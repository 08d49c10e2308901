"""A store with very many keys: memory, disk, recovery of a node, and what an operation costs; ChainFire beside etcd.

Run: ``python -m bench large [--keys 1000000] [--small 10000] [--target etcd|chainfire|both] [--json FILE]``.

One system after the other, so that each has the machine's memory to itself. A cluster of three is filled with ``small``
keys of 100-byte values and measured, then filled up to ``keys`` and measured again: CPU of all nodes per operation,
with random keys of all there are. After a pause in which checkpoints and compactions come to rest, memory (resident,
and of it what is not the page cache of mapped files) and disk (allocated blocks, by what they hold) of all nodes are
added up. Then a follower is killed and started again: recovery is the time until it has applied all that the leader had
and serves reads.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import uvloop

from bench.harness import (
    HOST,
    BenchError,
    Cluster,
    Memory,
    Sample,
    busy_machine,
    call,
    memory_of,
    percentile,
    process_cpu_s,
    running,
)
from bench.kv import OPERATIONS, RANGE, TXN, Operation, drive_requests, revision
from plasmacloud.base.errors import PlasmaError
from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.status import RpcError

VALUE_BYTES = 100
PUTS = 100  # in a transaction of the filling; etcd allows 128
FILLERS = 8
MEASURED = ("put", "range", "serializable", "txn")
IN_FLIGHT = 64
RECOVERY_DEADLINE_S = 300.0
_QUIET_CPU_SHARE = 0.25  # of one core, all nodes together: they do nothing that somebody asked for
_QUIET_DEADLINE_S = 90.0
_POLL_S = 0.02
STATUS = "/etcdserverpb.Maintenance/Status"


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """What one system needs for its keys."""

    system: str
    version: str
    keys: int
    fill_s: float
    fill_cpu_us: float
    """Of all nodes, per key."""
    empty: Memory
    full: Memory
    disk_mib: dict[str, float]
    """Allocated, of all nodes together, by the entry of the data directory."""
    recovery_s: float
    recovered_memory: Memory
    """Of the restarted node alone, right after its recovery."""
    small_keys: int
    costs: dict[str, tuple[Sample, Sample]]
    """By operation: with few keys, and with many."""


def key_of(number: int) -> bytes:
    return b"large/%010d" % number


async def fill(port: int, first: int, last: int) -> None:
    """Put the keys ``first`` to ``last`` - 1, in transactions. Raises `RpcError` when one fails."""
    channel = Channel(HOST, port)
    starts = iter(range(first, last, PUTS))
    value = b"v" * VALUE_BYTES

    async def filler() -> None:
        for start in starts:
            puts = [
                rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key_of(number), value=value))
                for number in range(start, min(start + PUTS, last))
            ]
            await channel.unary(TXN, rpc_pb2.TxnRequest(success=puts).SerializeToString(), timeout=30.0)

    try:
        async with asyncio.TaskGroup() as fillers:
            for _ in range(FILLERS):
                fillers.create_task(filler())
    finally:
        await channel.close()


def cost(cluster: Cluster, operation: Operation, keys: int, requests: int) -> Sample:
    """One operation with random keys out of so many. Raises `BenchError` when writes are missing."""
    drawn = [operation.request(number, key_of(random.randrange(keys))) for number in range(min(requests, 20_000))]
    port = cluster.ports[cluster.leader].client
    before, cpu_s, own_cpu_s = revision(cluster), cluster.cpu_s(), time.process_time()
    load = uvloop.run(drive_requests(port, drawn, IN_FLIGHT, requests))
    cpu_s, own_cpu_s = cluster.cpu_s() - cpu_s, time.process_time() - own_cpu_s
    if (grown := revision(cluster) - before) != operation.revisions(requests):
        raise BenchError(f"{cluster.system}: {requests} requests ({operation.name}) moved the revision by {grown}")
    return Sample(
        operations=requests,
        rate_per_s=requests / load.seconds,
        p50_ms=percentile(load.latencies_ms, 0.50),
        p99_ms=percentile(load.latencies_ms, 0.99),
        cpu_us=cpu_s / requests * 1e6,
        generator_us=own_cpu_s / requests * 1e6,
    )


def costs(cluster: Cluster, keys: int, requests: int, rounds: int) -> dict[str, Sample]:
    """The medians of some rounds, after one that warms up."""
    found: dict[str, Sample] = {}
    for operation in OPERATIONS:
        if operation.name in MEASURED:
            cost(cluster, operation, keys, requests // 4)
            found[operation.name] = Sample.median([cost(cluster, operation, keys, requests) for _ in range(rounds)])
    return found


def disk_mib(cluster: Cluster, directory: Path) -> dict[str, float]:
    """What is allocated for the data of all nodes, by the name of the entry below the data directory (and one more)."""
    found: dict[str, float] = {}
    for number in range(1, len(cluster.nodes) + 1):
        root = directory / f"{cluster.system}-n{number}"
        for path in root.rglob("*"):
            if path.is_file():
                parts = path.relative_to(root).parts
                name = "/".join(parts[: min(2, max(1, len(parts) - 1))])
                found[name] = found.get(name, 0.0) + path.stat().st_blocks * 512 / 2**20
    return {name: mib for name, mib in found.items() if mib >= 0.1}


def settle(cluster: Cluster) -> None:
    """Wait until the nodes have come to rest, or a deadline."""
    deadline = time.monotonic() + _QUIET_DEADLINE_S
    quiet = 0
    while quiet < 3 and time.monotonic() < deadline:
        quiet = quiet + 1 if cluster.idle_cpu_share(1.0) < _QUIET_CPU_SHARE else 0


def recover(cluster: Cluster, number: int) -> tuple[float, Memory]:
    """Kill a node and start it again: seconds until it is where the leader was and serves, and its memory then.

    Raises `BenchError` after a deadline.
    """
    applied = uvloop.run(_status(cluster.ports[cluster.leader].client)).raftAppliedIndex
    node, port = cluster.nodes[number], cluster.ports[number].client
    node.kill()
    started = time.monotonic()
    node.start()
    while time.monotonic() < started + RECOVERY_DEADLINE_S:
        try:
            status = uvloop.run(_status(port))
            if status.leader and status.raftAppliedIndex >= applied:
                body = rpc_pb2.RangeRequest(key=key_of(0)).SerializeToString()
                if rpc_pb2.RangeResponse.FromString(uvloop.run(call(port, RANGE, body))).count == 1:
                    return time.monotonic() - started, memory_of(node.pid)
        except RpcError:
            if not node.running:
                raise BenchError(f"{node.name} ended with status {node.returncode} after its restart") from None
        time.sleep(_POLL_S)
    raise BenchError(f"{node.name} has not recovered within {RECOVERY_DEADLINE_S:.0f} s")


async def _status(port: int) -> rpc_pb2.StatusResponse:
    return rpc_pb2.StatusResponse.FromString(await call(port, STATUS, b""))


def measure(cluster: Cluster, directory: Path, *, keys: int, small: int, requests: int, rounds: int) -> Store:
    """All there is to know about one system."""
    port = cluster.ports[cluster.leader].client
    empty = cluster.memory()
    uvloop.run(fill(port, 0, small))
    few = costs(cluster, small, requests, rounds)
    cpu_s, started = sum(process_cpu_s(node.pid) for node in cluster.nodes), time.monotonic()
    uvloop.run(fill(port, small, keys))
    fill_s = time.monotonic() - started
    fill_cpu_s = cluster.cpu_s() - cpu_s
    settle(cluster)
    full, disk = cluster.memory(), disk_mib(cluster, directory)
    many = costs(cluster, keys, requests, rounds)
    if cluster.find_leader() != cluster.leader:
        raise BenchError(f"{cluster.system}: leadership moved during the run; the machine is too busy to measure")
    recovery_s, recovered = recover(cluster, (cluster.leader + 1) % len(cluster.nodes))
    return Store(
        system=cluster.system,
        version=cluster.version,
        keys=keys,
        fill_s=fill_s,
        fill_cpu_us=fill_cpu_s / max(1, keys - small) * 1e6,
        empty=empty,
        full=full,
        disk_mib=disk,
        recovery_s=recovery_s,
        recovered_memory=recovered,
        small_keys=small,
        costs={name: (few[name], many[name]) for name in few},
    )


def _print(store: Store, reference: Store | None) -> None:
    def ratio(own: float, other: float) -> str:
        return f"   {own / other:.2f}x of {reference.system}'s" if reference is not None and other else ""

    other = reference or store
    print(f"\n{store.system} {store.version}, {store.keys:,} keys, three nodes together")
    rows = [
        ("memory resident, MiB", store.full.resident, other.full.resident),
        ("  not of mapped files, MiB", store.full.anonymous, other.full.anonymous),
        ("  while empty, MiB", store.empty.resident, other.empty.resident),
        ("disk, MiB", sum(store.disk_mib.values()), sum(other.disk_mib.values())),
        ("fill, CPU µs per key", store.fill_cpu_us, other.fill_cpu_us),
        ("recovery of one node, s", store.recovery_s, other.recovery_s),
        ("  its memory then, MiB", store.recovered_memory.resident, other.recovered_memory.resident),
    ]
    for name, value, others in rows:
        print(f"  {name:<28}{value:>10.1f}{ratio(value, others)}")
    for name, mib in sorted(store.disk_mib.items(), key=lambda item: -item[1]):
        print(f"    on disk, {name:<19}{mib:>10.1f}")
    print(f"  CPU µs per operation      {store.small_keys:>12,}{store.keys:>12,}")
    for name, (few, many) in store.costs.items():
        print(f"    {name:<24}{few.cpu_us:>12.1f}{many.cpu_us:>12.1f}   {many.cpu_us / few.cpu_us:.2f}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--target", choices=("etcd", "chainfire", "both"), default="both")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=10_000, help="keys of the first measurement")
    parser.add_argument("--requests", type=int, default=10_000, help="in one round of one operation")
    parser.add_argument("--rounds", type=int, default=3, help="medians are taken")
    parser.add_argument("--directory", type=Path, help="where the data goes: a real disk, not tmpfs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    arguments = parser.parse_args()
    if not 0 < arguments.small <= arguments.keys:
        parser.error("--small is between 1 and --keys")
    systems = ["etcd", "chainfire"] if arguments.target == "both" else [arguments.target]
    if (warning := busy_machine()) is not None:
        print(f"warning: {warning}", file=sys.stderr)
    stores: list[Store] = []
    with tempfile.TemporaryDirectory(prefix="plasma-bench-", dir=arguments.directory) as directory:
        for system in systems:
            with running([system], Path(directory)) as (cluster,):
                stores.append(
                    measure(
                        cluster,
                        Path(directory),
                        keys=arguments.keys,
                        small=arguments.small,
                        requests=arguments.requests,
                        rounds=arguments.rounds,
                    )
                )
            _print(stores[-1], stores[0] if len(stores) > 1 else None)
    if arguments.json is not None:
        machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
        document = {"machine": machine, "stores": msgspec.to_builtins(stores)}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except PlasmaError as error:
        sys.exit(f"{error}\n{error.hint or ''}")
