"""The cluster's own authority: what it signs, what it refuses, and that OpenSSL agrees."""

import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.pki import init_authority, issue, list_certificates, read_certificate, verify_issued


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    init_authority(tmp_path / "pki", name="test")
    return tmp_path / "pki"


def test_keys_are_for_their_owner_alone(pki: Path) -> None:
    issue(pki, "n1", ["127.0.0.1"])
    for name in ("ca.key", "n1.key"):
        assert stat.S_IMODE((pki / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((pki / "ca.crt").stat().st_mode) == 0o644


def test_openssl_accepts_the_chain_for_its_hosts_and_no_others(pki: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    issue(pki, "n1", ["127.0.0.1", "n1.example", "::1"])
    issue(pki, "reader", client_only=True)

    def accepts(name: str, *extra: str) -> bool:
        argv = ["openssl", "verify", "-x509_strict", "-CAfile", str(pki / "ca.crt"), *extra, str(pki / f"{name}.crt")]
        return subprocess.run(argv, capture_output=True, timeout=20, check=False).returncode == 0

    assert accepts("n1", "-purpose", "sslserver", "-verify_ip", "127.0.0.1")
    assert accepts("n1", "-purpose", "sslclient", "-verify_hostname", "n1.example")
    assert not accepts("n1", "-verify_ip", "127.0.0.2")
    assert accepts("reader", "-purpose", "sslclient")
    assert not accepts("reader", "-purpose", "sslserver")


def test_nothing_is_overwritten_by_accident(pki: Path) -> None:
    first = issue(pki, "n1", ["127.0.0.1"])
    key = (pki / "n1.key").read_bytes()
    with pytest.raises(ConfigError, match="already has a certificate"):
        issue(pki, "n1", ["127.0.0.1"])
    with pytest.raises(ConfigError, match="worthless"):
        init_authority(pki)
    assert (pki / "n1.key").read_bytes() == key
    renewed = issue(pki, "n1", ["127.0.0.1"], replace=True)
    assert renewed.serial != first.serial
    assert (pki / "n1.key").read_bytes() != key


@pytest.mark.parametrize("name", ["", "ca", "../n1", "n 1", "a" * 65, "-n1"])
def test_names_that_cannot_be_files_are_refused(pki: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a certificate"):
        issue(pki, name, ["127.0.0.1"])


@pytest.mark.parametrize("host", ["10.0.0.1:2379", "a b", "http://n1", "n1..example", ""])
def test_hosts_that_are_none_are_refused(pki: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="neither a host name nor an IP address"):
        issue(pki, "n1", [host])
    assert not (pki / "n1.crt").exists()


def test_a_server_without_an_address_is_refused(pki: Path) -> None:
    with pytest.raises(ConfigError, match="no address"):
        issue(pki, "n1")


def test_nothing_outlives_the_authority(tmp_path: Path) -> None:
    init_authority(tmp_path, days=10)
    with pytest.raises(ConfigError, match="longer than the authority"):
        issue(tmp_path, "n1", ["127.0.0.1"], days=11)


def test_the_list_tells_whose_a_certificate_is_and_when_it_ends(pki: Path, tmp_path: Path) -> None:
    init_authority(tmp_path / "other")
    stranger = issue(tmp_path / "other", "stranger", ["127.0.0.1"])
    issue(pki, "n1", ["127.0.0.1", "n1.example"], days=30)
    shutil.copy(stranger.path, pki / "stranger.crt")
    found = list_certificates(pki)
    assert [c.name for c in found] == ["test CA", "n1", "stranger"]
    assert set(found[1].hosts) == {"127.0.0.1", "n1.example"}
    assert [verify_issued(pki, c) for c in found] == [True, True, False]
    assert 29 < found[1].days_left(datetime.now(UTC)) <= 30
    assert found[1].days_left(datetime.now(UTC) + timedelta(days=31)) < 0


def test_files_that_are_no_certificates_are_named(pki: Path) -> None:
    (pki / "n1.crt").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"n1\.crt is not a PEM certificate"):
        read_certificate(pki / "n1.crt")
    (pki / "ca.key").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"ca\.key is not an unencrypted PEM key"):
        issue(pki, "n2", ["127.0.0.1"])
    (pki / "ca.key").unlink()
    with pytest.raises(ConfigError, match=r"cannot read .*ca\.key"):
        issue(pki, "n2", ["127.0.0.1"])
