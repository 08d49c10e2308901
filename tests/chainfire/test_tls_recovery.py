"""Two of three members with mutual TLS are lost for good: the survivor goes on, and grows by the commands it prints."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chainfire_cluster import DEADLINE_S, Cluster, Node, wait_until

from plasmacloud.base.errors import ExitCode
from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.base.tls import ClientTls, TlsFiles
from plasmacloud.client import SyncClient

PLASMA = [sys.executable, "-m", "plasmacloud"]
KEYS = {f"key/{number}".encode(): f"value {number}".encode() for number in range(300)}


def plasma(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PLASMA, *arguments], capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """As an operator makes it."""
    directory = str(tmp_path / "pki")
    commands = [["init", directory]]
    commands += [["issue", name, "--dir", directory, "--host", "127.0.0.1"] for name in ("n1", "n2", "n3")]
    commands += [["issue", "operator", "--dir", directory, "--client"]]
    for command in commands:
        done = plasma("pki", *command)
        assert done.returncode == 0, done.stderr
    return tmp_path / "pki"


@pytest.fixture
def cluster(tmp_path: Path, pki: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path, extra=["--tls", str(pki), "--client-auth"], tls=ClientTls(TlsFiles.of(pki, "operator")))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def flags(pki: Path) -> list[str]:
    """Of a client."""
    return ["--cacert", str(pki / "ca.crt"), "--cert", str(pki / "operator.crt"), "--key", str(pki / "operator.key")]


def run_printed(command: str, node: Node, directory: Path, pki: Path) -> ManagedProcess | None:
    """What was printed, word for word, with the operator's own directory and address in place of what stands for them.

    A member stays running and is returned.
    """
    client = f"127.0.0.1:{free_ports(1)[0]}"
    words = [
        {"NEW_EMPTY_DIR": str(directory), "HOST:PORT": client, "DIR": str(pki)}.get(word, word)
        for word in shlex.split(command)
    ]
    assert words[0] == "plasma"
    if words[2] != "serve":
        done = plasma(*words[1:])
        assert done.returncode == 0, (command, done.stderr)
        return None
    node.client = words[words.index("--listen-client") + 1]
    node.process = ManagedProcess(node.name, [*PLASMA, *words[1:]], log_path=node.log_path)
    node.process.start()
    return node.process


def voters(client: SyncClient) -> list[str]:
    return sorted(member.name for member in client.cluster_view().members if member.role == "voter")


def test_a_survivor_of_a_cluster_with_mutual_tls_goes_on_and_grows(cluster: Cluster, pki: Path, tmp_path: Path) -> None:
    with SyncClient(cluster.endpoints, timeout=DEADLINE_S, tls=cluster.tls) as client:
        for key, value in KEYS.items():
            client.put(key, value)
    cluster.wait_converged()
    survivor, *others = cluster.nodes
    cluster.kill(others[1])
    assert cluster.terminate(survivor) == 0
    recover = ["chainfire", "recover", "--data-dir", str(survivor.data_dir)]
    for how, found in ((flags(pki), "serves clients at"), ([], "something listens at its peer address")):
        refused = plasma(*recover, *how, "--yes")
        assert refused.returncode == ExitCode.CONFIG, refused.stderr
        assert "the majority is not lost: n2 answered" in refused.stderr
        assert found in refused.stdout, "with certificates and without"
    cluster.kill(others[0])
    for node in others:
        shutil.rmtree(node.data_dir)

    done = plasma(*recover, *flags(pki), "--yes", "-o", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    start, *grow = report["commands"]
    assert f"--listen-client {survivor.client}" in start, "where its clients know it to be"
    assert run_printed(start, survivor, survivor.data_dir, pki) is not None
    survivor.wait_for_log("ready to serve clients", times=2)

    certificate = ClientTls(TlsFiles.of(pki, "operator"))
    with SyncClient([survivor.client], timeout=DEADLINE_S, tls=certificate) as client:
        client.put("still", "here")
        for number, node in enumerate(others):
            add, serve = grow[2 * number : 2 * number + 2]
            assert f"--name {node.name} " in serve
            run_printed(add, node, tmp_path, pki)
            assert run_printed(serve, node, tmp_path / f"new-{node.name}", pki) is not None
            wait_until(f"{node.name} votes", lambda node=node: node.name in voters(client))
        assert voters(client) == ["n1", "n2", "n3"]
        members = client.member_list().members
    assert all(url.startswith("https://") for m in members for url in (*m.client_urls, *m.peer_urls))
    held = {key: value for key, (value, _, _) in cluster.wait_converged().items()}
    assert held == {**KEYS, b"still": b"here"}
    for node in cluster.nodes:
        assert not re.search(r"Traceback|this is a bug", node.log), node.name
    cluster.kill(survivor)
    with SyncClient([node.client for node in others], timeout=DEADLINE_S, tls=certificate) as client:
        client.put("and", "on")
        assert [kv.value for kv in client.get("key/7").kvs] == [b"value 7"]


@pytest.mark.parametrize("same_name", [True, False])
def test_a_member_whose_disk_is_lost_is_replaced_over_tls(
    cluster: Cluster, pki: Path, tmp_path: Path, same_name: bool
) -> None:
    """By a machine of the same name, with the certificate that is there, or of another name, with one of its own."""
    name = "n3" if same_name else "n4"
    assert plasma("pki", "issue", "n4", "--dir", str(pki), "--host", "127.0.0.1").returncode == 0
    with SyncClient(cluster.endpoints, timeout=DEADLINE_S, tls=cluster.tls) as client:
        for key, value in KEYS.items():
            client.put(key, value)
    lost = cluster.nodes[2]
    cluster.kill(lost)
    shutil.rmtree(lost.data_dir)
    peer = f"127.0.0.1:{free_ports(1)[0]}"
    asked = cluster.nodes[0].client
    add = f"plasma chainfire member add {name} {peer} --replace n3 --endpoints {asked} {shlex.join(flags(pki))}"
    serve = (
        f"plasma chainfire serve --name {name} --data-dir NEW_EMPTY_DIR --listen-client HOST:PORT --listen-peer {peer} "
        f"--join {asked} --tls DIR --client-auth"
    )
    run_printed(add, lost, tmp_path, pki)
    run_printed(serve, lost, tmp_path / "new", pki)
    lost.wait_for_log("ready to serve clients", times=2)

    def replaced() -> bool:
        with SyncClient([asked], timeout=DEADLINE_S, tls=cluster.tls) as client:
            members = client.cluster_view().members
            return [m.role for m in members] == ["voter"] * 3 and sorted(m.name for m in members) == ["n1", "n2", name]

    wait_until("the new member votes and the old one is gone", replaced)
    assert {key: value for key, (value, _, _) in cluster.wait_converged().items()} == KEYS
    cluster.kill(cluster.nodes[1])
    with SyncClient([asked, lost.client], timeout=DEADLINE_S, tls=ClientTls(TlsFiles.of(pki, "operator"))) as client:
        client.put("and", "on")  # with the vote of the new member
