"""More writes than a cluster can take: ChainFire beside etcd at 1, 2 and 4 times their own saturation.

Run: ``python -m bench overload [--seconds 5] [--levels 1 2 4] [--target etcd|chainfire|both] [--json FILE]``.
An hour of memory at four times the saturation: ``--levels 4 --seconds 3600 --target chainfire``.

Memory has to stay where it was, because the load overwrites a bounded set of keys and a client compacts every five
seconds: what grows then would be a leak. With ``--no-compaction`` nobody compacts, and what grows is the history: in
etcd for ever, in ChainFire up to ``--history-limit`` (``PLASMA_CHAINFIRE_SERVE_HISTORY_LIMIT`` sets it here). Keys,
revisions kept and the size of the state are printed below each level, and with a long run memory for each minute.

The load is open: requests are due at fixed times, whether or not earlier ones were answered, as when a crowd arrives.
Latency counts from the time a request was due, so what waits in the generator, in buffers and in queues is all seen.
Saturation is what a closed load of 512 in flight achieves on the same machine just before. Of interest: does *goodput*
(writes acknowledged in time) hold, does latency stay bounded, are those who are turned away told so at once and in a
way that is safe to retry, and does memory stay where it was.

A request is a transaction of 16 puts, because a generator in Python makes little more than 15 000 requests per second
and must be able to offer four times what the servers take; for the same reason servers are pinned to one core and the
generator to another. What was offered is printed beside: where it is less than wanted, the generator was the limit.
"""

import argparse
import asyncio
import http.client
import json
import os
import platform
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import msgspec
import uvloop

from bench.harness import HOST, BenchError, Cluster, Memory, busy_machine, call, percentile, running
from bench.kv import TXN
from bench.open_load import TIMEOUT_S, OpenLoad, transaction
from plasmacloud.base.errors import PlasmaError
from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.status import RpcError

STATUS = "/etcdserverpb.Maintenance/Status"
LEVELS = (1.0, 2.0, 4.0)
CONNECTIONS = 16
SATURATION_IN_FLIGHT = 512
COMPACT_EVERY_S = 5.0
MIB = 1 << 20
COMPACT_AGAIN_S = 0.1
MEMORY_SAMPLES = 400


class Kept(msgspec.Struct, frozen=True):
    """What the leader holds behind the level."""

    keys: int
    revisions: int
    """That can still be read: from the last compaction to now."""
    state_mib: float
    state_in_use_mib: float


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One system at one level."""

    system: str
    times_saturation: float
    wanted_per_s: float
    offered_per_s: float
    goodput_per_s: float
    refused_per_s: float
    failed: dict[str, int]
    p50_ms: float
    p99_ms: float
    max_ms: float
    refusal_p99_ms: float
    late_p99_ms: float
    """From when a request was due to when the generator sent it: above zero, the generator was the limit as well."""
    generator_cpu_share: float
    """Of one core."""
    leader_changes: int
    """Terms that passed during the level."""
    memory: list[Memory]
    """Of all nodes together: before, then at even intervals, the last one after the load."""
    minutes: list[Memory]
    """The same, once a minute."""
    recovered_p99_ms: float
    """Of single transactions right after the load has ended."""
    kept: Kept


async def _kept(cluster: Cluster) -> Kept:
    """Both systems tell it in the same words."""
    port = cluster.ports[cluster.leader].client
    status = rpc_pb2.StatusResponse.FromString(await call(port, STATUS, b""))
    shown = await asyncio.to_thread(_metrics, port)
    revisions = status.header.revision - max(1, int(shown.get("etcd_debugging_mvcc_compact_revision", 0)))
    keys = int(shown["etcd_debugging_mvcc_keys_total"])
    return Kept(keys, revisions, status.dbSize / MIB, status.dbSizeInUse / MIB)


def _metrics(port: int) -> dict[str, float]:
    """Those without labels."""
    with closing(http.client.HTTPConnection(HOST, port, timeout=10.0)) as connection:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    pairs = (line.split() for line in lines if not line.startswith("#") and "{" not in line)
    return {name: float(value) for name, value in pairs}


class _Memory:
    """What the nodes occupy while a level runs: a thinned series, so that an hour is no longer than a minute."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._every, self._calls = 1, 0
        self._began = time.monotonic()
        self.series: list[Memory] = []
        self.minutes: list[Memory] = []
        self.look()

    def look(self) -> None:
        self._calls += 1
        if time.monotonic() - self._began >= 60.0 * len(self.minutes):
            self.minutes.append(self._cluster.memory())
        if self._calls % self._every == 0:
            self.series.append(self._cluster.memory())
        if len(self.series) >= 2 * MEMORY_SAMPLES:
            self.series = self.series[::2]
            self._every *= 2


async def _compact(port: int) -> None:
    """Forget old revisions now and then, as every user does; otherwise the data grows, and memory with it."""
    pause_s = COMPACT_EVERY_S
    while True:
        await asyncio.sleep(pause_s)
        pause_s = COMPACT_EVERY_S
        try:
            status = await call(port, STATUS, rpc_pb2.StatusRequest().SerializeToString())
            revision = rpc_pb2.StatusResponse.FromString(status).header.revision
            body = rpc_pb2.CompactionRequest(revision=revision - 1).SerializeToString()
            await call(port, "/etcdserverpb.KV/Compact", body)
        except RpcError:
            pause_s = COMPACT_AGAIN_S  # refused like everything else


async def _term(cluster: Cluster) -> int:
    status = await call(cluster.ports[cluster.leader].client, STATUS, b"")
    return rpc_pb2.StatusResponse.FromString(status).raftTerm


async def _saturation(cluster: Cluster, seconds: float) -> float:
    """Transactions per second with so many under way at any time."""
    port = cluster.ports[cluster.leader].client
    channels = [Channel(HOST, port) for _ in range(CONNECTIONS)]
    try:
        for channel in channels:
            await channel.connect(5.0)
        connections = [c for channel in channels if (c := channel._connection) is not None]
        load = OpenLoad(connections, 0.0, seconds, at_once=SATURATION_IN_FLIGHT)
        offered_s = await load.run()
    finally:
        for channel in channels:
            await channel.close()
    if load.failed:
        raise BenchError(f"{cluster.system}: failures at saturation: {load.failed}")
    return load.answered.count / offered_s


async def _measure(
    cluster: Cluster, times: float, saturation_per_s: float, seconds: float, *, compaction: bool
) -> Level:
    port = cluster.ports[cluster.leader].client
    channels = [Channel(HOST, port) for _ in range(CONNECTIONS)]
    memory = _Memory(cluster)
    term = await _term(cluster)
    try:
        for channel in channels:
            await channel.connect(5.0)
        connections = [c for channel in channels if (c := channel._connection) is not None]
        load = OpenLoad(connections, times * saturation_per_s, seconds)
        cpu_s = time.process_time()
        running_load = asyncio.create_task(load.run())
        compacting = asyncio.create_task(_compact(port)) if compaction else None
        while not running_load.done():
            await asyncio.wait([running_load], timeout=0.1)
            memory.look()
        if compacting is not None:
            compacting.cancel()
        offered_s = running_load.result()
        generator_cpu_share = (time.process_time() - cpu_s) / offered_s
        singles = []
        for number in range(200):
            start = time.perf_counter()
            try:
                await channels[0].unary(TXN, transaction(number), timeout=TIMEOUT_S)
            except RpcError:
                load.failed["after the load"] += 1  # still refused
            singles.append((time.perf_counter() - start) * 1e3)
    finally:
        for channel in channels:
            await channel.close()
    answered = load.answered.ordered()
    return Level(
        system=cluster.system,
        times_saturation=times,
        wanted_per_s=times * saturation_per_s,
        offered_per_s=load.offered / offered_s,
        goodput_per_s=load.answered.count / offered_s,
        refused_per_s=load.refused.count / offered_s,
        failed=dict(load.failed),
        p50_ms=percentile(answered, 0.50),
        p99_ms=percentile(answered, 0.99),
        max_ms=load.answered.largest_ms,
        refusal_p99_ms=percentile(load.refused.ordered(), 0.99),
        late_p99_ms=percentile(load.late.ordered(), 0.99),
        generator_cpu_share=generator_cpu_share,
        leader_changes=await _term(cluster) - term,
        memory=[*memory.series, cluster.memory()],
        minutes=memory.minutes,
        kept=await _kept(cluster),
        recovered_p99_ms=percentile(sorted(singles), 0.99),
    )


def _pin(cluster: Cluster, cores: list[int]) -> None:
    """Servers on one core, this process on another."""
    for node in cluster.nodes:
        for thread in Path(f"/proc/{node.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {cores[0]})
    os.sched_setaffinity(0, {cores[1]})


_HEADER = (
    f"{'system':<10}{'load':>5}{'offered/s':>11}{'goodput/s':>11}{'of 1st':>8}{'refused/s':>11}{'failed':>8}"
    f"{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}{'refusal p99':>13}{'late p99':>10}{'gen CPU':>9}"
    f"{'memory MiB':>20}{'resident':>10}{'terms':>7}{'p99 after':>11}"
)


def _print(level: Level, first: Level) -> None:
    series = [each.anonymous for each in level.memory]
    memory = f"{series[0]:.0f} / {max(series):.0f} / {series[-1]:.0f}"
    print(
        f"{level.system:<10}{level.times_saturation:>4.0f}x{level.offered_per_s:>11.0f}{level.goodput_per_s:>11.0f}"
        f"{level.goodput_per_s / first.goodput_per_s:>8.0%}{level.refused_per_s:>11.0f}"
        f"{sum(level.failed.values()):>8}{level.p50_ms:>8.0f}{level.p99_ms:>8.0f}{level.max_ms:>8.0f}"
        f"{level.refusal_p99_ms:>13.0f}{level.late_p99_ms:>10.0f}{level.generator_cpu_share:>9.0%}{memory:>20}"
        f"{max(each.resident for each in level.memory):>10.0f}"
        f"{level.leader_changes:>7}{level.recovered_p99_ms:>11.1f}   {level.failed or ''}",
        flush=True,
    )
    kept = level.kept
    print(
        f"{'':<10}kept: {kept.keys} keys, {kept.revisions} revisions, "
        f"a state of {kept.state_mib:.0f} MiB, {kept.state_in_use_mib:.0f} in use"
    )
    if len(level.minutes) > 1:
        print(f"{'':<10}MiB each minute: " + " ".join(f"{each.anonymous:.0f}" for each in level.minutes))
    if len(series) >= MEMORY_SAMPLES:
        quarter = len(series) // 4
        first_mib, last_mib = median(series[quarter : 2 * quarter]), median(series[-quarter:])
        print(f"{'':<10}memory: {first_mib:.0f} MiB in the second quarter of the time, {last_mib:.0f} in the last")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--target", choices=("etcd", "chainfire", "both"), default="both")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each level")
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS, help="times saturation")
    parser.add_argument("--no-compaction", action="store_true", help="no client compacts")
    parser.add_argument("--no-pin", action="store_true", help="let servers and generator use all cores")
    parser.add_argument("--directory", type=Path, help="where the data goes: a real disk, not tmpfs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to FILE")
    arguments = parser.parse_args()
    systems = ["etcd", "chainfire"] if arguments.target == "both" else [arguments.target]
    if (warning := busy_machine()) is not None:
        print(f"warning: {warning}", file=sys.stderr)
    levels: list[Level] = []
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="plasma-bench-", dir=arguments.directory) as directory:
        for system in systems:  # one after the other: on one core even an idle cluster costs the other something
            os.sched_setaffinity(0, cores)
            with running([system], Path(directory)) as (cluster,):
                if pinned := not arguments.no_pin and len(cores) > 1:
                    _pin(cluster, cores)
                uvloop.run(_saturation(cluster, 1.0))  # warm up
                saturation = uvloop.run(_saturation(cluster, min(10.0, max(2.0, arguments.seconds / 2))))
                print(f"{system} {cluster.version}: saturated at {saturation:.0f} transactions/s" + ", pinned" * pinned)
                print(_HEADER)
                first = len(levels)
                for times in arguments.levels:
                    work = _measure(
                        cluster, times, saturation, arguments.seconds, compaction=not arguments.no_compaction
                    )
                    levels.append(uvloop.run(work))
                    _print(levels[-1], levels[first])
                    if not all(node.running for node in cluster.nodes):
                        raise BenchError(f"{system}: a node has ended under load")
    if arguments.json is not None:
        machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
        document = {"machine": machine, "levels": msgspec.to_builtins(levels)}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except PlasmaError as error:
        sys.exit(f"{error}\n{error.hint or ''}")
