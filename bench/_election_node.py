"""One candidate of the election bench: says when it leads, and when its first write under the fence is committed.

Lines on standard output: ``waits``, ``leads EPOCH T``, ``wrote EPOCH T``, ``follows T``. T: CLOCK_MONOTONIC in seconds,
which all processes of one machine share.
"""

import asyncio
import contextlib
import signal
import sys
import time

import asyncpg

from plasmacloud.base.logging import configure_logging
from plasmacloud.election.backend import open_backend
from plasmacloud.election.errors import StaleEpoch
from plasmacloud.election.fencing import guarded
from plasmacloud.election.leadership import Epoch, Leadership, Role
from plasmacloud.election.timers import Timers
from plasmacloud.postgres.sessions import SESSION_FAILURES

_RETRY_S = 0.002


class Node:
    """A candidate, and the session it writes with."""

    def __init__(self, url: str, election: str, node_id: str, campaign: float | None) -> None:
        self.url = url
        self.election = election
        self.node_id = node_id
        timers = Timers(campaign=campaign)
        self.candidate = open_backend(url, node_id=node_id, election=election, timers=timers, on_change=self.changed)
        self.writing: set[asyncio.Task[None]] = set()
        self.writer: asyncpg.Connection | None = None

    def changed(self, view: Leadership) -> None:
        now = time.monotonic()
        if view.leads and view.epoch is not None:
            print("leads", view.epoch.number, now, flush=True)
            task = asyncio.get_running_loop().create_task(self.write_once(view.epoch))
            self.writing.add(task)
            task.add_done_callback(self.writing.discard)
        elif view.role is Role.FOLLOWER:
            print("waits" if view.leader_id else f"follows {now}", flush=True)

    async def write_once(self, epoch: Epoch) -> None:
        """The first guarded write of a leadership, as soon as it is accepted."""
        while self.candidate.leadership.leads:
            try:
                if self.writer is None or self.writer.is_closed():
                    self.writer = await asyncpg.connect(self.url, timeout=2.0)
                async with guarded(self.writer, epoch, election=self.election):
                    await self.writer.execute(
                        "INSERT INTO bench_ledger (election, node, epoch) VALUES ($1, $2, $3)",
                        self.election,
                        self.node_id,
                        epoch.number,
                    )
            except StaleEpoch:
                return
            except SESSION_FAILURES:
                await asyncio.sleep(_RETRY_S)
                continue
            print("wrote", epoch.number, time.monotonic(), flush=True)
            return

    async def run(self) -> None:
        self.writer = await asyncpg.connect(self.url, timeout=5.0)
        with contextlib.suppress(StaleEpoch, asyncpg.PostgresError):  # a service's session has been used before
            async with guarded(self.writer, Epoch(0, 0), election=self.election):
                pass
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, self.stop)
        await self.candidate.run()

    def stop(self) -> None:
        task = asyncio.get_running_loop().create_task(self.candidate.stop())
        self.writing.add(task)


if __name__ == "__main__":
    configure_logging("error")
    where, name, node, pace = sys.argv[1:]
    asyncio.run(Node(where, name, node, float(pace) or None).run())
