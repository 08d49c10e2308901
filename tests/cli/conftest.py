"""The command line in this process (`plasma`), and a real etcd to point it at."""

from collections.abc import Iterator

import pytest
from cli_runner import Etcd, Plasma
from click.testing import CliRunner, Result

from plasmacloud.cli.main import cli


@pytest.fixture(scope="session")
def etcd_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Three members: enough for a leader to move."""
    cluster = Etcd(tmp_path_factory.mktemp("etcd"), members=3)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def plasma(monkeypatch: pytest.MonkeyPatch) -> Plasma:
    """Run a command line without a cluster."""
    for name in ("PLASMA_ENDPOINTS", "PLASMA_CONFIG", "PLASMA_OUTPUT", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str, input: str | bytes | None = None, **env: str) -> Result:
        return CliRunner().invoke(cli, args, input=input, env=env)

    return run


@pytest.fixture
def kv(plasma: Plasma, etcd_cluster: Etcd, monkeypatch: pytest.MonkeyPatch) -> Plasma:
    """Run a command line against the etcd cluster."""
    monkeypatch.setenv("PLASMA_ENDPOINTS", ",".join(etcd_cluster.endpoints))
    monkeypatch.setenv("PLASMA_TIMEOUT", "20s")
    return plasma
