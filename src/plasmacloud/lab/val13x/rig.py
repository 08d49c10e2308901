"""The rig of this suite: that of elections, with hosts whose network can be cut, a standby, and contended keys.

The two election servers and the databases are on hosts of their own; the lab reaches each through a door that no cut
closes. Both databases share a host: what is cut is the way between a server and the database.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from plasmacloud.base.process import ManagedProcess, ProcessError
from plasmacloud.lab.election.api import HEALTHY, ServerApi
from plasmacloud.lab.election.contended import ContendedKeys, Put, put
from plasmacloud.lab.election.rig import END_DEADLINE_S, ElectionRig
from plasmacloud.lab.election.servers import ElectionServer
from plasmacloud.lab.faults.pause import all_stopped, thread_states
from plasmacloud.lab.network import Network, Way
from plasmacloud.lab.plan import Plan
from plasmacloud.lab.recorder import Recorder
from plasmacloud.lab.val13x import names
from plasmacloud.lab.val13x.facts import AnyFact, Followed, QuorumSaid, StaleAttempt, append_fact
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.lab.wire import AttemptFailed
from plasmacloud.postgres import PostgresError, PostgresServer
from plasmacloud.verify.events import FaultInjected, FaultProof, NodeStarted, NodeThawed, ProcessEnded
from plasmacloud.verify.history import Outcome

_STATE_DEADLINE_S = 1.0
_POLL_S = 0.02
STALE_PREFIX = "stale."
MIN_SYNC = "--min-sync-replicas"


class Val13xRig(ElectionRig):
    """See `ElectionRig`. ``postgres`` is the primary of the moment, ``standby`` the other one; ``network`` is open."""

    def __init__(
        self,
        plan: Plan,
        recorder: Recorder,
        databases: tuple[PostgresServer, PostgresServer],
        servers: Sequence[ElectionServer],
        data: Path,
        network: Network,
    ) -> None:
        super().__init__(plan, recorder, databases[0], servers, data)
        self.standby = databases[1]
        self.network = network
        self.min_sync = 0
        addresses = {server.name: (server.host, server.port) for server in servers}
        self.contended = ContendedKeys(addresses, recorder, plan, self._worth_asking)
        self.also: list[ManagedProcess] = []
        """Processes that a scenario started besides; they end with the rig."""
        self._frozen_ns: dict[str, int] = {}
        self._attempts = 0

    # -- life --------------------------------------------------------------------------------------------------

    async def start_all(self) -> None:
        """The database, both servers, and everybody who writes."""
        await self.network.start()
        await self.start_postgres()
        self.note(f"network: {self.network.kind}; {self.plan.options['network_why'] or 'the best that there is'}")
        for name in self.servers:
            self.start_server(name)
            await self.answering(name)
        await self.leader()
        self.workload.start()
        self.contended.start()

    async def finish(self) -> None:
        """End the load, and read back what the database holds."""
        await self.contended.stop()
        await super().finish()

    async def stop(self) -> None:
        """As `ElectionRig.stop`; the standby, the network and whatever a scenario started go as well."""
        try:
            await self.contended.abort()
            for name in list(self._frozen_ns):
                with contextlib.suppress(ProcessError):
                    self.servers[name].process.signal(signal.SIGCONT)
            await super().stop()
        finally:
            for process in self.also:
                process.kill()
            self.standby.end()
            self.network.close()

    def fact(self, fact: AnyFact) -> None:
        """Write a fact down."""
        append_fact(self.directory, fact)

    async def begin_trial(self, leader: str) -> None:
        await super().begin_trial(leader)
        self.contended.trial = self.trial

    def other(self, name: str) -> str:
        """The other server."""
        (other,) = (each for each in self.servers if each != name)
        return other

    def _worth_asking(self, name: str) -> bool:
        """Whether the server runs and has answered in this session, or is silent by our own doing."""
        return self.servers[name].running and (name in self.watcher.latest or name in self._frozen_ns)

    # -- servers -----------------------------------------------------------------------------------------------

    async def retire(self, name: str) -> None:
        """End a server in good order, as no fault."""
        process = self.servers[name].process
        self._ended_pids.add(process.pid)
        process.signal(signal.SIGTERM)
        status = await process.wait_async(END_DEADLINE_S)
        self.record(ProcessEnded, node=name, pid=process.pid, status=status)

    async def demand_sync(self, count: int) -> None:
        """Have both servers run with so many synchronous replicas demanded."""
        if count == self.min_sync:
            return
        for server in self.servers.values():
            argv = server.process.argv
            argv[argv.index(MIN_SYNC) + 1] = str(count)
        await self.restart_servers()
        self.min_sync = count

    async def restart_servers(self) -> None:
        """Both of them one after the other, in good order, the leader last."""
        leader = await self.leader()
        for name in (self.other(leader), leader):
            await self.retire(name)
            self.start_server(name)
            await self.answering(name)
        await self.leader()

    async def served(self, after_ns: int) -> bool:
        """Wait until a write that was sent after that was acknowledged, in a trial that has resumed already."""
        return await self.workload.wait(
            lambda: self.workload.newest_invoke_acknowledged_ns > after_ns, timeout=self.plan.recovery_deadline_s
        )

    async def quorums(self, wanted: str, timeout: float, *, since_ns: int) -> None:
        """Ask every server until it says so; what each says goes on record, in time or not."""
        asked = [name for name, server in self.servers.items() if server.running]
        await asyncio.gather(*(self._quorum_of(name, wanted, timeout, since_ns) for name in asked))

    async def _quorum_of(self, name: str, wanted: str, timeout: float, since_ns: int) -> None:
        server = self.servers[name]
        api = ServerApi(server.host, server.port)
        deadline = time.monotonic() + timeout
        health, ready = "", False
        try:
            while health != wanted and time.monotonic() < deadline:
                try:
                    quorum, _ = await api.quorum(timeout=2.0)
                    health, ready = quorum.quorum_health, quorum.write_ready
                except AttemptFailed as error:
                    health = f"no answer: {error}"
                if health != wanted:
                    await asyncio.sleep(_POLL_S)
        finally:
            api.close()
        after_ms = (time.monotonic_ns() - since_ns) / 1e6
        self.fact(
            QuorumSaid(
                at_ns=time.monotonic_ns(),
                trial=self.trial,
                server=name,
                wanted=wanted,
                health=health,
                write_ready=ready,
                after_ms=round(after_ms, 1),
            )
        )

    async def healthy(self, since_ns: int) -> None:
        """Both servers say that all is well. Raises `WaitedTooLong` with what they say otherwise."""
        await self.quorums(HEALTHY, self.plan.recovery_deadline_s, since_ns=since_ns)

    async def follows(self, name: str, since_ns: int, *, timeout: float = 10.0) -> None:
        """Wait until a former leader says that another one leads; on record either way."""

        def led_by() -> str:
            latest = self.watcher.latest.get(name)
            if latest is None or latest[0] < since_ns or latest[1].leads:
                return ""
            return latest[1].leader_id if latest[1].leader_id != name else ""

        with contextlib.suppress(WaitedTooLong):
            await self.watcher.until(lambda: bool(led_by()), timeout=timeout, what=f"{name} follows")
        now_ns = time.monotonic_ns()
        after_ms = round((now_ns - since_ns) / 1e6, 1)
        self.fact(Followed(at_ns=now_ns, trial=self.trial, server=name, leader=led_by(), after_ms=after_ms))

    # -- faults ------------------------------------------------------------------------------------------------

    async def freeze(self, name: str) -> int:
        """SIGSTOP; the proof is the state of every thread. Returns the time just before it, in ns."""
        process = self.servers[name].process
        at_ns = time.monotonic_ns()
        self.record(FaultInjected, at_ns=at_ns, fault=names.FREEZE, nodes=(name,))
        process.signal(signal.SIGSTOP)
        self._frozen_ns[name] = at_ns
        states = await _wait_for_states(process.pid, lambda states: all_stopped(states))
        text = f"/proc: threads of {name} (process {process.pid}) are in states {states or 'none'}"
        self.record(FaultProof, fault=names.FREEZE, landed=all_stopped(states), evidence=text)
        return at_ns

    async def thaw(self, name: str) -> int:
        """SIGCONT. Returns the time just before it, in ns."""
        process = self.servers[name].process
        before = thread_states(process.pid)
        at_ns = time.monotonic_ns()
        process.signal(signal.SIGCONT)
        frozen_ms = (at_ns - self._frozen_ns.pop(name)) / 1e6
        after = await _wait_for_states(process.pid, lambda states: "T" not in states)
        self.record(
            NodeThawed,
            at_ns=at_ns,
            node=name,
            pid=process.pid,
            frozen_ms=frozen_ms,
            states_before=before,
            states_after=after,
        )
        return at_ns

    async def cut(self, name: str, ways: Iterable[Way]) -> int:
        """Cut these ways of a server; the proof comes with `heal`. Returns the time just before it, in ns."""
        at_ns = time.monotonic_ns()
        self.record(FaultInjected, at_ns=at_ns, fault=names.CUT, nodes=(name,))
        await self.network.cut(ways)
        return at_ns

    async def heal(self) -> int:
        """Read the counters, which are the proof, and let everything through again. Returns when."""
        landed, text = await self.network.proof()
        self.record(FaultProof, fault=names.CUT, landed=landed, evidence=text)
        at_ns = time.monotonic_ns()
        await self.network.heal()
        self.note("the network is whole again")
        return at_ns

    async def kill_database(self, database: PostgresServer, fault: str) -> int:
        """SIGKILL of a postmaster; the proof is how it ended, and that nobody answers there."""
        pid = database.process.pid
        at_ns = time.monotonic_ns()
        self.record(FaultInjected, at_ns=at_ns, fault=fault, nodes=(database.name,))
        status = await database.kill()
        self.record(ProcessEnded, node=database.name, pid=pid, status=status)
        answers = await _answers(database)
        text = f"waitpid: {database.name} (process {pid}) ended with status {status} after SIGKILL; port "
        text += f"{database.port} {'still answers' if answers else 'gives no session'}"
        self.record(FaultProof, fault=fault, landed=status == -signal.SIGKILL and not answers, evidence=text)
        return at_ns

    async def start_database(self, database: PostgresServer) -> None:
        """Start a database that is not the one of `start_postgres`."""
        pid = await database.start()
        self.record(NodeStarted, node=database.name, pid=pid, incarnation=1)

    def record_overtaking(self, at_ns: int, leader: str) -> None:
        """The epoch is about to be raised behind the leader's back."""
        self.record(FaultInjected, at_ns=at_ns, fault=names.OVERTAKE, nodes=(leader,))

    def prove_overtaking(self, epoch: str, stored: list[tuple[int, int]]) -> None:
        """``stored``: what the database says of its newest epoch, as rows of timeline and number."""
        timeline, number = map(int, epoch.split("."))
        text = f"leadership_state has {stored} after the epoch was raised to {epoch}"
        self.record(FaultProof, fault=names.OVERTAKE, landed=stored >= [(timeline, number)], evidence=text)

    # -- attempts ----------------------------------------------------------------------------------------------

    async def attempt(self, name: str, epoch: str, api: ServerApi, *, timeout: float, current: bool = False) -> Put:
        """One write through a server that was led by ``epoch`` once; on record."""
        done = await put(api, self.stale_key(), "stale", timeout=timeout)
        self.tried("server", name, epoch, done, current=current)
        return done

    def tried(self, via: str, target: str, epoch: str, done: Put, *, current: bool = False) -> None:
        """Write an attempt down."""
        self.fact(
            StaleAttempt(
                at_ns=time.monotonic_ns(),
                trial=self.trial,
                via=via,
                target=target,
                epoch=epoch,
                outcome=done.outcome,
                kind=done.kind,
                accepted=done.epoch if done.outcome is Outcome.OK else "",
                said=done.said,
                current=current,
            )
        )

    def stale_key(self) -> str:
        """A key that nobody has written yet."""
        self._attempts += 1
        return f"{STALE_PREFIX}{self.trial:04d}.{self._attempts:04d}"

    def epoch_of(self, name: str) -> str:
        """TIMELINE.NUMBER that a server said last; raises `WaitedTooLong` when it said none."""
        latest = self.watcher.latest.get(name)
        if latest is None or not latest[1].epoch:
            raise WaitedTooLong(f"{name} has told no epoch")
        return latest[1].epoch

    async def leader_after(self, epoch: str) -> None:
        """Wait until somebody leads in a newer epoch. Raises `WaitedTooLong`."""
        number = int(epoch.rpartition(".")[2])
        await self.watcher.until(
            lambda: any((status.epoch_number or 0) > number for status in self.watcher.leaders()),
            timeout=self.plan.recovery_deadline_s,
            what=f"somebody leads in an epoch after {epoch}",
        )

    # -- back to where all is well -----------------------------------------------------------------------------

    async def restore(self) -> None:
        """After a scenario that did not get to its end: everything whole and running. Raises `WaitedTooLong`."""
        self.doing("restoring")
        for name in list(self._frozen_ns):
            await self.thaw(name)
        await self.network.heal()
        if not self.postgres.running:
            await self.postgres.start()
        if self.min_sync and not self.standby.running and self.standby.data_dir.exists():
            await self.standby.start()
        for name, server in self.servers.items():
            self._ended_pids.add(server.process.pid)
            server.process.kill()
            self.start_server(name)
            await self.answering(name)
        await self.leader()


async def _wait_for_states(pid: int, reached: Callable[[str], bool]) -> str:
    deadline = time.monotonic() + _STATE_DEADLINE_S
    while True:
        states = thread_states(pid)
        if reached(states) or time.monotonic() >= deadline:
            return states
        await asyncio.sleep(0.001)


async def _answers(database: PostgresServer) -> bool:
    try:
        (await database.connect(timeout=1.0)).terminate()
    except PostgresError:
        return False
    return True
