"""The election bench as a client sees it: real `plasma election serve` processes, and writes over HTTP.

From the fault on, one client sends fenced writes to whichever server may lead next, one after the other on a connection
that it keeps, until one is acknowledged. What is measured is that moment: election, epoch, HTTP, fence and commit.
"""

import asyncio
import json
import random
import signal
import sys
import time
from pathlib import Path

import msgspec

from bench.harness import BenchError, tail
from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.postgres import PostgresServer, StopMode

NAMES = ("a", "b")
DEADLINE_S = 20.0
_SERVE = (sys.executable, "-m", "plasmacloud", "election", "serve")
_PAUSE_S = 0.001
_ANSWER_S = 1.0


class Connection:
    """HTTP/1.1 on one connection, opened again when it breaks; as small as a client can be."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body; (0, b""): no answer."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._streams
                head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
                length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
                return int(lines[0].split()[1]), await reader.readexactly(length)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, StopIteration):
            self.close()
            return 0, b""

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class Served:
    """Two election servers of one election."""

    def __init__(self, postgres: PostgresServer, directory: Path, election: str, campaign_s: float) -> None:
        self.postgres = postgres
        self.election = election
        self.ports = dict(zip(NAMES, free_ports(2), strict=True))
        self.asking = {name: Connection(port) for name, port in self.ports.items()}
        polling = ["--campaign", f"{round(campaign_s * 1000)}ms"] if campaign_s else []
        self.processes: dict[str, ManagedProcess] = {}
        for name, port in self.ports.items():
            argv = [*_SERVE, "--id", name, "--election", election, "--listen", f"127.0.0.1:{port}"]
            argv += ["--backend", postgres.url(), *polling]
            log = directory / f"{election}-{name}.log"
            self.processes[name] = ManagedProcess(name, argv, log_path=log, env=postgres.environment())

    async def settled(self) -> tuple[str, str]:
        """Wait until one leads and writes, and the other one waits for its turn; (leader, follower)."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            roles = {name: await self._role(name) for name in NAMES}
            if sorted(roles.values()) == ["follower", "leader"]:
                leader, follower = sorted(NAMES, key=lambda name: roles[name] != "leader")
                status, _ = await self.write(leader)
                if status == 200:
                    return leader, follower
            if time.monotonic() > deadline:
                raise BenchError(f"no leader and follower: {roles}", hint=tail(self.processes["a"].log_path))
            await asyncio.sleep(0.02)

    async def _role(self, name: str) -> str:
        status, body = await self.asking[name].ask("GET", "/v1/ha/status")
        if status != 200:
            return "silent"
        said = msgspec.json.decode(body)
        known = said["quorum_health"] == "healthy" and said["leader_id"]
        return str(said["role"]) if known else "unsettled"

    async def write(self, name: str) -> tuple[int, str]:
        """One fenced write; status and epoch."""
        body = json.dumps({"value": str(time.monotonic())}).encode()
        status, answer = await self.asking[name].ask("PUT", f"/v1/probe/{self.election}", body)
        return status, str(msgspec.json.decode(answer)["epoch"]) if status == 200 else ""

    async def first_write(self, heirs: tuple[str, ...]) -> float:
        """The time at which the first write is acknowledged."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            for heir in heirs:
                status, _ = await self.write(heir)
                if status == 200:
                    return time.monotonic()
            await asyncio.sleep(_PAUSE_S)
        raise BenchError("no write was accepted after the fault", hint=tail(self.processes[heirs[0]].log_path))

    async def trial(self, fault: str, rng: random.Random) -> float:
        """Milliseconds from the fault to the first acknowledged write; everything as before when it is over."""
        leader, follower = await self.settled()
        await asyncio.sleep(rng.uniform(0.1, 0.6))
        process = self.processes[leader]
        heirs: tuple[str, ...] = (follower,)
        if fault == "RESTART":
            await self.postgres.stop(StopMode.FAST)
            fault_at = time.monotonic()
            self.postgres.spawn()
            heirs = NAMES
        else:
            fault_at = time.monotonic()
            process.signal(getattr(signal, f"SIG{fault}"))
        wrote_at = await self.first_write(heirs)
        if fault == "STOP":
            process.signal(signal.SIGCONT)
        elif fault != "RESTART":
            await process.wait_async(DEADLINE_S)
            process.start()
        return (wrote_at - fault_at) * 1e3

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
        for connection in self.asking.values():
            connection.close()


async def served_series(
    postgres: PostgresServer, directory: Path, election: str, campaign_s: float, fault: str, *, trials: int, seed: int
) -> list[float]:
    """All trials of one fault. Raises `BenchError`."""
    contest = Served(postgres, directory, election, campaign_s)
    rng = random.Random(seed)
    try:
        for process in contest.processes.values():
            process.start()
        return [await contest.trial(fault, rng) for _ in range(trials)]
    finally:
        contest.end()
