"""The answers "no": gRPC status code and message, exactly those of etcd 3.5.

Clients compare the text, so these strings are part of the protocol.
Source: the published error table of etcd's client API (api/v3rpc/rpctypes) and a running etcd.
"""

from plasmacloud.base.errors import PlasmaError
from plasmacloud.rpc.status import StatusCode


class RpcRefusal(PlasmaError):
    """The request is answered with an error status; the state did not change.

    Instances below are shared constants: compare with ``==`` (code and message), never mutate.
    """

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RpcRefusal) and (self.code, self.message) == (other.code, other.message)

    def __hash__(self) -> int:
        return hash((self.code, self.message))

    def __repr__(self) -> str:
        return f"RpcRefusal({self.code.name}, {self.message!r})"


_INVALID = StatusCode.INVALID_ARGUMENT

EMPTY_KEY = RpcRefusal(_INVALID, "etcdserver: key is not provided")
KEY_NOT_FOUND = RpcRefusal(_INVALID, "etcdserver: key not found")
VALUE_PROVIDED = RpcRefusal(_INVALID, "etcdserver: value is provided")
LEASE_PROVIDED = RpcRefusal(_INVALID, "etcdserver: lease is provided")
TOO_MANY_OPS = RpcRefusal(_INVALID, "etcdserver: too many operations in txn request")
DUPLICATE_KEY = RpcRefusal(_INVALID, "etcdserver: duplicate key given in txn request")
INVALID_SORT_OPTION = RpcRefusal(_INVALID, "etcdserver: invalid sort option")
REQUEST_TOO_LARGE = RpcRefusal(_INVALID, "etcdserver: request is too large")
COMPACTED = RpcRefusal(StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
FUTURE_REVISION = RpcRefusal(StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
LEASE_NOT_FOUND = RpcRefusal(StatusCode.NOT_FOUND, "etcdserver: requested lease not found")


def not_a_message(name: str) -> RpcRefusal:
    """The body of the request is no valid protobuf message of that type."""
    return RpcRefusal(StatusCode.INTERNAL, f"grpc: error unmarshalling request: not a valid {name}")
