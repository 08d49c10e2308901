"""Status details: messages that travel beside a gRPC status, in ``grpc-status-details-bin``.

The richer error model of https://grpc.io/docs/guides/error/: a ``google.rpc.Status`` with any messages in it.
"""

from collections.abc import Sequence
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from plasmacloud.rpc.proto import status_pb2
from plasmacloud.rpc.status import RpcError, StatusCode

M = TypeVar("M", bound=Message)

DETAILS_KEY: Final = "grpc-status-details-bin"


def detailed_error(code: StatusCode, message: str, details: Sequence[Message]) -> RpcError:
    """An error for a handler to raise: the status, with messages that clients can look at."""
    status = status_pb2.Status(code=int(code), message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return RpcError(code, message, metadata=[(DETAILS_KEY, status.SerializeToString())])


def find_detail(error: RpcError, kind: type[M]) -> M | None:
    """The first detail of a type that came with an error; None when there is none, or it cannot be read.

    Details of a status that contradicts the trailers' are ignored, as the specification asks.
    """
    for key, value in error.metadata:
        if key != DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(value)
            if status.code != int(error.code):
                continue
            for packed in status.details:
                detail = kind()
                if packed.Unpack(detail):
                    return detail
        except DecodeError:
            continue
    return None
