"""What the store has to answer, by the simplest means: a dictionary for every revision, and the commands as they come.

Members are compared with each other, and clients judge what they see of a few registers. Neither notices what all
members do alike and wrongly: a comparison that holds when it should not, a version that does not begin anew, a command
that is executed twice everywhere. So every committed entry is executed here as well, once, and every member has to have
the same answers for it. What reads return is looked up here, too.

It knows no leases, and takes membership from the members (`observer` has rules for that).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from google.protobuf.message import Message

from plasmacloud.chainfire.commands import decode
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.mvcc.refusals import COMPACTED, FUTURE_REVISION, KEY_NOT_FOUND, Refusal
from plasmacloud.rpc.proto import kv_pb2, rpc_pb2
from plasmacloud.rpc.proto.rpc_pb2 import Compare, RangeRequest
from plasmacloud.storage.entry import Entry, EntryKind

_KEPT_REVISIONS = 400
_KEPT_ENTRIES = 5000

Answer = Message | Refusal | None
"""A reply with nothing in its header but the revision; None: it is not known here."""


class Version(NamedTuple):
    """What a key holds."""

    value: bytes
    create: int
    mod: int
    version: int

    def message(self, key: bytes) -> kv_pb2.KeyValue:
        """As replies have it."""
        return kv_pb2.KeyValue(
            key=key, value=self.value, create_revision=self.create, mod_revision=self.mod, version=self.version
        )


State = dict[bytes, Version]
_NOTHING = Version(b"", 0, 0, 0)


class Executed(NamedTuple):
    """What an entry did. ``answers``: by origin and incarnation, with the numbers of the commands executed."""

    revision: int
    answers: Mapping[tuple[int, int], list[tuple[int, Answer]]]


class Model:
    """The store as of the newest entry that anybody has executed."""

    def __init__(self) -> None:
        self.applied = 0
        self.revision = 1
        self.compacted = -1
        self.states: dict[int, State] = {1: {}}
        self._sessions: dict[int, tuple[int, int]] = {}
        self._executed: dict[int, Executed] = {}

    def executed(self, entry: Entry, departed: Mapping[int, int]) -> Executed | None:
        """What the entry did; None: that was too long ago. ``departed``: members whose commands do not count."""
        if entry.index > self.applied:
            self.applied = entry.index
            answers = self._execute(entry, departed) if entry.kind is EntryKind.COMMANDS else {}
            self._executed[entry.index] = Executed(self.revision, answers)
            self._executed.pop(entry.index - _KEPT_ENTRIES, None)
            for old in [old for old in self.states if old <= self.revision - _KEPT_REVISIONS]:
                del self.states[old]
        return self._executed.get(entry.index)

    def _execute(self, entry: Entry, departed: Mapping[int, int]) -> dict[tuple[int, int], list[tuple[int, Answer]]]:
        answers: dict[tuple[int, int], list[tuple[int, Answer]]] = {}
        for origin, incarnation, first_seq, commands in decode(entry.data):
            known, last_seq = self._sessions.get(origin, (0, 0))
            if origin in departed or incarnation < known:
                continue
            if incarnation > known:
                last_seq = 0
            if first_seq <= last_seq + 1:
                for seq, (kind, body) in enumerate(commands, first_seq):
                    if seq > last_seq:
                        answers.setdefault((origin, incarnation), []).append((seq, self._answer(kind, body)))
                        last_seq = seq
            self._sessions[origin] = incarnation, last_seq
        return answers

    def _answer(self, kind: int, body: bytes) -> Answer:
        write = Writing(self.states[self.revision], self.revision)
        answer: Answer
        if kind == CommandKind.PUT:
            answer = write.put(rpc_pb2.PutRequest.FromString(body))
        elif kind == CommandKind.DELETE_RANGE:
            answer = write.delete(rpc_pb2.DeleteRangeRequest.FromString(body))
        elif kind == CommandKind.TXN:
            answer = write.txn(rpc_pb2.TxnRequest.FromString(body))
        elif kind == CommandKind.COMPACT:
            answer = self._compact(rpc_pb2.CompactionRequest.FromString(body).revision)
        else:
            return None
        if isinstance(answer, Refusal):
            return answer
        self.revision = write.revision
        self.states[self.revision] = write.state
        answer.header.revision = self.revision  # type: ignore[attr-defined]
        return answer

    def _compact(self, revision: int) -> Message | Refusal:
        if revision <= self.compacted:
            return COMPACTED
        if revision > self.revision:
            return FUTURE_REVISION
        self.compacted = revision
        return rpc_pb2.CompactionResponse()

    def read(self, request: RangeRequest, revision: int) -> rpc_pb2.RangeResponse | None:
        """What a range has to return as of a revision; None: that is not remembered."""
        state = self.states.get(revision)
        return None if state is None else read_range(state, request)


class Writing:
    """One request that writes. ``state`` and ``revision`` are those behind it; the state before is not changed."""

    def __init__(self, state: State, revision: int) -> None:
        self.state = state
        self.revision = revision
        self._before = revision

    def _change(self) -> State:
        """The state to change: all changes of a request have one revision."""
        if self.revision == self._before:
            self.revision, self.state = self._before + 1, dict(self.state)
        return self.state

    def put(self, request: rpc_pb2.PutRequest) -> rpc_pb2.PutResponse | Refusal:
        """One put."""
        old = self.state.get(request.key)
        if old is None and (request.ignore_value or request.ignore_lease):
            return KEY_NOT_FOUND
        state = self._change()
        value = old.value if old is not None and request.ignore_value else request.value
        create, version = (self.revision, 1) if old is None else (old.create, old.version + 1)
        state[request.key] = Version(value, create, self.revision, version)
        shown = old.message(request.key) if old is not None and request.prev_kv else None
        return rpc_pb2.PutResponse(header=self.header(), prev_kv=shown)

    def delete(self, request: rpc_pb2.DeleteRangeRequest) -> rpc_pb2.DeleteRangeResponse:
        """One deletion, of one key or a range."""
        keys = _keys(self.state, request.key, request.range_end)
        shown = [self.state[key].message(key) for key in keys] if request.prev_kv else []
        if keys:
            state = self._change()
            for key in keys:
                del state[key]
        return rpc_pb2.DeleteRangeResponse(header=self.header(), deleted=len(keys), prev_kvs=shown)

    def txn(self, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
        """A transaction, without one inside of it."""
        succeeded = all(_holds(self.state, compare) for compare in request.compare)
        responses = []
        for operation in request.success if succeeded else request.failure:
            kind = operation.WhichOneof("request")
            if kind == "request_put":
                put = self.put(operation.request_put)
                assert isinstance(put, rpc_pb2.PutResponse)
                responses.append(rpc_pb2.ResponseOp(response_put=put))
            elif kind == "request_delete_range":
                deleted = self.delete(operation.request_delete_range)
                responses.append(rpc_pb2.ResponseOp(response_delete_range=deleted))
            else:
                assert kind == "request_range"
                found = read_range(self.state, operation.request_range)
                found.header.revision = self.revision
                responses.append(rpc_pb2.ResponseOp(response_range=found))
        return rpc_pb2.TxnResponse(header=self.header(), succeeded=succeeded, responses=responses)

    def header(self) -> rpc_pb2.ResponseHeader:
        """With the revision as of now."""
        return rpc_pb2.ResponseHeader(revision=self.revision)


def _keys(state: State, start: bytes, end: bytes) -> list[bytes]:
    """Those of a range, in their order."""
    if not end:
        return [start] if start in state else []
    return sorted(key for key in state if key >= start and (end == b"\0" or key < end))


def _holds(state: State, compare: Compare) -> bool:
    keys = _keys(state, compare.key, compare.range_end)
    if not keys:  # nothing has revisions and a version of 0, and no value at all
        return compare.target != Compare.VALUE and _compare(_NOTHING, compare)
    return all(_compare(state[key], compare) for key in keys)


def _compare(version: Version, compare: Compare) -> bool:
    sides: dict[int, tuple[int | bytes, int | bytes]] = {
        Compare.VERSION: (version.version, compare.version),
        Compare.CREATE: (version.create, compare.create_revision),
        Compare.MOD: (version.mod, compare.mod_revision),
        Compare.VALUE: (version.value, compare.value),
    }
    left, right = sides[compare.target]
    if compare.result == Compare.EQUAL:
        return left == right
    if compare.result == Compare.NOT_EQUAL:
        return left != right
    if compare.result == Compare.GREATER:
        return left > right  # type: ignore[operator]
    return left < right  # type: ignore[operator]


_SORT: dict[int, Callable[[bytes, Version], int | bytes]] = {
    RangeRequest.KEY: lambda key, _: key,
    RangeRequest.VERSION: lambda _, version: version.version,
    RangeRequest.CREATE: lambda _, version: version.create,
    RangeRequest.MOD: lambda _, version: version.mod,
    RangeRequest.VALUE: lambda _, version: version.value,
}


def read_range(state: State, request: RangeRequest) -> rpc_pb2.RangeResponse:
    """What a range returns, with an empty header. Whoever sorts says in which order."""
    keys = _keys(state, request.key, request.range_end)
    found = rpc_pb2.RangeResponse(count=len(keys))
    if request.count_only:
        return found
    bounds = (
        (request.min_mod_revision, request.max_mod_revision),
        (request.min_create_revision, request.max_create_revision),
    )
    keys = [key for key in keys if all(map(_within, (state[key].mod, state[key].create), bounds))]
    sort_key = _SORT[request.sort_target]
    keys.sort(key=lambda key: sort_key(key, state[key]), reverse=request.sort_order == RangeRequest.DESCEND)
    if 0 < request.limit < len(keys):
        keys, found.more = keys[: request.limit], True
    for key in keys:
        kv = found.kvs.add()
        kv.CopyFrom(state[key].message(key))
        if request.keys_only:
            kv.value = b""
    return found


def _within(revision: int, bounds: tuple[int, int]) -> bool:
    least, most = bounds
    return revision >= least and (not most or revision <= most)


def same_state(state: State, kvs: Iterable[kv_pb2.KeyValue]) -> bool:
    """Whether these are the living keys."""
    found = {kv.key: Version(kv.value, kv.create_revision, kv.mod_revision, kv.version) for kv in kvs}
    return found == state
