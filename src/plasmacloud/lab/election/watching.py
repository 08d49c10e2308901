"""Asks every election server for its status, all the time: who says that it leads, in which epoch."""

import asyncio
import time
from collections.abc import Callable, Mapping

from plasmacloud.lab.changes import Changes
from plasmacloud.lab.election.api import ServerApi, Status
from plasmacloud.lab.election.servers import ElectionServer
from plasmacloud.lab.recorder import Recorder
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.lab.wire import AttemptFailed
from plasmacloud.verify.observations import StatusSample

INTERVAL_S = 0.02
_TIMEOUT_S = 0.5
_KEEP_NS = 200_000_000


class StatusWatcher:
    """Polls the servers that run, each in a task of its own. ``latest``: the newest answer of each.

    On record is every answer that differs from the one before, and one in 200 ms otherwise.
    """

    def __init__(self, servers: Mapping[str, ElectionServer], recorder: Recorder) -> None:
        self._servers = servers
        self._recorder = recorder
        self._numbers = {server.name: server.number for server in servers.values()}
        self._changes = Changes()
        self._tasks: list[asyncio.Task[None]] = []
        self.latest: dict[str, tuple[int, Status]] = {}  # when it was asked for (ns), and the answer

    def start(self) -> None:
        """Begin polling."""
        self._tasks = [asyncio.create_task(self._watch(server)) for server in self._servers.values()]

    async def stop(self) -> None:
        """End polling."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def leaders(self) -> list[Status]:
        """The running servers that said last that they lead."""
        running = [status for name, (_, status) in self.latest.items() if self._servers[name].running]
        return [status for status in running if status.leads]

    async def until(self, condition: Callable[[], bool], *, timeout: float, what: str) -> None:
        """Wait until ``condition`` holds; it is evaluated after every answer. Raises `WaitedTooLong`."""
        if not await self._changes.until(condition, timeout=timeout):
            raise WaitedTooLong(f"{what}: not within {timeout:g} s", hint=self.describe())

    def describe(self) -> str:
        """What every server says at present."""
        said = {name: f"{s.role}, names {s.leader_id or 'nobody'}" for name, (_, s) in self.latest.items()}
        return "; ".join(
            f"{name}: {said.get(name, 'no answer') if server.running else 'not running'}"
            for name, server in self._servers.items()
        )

    async def _watch(self, server: ElectionServer) -> None:
        api = ServerApi(server.host, server.port)
        kept: StatusSample | None = None
        try:
            while True:
                if server.running:
                    sample = await self._ask(api, server)
                    if kept is None or _news(kept, sample) or sample.at_ns - kept.at_ns >= _KEEP_NS:
                        self._recorder.status(sample)
                        kept = sample
                else:
                    self.latest.pop(server.name, None)
                self._changes.tell()
                await asyncio.sleep(INTERVAL_S)
        finally:
            api.close()

    async def _ask(self, api: ServerApi, server: ElectionServer) -> StatusSample:
        sent_ns, session = time.monotonic_ns(), server.session
        try:
            status = await api.status(timeout=_TIMEOUT_S)
        except AttemptFailed as error:
            self.latest.pop(server.name, None)
            return StatusSample(sent_ns, time.monotonic_ns(), server.name, session, error=str(error))
        self.latest[server.name] = sent_ns, status
        leader = server.number if status.leads else self._numbers.get(status.leader_id, 0)
        return StatusSample(
            sent_ns,
            time.monotonic_ns(),
            server.name,
            session,
            member=server.number,
            leader=leader,
            term=status.epoch_number or 0,
        )


def _news(old: StatusSample, new: StatusSample) -> bool:
    return (old.incarnation, old.leader, old.term, old.answered) != (
        new.incarnation,
        new.leader,
        new.term,
        new.answered,
    )
