"""One candidate as a process of its own: contends, and while it believes that it leads, writes under the fence.

Usage: ``candidate_process.py URL ELECTION NODE``. Prints one line for each change: the role, the epoch, the time.
"""

import asyncio
import sys
import time

import asyncpg

from plasmacloud.election.backend import open_backend
from plasmacloud.election.errors import StaleEpoch
from plasmacloud.election.fencing import guarded
from plasmacloud.election.leadership import Epoch, Leadership
from plasmacloud.postgres.sessions import SESSION_FAILURES


def report(view: Leadership) -> None:
    print(view.role.value, view.epoch, time.monotonic(), flush=True)


async def write(writer: asyncpg.Connection, election: str, node_id: str, epoch: Epoch) -> None:
    async with guarded(writer, epoch, election=election):
        await writer.execute(
            "INSERT INTO ledger (election, node, epoch) VALUES ($1, $2, $3)", election, node_id, epoch.number
        )


async def main(url: str, election: str, node_id: str) -> None:
    candidate = open_backend(url, node_id=node_id, election=election, on_change=report)
    running = asyncio.create_task(candidate.run())
    writer = await asyncpg.connect(url)
    while not running.done():
        view = candidate.leadership
        if view.leads and view.epoch is not None:
            try:
                await write(writer, election, node_id, view.epoch)
            except StaleEpoch:
                pass
            except SESSION_FAILURES:
                writer.terminate()  # it stood still within a transaction, which the server ended
                writer = await asyncpg.connect(url)
        await asyncio.sleep(0.005)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
