"""The workload: concurrent clients that write, and write down what they know about every write.

Each client is sequential and steady: one unique key after the other at a fixed cadence. It stays with one node until
an attempt fails, then goes on with the next; a failed write is never repeated (its key would not be unique), the next
one is a new write. Only where a scenario asks for it (`Workload.retry_for_s`), writes are made in a form that is safe
to repeat, and are repeated. The load is bounded in rate, in time (the caller stops it) and in number.

There are many clients, and their turns are spread evenly over a period no shorter than the time limit of one write.
So a client that waits in vain still takes its next turn on time, and there is a fresh attempt every period / clients
whatever state the system is in: that is the resolution of every outage measured. A few fast clients would all wait
for the same time limit at once, and the lab would measure its own time limit.

Beside them a few contenders use a few keys in common (`plasmacloud.lab.contention`); they start, rest and stop with
the rest of the load and are not counted in it.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

from plasmacloud.base.errors import PlasmaError
from plasmacloud.lab.changes import Changes
from plasmacloud.lab.cluster import Cluster
from plasmacloud.lab.contention import Contenders
from plasmacloud.lab.plan import Plan
from plasmacloud.lab.recorder import Recorder
from plasmacloud.lab.wire import AttemptFailed, Known, NodeApi
from plasmacloud.verify.history import Op, Outcome

KEY_PREFIX = "lab/"
MAX_OPS = 2_000_000
RETRY_PAUSE_S = 0.01


def trial_prefix(trial: int) -> str:
    """Where the keys of one trial are."""
    return f"{KEY_PREFIX}{trial:04d}/"


class Client:
    """One sequential writer."""

    def __init__(self, workload: "Workload", number: int, rng: random.Random) -> None:
        self.number = number
        self.allowed: list[str] = []
        self._workload = workload
        self._rng = rng
        self._apis: dict[str, NodeApi] = {}
        self._at = 0
        self._seq = 0

    def route(self, nodes: Sequence[str], first: int) -> None:
        """Write to these nodes only, beginning with the one at position ``first``."""
        assert nodes
        self.allowed = list(nodes)
        self._at = first % len(self.allowed)

    async def run(self) -> None:
        """Write until cancelled between two operations, or until the workload says stop."""
        workload = self._workload
        loop = asyncio.get_running_loop()
        due = loop.time() + workload.period_s * self.number / workload.clients
        try:
            while not workload.finishing():
                await asyncio.sleep(max(0.0, due - loop.time()))
                await workload.gate.wait()
                if workload.finishing():
                    return
                await self._write()
                due = max(due + workload.period_s, loop.time())
        finally:
            await asyncio.gather(*(api.close() for api in self._apis.values()))

    async def _write(self) -> None:
        workload = self._workload
        node = self._next_node()
        trial = workload.trial
        workload.under_way[trial] += 1
        self._seq += 1
        key = f"{trial_prefix(trial)}{self.number:03d}/{self._seq:06d}"
        value = f"{self.number}.{self._seq}.{self._rng.getrandbits(48):012x}"
        invoke_ns = time.monotonic_ns()
        give_up_ns = invoke_ns + int(workload.retry_for_s * 1e9)
        outcome, revision, problem, answered, attempts, unsure = Outcome.INFO, 0, "cancelled", False, 0, False
        try:
            while outcome is not Outcome.OK and (attempts == 0 or time.monotonic_ns() < give_up_ns):
                if attempts:
                    await asyncio.sleep(RETRY_PAUSE_S)
                attempts += 1
                node = self._next_node()
                outcome, problem, answered = Outcome.INFO, "cancelled", False
                try:
                    revision = await self._put(node, key, value)
                    outcome, problem, answered = Outcome.OK, "", True
                except AttemptFailed as error:
                    unsure |= error.known is Known.UNKNOWN
                    outcome = Outcome.INFO if unsure else Outcome.FAIL
                    problem, answered = str(error), error.answered
                    if node in self.allowed:
                        self._at = self.allowed.index(node) + 1
        finally:
            workload.finished(
                Op(
                    trial=trial,
                    client=self.number,
                    seq=self._seq,
                    node=node,
                    key=key,
                    value=value,
                    invoke_ns=invoke_ns,
                    return_ns=time.monotonic_ns(),
                    outcome=outcome,
                    revision=revision,
                    error=problem,
                    answered=answered,
                    attempts=max(1, attempts),
                )
            )

    def _next_node(self) -> str:
        return self.allowed[self._at % len(self.allowed)]

    async def _put(self, node: str, key: str, value: str) -> int:
        api, timeout = self._api(node), self._workload.op_timeout_s
        if self._workload.retry_for_s:
            return await api.put_once(key, value, timeout=timeout)
        return await api.put(key, value, timeout=timeout)

    def _api(self, node: str) -> NodeApi:
        if node not in self._apis:
            address = self._workload.cluster[node].spec.client
            self._apis[node] = NodeApi(address.host, address.port)
        return self._apis[node]


class Workload:
    """All clients together, and the counters that scenarios wait for."""

    def __init__(self, cluster: Cluster, recorder: Recorder, plan: Plan) -> None:
        self.cluster = cluster
        self.trial = 0
        self.stopping = False
        self.op_timeout_s = plan.op_timeout_ms / 1000
        self.clients = plan.clients
        self.period_s = plan.clients / plan.rate_per_s
        self.under_way: Counter[int] = Counter()  # operations in flight, by trial
        self.gate = asyncio.Event()
        self.acknowledged = 0
        self.unknown = 0
        self.refused = 0
        self.newest_invoke_acknowledged_ns = 0
        self.newest_key, self.newest_revision = "", 0  # of all acknowledged writes, that with the highest revision
        self.retry_for_s = 0.0  # > 0: make writes in a way that is safe to repeat, and repeat them for so long
        self._recorder = recorder
        self._changes = Changes()
        self._clients = [
            Client(self, number, random.Random(f"{plan.seed}/{plan.scenario}/{number}"))
            for number in range(plan.clients)
        ]
        self._contenders = Contenders(cluster, plan, recorder.register, self.gate)
        self._tasks: list[asyncio.Task[None]] = []
        self._broken: BaseException | None = None
        self.route(cluster.names)

    def finishing(self) -> bool:
        """Whether clients shall end: told to, or the bound on the number of operations is reached."""
        return self.stopping or self.acknowledged + self.unknown + self.refused >= MAX_OPS

    def route(self, nodes: Sequence[str]) -> None:
        """Spread the clients evenly over these nodes, and let them write to no other."""
        for client in self._clients:
            client.route(nodes, client.number)
        self._contenders.route(nodes)

    def start(self) -> None:
        """Begin to write."""
        self.gate.set()
        self._tasks = [asyncio.create_task(client.run()) for client in self._clients]
        self._tasks += self._contenders.start()
        for task in self._tasks:
            task.add_done_callback(self._client_ended)

    def pause(self) -> None:
        """Write nothing more for now; operations under way finish."""
        self.gate.clear()

    def resume(self) -> None:
        """Go on writing."""
        self.gate.set()

    async def begin_trial(self, trial: int) -> None:
        """Count from here on for ``trial``; returns when no operation of an earlier trial is under way."""
        self.trial = self._contenders.trial = trial
        if not await self.wait(lambda: self.under_way.total() == self.under_way[trial], timeout=30.0):
            raise PlasmaError(f"operations from before trial {trial} did not end within 30 s")

    async def stop(self) -> None:
        """Let the operations under way finish, then end."""
        self.stopping = self._contenders.stopping = True
        self.gate.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self.op_timeout_s + 5.0)
            for task in late:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._broken is not None:
            raise self._broken

    async def abort(self) -> None:
        """End now; operations under way are recorded with an unknown outcome."""
        self.stopping = self._contenders.stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait(self, condition: Callable[[], bool], *, timeout: float) -> bool:
        """Wait until ``condition`` holds; it is evaluated after every operation. False: not within the deadline."""
        return await self._changes.until(lambda: condition() or not self._sound(), timeout=timeout)

    def _sound(self) -> bool:
        """Raises what broke a client of the lab, if one is broken."""
        if self._broken is not None:
            raise self._broken
        return True

    def _client_ended(self, task: asyncio.Task[None]) -> None:
        # A client that breaks is a fault of the lab, not of the target: it must not look like an outage.
        if not task.cancelled() and task.exception() is not None:
            self._broken = task.exception()
            self._changes.tell()

    def finished(self, op: Op) -> None:
        """A client's operation ended."""
        self.under_way[op.trial] -= 1
        self._recorder.op(op)
        match op.outcome:
            case Outcome.OK:
                self.acknowledged += 1
                self.newest_invoke_acknowledged_ns = max(self.newest_invoke_acknowledged_ns, op.invoke_ns)
                if op.revision > self.newest_revision:
                    self.newest_key, self.newest_revision = op.key, op.revision
            case Outcome.FAIL:
                self.refused += 1
            case Outcome.INFO:
                self.unknown += 1
        self._changes.tell()
