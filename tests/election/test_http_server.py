"""The election server as its users see it: real processes, a real PostgreSQL, HTTP and signals."""

import asyncio
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_rig import ElectionServer, Rig, call, eventually, new_name, running_rig

from plasmacloud.base.process import free_ports

ORDER = json.dumps({"operator": "ann", "reason": "drill"}).encode()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_rig(tmp_path_factory.mktemp("served")) as rig:
        yield rig


@pytest.fixture
def rig(shared: Rig) -> Iterator[Rig]:
    """The database of all; the servers that a test starts end with it."""
    before = len(shared.servers)
    yield shared
    shared.stop_servers(beyond=before)


@pytest.fixture(scope="module")
def served(shared: Rig) -> ElectionServer:
    """A server that nothing happens to."""
    server = shared.server("n1", election=new_name())
    server.wait_ready()
    return server


def test_one_leads_and_both_know_it(rig: Rig) -> None:
    leader, follower = rig.pair()
    for node in (leader, follower):
        status = node.status()
        assert status["leader_id"] == leader.node
        assert status["epoch"] == "1.1"
        assert status["epoch_number"] == 1
        assert status["quorum_health"] == "healthy"
        assert status["write_ready"] is True
        assert rig.postgres.passfile.read_text().split(":")[-1].strip() not in json.dumps(status)
    assert leader.log.count("acquired leadership") == 1
    assert "acquired leadership" not in follower.log
    assert call("GET", leader.url + "/v1/health/leader").status == 200
    refused = call("GET", follower.url + "/v1/health/leader")
    assert refused.status == 503
    assert refused.json()["reasons"] == [f"this node is a follower: {leader.node} leads"]
    assert call("GET", leader.url + "/v1/health/write-ready").status == 200
    assert call("GET", follower.url + "/v1/health/write-ready").status == 503
    assert call("GET", follower.url + "/v1/health/read-ready").status == 200
    nodes = {row["node_id"]: row for row in follower.get("/v1/ha/nodes")}
    assert nodes[leader.node]["url"] == leader.url
    assert nodes[leader.node]["alive"] is True


def test_what_curl_sees(served: ElectionServer) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    argv = [curl, "-sS", "-i", f"{served.url}/v1/nowhere"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout
    head, _, body = said.partition("\n\n")
    assert "404" in head.splitlines()[0]
    assert "content-type: application/problem+json" in head.lower()
    problem = json.loads(body)
    assert problem["type"] == "urn:plasma:problem:not-found"
    assert problem["outcome"] == "not-executed"
    assert f"x-request-id: {problem['request_id']}" in head.lower()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("GET", "/v1/probe/none", None, 404, "not-found"),
        ("DELETE", "/v1/ha/status", None, 405, "method-not-allowed"),
        ("POST", "/v1/ha/failover", b"{", 400, "invalid-request"),
        ("POST", "/v1/ha/failover", b'{"operator": "ann", "reason": "x", "farce": true}', 400, "invalid-request"),
        ("POST", "/v1/ha/failover", b'{"reason": "x"}', 400, "invalid-request"),
        ("POST", "/v1/ha/failover", b'{"operator": "ann"}', 400, "invalid-request"),
        ("POST", "/v1/ha/split-brain/recover", b'{"strategy": "hope", "operator": "a"}', 400, "invalid-request"),
        ("PUT", "/v1/probe/a", b'{"value": 7}', 400, "invalid-request"),
    ],
)
def test_problems(served: ElectionServer, method: str, path: str, body: bytes | None, status: int, kind: str) -> None:
    answer = call(method, served.url + path, body, headers={"x-request-id": "mine-1"})
    problem = answer.json()
    assert (answer.status, problem["type"]) == (status, f"urn:plasma:problem:{kind}")
    assert problem["request_id"] == "mine-1"
    assert answer.headers["x-request-id"] == "mine-1"


def test_a_failover_is_ordered_done_audited_and_done_once(rig: Rig) -> None:
    leader, follower = rig.pair()
    refused = follower.post("/v1/ha/failover", ORDER)
    assert refused.status == 409
    assert refused.json()["type"] == "urn:plasma:problem:not-leader"
    assert refused.json()["leader"] == leader.node
    assert refused.json()["leader_url"] == leader.url
    done = leader.post("/v1/ha/failover", ORDER, idempotency_key="k1").json()
    assert (done["old_leader"], done["new_leader"]) == (leader.node, follower.node)
    assert (done["old_epoch"], done["new_epoch"]) == ("1.1", "1.2")
    assert done["took_ms"] > 0
    assert leader.post("/v1/ha/failover", ORDER, idempotency_key="k1").json() == done
    other = json.dumps({"operator": "ann", "reason": "another"}).encode()
    assert leader.post("/v1/ha/failover", other, idempotency_key="k1").status == 422
    eventually("the new leader knows", lambda: follower.leads)
    election = leader.status()["election"]
    rows = rig.sql("SELECT node_id, operator, outcome FROM ha_audit WHERE election = $1 ORDER BY id", election)
    assert rows == [
        (follower.node, "ann", "requested"),
        (follower.node, "ann", "refused"),
        (leader.node, "ann", "requested"),
        (leader.node, "ann", "done"),
    ]
    epochs = rig.sql("SELECT epoch, holder_id FROM leader_epochs WHERE election = $1 ORDER BY epoch", election)
    assert epochs == [(1, leader.node), (2, follower.node)]


def test_a_failover_to_nobody_is_refused_unless_forced(rig: Rig) -> None:
    server = rig.server("n1", election=new_name())
    server.wait_ready()
    eventually("it leads", lambda: server.leads)
    refused = server.post("/v1/ha/failover", ORDER)
    assert refused.status == 409
    assert refused.json()["type"] == "urn:plasma:problem:no-contender"
    forced = server.post("/v1/ha/failover", b'{"operator": "ann", "reason": "drill", "force": true}')
    assert forced.status == 504
    assert forced.json()["type"] == "urn:plasma:problem:failover-unfinished"
    assert forced.json()["outcome"] == "unknown"
    eventually("it leads again", lambda: server.leads)


def test_the_probe_is_fenced_by_the_epoch(rig: Rig) -> None:
    leader, follower = rig.pair()
    key = f"key-{leader.status()['election']}"
    for version in (1, 2):
        written = call("PUT", f"{leader.url}/v1/probe/{key}", b'{"value": "x"}').json()
        assert written == {"key": key, "value": "x", "epoch": "1.1", "version": version}
    assert call("GET", f"{follower.url}/v1/probe/{key}").json() == written
    refused = call("PUT", f"{follower.url}/v1/probe/{key}", b'{"value": "y"}')
    assert refused.status == 409
    assert refused.json()["type"] == "urn:plasma:problem:not-leader"
    assert refused.json()["outcome"] == "not-executed"


def test_a_frozen_leader_writes_nothing_when_it_wakes(rig: Rig) -> None:
    leader, follower = rig.pair()
    leader.process.signal(signal.SIGSTOP)
    try:
        eventually("the other leads", lambda: follower.leads)
    finally:
        leader.process.signal(signal.SIGCONT)
    refused = call("PUT", f"{leader.url}/v1/probe/stale", b'{"value": "y"}')
    assert refused.status == 409
    assert refused.json()["type"] in ("urn:plasma:problem:not-leader", "urn:plasma:problem:stale-epoch")
    assert refused.json()["outcome"] == "not-executed"
    assert call("GET", f"{follower.url}/v1/probe/stale").status == 404


def test_sigterm_resigns_first_and_exits_with_0(rig: Rig) -> None:
    leader, follower = rig.pair()
    leader.process.signal(signal.SIGTERM)
    assert leader.process.wait(20.0) == 0
    eventually("the other leads", lambda: follower.leads)
    events = [line.partition("election: ")[2].partition(" ")[0] for line in leader.log.splitlines()]
    assert events.index("stopping") < events.index("resigned") < events.index("stopped")
    gone = {row["node_id"]: row["alive"] for row in follower.get("/v1/ha/nodes")}
    eventually(
        "it is known to have left",
        lambda: not {r["node_id"]: r["alive"] for r in follower.get("/v1/ha/nodes")}[leader.node],
    )
    assert set(gone) == {"n1", "n2"}


def test_a_second_signal_exits_at_once(rig: Rig) -> None:
    server = rig.server("n1", election=new_name())
    server.wait_ready()
    rig.postgres.freeze()  # so that resigning takes as long as it may
    try:
        server.process.signal(signal.SIGTERM)
        eventually("it is stopping", lambda: "stopping" in server.log)
        server.process.signal(signal.SIGTERM)
        assert server.process.wait(20.0) == 130
    finally:
        rig.postgres.thaw()


def test_health_metrics_and_the_openapi_document(rig: Rig) -> None:
    leader, follower = rig.pair()
    assert call("GET", leader.url + "/livez").body == b"ok\n"
    ready = call("GET", follower.url + "/readyz?verbose")
    assert ready.status == 200
    assert ready.body.decode().splitlines() == ["[+]election: follower", "[+]quorum: healthy", "ok"]
    text = call("GET", leader.url + "/metrics").body.decode()
    for line in (
        'plasma_election_role{role="leader"} 1.0',
        "plasma_election_is_leader 1.0",
        "plasma_election_epoch 1.0",
        'plasma_election_quorum_health{health="healthy"} 1.0',
        'plasma_election_leadership_changes_total{change="won"} 1.0',
    ):
        assert line in text.splitlines()
    answered = re.compile(r"^plasma_election_keepalive_seconds_count [1-9]", re.MULTILINE)
    eventually("a keepalive was timed", lambda: answered.search(call("GET", leader.url + "/metrics").body.decode()))
    document = call("GET", leader.url + "/schema/openapi.json").json()
    assert {"/v1/ha/status", "/v1/ha/quorum", "/v1/ha/failover", "/v1/probe/{key}"} <= set(document["paths"])
    write = document["paths"]["/v1/probe/{key}"]["put"]["responses"]
    assert {"200", "400", "401", "403", "409", "503"} == set(write)
    assert list(write["409"]["content"]) == ["application/problem+json"]
    assert "stale-epoch" not in write["400"]["description"]
    assert "stale-epoch" in write["409"]["description"]
    assert "503" in document["paths"]["/v1/health/leader"]["get"]["responses"]
    bare = call("PUT", leader.url + "/v1/probe/a").json()
    assert bare["detail"] == "a JSON object is expected in the body, and there is none"
    assert "service" not in json.dumps(document["paths"]["/v1/ha/status"]["get"].get("parameters", []))


def test_what_ends_a_server_before_it_serves(rig: Rig, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    first = rig.server("n1", election=new_name())
    first.wait_ready()
    taken = rig.server("n2", "--listen", first.url.removeprefix("http://"), election=new_name())
    assert taken.process.wait(30.0) == 6
    assert "cannot listen on" in taken.log
    wrong = rig.server(
        "n3", election=new_name(), backend=f"postgres://plasma:wrong@127.0.0.1:{rig.postgres.port}/postgres"
    )
    assert wrong.process.wait(30.0) == 6
    assert "password" in wrong.log
    assert "Traceback" not in wrong.log
    assert "wrong@" not in wrong.log
    open_to_all = rig.server("n4", "--listen", f"0.0.0.0:{port}", election=new_name())
    assert open_to_all.process.wait(30.0) == 6
    assert "can be reached from other machines" in open_to_all.log
    nonsense = rig.server("n5", election=new_name(), backend="mysql://127.0.0.1/x")
    assert nonsense.process.wait(30.0) == 6
    timers = rig.server("n6", "--keepalive", "2s", election=new_name())
    assert timers.process.wait(30.0) == 6
    assert "must be shorter than" in timers.log


def test_a_server_starts_before_its_database(rig: Rig) -> None:
    (port,) = free_ports(1)
    server = rig.server("n1", election=new_name(), backend=f"postgres://plasma@127.0.0.1:{port}/postgres")
    status = eventually("it answers", server.status)
    assert status["role"] in ("follower", "stopped")
    assert status["quorum_health"] == "lost"
    assert "connection refused" in eventually(
        "it knows why",
        lambda: " ".join((server.get("/v1/ha/quorum") or {}).get("reasons", [])).replace("not looked yet", ""),
    )
    ready = call("GET", server.url + "/readyz")
    assert ready.status == 503
    assert "[-]quorum" in ready.body.decode()
    refused = server.post("/v1/ha/failover", ORDER)
    assert refused.status == 409


def test_hooks_are_called_when_leadership_is_won_and_lost(rig: Rig, tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = tmp_path / "hook"
    script.write_text(
        f'#!/bin/sh\necho "$PLASMA_ELECTION_EVENT $PLASMA_ELECTION_NODE $PLASMA_ELECTION_EPOCH" >> {told}\n'
    )
    script.chmod(0o755)
    server = rig.server("n1", "--on-elected", str(script), "--on-deposed", str(script), election=new_name())
    eventually("it was told", lambda: told.exists() and told.read_text() == "elected n1 1.1\n")
    server.process.signal(signal.SIGTERM)
    assert server.process.wait(20.0) == 0
    assert told.read_text().splitlines() == ["elected n1 1.1", "deposed n1 1.1"]


def test_a_commit_that_nobody_confirms_is_an_unknown_outcome(rig: Rig) -> None:
    """Commits wait for a standby that is not there; the write is in the table all the same."""
    server = rig.server("n1", election=new_name())
    eventually("it leads", lambda: server.leads)
    server.wait_ready()
    asyncio.run(rig.postgres.execute("ALTER SYSTEM SET synchronous_standby_names = 'ghost'"))
    asyncio.run(rig.postgres.execute("SELECT pg_reload_conf()"))
    try:
        eventually("commits hang", lambda: server.status()["quorum_health"] != "healthy")
        answer = call("PUT", f"{server.url}/v1/probe/unknown", b'{"value": "x"}')
        assert answer.status == 503
        assert answer.json()["type"] == "urn:plasma:problem:outcome-unknown"
        assert answer.json()["outcome"] == "unknown"
        eventually("the quorum is lost", lambda: server.status()["quorum_health"] == "lost")
        text = call("GET", server.url + "/metrics").body.decode()
        assert 'plasma_election_probe_writes_total{outcome="outcome-unknown"} 1.0' in text.splitlines()
        assert "_created" not in text
    finally:
        asyncio.run(rig.postgres.execute("ALTER SYSTEM RESET synchronous_standby_names"))
        asyncio.run(rig.postgres.execute("SELECT pg_reload_conf()"))
    server.wait_ready()


def test_a_write_to_a_database_that_is_gone_was_certainly_not_executed(tmp_path: Path) -> None:
    with running_rig(tmp_path) as rig:
        leader = rig.server("n1", "--demote-after", "20s", "--session-timeout", "30s", election=new_name())
        eventually("it leads", lambda: leader.leads)
        assert call("PUT", f"{leader.url}/v1/probe/a", b'{"value": "x"}').status == 200
        asyncio.run(rig.postgres.kill())
        eventually("the quorum is lost", lambda: leader.status()["quorum_health"] == "lost")
        answer = call("PUT", f"{leader.url}/v1/probe/a", b'{"value": "y"}')
        assert answer.json()["outcome"] == "not-executed"
        refused = leader.post("/v1/ha/failover", ORDER)
        assert refused.json()["outcome"] == "not-executed"
        asyncio.run(rig.postgres.start())
        leader.wait_ready()
        eventually("it leads again", lambda: leader.leads)
        assert call("GET", f"{leader.url}/v1/probe/a").json()["value"] == "x"
        written = "SELECT outcome FROM ha_audit ORDER BY id"  # kept while the database was gone
        eventually("the audit is complete", lambda: [r[0] for r in rig.sql(written)] == ["requested", "refused"])
