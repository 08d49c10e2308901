"""A member that is alone, in the process of the test: a real disk, no network, no threads of the log, no doors."""

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
from google.protobuf.message import Message

from plasmacloud.chainfire.config import ServerConfig, make_config
from plasmacloud.chainfire.environment import Environment
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.running_member import Doors, RunningMember
from plasmacloud.rpc.peer_options import PeerState
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.status import StatusCode
from plasmacloud.storage.disk import DirectoryLock, DiskFile, OsDisk
from plasmacloud.storage.workers import Work, Worker

DEADLINE_S = 60.0
NOW_NS = 1_000_000


class CountingDisk(OsDisk):
    """The real one; notes every file that was made."""

    def __init__(self) -> None:
        self.made: set[str] = set()
        self.locks: list[Path] = []

    def create(self, path: Path) -> DiskFile:
        self.made.add(path.name)
        return super().create(path)

    def lock_directory(self, path: Path) -> DirectoryLock:
        self.locks.append(path)
        return super().lock_directory(path)


class Nobody:
    """The transport of a member that is alone."""

    keepalive_s = 0.1

    def __init__(self, **identity: Any) -> None:
        self.on_round_trip: Callable[[int, float, float], None] | None = None
        self.identity = identity
        self.listening = False

    async def start(self, host: str, port: int) -> tuple[str, int]:
        self.listening = True
        return host, port

    async def close(self) -> None:
        self.listening = False

    def set_peer(self, member_id: int, host: str, port: int) -> None:
        raise AssertionError("nobody else is in this cluster")

    def remove_peer(self, member_id: int) -> None:
        raise AssertionError("nobody else is in this cluster")

    def peers(self) -> list[PeerState]:
        return []

    def is_connected(self, member_id: int) -> bool:
        return False

    def send(self, member_id: int, frame: bytes) -> bool:
        return False

    def flush(self) -> None:
        pass


class NoThreads:
    """Every piece of work on the loop, at once."""

    def start(self, name: str, work: Work) -> Worker:
        return _OnTheLoop(work)


class _OnTheLoop:
    def __init__(self, work: Work) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()

    def wake(self, after_s: float = 0.0) -> None:
        self._loop.call_later(after_s, self._run)

    def stop(self, timeout_s: float) -> bool:
        while self._run():
            pass
        return True

    def _run(self) -> bool:
        report = self._work()
        if report is not None:
            report()
        return report is not None


class Porch:
    """Doors that only say what was asked of them."""

    def __init__(self, member: RunningMember) -> None:
        self.member = member
        self.told: list[str] = []
        self.serving = asyncio.Event()

    async def open(self) -> None:
        assert self.member.replica.transport.listening  # type: ignore[attr-defined]
        self.told.append("open")

    def set_serving(self, serving: bool) -> None:
        self.told.append("serving" if serving else "not serving")
        if serving:
            self.serving.set()

    async def drain(self) -> None:
        assert self.member.replica.stopping
        self.told.append("drain")

    async def close(self) -> None:
        assert not self.member.replica.transport.listening  # type: ignore[attr-defined]
        self.told.append("close")


class Answer:
    """Waits for a command."""

    def __init__(self) -> None:
        self.future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    @property
    def done(self) -> bool:
        return self.future.done()

    def reply(self, body: bytes) -> None:
        self.future.set_result(body)

    def fail(self, code: StatusCode, message: str) -> None:
        self.future.set_exception(RuntimeError(message))


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await main()

    asyncio.run(bounded())


def environment(seed: int = 1, start_ns: int = NOW_NS) -> Environment:
    return Environment(
        disk=CountingDisk(),
        stores=Environment.production().stores,
        workers=NoThreads(),
        transport=Nobody,
        now_ns=itertools.count(start_ns).__next__,
        randbits=random.Random(seed).getrandbits,
    )


def settings(directory: Path) -> ServerConfig:
    config = make_config(
        name="n1", data_dir=directory, listen_client="127.0.0.1:1", listen_peer="127.0.0.1:2", election_timeout_s=0.05,
        heartbeat_interval_s=0.01, bootstrap=True,
    )  # fmt: skip
    return msgspec.structs.replace(config, request_timeout_s=DEADLINE_S)  # requests end when the test says so


def submit(member: RunningMember, kind: CommandKind, request: Message) -> "asyncio.Future[bytes]":
    """The reply to a command that is on its way."""
    answer = Answer()
    member.replica.submit(kind, request.SerializeToString(), answer)
    return answer.future


async def put(member: RunningMember, key: bytes) -> None:
    await submit(member, CommandKind.PUT, rpc_pb2.PutRequest(key=key, value=b"v"))


def keys(member: RunningMember) -> set[bytes]:
    return set(member.machine.store.index.living(b"", b""))


async def started(config: ServerConfig, surroundings: Environment) -> tuple[RunningMember, Porch]:
    porches: list[Porch] = []

    def doors(member: RunningMember) -> Doors:
        porches.append(Porch(member))
        return porches[-1]

    member = RunningMember(config, surroundings, doors)
    member.open()
    await member.start()
    return member, porches[0]
