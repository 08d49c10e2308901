"""gRPC over TLS: who gets in, what is agreed on, and certificates replaced under a running server."""

import asyncio
import shutil
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rpc_harness import run

from plasmacloud.base import pki as pki_module
from plasmacloud.base.errors import ConfigError
from plasmacloud.base.pki import init_authority, issue
from plasmacloud.base.tls import ClientTls, ServerTls, TlsFiles
from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.health import HealthService, ServingStatus
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.service import ServiceTable
from plasmacloud.rpc.status import Execution, RpcError, StatusCode

CHECK = "/grpc.health.v1.Health/Check"


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    directory = tmp_path / "pki"
    init_authority(directory)
    issue(directory, "server", ["127.0.0.1"])
    issue(directory, "client", client_only=True)
    return directory


def health_server() -> Server:
    table = ServiceTable()
    health = HealthService()
    health.register(table)
    health.set("", ServingStatus.SERVING)
    return Server(table)


def only_authority(pki: Path) -> ClientTls:
    return ClientTls(TlsFiles(authority=pki / "ca.crt"))


async def ask(port: int, tls: ClientTls | None) -> bytes:
    channel = Channel("127.0.0.1", port, tls=tls)
    try:
        await channel.connect(5.0)
        return await channel.unary(CHECK, b"", timeout=5.0)
    finally:
        await channel.close()


def test_a_call_over_tls(pki: Path) -> None:
    async def main() -> None:
        server = health_server()
        _, port = await server.start("127.0.0.1", 0, tls=ServerTls(TlsFiles.of(pki, "server")))
        try:
            assert await ask(port, only_authority(pki)) == b"\x08\x01"
        finally:
            await server.close(1.0)

    run(main())


def test_a_client_that_does_not_know_the_authority_sends_nothing(pki: Path, tmp_path: Path) -> None:
    init_authority(tmp_path / "other")

    async def main() -> None:
        server = health_server()
        _, port = await server.start("127.0.0.1", 0, tls=ServerTls(TlsFiles.of(pki, "server")))
        try:
            with pytest.raises(RpcError, match="certificate is not accepted") as caught:
                await ask(port, only_authority(tmp_path / "other"))
            assert caught.value.code is StatusCode.UNAVAILABLE
            assert caught.value.executed is Execution.NOT_EXECUTED
        finally:
            await server.close(1.0)

    run(main())


def test_a_certificate_for_another_host_is_not_accepted(pki: Path) -> None:
    issue(pki, "elsewhere", ["10.9.9.9"])

    async def main() -> None:
        server = health_server()
        _, port = await server.start("127.0.0.1", 0, tls=ServerTls(TlsFiles.of(pki, "elsewhere")))
        try:
            with pytest.raises(RpcError, match="certificate is not accepted"):
                await ask(port, only_authority(pki))
        finally:
            await server.close(1.0)

    run(main())


def test_an_expired_certificate_is_called_so(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Earlier(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) - timedelta(days=10)

    with monkeypatch.context() as past:
        past.setattr(pki_module, "datetime", Earlier)
        issue(pki, "server", ["127.0.0.1"], days=5, replace=True)

    async def main() -> None:
        server = health_server()
        _, port = await server.start("127.0.0.1", 0, tls=ServerTls(TlsFiles.of(pki, "server")))
        try:
            with pytest.raises(RpcError, match="the server's certificate is not accepted: certificate has expired"):
                await ask(port, only_authority(pki))
        finally:
            await server.close(1.0)

    run(main())


def test_mutual_tls_lets_in_only_holders_of_a_certificate(pki: Path) -> None:
    async def main() -> None:
        server = health_server()
        tls = ServerTls(TlsFiles.of(pki, "server"), require_client=True)
        _, port = await server.start("127.0.0.1", 0, tls=tls)
        try:
            assert await ask(port, ClientTls(TlsFiles.of(pki, "client"))) == b"\x08\x01"
            with pytest.raises(RpcError, match="wants to see a certificate") as caught:
                await ask(port, only_authority(pki))
            assert caught.value.code is StatusCode.UNAVAILABLE
        finally:
            await server.close(1.0)

    run(main())


def test_plaintext_to_a_tls_port_and_the_reverse_fail_cleanly(pki: Path) -> None:
    async def main() -> None:
        secure, plain = health_server(), health_server()
        _, secure_port = await secure.start("127.0.0.1", 0, tls=ServerTls(TlsFiles.of(pki, "server")))
        _, plain_port = await plain.start("127.0.0.1", 0)
        try:
            for port, tls, told in (
                (secure_port, None, "this port speaks TLS"),
                (plain_port, only_authority(pki), "does not speak TLS"),
            ):
                with pytest.raises(RpcError, match=told) as caught:  # at once, not when the time is up
                    await ask(port, tls)
                assert caught.value.code is StatusCode.UNAVAILABLE
            assert await ask(secure_port, only_authority(pki)) == b"\x08\x01", "the server goes on"
            assert await ask(plain_port, None) == b"\x08\x01"
        finally:
            await secure.close(1.0)
            await plain.close(1.0)

    run(main())


def test_new_files_are_taken_over_and_bad_ones_are_not(pki: Path) -> None:
    now = [0.0]

    async def serial(port: int) -> int:
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        try:
            return int(writer.get_extra_info("peercert")["serialNumber"], 16)
        finally:
            writer.close()

    async def main() -> None:
        server = health_server()
        tls = ServerTls(TlsFiles.of(pki, "server"), clock=lambda: now[0])
        _, port = await server.start("127.0.0.1", 0, tls=tls)
        try:
            first = await serial(port)
            good = {name: (pki / name).read_bytes() for name in ("server.crt", "server.key")}
            (pki / "server.key").write_bytes((pki / "client.key").read_bytes())
            now[0] += 2
            assert await serial(port) == first, "a key that does not fit changes nothing"
            (pki / "server.key").write_bytes(good["server.key"])
            renewed = issue(pki, "server", ["127.0.0.1"], replace=True)
            now[0] += 2
            assert await serial(port) == renewed.serial != first
            assert tls.reloads == 1
        finally:
            await server.close(1.0)

    run(main())


@pytest.mark.parametrize("broken", ["missing", "not a key", "another's key", "no key"])
def test_files_that_cannot_be_used_are_named(pki: Path, broken: str) -> None:
    files = TlsFiles.of(pki, "server")
    assert files.key is not None
    if broken == "missing":
        files.key.unlink()
    elif broken == "not a key":
        files.key.write_text("nonsense")
    elif broken == "another's key":
        shutil.copy(pki / "client.key", files.key)
    else:
        files = TlsFiles(certificate=files.certificate, authority=files.authority)
    with pytest.raises(ConfigError, match=r"server\.key|no key"):
        ServerTls(files)


def test_two_authorities_in_one_file_are_both_believed(pki: Path, tmp_path: Path) -> None:
    """How an authority is replaced without a moment in which nobody believes anybody."""
    init_authority(tmp_path / "next")
    issue(tmp_path / "next", "client", client_only=True)
    both = tmp_path / "both.crt"
    both.write_bytes((pki / "ca.crt").read_bytes() + (tmp_path / "next" / "ca.crt").read_bytes())

    async def main() -> None:
        server = health_server()
        files = TlsFiles(pki / "server.crt", pki / "server.key", both)
        _, port = await server.start("127.0.0.1", 0, tls=ServerTls(files, require_client=True))
        try:
            for directory in (pki, tmp_path / "next"):
                shown = TlsFiles(directory / "client.crt", directory / "client.key", both)
                assert await ask(port, ClientTls(shown)) == b"\x08\x01"
        finally:
            await server.close(1.0)

    run(main())


def test_mutual_tls_needs_an_authority(pki: Path) -> None:
    files = TlsFiles.of(pki, "server")
    with pytest.raises(ConfigError, match="no authority"):
        ServerTls(TlsFiles(files.certificate, files.key), require_client=True)


def test_curl_agrees_on_http2(pki: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")

    async def main() -> str:
        server = health_server()
        _, port = await server.start("127.0.0.1", 0, tls=ServerTls(TlsFiles.of(pki, "server")))
        argv = [curl, "-s", "--http2", "--cacert", str(pki / "ca.crt"), "-H", "content-type: application/grpc"]
        argv += ["-H", "te: trailers", "--data-binary", "@-", "-o", str(pki / "out"), "-w", "%{http_version}"]
        try:
            done = await asyncio.to_thread(
                subprocess.run,
                [*argv, f"https://127.0.0.1:{port}{CHECK}"],
                input=b"\0\0\0\0\0",
                capture_output=True,
                timeout=20,
            )
        finally:
            await server.close(1.0)
        return done.stdout.decode()

    assert run(main()) == "2"
    assert (pki / "out").read_bytes() == b"\0\0\0\0\x02\x08\x01"
