"""Contenders: a few clients that read, write and compare-and-set the same few keys at the same time.

They run beside the writers of unique keys (`plasmacloud.lab.workload`), on the same nodes and under the same time
limit, and put little load on them. What they saw goes to a file of its own and is judged for linearizability.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from plasmacloud.lab.cluster import Cluster
from plasmacloud.lab.plan import Plan
from plasmacloud.lab.wire import AttemptFailed, Known, NodeApi, Seen
from plasmacloud.verify.history import Outcome
from plasmacloud.verify.registers import Kind, RegisterOp

REGISTER_PREFIX = "lab-register/"
"""Not below the prefix of the unique keys, which are read back and counted one by one."""
KEYS = 2
CONTENDERS = 8
PERIOD_S = 0.125
"""Each contender's turn: 64 attempts a second in all, on two keys."""
READ_SHARE = 0.5
WRITE_SHARE = 0.2

Record = Callable[[RegisterOp], None]


class Contenders:
    """All contenders of one scenario. ``gate`` and ``trial`` are those of the workload they belong to."""

    def __init__(self, cluster: Cluster, plan: Plan, record: Record, gate: asyncio.Event) -> None:
        self.trial = 0
        self.record = record
        self.gate = gate
        self.stopping = False
        self.timeout_s = plan.op_timeout_ms / 1000
        self._contenders = [
            _Contender(self, cluster, number, random.Random(f"{plan.seed}/{plan.scenario}/contender/{number}"))
            for number in range(CONTENDERS)
        ]
        self.tasks: list[asyncio.Task[None]] = []

    def route(self, nodes: Sequence[str]) -> None:
        """Spread over these nodes, and use no other."""
        for contender in self._contenders:
            contender.route(nodes)

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; returns the tasks, so that somebody notices when one breaks."""
        self.tasks = [asyncio.create_task(contender.run()) for contender in self._contenders]
        return self.tasks


class _Contender:
    """One sequential client. It compares with what it saw last, so that most of its conditions are close to true."""

    def __init__(self, all_: Contenders, cluster: Cluster, number: int, rng: random.Random) -> None:
        self.number = number
        self._all = all_
        self._cluster = cluster
        self._rng = rng
        self._nodes: list[str] = []
        self._at = 0
        self._seq = 0
        self._apis: dict[str, NodeApi] = {}
        self._seen: dict[str, Seen] = {}

    def route(self, nodes: Sequence[str]) -> None:
        assert nodes
        self._nodes = list(nodes)
        self._at = self.number

    async def run(self) -> None:
        """One attempt after the other until told to stop."""
        shared = self._all
        loop = asyncio.get_running_loop()
        due = loop.time() + PERIOD_S * self.number / CONTENDERS
        try:
            while True:
                await asyncio.sleep(max(0.0, due - loop.time()))
                await shared.gate.wait()
                if shared.stopping:
                    return
                await self._attempt()
                due = max(due + PERIOD_S, loop.time())
        finally:
            await asyncio.gather(*(api.close() for api in self._apis.values()))

    async def _attempt(self) -> None:
        self._seq += 1
        node = self._nodes[self._at % len(self._nodes)]
        key = f"{REGISTER_PREFIX}{self._rng.randrange(KEYS)}"
        kind = self._draw()
        value = None if kind is Kind.READ else f"{self.number}.{self._seq}"
        guess = self._seen.get(key, Seen())
        trial = self._all.trial
        outcome, problem, answered = Outcome.INFO, "cancelled", False
        executed, revision, seen = False, 0, Seen()
        invoke_ns = time.monotonic_ns()
        try:
            executed, revision, seen = await self._call(node, key, kind, value or "", guess)
            outcome, problem, answered = Outcome.OK, "", True
            self._seen[key] = Seen(value, revision) if executed else seen
        except AttemptFailed as error:
            unknown = error.known is Known.UNKNOWN and kind is not Kind.READ
            outcome = Outcome.INFO if unknown else Outcome.FAIL
            problem, answered = str(error), error.answered
            self._at += 1
        finally:
            self._all.record(
                RegisterOp(
                    trial=trial,
                    client=self.number,
                    seq=self._seq,
                    node=node,
                    key=key,
                    kind=kind,
                    invoke_ns=invoke_ns,
                    return_ns=time.monotonic_ns(),
                    outcome=outcome,
                    value=value,
                    expected=guess.value if kind is Kind.CAS else None,
                    expected_revision=guess.revision if kind is Kind.WRITE_AT else 0,
                    executed=executed,
                    revision=revision,
                    seen=seen.value,
                    seen_revision=seen.revision,
                    error=problem,
                    answered=answered,
                )
            )

    def _draw(self) -> Kind:
        share = self._rng.random()
        if share < READ_SHARE:
            return Kind.READ
        if share < READ_SHARE + WRITE_SHARE:
            return Kind.WRITE
        return self._rng.choice((Kind.CAS, Kind.WRITE_AT))

    async def _call(self, node: str, key: str, kind: Kind, value: str, guess: Seen) -> tuple[bool, int, Seen]:
        """Whether it wrote, at which revision, and otherwise what was there."""
        if node not in self._apis:
            address = self._cluster[node].spec.client
            self._apis[node] = NodeApi(address.host, address.port)
        api, timeout = self._apis[node], self._all.timeout_s
        match kind:
            case Kind.READ:
                return False, 0, await api.look(key, timeout=timeout)
            case Kind.WRITE:
                return True, await api.put(key, value, timeout=timeout), Seen()
            case Kind.CAS if guess.value is not None:
                return await api.put_if_value(key, guess.value, value, timeout=timeout)
            case _:
                # Without a value to expect, a compare-and-set is one that expects no key.
                revision = guess.revision if guess.value is not None else 0
                return await api.put_if_revision(key, revision, value, timeout=timeout)
