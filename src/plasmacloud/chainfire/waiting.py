"""Who waits for the outcome of a request, and what those are told who wait in vain.

The texts are etcd's where etcd has one, because clients draw conclusions from them: `NO_LEADER` and `STOPPING` mean
that nothing was executed, `TIMED_OUT` that nobody knows.
"""

from typing import Protocol

from plasmacloud.rpc.status import StatusCode


class Waiter(Protocol):
    """Where the answer to a request goes. Exactly one of `reply` and `fail` is called, once."""

    @property
    def done(self) -> bool:
        """Whether nobody waits any more."""

    def reply(self, body: bytes) -> None: ...

    def fail(self, code: StatusCode, message: str) -> None: ...


class ReadWaiter(Protocol):
    """A linearizable read: ``run`` is called when the local state is new enough."""

    def run(self) -> None: ...

    def fail(self, code: StatusCode, message: str) -> None: ...


NO_LEADER = "etcdserver: no leader"
TIMED_OUT = "etcdserver: request timed out"
TOO_MANY_REQUESTS = "etcdserver: too many requests"
STOPPING = "chainfire: not executed: the member is shutting down"
