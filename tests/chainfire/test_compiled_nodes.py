"""The hot modules as machine code: they pass the tests of their sources, and nodes with and without them agree.

They are compiled once (some minutes of CPU time when they are not there yet) and kept as ``./dev compile`` does.
"""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from chainfire_cluster import Cluster

import plasmacloud
from plasmacloud.base.compiled import VARIABLE, find_binaries
from plasmacloud.client import SyncClient, Txn, get, missing, put

REPOSITORY = Path(__file__).parents[2]
SOURCES = Path(plasmacloud.__file__).parents[1]
TESTS = (
    "tests/raft",
    # answers and bytes: of the store (also beside a real etcd), of the wire towards clients and members, of the log
    "tests/chainfire/mvcc",
    "tests/chainfire/test_differential.py",
    "tests/rpc/test_grpc_framing.py",
    "tests/rpc/test_h2_frames.py",
    "tests/rpc/test_h2_headers.py",
    "tests/rpc/test_rpc_abuse.py",
    "tests/rpc/test_rpc_channel.py",
    "tests/rpc/test_rpc_compression.py",
    "tests/rpc/test_rpc_flow_control.py",
    "tests/rpc/test_rpc_fuzz_corpus.py",
    "tests/rpc/test_rpc_health.py",
    "tests/rpc/test_rpc_hostile.py",
    "tests/rpc/test_rpc_patience.py",
    "tests/rpc/test_rpc_reflection.py",
    "tests/rpc/test_rpc_server_wire.py",
    "tests/rpc/test_rpc_web.py",
    "tests/rpc/test_peer.py",
    "tests/storage/test_wal.py",
    "tests/storage/test_wal_at_once.py",
    "tests/storage/test_wal_faults.py",
    "tests/storage/test_wal_model.py",
    # paths that are taken under load, or seldom
    "tests/chainfire/test_admission.py",
    "tests/chainfire/test_large_deletes.py",
    "tests/chainfire/test_lives.py",
    "tests/chainfire/test_long_reads.py",
    "tests/chainfire/test_neighbours.py",
    "tests/chainfire/test_proposals.py",
    "tests/chainfire/test_read_queue.py",
    "tests/chainfire/test_running_member.py",
    "tests/chainfire/test_snapshot_flow.py",
    "tests/chainfire/test_timing.py",
    "tests/rpc/test_turns.py",
    "tests/rpc/test_web_turns.py",
)
RUN = """
import sys
from plasmacloud.base.compiled import use_compiled
assert use_compiled("1")
import pytest
from plasmacloud.raft import raft
assert not raft.__file__.endswith(".py")
sys.exit(pytest.main(["-x", "--timeout=120", *sys.argv[1:]]))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def run(*argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A Python process in the repository. Variables of a parallel run of tests are not for it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(SOURCES)} | variables
    return subprocess.run(
        [sys.executable, *argv],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1000,
        check=False,
    )


@pytest.fixture(scope="module")
def compiled() -> None:
    done = run("tools/compile_modules.py")
    if "no C compiler" in done.stdout or "headers of this Python" in done.stdout:
        pytest.skip(done.stdout.strip().splitlines()[0])
    assert done.returncode == 0, done.stdout
    assert find_binaries() is not None


@pytest.mark.usefixtures("compiled")
def test_compiled_modules_pass_the_tests_of_their_sources() -> None:
    done = run("-c", RUN, *TESTS)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " failed" not in done.stdout


@pytest.mark.usefixtures("compiled")
def test_members_with_and_without_compiled_modules_are_one_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(tmp_path)
    first, *others = cluster.nodes
    try:
        monkeypatch.setenv(VARIABLE, "0")
        cluster.launch(first)
        monkeypatch.setenv(VARIABLE, "1")
        cluster.start(*others)
        first.wait_for_log("ready to serve clients")
        assert "modules=python" in first.log
        assert all("modules=compiled" in node.log for node in others)
        for _ in range(2):
            leader = cluster.leader()
            exercise(cluster, leader.name)
            cluster.kill(leader)
            others_left = [node for node in cluster.nodes if node is not leader]
            with SyncClient([node.client for node in others_left], timeout=30.0) as client:
                client.put(b"while away", leader.name.encode())
            cluster.start(leader)
        cluster.wait_converged()
        with SyncClient(cluster.endpoints, timeout=30.0) as client:
            revision = client.get(b"while away").header.revision
            assert len({client.hash_kv(node.client, revision=revision).hash for node in cluster.nodes}) == 1
        for node in cluster.nodes:
            assert cluster.terminate(node) == 0, node.log[-3000:]
    finally:
        cluster.stop()


def ask_by_json(endpoint: str) -> int:
    """The gateway hands other objects to the same handlers. Returns the HTTP status."""
    request = urllib.request.Request(f"http://{endpoint}/v3/kv/range", data=b'{"key": "YQ=="}', method="POST")
    with urllib.request.urlopen(request, timeout=30.0) as answer:
        return int(answer.status)


def exercise(cluster: Cluster, prefix: str) -> None:
    """The same requests to each member; the answers of all must be the same in everything but revisions."""
    answers = []
    for node in cluster.nodes:
        key = f"{prefix}/{node.name}".encode()
        with SyncClient([node.client], timeout=30.0) as client:
            before = client.put(key, b"1" * 3000).header.revision
            swapped = client.txn(Txn().when(missing(key)).then(put(key, b"2")).otherwise(get(key), put(key, b"3")))
            found = client.get(key)
            deleted = client.delete(key)
            answers.append(
                (
                    swapped.succeeded,
                    swapped.header.revision - before,
                    [(kv.value, kv.version, kv.mod_revision - before) for kv in found.kvs],
                    deleted.deleted,
                    client.get(key).kvs,
                    len(client.get(key, serializable=True).kvs),
                    ask_by_json(node.client),
                )
            )
    assert answers == [answers[0]] * len(answers)
    assert answers[0][0] is False
