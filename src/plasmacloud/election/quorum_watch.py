"""The loop around the quorum's `Judge`: probe, judge, tell; and tell the judge the time while a probe hangs.

What a probe is depends on the store: `quorum_postgres`, `quorum_etcd`. Changes of health are logged at once and kept
until the store takes them, if it has a place for them; the newest few hundred, while it does not.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from plasmacloud.base.logging import get_logger
from plasmacloud.election.contenders import STANDS_BACK, Contender, Hold, Presence
from plasmacloud.election.errors import DuplicateNode
from plasmacloud.election.leadership import Leadership, Role
from plasmacloud.election.quorum import Change, Health, Judge, Limits, Observation

_KEPT = 256
_SHOWN = 20

log = get_logger("election")


class QuorumTransition(msgspec.Struct, frozen=True):
    """A change of health. ``at``: wall-clock UTC, evidence only."""

    at: datetime
    before: Health
    after: Health
    reason: str


class WatchConfig(msgspec.Struct, frozen=True):
    """``advertise``: the URL that others find this server at. Times in seconds."""

    backend: str
    election: str
    node_id: str
    advertise: str
    limits: Limits
    interval_s: float = 0.5
    timeout_s: float = 1.0
    connect_timeout_s: float = 2.0


class QuorumWatch:
    """Probes a store until cancelled. ``leadership``: what this server's row is to say. ``on_probe``: for counters."""

    def __init__(
        self,
        config: WatchConfig,
        *,
        leadership: Callable[[], Leadership],
        on_probe: Callable[[Observation, float], None] = lambda seen, took_s: None,
        on_change: Callable[[Change], None] = lambda change: None,
    ) -> None:
        self.config = config
        self.judge = Judge(config.limits)
        self.transitions: deque[QuorumTransition] = deque(maxlen=_SHOWN)
        self.contenders: tuple[Contender, ...] = ()
        self.hold: Hold | None = None
        self.checked_at: datetime | None = None
        self.timeline = 0
        self.presence = Presence()
        self.stands_back_until_s = 0.0
        self._warned_of = ""
        self._looked = asyncio.Event()
        self._leadership = leadership
        self._on_probe = on_probe
        self._on_change = on_change
        self._unwritten: deque[QuorumTransition] = deque(maxlen=_KEPT)

    @property
    def unwritten(self) -> int:
        """How many transitions wait for the database."""
        return len(self._unwritten)

    def role(self) -> str:
        """What this server's row says of it."""
        role = self._leadership().role
        standing_back = role is Role.FOLLOWER and time.monotonic() < self.stands_back_until_s
        return STANDS_BACK if standing_back else role.value

    async def run(self) -> None:
        """Probe every interval, until cancelled. Raises `DuplicateNode` when another server had this name before."""
        try:
            async with asyncio.TaskGroup() as group:
                expiring = group.create_task(self._expire())
                while not self.presence.must_leave:
                    began = time.monotonic()
                    await self.probe()
                    await asyncio.sleep(max(0.0, began + self.config.interval_s - time.monotonic()))
                expiring.cancel()
        finally:
            self.close()
        assert self.presence.twin is not None
        raise DuplicateNode(
            f"another server takes part in the election as {self.config.node_id!r}: {self.presence.twin.url}",
            hint="every server needs an --id of its own",
        )

    async def probe(self) -> None:
        """One probe, judged. Raises nothing that the database does to it; takes its deadline at most."""
        sent_s = time.monotonic()
        seen = await self.observe(sent_s)
        now_s = time.monotonic()
        self.checked_at = datetime.now(UTC)
        self.timeline = seen.timeline or self.timeline
        self._on_probe(seen, now_s - sent_s)
        self._announce(self.judge.observe(seen, now_s))
        self._warn_of_twin()
        if self.judge.verdict.write_ready:
            await self.note_down()
        self._looked.set()
        self._looked = asyncio.Event()

    async def next_look(self) -> None:
        """Wait for the end of the next probe."""
        await self._looked.wait()

    async def observe(self, sent_s: float) -> Observation:
        """One look at the store, and one write. Raises nothing, and ends within its deadlines."""
        raise NotImplementedError

    async def note_down(self) -> None:
        """What is only worth doing while writes are taken: hear of the others, and write down what happened."""

    async def farewell(self) -> None:
        """Tell the others that this node has left, if that can be done quickly."""

    def close(self) -> None:
        """Drop what is open, without waiting for anything."""

    def _warn_of_twin(self) -> None:
        twin = self.presence.twin
        if twin is not None and twin.instance != self._warned_of:
            self._warned_of = twin.instance
            log.warning("another server has the same id", node=self.config.node_id, url=twin.url)

    async def _expire(self) -> None:
        """Tell the judge the time, whatever the probe under way is doing."""
        while True:
            due_s = self.judge.expires_s()
            now_s = time.monotonic()
            await asyncio.sleep(self.config.interval_s / 4 if due_s is None else max(0.01, due_s - now_s))
            self._announce(self.judge.tick(time.monotonic()))

    def _announce(self, change: Change | None) -> None:
        if change is None:
            return
        say = log.info if change.after is Health.HEALTHY else log.warning
        say("quorum health changed", **{"from": change.before, "to": change.after, "reason": change.reason})
        transition = QuorumTransition(datetime.now(UTC), change.before, change.after, change.reason)
        self.transitions.append(transition)
        self._unwritten.append(transition)
        self._on_change(change)
