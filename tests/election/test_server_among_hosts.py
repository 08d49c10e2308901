"""A backend of several hosts, the standby first: the server finds the primary, as the election does."""

from pathlib import Path
from typing import Any

import pytest
from contest import new_server, run

from plasmacloud.election.errors import ElectionUnavailable
from plasmacloud.election.server_database import Database
from plasmacloud.postgres import PostgresServer, copy_from


async def in_recovery(url: str) -> bool:
    database = Database(url, name="test")

    async def look(connection: Any) -> bool:
        return bool(await connection.fetchval("SELECT pg_is_in_recovery()"))

    try:
        return await database.run(look, timeout_s=10.0)
    finally:
        await database.close()


def test_sessions_go_to_the_primary_wherever_it_stands_in_the_url(server: PostgresServer, tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(0o755)
    standby = new_server(tmp_path, "second")

    async def main() -> None:
        try:
            await copy_from(server, standby)
            await standby.start()
            rest = f"/postgres?passfile={server.passfile}"
            hosts = f"127.0.0.1:{standby.port},127.0.0.1:{server.port}"
            assert await in_recovery(f"postgres://plasma@{hosts}{rest}") is False
            with pytest.raises(ElectionUnavailable, match="standby"):
                await in_recovery(f"postgres://plasma@127.0.0.1:{standby.port}{rest}")
        finally:
            await standby.remove()

    run(main())
