"""The same client for code that does not run an event loop.

The loop runs in a thread of its own, so that connections are looked after (pings answered, closed ones noticed) while
the program does something else, and any number of threads can share one client. A call interrupted by Ctrl-C is
cancelled on the loop, too.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from plasmacloud.base.tls import ClientTls
from plasmacloud.client import types
from plasmacloud.client.calls import RetryPolicy
from plasmacloud.client.client import DEFAULT_TIMEOUT_S, Client, EndpointHealth
from plasmacloud.client.errors import NotExecuted

P = ParamSpec("P")
T = TypeVar("T")

_CLOSE_GRACE_S = 5.0
_LISTEN_S = 0.25
"""How often a thread that waits looks up: a Ctrl-C just before it begins to wait would not wake it."""


class SyncClient:
    """`Client`, blocking. Same methods, same arguments, same errors. Close it, or use ``with``."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self._client = Client(endpoints, timeout=timeout, retry=retry, tls=tls)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="plasma-client", daemon=True)
        self._thread.start()
        client = self._client
        self.put = self._blocking(client.put)
        self.get = self._blocking(client.get)
        self.delete = self._blocking(client.delete)
        self.txn = self._blocking(client.txn)
        self.compact = self._blocking(client.compact)
        self.member_list = self._blocking(client.member_list)
        self.member_add = self._blocking(client.member_add)
        self.member_remove = self._blocking(client.member_remove)
        self.member_update = self._blocking(client.member_update)
        self.member_promote = self._blocking(client.member_promote)
        self.add_member = self._blocking(client.add_member)
        self.cluster_view = self._blocking(client.cluster_view)
        self.hash_kv = self._blocking(client.hash_kv)
        self.status = self._blocking(client.status)
        self.health = self._blocking(client.health)
        self.alarms = self._blocking(client.alarms)
        self.move_leader = self._blocking(client.move_leader)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where this client asks, as ``host:port``."""
        return self._client.endpoints

    def endpoint_health(self) -> list[EndpointHealth]:
        """What the last calls taught about each endpoint."""
        return self._client.endpoint_health()

    def scan(self, *args: Any, **kwargs: Any) -> Iterator[types.KeyValue]:
        """As `Client.scan`: every key of a range, fetched page by page at one revision."""
        pages = self._client.scan(*args, **kwargs)
        try:
            while (kv := self._wait(_next_or_none(pages))) is not None:
                yield kv
        finally:
            self._wait(pages.aclose())  # type: ignore[attr-defined]  # it is an async generator

    def snapshot(self, *args: Any, **kwargs: Any) -> Iterator[types.SnapshotChunk]:
        """As `Client.snapshot`: a snapshot of one member, chunk by chunk."""
        chunks = self._client.snapshot(*args, **kwargs)
        try:
            while (chunk := self._wait(_next_or_none(chunks))) is not None:
                yield chunk
        finally:
            self._wait(chunks.aclose())  # type: ignore[attr-defined]  # it is an async generator

    def close(self) -> None:
        """Close all connections and end the thread. A second call does nothing."""
        if self._loop.is_closed():
            return
        try:
            self._wait(self._client.close(), _CLOSE_GRACE_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            self._loop.close()

    def _blocking(self, call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
        def blocking(*args: P.args, **kwargs: P.kwargs) -> T:
            return self._wait(call(*args, **kwargs))

        blocking.__doc__ = call.__doc__
        blocking.__name__ = call.__name__
        return blocking

    def _wait(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run it on the loop. The work has its own deadline; ``timeout`` is for work that has none."""
        if self._loop.is_closed():
            work.close()
            raise NotExecuted("the client is closed")
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        end_s = math.inf if timeout is None else time.monotonic() + timeout
        try:
            while True:
                try:
                    return future.result(min(_LISTEN_S, max(0.0, end_s - time.monotonic())))
                except TimeoutError:
                    if future.done():
                        return future.result()
                    if time.monotonic() >= end_s:
                        raise
        except BaseException:
            future.cancel()
            raise


async def _next_or_none(pages: Any) -> Any:
    return await anext(pages, None)
