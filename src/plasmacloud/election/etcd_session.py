"""A candidate's session with etcd, or with ChainFire where it offers leases.

The lock is a key under a lease that only its holder renews. The lease is asked for when the key is found missing, not
before: who waits costs the store one read now and then. A lease ends ``ttl`` seconds after the store has *processed*
the last renewal, which is later than it was sent, so the holder gives up first, as it does with PostgreSQL.

The store's own clock counts the lease, in whole seconds and never less than two; a leader that dies without a word is
succeeded after that time.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from plasmacloud.base.errors import ConfigError
from plasmacloud.client import Client, ClientError, OutcomeUnknown, RequestRefused, Txn, get, missing, put
from plasmacloud.client.types import KeyValue, RangeResult, TxnResult
from plasmacloud.election.candidate import Listener, Sighting
from plasmacloud.election.errors import AccessDenied, ElectionUnavailable, EpochUncertain
from plasmacloud.election.etcd_keys import TIMELINE, epoch_name, lock_name
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.leases import LeaseClient
from plasmacloud.election.timers import Timers
from plasmacloud.rpc.status import StatusCode

SCHEME = "etcd://"
_DENIALS = (StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED)


class _Seen(NamedTuple):
    """One look at the two keys."""

    lock: KeyValue | None
    epoch: Epoch | None


class EtcdPlace:
    """Where the election is. Raises `ConfigError` for an unusable URL."""

    def __init__(self, url: str, *, election: str, node_id: str, timers: Timers) -> None:
        self.endpoints = [text for text in url.removeprefix(SCHEME).rstrip("/").split(",") if text]
        if not self.endpoints:
            raise ConfigError(f"{url!r} names no endpoint", hint="write etcd://host:2379,host:2379")
        self.name = f"store at {','.join(self.endpoints)}"
        self.election = election
        self.node_id = node_id
        self.timers = timers
        self.ttl_s = math.ceil(timers.session_timeout)
        Client(self.endpoints)  # reads the endpoints, connects to none


class EtcdSession:
    """See `plasmacloud.election.candidate.Session`."""

    def __init__(self, place: EtcdPlace, listener: Listener) -> None:
        self._place = place
        self._listener = listener
        self._client = Client(place.endpoints, timeout=place.timers.demote_after)
        self._leases = LeaseClient(place.endpoints, timeout=place.timers.demote_after)
        self._lease = 0
        self._taken: Epoch | None = None  # the epoch that came with the lock
        self._gone = False
        self._cut = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        """See that the store answers, and offers leases."""
        async with self._translated():
            await self._leases.check_offered()
            self._report(await self._look())
        self._spawn(self._observe())

    async def ask(self) -> bool:
        """Take lock and epoch together, if there is no lock."""
        place = self._place
        async with self._translated():
            seen = await self._look()
            self._report(seen)
            if seen.lock is not None:
                return False
            self._lease, granted_s = await self._leases.grant(place.ttl_s)
            if granted_s <= place.timers.demote_after:
                raise ElectionUnavailable(f"{place.name}: the lease was granted for {granted_s} s only")
            lock, epoch = lock_name(place.election), epoch_name(place.election)
            done = await self._client.txn(
                Txn()
                .when(missing(lock))
                .then(put(lock, place.node_id, lease=self._lease), put(epoch, place.node_id), get(epoch))
            )
            if not done.succeeded:
                lease, self._lease = self._lease, 0
                await self._leases.revoke(lease)
                return False
            (newest,) = _found(done, 2)
            self._taken = Epoch(TIMELINE, newest.version)
            return True

    async def keepalive(self) -> None:
        """Renew the lease; without one, see that the store answers."""
        async with self._translated():
            if self._lease:
                await self._leases.keep_alive(self._lease)
            else:
                self._report(await self._look())

    async def raise_epoch(self) -> Epoch:
        """It was raised with the lock, in the same transaction."""
        assert self._taken is not None, "the epoch is raised by whoever has the lock"
        return self._taken

    async def release(self, epoch: Epoch) -> None:
        """End the lease, and the lock with it."""
        async with self._translated():
            lease, self._lease = self._lease, 0
            await self._leases.revoke(lease)

    def cut(self) -> None:
        """Speak no more; the lease runs out by itself."""
        if not self._gone:
            self._gone = True
            self._cut.set()
            self._spawn(self._client.close())
            self._spawn(self._leases.close())

    async def _observe(self) -> None:
        """Look who leads, at the pace of the keepalives. Problems are others' to report."""
        while not self._gone:
            waking = asyncio.get_running_loop().create_task(self._cut.wait())
            await asyncio.wait({waking}, timeout=self._place.timers.keepalive)
            waking.cancel()
            try:
                seen = await self._look()
            except ClientError:
                continue
            self._report(seen)

    async def _look(self) -> _Seen:
        election = self._place.election
        done = await self._client.txn(Txn().then(get(lock_name(election)), get(epoch_name(election))))
        lock, epoch = _found(done, 0), _found(done, 1)
        return _Seen(lock[0] if lock else None, Epoch(TIMELINE, epoch[0].version) if epoch else None)

    def _report(self, seen: _Seen) -> None:
        if not self._gone:
            self._listener.seen(Sighting(seen.lock.value.decode(errors="replace") if seen.lock else "", seen.epoch))

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except RequestRefused as refusal:
            kind = AccessDenied if refusal.code in _DENIALS else ElectionUnavailable
            raise kind(f"{self._place.name}: {refusal}", hint=refusal.hint) from refusal
        except OutcomeUnknown as error:
            raise EpochUncertain(f"{self._place.name}: {error}", hint=error.hint) from error
        except ClientError as error:
            raise ElectionUnavailable(f"{self._place.name}: {error}", hint=error.hint) from error

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _found(done: TxnResult, at: int) -> tuple[KeyValue, ...]:
    """The keys that the operation at this place of a transaction found."""
    answer = done.responses[at]
    assert isinstance(answer, RangeResult), "a get is answered by a range"
    return tuple(answer.kvs)
