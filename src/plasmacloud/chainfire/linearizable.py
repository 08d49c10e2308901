"""A call that is answered from the local state once that is known to be new enough."""

from collections.abc import Callable

from plasmacloud.chainfire.mvcc.refusals import RpcRefusal
from plasmacloud.rpc.routes import Call
from plasmacloud.rpc.status import StatusCode


class LinearizableRead:
    """A read that waits for its read index; ``serve`` then answers the call from the local state."""

    __slots__ = ("_call", "_serve")

    def __init__(self, call: Call, serve: Callable[[], None]) -> None:
        self._call = call
        self._serve = serve

    def run(self) -> None:
        """The local state is new enough."""
        if self._call.done:
            return
        try:
            self._serve()
        except RpcRefusal as refusal:
            self._call.fail(refusal.code, refusal.message)
        except Exception as error:  # noqa: BLE001 - the one call fails, the replica goes on
            self._call.fail_with(error)

    def fail(self, code: StatusCode, message: str) -> None:
        """No quorum confirmed the read in time."""
        self._call.fail(code, message)
