"""The stores that the tests of this folder share: each test runs with both, and uses keys of its own."""

from collections.abc import Iterator

import pytest
from etcd_process import ChainFire, Etcd, Store


@pytest.fixture(scope="session", params=[Etcd, ChainFire], ids=["etcd", "chainfire"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    server: Store = request.param(tmp_path_factory.mktemp("store"))
    try:
        server.start()
        yield server
    finally:
        server.stop()
