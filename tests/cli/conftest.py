"""The command line in this process (`plasma`), and real clusters to point it at."""

from collections.abc import Iterator

import pytest
from cli_runner import ChainFire, Etcd, Plasma, Store
from click.testing import CliRunner, Result

from plasmacloud.cli.main import cli


@pytest.fixture(scope="session", params=[Etcd, ChainFire], ids=["etcd", "chainfire"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Three members: enough for a leader to move."""
    cluster: Store = request.param(tmp_path_factory.mktemp("cluster"), members=3)
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
def kv(plasma: Plasma, cluster: Store, monkeypatch: pytest.MonkeyPatch) -> Plasma:
    """Run a command line against the cluster."""
    monkeypatch.setenv("PLASMA_ENDPOINTS", ",".join(cluster.endpoints))
    monkeypatch.setenv("PLASMA_TIMEOUT", "20s")
    return plasma
