"""Who belongs to the cluster: the member list, watched all the time, and the steps that change it.

A change is asked for again and again until a linearizable member list shows it, at whichever running member answers:
a request that got no answer may have been executed, and only the list knows. Systems refuse changes for good reasons
that pass (a member was connected only a moment ago; a learner is not in sync yet); how long that takes is measured,
not excused.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType

from plasmacloud.base.process import ProcessError
from plasmacloud.lab.changes import Changes
from plasmacloud.lab.rig import Rig
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.lab.wire import AttemptFailed, NodeApi
from plasmacloud.verify.events import MembershipChanged, Note, RemovedEnded
from plasmacloud.verify.observations import MemberRecord, MembersSample

POLL_S = 0.02
CHANGE_DEADLINE_S = 30.0
REMOVED_ENDS_S = 5.0
_LIST_TIMEOUT_S = 0.5
_CHANGE_TIMEOUT_S = 3.0
_RETRY_S = 0.05
_TOO_MANY_LEARNERS = "too many learner"

Attempt = Callable[[NodeApi], Awaitable[None]]


class Roster:
    """Watches the member list and changes it. Use as an async context: leaving it ends the watching."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._changes = Changes()
        self._task: asyncio.Task[None] | None = None
        self.latest: MembersSample | None = None

    async def __aenter__(self) -> "Roster":
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        (ended,) = await asyncio.gather(self._task, return_exceptions=True)
        if isinstance(ended, Exception) and error is None:
            raise ended

    # -- what the list says ------------------------------------------------------------------------------------

    def find(self, name: str) -> MemberRecord | None:
        """The member at the node's peer address, by the newest list."""
        peer = str(self._rig.cluster[name].spec.peer)
        members = self.latest.members if self.latest is not None else ()
        return next((member for member in members if member.reached_at(peer)), None)

    async def fresh(self, name: str) -> MemberRecord | None:
        """The member at the node's peer address, by a list that is asked for now."""
        await self._fresh(time.monotonic() + CHANGE_DEADLINE_S)
        return self.find(name)

    def votes(self, *names: str) -> bool:
        """Whether all these nodes are voters that have started."""
        return self.latest is not None and self.latest.voters() >= set(names)

    def describe(self) -> str:
        """One line, for proofs and error messages."""
        if self.latest is None:
            return "no member list"
        words = [
            f"{member.name or 'unnamed'} ({member.id:x}) {'learner' if member.learner else 'voter'}"
            for member in self.latest.members
        ]
        return f"members: {', '.join(words)}"

    async def until(self, condition: Callable[[], bool], *, timeout: float, what: str) -> None:
        """Wait until ``condition`` holds; it is evaluated after every list. Raises `WaitedTooLong`."""
        if not await self._changes.until(condition, timeout=timeout):
            raise WaitedTooLong(f"not within {timeout:g} s: {what}", hint=self.describe())

    async def _watch(self) -> None:
        apis: dict[tuple[str, int], NodeApi] = {}
        turn = 0
        try:
            while True:
                running = self._rig.cluster.running()
                if running:
                    node = running[turn % len(running)]
                    life = (node, self._rig.cluster[node].incarnation)
                    if life not in apis:
                        address = self._rig.cluster[node].spec.client
                        apis[life] = NodeApi(address.host, address.port)
                    if not await self._poll(node, apis[life]):
                        turn += 1
                await asyncio.sleep(POLL_S)
        finally:
            await asyncio.gather(*(api.close() for api in apis.values()))

    async def _poll(self, node: str, api: NodeApi) -> bool:
        sent_ns = time.monotonic_ns()
        try:
            members = await api.member_list(timeout=_LIST_TIMEOUT_S)
        except AttemptFailed:
            return False
        sample = MembersSample(self._rig.trial, sent_ns, time.monotonic_ns(), node, members)
        if self.latest is None or self.latest.members != members:
            self._rig.recorder.members(sample)
        self.latest = sample
        self._changes.tell()
        return True

    # -- changes -----------------------------------------------------------------------------------------------

    async def add(self, name: str, *, learner: bool) -> MemberRecord:
        """Add the node as a member; it need not run. A target that has no room for another learner gets a voter."""
        url = self._rig.cluster[name].spec.peer.url
        began_ns = time.monotonic_ns()
        as_learner = learner

        async def attempt(api: NodeApi) -> None:
            nonlocal as_learner
            try:
                await api.member_add(url, learner=as_learner, timeout=_CHANGE_TIMEOUT_S)
            except AttemptFailed as error:
                if not as_learner or _TOO_MANY_LEARNERS not in str(error):
                    raise
                as_learner = False
                self._rig.record(Note, text=f"{name} is added as a voter, for a learner was refused: {error}")

        await self._change(lambda: self.find(name) is not None, attempt, what=f"{name} is a member")
        member = self.find(name)
        assert member is not None
        self._changed_to("added", name, member, began_ns)
        return member

    async def promote(self, name: str) -> None:
        """Make the node a voter, as soon as the target agrees."""
        began_ns = time.monotonic_ns()

        def done() -> bool:
            member = self.find(name)
            return member is not None and not member.learner

        async def attempt(api: NodeApi) -> None:
            member = self.find(name)
            if member is not None:
                await api.member_promote(member.id, timeout=_CHANGE_TIMEOUT_S)

        await self._change(done, attempt, what=f"{name} is a voter")
        member = self.find(name)
        if member is not None:
            self._changed_to("promoted", name, member, began_ns)

    async def remove(self, name: str) -> None:
        """Remove the node from the cluster; what is left of its process is the caller's business."""
        began_ns = time.monotonic_ns()
        member = self.find(name)
        if member is None:
            return

        async def attempt(api: NodeApi) -> None:
            await api.member_remove(member.id, timeout=_CHANGE_TIMEOUT_S)

        def gone() -> bool:
            return self.latest is not None and all(each.id != member.id for each in self.latest.members)

        await self._change(gone, attempt, what=f"{name} is no member", avoid=name)
        self._changed_to("removed", name, member, began_ns)

    def _changed_to(self, change: str, name: str, member: MemberRecord, began_ns: int) -> None:
        took_ms = (time.monotonic_ns() - began_ns) / 1e6
        self._rig.record(
            MembershipChanged, change=change, node=name, member=member.id, took_ms=took_ms, learner=member.learner
        )

    async def _change(self, done: Callable[[], bool], attempt: Attempt, *, what: str, avoid: str = "") -> None:
        """Ask one running member after the other until the list shows it."""
        deadline = time.monotonic() + CHANGE_DEADLINE_S
        problem = "no member runs"
        turn = 0
        while True:
            await self._fresh(deadline)
            if done():
                return
            if time.monotonic() >= deadline:
                raise WaitedTooLong(f"not within {CHANGE_DEADLINE_S:g} s: {what}: {problem}", hint=self.describe())
            running = [name for name in self._rig.cluster.running() if name != avoid] or self._rig.cluster.running()
            if running:
                address = self._rig.cluster[running[turn % len(running)]].spec.client
                api = NodeApi(address.host, address.port)
                try:
                    await attempt(api)
                except AttemptFailed as error:
                    problem = str(error)
                    turn += 1
                    await asyncio.sleep(_RETRY_S)
                finally:
                    await api.close()
            else:
                await asyncio.sleep(_RETRY_S)

    async def _fresh(self, deadline: float) -> None:
        """Wait for a list that was asked for after this call."""
        now_ns = time.monotonic_ns()
        await self.until(
            lambda: self.latest is not None and self.latest.sent_ns >= now_ns,
            timeout=max(1.0, deadline - time.monotonic()),
            what="a member list",
        )

    # -- steps made of several changes -------------------------------------------------------------------------

    async def begin_join(self, name: str) -> None:
        """Start the empty node as one that joins, added to the cluster before where the target wants that."""
        cluster, target = self._rig.cluster, self._rig.cluster.target
        spec = cluster[name].spec
        assert not spec.data_dir.exists(), f"{name} is not empty"
        if not target.joins_by_itself:
            await self.add(name, learner=not target.promotes_by_itself)
        seeds = [cluster[other].spec for other in cluster.running() if other != name]
        cluster.prepare(name, target.join_argv(spec, self._urls(), seeds))
        self._rig.start_node(name)

    def _urls(self) -> dict[str, str]:
        """Peer URLs by name, as the list has them; members that never started get the name of their node."""
        by_peer = {str(node.spec.peer): name for name, node in self._rig.cluster.nodes.items()}
        members = self.latest.members if self.latest is not None else ()
        urls: dict[str, str] = {}
        for member in members:
            ours = [name for peer, name in by_peer.items() if member.reached_at(peer)]
            urls[member.name or (ours[0] if ours else f"{member.id:x}")] = member.peer_urls[0]
        return urls

    async def join(self, names: Sequence[str], *, timeout: float) -> None:
        """Let empty nodes join, and wait until the list shows them as voters; they are members of the cluster then."""
        for name in names:
            await self.begin_join(name)
            member = self.find(name)
            if not self._rig.cluster.target.promotes_by_itself and member is not None and member.learner:
                await self.promote(name)
        await self.until(lambda: self.votes(*names), timeout=timeout, what=f"{', '.join(names)} are voters")
        cluster = self._rig.cluster
        cluster.members += [name for name in names if name not in cluster.members]

    async def dismiss(self, name: str) -> None:
        """Remove the node from the cluster, see whether its process ends by itself, end it if not, wipe its disk."""
        cluster = self._rig.cluster
        node = cluster[name]
        ran = node.running
        if node.incarnation:
            self._rig.ended_pids.add(node.process.pid)
        cluster.members = cluster.others(name)
        self._rig.workload.route(cluster.members)
        await self.remove(name)
        if ran:
            await self._await_end(name)
        cluster.wipe(name)

    async def _await_end(self, name: str) -> None:
        """A server that was removed has to notice and to stop; the lab helps it after a while, and says so."""
        process = self._rig.cluster[name].process
        pid = process.pid
        try:
            status = await process.wait_async(REMOVED_ENDS_S)
        except ProcessError:
            process.kill()
            self._rig.record(RemovedEnded, node=name, pid=pid, status=None)
        else:
            self._rig.record(RemovedEnded, node=name, pid=pid, status=status)
