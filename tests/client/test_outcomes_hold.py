"""The promise of the errors, tried on real clusters that lose their leader under load.

Every write has a key of its own, so that afterwards the store itself tells what happened: each acknowledged write is
there, and no write of which the client said *not executed* is. Writes of unknown outcome may be either. Once as users
run it, and once without retries, so that every status that servers send is judged and none is covered up by a second
attempt.
"""

import asyncio
import signal
from collections import Counter
from pathlib import Path

import pytest
from etcd_process import ChainFire, Etcd, Store

from plasmacloud.client import NO_RETRY, Client, ClientError, NotExecuted, OutcomeUnknown, RetryPolicy

WRITERS = 24
ROUNDS = 3
ACKED_BETWEEN_FAULTS = 300
PATIENCE_S = 60.0


class Load:
    """Writers, and what they were told about each key."""

    def __init__(self, store: Store, retry: RetryPolicy | None) -> None:
        self.store = store
        self.retry = retry
        self.acknowledged: set[bytes] = set()
        self.not_executed: set[bytes] = set()
        self.unknown: set[bytes] = set()
        self.seen: Counter[str] = Counter()
        self.stop = False

    async def writer(self, number: int) -> None:
        async with Client(self.store.endpoints, timeout=1.0, retry=self.retry) as client:
            count = 0
            while not self.stop:
                key = f"w{number}/{count}".encode()
                count += 1
                try:
                    await client.put(key, "x")
                    self.acknowledged.add(key)
                except NotExecuted as error:
                    self.not_executed.add(key)
                    self.seen[f"not executed: {error.attempts[-1].problem}"] += 1
                    await asyncio.sleep(0.005)
                except OutcomeUnknown as error:
                    self.unknown.add(key)
                    self.seen[f"unknown: {error.attempts[-1].problem}"] += 1

    async def acknowledge_more(self, count: int) -> None:
        """Wait until so many more writes were acknowledged."""
        goal = len(self.acknowledged) + count
        async with asyncio.timeout(PATIENCE_S):
            while len(self.acknowledged) < goal:
                await asyncio.sleep(0.01)


async def leader_index(store: Store) -> int:
    async with asyncio.timeout(PATIENCE_S), Client(store.endpoints, timeout=1.0) as client:
        while True:
            for index, endpoint in enumerate(store.endpoints):
                try:
                    if (await client.status(endpoint)).is_leader:
                        return index
                except ClientError:
                    pass
            await asyncio.sleep(0.02)


async def story(load: Load) -> None:
    store = load.store
    writers = [asyncio.create_task(load.writer(number)) for number in range(WRITERS)]
    try:
        for _ in range(ROUNDS):
            await load.acknowledge_more(ACKED_BETWEEN_FAULTS)
            victim = store.members[await leader_index(store)]
            victim.signal(signal.SIGKILL)
            await load.acknowledge_more(ACKED_BETWEEN_FAULTS)
            await victim.wait_async(PATIENCE_S)
            victim.start()
            frozen = store.members[await leader_index(store)]
            frozen.signal(signal.SIGSTOP)
            try:
                await load.acknowledge_more(ACKED_BETWEEN_FAULTS)
            finally:
                frozen.signal(signal.SIGCONT)
        await load.acknowledge_more(ACKED_BETWEEN_FAULTS)
    finally:
        load.stop = True
        await asyncio.gather(*writers)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Etcd, ChainFire], ids=["etcd", "chainfire"])
@pytest.mark.parametrize("retry", [NO_RETRY, None], ids=["one-attempt", "retries"])
def test_what_the_client_says_is_what_happened(tmp_path: Path, kind: type[Etcd], retry: RetryPolicy | None) -> None:
    store = kind(tmp_path, members=3)
    load = Load(store, retry)

    async def main() -> set[bytes]:
        await story(load)
        async with Client(store.endpoints, timeout=20.0) as client:
            return {kv.key async for kv in client.scan("w", prefix=True, keys_only=True, page=5000)}

    try:
        store.start()
        present = asyncio.run(main())
    finally:
        store.stop()
    assert not load.acknowledged - present, "acknowledged writes are lost"
    assert not load.not_executed & present, f"executed after all: {load.seen}"
    assert len(load.acknowledged) >= 3 * ROUNDS * ACKED_BETWEEN_FAULTS
    assert load.not_executed or load.unknown, "nobody felt the faults: the run proves nothing"
