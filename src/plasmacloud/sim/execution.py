"""Whether members execute what is committed as the `model` does: each answer and revision, now and then everything."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError, Message

from plasmacloud.base.errors import StorageError
from plasmacloud.chainfire.mvcc.key_index import bound
from plasmacloud.chainfire.mvcc.records import is_tombstone
from plasmacloud.chainfire.mvcc.refusals import Refusal
from plasmacloud.chainfire.state_machine import Results, StateMachine
from plasmacloud.chainfire.state_meta import Applied
from plasmacloud.rpc.proto import kv_pb2, rpc_pb2
from plasmacloud.rpc.proto.rpc_pb2 import RangeRequest
from plasmacloud.sim.model import Answer, Model, same_state
from plasmacloud.sim.violation import Violation
from plasmacloud.storage.entry import Entry

if TYPE_CHECKING:
    from plasmacloud.chainfire.running_member import RunningMember

Told = Callable[[StateMachine, Entry, tuple[int, int] | None, Results], None]


def _wrong(what: str) -> Violation:
    return Violation("the store does what the model does", what)


class WatchedMachine(StateMachine):
    """Tells what it has executed."""

    on_executed: Told
    checksum_before = (0, 0)  # revision and checksum of all changes behind the entry before
    _begun: tuple[Entry, tuple[int, int] | None] | None = None

    def begin(self, entry: Entry, *, local_origin: tuple[int, int] | None = None) -> Results | None:
        self._begun = (entry, local_origin) if entry.index > self.applied_index else None
        return super().begin(entry, local_origin=local_origin)  # which goes on

    def go_on(self) -> Results | None:
        results = super().go_on()
        if results is not None and self._begun is not None:
            (entry, local_origin), self._begun = self._begun, None
            self.on_executed(self, entry, local_origin, results)
            self.checksum_before = self.store.revision, self.store.change_crc
        return results


def check_executed(
    model: Model, machine: StateMachine, entry: Entry, local_origin: tuple[int, int] | None, results: Results
) -> None:
    """A member has executed an entry, with these results for its own clients. Raises `Violation`."""
    executed = model.executed(entry, machine.cluster.departed)
    if executed is None:
        return
    who = f"entry {entry.index} at {machine.member_id:x}"
    if machine.store.revision != executed.revision:
        raise _wrong(f"{who}: revision {machine.store.revision}, and it should be {executed.revision}")
    if isinstance(machine, WatchedMachine):
        revision, checksum = machine.checksum_before
        if revision and revision != machine.store.revision and checksum == machine.store.change_crc:
            raise Violation("every change is in the checksum", f"{who}: the checksum stays {checksum:x}")
    expected = executed.answers.get(local_origin, []) if local_origin is not None else []
    if not expected and entry.kind.name != "COMMANDS":
        return
    if [seq for seq, _ in results] != [seq for seq, _ in expected]:
        raise _wrong(
            f"{who} executes commands {[seq for seq, _ in results]} of its own, and should execute "
            f"{[seq for seq, _ in expected]}"
        )
    for (seq, applied), (_, answer) in zip(results, expected, strict=True):
        _check_answer(f"{who}, command {seq}", machine, applied, answer)


def _check_answer(what: str, machine: StateMachine, applied: Applied, answer: Answer) -> None:
    if answer is None:
        return
    if isinstance(answer, Refusal) or applied.error is not None:
        if applied.error != answer:
            raise _wrong(f"{what}: {applied.error or 'done'}, and it should be {answer}")
        return
    try:
        found = type(answer).FromString(applied.body)
    except DecodeError:
        raise _wrong(f"{what} is answered by what is no {type(answer).__name__}") from None
    header = found.header  # type: ignore[attr-defined]
    told = header.cluster_id, header.member_id, header.raft_term
    if told != (machine.cluster.cluster_id, machine.member_id, machine.applied_term):
        raise _wrong(f"{what}: the header says {told}")
    header.cluster_id = header.member_id = header.raft_term = 0
    _compare(what, found, answer)


def _compare(what: str, found: Message, expected: Message) -> None:
    if found != expected:
        raise _wrong(f"{what} is answered by {_short(found)}, and should be by {_short(expected)}")


def _short(message: Message) -> str:
    return " ".join(str(message).split())[:400]


def check_read(model: Model, request: RangeRequest, body: bytes, compacted: int) -> None:
    """A range was answered. ``compacted``: what everybody had compacted when it was asked. Raises `Violation`."""
    found = rpc_pb2.RangeResponse.FromString(body)
    revision = max(request.revision, 0) or found.header.revision
    if revision < compacted:
        raise _wrong(f"a read as of {revision} is answered, and {compacted} was compacted before")
    expected = model.read(request, revision)
    if expected is None:
        return
    expected.header.CopyFrom(found.header)
    _compare(f"{_short(request)}, as of {revision},", found, expected)


def check_store(model: Model, member: "RunningMember") -> None:
    """All living keys of a member whose state is whole. Raises `Violation`."""
    store = member.machine.store
    _check_forgotten(member)
    state = model.states.get(store.revision)
    if state is None:
        return
    try:
        records = [store.newest_record(key) for key in store.index.order]
    except StorageError:
        return  # the disk altered one: the member will find out, or nobody asks for it
    if not same_state(state, [kv_pb2.KeyValue.FromString(record) for record in records if record is not None]):
        raise _wrong(f"{member.raft.id:x} holds other keys or versions as of revision {store.revision}")


def _check_forgotten(member: "RunningMember") -> None:
    """What is compacted is removed: of what lies behind, each living key keeps its newest version, a dead one none."""
    store = member.machine.store
    if store.compaction is not None or store.compact_revision < 0:
        return
    limit = bound(store.compact_revision)
    for key in (*store.index.live, *store.index.graves):
        past = [identity for identity in store.index.ids(key) if identity < limit]
        if len(past) > 1 or (past and is_tombstone(past[0])):
            raise Violation(
                "what is compacted is removed",
                f"{member.raft.id:x} keeps {len(past)} versions of {key!r} from before revision "
                f"{store.compact_revision}, and takes that for done",
            )
