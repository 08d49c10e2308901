"""Who may change something: tokens, client certificates, and what is refused before the server starts."""

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from server_rig import Rig, call, eventually, new_name, running_rig

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.pki import init_authority, issue
from plasmacloud.election.http_auth import Door, check_operator, subject_of
from plasmacloud.election.http_client import HttpFailed, client_tls
from plasmacloud.election.http_problems import Problem
from plasmacloud.election.token_file import read_token

TOKEN = "0123456789abcdef-secret"
ORDER = json.dumps({"operator": "ann", "reason": "drill"}).encode()
UNNAMED = json.dumps({"reason": "drill"}).encode()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_rig(tmp_path_factory.mktemp("guarded")) as rig:
        yield rig


@pytest.fixture
def rig(shared: Rig) -> Iterator[Rig]:
    """The database of all; the servers that a test starts end with it."""
    yield shared
    shared.stop_servers()


def test_a_token_is_asked_for_and_never_shown(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    server = rig.server("n1", "--token-file", str(file), "--log-level", "debug", election=new_name())
    server.wait_ready()
    eventually("it leads", lambda: server.leads)
    for wrong in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"authorization": f"Basic {TOKEN}"}):
        refused = server.post("/v1/ha/failover", ORDER, **wrong)
        assert refused.status == 401
        assert refused.json()["type"] == "urn:plasma:problem:unauthenticated"
        assert refused.headers["www-authenticate"] == "Bearer"
    assert call("PUT", f"{server.url}/v1/probe/a", b'{"value": "x"}').status == 401
    with_token = {"authorization": f"Bearer {TOKEN}"}
    assert call("PUT", f"{server.url}/v1/probe/a", b'{"value": "x"}', headers=with_token).status == 200
    assert server.post("/v1/ha/failover", ORDER, **with_token).json()["type"] == "urn:plasma:problem:no-contender"
    rows = rig.sql(
        "SELECT outcome, details->>'problem' FROM ha_audit WHERE election = $1 ORDER BY id", server.status()["election"]
    )
    assert rows == [("refused", "unauthenticated")] * 4 + [("requested", None), ("refused", "no-contender")]
    assert TOKEN not in server.log
    assert TOKEN not in Path(f"/proc/{server.process.pid}/cmdline").read_text()


def test_a_client_certificate_names_the_operator(rig: Rig, tmp_path: Path) -> None:
    pki, other = tmp_path / "pki", tmp_path / "other"
    for directory, holder in ((pki, "ann"), (other, "eve")):
        init_authority(directory)
        issue(directory, "n1", hosts=["127.0.0.1"])
        issue(directory, holder, hosts=[], client_only=True)
    flags = ["--tls-cert", f"{pki}/n1.crt", "--tls-key", f"{pki}/n1.key", "--client-ca", f"{pki}/ca.crt"]
    server = rig.server("n1", *flags, election=new_name())
    anonymous = client_tls(ca=pki / "ca.crt")
    ann = client_tls(ca=pki / "ca.crt", cert=pki / "ann.crt", key=pki / "ann.key")

    def leading() -> dict[str, Any] | None:
        try:
            said = call("GET", server.url + "/v1/ha/status", tls=anonymous).json()
        except HttpFailed:
            return None
        return said if said["quorum_health"] == "healthy" and said["role"] == "leader" else None

    status = eventually("it leads", leading)
    assert status["url"].startswith("https://")
    assert call("POST", server.url + "/v1/ha/failover", ORDER, tls=anonymous).status == 401
    refused = call("POST", server.url + "/v1/ha/failover", UNNAMED, tls=ann)
    assert refused.json()["type"] == "urn:plasma:problem:no-contender"
    rows = rig.sql(
        "SELECT operator, outcome, details->>'certificate' FROM ha_audit WHERE election = $1 ORDER BY id",
        status["election"],
    )
    assert rows == [("ann", "refused", ""), ("ann", "requested", "ann"), ("ann", "refused", "ann")]
    with pytest.raises(HttpFailed, match="not trusted"):
        call("GET", server.url + "/livez", tls=client_tls(ca=other / "ca.crt"))
    eve = client_tls(ca=pki / "ca.crt", cert=other / "eve.crt", key=other / "eve.key")
    with pytest.raises(HttpFailed):
        call("GET", server.url + "/livez", tls=eve)


def test_a_certificate_that_is_replaced_is_served_without_a_restart(rig: Rig, tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    init_authority(pki)
    issue(pki, "n1", hosts=["127.0.0.1"])
    issue(pki, "ann", hosts=[], client_only=True)
    flags = ["--tls-cert", f"{pki}/n1.crt", "--tls-key", f"{pki}/n1.key", "--client-ca", f"{pki}/ca.crt"]
    server = rig.server("n1", *flags, election=new_name())
    ann = client_tls(ca=pki / "ca.crt", cert=pki / "ann.crt", key=pki / "ann.key")
    port = int(server.url.rpartition(":")[2])

    def serial() -> int | None:
        try:
            pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=10)
        except OSError:
            return None
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    before = eventually("it serves", serial)
    issue(pki, "n1", hosts=["127.0.0.1"], replace=True)
    eventually("the new one is served", lambda: serial() not in (None, before))
    refused = call("POST", server.url + "/v1/ha/failover", UNNAMED, tls=ann)
    assert refused.status == 409, "clients' certificates are still looked at"
    assert "certificate replaced" in server.log
    (pki / "n1.crt").write_text("no certificate")
    eventually("the file is looked at", lambda: serial() and "the old one stays" in server.log)
    assert call("GET", server.url + "/livez", tls=ann).status == 200


def test_pages_of_other_origins_change_nothing(rig: Rig) -> None:
    server = rig.server("n1", election=new_name())
    eventually("it leads", lambda: server.leads)
    refused = server.post("/v1/ha/failover", ORDER, origin="http://evil.example")
    assert refused.status == 403
    own = server.post("/v1/ha/failover", ORDER, origin=server.url)
    assert own.json()["type"] == "urn:plasma:problem:no-contender"


@pytest.mark.parametrize("content", ["", "short", "with a space in it and long", "x" * 15, "ü" * 20])
def test_what_is_no_token(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(ConfigError) as refused:
        read_token(file)
    assert not content or content not in str(refused.value).replace(str(file), "")


def test_either_way_will_do() -> None:
    both = Door(token=TOKEN, certificates=True)
    both.admit(authorization=f"bearer {TOKEN}", subject="", origin="", host="h")
    both.admit(authorization="", subject="ann", origin="", host="h")
    with pytest.raises(Problem):
        both.admit(authorization="", subject="", origin="", host="h")
    with pytest.raises(Problem):  # a certificate proves nothing where none was asked for
        Door(token=TOKEN, certificates=False).admit(authorization="", subject="ann", origin="", host="h")


def test_operators_have_names() -> None:
    assert check_operator(" ann ", "", "why") == "ann"
    assert check_operator("", "bob", "why") == "bob"
    for operator, reason in (("", "why"), ("x" * 129, "why"), ("a\nb", "why"), ("ann", " "), ("ann", "x" * 1025)):
        with pytest.raises(Problem):
            check_operator(operator, "", reason)


def test_the_name_in_a_certificate() -> None:
    assert subject_of(None) == ""
    assert subject_of({"subject": ((("organizationName", "o"),), (("commonName", "ann"),))}) == "ann"
    assert subject_of({"subject": (), "subjectAltName": (("DNS", "host"),)}) == "host"
