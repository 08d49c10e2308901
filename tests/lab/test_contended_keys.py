"""Clients of contended keys: what an answer means, where the next attempt goes, and a pooler that shares sessions."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from test_election_rig import HOST, Stub, failed
from val13x_handmade import plan

from plasmacloud.base.process import free_ports
from plasmacloud.lab.election.api import ServerApi
from plasmacloud.lab.election.contended import PREFIX, ContendedKeys, look, put
from plasmacloud.lab.recorder import Recorder, load_record
from plasmacloud.lab.wire import Known, Seen
from plasmacloud.verify.history import Outcome
from plasmacloud.verify.linearizability import Answer
from plasmacloud.verify.registers import Kind, RegisterOp, check_registers

Handler = Callable[[str, str], Awaitable[tuple[int, bytes] | None]]


def says(status: int, document: object) -> Handler:
    async def answer(method: str, path: str) -> tuple[int, bytes]:
        return status, json.dumps(document).encode()

    return answer


async def tried(handler: Handler) -> object:
    async with Stub(handler) as stub:
        api = ServerApi(HOST, stub.port)
        try:
            return await put(api, "k", "v", timeout=5)
        finally:
            api.close()


@pytest.mark.parametrize(
    ("status", "document", "outcome", "kind"),
    [
        (200, {"key": "k", "value": "v", "epoch": "1.7", "version": 3}, Outcome.OK, ""),
        (200, {"strange": True}, Outcome.INFO, ""),
        (
            409,
            {"type": "urn:plasma:problem:stale-epoch", "outcome": "not-executed", "detail": "1.8 is newer"},
            Outcome.FAIL,
            "stale-epoch",
        ),
        (
            503,
            {"type": "urn:plasma:problem:outcome-unknown", "outcome": "unknown"},
            Outcome.INFO,
            "outcome-unknown",
        ),
        (500, {}, Outcome.INFO, ""),
    ],
)
def test_what_an_answer_to_a_write_means(status: int, document: object, outcome: Outcome, kind: str) -> None:
    done = asyncio.run(tried(says(status, document)))
    assert (done.outcome, done.kind) == (outcome, kind)  # type: ignore[attr-defined]


def test_a_write_to_nobody_was_certainly_not_executed() -> None:
    (port,) = free_ports(1)
    done = asyncio.run(put(ServerApi(HOST, port), "k", "v", timeout=5))
    assert (done.outcome, done.answered) == (Outcome.FAIL, False)


def test_what_an_answer_to_a_read_means() -> None:
    async def life() -> None:
        for handler, seen in (
            (says(200, {"key": "k", "value": "v", "epoch": "1.7", "version": 3}), Seen("v", 3)),
            (says(404, {"type": "urn:plasma:problem:not-found"}), Seen()),
        ):
            async with Stub(handler) as stub:
                api = ServerApi(HOST, stub.port)
                assert await look(api, "k", timeout=5) == seen
                api.close()
        for status, document in ((404, {"type": "about:blank"}), (503, {"detail": "no database"})):
            async with Stub(says(status, document)) as stub:
                api = ServerApi(HOST, stub.port)
                assert (await failed(look(api, "k", timeout=5))).known is Known.NOT_EXECUTED
                api.close()

    asyncio.run(life())


class Store:
    """Keys with versions; ``leads`` says whether writes are taken."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[str, int]] = {}

    def handler(self, leads: Callable[[], bool]) -> Handler:
        async def answer(method: str, path: str) -> tuple[int, bytes]:
            key = path.rpartition("/")[2]
            if method == "PUT":
                if not leads():
                    problem = {"type": "urn:plasma:problem:not-leader", "outcome": "not-executed"}
                    return 409, json.dumps(problem).encode()
                self.held[key] = (
                    f"{len(self.held)}.{self.held.get(key, ('', 0))[1]}",
                    self.held.get(key, ("", 0))[1] + 1,
                )
            if key not in self.held:
                return 404, b'{"type": "urn:plasma:problem:not-found"}'
            value, version = self.held[key]
            return 200, json.dumps({"key": key, "value": value, "epoch": "1.1", "version": version}).encode()

        return answer


class Counting(Recorder):
    """A recorder that can be waited for."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, plan())
        self.seen: list[RegisterOp] = []

    def register(self, op: RegisterOp) -> None:
        super().register(op)
        self.seen.append(op)

    async def until(self, condition: Callable[[list[RegisterOp]], bool]) -> None:
        """Wait until what was recorded from now on is so."""
        begin = len(self.seen)
        async with asyncio.timeout(20):
            while not condition(self.seen[begin:]):
                await asyncio.sleep(0.01)


def taken(ops: list[RegisterOp], outcome: Outcome) -> bool:
    """Whether there are some writes and reads, the last write with this outcome."""
    writes = [op for op in ops if op.kind is Kind.WRITE]
    return len(writes) > 5 and len(ops) - len(writes) > 5 and writes[-1].outcome is outcome


@pytest.mark.parametrize("reachable", [True, False])
def test_clients_find_who_takes_writes_and_leave_alone_who_is_down(tmp_path: Path, reachable: bool) -> None:
    """The stub stores other values than were sent, which is what the checker must notice."""
    recorder = Counting(tmp_path / "x")
    store = Store()
    first_leads = True

    async def life() -> None:
        nonlocal first_leads
        async with (
            Stub(store.handler(lambda: first_leads)) as one,
            Stub(store.handler(lambda: not first_leads)) as two,
        ):
            servers = {"one": (HOST, one.port), "two": (HOST, two.port)}
            clients = ContendedKeys(servers, recorder, plan(), lambda name: reachable or name == "one")
            clients.scenario = "test"
            clients.start()
            await recorder.until(lambda ops: taken(ops, Outcome.OK))
            first_leads = False
            await recorder.until(lambda ops: taken(ops, Outcome.OK if reachable else Outcome.FAIL))
            await clients.stop()
        recorder.flush()

    asyncio.run(life())
    attempts = load_record(tmp_path / "x").registers
    assert all(op.key.startswith(f"{PREFIX}test.") for op in attempts)
    assert {op.node for op in attempts} == ({"one", "two"} if reachable else {"one"})
    assert check_registers(attempts, max_steps=100_000).answer is Answer.VIOLATION
