"""The least that servers can do with: what `plasma election schema` grants, and nothing of PostgreSQL's own roles."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from click.testing import CliRunner
from contest import new_server
from server_rig import ElectionServer, Rig, call, eventually, new_name, running_rig

from plasmacloud.cli.main import cli
from plasmacloud.election.schema import administrators_sql
from plasmacloud.postgres import copy_from, require_synchronous

ROLE = "the servers"
QUOTED = '"the servers"'
PASSWORD = "theirs"
ORDER = json.dumps({"operator": "ann", "reason": "drill"}).encode()


def as_administrator(rig: Rig, text: str, database: str) -> None:
    async def work() -> None:
        session = await rig.postgres.connect(database=database, timeout=20)
        try:
            await session.execute(text)
        finally:
            session.terminate()

    asyncio.run(work())


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_rig(tmp_path_factory.mktemp("least")) as rig:
        as_administrator(rig, f"CREATE ROLE {QUOTED} LOGIN PASSWORD '{PASSWORD}'", "postgres")
        yield rig


def prepared(rig: Rig, name: str) -> str:
    """A database with the tables, in which the role may not make any."""
    as_administrator(rig, f"CREATE DATABASE {name}", "postgres")
    printed = CliRunner().invoke(cli, ["election", "schema", "--role", ROLE], catch_exceptions=False)
    assert printed.exit_code == 0
    assert printed.output == administrators_sql(ROLE)
    for _ in range(2):  # an administrator may run it again
        as_administrator(rig, printed.output, name)
    return f"postgres://{quote(ROLE)}:{PASSWORD}@127.0.0.1:{rig.postgres.port}/{name}"


def test_servers_do_all_their_work(rig: Rig) -> None:
    backend, election = prepared(rig, "least"), new_name()
    nodes = [rig.server(name, election=election, backend=backend) for name in ("n1", "n2")]
    try:
        for node in nodes:
            node.wait_ready()
        eventually("one leads", lambda: any(node.leads for node in nodes))
        leader, follower = sorted(nodes, key=lambda node: not node.leads)
        eventually("they know of each other", lambda: len(leader.get("/v1/ha/nodes")) == 2)
        assert call("PUT", f"{leader.url}/v1/probe/a", b'{"value": "x"}').status == 200
        assert call("GET", f"{follower.url}/v1/probe/a").json()["value"] == "x"
        looked = leader.get("/v1/ha/split-brain")
        assert (looked["detected"], looked["unseen"]) == (False, [])
        done: dict[str, Any] = leader.post("/v1/ha/failover", ORDER).json()
        assert done["new_leader"] == follower.node, done
        held = follower.post("/v1/ha/split-brain/recover", order("manual-reconcile")).json()
        assert held["epoch"] == "1.3", held
        # Of each server one that contends and one that looks; who has just resigned may not be back with both.
        ended = [action for action in held["actions"] if "ended session" in action]
        assert all(any(f" {node.node} on " in action for action in ended) for node in nodes), held
        assert len(ended) <= 4, held
        freed = follower.post("/v1/ha/split-brain/recover", order("release")).json()
        assert freed["leader_id"] in ("n1", "n2"), freed
        assert "not in the database" not in leader.log + follower.log
    finally:
        rig.stop_servers()


def order(strategy: str) -> bytes:
    return json.dumps({"strategy": strategy, "operator": "ann", "reason": "drill", "force": True}).encode()


def test_counting_replicas_needs_one_more_grant_and_says_so(rig: Rig) -> None:
    """There is a synchronous replica, which this role may not look at: so the promise about it cannot be checked."""
    backend = prepared(rig, "counted")
    standby = new_server(rig.directory, "standby")

    async def attach() -> None:
        await copy_from(rig.postgres, standby)
        await standby.start()
        await require_synchronous(rig.postgres, standby)

    try:
        asyncio.run(attach())
        server = rig.server("n1", "--min-sync-replicas", "1", election=new_name(), backend=backend)
        eventually("the grant is named", lambda: "GRANT pg_monitor" in " ".join(_reasons(server)))
        assert server.status()["quorum_health"] == "lost"
        as_administrator(rig, f"GRANT pg_monitor TO {QUOTED}", "counted")
        server.wait_ready()
        assert server.get("/v1/ha/quorum")["sync_replicas"] == 1
    finally:
        rig.stop_servers()
        asyncio.run(require_synchronous(rig.postgres))
        asyncio.run(standby.remove())
        as_administrator(rig, f"REVOKE pg_monitor FROM {QUOTED}", "counted")


def _reasons(server: ElectionServer) -> list[str]:
    return list((server.get("/v1/ha/quorum") or {}).get("reasons", []))


def test_the_audit_is_written_and_cannot_be_changed_by_the_role(rig: Rig) -> None:
    backend = prepared(rig, "audited")

    async def work() -> None:
        session = await asyncpg.connect(backend)
        try:
            await session.execute(
                "INSERT INTO ha_audit (election, node_id, operator, action, outcome) "
                "VALUES ('e', 'n', 'ann', 'failover', 'done')"
            )
            for statement in ("UPDATE ha_audit SET operator = 'eve'", "DELETE FROM ha_audit", "TRUNCATE ha_audit"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await session.execute(statement)
            for statement in ("ALTER TABLE ha_audit DISABLE TRIGGER ALL", "CREATE TABLE mine (n int)"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await session.execute(statement)
        finally:
            session.terminate()

    asyncio.run(work())


def test_without_the_grants_the_missing_one_is_named(rig: Rig) -> None:
    backend = prepared(rig, "revoked")
    as_administrator(rig, f"REVOKE UPDATE ON leadership_state FROM {QUOTED}", "revoked")
    server = rig.server("n1", election=new_name(), backend=backend)
    try:
        assert server.process.wait(30) == 6
        assert "no UPDATE on table leadership_state" in server.log
        assert "plasma election schema --role" in server.log
    finally:
        rig.stop_servers()
