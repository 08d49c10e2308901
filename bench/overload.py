"""More writes than a cluster can take: ChainFire beside etcd at 1, 2 and 4 times their own saturation.

Run: ``python -m bench overload [--seconds 5] [--target etcd|chainfire|both] [--no-pin] [--json FILE]``.

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
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter, deque
from pathlib import Path

import msgspec
import uvloop

from bench.harness import HOST, BenchError, Cluster, busy_machine, percentile, running
from bench.kv import TXN
from plasmacloud.base.errors import PlasmaError
from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.client_call import ClientUnary
from plasmacloud.rpc.client_connection import ClientConnection
from plasmacloud.rpc.h2.headers import encode_fields
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.status import Execution, RpcError, StatusCode

LEVELS = (1.0, 2.0, 4.0)
CONNECTIONS = 16
SATURATION_IN_FLIGHT = 512
TIMEOUT_S = 5.0
RANDOM_KEYS = 10_000
PUTS = 16
VALUE_BYTES = 100
_TURN_S = 0.001
_BLOCK = encode_fields(
    [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", TXN.encode()),
        (b":authority", HOST.encode()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"grpc-timeout", b"%dS" % TIMEOUT_S),
    ]
)


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
    rss_before_mib: float
    rss_peak_mib: float
    rss_after_mib: float
    recovered_p99_ms: float
    """Of single transactions right after the load has ended."""


class OpenLoad:
    """Requests at fixed times over several connections."""

    def __init__(
        self, connections: list[ClientConnection], rate_per_s: float, seconds: float, *, at_once: int | None = None
    ) -> None:
        """``at_once``: no more than this under way; makes it a closed load."""
        self._at_once = at_once if at_once is not None else sys.maxsize
        self._connections = connections
        self._rate = rate_per_s
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._bodies = [_txn(random.randrange(RANDOM_KEYS)) for _ in range(2000)]
        self._waiting: deque[float] = deque()  # due times of requests for which no stream is free
        self._under_way = 0
        self.offered = 0
        self.answered_ms: list[float] = []
        self.refused_ms: list[float] = []
        self.late_ms: list[float] = []  # from when a request was due to when it was sent: the generator's own queue
        self.failed: Counter[str] = Counter()

    async def run(self) -> float:
        """Offer the load and wait for what is under way; returns for how long it was offered, in seconds."""
        start = self._loop.time()
        made = 0
        while (passed := self._loop.time() - start) < self._seconds:
            due = int(passed * self._rate) if self._at_once == sys.maxsize else made + self._at_once - self._under_way
            for number in range(made, due):
                self._waiting.append(start + number / self._rate if self._rate else self._loop.time())
            made = due
            self._send()
            if self._at_once != sys.maxsize:
                self._waiting.clear()
            await asyncio.sleep(_TURN_S)
        offered_s = self._loop.time() - start
        deadline = self._loop.time() + 2 * TIMEOUT_S
        while (self._under_way or self._waiting) and self._loop.time() < deadline:
            self._send()
            await asyncio.sleep(_TURN_S)
        self.failed["no answer"] += self._under_way + len(self._waiting)
        self.failed += Counter()
        return offered_s

    def _send(self) -> None:
        now = self._loop.time()
        for connection in self._connections:
            while self._waiting and connection.usable and connection.has_slot and self._under_way < self._at_once:
                due = self._waiting.popleft()
                if now - due > TIMEOUT_S:
                    self.failed["never sent"] += 1
                    continue
                body = self._bodies[self.offered % len(self._bodies)]
                self.offered += 1
                self.late_ms.append((now - due) * 1e3)
                self._under_way += 1
                call: ClientUnary = connection.start_unary(_BLOCK, body, due + TIMEOUT_S)
                call.future.add_done_callback(lambda future, due=due: self._ended(future, due))  # type: ignore[misc]

    def _ended(self, future: "asyncio.Future[bytes]", due: float) -> None:
        self._under_way -= 1
        took_ms = (self._loop.time() - due) * 1e3
        error = future.exception()
        if error is None:
            self.answered_ms.append(took_ms)
        elif isinstance(error, RpcError) and (
            error.code is StatusCode.RESOURCE_EXHAUSTED or error.executed is Execution.NOT_EXECUTED
        ):
            self.refused_ms.append(took_ms)
        else:
            self.failed[f"{error.code.name}: {error.message}" if isinstance(error, RpcError) else repr(error)] += 1


def _txn(number: int) -> bytes:
    puts = [
        rpc_pb2.RequestOp(
            request_put=rpc_pb2.PutRequest(key=b"bench/%06d/%02d" % (number, i), value=b"v" * VALUE_BYTES)
        )
        for i in range(PUTS)
    ]
    return rpc_pb2.TxnRequest(success=puts).SerializeToString()


def _rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


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
    return len(load.answered_ms) / offered_s


async def _measure(cluster: Cluster, times: float, saturation_per_s: float, seconds: float) -> Level:
    pid = cluster.nodes[cluster.leader].pid
    port = cluster.ports[cluster.leader].client
    channels = [Channel(HOST, port) for _ in range(CONNECTIONS)]
    before = peak = _rss_mib(pid)
    try:
        for channel in channels:
            await channel.connect(5.0)
        # The calls below the channel's, because a task for each request would be the generator's limit.
        connections = [c for channel in channels if (c := channel._connection) is not None]
        load = OpenLoad(connections, times * saturation_per_s, seconds)
        running_load = asyncio.create_task(load.run())
        while not running_load.done():
            peak = max(peak, _rss_mib(pid))
            await asyncio.wait([running_load], timeout=0.1)
        offered_s = running_load.result()
        singles = []
        for number in range(200):
            start = time.perf_counter()
            try:
                await channels[0].unary(TXN, _txn(number), timeout=TIMEOUT_S)
            except RpcError:
                load.failed["after the load"] += 1  # still refused
            singles.append((time.perf_counter() - start) * 1e3)
    finally:
        for channel in channels:
            await channel.close()
    answered, refused = sorted(load.answered_ms), sorted(load.refused_ms)
    return Level(
        system=cluster.system,
        times_saturation=times,
        wanted_per_s=times * saturation_per_s,
        offered_per_s=load.offered / offered_s,
        goodput_per_s=len(answered) / offered_s,
        refused_per_s=len(refused) / offered_s,
        failed=dict(load.failed),
        p50_ms=percentile(answered, 0.50),
        p99_ms=percentile(answered, 0.99),
        max_ms=percentile(answered, 1.0),
        refusal_p99_ms=percentile(refused, 0.99),
        late_p99_ms=percentile(sorted(load.late_ms), 0.99),
        rss_before_mib=before,
        rss_peak_mib=peak,
        rss_after_mib=_rss_mib(pid),
        recovered_p99_ms=percentile(sorted(singles), 0.99),
    )


def _pin(cluster: Cluster, cores: list[int]) -> None:
    """Servers on one core, this process on another."""
    for node in cluster.nodes:
        for thread in Path(f"/proc/{node.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {cores[0]})
    os.sched_setaffinity(0, {cores[1]})


_HEADER = (
    f"{'system':<10}{'load':>5}{'offered/s':>11}{'goodput/s':>11}{'refused/s':>11}{'failed':>8}{'p50 ms':>8}"
    f"{'p99 ms':>9}{'refusal p99':>13}{'late p99':>10}{'RSS MiB':>18}{'p99 after':>11}"
)


def _print(level: Level) -> None:
    memory = f"{level.rss_before_mib:.0f} / {level.rss_peak_mib:.0f} / {level.rss_after_mib:.0f}"
    print(
        f"{level.system:<10}{level.times_saturation:>4.0f}x{level.offered_per_s:>11.0f}{level.goodput_per_s:>11.0f}"
        f"{level.refused_per_s:>11.0f}{sum(level.failed.values()):>8}{level.p50_ms:>8.0f}{level.p99_ms:>9.0f}"
        f"{level.refusal_p99_ms:>13.0f}{level.late_p99_ms:>10.0f}{memory:>18}{level.recovered_p99_ms:>11.1f}   "
        f"{level.failed or ''}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--target", choices=("etcd", "chainfire", "both"), default="both")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each level")
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS, help="times saturation")
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
                saturation = uvloop.run(_saturation(cluster, max(2.0, arguments.seconds / 2)))
                print(f"{system} {cluster.version}: saturated at {saturation:.0f} transactions/s" + ", pinned" * pinned)
                print(_HEADER)
                for times in arguments.levels:
                    levels.append(uvloop.run(_measure(cluster, times, saturation, arguments.seconds)))
                    _print(levels[-1])
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
