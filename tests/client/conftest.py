"""A real etcd that the tests of this folder share. Each test uses keys of its own."""

from collections.abc import Iterator

import pytest
from etcd_process import Etcd


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    server = Etcd(tmp_path_factory.mktemp("etcd"))
    try:
        server.start()
        yield server
    finally:
        server.stop()
