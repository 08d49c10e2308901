"""Fenced writes at a fixed cadence: what a client of the elected leader lives through.

Every turn, whatever state the system is in, one fresh write is sent by whichever client is free, and never repeated.
While writes are acknowledged it goes to the server that acknowledges them; as soon as one is refused, or waits for
longer than a few turns, the turns alternate between all servers. So an outage is known to within two turns, and a
server that hangs costs no more than one that refuses.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping

from plasmacloud.base.errors import PlasmaError
from plasmacloud.lab.changes import Changes
from plasmacloud.lab.election.api import ServerApi
from plasmacloud.lab.plan import Plan
from plasmacloud.lab.recorder import Recorder
from plasmacloud.lab.wire import AttemptFailed, Known
from plasmacloud.verify.history import Op, Outcome

KEY_PREFIX = "lab."
MAX_OPS = 500_000
_SUSPICIOUS_TURNS = 5


def trial_prefix(trial: int) -> str:
    """Where the keys of one trial begin."""
    return f"{KEY_PREFIX}{trial:04d}."


class Writer:
    """One sequential client with a connection to each server."""

    def __init__(self, number: int, apis: Mapping[str, ServerApi], rng: random.Random) -> None:
        self.number = number
        self.seq = 0
        self.apis = apis
        self.rng = rng


class FencedWrites:
    """All clients, their cadence, and the counters that a scenario waits for.

    ``servers``: host and port by name. Every server is a candidate for every write; nothing tells the clients who
    leads but the answers they get.
    """

    def __init__(self, servers: Mapping[str, tuple[str, int]], recorder: Recorder, plan: Plan) -> None:
        self.trial = 0
        self.acknowledged = 0
        self.refused = 0
        self.unknown = 0
        self.skipped_turns = 0
        self.newest_invoke_acknowledged_ns = 0
        self.under_way: Counter[int] = Counter()  # operations in flight, by trial
        self._names = list(servers)
        self._recorder = recorder
        self._turn_s = 1 / plan.rate_per_s
        self._timeout_s = plan.op_timeout_ms / 1000
        self._free = [
            Writer(
                number,
                {name: ServerApi(host, port) for name, (host, port) in servers.items()},
                random.Random(f"{plan.seed}/{plan.scenario}/{number}"),
            )
            for number in range(plan.clients)
        ]
        self._every = list(self._free)
        self._target: str | None = None  # who acknowledged last
        self._waiting_since: dict[int, tuple[str, float]] = {}  # operations in flight at the target, by client
        self._turn = 0
        self._resting = asyncio.Event()
        self._changes = Changes()
        self._broken: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pace: asyncio.Task[None] | None = None
        self._resting.set()

    def start(self) -> None:
        """Begin to write."""
        self._pace = asyncio.create_task(self._run())
        self._pace.add_done_callback(self._ended)

    def pause(self) -> None:
        """Write nothing more for now; operations under way finish."""
        self._resting.clear()

    def resume(self) -> None:
        """Go on writing."""
        self._resting.set()

    async def begin_trial(self, trial: int) -> None:
        """Count from here on for ``trial``; returns when no operation of an earlier trial is under way."""
        self.trial = trial
        if not await self.wait(lambda: self.under_way.total() == self.under_way[trial], timeout=30.0):
            raise PlasmaError(f"writes from before trial {trial} did not end within 30 s")

    async def stop(self) -> None:
        """Let the operations under way finish, then end."""
        await self._end_pace()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._timeout_s + 5.0)
        await self.abort()
        if self._broken is not None:
            raise self._broken

    async def abort(self) -> None:
        """End now; operations under way are recorded with an unknown outcome."""
        await self._end_pace()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._every:
            for api in writer.apis.values():
                api.close()

    async def wait(self, condition: Callable[[], bool], *, timeout: float) -> bool:
        """Wait until ``condition`` holds; it is evaluated after every operation. False: not within the deadline."""
        return await self._changes.until(lambda: condition() or not self._sound(), timeout=timeout)

    def _sound(self) -> bool:
        """Raises what broke a client of the lab, if one is broken."""
        if self._broken is not None:
            raise self._broken
        return True

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while self.acknowledged + self.refused + self.unknown < MAX_OPS:
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self._resting.wait()
            due = max(due + self._turn_s, loop.time())
            if not self._free:
                self.skipped_turns += 1  # cannot happen while clients >= time limit / turn, unless the lab is late
                continue
            task = asyncio.create_task(self._write(self._free.pop(), self._next_server()))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _next_server(self) -> str:
        self._turn += 1
        if self._target is not None:
            waiting = (since for server, since in self._waiting_since.values() if server == self._target)
            oldest = min(waiting, default=None)
            if oldest is None or time.monotonic() - oldest < _SUSPICIOUS_TURNS * self._turn_s:
                return self._target
        return self._names[self._turn % len(self._names)]

    async def _write(self, writer: Writer, server: str) -> None:
        trial = self.trial
        self.under_way[trial] += 1
        writer.seq += 1
        key = f"{trial_prefix(trial)}{writer.number:03d}.{writer.seq:06d}"
        value = f"{writer.number}.{writer.seq}.{writer.rng.getrandbits(48):012x}"
        if server == self._target:
            self._waiting_since[writer.number] = server, time.monotonic()
        outcome, epoch, problem, answered = Outcome.INFO, 0, "cancelled", False
        invoke_ns = time.monotonic_ns()
        try:
            written = await writer.apis[server].write(key, value, timeout=self._timeout_s)
            outcome, epoch, problem, answered = Outcome.OK, written.epoch_number, "", True
        except AttemptFailed as error:
            outcome = Outcome.FAIL if error.known is Known.NOT_EXECUTED else Outcome.INFO
            problem, answered = str(error), error.answered
        finally:
            return_ns = time.monotonic_ns()
            self._waiting_since.pop(writer.number, None)
            self._free.append(writer)
            self._learn(server, outcome)
            op = Op(
                trial=trial,
                client=writer.number,
                seq=writer.seq,
                node=server,
                key=key,
                value=value,
                invoke_ns=invoke_ns,
                return_ns=return_ns,
                outcome=outcome,
                revision=epoch,
                error=problem,
                answered=answered,
            )
            self._finished(op)

    def _learn(self, server: str, outcome: Outcome) -> None:
        if outcome is Outcome.OK:
            self._target = server
        elif server == self._target:
            self._target = None
            self._waiting_since.clear()

    def _finished(self, op: Op) -> None:
        self.under_way[op.trial] -= 1
        self._recorder.op(op)
        match op.outcome:
            case Outcome.OK:
                self.acknowledged += 1
                self.newest_invoke_acknowledged_ns = max(self.newest_invoke_acknowledged_ns, op.invoke_ns)
            case Outcome.FAIL:
                self.refused += 1
            case Outcome.INFO:
                self.unknown += 1
        self._changes.tell()

    async def _end_pace(self) -> None:
        if self._pace is not None:
            self._pace.cancel()
            await asyncio.gather(self._pace, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        # A client that breaks is a fault of the lab, not of the target: it must not look like an outage.
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._broken = task.exception()
            self._changes.tell()
