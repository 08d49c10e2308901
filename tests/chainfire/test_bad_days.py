"""Bad input and bad days: a clear error, nothing lost, the rest of the cluster unaffected."""

import os
import random
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import grpc
import pytest
from chainfire_cluster import DEADLINE_S, SERVE, Cluster, Node, running_cluster, wait_until

from plasmacloud.base.errors import ExitCode
from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.chainfire.members import found_cluster
from plasmacloud.client import RequestRefused, SyncClient
from plasmacloud.rpc.peer_frames import FrameParser, FrameType
from plasmacloud.rpc.peer_wire import DIALER_GREETING, Hello, RefusalCode, decode_refusal, encode_hello
from plasmacloud.rpc.proto import rpc_pb2


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a member that is expected to refuse to start."""
    return subprocess.run([*SERVE, *arguments], capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def write_some(cluster: Cluster, count: int = 200) -> None:
    with SyncClient(cluster.endpoints, timeout=10.0) as client:
        for n in range(count):
            client.put(f"k{n}", f"v{n}")


def assert_serves(cluster: Cluster, *nodes: Node) -> None:
    """These members take writes and answer reads."""
    with SyncClient([node.client for node in nodes or cluster.nodes], timeout=15.0) as client:
        client.put("still", "here")
        assert [kv.value for kv in client.get("still").kvs] == [b"here"]


# Flags and directories


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        ([], ExitCode.USAGE, "--name"),
        (["--name", "n1", "--data-dir", "d", "--frobnicate"], ExitCode.USAGE, "--frobnicate"),
        (["--name", "n1", "--data-dir", "d", "--election-timeout", "300"], ExitCode.USAGE, "not a duration"),
        (["--name", "n1", "--data-dir", "d", "--listen-client", "nowhere"], ExitCode.CONFIG, "--listen-client"),
        (["--name", "n1", "--data-dir", "d", "--initial-cluster", "n2=127.0.0.1:1"], ExitCode.CONFIG, "n2"),
        (["--config", "missing.toml"], ExitCode.CONFIG, "missing.toml"),
    ],
)
def test_wrong_settings_are_named(
    arguments: list[str], status: ExitCode, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = serve(*arguments)
    assert result.returncode == status
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == [], "nothing was created"


def test_an_unknown_key_in_the_config_file_is_named_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text('name = "n1"\nlissten-client = "127.0.0.1:2379"\n')
    result = serve("--config", str(tmp_path / "node.toml"))
    assert result.returncode == ExitCode.CONFIG
    assert "lissten-client" in result.stderr.replace("_", "-")
    assert "listen-client" in result.stderr


def test_a_config_file_gives_the_flags(tmp_path: Path) -> None:
    client, peer = free_ports(2)
    (tmp_path / "node.toml").write_text(
        f'name = "solo"\ndata-dir = "{tmp_path / "d"}"\nlisten-client = "127.0.0.1:{client}"\n'
        f'listen-peer = "127.0.0.1:{peer}"\nelection-timeout = "150ms"\nheartbeat-interval = "30ms"\n'
    )
    member = ManagedProcess("solo", [*SERVE, "--config", str(tmp_path / "node.toml")], log_path=tmp_path / "log")
    member.start()
    try:
        wait_until("ready", lambda: "ready to serve" in (tmp_path / "log").read_text())
    finally:
        assert member.stop() == 0


@pytest.mark.parametrize("which", ["client", "peer"])
def test_a_port_in_use_is_named(which: str, tmp_path: Path) -> None:
    (other,) = free_ports(1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        free = f"127.0.0.1:{other}"
        client, peer = (address, free) if which == "client" else (free, address)
        result = serve("--name", "n1", "--data-dir", str(tmp_path), "--listen-client", client, "--listen-peer", peer)
    assert result.returncode == ExitCode.CONFIG
    assert address in result.stderr
    assert "Traceback" not in result.stderr


def test_a_directory_of_another_cluster_is_refused(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    assert cluster.terminate(node) == 0
    result = serve(*node.argv(cluster.initial_cluster)[len(SERVE) :], "--cluster-token", "another")
    assert result.returncode == ExitCode.CONFIG
    assert "belongs to member n1" in result.stderr
    cluster.start(node)
    assert_serves(cluster)


def test_a_directory_in_use_is_refused_and_its_user_unaffected(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    client, peer = free_ports(2)
    arguments = node.argv(cluster.initial_cluster)[len(SERVE) :]
    arguments += ["--listen-client", f"127.0.0.1:{client}", "--listen-peer", f"127.0.0.1:{peer}"]
    result = serve(*arguments)
    assert result.returncode == ExitCode.CONFIG
    assert "in use" in result.stderr
    assert_serves(cluster, node)


def test_nobody_recovers_from_a_cluster_that_lives(cluster: Cluster) -> None:
    """Its operator could not reach the others' client ports, or did not try."""
    node = cluster.nodes[0]
    assert cluster.terminate(node) == 0
    recover = [*SERVE[:-1], "recover", "--data-dir", str(node.data_dir), "--yes"]
    result = subprocess.run(recover, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert result.returncode == ExitCode.CONFIG, result.stdout + result.stderr
    for other in cluster.nodes[1:]:
        assert f"asked {other.name}  serves clients at {other.client}" in result.stdout
    assert "the majority is not lost: n2, n3 answered" in result.stderr
    cluster.start(node)
    assert_serves(cluster)


# Peers


def test_a_member_of_another_cluster_is_refused_by_both_sides(cluster: Cluster, tmp_path: Path) -> None:
    """It claims to be n3 at n3's address, but was told of a different cluster."""
    stranger = cluster.nodes[2]
    assert cluster.terminate(stranger) == 0
    shutil.rmtree(stranger.data_dir)
    stranger.extra = ["--cluster-token", "another"]
    cluster.launch(stranger)
    stranger.wait_for_log("the caller belongs to cluster")
    assert any("the caller belongs to cluster" in node.log for node in cluster.nodes[:2])
    assert_serves(cluster, *cluster.nodes[:2])
    assert "ready to serve clients" not in stranger.log.rpartition("restored")[2]


def test_a_peer_of_another_version_is_refused_with_both_versions_named(calm_cluster: Cluster) -> None:
    node, caller, _ = calm_cluster.nodes
    cluster = found_cluster(calm_cluster.initial_cluster, "plasmacloud")
    hello = Hello(
        version_min=98,
        version_max=99,
        cluster_id=cluster.cluster_id,
        member_id=cluster.member(caller.name).id,
        incarnation=1,
        receiver_id=cluster.member(node.name).id,
    )
    host, _, port = node.peer.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
        connection.sendall(encode_hello(hello))
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    ((kind, payload),) = FrameParser(DIALER_GREETING, magic=False).feed(answer)
    assert kind == FrameType.REFUSAL
    refusal = decode_refusal(payload)
    assert refusal.code == RefusalCode.VERSION
    assert "98 to 99" in refusal.reason
    assert_serves(calm_cluster)


@pytest.mark.parametrize("port", ["client", "peer"])
def test_garbage_on_a_port_ends_that_connection_alone(calm_cluster: Cluster, port: str) -> None:
    rng = random.Random(1)
    node = calm_cluster.nodes[0]
    host, _, number = (node.client if port == "client" else node.peer).rpartition(":")
    samples = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(300),
        b"\xff" * 10_000,
        *[rng.randbytes(rng.randrange(1, 5000)) for _ in range(20)],
    ]
    for sample in samples:
        with socket.create_connection((host, int(number)), timeout=DEADLINE_S) as connection:
            try:
                connection.sendall(sample)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except (ConnectionResetError, BrokenPipeError):
                pass
    assert_serves(calm_cluster, node)
    assert "Traceback" not in node.log


def test_half_a_connection_is_not_waited_for(calm_cluster: Cluster) -> None:
    node = calm_cluster.nodes[0]
    hosts = [address.rpartition(":") for address in (node.client, node.peer)]
    silent = [socket.create_connection((host, int(port)), timeout=DEADLINE_S) for host, _, port in hosts * 20]
    try:
        assert_serves(calm_cluster, node)
    finally:
        for connection in silent:
            connection.close()


# Requests


def test_a_request_over_the_limit_is_refused_with_etcds_words(calm_cluster: Cluster) -> None:
    with SyncClient(calm_cluster.endpoints, timeout=15.0) as client:
        with pytest.raises(RequestRefused, match="request is too large") as refused:
            client.put("big", b"x" * (1536 * 1024 + 1))
        assert refused.value.code.name == "INVALID_ARGUMENT"
        client.put("large", b"x" * (1500 * 1024))
        assert len(client.get("large").kvs[0].value) == 1500 * 1024
        assert client.get("big").count == 0
        client.delete("large")


def test_a_message_over_the_transport_limit_is_refused_and_the_connection_lives(calm_cluster: Cluster) -> None:
    with grpc.insecure_channel(calm_cluster.nodes[0].client) as channel:
        put = channel.unary_unary(
            "/etcdserverpb.KV/Put", rpc_pb2.PutRequest.SerializeToString, rpc_pb2.PutResponse.FromString
        )
        with pytest.raises(grpc.RpcError) as refused:
            put(rpc_pb2.PutRequest(key=b"big", value=b"x" * (8 << 20)), timeout=DEADLINE_S)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert put(rpc_pb2.PutRequest(key=b"small", value=b"x"), timeout=DEADLINE_S).header.revision > 1


def test_bytes_that_are_no_message_are_refused(calm_cluster: Cluster) -> None:
    with grpc.insecure_channel(calm_cluster.nodes[0].client) as channel:
        for method in ("Put", "Range", "DeleteRange", "Txn", "Compact"):
            call = channel.unary_unary(f"/etcdserverpb.KV/{method}")
            with pytest.raises(grpc.RpcError) as refused:
                call(b"\xff\xff\xff\xff", timeout=DEADLINE_S)
            assert refused.value.code() is grpc.StatusCode.INTERNAL
            assert "unmarshal" in refused.value.details()
    assert_serves(calm_cluster)


# Disks


def _segments(node: Node) -> list[Path]:
    return sorted(path for path in (node.data_dir / "wal").iterdir() if path.suffix == ".wal")


def _used_bytes(segment: Path) -> int:
    return len(segment.read_bytes().rstrip(b"\0"))


def test_a_flipped_bit_in_the_log_is_refused_with_advice_and_the_others_go_on(cluster: Cluster) -> None:
    write_some(cluster)
    node = cluster.followers()[0]
    others = [other for other in cluster.nodes if other is not node]
    cluster.kill(node)
    segment = _segments(node)[-1]
    group = segment.read_bytes().rindex(b"PGRP", 0, _used_bytes(segment) // 2)  # between groups are unused bytes
    with segment.open("r+b") as file:
        file.seek(group + 60)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x10]))
    before = segment.read_bytes()
    process = cluster.launch(node)
    assert process.wait(DEADLINE_S) == ExitCode.STORAGE
    said = node.log.rpartition("restored")[2]
    assert segment.name in said
    assert "Traceback" not in said
    assert "move" in said, "the message says what to do"
    assert segment.read_bytes() == before, "evidence is not destroyed"
    assert_serves(cluster, *others)


def test_a_torn_last_write_is_cut_and_the_member_catches_up(cluster: Cluster) -> None:
    """What a power loss leaves of a write that was never acknowledged: some of its sectors."""
    write_some(cluster)
    node = cluster.followers()[0]
    cluster.kill(node)
    segment = _segments(node)[-1]
    content = segment.read_bytes()
    used = _used_bytes(segment)
    next_block = -(-used // 512) * 512
    last_group = content.rindex(b"PGRP", 0, used) // 512 * 512
    torn = content[last_group : last_group + 512][:100] + random.Random(1).randbytes(412)
    with segment.open("r+b") as file:
        file.seek(next_block)
        file.write(torn)
    cluster.start(node)
    held = cluster.wait_converged()
    assert all(held[b"k%d" % n][0] == b"v%d" % n for n in range(200))


def test_a_member_whose_disk_lost_what_it_had_acknowledged_stops_and_says_so(cluster: Cluster) -> None:
    write_some(cluster)
    node = cluster.followers()[0]
    cluster.wait_converged()
    cluster.kill(node)
    segment = _segments(node)[-1]
    with segment.open("r+b") as file:
        file.seek(_used_bytes(segment) - 10)
        file.write(b"\0" * 10)
    process = cluster.launch(node)
    assert process.wait(DEADLINE_S) == ExitCode.STORAGE
    assert "Traceback" not in node.log
    assert_serves(cluster, *[other for other in cluster.nodes if other is not node])


def test_a_truncated_log_file_is_refused(cluster: Cluster) -> None:
    write_some(cluster)
    node = cluster.followers()[0]
    cluster.kill(node)
    segment = _segments(node)[-1]
    os.truncate(segment, _used_bytes(segment) // 2)
    process = cluster.launch(node)
    assert process.wait(DEADLINE_S) == ExitCode.STORAGE
    assert segment.name in node.log
    assert_serves(cluster, *[other for other in cluster.nodes if other is not node])


def test_a_log_older_than_the_state_is_refused(cluster: Cluster) -> None:
    """The log directory of an earlier day under the state of today."""
    node = cluster.followers()[0]
    assert cluster.terminate(node) == 0
    shutil.copytree(node.data_dir / "wal", node.data_dir.parent / "old-wal")
    cluster.start(node)
    write_some(cluster)
    cluster.wait_converged()
    assert cluster.terminate(node) == 0
    shutil.rmtree(node.data_dir / "wal")
    shutil.copytree(node.data_dir.parent / "old-wal", node.data_dir / "wal")
    process = cluster.launch(node)
    assert process.wait(DEADLINE_S) == ExitCode.STORAGE
    assert "another copy" in node.log


def _can_mount_unprivileged() -> bool:
    probe = subprocess.run(
        ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        check=False,
        timeout=DEADLINE_S,
    )
    return probe.returncode == 0


@pytest.mark.skipif(not _can_mount_unprivileged(), reason="needs a mount in a user namespace, for a small disk")
def test_a_full_disk_stops_that_member_with_a_message_and_the_others_go_on(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    node, *others = cluster.nodes
    try:
        for other in others:
            cluster.launch(other)
        node.data_dir.mkdir()
        argv = node.argv(cluster.initial_cluster)
        script = 'mount -t tmpfs -o size=72m tmpfs "$0" && exec "$@"'
        small = ["unshare", "-Urm", "sh", "-c", script, str(node.data_dir), *argv]
        node.process = ManagedProcess(node.name, small, log_path=node.log_path)
        node.process.start()
        for each in cluster.nodes:
            each.wait_for_log("ready to serve clients")
        acknowledged = 0
        with SyncClient([other.client for other in others], timeout=20.0) as client:
            while node.process.running:
                client.put(f"big{acknowledged}", random.Random(acknowledged).randbytes(1 << 20))
                acknowledged += 1
                assert acknowledged < 500, "a disk of 72 MB took 500 MB"
            assert node.process.wait(DEADLINE_S) == ExitCode.STORAGE
            client.put("after", "v")
            assert client.get("big", prefix=True, count_only=True).count == acknowledged
        assert "No space left" in node.log or "space" in node.log
        assert "Traceback" not in node.log
    finally:
        cluster.stop()


# Leaving


def test_a_single_member_serves_alone_and_stops_cleanly(tmp_path: Path) -> None:
    with running_cluster(tmp_path, size=1) as cluster:
        assert_serves(cluster)
        assert cluster.terminate(cluster.nodes[0]) == 0
        cluster.start()
        assert_serves(cluster)


def test_sigint_is_a_clean_stop_too(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    assert node.process is not None
    node.process.signal(signal.SIGINT)
    assert node.process.wait(DEADLINE_S) == 0
