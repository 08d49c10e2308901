"""Clusters for the tests of this room."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chainfire_cluster import Cluster, running_cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three members that serve; a test may break them as it likes."""
    with running_cluster(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def calm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three members shared by the tests of a module, which leave them running."""
    with running_cluster(tmp_path_factory.mktemp("calm")) as running:
        yield running
