"""Contended keys on election servers: a few clients that write and read the same few keys at the same time.

They run beside the writers of unique keys (`plasmacloud.lab.election.writers`). A write goes to the server that last
took one, and to the next as soon as it does not; a read goes to any server, since what it shows is read from the
database. The version of a key, which counts its writes, stands for its revision. What they saw is judged for
linearizability.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import quote

import msgspec

from plasmacloud.lab.election.api import NOT_EXECUTED, Problem, ServerApi, Written
from plasmacloud.lab.election.http_link import Answer
from plasmacloud.lab.plan import Plan
from plasmacloud.lab.recorder import Recorder
from plasmacloud.lab.wire import AttemptFailed, Known, Seen
from plasmacloud.verify.history import Outcome
from plasmacloud.verify.registers import Kind, RegisterOp

PREFIX = "register."
"""Not below the prefix of the unique keys, which are read back and counted one by one."""
KEYS = 2
CLIENTS = 6
PERIOD_S = 0.12
"""Each client's turn: 50 attempts a second in all."""
READ_SHARE = 0.5
T = TypeVar("T")
_NOT_FOUND = "urn:plasma:problem:not-found"


class Put(msgspec.Struct, frozen=True):
    """What became of one attempt to write. ``kind``: of the problem, such as ``stale-epoch``."""

    outcome: Outcome
    epoch: str = ""
    version: int = 0
    kind: str = ""
    said: str = ""
    answered: bool = True


class _Document(msgspec.Struct, frozen=True):
    """The type of a problem document (RFC 9457)."""

    type: str = ""


async def put(api: ServerApi, key: str, value: str, *, timeout: float) -> Put:
    """One fenced write, sent once; every failure is an outcome."""
    path = f"/v1/probe/{quote(key, safe='')}"
    try:
        answer = await api.link.request("PUT", path, {"value": value}, timeout=timeout)
    except AttemptFailed as error:
        outcome = Outcome.FAIL if error.known is Known.NOT_EXECUTED else Outcome.INFO
        return Put(outcome, said=str(error), answered=error.answered)
    if 200 <= answer.status < 300:
        try:
            written = msgspec.json.decode(answer.body, type=Written)
        except msgspec.DecodeError as error:
            return Put(Outcome.INFO, said=f"an answer that cannot be read: {error}")
        return Put(Outcome.OK, written.epoch, written.version)
    problem = _decode(answer, Problem, Problem())
    kind = _decode(answer, _Document, _Document()).type.rpartition(":")[2]
    outcome = Outcome.FAIL if problem.outcome == NOT_EXECUTED else Outcome.INFO
    return Put(outcome, kind=kind, said=f"status {answer.status}: {problem.detail or problem.title}")


async def look(api: ServerApi, key: str, *, timeout: float) -> Seen:
    """What is committed under a key. Raises `AttemptFailed`."""
    answer = await api.get(f"/v1/probe/{quote(key, safe='')}", timeout=timeout)
    if answer.status == 404 and _decode(answer, _Document, _Document()).type == _NOT_FOUND:
        return Seen()
    if answer.status != 200:
        problem = _decode(answer, Problem, Problem())
        raise AttemptFailed(f"status {answer.status}: {problem.detail}", Known.NOT_EXECUTED, answered=True)
    try:
        written = msgspec.json.decode(answer.body, type=Written)
    except msgspec.DecodeError as error:
        raise AttemptFailed(f"an answer that cannot be read: {error}", Known.UNKNOWN, answered=True) from error
    return Seen(written.value, written.version)


class ContendedKeys:
    """All clients. ``reachable``: whether it is worth asking a server; attempts at one that is not running say nothing.

    ``trial`` and ``scenario`` are set by the rig: each scenario has keys of its own, so that what is never known of one
    does not make the others harder to judge.
    """

    def __init__(
        self,
        servers: Mapping[str, tuple[str, int]],
        recorder: Recorder,
        plan: Plan,
        reachable: Callable[[str], bool],
    ) -> None:
        self.trial = 0
        self.scenario = "baseline"
        self._servers = dict(servers)
        self._recorder = recorder
        self._reachable = reachable
        self._timeout_s = plan.op_timeout_ms / 1000
        self._target = next(iter(servers))
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._seed = f"{plan.seed}/{plan.scenario}/contended"

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(CLIENTS)]

    async def stop(self) -> None:
        """Let the attempts under way finish, then end. A client that broke is a fault of the lab and raised."""
        self._stopping = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._timeout_s + 5.0)
        for result in await self.abort():
            if isinstance(result, Exception):
                raise result

    async def abort(self) -> list[BaseException | None]:
        """End now; writes under way are recorded with an unknown outcome."""
        for task in self._tasks:
            task.cancel()
        return await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, number: int) -> None:
        rng = random.Random(f"{self._seed}/{number}")
        apis = {name: ServerApi(host, port) for name, (host, port) in self._servers.items()}
        loop = asyncio.get_running_loop()
        due = loop.time() + PERIOD_S * number / CLIENTS
        seq = 0
        try:
            while not self._stopping:
                await asyncio.sleep(max(0.0, due - loop.time()))
                due = max(due + PERIOD_S, loop.time())
                seq += 1
                kind = Kind.READ if rng.random() < READ_SHARE else Kind.WRITE
                server = self._choose(kind, rng)
                if server is not None:
                    key = f"{PREFIX}{self.scenario}.{rng.randrange(KEYS)}"
                    await self._attempt(apis[server], number, seq, server, key, kind)
        finally:
            for api in apis.values():
                api.close()

    def _choose(self, kind: Kind, rng: random.Random) -> str | None:
        worth = [name for name in self._servers if self._reachable(name)]
        if not worth:
            return None
        if kind is Kind.WRITE and self._target in worth:
            return self._target
        return rng.choice(worth)

    async def _attempt(self, api: ServerApi, number: int, seq: int, server: str, key: str, kind: Kind) -> None:
        trial = self.trial
        value = f"{number}.{seq}" if kind is Kind.WRITE else None
        done = Put(Outcome.INFO if value is not None else Outcome.FAIL, said="cancelled", answered=False)
        seen = Seen()
        invoke_ns = time.monotonic_ns()
        try:
            if value is not None:
                done = await put(api, key, value, timeout=self._timeout_s)
                self._learn(server, done.outcome)
            else:
                seen = await look(api, key, timeout=self._timeout_s)
                done = Put(Outcome.OK)
        except AttemptFailed as error:  # of a read, which changes nothing whatever became of it
            done = Put(Outcome.FAIL, said=str(error), answered=error.answered)
        finally:
            self._recorder.register(
                RegisterOp(
                    trial=trial,
                    client=number,
                    seq=seq,
                    node=server,
                    key=key,
                    kind=kind,
                    invoke_ns=invoke_ns,
                    return_ns=time.monotonic_ns(),
                    outcome=done.outcome,
                    value=value,
                    executed=kind is Kind.WRITE and done.outcome is Outcome.OK,
                    revision=done.version,
                    seen=seen.value,
                    seen_revision=seen.revision,
                    error=done.said,
                    answered=done.answered,
                )
            )

    def _learn(self, server: str, outcome: Outcome) -> None:
        if outcome is Outcome.OK:
            self._target = server
        elif server == self._target:
            others = [name for name in self._servers if name != server]
            self._target = others[0] if others else server


def _decode(answer: Answer, kind: type[T], default: T) -> T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.DecodeError:
        return default
