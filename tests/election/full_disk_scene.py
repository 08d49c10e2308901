"""A PostgreSQL on a file system of its own that runs full, and a candidate on it. Run inside of a mount namespace.

Usage: ``full_disk_scene.py DIRECTORY``, where a small file system is mounted there. Prints what it has seen.
"""

import asyncio
import os
import sys
from pathlib import Path

from contest import contend, new_server, until, url_of

from plasmacloud.base.logging import configure_logging
from plasmacloud.election.schema import ensure_schema
from plasmacloud.postgres import PostgresServer

BLOCK = 1 << 16


def fill(ballast: Path) -> None:
    """Take all the room there is."""
    with ballast.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(BLOCK))
        except OSError:
            file.flush()


async def no_room_for_epochs(server: PostgresServer) -> None:
    """Fill the pages of the epochs' table with rows as long as those of an election, until the next page is refused."""
    session = await server.connect()
    try:
        while True:
            try:
                await session.execute(
                    "INSERT INTO leader_epochs (election, epoch, timeline, holder_id) "
                    "SELECT 'filler', coalesce(max(epoch), 0) + 1, 1, 'n' FROM leader_epochs WHERE election = 'filler'"
                )
            except Exception as error:  # noqa: BLE001 - which one it is, is what this is about
                print("refused", getattr(error, "sqlstate", ""), str(error).splitlines()[0], flush=True)
                return
    finally:
        session.terminate()


async def main(directory: Path) -> None:
    server = new_server(directory, autovacuum="off")
    ballast = directory / "ballast"
    try:
        await server.create()
        await server.start()
        session = await server.connect()
        await ensure_schema(session, "e")
        await session.execute(
            "INSERT INTO leader_epochs (election, epoch, timeline, holder_id) VALUES ('filler', 1, 1, 'n')"
        )
        session.terminate()
        a = contend(url_of(server), "a", "e")
        await until(lambda: a.leads, "a leads")
        print("leads", a.candidate.leadership.epoch, flush=True)

        fill(ballast)
        await no_room_for_epochs(server)
        await a.candidate.resign(0.0)
        await until(lambda: "No space left" in a.candidate.problem or not server.running, "the problem is known")
        print("leads" if a.leads else "nobody leads", a.candidate.problem.splitlines()[0], flush=True)

        ballast.unlink()
        if not server.running:
            print("crashed", flush=True)
            await server.start()
        await until(lambda: a.leads, "a leads again")
        print("leads", a.candidate.leadership.epoch, flush=True)
        rows = await server.fetch("SELECT epoch FROM leader_epochs WHERE election = 'e' ORDER BY 1")
        print("epochs", [row[0] for row in rows], flush=True)
        await a.candidate.stop()
    finally:
        await server.remove()


if __name__ == "__main__":
    assert os.geteuid() != 0, "PostgreSQL does not run as root"
    configure_logging("error")
    asyncio.run(asyncio.wait_for(main(Path(sys.argv[1])), 90))
