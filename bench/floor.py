"""One request in flight: what round trips and synced writes alone cost here, beside etcd and ChainFire.

With one request in flight nothing can be batched, and most of an answer's time is the machine's: packets over loopback,
wake-ups, the disk. The *bare* processes do only that, with blocking sockets and no protocol, log or state:

- ``serializable``: a client asks a process, which answers.
- ``range``: it asks another process before it answers, as a leader that makes sure it still leads.
- ``put``: it sends 512 bytes to two others, all three write and sync them in files made beforehand, and it answers when
  it and one of the others have done so.

A bare rate divided by etcd's says how much faster than etcd anything could be here, and the bare processes' CPU what
the kernel takes for the packets, the wake-ups and the syncs. Waking an idle core is the larger part of a round trip on
many virtual machines; while others keep the cores awake, bare figures are better than on a quiet one.
"""

import argparse
import multiprocessing
import os
import select
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from bench import kv
from bench.harness import HOST, BenchError, busy_machine, percentile, process_cpu_s, running
from plasmacloud.storage.disk import OsDisk

REQUEST = b"q" * 171  # what h2load sends for one put
ANSWER = b"a" * 94
RECORD = b"r" * 512
ACK = b"k" * 88
FILE_BYTES = 8 << 20
DEADLINE_S = 30.0
_SPAWN = multiprocessing.get_context("spawn")


class Bare(NamedTuple):
    """One run of the bare processes."""

    rate_per_s: float
    p50_ms: float
    cpu_us: float  # of all processes but the client, for one request


class Server(NamedTuple):
    """A bare process."""

    address: tuple[str, int]
    pid: int


class SyncedFile:
    """Blocks written one after the other, each on disk before the next."""

    def __init__(self, path: Path) -> None:
        self._file = OsDisk().create(path)
        self._file.zero_fill(FILE_BYTES)
        self._offset = 0

    def append(self) -> None:
        self._file.write_durably([RECORD], self._offset)
        self._offset = (self._offset + len(RECORD)) % FILE_BYTES


def _receive(connection: socket.socket, size: int) -> bytes:
    """One message; empty when the other side has closed."""
    data = b""
    try:
        while len(data) < size:
            more = connection.recv(size - len(data))
            if not more:
                return b""
            data += more
    except ConnectionResetError:
        return b""  # closed with an answer unread
    return data


def _prepare(connection: socket.socket) -> socket.socket:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(DEADLINE_S)
    return connection


def _connect(address: tuple[str, int]) -> socket.socket:
    return _prepare(socket.create_connection(address, DEADLINE_S))


def _accept(listener: socket.socket) -> socket.socket:
    listener.settimeout(DEADLINE_S)
    return _prepare(listener.accept()[0])


def echo(listener: socket.socket, size: int, answer: bytes, file: Path | None) -> None:
    """A process that answers every message of one connection, after a synced write if it has a file."""
    log = None if file is None else SyncedFile(file)
    connection = _accept(listener)
    while _receive(connection, size):
        if log is not None:
            log.append()
        connection.sendall(answer)


def relay(listener: socket.socket, other: tuple[str, int]) -> None:
    """A process that asks another one before it answers."""
    beyond = _connect(other)
    connection = _accept(listener)
    while _receive(connection, len(REQUEST)):
        beyond.sendall(RECORD)
        if not _receive(beyond, len(ACK)):
            raise BenchError("a bare process ended")
        connection.sendall(ANSWER)


def replicate(listener: socket.socket, others: list[tuple[str, int]], file: Path) -> None:
    """A process that answers when it and one of two others have written and synced."""
    log = SyncedFile(file)
    links = [_connect(other) for other in others]
    owed = dict.fromkeys(links, 0)  # acknowledgements under way
    poll = select.epoll()
    by_fd = {link.fileno(): link for link in links}
    for link in links:
        poll.register(link.fileno(), select.EPOLLIN)
    connection = _accept(listener)
    while _receive(connection, len(REQUEST)):
        for link in links:
            link.sendall(RECORD)
            owed[link] += 1
        log.append()
        while all(owed.values()):
            ready = poll.poll(DEADLINE_S)
            if not ready:
                raise TimeoutError("no acknowledgement")
            for fd, _ in ready:
                if not _receive(by_fd[fd], len(ACK)):
                    raise BenchError("a bare process ended")
                owed[by_fd[fd]] -= 1
        connection.sendall(ANSWER)


@contextmanager
def _process(target: Callable[..., None], *arguments: object) -> Iterator[Server]:
    """A process that serves one connection, and ends with it."""
    listener = socket.create_server((HOST, 0))
    process: BaseProcess = _SPAWN.Process(target=target, args=(listener, *arguments), daemon=True)
    process.start()
    address: tuple[str, int] = listener.getsockname()
    listener.close()
    try:
        assert process.pid is not None
        yield Server(address, process.pid)
    finally:
        process.join(1.0)
        if process.is_alive():
            process.kill()
            process.join(DEADLINE_S)


def _drive(servers: Sequence[Server], seconds: float) -> Bare:
    """Ask the last one."""
    connection = _connect(servers[-1].address)
    try:
        connection.sendall(REQUEST)  # answered when everybody is ready
        _receive(connection, len(ANSWER))
        latencies_ms: list[float] = []
        cpu_s = sum(process_cpu_s(server.pid) for server in servers)
        end = time.perf_counter() + seconds
        begun = 0.0
        while begun < end:
            begun = time.perf_counter()
            connection.sendall(REQUEST)
            if not _receive(connection, len(ANSWER)):
                raise BenchError("a bare process ended")
            latencies_ms.append((time.perf_counter() - begun) * 1e3)
        cpu_s = sum(process_cpu_s(server.pid) for server in servers) - cpu_s
    finally:
        connection.close()
    count = len(latencies_ms)
    latencies_ms.sort()
    return Bare(count / (sum(latencies_ms) / 1e3), percentile(latencies_ms, 0.5), cpu_s / count * 1e6)


def run_bare(operation: str, directory: Path, seconds: float) -> Bare:
    """One run of the bare processes for this operation."""
    number = f"{operation}-{time.monotonic_ns()}"
    if operation == "serializable":
        with _process(echo, len(REQUEST), ANSWER, None) as server:
            return _drive([server], seconds)
    if operation == "range":
        with _process(echo, len(RECORD), ACK, None) as other, _process(relay, other.address) as server:
            return _drive([other, server], seconds)
    with (
        _process(echo, len(RECORD), ACK, directory / f"{number}-b") as second,
        _process(echo, len(RECORD), ACK, directory / f"{number}-c") as third,
        _process(replicate, [second.address, third.address], directory / f"{number}-a") as server,
    ):
        return _drive([second, third, server], seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3, help="runs of each; medians are printed (default: 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one run (default: 2)")
    parser.add_argument("--directory", type=Path, help="where the data goes: a real disk, not tmpfs")
    arguments = parser.parse_args()
    if (warning := busy_machine()) is not None:
        print(f"warning: {warning}", file=sys.stderr)
    generator = kv.choose_generators(None, full=False)[0]
    with (
        tempfile.TemporaryDirectory(prefix="plasma-bench-", dir=arguments.directory) as directory,
        running(["etcd", "chainfire"], Path(directory)) as clusters,
    ):
        print(f"one in flight, generator {generator}, medians of {arguments.rounds}, {os.cpu_count()} cores\n")
        print(f"{'operation':<14}{'system':<12}{'op/s':>8}{'p50 ms':>9}{'CPU µs':>9}   vs etcd: rate, CPU")
        for operation in (o for o in kv.OPERATIONS if o.name in ("serializable", "range", "put")):
            runs = [run_bare(operation.name, Path(directory), arguments.seconds) for _ in range(arguments.rounds)]
            row = kv.measure_row(
                clusters, generator, operation, 1, seconds=arguments.seconds, rounds=arguments.rounds
            ).medians()
            found = {name: Bare(sample.rate_per_s, sample.p50_ms, sample.cpu_us) for name, sample in row.items()}
            found["bare"] = Bare(*(statistics.median(values) for values in zip(*runs, strict=True)))
            etcd = found["etcd"]
            for name, one in found.items():
                line = f"{operation.name:<14}{name:<12}{one.rate_per_s:>8.0f}{one.p50_ms:>9.3f}{one.cpu_us:>9.1f}"
                if name != "etcd":
                    line += f"   {one.rate_per_s / etcd.rate_per_s:.2f}x  {etcd.cpu_us / one.cpu_us:.2f}x"
                print(line, flush=True)


if __name__ == "__main__":
    main()
