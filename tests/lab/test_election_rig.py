"""The rig's own parts: a connection that knows what a failure proves, writers that find the leader, plans of suites."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from val13_handmade import plan

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.process import free_ports
from plasmacloud.lab.election.http_link import HttpLink
from plasmacloud.lab.election.ports import holder_of
from plasmacloud.lab.election.writers import FencedWrites, trial_prefix
from plasmacloud.lab.plan import DEMO, FULL, RESILIENCE, Preset
from plasmacloud.lab.planning import Request, make_plans
from plasmacloud.lab.recorder import Recorder
from plasmacloud.lab.scenarios import SCENARIOS
from plasmacloud.lab.val13.suite import Val13
from plasmacloud.lab.wire import AttemptFailed, Known
from plasmacloud.verify.history import Op, Outcome, broken_assumptions

HOST = "127.0.0.1"
Answer = Callable[[str, str], Awaitable[tuple[int, bytes] | None]]


class Stub:
    """An HTTP server that answers as it is told; None: it hangs up."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.connections = 0

    async def __aenter__(self) -> "Stub":
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().lower().split("\r\n")
                length = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length")), 0)
                await reader.readexactly(length)
                method, path, _ = head.decode().split(" ", 2)
                answer = await self._answer(method, path)
                if answer is None:
                    return
                status, body = answer
                writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def failed(call: Awaitable[object]) -> AttemptFailed:
    with pytest.raises(AttemptFailed) as caught:
        await call
    return caught.value


def test_requests_share_one_connection() -> None:
    async def echo(method: str, path: str) -> tuple[int, bytes]:
        return 200, f'"{method} {path}"'.encode()

    async def life() -> None:
        async with Stub(echo) as stub:
            link = HttpLink(HOST, stub.port)
            for _ in range(3):
                assert (await link.request("PUT", "/x", {"value": "v"}, timeout=5)).json() == "PUT /x"
            assert stub.connections == 1
            link.drop()

    asyncio.run(life())


def test_nobody_there_means_not_executed() -> None:
    async def life() -> None:
        error = await failed(HttpLink(HOST, free_ports(1)[0]).request("PUT", "/x", {}, timeout=5))
        assert (error.known, error.answered) == (Known.NOT_EXECUTED, False)

    asyncio.run(life())


def test_a_connection_that_dies_after_the_request_proves_nothing() -> None:
    async def hang_up(method: str, path: str) -> None:
        return None

    async def life() -> None:
        async with Stub(hang_up) as stub:
            link = HttpLink(HOST, stub.port)
            error = await failed(link.request("PUT", "/x", {}, timeout=5))
            assert error.known is Known.UNKNOWN

    asyncio.run(life())


def test_a_connection_closed_while_idle_is_opened_again() -> None:
    served = 0

    async def once(method: str, path: str) -> tuple[int, bytes]:
        nonlocal served
        served += 1
        return 200, b"1"

    async def life() -> None:
        async with Stub(once) as first:
            link = HttpLink(HOST, first.port)
            await link.request("GET", "/", timeout=5)
            assert link._writer is not None
            link._writer.close()
            await link.request("GET", "/", timeout=5)
            link.drop()
            assert (served, first.connections) == (2, 2)

    asyncio.run(life())


def test_no_answer_in_time_proves_nothing() -> None:
    async def late(method: str, path: str) -> tuple[int, bytes]:
        await asyncio.sleep(30)
        return 200, b""

    async def life() -> None:
        async with Stub(late) as stub:
            link = HttpLink(HOST, stub.port)
            error = await failed(link.request("PUT", "/x", {}, timeout=0.1))
            assert error.known is Known.UNKNOWN
            assert "no answer within 0.1 s" in str(error)

    asyncio.run(life())


def history(recorder: Recorder) -> list[Op]:
    recorder.flush()
    return [
        msgspec.json.decode(line, type=Op) for line in (recorder.directory / "history.jsonl").read_text().splitlines()
    ]


def test_writers_find_the_leader_follow_it_and_record_what_is_known(tmp_path: Path) -> None:
    """Two servers; first A leads, then A hangs and B leads. What hangs stays unknown, what is refused is no write."""
    leader = "a"
    release = asyncio.Event()

    def server(name: str) -> Answer:
        async def answer(method: str, path: str) -> tuple[int, bytes] | None:
            key = path.rpartition("/")[2]
            if leader == "hung" and name == "a":
                await release.wait()
                return None
            if leader == name:
                epoch = "1.1" if name == "a" else "1.2"
                return 200, msgspec.json.encode({"key": key, "value": "v", "epoch": epoch, "version": 1})
            return 409, b'{"detail":"not the leader","outcome":"not-executed"}'

        return answer

    async def life() -> None:
        nonlocal leader
        recorder = Recorder(tmp_path / "evidence", msgspec.structs.replace(plan(), clients=30, op_timeout_ms=200))
        async with Stub(server("a")) as a, Stub(server("b")) as b:
            servers = {"a": (HOST, a.port), "b": (HOST, b.port)}
            given = msgspec.structs.replace(plan(), clients=30, op_timeout_ms=200)
            writes = FencedWrites(servers, recorder, given)
            writes.start()
            assert await writes.wait(lambda: writes.acknowledged >= 20, timeout=20)
            await writes.begin_trial(1)
            leader = "hung"
            assert await writes.wait(lambda: writes.unknown >= 2 and writes.refused >= 2, timeout=20)
            leader = "b"
            acknowledged = writes.acknowledged
            assert await writes.wait(lambda: writes.acknowledged >= acknowledged + 20, timeout=20)
            release.set()
            await writes.stop()
        ops = history(recorder)
        assert broken_assumptions(ops) == []
        assert {op.node for op in ops if op.outcome is Outcome.OK and op.revision == 1} == {"a"}
        assert {op.node for op in ops if op.outcome is Outcome.OK and op.revision == 2} == {"b"}
        assert {op.node for op in ops if op.outcome is Outcome.INFO} == {"a"}
        assert any(op.key.startswith(trial_prefix(1)) for op in ops)

    asyncio.run(life())


def test_the_holder_of_a_port_is_found() -> None:
    async def life() -> None:
        server = await asyncio.start_server(lambda reader, writer: None, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        assert "process" in (holder_of(port) or "")
        server.close()
        await server.wait_closed()
        assert holder_of(port) is None

    asyncio.run(life())


# -- planning ----------------------------------------------------------------------------------------------------


@pytest.fixture
def _possible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suites can be planned, whatever this machine has."""
    monkeypatch.setattr(Val13, "missing", lambda self: None)
    monkeypatch.setattr(
        Val13,
        "plan",
        lambda self, request: msgspec.structs.replace(
            plan(), trials=request.trials or request.preset.trials.get("val13", 1)
        ),
    )


def planned(
    *scenarios: str, targets: tuple[str, ...] = (), preset: Preset = FULL, trials: int | None = None
) -> list[str]:
    request = Request(
        scenarios=scenarios,
        targets=targets,
        preset=preset,
        trials=trials,
        seed=1,
        nodes=3,
        clients=200,
        rate_per_s=800,
        op_timeout_ms=250,
        thresholds={},
    )
    return [f"{each.target}/{each.scenario} x {each.trials}" for each in make_plans(request)[0]]


@pytest.mark.usefixtures("_possible")
def test_a_suite_runs_alone_when_it_is_named_and_last_with_a_preset() -> None:
    assert planned("val13") == ["election/val13 x 1"]
    assert planned("val13", trials=20) == ["election/val13 x 20"]
    assert planned(targets=("election",)) == ["election/val13 x 1", "election/val13x x 3"]
    assert planned("leader-kill", "val13", targets=("canary",)) == ["canary/leader-kill x 20", "election/val13 x 1"]
    assert planned("leader-kill", targets=("canary",)) == ["canary/leader-kill x 20"]
    assert [name for name in planned(preset=DEMO) if "val13" in name] == ["election/val13 x 3"]
    assert len(planned()) == len(SCENARIOS) + 1
    assert all("val13" not in name for name in planned(preset=RESILIENCE))


@pytest.mark.usefixtures("_possible")
@pytest.mark.parametrize(("scenario", "target"), [("val13", "canary"), ("leader-kill", "election")])
def test_a_suite_has_its_own_target_and_no_other(scenario: str, target: str) -> None:
    with pytest.raises(ConfigError, match=f"{scenario} cannot run on {target}") as caught:
        planned(scenario, targets=(target,))
    assert caught.value.hint == "val13 runs on election; val13x runs on election"
