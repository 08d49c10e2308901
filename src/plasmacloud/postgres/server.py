"""One PostgreSQL server: its directory, its process, and what can be done to it.

The server is spawned directly, never through ``pg_ctl``: its PID is then ours to signal, no 100 ms are lost in
polling, and the kernel ends it when we die. It listens on one address and has no Unix socket, so no path is too long
and nothing lies about in a shared directory. Passwords travel in files that only their owner can read: never in a
command line, never in the environment, never in a log.

A server that is killed leaves children and a shared memory segment for a moment. `kill` waits for the children, since
a restart beside them would be refused, and `remove` takes the segment away.
"""

import asyncio
import os
import secrets
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import quote

from plasmacloud.base.errors import PlasmaError, StorageError
from plasmacloud.base.process import ManagedProcess, ProcessError
from plasmacloud.postgres.binaries import Binaries
from plasmacloud.postgres.errors import PostgresError, PostgresUnavailable, explain
from plasmacloud.postgres.leftovers import forget_shared_memory
from plasmacloud.postgres.privileges import confinement, reachable
from plasmacloud.postgres.sessions import NotReady, ask, command, open_session

SUPERUSER = "plasma"
DATABASE = "postgres"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
PROGRAM_TIMEOUT_S = 120.0
_POLL_S = 0.01
_CONNECT_TIMEOUT_S = 2.0
_ALWAYS = {
    "unix_socket_directories": "",
    "dynamic_shared_memory_type": "mmap",  # in the data directory: nothing stays in /dev/shm after a kill
    "max_wal_senders": "8",
    "wal_keep_size": "64MB",
    "shared_buffers": "32MB",
    "log_line_prefix": "%m [%p] %q%a ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class StopMode(Enum):
    """How a server is asked to stop; the value is the signal. SMART waits until every client has gone, FAST ends
    sessions and writes a checkpoint, IMMEDIATE crashes in order: the next start recovers from the log."""

    SMART = signal.SIGTERM
    FAST = signal.SIGINT
    IMMEDIATE = signal.SIGQUIT


class PostgresServer:
    """A server with a data directory of its own. Nothing is done to the machine before `create`.

    ``inside``: words before every command, such as ``ip netns exec h1``; ``allow``: networks, in CIDR notation, from
    which clients may come besides loopback; ``settings``: parameters of the server, by name, for its next start.
    """

    def __init__(
        self,
        name: str,
        binaries: Binaries,
        data_dir: Path,
        port: int,
        *,
        log_path: Path,
        host: str = "127.0.0.1",
        settings: Mapping[str, str] | None = None,
        inside: Sequence[str] = (),
        allow: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.binaries = binaries
        self.data_dir = data_dir.absolute()
        self.host = host
        self.port = port
        self.settings = dict(settings or {})
        self.passfile = self.data_dir.with_name(f"{self.data_dir.name}.pgpass")
        self._how = confinement(binaries)
        self._inside = tuple(inside)
        self._allow = tuple(allow)
        self._log_offset = 0
        self.process = ManagedProcess(name, [], log_path=log_path, env=self.environment())

    def environment(self) -> dict[str, str]:
        """For programs that connect to this server: where the password is, and nothing else about PostgreSQL."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        return {**kept, "LC_ALL": "C", "PGPASSFILE": str(self.passfile)}

    def url(self, *, user: str = SUPERUSER, database: str = DATABASE) -> str:
        """Where the server is. Without the password, which is in `passfile`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgres://{quote(user)}@{host}:{self.port}/{quote(database)}"

    # -- life and death ----------------------------------------------------------------------------------------

    async def create(self) -> None:
        """Make the data directory (initdb). Raises `PostgresError`, `DiskFull` or `PostgresUnavailable`."""
        self.make_directory()
        password = secrets.token_urlsafe(24)
        self._write_private(self.passfile, f"*:*:*:{SUPERUSER}:{password}\n")
        once = self.data_dir.with_name(f"{self.data_dir.name}.initial")
        self._write_private(once, f"{password}\n")
        arguments = ["-D", str(self.data_dir), "-U", SUPERUSER, f"--pwfile={once}", "--data-checksums", "--no-sync"]
        arguments += ["--auth-host=scram-sha-256", "--auth-local=reject", "--no-locale", "--encoding=UTF8"]
        try:
            await self.run_program("initdb", *arguments)
        finally:
            once.unlink(missing_ok=True)
        with (self.data_dir / "postgresql.conf").open("a") as configuration:  # programs such as pg_rewind read it too
            configuration.writelines(f"{name} = '{value}'\n" for name, value in _ALWAYS.items())
        with (self.data_dir / "pg_hba.conf").open("a") as rules:
            rules.writelines(
                f"host {what} all {network} scram-sha-256\n"
                for network in self._allow
                for what in ("all", "replication")
            )

    def make_directory(self) -> None:
        """An empty data directory that belongs to whom the server runs as. Raises `PostgresUnavailable`."""
        try:
            self.data_dir.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"cannot make the data directory {self.data_dir}: {error.strerror}") from error
        self._how.hand_over(self.data_dir)
        if not reachable(self._how, self.data_dir):
            raise PostgresUnavailable(
                f"PostgreSQL runs {self._how.describe} and cannot enter {self.data_dir}",
                hint="choose a directory below one that everybody can enter",
            )

    def adopt_password(self, other: "PostgresServer") -> None:
        """Use the same password as ``other``, of which this server is a copy."""
        self._write_private(self.passfile, other.passfile.read_text())

    async def start(self, *, timeout: float = START_TIMEOUT_S) -> int:
        """Start the server and wait until it accepts a session; returns its PID.

        Raises `PortTaken`, `DiskFull`, or `PostgresError` with the server's own words.
        """
        pid = self.spawn()
        await self.ready(timeout=timeout)
        return pid

    def spawn(self) -> int:
        """Start the process and return at once. Must be called on the main thread: children die with their thread."""
        settings = {"listen_addresses": self.host, "port": str(self.port), **self.settings}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.process.argv = [*self._command("postgres"), "-D", str(self.data_dir), *words]
        log = self.process.log_path
        self._log_offset = log.stat().st_size if log.exists() else 0
        self.process.start()
        return self.process.pid

    async def ready(self, *, timeout: float = START_TIMEOUT_S) -> None:
        """Wait until the server accepts a session; asks every 10 ms."""
        deadline = time.monotonic() + timeout
        problem = "nothing was tried"
        while time.monotonic() < deadline:
            if not self.process.running:
                raise explain(f"{self.name} did not start on port {self.port}", self.last_words())
            try:
                session = await self.connect(timeout=min(_CONNECT_TIMEOUT_S, timeout))
            except NotReady as error:
                problem = str(error)
                await asyncio.sleep(_POLL_S)
                continue
            session.terminate()
            return
        raise PostgresError(f"{self.name} accepts no session after {timeout:g} s: {problem}")

    async def connect(
        self, *, user: str = SUPERUSER, database: str = DATABASE, timeout: float = _CONNECT_TIMEOUT_S
    ) -> Any:
        """A new session (an asyncpg connection). Raises `NotReady` or `PostgresError`."""
        url = self.url(user=user, database=database)
        return await open_session(url, timeout=timeout, passfile=str(self.passfile))

    async def execute(self, sql: str, *, timeout: float = 10.0) -> str:
        """Run one statement in a session of its own; returns its command tag, such as ``INSERT 0 1``."""
        session = await self.connect(timeout=timeout)
        try:
            return await command(session, sql, timeout=timeout)
        finally:
            session.terminate()

    async def fetch(self, sql: str, *arguments: object, timeout: float = 10.0) -> list[tuple[Any, ...]]:
        """The rows of one query, in a session of its own."""
        session = await self.connect(timeout=timeout)
        try:
            return await ask(session, sql, *arguments, timeout=timeout)
        finally:
            session.terminate()

    async def stop(self, mode: StopMode = StopMode.FAST, *, timeout: float = STOP_TIMEOUT_S) -> int:
        """Ask the server to stop and wait for it; returns its exit status.

        Raises `PostgresError` when it still runs after ``timeout`` seconds, as SMART does while clients stay.
        """
        offspring = self.children()
        self.process.signal(mode.value)
        try:
            status = await self.process.wait_async(timeout)
        except ProcessError as error:
            raise PostgresError(str(error), hint="use another mode of stopping") from error
        await self._buried(offspring)
        return status

    async def kill(self) -> int:
        """SIGKILL of the postmaster, as a crash of the machine's memory would be; returns its exit status.

        Returns when its children, which notice by themselves, have ended too.
        """
        offspring = self.children()
        self.process.kill()
        await self._buried(offspring)
        assert self.process.returncode is not None
        return self.process.returncode

    def freeze(self) -> None:
        """SIGSTOP of the postmaster and of all its children: connections stay open, nothing answers."""
        self.process.signal(signal.SIGSTOP)  # first, so that there are no new children
        for pid in self.children():
            _send(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT for all that `freeze` stopped."""
        for pid in self.children():
            _send(pid, signal.SIGCONT)
        self.process.signal(signal.SIGCONT)

    async def remove(self) -> None:
        """Kill the server if it runs, and remove its directory and everything else that it left."""
        if self.process.running:
            await self.kill()
        self.remove_files()

    def end(self) -> None:
        """As `remove`, at once and without waiting for the children, which end by themselves: for the way out."""
        self.process.kill()
        self.remove_files()

    def remove_files(self) -> None:
        """Remove the directory of a server that does not run, its password and its shared memory."""
        forget_shared_memory(self.data_dir)
        self.passfile.unlink(missing_ok=True)
        shutil.rmtree(self.data_dir, ignore_errors=True)

    # -- its processes and programs ----------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self.process.running

    def children(self) -> list[int]:
        """PIDs of the server's own processes: backends, writers, walsenders."""
        return list(_children(self.process.pid)) if self.process.running else []

    def last_words(self) -> str:
        """What the server has logged since it was started last."""
        try:
            with self.process.log_path.open("rb") as log:
                log.seek(self._log_offset)
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    async def run_program(self, program: str, *arguments: str, timeout: float = PROGRAM_TIMEOUT_S) -> str:
        """Run one of PostgreSQL's programs on this server's directory; returns what it printed.

        Raises the error that its output explains. It is killed when the caller is cancelled.
        """
        log = self.process.log_path.with_name(f"{self.name}-{program}.log")
        log.unlink(missing_ok=True)
        child = ManagedProcess(
            program, [*self._command(program), *arguments], log_path=log, env=self.environment(), cwd=Path("/")
        )
        child.start()
        try:
            status = await child.wait_async(timeout)
        finally:
            child.kill()
        output = log.read_text(errors="replace")
        if status != 0:
            raise explain(f"{program} of {self.name} failed", output)
        return output

    def _command(self, program: str) -> list[str]:
        return [*self._inside, *self._how.prefix, self.binaries.program(program)]

    def _write_private(self, path: Path, text: str) -> None:
        try:
            path.touch(mode=0o600)
            path.write_text(text)
            self._how.hand_over(path)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error

    async def _buried(self, offspring: Sequence[int]) -> None:
        """Wait until the children of a server that has ended are gone; ends those that stay (they may be frozen)."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        patience = time.monotonic() + 2.0
        while any(map(_alive, offspring)):
            if time.monotonic() >= deadline:
                raise PlasmaError(f"processes of {self.name} outlive it: {[p for p in offspring if _alive(p)]}")
            if time.monotonic() >= patience:
                for pid in offspring:
                    _send(pid, signal.SIGKILL)
            await asyncio.sleep(_POLL_S)


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from map(int, task.read_text().split())
        except OSError:
            continue


def _alive(pid: int) -> bool:
    """Whether a process runs: one that waits to be reaped by whoever has inherited it does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    name, _, rest = stat.partition("(")[2].rpartition(")")
    return name == "postgres" and rest.split()[0] != "Z"


def _send(pid: int, signum: int) -> None:
    """Signal a process of a server that has just been seen as one; nothing happens when it has ended."""
    try:
        if _alive(pid):
            os.kill(pid, signum)
    except ProcessLookupError:
        pass
