"""A PostgreSQL server and election servers as processes, and what a client sees of them."""

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contest import DEADLINE_S, new_server

from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.election.http_client import Answer, HttpFailed, fetch, parse_url
from plasmacloud.postgres import Binaries, PostgresServer

_elections = itertools.count(1)
PLASMA = [sys.executable, "-m", "plasmacloud"]


def eventually(what: str, look: Callable[[], Any]) -> Any:
    """The first answer of ``look`` that is true."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.02)


def call(method: str, url: str, body: bytes | None = None, **options: Any) -> Answer:
    """One request, whatever comes back."""
    return asyncio.run(fetch(method, parse_url(url), body=body, timeout_s=DEADLINE_S, **options))


class ElectionServer:
    """`plasma election serve` as a process."""

    def __init__(self, node: str, directory: Path, argv: list[str], env: dict[str, str], url: str) -> None:
        self.node = node
        self.url = url
        self.process = ManagedProcess(node, [*PLASMA, "election", "serve", *argv], log_path=directory / f"{node}.log")
        self.process.env = env

    @property
    def log(self) -> str:
        return self.process.log_path.read_text()

    def get(self, path: str) -> Any:
        """The JSON of the answer; None: none."""
        try:
            return call("GET", self.url + path).json()
        except HttpFailed:
            return None

    def status(self) -> dict[str, Any]:
        return self.get("/v1/ha/status") or {}

    def post(self, path: str, body: bytes, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return call("POST", self.url + path, body, headers=named)

    @property
    def leads(self) -> bool:
        return self.status().get("role") == "leader"

    def wait_ready(self) -> None:
        eventually(f"{self.node} is ready", lambda: self.status().get("quorum_health") == "healthy")


class Rig:
    """One database, and as many servers as a test wants."""

    def __init__(self, directory: Path, binaries: Binaries | None = None) -> None:
        self.directory = directory
        self.postgres = new_server(directory, binaries=binaries)
        self.servers: list[ElectionServer] = []

    def server(self, node: str, *flags: str, election: str, backend: str = "", start: bool = True) -> ElectionServer:
        (port,) = free_ports(1)
        names = ["--id", node, "--election", election, "--quorum-monitor-interval", "200ms"]
        place = ["--listen", f"127.0.0.1:{port}", "--backend", backend or self.postgres.url()]
        secure = "https" if "--tls-cert" in flags else "http"
        url = f"{secure}://127.0.0.1:{port}"
        directory = self.directory / f"{election}-{port}"
        server = ElectionServer(node, directory, [*names, *place, *flags], self.postgres.environment(), url)
        self.servers.append(server)
        if start:
            server.process.start()
        return server

    def pair(self, *flags: str) -> tuple[ElectionServer, ElectionServer]:
        """(leader, follower) of a new election, which both know of each other."""
        election = new_name()
        nodes = [self.server(name, *flags, election=election) for name in ("n1", "n2")]
        for node in nodes:
            node.wait_ready()
        eventually("one leads", lambda: any(node.leads for node in nodes))
        leader, follower = sorted(nodes, key=lambda node: not node.leads)
        for node in nodes:
            eventually("both know the leader", lambda node=node: node.status().get("leader_id") == leader.node)
            eventually("both are known", lambda node=node: len(node.get("/v1/ha/nodes") or []) == 2)
        return leader, follower

    def sql(self, text: str, *arguments: object) -> list[tuple[Any, ...]]:
        return asyncio.run(self.postgres.fetch(text, *arguments))

    def stop_servers(self, *, beyond: int = 0) -> None:
        """All but the first so many."""
        for server in self.servers[beyond:]:
            server.process.stop()
        del self.servers[beyond:]


def new_name() -> str:
    """An election that no other test uses."""
    return f"served-{next(_elections)}"


@contextmanager
def running_rig(directory: Path, *, binaries: Binaries | None = None, **settings: str) -> Iterator[Rig]:
    """A database that runs; all is stopped at the end."""
    rig = Rig(directory, binaries)
    rig.postgres.settings.update(settings)
    try:
        start(rig.postgres)
        yield rig
    finally:
        rig.stop_servers()
        rig.postgres.end()


def start(server: PostgresServer) -> None:
    """Create and start."""

    async def both() -> None:
        await server.create()
        await server.start()

    asyncio.run(both())
