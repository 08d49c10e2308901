"""The same requests to two implementations of etcd's KV service; every answer must mean the same.

An `Executor` answers one request at a time: the pure state machine in this process, or any gRPC endpoint. `compare`
knows what may differ: the ids of cluster and member, the raft term, and the order among keys that a requested sort
order does not tell apart (with a limit, then also which of them are returned).
"""

import difflib
from collections.abc import Iterable
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import grpc
from google.protobuf.message import Message

from plasmacloud.chainfire import validate
from plasmacloud.chainfire.commands import encode_batch
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.mvcc.refusals import RpcRefusal
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.rpc.proto import kv_pb2, rpc_pb2
from plasmacloud.rpc.proto.rpc_pb2 import RangeRequest, TxnRequest

METHODS: dict[str, tuple[type[Message], type[Message]]] = {
    "Range": (rpc_pb2.RangeRequest, rpc_pb2.RangeResponse),
    "Put": (rpc_pb2.PutRequest, rpc_pb2.PutResponse),
    "DeleteRange": (rpc_pb2.DeleteRangeRequest, rpc_pb2.DeleteRangeResponse),
    "Txn": (rpc_pb2.TxnRequest, rpc_pb2.TxnResponse),
    "Compact": (rpc_pb2.CompactionRequest, rpc_pb2.CompactionResponse),
}
_COMMANDS = {
    "Put": CommandKind.PUT,
    "DeleteRange": CommandKind.DELETE_RANGE,
    "Txn": CommandKind.TXN,
    "Compact": CommandKind.COMPACT,
}
_UNMARSHAL = "grpc: error unmarshalling request"


class Answer(NamedTuple):
    """A gRPC status and, when it is OK, the reply."""

    code: int
    message: str
    body: bytes


class Executor(Protocol):
    """Something that speaks ``etcdserverpb.KV``."""

    def call(self, method: str, body: bytes) -> Answer: ...


class StateMachineExecutor:
    """One state machine, with the log, the network and the other members left out."""

    def __init__(self, machine: StateMachine) -> None:
        self.machine = machine
        self._origin = (1, 1)
        session = machine.sessions.get(1)
        self._seq = 0 if session is None else session.last_seq

    def call(self, method: str, body: bytes) -> Answer:
        try:
            reply = self._range(body) if method == "Range" else self._write(method, body)
        except RpcRefusal as refusal:
            return Answer(refusal.code, refusal.message, b"")
        return Answer(0, "", reply)

    def _range(self, body: bytes) -> bytes:
        """Both ways to a reply: at once, and in the smallest steps."""
        request = validate.validate_range(body)
        query = self.machine.store.open_range(request)
        while not query.step(1):
            pass
        reply = query.body()
        assert self.machine.store.range(request) == reply
        return reply

    def _write(self, method: str, body: bytes) -> bytes:
        request = validate.validate_write(_COMMANDS[method], body)
        if isinstance(request, TxnRequest) and validate.is_read_only(request):
            return self.machine.store.txn(request)
        self._seq += 1
        index = self.machine.applied_index + 1
        data = encode_batch(*self._origin, self._seq, [(_COMMANDS[method], body)])
        ((seq, applied),) = self.machine.apply(index, 2, data, local_origin=self._origin)
        assert seq == self._seq
        if applied.error is not None:
            raise applied.error()
        return applied.body


class GrpcExecutor:
    """A server behind an address, ``host:port``."""

    def __init__(self, address: str) -> None:
        self.address = address
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(address, options=unlimited)
        self._calls: dict[str, Any] = {
            method: self._channel.unary_unary(f"/etcdserverpb.KV/{method}") for method in METHODS
        }

    def call(self, method: str, body: bytes) -> Answer:
        try:
            return Answer(0, "", self._calls[method](body, timeout=20.0, wait_for_ready=True))
        except grpc.RpcError as error:
            return Answer(error.code().value[0], error.details(), b"")

    def close(self) -> None:
        self._channel.close()


def compare(method: str, body: bytes, one: Answer, other: Answer) -> str | None:
    """None when both answers mean the same, else what differs."""
    request_type, response_type = METHODS[method]
    if one.code or other.code:
        same_text = one.message == other.message or (
            one.message.startswith(_UNMARSHAL) and other.message.startswith(_UNMARSHAL)
        )
        if one.code == other.code and same_text:
            return None
        return f"{one.code} {one.message!r} against {other.code} {other.message!r}"
    request = request_type.FromString(body)
    replies = [response_type.FromString(answer.body) for answer in (one, other)]
    for reply in replies:
        _neutralize(request, reply)
    if replies[0] == replies[1]:
        return None
    lines = (str(reply).splitlines() for reply in replies)
    return "\n".join(difflib.unified_diff(*lines, "one", "other", lineterm=""))


def _neutralize(request: Any, reply: Any) -> None:
    """Reduce the reply to what both implementations must agree on."""
    header = reply.header
    assert reply.HasField("header"), "a reply without header"
    for name in ("cluster_id", "member_id", "raft_term"):
        if getattr(header, name):  # where etcd leaves it out we must too
            setattr(header, name, 1)
    if isinstance(request, RangeRequest):
        _sort_ties(request, reply)
    elif isinstance(request, TxnRequest):
        branch = request.success if reply.succeeded else request.failure
        for op, response in zip(branch, reply.responses, strict=True):
            name = op.WhichOneof("request")
            assert name is not None
            _neutralize(getattr(op, name), getattr(response, name.replace("request", "response")))


def _sort_ties(request: RangeRequest, reply: rpc_pb2.RangeResponse) -> None:
    names = {
        RangeRequest.VERSION: "version",
        RangeRequest.CREATE: "create_revision",
        RangeRequest.MOD: "mod_revision",
        RangeRequest.VALUE: "value",
    }
    name = names.get(request.sort_target)
    if name is None or not reply.kvs:
        return
    if request.keys_only and name == "value":  # nobody can see what the order was
        kvs = [kv_pb2.KeyValue(key=b"any")] * len(reply.kvs) if reply.more else sorted(reply.kvs, key=_key)
        del reply.kvs[:]
        reply.kvs.extend(kvs)
        return
    groups = [sorted(group, key=_key) for _, group in groupby(reply.kvs, lambda kv: getattr(kv, name))]
    if reply.more:
        cut = len(groups[-1])
        groups[-1] = [kv_pb2.KeyValue(key=b"any", **{name: getattr(groups[-1][0], name)})] * cut
    flat = [kv for group in groups for kv in group]
    del reply.kvs[:]
    reply.kvs.extend(flat)


def _key(kv: kv_pb2.KeyValue) -> bytes:
    return kv.key


class Divergence(AssertionError):
    """Two executors disagree."""


class Source(Protocol):
    """Where requests come from."""

    def stream(self, count: int) -> Iterable[tuple[str, bytes]]: ...

    def observe(self, revision: int) -> None:
        """The store is at this revision now."""


def run(one: Executor, other: Executor, source: Source, count: int) -> dict[str, int]:
    """Send every request to both. Returns how often each (method, status) was seen; raises `Divergence`."""
    seen: dict[str, int] = {}
    for number, (method, body) in enumerate(source.stream(count)):
        answers = one.call(method, body), other.call(method, body)
        difference = compare(method, body, *answers)
        if difference is not None:
            request = METHODS[method][0].FromString(body)
            raise Divergence(f"request {number}, {method} {request}: {difference}")
        if answers[0].body:
            source.observe(METHODS[method][1].FromString(answers[0].body).header.revision)  # type: ignore[attr-defined]
        outcome = f"{method} {answers[0].message or 'ok'}"
        seen[outcome] = seen.get(outcome, 0) + 1
    return seen
