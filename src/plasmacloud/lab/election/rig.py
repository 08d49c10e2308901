"""The rig: a PostgreSQL of our own, election servers that contend in it, fenced writes, and eyes on all of them.

VAL13 and whatever goes beyond it are written in its vocabulary. Every wait has a deadline, every process is stopped by
the PID it was started with, and everything that was made is removed, whatever happened.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from plasmacloud.base.process import ManagedProcess, ProcessError
from plasmacloud.lab.election.api import ServerApi
from plasmacloud.lab.election.servers import PLASMA, ElectionServer
from plasmacloud.lab.election.watching import StatusWatcher
from plasmacloud.lab.election.writers import KEY_PREFIX, FencedWrites
from plasmacloud.lab.observed_load import ObservedLoad
from plasmacloud.lab.plan import Plan
from plasmacloud.lab.recorder import Recorder
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.lab.wire import AttemptFailed
from plasmacloud.postgres import PostgresServer, StopMode
from plasmacloud.postgres.sessions import NotReady
from plasmacloud.verify.events import (
    CaughtUp,
    FaultInjected,
    FaultProof,
    LeaderSeen,
    NodeRestarted,
    NodeStarted,
    Note,
    ProcessEnded,
    TrialBegan,
    UnexpectedExit,
    WindowClosed,
)
from plasmacloud.verify.observations import KeyRecord, Reading

POSTGRES = "postgres"
START_DEADLINE_S = 30.0
END_DEADLINE_S = 15.0
AFTERMATH_OPS = 20
_CLI_TIMEOUT_S = 30.0
_POLL_S = 0.05
_LEDGER = "SELECT key, value, epoch, version FROM ha_probe WHERE starts_with(key, $1) ORDER BY key"


class ElectionRig(ObservedLoad):
    """One PostgreSQL and its election servers, under fenced writes and under observation.

    The caller makes the servers; nothing runs before `start_postgres` and `start_server`.
    """

    def __init__(
        self, plan: Plan, recorder: Recorder, postgres: PostgresServer, servers: Sequence[ElectionServer], data: Path
    ) -> None:
        super().__init__(plan, recorder)
        self.directory = recorder.directory
        self.postgres = postgres
        self.servers = {server.name: server for server in servers}
        self.workload: FencedWrites = FencedWrites({s.name: (s.host, s.port) for s in servers}, recorder, plan)
        self.watcher = StatusWatcher(self.servers, recorder)
        self._data = data
        self._ended_pids: set[int] = set()  # processes that the lab has ended
        self._tasks: list[asyncio.Task[None]] = []
        self._programs = 0

    def note(self, text: str) -> None:
        """Something a reader of the evidence should know."""
        self.record(Note, text=text)

    # -- start and stop ----------------------------------------------------------------------------------------

    async def start_postgres(self) -> None:
        """Make the database and start it; observe from here on."""
        self.doing("starting PostgreSQL")
        self._tasks.append(asyncio.create_task(self.watch_stalls()))
        await self.postgres.create()
        pid = await self.postgres.start()
        self.record(NodeStarted, node=POSTGRES, pid=pid, incarnation=1)
        self.note(f"{self.postgres.binaries}, port {self.postgres.port}")
        self.watcher.start()

    def start_server(self, name: str) -> int:
        """Start a new session of an election server; returns its PID."""
        server = self.servers[name]
        old = server.process.pid if server.session >= 0 else None
        pid = server.start()
        self.record(NodeStarted, node=name, pid=pid, incarnation=server.session + 1)
        if old is not None:
            self.record(NodeRestarted, node=name, old_pid=old, new_pid=pid)
        return pid

    async def answering(self, name: str) -> None:
        """Wait until a server answers for its status."""
        self.doing(f"waiting for {name}")

        def answers() -> bool:
            self.check_running(name)
            return name in self.watcher.latest

        await self.watcher.until(answers, timeout=START_DEADLINE_S, what=f"{name} answers")

    def check_running(self, *names: str) -> None:
        """Raise `WaitedTooLong` when one of these servers has ended by itself: waiting for it is in vain."""
        for name in names:
            server = self.servers[name]
            if not server.running:
                status = server.process.returncode
                raise WaitedTooLong(f"{name} ended with status {status}", hint=f"see {server.log_path}")

    async def stop(self) -> None:
        """Stop observers, writes and processes, and remove the database, whatever state they are in."""
        for task in self._tasks:
            task.cancel()
        try:
            await self.workload.abort()
            await self.watcher.stop()
        finally:
            self._record_unexpected_exits()
            problems = self._kill_all()
            self.recorder.flush()
        if problems:
            raise problems[0]

    def _kill_all(self) -> list[Exception]:
        problems: list[Exception] = []
        for end in (*(server.process.kill for server in self.servers.values()), self.postgres.end):
            try:
                end()
            except (ProcessError, OSError) as error:
                problems.append(error)
        return problems

    def _record_unexpected_exits(self) -> None:
        for name, server in self.servers.items():
            status = server.process.returncode
            if server.session >= 0 and status is not None and server.process.pid not in self._ended_pids:
                self.record(UnexpectedExit, node=name, pid=server.process.pid, status=status)

    # -- conditions --------------------------------------------------------------------------------------------

    async def leader(self, wanted: str | None = None, *, timeout: float | None = None) -> str:
        """Wait until exactly one running server leads, ``wanted`` if given; returns its name."""
        self.doing("waiting for a leader")

        def led() -> bool:
            leaders = self.watcher.leaders()
            return len(leaders) == 1 and wanted in (None, leaders[0].node_id)

        deadline = self.plan.recovery_deadline_s if timeout is None else timeout
        await self.watcher.until(led, timeout=deadline, what=f"{wanted or 'one server'} leads")
        (status,) = self.watcher.leaders()
        number = self.servers[status.node_id].number
        self.record(LeaderSeen, node=status.node_id, member=number, term=status.epoch_number or 0)
        return status.node_id

    async def quorum(self, name: str, wanted: str, *, timeout: float) -> tuple[bytes, int, bool]:
        """Ask a server until its quorum is as wanted: the last answer, when it came (ns), and whether it is that."""
        server = self.servers[name]
        api = ServerApi(server.host, server.port)
        deadline = time.monotonic() + timeout
        body, came = b"{}", False
        try:
            while not came and time.monotonic() < deadline:
                with contextlib.suppress(AttemptFailed):
                    quorum, body = await api.quorum(timeout=2.0)
                    came = quorum.quorum_health == wanted
                if not came:
                    await asyncio.sleep(_POLL_S)
        finally:
            api.close()
        return body, time.monotonic_ns(), came

    # -- trials and faults -------------------------------------------------------------------------------------

    async def begin_trial(self, leader: str) -> None:
        """Begin the next trial: all is well, and writes from here on count for it."""
        self.trial += 1
        await self.workload.begin_trial(self.trial)
        latest = self.watcher.latest.get(leader)
        epoch = (latest[1].epoch_number or 0) if latest is not None else 0
        member = self.servers[leader].number
        self.record(TrialBegan, leader=leader, leader_member=member, term=epoch)
        self.doing("writing")
        await self.traffic(self.plan.min_traffic)

    def signal_server(self, name: str, signum: signal.Signals, fault: str) -> int:
        """Send a signal that ends a server; records the fault. Returns the monotonic time just before it, in ns."""
        process = self.servers[name].process
        self._ended_pids.add(process.pid)
        at_ns = time.monotonic_ns()
        process.signal(signum)
        self.record(FaultInjected, at_ns=at_ns, fault=fault, nodes=(name,))
        return at_ns

    async def prove_end(self, name: str, signum: signal.Signals, fault: str) -> bool:
        """Wait until a server that was told to end has; records how, which is the proof."""
        process = self.servers[name].process
        try:
            status = await process.wait_async(END_DEADLINE_S)
        except ProcessError:
            process.kill()
            text = f"{name} (process {process.pid}) ignored {signum.name} for {END_DEADLINE_S:g} s"
            self.record(FaultProof, fault=fault, landed=False, evidence=text)
            return False
        self.record(ProcessEnded, node=name, pid=process.pid, status=status)
        landed = status == -signum if signum is signal.SIGKILL else True
        cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        text = f"waitpid: {name} (process {process.pid}) ended by {cause} after {signum.name}; {self._state(name)}"
        self.record(FaultProof, fault=fault, landed=landed, evidence=text)
        return landed

    def _state(self, name: str) -> str:
        return f"/proc state {self.servers[name].process.proc_state()}"

    async def stop_postgres(self, mode: StopMode, fault: str) -> int:
        """Stop PostgreSQL; records the fault and, as its proof, that it ended and that nobody answers there. Returns
        the monotonic time just before it, in ns."""
        postgres = self.postgres
        pid = postgres.process.pid
        at_ns = time.monotonic_ns()
        self.record(FaultInjected, at_ns=at_ns, fault=fault, nodes=(POSTGRES,))
        status = await postgres.stop(mode)
        self.record(ProcessEnded, node=POSTGRES, pid=pid, status=status)
        answers = await self._postgres_answers()
        text = f"waitpid: postgres (process {pid}) ended with status {status} after {mode.value.name}; port "
        text += f"{postgres.port} {'still answers' if answers else 'refuses connections'}"
        self.record(FaultProof, fault=fault, landed=not answers, evidence=text)
        return at_ns

    async def _postgres_answers(self) -> bool:
        try:
            (await self.postgres.connect(timeout=1.0)).terminate()
        except NotReady:
            return False
        return True

    async def restart_postgres(self) -> None:
        """Start PostgreSQL again, on the same directory."""
        old = self.postgres.process.pid
        pid = await self.postgres.start()
        self.record(NodeRestarted, node=POSTGRES, old_pid=old, new_pid=pid)

    async def end_trial(self, *, ok: bool = True) -> None:
        """Service has resumed: let some writes through, and close the window in which outages are the fault's."""
        await self.traffic(AFTERMATH_OPS)
        self.record(WindowClosed)
        epoch = max((status.epoch_number or 0 for status in self.watcher.leaders()), default=0)
        self.record(CaughtUp, ok=ok, revision=epoch, waited_ms=0.0)

    # -- what an operator would do -----------------------------------------------------------------------------

    async def plasma(self, *arguments: str) -> str:
        """Run `plasma` as an operator does; returns the command, what it printed, and its exit status."""
        self._programs += 1
        output = self._data / f"program-{self._programs}.out"
        env = {**self.postgres.environment(), "COLUMNS": "100", "NO_COLOR": "1"}
        child = ManagedProcess(" ".join(arguments), [*PLASMA, *arguments], log_path=output, env=env)
        child.start()
        try:
            status = await child.wait_async(_CLI_TIMEOUT_S)
        finally:
            child.kill()
        printed = output.read_text(errors="replace").rstrip("\n")
        return f"$ plasma {' '.join(arguments)}\n{printed}\nexit status {status}\n"

    async def ha_status(self, name: str) -> str:
        """`plasma ha status` of one server, as a table for people and as JSON for programs."""
        asked = "ha", "status", "--server", self.servers[name].url
        return await self.plasma(*asked) + await self.plasma(*asked, "-o", "json")

    # -- the end -----------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """End the writes, and read back what PostgreSQL holds of them."""
        self.doing("reading back")
        await self.workload.stop()
        self.trial = 0
        if self.workload.skipped_turns:
            self.note(f"{self.workload.skipped_turns} turns of the writers were skipped: the lab was late")
        began_ns = time.monotonic_ns()
        nodes: dict[str, list[KeyRecord]] = {}
        missing: dict[str, str] = {}
        try:
            rows = await self.postgres.fetch(_LEDGER, KEY_PREFIX, timeout=20.0)
            nodes[POSTGRES] = [KeyRecord(key, value, epoch, epoch, version) for key, value, epoch, version in rows]
        except NotReady as error:
            missing[POSTGRES] = str(error)
        self.recorder.reading(Reading("final", KEY_PREFIX, 0, began_ns, nodes, missing))
