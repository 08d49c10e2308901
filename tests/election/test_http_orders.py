"""Orders of an operator: when they are refused, that they are done once, and a replica that really lags."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from contest import new_server
from server_rig import eventually, new_name, running_rig

from plasmacloud.base.address import is_loopback
from plasmacloud.election.contenders import Contender
from plasmacloud.election.http_problems import LAG_CRITICAL, NO_CONTENDER, QUORUM_LOST, Outcome, Problem
from plasmacloud.election.idempotency import Replies
from plasmacloud.election.quorum import Health, Verdict
from plasmacloud.election.server_failover import _until_somebody_waits, refuse
from plasmacloud.election.server_service import public_url
from plasmacloud.postgres.standby import copy_from

HEALTHY = Verdict(Health.HEALTHY, write_ready=True, read_ready=True)
LAGGING = Verdict(Health.DEGRADED, write_ready=True, read_ready=True, reasons=("behind",), lag_critical=True)
WEAK = Verdict(Health.DEGRADED, write_ready=True, read_ready=True, reasons=("catchup",))
LOST = Verdict(Health.LOST, write_ready=False, read_ready=False, reasons=("gone",))


@pytest.mark.parametrize(
    ("verdict", "others", "force", "refused"),
    [
        (HEALTHY, 1, False, None),
        (WEAK, 1, False, None),
        (LAGGING, 1, False, LAG_CRITICAL),
        (LAGGING, 1, True, None),
        (HEALTHY, 0, False, NO_CONTENDER),
        (HEALTHY, 0, True, None),
        (LOST, 1, False, QUORUM_LOST),
        (LOST, 1, True, QUORUM_LOST),
    ],
)
def test_when_a_failover_is_refused(verdict: Verdict, others: int, force: bool, refused: object) -> None:
    found = refuse(verdict, others=others, force=force)
    assert (found.kind if found else None) == refused
    assert found is None or found.outcome is Outcome.NOT_EXECUTED


def test_a_repeated_call_waits_for_the_first_and_gets_its_answer() -> None:
    async def main() -> None:
        replies, calls = Replies(), 0
        gate = asyncio.Event()

        async def work() -> int:
            nonlocal calls
            calls += 1
            await gate.wait()
            return calls

        first = asyncio.create_task(replies.once("k", {"a": 1}, work))
        second = asyncio.create_task(replies.once("k", {"a": 1}, work))
        await asyncio.sleep(0)
        first.cancel()  # its caller goes away; the work goes on
        gate.set()
        assert await second == 1
        assert await replies.once("k", {"a": 1}, work) == 1
        assert await replies.once("", {"a": 1}, work) == 2
        with pytest.raises(Problem, match="belongs to another request"):
            await replies.once("k", {"a": 2}, work)

    asyncio.run(main())


@pytest.mark.parametrize(("outcome", "runs"), [(Outcome.NOT_EXECUTED, 2), (Outcome.UNKNOWN, 1)])
def test_only_what_may_have_changed_something_is_remembered(outcome: Outcome, runs: int) -> None:
    async def main() -> None:
        replies, calls = Replies(), 0

        async def work() -> int:
            nonlocal calls
            calls += 1
            raise Problem(NO_CONTENDER, "nobody", outcome=outcome)

        for _ in range(2):
            with pytest.raises(Problem):
                await replies.once("k", {}, work)
            await asyncio.sleep(0)
        assert calls == runs

    asyncio.run(main())


def test_a_backend_without_its_secrets() -> None:
    assert public_url("postgres://ha:secret@h1:1,h2/db?password=secret&x=1") == "postgres://ha@h1:1,h2/db"
    assert public_url("postgres://h1/db") == "postgres://h1/db"


def test_what_only_this_machine_reaches() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org")] == [False] * 4


@pytest.mark.parametrize(
    ("role", "age_s", "alive", "waits"),
    [
        ("follower", 0.1, True, True),
        ("candidate", 0.1, True, True),
        ("leader", 0.1, True, False),
        ("stands-back", 0.1, True, False),
        ("stopped", 0.1, False, False),
        ("follower", 5.0, False, False),
    ],
)
def test_who_would_take_over(role: str, age_s: float, alive: bool, waits: bool) -> None:
    contender = Contender("n1", "http://n1", role, "1.1", age_s)
    assert (contender.alive(2.0), contender.waits(2.0)) == (alive, waits)


class Standing:
    """A server whose only follower contends again at the third look."""

    def __init__(self, *, alive: int, contends_at: int) -> None:
        self.config = SimpleNamespace(monitor_interval_s=1.0)
        self.watch = self
        self.looks = 0
        self._alive = alive
        self._contends_at = contends_at

    async def next_look(self) -> None:
        self.looks += 1
        assert self.looks <= 3

    def others_alive(self) -> int:
        return self._alive

    def others_waiting(self) -> int:
        return int(self.looks >= self._contends_at)


@pytest.mark.parametrize(("alive", "contends_at", "looks"), [(1, 3, 3), (1, 0, 0), (0, 3, 0)])
def test_leadership_is_kept_until_somebody_would_take_it(alive: int, contends_at: int, looks: int) -> None:
    service: Any = Standing(alive=alive, contends_at=contends_at)
    asyncio.run(_until_somebody_waits(service))
    assert service.looks == looks


def test_there_and_back_at_once_makes_no_third_leader_and_no_gap(tmp_path: Path) -> None:
    """The second order comes while the first leader still stands back, or just behind that."""
    order = b'{"operator": "ann", "reason": "drill"}'
    with running_rig(tmp_path) as rig:
        first, second = rig.pair()
        assert first.post("/v1/ha/failover", order).json()["new_leader"] == second.node
        assert second.post("/v1/ha/failover", order).json()["new_leader"] == first.node
        assert "failover waits" not in first.log
        rows = rig.sql("SELECT epoch, holder_id FROM leader_epochs ORDER BY epoch")
        assert rows == [(1, first.node), (2, second.node), (3, first.node)]


@pytest.mark.slow
def test_a_failover_with_a_replica_far_behind(tmp_path: Path) -> None:
    order = {"operator": "ann", "reason": "drill"}
    with running_rig(tmp_path) as rig:
        standby = new_server(tmp_path, "standby")

        async def add_standby() -> None:
            await copy_from(rig.postgres, standby)
            await standby.start()
            await standby.execute("SELECT pg_wal_replay_pause()")

        try:
            leader, follower = rig.pair("--max-lag", "64KiB")
            asyncio.run(add_standby())
            filler = "CREATE TABLE filler AS SELECT repeat('x', 1000) AS text FROM generate_series(1, 1000)"
            asyncio.run(rig.postgres.execute(filler))
            eventually(
                "the replica is far behind",
                lambda: any(each["lag_bytes"] > 65_536 for each in leader.get("/v1/ha/quorum")["replicas"]),
            )
            eventually("it is degraded", lambda: leader.status()["quorum_health"] == "degraded")
            said = leader.get("/v1/ha/quorum")
            assert said["write_ready"] is True
            refused = leader.post("/v1/ha/failover", json.dumps(order).encode())
            assert refused.status == 409
            assert refused.json()["type"] == "urn:plasma:problem:replication-lag-critical"
            forced = leader.post("/v1/ha/failover", json.dumps({**order, "force": True}).encode())
            assert forced.json()["new_leader"] == follower.node
            asyncio.run(standby.execute("SELECT pg_wal_replay_resume()"))
            eventually("it has caught up", lambda: leader.status()["quorum_health"] == "healthy")
            names = rig.server("n3", "--min-sync-replicas", "1", election=new_name())
            eventually("too few", lambda: "required" in " ".join((names.get("/v1/ha/quorum") or {}).get("reasons", [])))
        finally:
            standby.end()
