"""Plain HTTP on a member's client port, beside real etcd: the same requests to both, and the answers compared."""

import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from chainfire_cluster import running_cluster
from etcd_server import running_etcd
from prometheus_client.parser import text_string_to_metric_families

from plasmacloud.client import SyncClient

Answer = tuple[int, str, object]


class Pair:
    """One member of each system."""

    def __init__(self, chainfire: str, etcd: str) -> None:
        self.chainfire = chainfire
        self.etcd = etcd


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory: Path = tmp_path_factory.mktemp("pages")
    with running_etcd(directory) as etcd, running_cluster(directory, 1) as cluster:
        yield Pair(cluster.endpoints[0], etcd.address)


def ask(address: str, method: str, path: str, body: str | None = None) -> Answer:
    with closing(http.client.HTTPConnection(address, timeout=10)) as connection:
        connection.request(method, path, None if body is None else body.encode())
        response = connection.getresponse()
        raw = response.read()
        kind = response.headers["content-type"].split(";")[0]
        return response.status, kind, json.loads(raw) if raw[:1] == b"{" else raw.decode()


def without_names(answer: object) -> object:
    """An answer without what differs between any two clusters."""
    if isinstance(answer, dict):
        return {key: without_names(value) for key, value in answer.items() if key not in ("cluster_id", "member_id")}
    if isinstance(answer, list | tuple):
        return [without_names(value) for value in answer]
    return answer


REQUESTS = [
    ("put", {"key": "Zm9v", "value": "YmFy"}),
    ("put", {"key": "Zm9v", "value": "YmF6", "prevKv": True}),
    ("put", {"key": "Zm9w", "value": "", "prev_kv": True, "lease": "0"}),
    ("range", {"key": "Zm9v"}),
    ("range", {"key": "Zm9v", "rangeEnd": "Zm94", "limit": "1", "sort_order": "DESCEND", "sortTarget": "MOD"}),
    ("range", {"key": "AA==", "range_end": "AA==", "count_only": True}),
    ("range", {"key": "bm9uZQ==", "unknown": [1, {"a": None}]}),
    ("range", {"key": "Zm9v", "revision": 2}),
    ("range", {"key": "Zm9v", "revision": "99"}),
    ("range", {"key": ""}),
    ("range", {}),
    ("put", {"value": "YQ=="}),
    (
        "txn",
        {
            "compare": [{"key": "Zm9v", "target": "VALUE", "result": "EQUAL", "value": "YmF6"}],
            "success": [{"requestPut": {"key": "Zm9v", "value": "YQ=="}}, {"request_range": {"key": "Zm9v"}}],
            "failure": [{"requestDeleteRange": {"key": "Zm9v"}}],
        },
    ),
    ("txn", {"compare": [{"key": "Zm9v", "target": "VERSION", "version": "77", "result": "GREATER"}]}),
    ("deleterange", {"key": "Zm9v", "prev_kv": True}),
    ("deleterange", {"key": "Zm9v"}),
    ("compaction", {"revision": "3"}),
    ("compaction", {"revision": "3"}),
    ("range", {"key": "Zm9v", "revision": "2"}),
]


def test_the_gateway_answers_as_etcds_does(pair: Pair) -> None:
    for number, (method, body) in enumerate(REQUESTS):
        text = json.dumps(body)
        ours, theirs = (ask(address, "POST", f"/v3/kv/{method}", text) for address in (pair.chainfire, pair.etcd))
        assert without_names(ours) == without_names(theirs), (number, method, body)


@pytest.mark.parametrize(
    "body", ["{", "[]", "7", '"text"', '{"key": 5}', '{"key": "!!"}', '{"key": "YQ==", "limit": "many"}', "{]"]
)
def test_what_is_no_request_is_refused_with_the_same_status(pair: Pair, body: str) -> None:
    (ours_status, ours_kind, ours), (status, kind, theirs) = (
        ask(address, "POST", "/v3/kv/range", body) for address in (pair.chainfire, pair.etcd)
    )
    assert (ours_status, ours_kind) == (status, kind) == (400, "application/json")
    assert isinstance(ours, dict)
    assert isinstance(theirs, dict)
    assert ours["code"] == theirs["code"] == 3
    assert ours["error"] == ours["message"]
    assert ours.keys() == theirs.keys()


@pytest.mark.parametrize("depth", [2_000, 100_000])
def test_nesting_without_end_is_refused(pair: Pair, depth: int) -> None:
    body = '{"compare":' * depth + "1" + "}" * depth
    status, _, answer = ask(pair.chainfire, "POST", "/v3/kv/txn", body)
    assert status == 400
    assert isinstance(answer, dict)
    assert answer["code"] == 3


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("POST", "/v3alpha/kv/range"), ("PUT", "/health"), ("GET", "/v3/kv/range"), ("GET", "/health")],
)
def test_paths_and_methods(pair: Pair, method: str, path: str) -> None:
    ours, theirs = ask(pair.chainfire, method, path), ask(pair.etcd, method, path)
    assert ours[0] == theirs[0]
    assert ours[2] == theirs[2] or ours[0] == 405


def test_members_status_and_version_have_etcds_form(pair: Pair) -> None:
    for path in ("/v3/cluster/member/list", "/v3/maintenance/status", "/v3/maintenance/hash"):
        (status, kind, ours), (_, _, theirs) = (
            ask(address, "POST", path, "{}") for address in (pair.chainfire, pair.etcd)
        )
        assert (status, kind) == (200, "application/json")
        assert isinstance(ours, dict)
        assert isinstance(theirs, dict)
        assert ours.keys() - {"compact_revision"} == theirs.keys() - {"compact_revision"}
        assert {key: type(value) for key, value in theirs.items()}.items() <= {
            **{key: type(value) for key, value in ours.items()},
            **({"compact_revision": str} if "compact_revision" in theirs else {}),
        }.items()
    ours, theirs = (ask(address, "GET", "/version")[2] for address in (pair.chainfire, pair.etcd))
    assert isinstance(ours, dict)
    assert isinstance(theirs, dict)
    assert ours.keys() == theirs.keys()
    assert re.fullmatch(r"3\.5\.\d+(\+[0-9a-z.]+)?", ours["etcdserver"])


def test_writes_by_json_are_read_by_grpc_and_counted(pair: Pair) -> None:
    def metrics() -> dict[str, float]:
        _, kind, text = ask(pair.chainfire, "GET", "/metrics")
        assert kind == "text/plain"
        families = text_string_to_metric_families(str(text))
        return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}

    before = metrics()
    assert ask(pair.chainfire, "POST", "/v3/kv/put", '{"key": "anNvbg==", "value": "Z3JwYw=="}')[0] == 200
    with SyncClient([pair.chainfire], timeout=10) as client:
        assert client.get(b"json").kvs[0].value == b"grpc"
    after = metrics()
    assert after["etcd_server_has_leader"] == after["etcd_server_is_leader"] == 1
    assert after["etcd_server_proposals_applied_total"] == before["etcd_server_proposals_applied_total"] + 1
    assert after["plasma_chainfire_command_duration_seconds_count"] >= 1
    assert after["etcd_disk_wal_fsync_duration_seconds_count"] > before["etcd_disk_wal_fsync_duration_seconds_count"]
    assert after["etcd_mvcc_db_total_size_in_bytes"] > 0
    assert after["plasma_rpc_requests_total"] >= before["plasma_rpc_requests_total"] + 3
    assert after["etcd_network_client_grpc_sent_bytes_total"] > before["etcd_network_client_grpc_sent_bytes_total"]
    theirs = ask(pair.etcd, "GET", "/metrics")[2]
    named = set(re.findall(r"^# TYPE (\S+)", str(theirs), re.MULTILINE))
    unknown = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in after
        if name.startswith("etcd_") and not {name, re.sub(r"_(bucket|sum|count)$", "", name)} & named
    }
    assert not unknown, "names that look like etcd's are etcd's"


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_curl(pair: Pair, version: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")

    def curl(*arguments: str) -> str:
        command = ["curl", "-sS", "--fail", "--max-time", "10", version, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout

    base = f"http://{pair.chainfire}"
    assert curl(f"{base}/health") == '{"health":"true","reason":""}'
    assert "etcd_server_has_leader 1.0\n" in curl(f"{base}/metrics")
    assert curl(f"{base}/livez") == "ok\n"
    assert curl(f"{base}/readyz?verbose").splitlines()[1:] == ["[+]linearizable_read ok", "ok"]
    large = "QUJD" * 100_000  # beyond every window, and beyond where curl asks before it sends
    body = json.dumps({"key": "Y3VybA==", "value": large})
    command = ["curl", "-sS", "--max-time", "20", version, "-X", "POST", f"{base}/v3/kv/put", "-d", "@-"]
    done = subprocess.run(command, input=body, capture_output=True, text=True, check=True, timeout=30)
    assert "header" in json.loads(done.stdout), done.stdout
    found = json.loads(curl("-X", "POST", f"{base}/v3/kv/range", "-d", '{"key":"Y3VybA=="}'))
    assert found["kvs"][0]["value"] == large
