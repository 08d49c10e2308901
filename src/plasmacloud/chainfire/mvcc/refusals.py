"""The answers "no": gRPC status code and message, exactly those of etcd 3.5.

Clients compare the text, so these strings are part of the protocol.
Source: the published error table of etcd's client API (api/v3rpc/rpctypes) and a running etcd.
"""

from typing import NamedTuple

from plasmacloud.base.errors import PlasmaError
from plasmacloud.rpc.status import StatusCode


class RpcRefusal(PlasmaError):
    """The request is answered with an error status; the state did not change. Equal: the same code and message."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def refusal(self) -> "Refusal":
        """What it says, to be kept: an exception holds the frames that it went through."""
        return Refusal(self.code, self.message)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RpcRefusal) and (self.code, self.message) == (other.code, other.message)

    def __hash__(self) -> int:
        return hash((self.code, self.message))

    def __repr__(self) -> str:
        return f"RpcRefusal({self.code.name}, {self.message!r})"


class Refusal(NamedTuple):
    """What such an answer says. Calling it makes the exception.

    A constant must not be the exception itself: every ``raise`` of the same instance adds to its traceback, and with it
    keeps the frames, and all that they hold, of every request that was ever refused.
    """

    code: StatusCode
    message: str

    def __call__(self) -> RpcRefusal:
        """A new exception to raise."""
        return RpcRefusal(self.code, self.message)


_INVALID = StatusCode.INVALID_ARGUMENT

EMPTY_KEY = Refusal(_INVALID, "etcdserver: key is not provided")
KEY_NOT_FOUND = Refusal(_INVALID, "etcdserver: key not found")
VALUE_PROVIDED = Refusal(_INVALID, "etcdserver: value is provided")
LEASE_PROVIDED = Refusal(_INVALID, "etcdserver: lease is provided")
TOO_MANY_OPS = Refusal(_INVALID, "etcdserver: too many operations in txn request")
DUPLICATE_KEY = Refusal(_INVALID, "etcdserver: duplicate key given in txn request")
INVALID_SORT_OPTION = Refusal(_INVALID, "etcdserver: invalid sort option")
REQUEST_TOO_LARGE = Refusal(_INVALID, "etcdserver: request is too large")
COMPACTED = Refusal(StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
FUTURE_REVISION = Refusal(StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
LEASE_NOT_FOUND = Refusal(StatusCode.NOT_FOUND, "etcdserver: requested lease not found")


def not_a_message(name: str) -> RpcRefusal:
    """The body of the request is no valid protobuf message of that type."""
    return RpcRefusal(StatusCode.INTERNAL, f"grpc: error unmarshalling request: not a valid {name}")
