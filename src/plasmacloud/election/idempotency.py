"""The same call twice is done once: answers by ``Idempotency-Key``, in this server's memory.

A caller that lost the answer sends the request again with the same key, to the same server, and gets the answer of the
first. A refusal that changed nothing is forgotten, so that the call can be tried again. The memory ends with the
process: what must hold beyond that is the audit and the epochs.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from plasmacloud.election.http_problems import INVALID, KEY_REUSED, Outcome, Problem

_KEPT = 256
_MAX_KEY_CHARS = 128

T = TypeVar("T")


class Replies:
    """The last few hundred answers."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[bytes, asyncio.Task[Any]]] = OrderedDict()

    async def once(self, key: str, request: object, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work, unless the key was seen: then wait for, and give, what came of it.

        Work that began goes on when its caller goes away. Raises `Problem` when the key came with another request, and
        what the work raised.
        """
        if not key:
            return await work()
        if len(key) > _MAX_KEY_CHARS:
            raise Problem(INVALID, f"Idempotency-Key has more than {_MAX_KEY_CHARS} characters")
        digest = hashlib.sha256(msgspec.json.encode(request)).digest()
        known = self._known.get(key)
        if known is None:
            task: asyncio.Task[T] = asyncio.get_running_loop().create_task(_as_coroutine(work))
            self._known[key] = (digest, task)
            task.add_done_callback(lambda done: self._forget_refusal(key, done))
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        elif known[0] != digest:
            raise Problem(KEY_REUSED, f"the key {key!r} belongs to another request")
        else:
            task = known[1]
        return await asyncio.shield(task)

    def _forget_refusal(self, key: str, task: "asyncio.Task[Any]") -> None:
        error = None if task.cancelled() else task.exception()
        known = self._known.get(key)
        if isinstance(error, Problem) and error.outcome is Outcome.NOT_EXECUTED and known and known[1] is task:
            del self._known[key]


async def _as_coroutine(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
