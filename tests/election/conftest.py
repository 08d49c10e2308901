"""One PostgreSQL server for each module; every test holds an election of its own."""

import asyncio
from collections.abc import Iterator

import pytest
from contest import new_server

from plasmacloud.base.errors import PlasmaError
from plasmacloud.postgres import PostgresServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    directory = tmp_path_factory.mktemp("postgres")
    for parent in (directory, *directory.parents[:2]):
        parent.chmod(0o755)  # as root, the server runs as somebody else
    try:
        server = new_server(directory)
    except PlasmaError as error:
        pytest.skip(f"no PostgreSQL: {error}")
    try:
        asyncio.run(server.create())
        server.spawn()
        asyncio.run(server.ready())
        yield server
    finally:
        server.end()
