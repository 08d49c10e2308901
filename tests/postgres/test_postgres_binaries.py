"""Where a server is looked for, how root gives up its rights, and what is said when it cannot be run."""

from pathlib import Path

import pytest

from plasmacloud.base.errors import ExitCode
from plasmacloud.postgres import Binaries, binaries, find_binaries, privileges
from plasmacloud.postgres.errors import DiskFull, PortTaken, PostgresError, PostgresUnavailable, explain

NO_NAMESPACES = ("false", "--")


def program(directory: Path, name: str, text: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{text}\n")
    (directory / name).chmod(0o755)


def installation(directory: Path, version: str) -> Path:
    for name in binaries.NEEDED:
        program(directory, name, f"echo 'postgres (PostgreSQL) {version}'")
    return directory


def test_the_wheel_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installation(tmp_path / "17" / "bin", "17.2")
    monkeypatch.setattr(binaries, "DEBIAN", tmp_path)
    found = find_binaries()
    assert (found.source == "wheel") == (binaries.importlib.util.find_spec(binaries.WHEEL) is not None)


def test_then_the_newest_of_debians_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binaries, "WHEEL", "no_such_wheel")
    monkeypatch.setattr(binaries, "DEBIAN", tmp_path)
    installation(tmp_path / "9" / "bin", "9.6.1")
    installation(tmp_path / "17" / "bin", "17.2 (Debian 17.2-1)")
    found = find_binaries()
    assert (found.version, found.major, found.source) == ("17.2", 17, "Debian package")


def test_a_directory_that_was_named_is_never_replaced(tmp_path: Path) -> None:
    assert find_binaries(installation(tmp_path / "bin", "16.1")).version == "16.1"
    assert find_binaries(tmp_path).version == "16.1"
    with pytest.raises(PostgresUnavailable, match="has no initdb"):
        find_binaries(tmp_path / "elsewhere")


def test_one_that_cannot_be_run_here_is_passed_over_unless_it_was_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(binaries, "WHEEL", "no_such_wheel")
    monkeypatch.setattr(binaries, "DEBIAN", tmp_path)
    newer, older = (installation(tmp_path / major / "bin", f"{major}.1") for major in ("17", "16"))

    def suits(found: Binaries) -> None:
        if found.directory == newer:
            raise PostgresUnavailable("only root can read it", hint="be root")

    assert find_binaries(suits=suits).directory == older
    with pytest.raises(PostgresUnavailable, match="only root"):
        find_binaries(newer, suits=suits)


def test_an_old_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PostgresUnavailable, match=r"13\.4, which is too old") as caught:
        find_binaries(installation(tmp_path, "13.4"))
    assert caught.value.exit_code is ExitCode.CONFIG


def test_without_any_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binaries, "WHEEL", "no_such_wheel")
    monkeypatch.setattr(binaries, "DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PostgresUnavailable, match="no PostgreSQL server found") as caught:
        find_binaries()
    assert "plasmacloud[postgres]" in (caught.value.hint or "")


def test_who_is_not_root_needs_nothing(tmp_path: Path) -> None:
    assert privileges._choose(tmp_path, 1000).prefix == ()


def test_root_without_namespaces_and_without_an_account_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(privileges, "NAMESPACE", NO_NAMESPACES)
    monkeypatch.setattr(privileges, "ACCOUNT", "nobody-by-this-name")
    installation(tmp_path, "18.1")
    with pytest.raises(PostgresUnavailable, match="there is no account nobody-by-this-name") as caught:
        privileges._choose(tmp_path, 0)
    assert "user namespaces" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("output", "kind", "words"),
    [
        ('LOG: could not bind IPv4 address "127.0.0.1": Address already in use', PortTaken, "port is taken"),
        ('initdb: error: could not write to file "x": No space left on device', DiskFull, "disk is full"),
        ("2026 [1] FATAL:  could not open control file", PostgresError, "could not open control file"),
        ("Segmentation fault", PostgresError, "does not say why"),
        ("initdb: error: cannot be run as root", PostgresUnavailable, "as root"),
    ],
)
def test_the_servers_words_become_an_error(output: str, kind: type[Exception], words: str) -> None:
    error = explain("pg did not start", output)
    assert type(error) is kind
    assert words in str(error)
