"""Which certificates a member takes for its own, and where it refuses to do without."""

from pathlib import Path

import pytest

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.pki import init_authority, issue
from plasmacloud.base.tls import TlsFiles
from plasmacloud.chainfire.config import ServerConfig, make_config
from plasmacloud.chainfire.members import Member
from plasmacloud.chainfire.passports import misnamed
from plasmacloud.chainfire.security import Security, make_security
from plasmacloud.rpc.peer_wire import PeerClaim, RefusalCode


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    directory = tmp_path / "pki"
    init_authority(directory)
    issue(directory, "n1", ["127.0.0.1"])
    issue(directory, "n2", client_only=True)
    return directory


def config(security: Security | None = None, **changes: object) -> ServerConfig:
    settings: dict[str, object] = {
        "name": "n1",
        "data_dir": Path("unused"),
        "listen_client": "127.0.0.1:2379",
        "listen_peer": "127.0.0.1:2380",
    }
    return make_config(security=security, **{**settings, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["10.0.0.1:1", "0.0.0.0:1", "[::]:1", "n1.example:1"])
@pytest.mark.parametrize("flag", ["listen_client", "listen_peer"])
def test_plaintext_stays_on_this_machine_unless_somebody_insists(flag: str, address: str) -> None:
    with pytest.raises(ConfigError, match=f"--{flag.replace('_', '-')} .* in plaintext") as caught:
        config(**{flag: address})
    assert "--tls DIR" in str(caught.value.hint)
    assert "--insecure" in str(caught.value.hint)
    assert config(**{flag: address}, insecure=True).security == Security()


def test_a_directory_serves_both_sides(pki: Path) -> None:
    made = config(make_security("n1", pki), listen_client="0.0.0.0:1", listen_peer="0.0.0.0:2")
    assert made.security.clients == made.security.peers == TlsFiles.of(pki, "n1")
    assert made.advertise_client == ("https://0.0.0.0:1",)
    assert config(made.security, advertise_client=["http://n1:1", "n1:2"]).advertise_client == (
        "https://n1:1",
        "https://n1:2",
    )


def test_files_for_one_side_leave_the_other_in_plaintext(pki: Path) -> None:
    files = TlsFiles.of(pki, "n1")
    for_clients = make_security("n1", clients=files)
    assert (for_clients.client_scheme, for_clients.peer_scheme) == ("https", "http")
    with pytest.raises(ConfigError, match="--listen-peer"):
        config(for_clients, listen_peer="10.0.0.1:1")
    for_peers = make_security("n1", peers=files)
    assert (for_peers.client_scheme, for_peers.peer_scheme) == ("http", "https")
    with pytest.raises(ConfigError, match="--listen-client"):
        config(for_peers, listen_client="10.0.0.1:1")


def test_single_files_go_before_the_directory(pki: Path, tmp_path: Path) -> None:
    other = TlsFiles(tmp_path / "public.crt", tmp_path / "public.key")
    made = make_security("n1", pki, clients=other, peers=TlsFiles())
    assert (made.clients, made.peers) == (other, TlsFiles.of(pki, "n1"))


def test_what_cannot_work_is_refused_with_the_flags_that_are_missing(pki: Path) -> None:
    files = TlsFiles.of(pki, "n1")
    with pytest.raises(ConfigError, match="--client-auth") as caught:
        make_security("n1", client_auth=True)
    assert "--trusted-ca-file" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="--client-auth"):
        make_security("n1", client_auth=True, clients=TlsFiles(files.certificate, files.key))
    with pytest.raises(ConfigError, match="show each other certificates") as caught:
        make_security("n1", peers=TlsFiles(files.certificate, files.key))
    assert "--peer-trusted-ca-file" in str(caught.value.hint)


def test_a_certificate_of_somebody_else_is_refused_at_the_start(pki: Path) -> None:
    with pytest.raises(ConfigError, match="certificate of 'n1', and this member is called 'n3'"):
        config(make_security("n3", peers=TlsFiles.of(pki, "n1")), name="n3")


def test_a_certificate_of_a_client_is_refused_at_the_start(pki: Path) -> None:
    with pytest.raises(ConfigError, match="no member's certificate: it may not be used by servers") as caught:
        config(make_security("n2", pki), name="n2")
    assert "without --client" in str(caught.value.hint)


def test_a_directory_without_this_members_files_is_refused_by_name(pki: Path) -> None:
    with pytest.raises(ConfigError, match=r"n9\.crt"):
        config(make_security("n9", pki), name="n9")


def test_a_certificate_speaks_only_for_the_member_of_its_name() -> None:
    member = Member(id=7, name="n7", peers=())
    nameless = Member(id=8, name="", peers=())

    def claim(member_id: int, certified: str) -> PeerClaim:
        return PeerClaim(member_id, birth=1, incarnation=1, certified=certified)

    assert misnamed(claim(7, "n7"), member) is None
    refusal = misnamed(claim(7, "n6"), member)
    assert refusal is not None
    assert refusal.code is RefusalCode.CERTIFICATE
    assert "member 7 is 'n7', and the certificate is that of 'n6'" in refusal.reason
    assert misnamed(claim(8, "n6"), nameless) is None, "its first certificate tells its name"
    assert misnamed(claim(9, "n6"), None) is None, "a member that is not known here yet may lead already"
    assert misnamed(claim(7, ""), member) is None, "in plaintext nobody shows anything"
