"""What `plasma up --election` starts beside the cluster: a PostgreSQL of its own, and two election servers on it.

The database is made once, below the data directory, and kept as the nodes' data are. It is made under another name and
renamed when it is complete, so that a run that was killed meanwhile leaves nothing half made. Stopping goes the other
way round than starting: the servers resign, and then the database is closed.
"""

import asyncio
import os
import shutil
import sys
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from plasmacloud.base.errors import ConfigError, PlasmaError
from plasmacloud.base.process import ManagedProcess
from plasmacloud.base.units import format_duration
from plasmacloud.cli.errors import say
from plasmacloud.cli.output import table
from plasmacloud.cli.up_plan import HOST, Ending, Restarts, check_port, describe_ending
from plasmacloud.election.http_client import HttpFailed, fetch, parse_url
from plasmacloud.postgres import Binaries, PostgresError, PostgresServer, StopMode, find_binaries
from plasmacloud.postgres.errors import PostgresUnavailable
from plasmacloud.postgres.privileges import confinement

PLAN_FILE = "election.json"
DEFAULT_PORTS = (15432, 8997, 8998)
_OFFSETS = (30, 31, 32)
_GRACE_S = 10.0
_POLL_S = 0.1
_ASK_S = 1.0
_LOG_LINES = 5


class ElectionPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the database and the servers listen."""

    postgres_port: int
    server_ports: tuple[int, int]


class ElectionStartError(PlasmaError):
    """The database or a server did not come up."""


def load_election_plan(data_dir: Path, port_base: int | None) -> tuple[ElectionPlan, bool]:
    """The plan of a directory, and whether it was there before. Raises `ConfigError`."""
    path = data_dir / PLAN_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=ElectionPlan), True
    except FileNotFoundError:
        postgres, *servers = DEFAULT_PORTS if port_base is None else (port_base + step for step in _OFFSETS)
        return ElectionPlan(postgres, (servers[0], servers[1])), False
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def _check_ports(plan: ElectionPlan, *, fixed: bool) -> None:
    check_port(plan.postgres_port, "the election's PostgreSQL", fixed=fixed)
    for number, port in enumerate(plan.server_ports, 1):
        check_port(port, f"election server e{number}", fixed=fixed)


class _Member:
    """One election server: its process, and what is being done about it."""

    def __init__(self, name: str, port: int, process: ManagedProcess) -> None:
        self.name = name
        self.address = f"{HOST}:{port}"
        self.process = process
        self.restarts = Restarts()
        self.started_at = 0.0
        self.restart_at: float | None = None
        self.gave_up = False


class ElectionSide:
    """Starts, watches and stops them all. Construction checks what can be checked without starting anything."""

    def __init__(self, data_dir: Path, port_base: int | None) -> None:
        """Raises `ConfigError`."""
        self._data_dir = data_dir
        self._plan, existed = load_election_plan(data_dir, port_base)
        _check_ports(self._plan, fixed=existed)
        self._binaries = _find_binaries(data_dir / "postgres")
        self._postgres = self._database("postgres")
        backend = self._postgres.url()
        self._servers = [
            self._server(f"e{number}", port, backend) for number, port in enumerate(self._plan.server_ports, 1)
        ]
        self._postgres_restarts = Restarts()
        self._postgres_started_at = 0.0
        self._postgres_restart_at: float | None = None
        self._watching: asyncio.Task[None] | None = None

    def _database(self, name: str) -> PostgresServer:
        return PostgresServer(
            "postgres",
            self._binaries,
            self._data_dir / name,
            self._plan.postgres_port,
            log_path=self._data_dir / "postgres.log",
            host=HOST,
        )

    def _server(self, name: str, port: int, backend: str) -> _Member:
        argv = [sys.executable, "-m", "plasmacloud", "election", "serve", "--id", name]
        argv += ["--listen", f"{HOST}:{port}", "--backend", backend]
        own = {key: text for key, text in os.environ.items() if key.startswith("PLASMA_ELECTION_")}
        env = {key: text for key, text in self._postgres.environment().items() if key not in own}
        return _Member(name, port, ManagedProcess(name, argv, log_path=self._data_dir / f"{name}.log", env=env))

    # -- life ------------------------------------------------------------------------------------------------------

    async def start(self, timeout_s: float) -> None:
        """Start all and wait until one leads. Raises `PlasmaError`; `stop` is due in any case."""
        if not self._postgres.data_dir.exists():
            await self._create()
        self._note_down()
        self._postgres_started_at = asyncio.get_running_loop().time()
        await self._postgres.start(timeout=timeout_s)
        for member in self._servers:
            self._start(member)
        self._watching = asyncio.create_task(self._watch())
        await self._become_ready(timeout_s)
        say(f"election ready on {self._binaries} (process {self._postgres.process.pid})", color="green")

    async def _create(self) -> None:
        """Make the database under another name, and rename it when it is complete."""
        made = self._database("postgres.new")
        shutil.rmtree(made.data_dir, ignore_errors=True)
        await made.create()
        made.passfile.rename(self._postgres.passfile)
        made.data_dir.rename(self._postgres.data_dir)

    def _note_down(self) -> None:
        (self._data_dir / PLAN_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(self._plan), indent=2) + b"\n")

    def _start(self, member: _Member) -> None:
        member.process.start()
        member.started_at = asyncio.get_running_loop().time()
        member.restart_at = None

    async def _become_ready(self, timeout_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            states = [await self._ask(member) for member in self._servers]
            if all(states) and any(state["role"] == "leader" for state in states if state):
                return
            for member, state in zip(self._servers, states, strict=True):
                late = asyncio.get_running_loop().time() >= deadline
                if member.gave_up or (late and (state is None or member is self._servers[-1])):
                    what = "cannot run" if member.gave_up else f"is not ready within {format_duration(timeout_s)}"
                    raise ElectionStartError(
                        f"election server {member.name} {what}:\n{_tail(member.process.log_path)}",
                        hint=f"its whole log is {member.process.log_path}",
                    )
            await asyncio.sleep(_POLL_S)

    async def _ask(self, member: _Member) -> dict[str, Any] | None:
        """What the server says, once it says that its database is well."""
        try:
            answer = await fetch("GET", parse_url(f"http://{member.address}/v1/ha/status"), timeout_s=_ASK_S)
            said: dict[str, Any] = answer.json()
        except HttpFailed:
            return None
        return said if said.get("quorum_health") == "healthy" else None

    async def stop(self) -> None:
        """The servers first, which resign; then the database. Bounded, and may be called at any time."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        await asyncio.gather(*(member.process.stop_async(_GRACE_S) for member in self._servers))
        if not self._postgres.running:
            return
        try:
            await self._postgres.stop(StopMode.FAST, timeout=_GRACE_S)
        except PostgresError:
            say("PostgreSQL does not stop; ending it at once", color="yellow")
            await self._postgres.kill()

    def kill(self) -> None:
        """At once: somebody has asked twice. PostgreSQL recovers with its next start."""
        for member in self._servers:
            member.process.kill()
        self._postgres.process.kill()

    # -- watching --------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Start again what ended."""
        while True:
            now = asyncio.get_running_loop().time()
            self._watch_postgres(now)
            for member in self._servers:
                if member.gave_up or member.process.running:
                    continue
                if member.restart_at is None:
                    self._ended(member, now)
                elif now >= member.restart_at:
                    self._start(member)
            await asyncio.sleep(_POLL_S)

    def _ended(self, member: _Member, now: float) -> None:
        code = member.process.returncode
        assert code is not None
        ending, wait_s = member.restarts.ended(code, now - member.started_at)
        told = f"{member.name} {describe_ending(code)}"
        if ending is Ending.GIVE_UP:
            member.gave_up = True
            say(f"{told} and is not started again; see {member.process.log_path}", color="red")
        else:
            member.restart_at = now + wait_s
            say(f"{told}; starting it again in {format_duration(wait_s)}", color="yellow")

    def _watch_postgres(self, now: float) -> None:
        """The servers find it again by themselves."""
        if self._postgres.running:
            return
        if self._postgres_restart_at is None:
            code = self._postgres.process.returncode
            assert code is not None
            _, wait_s = self._postgres_restarts.ended(code, now - self._postgres_started_at)
            self._postgres_restart_at = now + wait_s
            say(f"PostgreSQL {describe_ending(code)}; starting it again in {format_duration(wait_s)}", color="yellow")
        elif now >= self._postgres_restart_at:
            self._postgres.spawn()
            self._postgres_started_at, self._postgres_restart_at = now, None

    # -- words -----------------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """For programs: where all of it is."""
        return {
            "backend": self._postgres.url(),
            "passfile": str(self._postgres.passfile),
            "postgres": {
                "version": self._binaries.version,
                "pid": self._postgres.process.pid,
                "log": str(self._postgres.process.log_path),
            },
            "servers": [
                {
                    "name": member.name,
                    "url": f"http://{member.address}",
                    "pid": member.process.pid,
                    "log": str(member.process.log_path),
                }
                for member in self._servers
            ],
        }

    def show(self) -> None:
        """For people: the same as a table."""
        facts = self.facts()
        rows = [list(server.values()) for server in facts["servers"]]
        table(["ELECTION", "LISTENS", "PID", "LOG"], [*rows, ["postgres", self._postgres.url(), *_last_two(facts)]])

    def suggest(self) -> None:
        """What to try."""
        say("\nLeader election, on a PostgreSQL of its own:")
        say(f"  plasma ha status {' '.join(f'--server {member.address}' for member in self._servers)}")
        say(f"  PGPASSFILE={self._postgres.passfile} psql {self._postgres.url()}")


def _last_two(facts: dict[str, Any]) -> list[Any]:
    return [facts["postgres"]["pid"], facts["postgres"]["log"]]


def _find_binaries(made_by: Path) -> Binaries:
    """Those that can be run here; for a database that exists, of the major version that made it."""
    try:
        wanted = (made_by / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        wanted = ""
    except OSError as error:
        raise ConfigError(f"cannot read the database in {made_by}: {error.strerror}") from error

    def suits(found: Binaries) -> None:
        if wanted and str(found.major) != wanted:
            raise PostgresUnavailable(
                f"{found} cannot open the database in {made_by}, which PostgreSQL {wanted} made",
                hint=f"install PostgreSQL {wanted} again, or start anew with another --data-dir",
            )
        confinement(found)

    return find_binaries(suits=suits)


def _tail(log_path: Path) -> str:
    try:
        with log_path.open(errors="replace") as log:
            lines = deque(log, maxlen=_LOG_LINES)
    except OSError:
        return "  (it left no log)"
    return "".join(f"  {line}" for line in lines).rstrip()
