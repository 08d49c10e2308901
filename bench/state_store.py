"""What a checkpoint costs, and what the event loop notices of it: LMDB (our store) against SQLite.

Run: ``python bench/state_store.py [--records 500000] [--directory DIR]``. A store is filled with 150-byte records,
then a worker thread commits checkpoints of 1 000, 10 000 and 100 000 further ones, fully synced, while the main
thread does what an event loop does: small turns with point reads. Printed per contender: duration of the commit, how
late the turns came (the time the worker kept the GIL, or the database its lock), point reads per second with and
without a commit, the duration of a full scan, and the file size. The last rows change only how the records reach
LMDB.
"""

import argparse
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import lmdb

from plasmacloud.storage.state import StateStore

CHECKPOINTS = (1_000, 10_000, 100_000)
TURN_S = 0.0002
Pairs = Sequence[tuple[bytes, bytes]]


class Store(Protocol):
    def get(self, key: bytes) -> bytes | None: ...
    def commit(self, puts: Pairs, deletes: Sequence[bytes], meta: Mapping[str, bytes]) -> None: ...
    def scan(self) -> Iterator[tuple[bytes, bytes]]: ...
    def size_bytes(self) -> int: ...
    def close(self) -> None: ...


class SqliteStore:
    """WAL mode, FULL; one connection per thread; the checkpoint of SQLite's own log belongs to the commit."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "state.db"
        self._reader = self._connect()
        self._reader.execute("CREATE TABLE kv (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID")
        self._reader.execute("CREATE TABLE meta (k TEXT PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def get(self, key: bytes) -> bytes | None:
        row: Any = self._reader.execute("SELECT v FROM kv WHERE k = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def commit(self, puts: Pairs, deletes: Sequence[bytes], meta: Mapping[str, bytes]) -> None:
        connection = self._connect()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM kv WHERE k = ?", [(key,) for key in deletes])
        connection.executemany("INSERT OR REPLACE INTO kv VALUES (?, ?)", puts)
        connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(meta.items()))
        connection.execute("COMMIT")
        connection.close()

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        yield from self._reader.execute("SELECT k, v FROM kv ORDER BY k")

    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self._path.parent.iterdir())

    def close(self) -> None:
        self._reader.close()


class PutMulti(StateStore):
    """Our store, but records handed to LMDB in large lists."""

    chunk = 4096

    def _try_commit(self, puts: Pairs, deletes: Sequence[bytes], meta: Mapping[str, bytes]) -> bool:
        try:
            with self._env.begin(write=True) as txn, txn.cursor(db=self._kv) as cursor:
                for start in range(0, len(puts), self.chunk):
                    cursor.putmulti([(k, v + b"0000") for k, v in puts[start : start + self.chunk]])
        except lmdb.MapFullError:
            return False
        return True

    def _unwrap(self, key: bytes, raw: bytes) -> bytes:
        return raw[:-4]


def sequential(start: int, count: int) -> Pairs:
    """Keys like the store's own: revision by revision."""
    return [((start + i).to_bytes(8, "big") + b"\0\0\0\0", random.randbytes(138)) for i in range(count)]


def scattered(start: int, count: int) -> Pairs:
    """Keys in no order: the worst case for a tree."""
    return [(random.randbytes(8) + b"\0\0\0\0", random.randbytes(138)) for i in range(count)]


def turns(store: Store, keys: Sequence[bytes], running: Callable[[], bool]) -> tuple[list[float], list[float]]:
    """Small turns of work until ``running`` says no: how late each began, and how long its reads took."""
    late, reading = [], []
    while running():
        due = time.perf_counter() + TURN_S
        time.sleep(TURN_S)
        begun = time.perf_counter()
        for key in random.sample(keys, 4):
            assert store.get(key) is not None
        late.append(begun - due)
        reading.append((time.perf_counter() - begun) / 4)
    return sorted(late), sorted(reading)


def at(values: Sequence[float], part: float) -> float:
    return values[min(int(len(values) * part), len(values) - 1)]


def run(name: str, store: Store, make: Callable[[int, int], Pairs], records: int) -> None:
    filled = make(0, records)
    for start in range(0, records, 100_000):
        store.commit(filled[start : start + 100_000], (), {"applied": b"%d" % start})
    keys = [key for key, _ in filled]
    before = time.perf_counter()
    count = sum(1 for _ in store.scan())
    scan_s = time.perf_counter() - before
    assert count == records
    end = time.perf_counter() + 0.5
    _, quiet = turns(store, keys, lambda: time.perf_counter() < end)
    print(
        f"{name}: {records:,} records, {store.size_bytes() / records:.0f} bytes each, scan {records / scan_s:,.0f}/s,",
        end="",
    )
    print(f" point read p50 {at(quiet, 0.5) * 1e6:.1f} us")
    next_key = records
    for size in CHECKPOINTS:
        durations: list[float] = []
        late: list[float] = []
        reading: list[float] = []
        for _ in range(5 if size < 100_000 else 3):
            puts = make(next_key, size)
            next_key += size

            def commit(puts: Pairs = puts, durations: list[float] = durations) -> None:
                begun = time.perf_counter()
                store.commit(puts, (), {"applied": b"x"})
                durations.append(time.perf_counter() - begun)

            worker = threading.Thread(target=commit)
            worker.start()
            more_late, more_reading = turns(store, keys, worker.is_alive)
            worker.join()
            late += more_late
            reading += more_reading
        late.sort()
        reading.sort()
        print(
            f"   {size:7,} records: commit {sorted(durations)[len(durations) // 2] * 1e3:7.1f} ms;"
            f" turns late p50 {at(late, 0.5) * 1e3:5.2f}, p99 {at(late, 0.99) * 1e3:5.2f},"
            f" max {late[-1] * 1e3:6.2f} ms;"
            f" read p50 {at(reading, 0.5) * 1e6:6.1f}, p99 {at(reading, 0.99) * 1e6:7.1f} us"
        )
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--directory", type=Path, help="on the disk to measure; default: the temporary directory")
    parser.add_argument("--switch-interval", type=float, default=sys.getswitchinterval(), help="of the interpreter, s")
    args = parser.parse_args()
    sys.setswitchinterval(args.switch_interval)
    contenders: dict[str, Callable[[Path], Store]] = {
        "SQLite WAL": SqliteStore,
        "LMDB (StateStore)": StateStore.open,
        "LMDB, large lists": PutMulti.open,
    }
    for order, make in (("sequential", sequential), ("scattered", scattered)):
        for name, opener in contenders.items():
            with tempfile.TemporaryDirectory(dir=args.directory, prefix="bench-state-") as directory:
                run(f"{name}, {order} keys", opener(Path(directory)), make, args.records)


if __name__ == "__main__":
    main()
