"""The clients of a simulated cluster, and the history of what they saw.

A client asks any member that runs, so that forwarding is part of every run, and waits for its answer before it asks
again. What it is told is what clients of the real API are told, by the same commands and reads. An outcome that it
cannot know stays open: when the member dies, when it has no more patience, or when it is told that nobody knows.

Every value is written once. So a read names the write that it has seen, and one write executed twice shows. What is
asked of many keys at once, and of the past, has rules of its own (`many_keys`).
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.mvcc.refusals import RpcRefusal
from plasmacloud.chainfire.waiting import NO_LEADER, STOPPING, TOO_MANY_REQUESTS
from plasmacloud.rpc.proto import kv_pb2, rpc_pb2
from plasmacloud.rpc.status import StatusCode
from plasmacloud.sim import many_keys
from plasmacloud.sim.clock import NS_PER_S, World
from plasmacloud.sim.execution import check_read
from plasmacloud.sim.many_keys import TOGETHER, Past
from plasmacloud.sim.model import Model
from plasmacloud.sim.node import Life, Node
from plasmacloud.sim.options import WorkloadOptions
from plasmacloud.sim.requests import draw_change, draw_look
from plasmacloud.sim.trace import Trace
from plasmacloud.sim.violation import Violation
from plasmacloud.verify.models import ABSENT, Cas, Delete, Found, Read, Write
from plasmacloud.verify.operations import UNKNOWN, Operation

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from plasmacloud.chainfire.mvcc.range_query import RangeQuery

_NOT_EXECUTED = frozenset({NO_LEADER, STOPPING, TOO_MANY_REQUESTS})
_QUERY_KEYS = 3  # of a query that is answered in slices: so many at a time
_QUERY_PAUSES_S = (0.002, 0.002, 0.1)  # in between; who is slow reads a past that is compacted meanwhile
_PREVIOUS = 0.1  # of the changes ask what was there before
_ODD_COMPACTIONS = 0.3
_FAR = 1000  # revisions
_GLANCES = 4  # at the group of keys, while it is written or deleted
_GLANCE_S = 0.006  # so long after the request, on average


class Request:
    """One request on its way: what the replica calls a waiter. Tells its client exactly once."""

    __slots__ = ("_told", "done", "life", "pause_s", "serve")

    def __init__(self, life: Life, told: "Callable[[Request, bytes | None, str], None]") -> None:
        self.life = life
        self.done = False
        self.pause_s = _QUERY_PAUSES_S[0]
        self.serve: Callable[[], bytes | RangeQuery] | None = None  # of a read, when the local state is new enough
        self._told = told

    def reply(self, body: bytes) -> None:
        """The answer."""
        if not self.done:
            self.done = True
            self._told(self, body, "")

    def fail(self, code: StatusCode, message: str) -> None:
        """No answer."""
        if not self.done:
            self.done = True
            self._told(self, None, message or code.name)

    def run(self) -> None:
        """A linearizable read may be answered now."""
        if self.done:
            return
        assert self.serve is not None
        try:
            answer = self.serve()
        except RpcRefusal as refusal:
            self.fail(refusal.code, refusal.message)
            return
        if isinstance(answer, bytes):
            self.reply(answer)
        else:
            self._go_on(answer)

    def _go_on(self, query: "RangeQuery") -> None:
        """A query in slices, with other work in between."""
        if self.done:
            query.close()
        elif query.step(_QUERY_KEYS):
            self.reply(query.body())
        else:
            self.life.loop.call_later(self.pause_s, self._go_on, query)


REQUESTS = (
    "put",
    "get",
    "delete",
    "cas",
    "range",
    "compact",
    "write together",
    "delete together",
    "read together",
    "read the past",
    "change",
    "look",
)
"""What is drawn with `WorkloadOptions.weights`."""


class Client:
    """One client."""

    def __init__(self, workload: "Workload", number: int) -> None:
        self.number = number
        self.request: Request | None = None
        self.asked = 0
        self._workload = workload
        self._rng = random.Random(f"client/{workload.seed}/{number}")
        self._seen: dict[str, Hashable] = {}  # the newest value seen of each key, for compare-and-set
        self._revision = 0
        self._invoke_ns = 0
        self._inputs: dict[str, Hashable] = {}  # by key, of the request under way
        self._settle: Callable[[bytes], dict[str, Hashable]] = _nothing
        self._asked_past = 0  # the revision that was asked for
        self._told_before = 0  # the newest revision that anybody had been told of when the request began
        self._compacted_before = 0  # and the newest that was compacted

    # Asking

    def ask(self) -> None:
        """The next request, if there is somebody to ask."""
        workload = self._workload
        nodes = workload.nodes()
        if not workload.open or self.request is not None:
            return
        if not nodes:
            self._pause()
            return
        node = nodes[self._rng.randrange(len(nodes))]
        member = node.member
        assert member is not None
        assert node.life is not None
        self.asked += 1
        self._invoke_ns = workload.world.now_ns
        self._told_before = workload.told_revision
        self._compacted_before = workload.past.surely_compacted
        request = self.request = Request(node.life, self._told)
        request.pause_s = self._rng.choice(_QUERY_PAUSES_S)
        kind, body = self._draw(request, node)
        workload.trace.count("requests")
        workload.world.after(round(workload.options.patience_s * NS_PER_S), self._lose_patience, request)
        replica = member.replica
        if kind is None:
            node.life.loop.enter(replica.read, request)
        else:
            node.life.loop.enter(replica.submit, kind, body, request)

    def _draw(self, request: Request, node: Node) -> tuple[CommandKind | None, bytes]:
        rng, options = self._rng, self._workload.options
        key = f"k{rng.randrange(options.keys)}"
        (what,) = rng.choices(REQUESTS[: len(options.weights)], options.weights)
        self._asked_past = 0
        value = f"{self.number}.{self.asked}".ljust(rng.randrange(options.value_bytes) + 1, ".")
        if what == "put":
            return self._put(key, value)
        if what == "delete":
            return self._delete(key)
        if what == "cas":
            return self._cas(key, value)
        if what == "compact" and self._revision > options.compact_behind:
            return self._compact()
        if what == "write together":
            return self._write_together(value)
        if what == "delete together":
            return self._delete_together()
        if what == "read together":
            self._read_together(request, node)
            return None, b""
        if what == "read the past":
            self._read_past(request, node)
            return None, b""
        if what == "change":
            self._inputs, self._settle = {}, _nothing
            return draw_change(rng, self._revision)
        if what == "look":
            self._look(request, node)
            return None, b""
        self._read([f"k{i}" for i in range(options.keys)] if what == "range" else [key], request, node)
        return None, b""

    def _put(self, key: str, value: str) -> tuple[CommandKind, bytes]:
        self._inputs = {key: Write(value)}

        def settle(body: bytes) -> "dict[str, Hashable]":
            revision = rpc_pb2.PutResponse.FromString(body).header.revision
            self._note(key, value, revision)
            return {key: revision}

        self._settle = settle
        request = rpc_pb2.PutRequest(key=key.encode(), value=value.encode(), prev_kv=self._rng.random() < _PREVIOUS)
        return CommandKind.PUT, request.SerializeToString()

    def _delete(self, key: str) -> tuple[CommandKind, bytes]:
        self._inputs = {key: Delete()}

        def settle(body: bytes) -> "dict[str, Hashable]":
            reply = rpc_pb2.DeleteRangeResponse.FromString(body)
            self._note(key, ABSENT, reply.header.revision)
            if not reply.deleted:  # nothing there, and no revision of its own
                self._inputs = {key: Read()}
                return {key: ABSENT}
            return {key: reply.header.revision}

        self._settle = settle
        request = rpc_pb2.DeleteRangeRequest(key=key.encode(), prev_kv=self._rng.random() < _PREVIOUS)
        return CommandKind.DELETE_RANGE, request.SerializeToString()

    def _compact(self) -> tuple[CommandKind, bytes]:
        """Most are about the past; some come twice, are about now, or about what is still to come."""
        rng, past = self._rng, self._workload.past
        revision = self._revision - self._workload.options.compact_behind
        if rng.random() < _ODD_COMPACTIONS:
            revision = rng.choice((max(1, past.compacted), self._revision, self._revision + _FAR))
        if revision <= self._revision:
            past.compacted = max(past.compacted, revision)
        self._inputs = {}

        def settle(_body: bytes) -> "dict[str, Hashable]":
            past.surely_compacted = max(past.surely_compacted, revision)
            return {}

        self._settle = settle
        return CommandKind.COMPACT, rpc_pb2.CompactionRequest(revision=revision).SerializeToString()

    def _cas(self, key: str, value: str) -> tuple[CommandKind, bytes]:
        expected = self._seen.get(key, ABSENT)
        self._inputs = {key: Cas(expected, value)}
        compare = (
            rpc_pb2.Compare(key=key.encode(), target=rpc_pb2.Compare.VERSION, version=0)
            if expected is ABSENT
            else rpc_pb2.Compare(key=key.encode(), target=rpc_pb2.Compare.VALUE, value=str(expected).encode())
        )
        request = rpc_pb2.TxnRequest(
            compare=[compare],
            success=[
                rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key.encode(), value=value.encode())),
            ],
            failure=[rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key.encode()))],
        )

        def settle(body: bytes) -> "dict[str, Hashable]":
            reply = rpc_pb2.TxnResponse.FromString(body)
            if reply.succeeded:
                self._note(key, value, reply.header.revision)
                return {key: reply.header.revision}
            found = _found(reply.responses[0].response_range.kvs)
            self._note(key, found[0] if found else ABSENT, reply.header.revision)
            return {key: Found(found)}

        self._settle = settle
        return CommandKind.TXN, request.SerializeToString()

    def _read(self, keys: "Sequence[str]", request: Request, node: Node) -> None:
        self._inputs = dict.fromkeys(keys, Read())
        member = node.member
        assert member is not None
        store = member.machine.store
        body = (
            rpc_pb2.RangeRequest(key=keys[0].encode())
            if len(keys) == 1
            else rpc_pb2.RangeRequest(key=b"k", range_end=b"l")
        )

        def serve() -> bytes:
            answer = store.begin_range(body)
            if isinstance(answer, bytes):
                return answer
            while not answer.step():
                pass
            return answer.body()

        def settle(answer: bytes) -> "dict[str, Hashable]":
            reply = rpc_pb2.RangeResponse.FromString(answer)
            found = {kv.key.decode(): _found([kv]) for kv in reply.kvs}
            self._revision = max(self._revision, reply.header.revision)
            for key in keys:
                seen = found.get(key)
                self._seen[key] = seen[0] if seen else ABSENT
            return {key: found.get(key, ABSENT) for key in keys}

        request.serve = serve
        self._settle = settle

    def _send_glances(self) -> None:
        """What takes several slices to be executed is looked at meanwhile, by nobody in particular."""
        for _ in range(_GLANCES):
            after_s = _GLANCE_S * self._rng.expovariate(1.0)
            self._workload.world.after(round(after_s * NS_PER_S), self._glance, self._rng.random())

    def _glance(self, pick: float) -> None:
        workload = self._workload
        nodes = workload.nodes()
        if not workload.open or not nodes:
            return
        node = nodes[int(pick * len(nodes))]
        assert node.member is not None
        assert node.life is not None
        request = Request(node.life, self._glanced)
        self._query(many_keys.read_together(), request, node)
        node.life.loop.enter(node.member.replica.read, request)

    def _glanced(self, _request: Request, body: bytes | None, _problem: str) -> None:
        if body is None:
            return
        try:
            many_keys.seen_together(self._workload.options.together, rpc_pb2.RangeResponse.FromString(body).kvs)
        except Violation as violation:
            self._workload.fail(violation)

    def _write_together(self, value: str) -> tuple[CommandKind, bytes]:
        self._send_glances()
        self._inputs = {TOGETHER: Write(value)}
        self._settle = lambda body: {TOGETHER: rpc_pb2.TxnResponse.FromString(body).header.revision}
        return CommandKind.TXN, many_keys.write_together(self._workload.options.together, value)

    def _delete_together(self) -> tuple[CommandKind, bytes]:
        self._send_glances()
        self._inputs = {TOGETHER: Delete()}

        def settle(body: bytes) -> "dict[str, Hashable]":
            reply = rpc_pb2.DeleteRangeResponse.FromString(body)
            many_keys.check_deleted(self._workload.options.together, reply.deleted)
            if not reply.deleted:
                self._inputs = {TOGETHER: Read()}
                return {TOGETHER: ABSENT}
            return {TOGETHER: reply.header.revision}

        self._settle = settle
        return CommandKind.DELETE_RANGE, many_keys.delete_together()

    def _read_together(self, request: Request, node: Node) -> None:
        self._inputs = {TOGETHER: Read()}

        def settle(answer: bytes) -> "dict[str, Hashable]":
            reply = rpc_pb2.RangeResponse.FromString(answer)
            return {TOGETHER: many_keys.seen_together(self._workload.options.together, reply.kvs) or ABSENT}

        self._query(many_keys.read_together(), request, node)
        self._settle = settle

    def _read_past(self, request: Request, node: Node) -> None:
        """Everything, as of now or as of a revision that somebody has read already."""
        rng, past = self._rng, self._workload.past
        revisions = past.revisions
        self._asked_past = rng.choice(revisions) if revisions and rng.random() < 0.7 else 0
        self._inputs = {}

        body = rpc_pb2.RangeRequest(key=many_keys.START, range_end=many_keys.END, revision=self._asked_past)
        model, compacted = self._workload.model, self._compacted_before

        def settle(answer: bytes) -> "dict[str, Hashable]":
            reply = rpc_pb2.RangeResponse.FromString(answer)
            past.saw(self._asked_past or reply.header.revision, reply)
            check_read(model, body, answer, compacted)
            return {}

        self._query(body, request, node)
        self._settle = settle

    def _look(self, request: Request, node: Node) -> None:
        """A range of any shape: what it has to return is known."""
        workload = self._workload
        body, compacted = draw_look(self._rng, self._revision), self._compacted_before
        self._inputs = {}
        self._asked_past = max(0, body.revision)

        def settle(answer: bytes) -> "dict[str, Hashable]":
            check_read(workload.model, body, answer, compacted)
            return {}

        self._query(body, request, node)
        self._settle = settle

    def _query(self, body: rpc_pb2.RangeRequest, request: Request, node: Node) -> None:
        """Answer in slices, as the services do with what takes long."""
        member = node.member
        assert member is not None
        store = member.machine.store
        request.serve = lambda: store.open_range(body)

    def _note(self, key: str, value: "Hashable", revision: int) -> None:
        self._seen[key] = value
        self._revision = max(self._revision, revision)

    # Being told

    def _told(self, request: Request, body: bytes | None, problem: str) -> None:
        if request is not self.request:
            return
        workload = self._workload
        self.request = None
        try:
            outputs = {} if body is None else self._settle(body)
            if body is not None:
                self._check_revision(body)
            if body is None and self._asked_past:
                workload.past.refused(self._asked_past, problem)
        except Violation as violation:
            workload.fail(violation)
            return
        if body is not None:
            now_ns = workload.world.now_ns
            workload.answered += 1
            for key, output in outputs.items():
                workload.history.append(Operation(self.number, key, self._invoke_ns, now_ns, self._inputs[key], output))
        elif problem in _NOT_EXECUTED:
            workload.trace.count("refused")
        else:
            self._give_up()
        self._pause()

    def _check_revision(self, body: bytes) -> None:
        """Whoever asks after an answer is told of a state no older than that one's, whatever the keys."""
        revision = rpc_pb2.CompactionResponse.FromString(body).header.revision  # field 1 of every answer
        if revision < self._told_before:
            raise Violation(
                "nobody is answered from the past",
                f"client {self.number} is told of revision {revision}; before it asked, somebody was told of "
                f"{self._told_before}",
            )
        self._workload.told_revision = max(self._workload.told_revision, revision)

    def _lose_patience(self, request: Request) -> None:
        if request is self.request:
            request.done = True
            self.request = None
            self._give_up()
            self._pause()

    def member_died(self, life: Life) -> None:
        """Nobody will answer what was asked there."""
        if self.request is not None and self.request.life is life:
            self.request = None
            self._give_up()
            self._pause()

    def _give_up(self) -> None:
        """The outcome stays unknown for ever. A read without an answer tells nothing and is left out."""
        self._workload.trace.count("unknown outcomes")
        for key, what in self._inputs.items():
            if not isinstance(what, Read):
                self._workload.history.append(Operation(self.number, key, self._invoke_ns, None, what, UNKNOWN))

    def _pause(self) -> None:
        workload = self._workload
        pause_s = workload.options.think_s * self._rng.expovariate(1.0)
        workload.world.after(round(pause_s * NS_PER_S), self.ask)


class Workload:
    """All clients. ``history`` is what the linearizability checker judges."""

    def __init__(
        self,
        world: World,
        trace: Trace,
        options: WorkloadOptions,
        seed: int,
        nodes: Callable[[], list[Node]],
        fail: Callable[[Violation], None],
        model: Model,
    ) -> None:
        """``nodes``: those that a client may ask now. ``fail`` is told what no client may see. ``model``: what the
        store has to answer.
        """
        self.world = world
        self.trace = trace
        self.options = options
        self.seed = seed
        self.nodes = nodes
        self.fail = fail
        self.model = model
        self.past = Past()
        self.open = True
        self.answered = 0
        self.told_revision = 0
        self.history: list[Operation] = []
        self.clients = [Client(self, number) for number in range(options.clients)]

    def start(self) -> None:
        """Clients begin one after the other."""
        for client in self.clients:
            self.world.after(client.number * NS_PER_S // 10, client.ask)

    def stop(self) -> None:
        """No new requests."""
        self.open = False

    def finish(self) -> None:
        """What is still under way stays open."""
        for client in self.clients:
            if client.request is not None:
                client.member_died(client.request.life)

    def member_died(self, life: Life) -> None:
        """A process ended."""
        for client in self.clients:
            client.member_died(life)


def _found(kvs: "Sequence[kv_pb2.KeyValue]") -> "tuple[str, int] | None":
    return (kvs[0].value.decode(), kvs[0].mod_revision) if kvs else None


def _nothing(_body: bytes) -> "dict[str, Hashable]":
    return {}
