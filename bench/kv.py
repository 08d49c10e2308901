"""Replicated puts and reads: ChainFire beside etcd, three nodes each, durable on each.

Run: ``python -m bench kv [--full] [--target etcd|chainfire|both|modules] [--generator h2load|channel] [--json FILE]
[--svg FILE]``.

Every request goes to the leader over up to four connections. Two generators, because a generator can be wrong:
``h2load`` repeats one prepared request and costs little CPU; ``channel`` is our own gRPC client with 100 000 random
keys, looks at each answer, and is the bottleneck above some 20 000 requests per second. Before a run one request is
made with our client, which fails on a grpc-status other than OK; after a run of puts the revision must have grown by
exactly the number of requests.
"""

import argparse
import asyncio
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from bench import chart
from bench.harness import (
    HOST,
    BenchError,
    Cluster,
    Row,
    Sample,
    busy_machine,
    call,
    percentile,
    print_header,
    print_row,
    running,
    write_json,
)
from plasmacloud.base.compiled import will_compiled_be_used
from plasmacloud.base.errors import PlasmaError
from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.proto import rpc_pb2

PUT, RANGE, TXN = "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range", "/etcdserverpb.KV/Txn"
IN_FLIGHT = (1, 16, 64, 256)
VALUE_BYTES = 100
LARGE_VALUE_BYTES = 4096
RANGE_KEYS = 100
RANDOM_KEYS = 100_000
MAX_CONNECTIONS = 4
MAX_REQUESTS = 400_000
CALL_TIMEOUT_S = 20.0


Body = Callable[[bytes], bytes]  # key -> serialised request


class Operation(msgspec.Struct, frozen=True):
    """One kind of request, or with ``beside`` two kinds in turn."""

    name: str
    path: str
    body: Body
    writes: bool
    beside: tuple[str, Body] | None = None

    def request(self, number: int, key: bytes) -> tuple[str, bytes]:
        """Path and body of the request with this number."""
        path, body = (self.path, self.body) if self.beside is None or number % 2 == 0 else self.beside
        return path, body(key)

    def revisions(self, requests: int) -> int:
        """By how much this many requests move the store's revision."""
        if not self.writes:
            return 0
        return requests if self.beside is None else (requests + 1) // 2


def _put(key: bytes) -> bytes:
    return rpc_pb2.PutRequest(key=key, value=b"v" * VALUE_BYTES).SerializeToString()


def _put_large(key: bytes) -> bytes:
    return rpc_pb2.PutRequest(key=key, value=b"v" * LARGE_VALUE_BYTES).SerializeToString()


def _range(key: bytes) -> bytes:
    return rpc_pb2.RangeRequest(key=key).SerializeToString()


def _serializable(key: bytes) -> bytes:
    return rpc_pb2.RangeRequest(key=key, serializable=True).SerializeToString()


def _range_many(_: bytes) -> bytes:
    return rpc_pb2.RangeRequest(key=b"many/", range_end=b"many0", limit=RANGE_KEYS).SerializeToString()


def _txn(key: bytes) -> bytes:
    """If the key exists: write it and read it, else write it; one revision either way."""
    put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=b"v" * VALUE_BYTES))
    read = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))
    exists = rpc_pb2.Compare(key=key, target=rpc_pb2.Compare.VERSION, result=rpc_pb2.Compare.GREATER, version=0)
    return rpc_pb2.TxnRequest(compare=[exists], success=[put, read], failure=[put]).SerializeToString()


OPERATIONS = (
    Operation("put", PUT, _put, True),
    Operation("put 4 KiB", PUT, _put_large, True),
    Operation("range", RANGE, _range, False),
    Operation("serializable", RANGE, _serializable, False),
    Operation("range of 100", RANGE, _range_many, False),
    Operation("txn", TXN, _txn, True),
    Operation("mixed", PUT, _put, True, beside=(RANGE, _range)),
)
QUICK = ("put", "range", "serializable", "txn")
KEY = b"bench/0000000000"


class Load(msgspec.Struct, frozen=True):
    """What a generator saw."""

    seconds: float
    latencies_ms: list[float]


# Generators: (cluster, operation, in flight, requests) -> Load


def drive_h2load(cluster: Cluster, operation: Operation, in_flight: int, requests: int) -> Load:
    """h2load on the leader. Raises `BenchError` unless every request succeeded as far as HTTP/2 can tell."""
    connections = min(MAX_CONNECTIONS, in_flight)
    body = operation.body(KEY)
    with tempfile.TemporaryDirectory() as scratch:
        data, log = Path(scratch) / "request", Path(scratch) / "log"
        data.write_bytes(b"\0" + len(body).to_bytes(4, "big") + body)
        url = f"http://{HOST}:{cluster.ports[cluster.leader].client}{operation.path}"
        argv = ["h2load", "-n", str(requests), "-c", str(connections), "-m", str(in_flight // connections), "-t", "1"]
        argv += [
            "-d",
            str(data),
            "-H",
            "content-type: application/grpc",
            "-H",
            "te: trailers",
            f"--log-file={log}",
            url,
        ]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
        succeeded = re.search(r"(\d+) succeeded", done.stdout)
        if done.returncode or succeeded is None or int(succeeded[1]) != requests:
            raise BenchError(f"h2load: not all of {requests} requests succeeded", hint=done.stdout + done.stderr)
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    starts = [int(row[0]) for row in rows]
    ends = [int(row[0]) + int(row[2]) for row in rows]
    return Load((max(ends) - min(starts)) / 1e6, sorted(int(row[2]) / 1e3 for row in rows))


def drive_channel(cluster: Cluster, operation: Operation, in_flight: int, requests: int) -> Load:
    """Our own client on the leader, random keys. Raises `RpcError` at the first request that fails."""
    drawn = [
        operation.request(number, b"bench/%010d" % random.randrange(RANDOM_KEYS))
        for number in range(min(requests, 20_000))
    ]
    return uvloop.run(drive_requests(cluster.ports[cluster.leader].client, drawn, in_flight, requests))


async def drive_requests(port: int, drawn: list[tuple[str, bytes]], in_flight: int, requests: int) -> Load:
    """Requests in turn over several connections. Raises `RpcError` at the first one that fails."""
    channels = [Channel(HOST, port) for _ in range(min(MAX_CONNECTIONS, in_flight))]
    latencies_ms: list[float] = []
    numbers = iter(range(requests))

    async def worker(channel: Channel) -> None:
        for number in numbers:
            start = time.perf_counter()
            await channel.unary(*drawn[number % len(drawn)], timeout=CALL_TIMEOUT_S)
            latencies_ms.append((time.perf_counter() - start) * 1e3)

    try:
        for channel in channels:
            await channel.connect(5.0)
        start = time.perf_counter()
        async with asyncio.TaskGroup() as workers:
            for number in range(in_flight):
                workers.create_task(worker(channels[number % len(channels)]))
        seconds = time.perf_counter() - start
    finally:
        for channel in channels:
            await channel.close()
    latencies_ms.sort()
    return Load(seconds, latencies_ms)


Generator = Callable[[Cluster, Operation, int, int], Load]
GENERATORS: dict[str, Generator] = {"h2load": drive_h2load, "channel": drive_channel}


# Measuring


def prepare(cluster: Cluster) -> None:
    """Write what ranges of many keys read."""
    port = cluster.ports[cluster.leader].client
    for start in range(0, RANGE_KEYS, 50):
        puts = [
            rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"many/%04d" % n, value=b"v" * VALUE_BYTES))
            for n in range(start, start + 50)
        ]
        asyncio.run(call(port, TXN, rpc_pb2.TxnRequest(success=puts).SerializeToString()))


def revision(cluster: Cluster) -> int:
    """The store's revision, read through the leader."""
    reply = asyncio.run(call(cluster.ports[cluster.leader].client, RANGE, _range(KEY)))
    return rpc_pb2.RangeResponse.FromString(reply).header.revision


def measure(cluster: Cluster, generate: Generator, operation: Operation, in_flight: int, requests: int) -> Sample:
    """One run, checked. Raises `BenchError` when writes are missing or leadership moved."""
    asyncio.run(call(cluster.ports[cluster.leader].client, operation.path, operation.body(KEY)))
    before = revision(cluster)
    own_cpu_s, cpu_s = _generator_cpu_s(), cluster.cpu_s()
    load = generate(cluster, operation, in_flight, requests)
    cpu_s, own_cpu_s = cluster.cpu_s() - cpu_s, _generator_cpu_s() - own_cpu_s
    grown = revision(cluster) - before
    if grown != operation.revisions(requests):
        raise BenchError(f"{cluster.system}: {requests} requests ({operation.name}) moved the revision by {grown}")
    if cluster.find_leader() != cluster.leader:
        raise BenchError(f"{cluster.system}: leadership moved during the run; the machine is too busy to measure")
    return Sample(
        operations=requests,
        rate_per_s=requests / load.seconds,
        p50_ms=percentile(load.latencies_ms, 0.50),
        p99_ms=percentile(load.latencies_ms, 0.99),
        cpu_us=cpu_s / requests * 1e6,
        generator_us=own_cpu_s / requests * 1e6,
    )


def _generator_cpu_s() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def measure_row(
    clusters: list[Cluster], name: str, operation: Operation, in_flight: int, *, seconds: float, rounds: int
) -> Row:
    """Warm up, then alternate between the clusters. The number of requests follows from the warm-up's rate."""
    generate = GENERATORS[name]
    requests = {}
    for cluster in clusters:
        warm_up = measure(cluster, generate, operation, in_flight, in_flight * (20 if in_flight > 1 else 100))
        requests[cluster.system] = max(in_flight * 10, min(MAX_REQUESTS, int(warm_up.rate_per_s * seconds)))
    samples: dict[str, list[Sample]] = {cluster.system: [] for cluster in clusters}
    for round_number in range(rounds):
        for cluster in clusters if round_number % 2 == 0 else reversed(clusters):
            count = requests[cluster.system]
            samples[cluster.system].append(measure(cluster, generate, operation, in_flight, count))
    return Row(operation.name, in_flight, name, samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--target",
        choices=("etcd", "chainfire", "both", "modules"),
        default="both",
        help="modules: ChainFire as Python and compiled (./dev compile), beside each other",
    )
    parser.add_argument("--generator", choices=(*GENERATORS, "both"), help="default: h2load when it is installed")
    parser.add_argument(
        "--operation",
        choices=[o.name for o in OPERATIONS],
        action="append",
        help="default: " + ", ".join(QUICK) + "; with --full all",
    )
    parser.add_argument("--in-flight", type=int, choices=IN_FLIGHT, action="append", help="default: all")
    parser.add_argument(
        "--full", action="store_true", help="both generators, 5 rounds of 3 s (default: 1 round of 1 s)"
    )
    parser.add_argument("--rounds", type=int, help="runs per system and row; medians are printed")
    parser.add_argument("--seconds", type=float, help="approximate length of one run")
    parser.add_argument(
        "--directory", type=Path, help="where the data goes: a real disk, not tmpfs (default: the temporary directory)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the medians at the most in flight to FILE")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (5 if arguments.full else 1)
    seconds = arguments.seconds or (3.0 if arguments.full else 1.0)
    pairs = {"both": ["etcd", "chainfire"], "modules": ["python", "compiled"]}
    systems = pairs.get(arguments.target, [arguments.target])
    generators = choose_generators(arguments.generator, full=arguments.full)
    wanted = arguments.operation or ([o.name for o in OPERATIONS] if arguments.full else QUICK)
    operations = [o for o in OPERATIONS if o.name in wanted]
    rows: list[Row] = []
    if (warning := busy_machine()) is not None:
        print(f"warning: {warning}", file=sys.stderr)
    with (
        tempfile.TemporaryDirectory(prefix="plasma-bench-", dir=arguments.directory) as directory,
        running(systems, Path(directory)) as clusters,
    ):
        for cluster in clusters:
            prepare(cluster)
            idle = f"idle they use {cluster.idle_cpu_share():.1%} of a core"
            print(f"{cluster.system} {cluster.version}: {len(cluster.nodes)} nodes in {directory}; {idle}", flush=True)
        modules = "compiled" if will_compiled_be_used(os.environ) else "python"
        if "chainfire" in systems:
            print(f"modules of chainfire's nodes: {modules}", flush=True)
        for name in generators:
            print(f"\ngenerator {name}, median of {rounds}, about {seconds:g} s each")
            print_header(systems[0])
            for operation in operations:
                if operation.beside is not None and name == "h2load":
                    continue  # it repeats one request
                for in_flight in arguments.in_flight or IN_FLIGHT:
                    rows.append(measure_row(clusters, name, operation, in_flight, seconds=seconds, rounds=rounds))
                    print_row(rows[-1], systems[0])
        if arguments.json is not None:
            settings = {"rounds": rounds, "seconds": seconds, "value_bytes": VALUE_BYTES, "generators": generators}
            settings["modules"] = modules
            write_json(arguments.json, rows, clusters, settings)
        if arguments.svg is not None:
            note = f"three nodes each on one machine of {os.cpu_count()} cores, durable; generator {rows[0].generator}"
            note += f", median of {rounds} x {seconds:g} s, {VALUE_BYTES}-byte values"
            versions = {cluster.system: cluster.version for cluster in clusters}
            arguments.svg.write_text(chart.draw(rows, versions, note))


def choose_generators(wanted: str | None, *, full: bool) -> list[str]:
    installed = [name for name in GENERATORS if name != "h2load" or shutil.which("h2load")]
    if wanted is None:
        return installed if full else installed[:1]
    names = list(GENERATORS) if wanted == "both" else [wanted]
    if not set(names) <= set(installed):
        raise BenchError("h2load is not installed", hint="install nghttp2-client, or use --generator channel")
    return names


if __name__ == "__main__":
    try:
        main()
    except PlasmaError as error:
        sys.exit(f"{error}\n{error.hint or ''}")
