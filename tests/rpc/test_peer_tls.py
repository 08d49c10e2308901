"""Members over mutual TLS: who gets in, under which name, and that both sides say why somebody does not."""

import asyncio
import contextlib
import gc
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from peer_members import Caller, Member, fully_connected, run, until

from plasmacloud.base import pki as pki_module
from plasmacloud.base.pki import init_authority, issue
from plasmacloud.base.tls import ClientTls, ServerTls, TlsFiles
from plasmacloud.rpc.peer import PeerOptions
from plasmacloud.rpc.peer_passport import ALPN
from plasmacloud.rpc.peer_wire import PeerClaim, Refusal, RefusalCode, decode_refusal
from plasmacloud.rpc.tls_listener import TlsListener

SOON = PeerOptions(retry_min_s=0.01, retry_max_s=0.02, refused_retry_min_s=0.01, refused_retry_max_s=0.02)


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    directory = tmp_path / "pki"
    init_authority(directory)
    for name in ("one", "two", "three"):
        issue(directory, name, ["127.0.0.1"])
    issue(directory, "client", client_only=True)
    return directory


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the transports of this process log, one line each."""
    lines: list[str] = []

    class Log:
        def write(self, event: str, **fields: object) -> None:
            lines.append(f"{event} {fields.get('reason', '')}")

        debug = info = warning = error = write

    for module in ("peer", "peer_door"):
        monkeypatch.setattr(f"plasmacloud.rpc.{module}.log", Log())
    return lines


def secured(pki: Path, member_id: int, name: str, certificate: str = "", **more: object) -> Member:
    files = TlsFiles.of(pki, certificate or name)
    return Member(
        member_id,
        name=name,
        server_tls=ServerTls(files, require_client=True, protocols=(ALPN,)),
        client_tls=ClientTls(files, protocols=(ALPN,), check_server_name=False),
        options=SOON,
        **more,
    )


async def meet(one: Member, two: Member) -> None:
    await one.start()
    await two.start()
    one.knows(2, two.port)
    two.knows(1, one.port)


def test_frames_pass_in_both_directions(pki: Path) -> None:
    async def scene() -> None:
        one, two = secured(pki, 1, "one"), secured(pki, 2, "two")
        await meet(one, two)
        await until(lambda: fully_connected(one, 2) and fully_connected(two, 1))
        assert one.transport.send(2, b"x" * 3_000_000)
        assert two.transport.send(1, b"y")
        await until(lambda: two.frames == [(1, b"x" * 3_000_000)] and one.frames == [(2, b"y")])
        await two.close()
        await until(lambda: one.lost == [2])

    run(scene)


def test_a_member_that_is_called_differently_than_its_certificate_is_refused_and_both_say_so(
    pki: Path, logged: list[str]
) -> None:
    async def scene() -> None:
        logged.clear()
        one, two = secured(pki, 1, "one"), secured(pki, 2, "two", certificate="three")
        await meet(one, two)
        reason = "it calls itself 'two', and its certificate is that of 'three'"
        await until(lambda: any(line.startswith("refused a peer") and reason in line for line in logged))
        await until(lambda: any(line.startswith("cannot connect to peer") and reason in line for line in logged))
        assert not one.frames
        assert 2 not in one.connected or not one.peer(2).incoming

    run(scene)


def test_a_judge_learns_whose_certificate_it_is_in_both_directions(pki: Path) -> None:
    async def scene() -> None:
        asked: list[tuple[int, str]] = []

        def judge(claim: PeerClaim) -> Refusal | None:
            asked.append((claim.member_id, claim.certified))
            return Refusal(RefusalCode.CERTIFICATE, "not that one") if claim.certified == "three" else None

        one = secured(pki, 1, "one", judge=judge)
        two = secured(pki, 2, "three")
        await meet(one, two)
        await until(lambda: asked.count((2, "three")) >= 2)
        await until(lambda: "not that one" in (two.peer(1).last_error or ""))
        assert one.connected == [] == two.connected

    run(scene)


def test_a_clients_certificate_is_no_members(pki: Path) -> None:
    async def scene() -> None:
        one = await secured(pki, 1, "one").start()
        context = ClientTls(TlsFiles.of(pki, "client"), check_server_name=False).context
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port, ssl=context)
        caller = Caller(reader, writer)
        writer.write(Caller.greeting(member_id=2))
        _, payload = await caller.read_frame()
        refusal = decode_refusal(payload)
        assert refusal.code is RefusalCode.CERTIFICATE
        assert "the certificate of 'client' is no member's" in refusal.reason
        await caller.closed_by_other_side()

    run(scene)


@pytest.mark.parametrize("shown", ["nothing", "a stranger's", "an expired one"])
def test_who_has_no_certificate_of_the_authority_hears_why(
    pki: Path, tmp_path: Path, logged: list[str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shown == "a stranger's":
        init_authority(tmp_path / "other")
        issue(tmp_path / "other", "two", ["127.0.0.1"])
        files = TlsFiles(tmp_path / "other" / "two.crt", tmp_path / "other" / "two.key", pki / "ca.crt")
    elif shown == "an expired one":
        expire(pki, "two", monkeypatch)
        files = TlsFiles.of(pki, "two")
    else:
        files = TlsFiles(authority=pki / "ca.crt")
    told, heard = {
        "nothing": ("it shows no certificate", "wants to see a certificate"),
        "a stranger's": ("unable to get local issuer certificate", "does not know the authority"),
        "an expired one": ("certificate has expired", "finds this side's certificate expired"),
    }[shown]

    async def scene() -> None:
        logged.clear()
        one = await secured(pki, 1, "one").start()
        two = Member(2, name="two", client_tls=ClientTls(files, check_server_name=False), options=SOON)
        await two.start()
        two.knows(1, one.port)
        await until(lambda: any(line.startswith("closed a connection") and told in line for line in logged))
        await until(lambda: any(line.startswith("cannot connect to peer") and heard in line for line in logged))
        assert one.connected == [] == two.connected

    run(scene)


def test_a_listener_with_a_strangers_certificate_gets_no_greeting_and_both_say_why(
    pki: Path, tmp_path: Path, logged: list[str]
) -> None:
    init_authority(tmp_path / "other")
    issue(tmp_path / "other", "one", ["127.0.0.1"])

    async def scene() -> None:
        logged.clear()
        one = await secured(tmp_path / "other", 1, "one").start()
        two = await secured(pki, 2, "two").start()
        two.knows(1, one.port)
        await until(lambda: any("cannot connect to peer its certificate is not accepted" in line for line in logged))
        await until(lambda: any("closed a connection" in line and "does not know the auth" in line for line in logged))

    run(scene)


def test_plaintext_and_tls_tell_each_other_apart(pki: Path) -> None:
    async def scene() -> None:
        one = await secured(pki, 1, "one").start()
        plain = await Member(2, options=SOON).start()
        plain.knows(1, one.port)
        one.knows(2, plain.port)
        await until(lambda: "over TLS here" in (plain.peer(1).last_error or ""))
        await until(lambda: "does it speak TLS there?" in (one.peer(2).last_error or ""))

    run(scene)


def test_replaced_files_are_used_from_the_next_connection_on(pki: Path) -> None:
    async def scene() -> None:
        one, two = secured(pki, 1, "one"), secured(pki, 2, "two")
        await meet(one, two)
        await until(lambda: fully_connected(one, 2) and fully_connected(two, 1))
        renewed = issue(pki, "one", ["127.0.0.1"], replace=True)
        assert one.transport.send(2, b"before"), "what stands is not touched"
        context = ClientTls(TlsFiles.of(pki, "three"), check_server_name=False).context

        async def shown() -> int:
            _, writer = await asyncio.open_connection("127.0.0.1", one.port, ssl=context)
            serial = int(writer.get_extra_info("peercert")["serialNumber"], 16)
            writer.transport.abort()
            return serial

        while await shown() != renewed.serial:
            await asyncio.sleep(0.05)
        assert one.lost == [] == two.lost

    run(scene)


def test_connections_that_never_begin_the_handshake_give_way(pki: Path) -> None:
    async def scene() -> None:
        options = PeerOptions(max_unauthenticated=4, handshake_timeout_s=3600.0)
        files = TlsFiles.of(pki, "one")
        one = Member(1, name="one", server_tls=ServerTls(files, require_client=True), options=options)
        await one.start()
        silent = [await Caller.dial(one.port) for _ in range(6)]
        await silent[0].closed_by_other_side()
        await silent[1].closed_by_other_side()
        two = await secured(pki, 2, "two").start()
        two.knows(1, one.port)
        await until(lambda: two.peer(1).connected)

    run(scene)


def test_a_connection_that_gives_way_before_its_handshake_begins_is_closed(pki: Path) -> None:
    """Both wait to be accepted when the listener starts, which takes them in one go."""

    async def scene() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        first, second = (socket.create_connection(listening.getsockname()) for _ in range(2))
        with first, second:
            first.setblocking(False)
            listener = TlsListener(
                [listening],
                ServerTls(TlsFiles.of(pki, "one")),
                asyncio.Protocol,
                on_refused=lambda _place, _reason: None,
                to_plaintext=lambda _error: b"",
                max_handshakes=1,
            )
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.get_running_loop().sock_recv(first, 1) == b""
            listener.close()
            await listener.wait_closed()
        gc.collect()  # a socket that nobody closed is a ResourceWarning, and that an error

    run(scene)


def expire(pki: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace a certificate with one of ten days ago, for five days."""

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) - timedelta(days=10)

    with monkeypatch.context() as past:
        past.setattr(pki_module, "datetime", Earlier)
        issue(pki, name, ["127.0.0.1"], days=5, replace=True)


def test_without_certificates_nothing_is_said_of_them() -> None:
    """The judge of members in plaintext is asked about claims without a name."""

    async def scene() -> None:
        asked: list[str] = []

        def judge(claim: PeerClaim) -> None:
            asked.append(claim.certified)

        one, two = Member(1, judge=judge), Member(2)
        await meet(one, two)
        await until(lambda: len(asked) == 2)
        assert asked == ["", ""]

    run(scene)


def test_a_context_for_members_offers_no_session_to_come_back_with(pki: Path) -> None:
    context = ServerTls(TlsFiles.of(pki, "one"), require_client=True).context
    assert context.num_tickets == 0
    assert context.options & ssl.OP_NO_TICKET
