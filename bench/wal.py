"""What a durable append costs: our log against SQLite and LMDB, inline and through the flusher thread.

Run: ``python bench/wal.py [--seconds 1.0] [--rounds 3] [--directory DIR] [--segments]``. Every contender commits
batches of 150-byte records, each batch synced, one after the other; contenders alternate within a round, medians over
the rounds are printed with the ratio to SQLite. ``--segments`` compares segment sizes instead (the cost of moving to
the next one).
"""

import argparse
import asyncio
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import lmdb
import uvloop

from plasmacloud.storage.disk import OsDisk
from plasmacloud.storage.entry import Entry, EntryKind, HardState
from plasmacloud.storage.entry_codec import make_entry
from plasmacloud.storage.wal import DEFAULT_SEGMENT_BYTES, Wal
from plasmacloud.storage.wal_format import Identity

BATCHES = (1, 16, 64, 256)
DATA = b"d" * 125  # 150 bytes with the record header


class Result(NamedTuple):
    entries_per_s: float
    p50_us: float
    p99_us: float
    max_us: float


def summarize(latencies: list[float], batch: int) -> Result:
    latencies.sort()
    count = len(latencies)
    return Result(
        batch * count / sum(latencies),
        latencies[count // 2] * 1e6,
        latencies[int(count * 0.99)] * 1e6,
        latencies[-1] * 1e6,
    )


def batches(size: int) -> Iterator[list[Entry]]:
    """Consecutive entries, encoded: that cost is the same for everyone and not the storage's."""
    first = 1
    while True:
        yield [make_entry(1, i, EntryKind.COMMANDS, DATA) for i in range(first, first + size)]
        first += size


def measure(commit: Callable[[list[Entry]], object], batch: int, seconds: float) -> list[float]:
    """Durations of commits."""
    latencies = []
    source = batches(batch)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        entries = next(source)
        before = time.perf_counter()
        commit(entries)
        latencies.append(time.perf_counter() - before)
    return latencies


def raw_file(directory: Path, batch: int, seconds: float) -> list[float]:
    """The floor: the same bytes into a zero-filled file, with nothing that a log needs."""
    file = OsDisk().create(directory / "raw")
    file.zero_fill(256 << 20)
    file.fsync()
    offset = 0

    def commit(entries: list[Entry]) -> None:
        nonlocal offset
        offset += file.pwritev([b"".join([entry.record for entry in entries])], offset)
        file.fdatasync()

    try:
        return measure(commit, batch, seconds)
    finally:
        file.close()


@contextmanager
def open_log(directory: Path, segment_bytes: int = DEFAULT_SEGMENT_BYTES) -> Iterator[Wal]:
    wal = Wal.open(directory / "wal", identity=Identity(1, 1), segment_bytes=segment_bytes)
    try:
        yield wal
    finally:
        wal.close()


def log_inline(directory: Path, batch: int, seconds: float) -> list[float]:
    with open_log(directory) as wal:
        return measure(lambda entries: wal.append_blocking(HardState(1, 1, wal.last_index()), entries), batch, seconds)


async def through_thread(wal: Wal, batch: int, seconds: float, mark_every: int = 0) -> list[float]:
    latencies = []
    loop = asyncio.get_running_loop()
    source = batches(batch)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        entries = next(source)
        before = time.perf_counter()
        done = loop.create_future()
        wal.append(HardState(1, 1, wal.last_index()), entries, lambda done=done: done.set_result(None))
        await done
        latencies.append(time.perf_counter() - before)
        if mark_every and len(latencies) % mark_every == 0:
            wal.mark(wal.durable_index, 1, b"")
    return latencies


def log_thread(directory: Path, batch: int, seconds: float) -> list[float]:
    with open_log(directory) as wal:
        return asyncio.run(through_thread(wal, batch, seconds))


def log_thread_uvloop(directory: Path, batch: int, seconds: float) -> list[float]:
    with open_log(directory) as wal, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(through_thread(wal, batch, seconds))


def sqlite_full(directory: Path, batch: int, seconds: float) -> list[float]:
    connection = sqlite3.connect(directory / "log.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE log (i INTEGER PRIMARY KEY, r BLOB)")

    def commit(entries: list[Entry]) -> None:
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO log VALUES (?, ?)", [(entry.index, entry.record) for entry in entries])
        connection.execute("COMMIT")

    try:
        return measure(commit, batch, seconds)
    finally:
        connection.close()


def lmdb_sync(directory: Path, batch: int, seconds: float) -> list[float]:
    env = lmdb.open(str(directory / "lmdb"), map_size=8 << 30)

    def commit(entries: list[Entry]) -> None:
        with env.begin(write=True) as txn:
            for entry in entries:
                txn.put(entry.index.to_bytes(8, "big"), entry.record, append=True)

    try:
        return measure(commit, batch, seconds)
    finally:
        env.close()


CONTENDERS: dict[str, Callable[[Path, int, float], list[float]]] = {
    "raw write + sync": raw_file,
    "SQLite WAL, FULL": sqlite_full,
    "LMDB, sync": lmdb_sync,
    "log, inline": log_inline,
    "log, thread": log_thread,
    "log, thread, uvloop": log_thread_uvloop,
}


def compare_stores(root: Path, seconds: float, rounds: int) -> None:
    results: dict[tuple[str, int], list[Result]] = {}
    for round_number in range(rounds + 1):  # the first one warms up
        for batch in BATCHES:
            for name, run in CONTENDERS.items():
                directory = Path(tempfile.mkdtemp(dir=root))
                latencies = run(directory, batch, seconds if round_number else seconds / 4)
                shutil.rmtree(directory)
                if round_number:
                    results.setdefault((name, batch), []).append(summarize(latencies, batch))
    print(f"{'':22}" + "".join(f"{'batch ' + str(batch):>34}" for batch in BATCHES))
    print(f"{'':22}" + f"{'entries/s   p50 us   p99 us  ratio':>34}" * len(BATCHES))
    for name in CONTENDERS:
        line = f"{name:22}"
        for batch in BATCHES:
            rate, p50, p99, _ = (statistics.median(column) for column in zip(*results[name, batch], strict=True))
            base = statistics.median(r.entries_per_s for r in results["SQLite WAL, FULL", batch])
            line += f"{rate:12,.0f}{p50:9.0f}{p99:8.0f}{rate / base:5.1f}"
        print(line)


def compare_segments(root: Path, seconds: float) -> None:
    print("segment    batch   entries/s   p50 us   p99 us   max us   segments opened")
    for mebibytes in (4, 8, 16, 32, 64, 128):
        for batch in (64, 256):
            directory = Path(tempfile.mkdtemp(dir=root))
            with open_log(directory, mebibytes << 20) as wal:
                latencies = asyncio.run(through_thread(wal, batch, seconds, mark_every=500))
                opened = wal.metrics.segments_opened
            shutil.rmtree(directory)
            rate, p50, p99, worst = summarize(latencies, batch)
            print(f"{mebibytes:4} MiB  {batch:7}{rate:12,.0f}{p50:9.0f}{p99:9.0f}{worst:9.0f}{opened:12}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="on the disk to measure; default: the temporary directory")
    parser.add_argument("--segments", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory, prefix="bench-wal-") as root:
        if args.segments:
            compare_segments(Path(root), args.seconds)
        else:
            compare_stores(Path(root), args.seconds, args.rounds)


if __name__ == "__main__":
    main()
