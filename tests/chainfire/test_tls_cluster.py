"""A cluster with mutual TLS everywhere, clients of several makes, and certificates that are replaced under load."""

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from chainfire_cluster import DEADLINE_S, SERVE, Cluster, Node, wait_until
from etcd_server import etcd_binary

from plasmacloud.base.pki import init_authority, issue
from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.base.tls import ClientTls, TlsFiles
from plasmacloud.client import ClientError, SyncClient
from plasmacloud.rpc.peer_frames import FRAME_HEADER, FrameType
from plasmacloud.rpc.peer_wire import Hello, RefusalCode, decode_refusal, encode_hello
from plasmacloud.rpc.proto import rpc_pb2

MEMBERS = ("n1", "n2", "n3")


def make_pki(directory: Path) -> Path:
    init_authority(directory)
    for name in (*MEMBERS, "intruder"):
        issue(directory, name, ["127.0.0.1", "localhost"])
    issue(directory, "client", client_only=True)
    return directory


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pki(tmp_path_factory.mktemp("tls") / "pki")


@pytest.fixture(scope="module")
def secure(pki: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(
        tmp_path_factory.mktemp("cluster"),
        extra=["--tls", str(pki), "--client-auth"],
        tls=ClientTls(TlsFiles.of(pki, "client")),
    )
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def client_of(cluster: Cluster, pki: Path, name: str = "client") -> SyncClient:
    return SyncClient(cluster.endpoints, timeout=DEADLINE_S, tls=ClientTls(TlsFiles.of(pki, name)))


def only_authority(pki: Path) -> ClientTls:
    return ClientTls(TlsFiles(authority=pki / "ca.crt"))


# Clients


def test_a_client_with_a_certificate_writes_and_reads_at_every_member(secure: Cluster, pki: Path) -> None:
    with client_of(secure, pki) as client:
        client.put("a", "1")
        members = client.member_list().members
    assert all(url.startswith("https://") for m in members for url in (*m.client_urls, *m.peer_urls))
    assert sorted(url.removeprefix("https://") for m in members for url in m.client_urls) == sorted(secure.endpoints)
    assert {key: value for key, (value, _, _) in secure.wait_converged().items()}[b"a"] == b"1"


def test_a_client_hears_why_it_is_not_served(secure: Cluster, pki: Path, tmp_path: Path) -> None:
    init_authority(tmp_path / "other")
    issue(tmp_path / "other", "client", client_only=True)
    stranger = TlsFiles(tmp_path / "other" / "client.crt", tmp_path / "other" / "client.key", pki / "ca.crt")
    for tls, told in (
        (only_authority(pki), "wants to see a certificate"),
        (ClientTls(stranger), "does not know the authority"),
        (ClientTls(TlsFiles(authority=tmp_path / "other" / "ca.crt")), "certificate is not accepted"),
        (None, "this port speaks TLS"),
    ):
        with (
            SyncClient([secure.endpoints[0]], timeout=2.0, tls=tls) as client,
            pytest.raises(ClientError, match=told),
        ):
            client.put("b", "1")
    for told in ("it shows no certificate", "unable to get local issuer certificate", "it does not speak TLS"):
        secure.nodes[0].wait_for_log(told)


def _etcdctl() -> str:
    found = shutil.which("etcdctl")
    if found is None:
        beside = etcd_binary().parent / "etcdctl"
        found = str(beside) if beside.exists() else None
    if found is None:
        pytest.skip("no etcdctl on this machine (Debian: etcd-client)")
    return found


def ask_etcdctl(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    endpoints = ",".join(f"https://{endpoint}" for endpoint in cluster.endpoints)
    return subprocess.run(
        [_etcdctl(), "--endpoints", endpoints, "--dial-timeout=2s", "--command-timeout=3s", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "ETCDCTL_API": "3"},
        check=False,
    )


def test_etcdctl_with_and_without_a_certificate(secure: Cluster, pki: Path) -> None:
    files = [f"--cacert={pki}/ca.crt", f"--cert={pki}/client.crt", f"--key={pki}/client.key"]
    assert ask_etcdctl(secure, *files, "put", "c", "1").stdout == "OK\n"
    assert ask_etcdctl(secure, *files, "get", "c").stdout == "c\n1\n"
    health = ask_etcdctl(secure, *files, "endpoint", "health", "--cluster")
    assert health.returncode == 0, "the URLs that members publish are dialled"
    assert (health.stdout + health.stderr).count("is healthy") == 3
    added = ask_etcdctl(secure, *files, "member", "add", "n4", "--learner", "--peer-urls=https://127.0.0.1:9")
    assert added.returncode == 0, added.stderr
    member_id = added.stdout.split("Member ")[1].split(" ")[0]
    assert ask_etcdctl(secure, *files, "member", "remove", member_id).returncode == 0
    refused = ask_etcdctl(secure, files[0], "put", "c", "2")
    assert refused.returncode != 0
    assert ask_etcdctl(secure, *files, "get", "c").stdout == "c\n1\n"


def test_curl_with_and_without_a_certificate(secure: Cluster, pki: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    argv = [curl, "-sS", "--http2", "--max-time", "20", "--cacert", f"{pki}/ca.crt", "-o", os.devnull]
    argv += ["-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary", "@-", "-w", "%{http_code}"]
    url = f"https://{secure.endpoints[1]}/grpc.health.v1.Health/Check"

    def ask(*more: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*argv, *more, url], input=b"\0\0\0\0\0", capture_output=True, timeout=30, check=False)

    shown = ask("--cert", f"{pki}/client.crt", "--key", f"{pki}/client.key")
    assert (shown.returncode, shown.stdout) == (0, b"200"), shown.stderr
    refused = ask()
    assert refused.returncode != 0
    assert b"certificate required" in refused.stderr, "the alert of TLS arrives"


def test_the_pages_are_behind_tls_too(secure: Cluster, pki: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    files = ["--cacert", f"{pki}/ca.crt", "--cert", f"{pki}/client.crt", "--key", f"{pki}/client.key"]
    for version in ("--http1.1", "--http2"):
        argv = [curl, "-sS", version, "--max-time", "20", *files, f"https://{secure.endpoints[0]}/health"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        assert '"health"' in done.stdout, done.stderr


def test_curl_in_plaintext_is_told_to_use_https(secure: Cluster) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    argv = [curl, "-sS", "--max-time", "20", f"http://{secure.endpoints[1]}/health"]
    assert (
        "this port speaks TLS: use https://" in subprocess.run(argv, capture_output=True, text=True, timeout=30).stdout
    )


def test_grpcio_with_a_certificate(secure: Cluster, pki: Path) -> None:
    read = {name: (pki / name).read_bytes() for name in ("ca.crt", "client.crt", "client.key")}
    credentials = grpc.ssl_channel_credentials(read["ca.crt"], read["client.key"], read["client.crt"])
    with grpc.secure_channel(secure.endpoints[2], credentials) as channel:
        put = channel.unary_unary(
            "/etcdserverpb.KV/Put", rpc_pb2.PutRequest.SerializeToString, rpc_pb2.PutResponse.FromString
        )
        assert put(rpc_pb2.PutRequest(key=b"d", value=b"1"), timeout=DEADLINE_S).header.revision > 1
    with grpc.secure_channel(secure.endpoints[2], grpc.ssl_channel_credentials(read["ca.crt"])) as channel:
        put = channel.unary_unary("/etcdserverpb.KV/Put", rpc_pb2.PutRequest.SerializeToString)
        with pytest.raises(grpc.RpcError) as refused:
            put(rpc_pb2.PutRequest(key=b"d", value=b"2"), timeout=DEADLINE_S)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


# The peer port


def greet_as(node: Node, pki: Path, certificate: str, hello: Hello) -> tuple[RefusalCode, str]:
    """What a member answers to somebody who can do everything but forge a certificate."""
    context = ClientTls(TlsFiles.of(pki, certificate), check_server_name=False).context
    host, _, port = node.peer.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=DEADLINE_S) as plain,
        context.wrap_socket(plain) as connection,
    ):
        connection.sendall(encode_hello(hello))
        answer = b""
        while len(answer) < 5 or len(answer) < 5 + FRAME_HEADER.unpack_from(answer)[0]:
            data = connection.recv(4096)
            assert data, "hung up without an answer"
            answer += data
    assert answer[4] == FrameType.REFUSAL
    refusal = decode_refusal(answer[5:])
    return refusal.code, refusal.reason


def test_nobody_takes_a_members_id_without_its_certificate(secure: Cluster, pki: Path) -> None:
    with client_of(secure, pki) as client:
        listed = client.member_list()
    ids = {member.name: member.id for member in listed.members}
    hello = Hello(2, 2, listed.header.cluster_id, ids["n2"], 5, ids["n1"], name="n2", birth=1)
    target = secure.nodes[0]
    code, reason = greet_as(target, pki, "intruder", hello)
    assert (code, reason) == (
        RefusalCode.CERTIFICATE,
        "it calls itself 'n2', and its certificate is that of 'intruder'",
    )
    honest = Hello(2, 2, listed.header.cluster_id, ids["n2"], 5, ids["n1"], name="intruder", birth=1)
    code, reason = greet_as(target, pki, "intruder", honest)
    assert code is RefusalCode.CERTIFICATE
    assert "is 'n2', and the certificate is that of 'intruder'" in reason
    code, reason = greet_as(target, pki, "client", hello)
    assert code is RefusalCode.CERTIFICATE
    assert "the certificate of 'client' is no member's" in reason
    target.wait_for_log("is 'n2', and the certificate is that of 'intruder'")
    with client_of(secure, pki) as client:
        client.put("e", "still here")


# Renewal


def shown_serial(address: str, pki: Path) -> int:
    """Of the certificate that answers there."""
    context = ClientTls(TlsFiles.of(pki, "client"), check_server_name=False).context
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=DEADLINE_S) as plain,
        context.wrap_socket(plain) as connection,
    ):
        shown = connection.getpeercert()
    assert shown is not None
    return int(str(shown["serialNumber"]), 16)


def test_certificates_are_replaced_under_load_without_a_failed_request(secure: Cluster, pki: Path) -> None:
    stop = threading.Event()
    failures: list[str] = []
    written = [0, 0, 0]

    def write(number: int) -> None:
        """On connections of its own, every so often a new one."""
        while not stop.is_set():
            with SyncClient(
                [secure.endpoints[number]], timeout=DEADLINE_S, tls=ClientTls(TlsFiles.of(pki, "client"))
            ) as client:
                for _ in range(20):
                    try:
                        client.put(f"load/{number}", str(written[number]))
                    except ClientError as error:
                        failures.append(f"{number}: {error}")
                        return
                    written[number] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        wait_until("some load", lambda: min(written) >= 40 or failures)
        renewed = {name: issue(pki, name, ["127.0.0.1", "localhost"], replace=True).serial for name in MEMBERS}
        issue(pki, "client", client_only=True, replace=True)
        for node in secure.nodes:
            for address in (node.client, node.peer):
                wait_until(
                    f"the new certificate of {node.name} at {address}",
                    lambda address=address, node=node: shown_serial(address, pki) == renewed[node.name],
                )
        before = list(written)
        wait_until("more load", lambda: min(n - b for n, b in zip(written, before, strict=True)) >= 40 or failures)
    finally:
        stop.set()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert failures == []
    follower = secure.followers()[0]
    assert secure.terminate(follower) == 0, "and a member that starts with the new ones finds the others"
    secure.start(follower)
    assert secure.wait_converged()[b"load/0"][0] == str(written[0] - 1).encode()


# Ways into a cluster


class Starting:
    """Members with flags of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.nodes: list[Node] = []

    def launch(self, name: str, *flags: str) -> Node:
        client, peer = free_ports(2)
        node = Node(name, self.directory, client, peer, [])
        self.nodes.append(node)
        return self.run(node, *flags)

    def run(self, node: Node, *flags: str) -> Node:
        argv = [*SERVE, "--name", node.name, "--data-dir", str(node.data_dir)]
        argv += ["--listen-client", node.client, "--listen-peer", node.peer, *flags]
        node.process = ManagedProcess(node.name, argv, log_path=node.log_path)
        node.process.start()
        return node


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[Starting]:
    made = Starting(tmp_path)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [node.process.kill() for node in made.nodes if node.process is not None])
        yield made


def test_a_member_joins_over_tls_and_is_known_by_its_name(starting: Starting, tmp_path: Path) -> None:
    pki = make_pki(tmp_path / "pki")
    secured = ("--tls", str(pki), "--client-auth")
    first = starting.launch("n1", "--bootstrap", *secured)
    first.wait_for_log("ready to serve clients")
    second = starting.launch("n2", "--join", f"https://{first.client}", *secured)
    second.wait_for_log("ready to serve clients")
    tls = ClientTls(TlsFiles.of(pki, "client"))
    with SyncClient([first.client], timeout=DEADLINE_S, tls=tls) as client:
        wait_until("two voters", lambda: [m.role for m in client.cluster_view().members] == ["voter"] * 2)
    plain = starting.launch("n3", "--join", first.client, "--join-timeout", "2s")
    assert plain.process is not None
    assert plain.process.wait(DEADLINE_S) != 0
    assert "this port speaks TLS" in plain.log


def test_machines_find_each_other_over_tls(starting: Starting, tmp_path: Path) -> None:
    pki = make_pki(tmp_path / "pki")
    ports = free_ports(6)
    nodes = [Node(name, tmp_path, *ports[2 * n : 2 * n + 2], []) for n, name in enumerate(MEMBERS)]
    starting.nodes += nodes
    for node in nodes:
        flags = ("--bootstrap-expect", "3", "--seeds", nodes[0].client, "--seeds", nodes[1].client)
        starting.run(node, "--tls", str(pki), "--client-auth", *flags)
    for node in nodes:
        node.wait_for_log("ready to serve clients")
    with SyncClient([nodes[2].client], timeout=DEADLINE_S, tls=ClientTls(TlsFiles.of(pki, "client"))) as client:
        assert {member.name for member in client.member_list().members} == set(MEMBERS)


def test_without_client_auth_the_authority_is_all_a_client_needs(starting: Starting, tmp_path: Path) -> None:
    pki = make_pki(tmp_path / "pki")
    node = starting.launch("n1", "--tls", str(pki))
    node.wait_for_log("ready to serve clients")
    with SyncClient([node.client], timeout=DEADLINE_S, tls=only_authority(pki)) as client:
        client.put("k", "v")
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.check_hostname = False
    host, _, port = node.peer.rpartition(":")
    with (
        pytest.raises((ssl.SSLError, ConnectionError), match=r"CERTIFICATE_REQUIRED|reset"),
        socket.create_connection((host, int(port)), timeout=DEADLINE_S) as plain,
        context.wrap_socket(plain) as connection,
    ):
        assert connection.recv(1) == b"?", "members always show each other certificates"
