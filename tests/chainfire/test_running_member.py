"""A running member touches the world only through its environment and its doors."""

import asyncio
import itertools
import random
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from plasmacloud.base.errors import ConfigError
from plasmacloud.chainfire.commands import CommandKind
from plasmacloud.chainfire.config import ServerConfig, make_config
from plasmacloud.chainfire.environment import Environment
from plasmacloud.chainfire.members import ClusterIdentity
from plasmacloud.chainfire.running_member import Doors, Lives, ReplicaFailed, RunningMember
from plasmacloud.chainfire.snapshot_flow import Received
from plasmacloud.rpc.peer_options import PeerState
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.status import StatusCode
from plasmacloud.storage.disk import DirectoryLock, DiskFile, OsDisk
from plasmacloud.storage.install import prepare_state
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.wal_errors import WriteFailed
from plasmacloud.storage.workers import Work, Worker

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
        async with asyncio.timeout(60):
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
    return make_config(
        name="n1", data_dir=directory, listen_client="127.0.0.1:1", listen_peer="127.0.0.1:2", election_timeout_s=0.05,
        heartbeat_interval_s=0.01, bootstrap=True,
    )  # fmt: skip


async def put(member: RunningMember, key: bytes) -> None:
    answer = Answer()
    member.replica.submit(CommandKind.PUT, rpc_pb2.PutRequest(key=key, value=b"v").SerializeToString(), answer)
    await answer.future


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


def test_a_member_lives_and_leaves_in_the_environment_it_was_given(tmp_path: Path) -> None:
    async def main() -> None:
        surroundings = environment()
        member, porch = await started(settings(tmp_path / "n1"), surroundings)
        stop = asyncio.Event()
        running = asyncio.create_task(member.run(stop))
        await porch.serving.wait()
        await put(member, b"k")
        stop.set()
        assert await running is None
        await member.close()
        assert porch.told[0] == "open"
        assert "serving" in porch.told
        assert porch.told[-3:] == ["not serving", "drain", "close"]
        assert member.data.life.birth == random.Random(1).getrandbits(64)
        assert member.data.life.incarnation == NOW_NS
        disk = surroundings.disk
        assert isinstance(disk, CountingDisk)
        assert {"member.tmp", "prepare-1.tmp"} <= disk.made
        assert disk.locks[0] == tmp_path / "n1"
        again, _ = await started(settings(tmp_path / "n1"), environment(2, NOW_NS + 50))
        assert keys(again) == {b"k"}
        assert again.data.life.birth == member.data.life.birth
        assert again.data.life.earlier == (NOW_NS,)
        await again.close()

    run(main)


def test_the_same_chance_draws_the_same_lives(tmp_path: Path) -> None:
    async def main() -> None:
        lives = []
        for name in ("a", "b"):
            first, _ = await started(settings(tmp_path / name), environment(7))
            await first.close()
            second, _ = await started(settings(tmp_path / name), environment(7, 1))  # the clock was set back
            await second.close()
            lives.append((first.data.life, second.data.life))
        assert lives[0] == lives[1]
        assert lives[0][1].incarnation > NOW_NS

    run(main)


def test_a_start_that_fails_lets_go_of_everything(tmp_path: Path) -> None:
    async def main() -> None:
        def no_doors(_: RunningMember) -> Doors:
            raise ConfigError("no way in")

        failed = Lives(settings(tmp_path / "n1"), environment(), no_doors)
        with pytest.raises(ConfigError, match="no way in"):
            await failed.run(asyncio.Event())
        assert failed.member is None
        member, _ = await started(settings(tmp_path / "n1"), environment())
        await member.close()

    run(main)


def test_a_member_stops_when_one_of_its_tasks_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        def fail() -> None:
            raise ValueError("nobody foresaw this")

        member, _ = await started(settings(tmp_path / "n1"), environment())
        monkeypatch.setattr(member.replica.care, "look_after_members", fail)
        with pytest.raises(ReplicaFailed, match="nobody foresaw this"):
            await member.run(asyncio.Event())
        await member.close()

    run(main)


class Gated(StateStore):
    """Its commits wait for a word, and may then fail."""

    gate: threading.Event
    begun: threading.Event
    failure: Exception | None

    def commit(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes], meta: Mapping[str, bytes]) -> None:
        self.begun.set()
        assert self.gate.wait(30)
        if self.failure is not None:
            raise self.failure
        super().commit(puts, deletes, meta)


def gated() -> type[Gated]:
    """Nothing is held up yet, but every checkpoint will be when the gate is closed."""

    class Store(Gated):
        gate = threading.Event()
        begun = threading.Event()
        failure = None

    Store.gate.set()
    return Store


def test_whoever_gives_up_waiting_for_a_checkpoint_does_not_keep_others_from_theirs(tmp_path: Path) -> None:
    async def main() -> None:
        store = gated()
        config = msgspec.structs.replace(settings(tmp_path / "n1"), checkpoint_interval_s=1000.0)
        member, porch = await started(config, msgspec.structs.replace(environment(), stores=store))
        await porch.serving.wait()
        await put(member, b"a")
        store.gate.clear()
        store.begun.clear()
        client = asyncio.create_task(member.make_snapshot(tmp_path / "snapshot"))
        assert await asyncio.to_thread(store.begun.wait, 30)
        client.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client
        store.gate.set()
        await put(member, b"b")
        await member.checkpointer.save()
        assert not member.fatal.done()
        await member.close()
        again, _ = await started(config, environment())
        assert keys(again) == {b"a", b"b"}
        await again.close()

    run(main)


def test_a_checkpoint_that_fails_is_fatal_whoever_asked_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        store = gated()
        config = msgspec.structs.replace(settings(tmp_path / "n1"), checkpoint_interval_s=1000.0)
        member, porch = await started(config, msgspec.structs.replace(environment(), stores=store))
        await porch.serving.wait()
        await put(member, b"a")
        store.failure = WriteFailed("the disk is gone")
        with pytest.raises(WriteFailed):
            await member.make_snapshot(tmp_path / "snapshot")
        with pytest.raises(WriteFailed, match="the disk is gone"):
            await member.run(asyncio.Event())
        await member.close()

    run(main)


def test_a_member_that_has_received_a_snapshot_starts_anew_with_it(tmp_path: Path) -> None:
    class Behind(RunningMember):
        """Has a snapshot ready in its first life, and looks at what it has in the second."""

        opened: list[set[bytes]] = []  # noqa: RUF012 - of this test's only member
        snapshot: Path

        async def run(self, stop: asyncio.Event) -> Received | None:
            self.opened.append(keys(self))
            if len(self.opened) > 1:
                return None
            info = prepare_state(self.data.path, self.snapshot, identity=self.identity, disk=self.environment.disk)
            return Received(self.snapshot, info)

    async def main() -> None:
        config = settings(tmp_path / "n1")
        ahead, porch = await started(config, environment())
        await porch.serving.wait()
        await put(ahead, b"k")
        Behind.snapshot = tmp_path / "snapshot"
        info = await ahead.make_snapshot(Behind.snapshot)
        await ahead.close()
        joiner = msgspec.structs.replace(
            config,
            data_dir=tmp_path / "n2",
            member=msgspec.structs.replace(config.member, id=77, name="n2"),
            cluster=ClusterIdentity(cluster_id=config.cluster.cluster_id, members=()),
        )
        surroundings = msgspec.structs.replace(environment(), transport=lambda **identity: Silent(**identity))
        lives = Lives(joiner, surroundings, Porch, member_class=Behind)
        await lives.run(asyncio.Event())
        assert Behind.opened == [set(), {b"k"}]
        assert info.index >= 2

    class Silent(Nobody):
        def set_peer(self, member_id: int, host: str, port: int) -> None:
            pass

    run(main)
