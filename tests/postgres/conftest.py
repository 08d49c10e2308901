"""Servers for the tests: made on demand in the test's directory, removed whatever happens."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.process import free_ports
from plasmacloud.postgres import PostgresServer, find_usable

Make = Callable[..., PostgresServer]


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Make]:
    """Makes servers that have no directory yet."""
    try:
        binaries = find_usable()
    except ConfigError as error:
        pytest.skip(f"no PostgreSQL can be run here: {error}")
    made: list[PostgresServer] = []

    def make(name: str = "pg", **options: object) -> PostgresServer:
        (port,) = free_ports(1)
        server = PostgresServer(
            name,
            binaries,
            tmp_path / name,
            int(options.pop("port", port)),
            log_path=tmp_path / f"{name}.log",
            **options,
        )
        made.append(server)
        return server

    yield make
    for server in made:
        server.end()
