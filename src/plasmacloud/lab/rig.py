"""The rig: one cluster under load and under observation. Scenarios are written in its vocabulary.

Every step waits for a condition with a deadline and records what happened. A step that the system does not manage
raises `WaitedTooLong`; the runner records it and the judge turns it into a verdict.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from plasmacloud.lab.cluster import Cluster
from plasmacloud.lab.observed_load import ObservedLoad
from plasmacloud.lab.plan import Plan
from plasmacloud.lab.recorder import Recorder
from plasmacloud.lab.watcher import CALM_S, WaitedTooLong, Watcher
from plasmacloud.lab.wire import AttemptFailed, NodeApi
from plasmacloud.lab.workload import Workload, trial_prefix
from plasmacloud.verify.events import (
    CaughtUp,
    LeaderSeen,
    NodeStarted,
    TrialBegan,
    UnexpectedExit,
    WindowClosed,
)
from plasmacloud.verify.observations import KeyRecord, Reading

START_DEADLINE_S = 30.0
AFTERMATH_OPS = 40
_BARRIER_KEY = "lab-barrier"
_CALL_TIMEOUT_S = 2.0
_READ_TIMEOUT_S = 20.0


class Leadership(msgspec.Struct, frozen=True):
    """Who leads, as all running nodes see it."""

    node: str
    member: int
    term: int


class Undoable(Protocol):
    """A fault, as far as the rig needs to know it."""

    async def undo(self, rig: "Rig") -> None:
        """Take the fault away again."""


class Rig(ObservedLoad):
    """Cluster, workload and watcher of one scenario run."""

    def __init__(self, plan: Plan, cluster: Cluster, recorder: Recorder) -> None:
        super().__init__(plan, recorder)
        self.cluster = cluster
        self.rng = random.Random(f"{plan.seed}/{plan.target}/{plan.scenario}")
        self.workload: Workload = Workload(cluster, recorder, plan)
        self.watcher = Watcher(cluster, recorder)
        self.ended_pids: set[int] = set()  # processes that a fault has ended
        self._barriers = 0
        self._barrier_revision = 0
        self._stall_watch: asyncio.Task[None] | None = None

    # -- start and stop ----------------------------------------------------------------------------------------

    def start_node(self, name: str) -> int:
        """Start the server of a node; returns its PID."""
        node = self.cluster[name]
        pid = node.start()
        self.record(NodeStarted, node=name, pid=pid, incarnation=node.incarnation)
        return pid

    async def start(self) -> None:
        """Start all members and the observers; no load yet."""
        self._stall_watch = asyncio.create_task(self.watch_stalls())
        self.doing("starting")
        self.watcher.start()
        for name in self.cluster.names:
            self.start_node(name)

    async def stop(self) -> None:
        """Stop observers, load and processes, whatever state they are in; keeps what was recorded."""
        if self._stall_watch is not None:
            self._stall_watch.cancel()
        try:
            await self.workload.abort()
            await self.watcher.stop()
        finally:
            self._record_unexpected_exits()
            self.cluster.kill_all()
            self.recorder.flush()

    def _record_unexpected_exits(self) -> None:
        for name, node in self.cluster.nodes.items():
            status = node.process.returncode
            if node.incarnation and status is not None and node.process.pid not in self.ended_pids:
                self.record(UnexpectedExit, node=name, pid=node.process.pid, status=status)

    # -- conditions --------------------------------------------------------------------------------------------

    def agreed_leader(self) -> Leadership | None:
        """The leader, when every running node has answered lately and all name the same one, in the same term."""
        running = self.cluster.running()
        samples = [self.watcher.latest.get(name) for name in running]
        claims = {(s.leader, s.term) for s in samples if s is not None}
        if not running or None in samples or len(claims) != 1:
            return None
        ((member, term),) = claims
        leaders = [s.node for s in samples if s is not None and s.member == member]
        return Leadership(leaders[0], member, term) if member and leaders else None

    async def stable(self, *, timeout: float | None = None) -> Leadership:
        """Wait until every running node has named the same leader twice in a row."""
        self.doing("waiting for a stable leader")
        asked_ns = time.monotonic_ns()
        first: Leadership | None = None

        def steady() -> bool:
            nonlocal asked_ns, first
            gone = self.cluster.ended()
            if gone:
                raise WaitedTooLong("; ".join(gone))
            leadership = self.agreed_leader()
            if leadership is None or leadership != first:
                first, asked_ns = leadership, time.monotonic_ns()
                return False
            return all(self.watcher.latest[name].sent_ns > asked_ns for name in self.cluster.running())

        deadline = self.plan.recovery_deadline_s if timeout is None else timeout
        await self.watcher.until(steady, timeout=deadline, what="all nodes agree on a leader")
        assert first is not None
        self.record(LeaderSeen, node=first.node, member=first.member, term=first.term)
        return first

    async def caught_up(self) -> bool:
        """Write a barrier and wait until every running node has applied it; records it either way."""
        self.doing("waiting until every node has caught up")
        began_ns = time.monotonic_ns()
        deadline = time.monotonic() + self.plan.recovery_deadline_s
        revision = self._barrier_revision = await self._barrier(deadline)

        def applied() -> bool:
            return not self._behind(revision)

        try:
            await self.watcher.until(
                applied, timeout=max(0.1, deadline - time.monotonic()), what="every node caught up"
            )
        except WaitedTooLong:
            pass
        behind = tuple(self._behind(revision))
        self.record(
            CaughtUp,
            ok=not behind,
            revision=revision,
            waited_ms=(time.monotonic_ns() - began_ns) / 1e6,
            behind=behind,
        )
        return not behind

    def _behind(self, revision: int) -> list[str]:
        latest = self.watcher.latest
        return [n for n in self.cluster.running() if n not in latest or latest[n].revision < revision]

    async def _barrier(self, deadline: float) -> int:
        """A write of the lab's own, outside of the history; repeated until one node acknowledges it."""
        self._barriers += 1
        problem = "no node runs"
        while time.monotonic() < deadline:
            for name in self.cluster.running():
                address = self.cluster[name].spec.client
                api = NodeApi(address.host, address.port)
                try:
                    return await api.put(_BARRIER_KEY, str(self._barriers), timeout=_CALL_TIMEOUT_S)
                except AttemptFailed as error:
                    problem = f"{name}: {error}"
                finally:
                    await api.close()
            await asyncio.sleep(CALM_S)
        raise WaitedTooLong(f"no node accepted the barrier write: {problem}", hint=self.watcher.describe())

    # -- trials ------------------------------------------------------------------------------------------------

    async def begin_trial(self, trial: int, nodes: Callable[[Leadership], Sequence[str]] | None = None) -> Leadership:
        """A stable leader, clients spread over ``nodes`` (default: all), and the minimum of traffic."""
        self.workload.resume()
        leadership = await self.stable()
        self.workload.route(nodes(leadership) if nodes else self.cluster.names)
        await self.workload.begin_trial(trial)
        self.trial = self.progress.trial = trial
        self.record(TrialBegan, leader=leadership.node, leader_member=leadership.member, term=leadership.term)
        self.doing("writing")
        await self.traffic(self.plan.min_traffic + 10)
        # The phase of the fault against heartbeats and batches is drawn, so that trials differ.
        await asyncio.sleep(self.rng.uniform(0.0, 0.1))
        return leadership

    async def aftermath(self) -> None:
        """Let the service show that it goes on, then close the fault's window."""
        await self.traffic(AFTERMATH_OPS, timeout=2.0)
        self.record(WindowClosed)
        self.watcher.fast(False)
        self.recorder.flush()

    async def end_trial(self, fault: "Undoable") -> None:
        """Take the fault away, wait until every node has everything, and read this trial's writes from all of them.

        Clients go on writing meanwhile, for no trial.
        """
        await self.workload.begin_trial(0)
        await fault.undo(self)
        if not await self.caught_up():
            raise WaitedTooLong("a node did not catch up after its restart", hint=self.watcher.describe())
        await self.read_everywhere(f"trial-{self.trial:04d}", trial_prefix(self.trial))

    async def read_everywhere(self, label: str, prefix: str) -> None:
        """Read what each node itself holds under ``prefix``, at the revision of the last barrier.

        The barrier pins the moment: a write with an unknown outcome that lands between two reads disturbs nothing.
        """
        self.doing("reading back")
        revision = self._barrier_revision
        began_ns = time.monotonic_ns()
        nodes: dict[str, list[KeyRecord]] = {}
        missing: dict[str, str] = {}
        for name in self.cluster.names:
            address = self.cluster[name].spec.client
            api = NodeApi(address.host, address.port)
            try:
                nodes[name] = await api.read_prefix(prefix, revision, timeout=_READ_TIMEOUT_S)
            except AttemptFailed as error:
                missing[name] = str(error)
            finally:
                await api.close()
        self.recorder.reading(Reading(label, prefix, revision, began_ns, nodes, missing))

    async def finish(self, prefix: str) -> None:
        """End the load, wait until every node has everything, read it all back."""
        await self.workload.stop()
        self.trial = 0
        await self.caught_up()
        await self.read_everywhere("final", prefix)
