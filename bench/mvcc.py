"""What the multi-version store costs: time per operation, memory per key, pauses, restore.

Run: python bench/mvcc.py [--keys 1000000]. One process, one thread, records in memory. CPU time, medians.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from plasmacloud.chainfire.commands import encode_batch
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.mvcc.records import EmptyRecordStore
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.rpc.proto.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)

ROUNDS = 5
VALUE = b"v" * 100
BATCH = 64


class SavedRecords:
    """A record store with a fixed content."""

    def __init__(self, pairs: Sequence[tuple[bytes, bytes]], metas: dict[str, bytes]) -> None:
        self._pairs = pairs
        self._kv = dict(pairs)
        self._metas = metas

    def get(self, key: bytes, /) -> bytes | None:
        return self._kv.get(key)

    def get_many(self, keys: Sequence[bytes], /) -> list[bytes | None]:
        return list(map(self._kv.get, keys))

    def scan(self, start: bytes = b"", end: bytes | None = None, /) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._pairs)

    def meta(self, name: str, /) -> bytes | None:
        return self._metas.get(name)


def key_of(number: int) -> bytes:
    return b"/registry/pods/%010d" % number


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def timed(name: str, count: int, work: Callable[[], object]) -> None:
    """Run ``work``, which does ``count`` operations, several times; print the median."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    each = statistics.median(seconds) / count
    print(f"{name:<44} {each * 1e6:9.2f} µs {1 / each:12,.0f} /s")


def filled(keys: int) -> StateMachine:
    """A machine with that many keys, put in an order that is neither sorted nor random."""
    machine = StateMachine.restore(EmptyRecordStore(), cluster_id=7, member_id=1 << 60)
    put = machine.store.put
    for n in range(keys):
        put(PutRequest(key=key_of(n * 7919 % keys), value=VALUE))
    return machine


def operations(machine: StateMachine, keys: int) -> None:
    store = machine.store
    store.header.set_term(3)
    numbers = [n * 104_729 % keys for n in range(20_000)]
    puts = [PutRequest(key=key_of(n), value=VALUE) for n in numbers]
    timed("put (parsed request, existing keys)", len(puts), lambda: [store.put(p) for p in puts])
    serialized = [p.SerializeToString() for p in puts]
    timed("parse PutRequest", len(puts), lambda: [PutRequest.FromString(b) for b in serialized])
    fresh = iter(range(keys, keys + 10_000_000))
    timed(
        "put (new keys, request built too)",
        20_000,
        lambda: [store.put(PutRequest(key=key_of(next(fresh)), value=VALUE)) for _ in range(20_000)],
    )
    origins = iter(range(100, 100_000))

    def apply_all(local: bool) -> None:
        origin = next(origins)
        for at in range(0, len(serialized), BATCH):
            commands = [(CommandKind.PUT, body) for body in serialized[at : at + BATCH]]
            data = encode_batch(origin, 1, at + 1, commands)
            machine.apply(machine.applied_index + 1, 3, data, local_origin=(origin, 1) if local else None)

    timed(f"apply a put (batches of {BATCH}, encode, decode)", len(puts), lambda: apply_all(True))
    timed("the same for another member's clients", len(puts), lambda: apply_all(False))
    ones = [RangeRequest(key=key_of(n)) for n in numbers]
    timed("range of one key", len(ones), lambda: [store.range(r) for r in ones])
    hundreds = [RangeRequest(key=key_of(n), range_end=b"0", limit=100) for n in numbers[:2_000]]
    timed("range of 100 keys (limit, count of all)", len(hundreds), lambda: [store.range(r) for r in hundreds])
    bare = [RangeRequest(key=key_of(n), range_end=b"0", limit=100, keys_only=True) for n in numbers[:2_000]]
    timed("range of 100 keys, keys only", len(bare), lambda: [store.range(r) for r in bare])
    past = [RangeRequest(key=key_of(n), revision=keys // 2 + 2) for n in numbers]
    timed("range of one key in the past", len(past), lambda: [store.range(r) for r in past])
    txns = [
        TxnRequest(
            compare=[Compare(key=p.key, target=Compare.MOD, result=Compare.GREATER, mod_revision=1)],
            success=[RequestOp(request_put=p)],
            failure=[RequestOp(request_range=RangeRequest(key=p.key))],
        )
        for p in puts[:5_000]
    ]
    timed("txn: compare, put", len(txns), lambda: [store.txn(t) for t in txns])


def pauses(machine: StateMachine, keys: int) -> None:
    """The longest time one step keeps the event loop."""
    store = machine.store

    def longest(name: str, step: Callable[[], bool]) -> None:
        slowest = total = 0.0
        done = False
        while not done:
            started = time.process_time()
            done = step()
            slowest = max(slowest, time.process_time() - started)
            total += time.process_time() - started
        print(f"{name:<44} {total:8.3f} s in all, longest step {slowest * 1e3:6.2f} ms")

    everything = RangeRequest(key=b"\0", range_end=b"\0")
    longest(f"range of all {keys:,} keys", store.open_range(everything).step)
    past = RangeRequest(key=b"\0", range_end=b"\0", revision=keys // 2, count_only=True)
    longest("count of all keys in the past", store.open_range(past).step)
    by_value = RangeRequest(key=b"\0", range_end=b"\0", sort_order=1, sort_target=RangeRequest.MOD)
    longest("range of all keys by mod revision", store.open_range(by_value).step)
    store.delete_range(DeleteRangeRequest(key=key_of(0), range_end=key_of(keys // 10)))
    store.compact(CompactionRequest(revision=store.revision))
    longest("compaction", store.compact_step)
    started = time.process_time()
    gc.collect()
    print(f"{'full garbage collection':<44} {(time.process_time() - started) * 1e3:8.2f} ms")
    started = time.process_time()
    checkpoint = machine.take_checkpoint()
    print(f"{'take_checkpoint':<44} {(time.process_time() - started) * 1e3:8.2f} ms")
    saved = SavedRecords(checkpoint.puts, checkpoint.meta)
    machine.checkpoint_done()
    started = time.process_time()
    restored = StateMachine.restore(saved, cluster_id=7, member_id=1 << 60)
    seconds = time.process_time() - started
    print(f"{'restore':<44} {seconds:8.3f} s, {len(checkpoint.puts):,} records")
    assert restored.store.revision == store.revision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    keys = parser.parse_args().keys
    before = resident_bytes()
    started = time.process_time()
    machine = filled(keys)
    seconds = time.process_time() - started
    print(f"{f'fill {keys:,} keys':<44} {seconds / keys * 1e6:9.2f} µs each")
    with_records = resident_bytes()
    record_bytes = sum(map(len, machine.store.records.active.values()))
    print(f"{'memory per key, record in the memtable':<44} {(with_records - before) / keys:9.0f} bytes")
    print(f"{'  of which the records themselves':<44} {record_bytes / keys:9.0f} bytes")
    operations(machine, keys)
    pauses(machine, keys)
    checkpoint = machine.take_checkpoint()
    machine.checkpoint_done()
    del checkpoint
    gc.collect()
    print(f"{'memory per key, records saved':<44} {(resident_bytes() - before) / keys:9.0f} bytes (upper bound)")


if __name__ == "__main__":
    main()
