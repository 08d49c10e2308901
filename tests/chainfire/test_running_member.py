"""A running member touches the world only through its environment and its doors."""

import asyncio
import random
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from lone_member import NOW_NS, Answer, CountingDisk, Nobody, Porch, environment, keys, put, run, settings, started

from plasmacloud.base.errors import ConfigError
from plasmacloud.chainfire.commands import CommandKind
from plasmacloud.chainfire.members import ClusterIdentity
from plasmacloud.chainfire.running_member import Doors, Lives, ReplicaFailed, RunningMember
from plasmacloud.chainfire.snapshot_flow import Received
from plasmacloud.rpc.proto.rpc_pb2 import PutRequest
from plasmacloud.rpc.status import StatusCode
from plasmacloud.storage.install import prepare_state
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.wal_errors import WriteFailed


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


def test_what_was_kept_aside_and_cannot_be_removed_is_reported_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = threading.Event()

    def refused(*_: object, **__: object) -> list[str]:
        tried.set()
        raise WriteFailed("removing what was kept aside", hint="")

    monkeypatch.setattr("plasmacloud.chainfire.running_member.forget_asides", refused)

    async def main() -> None:
        member, porch = await started(settings(tmp_path / "n1"), environment())
        stop = asyncio.Event()
        running = asyncio.create_task(member.run(stop))
        await porch.serving.wait()
        await asyncio.to_thread(tried.wait, 30)
        await put(member, b"k")
        stop.set()
        assert await running is None
        await member.close()

    run(main)
    assert tried.is_set()
    assert "what was kept aside stays" in capsys.readouterr().out


def test_a_defect_in_announcing_the_member_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would run, and clients would never find it."""

    def broken(*_: object, **__: object) -> list[str]:
        raise ValueError("a bug")

    monkeypatch.setattr("plasmacloud.chainfire.running_member.forget_asides", broken)

    async def main() -> None:
        member, _ = await started(settings(tmp_path / "n1"), environment())
        with pytest.raises(ReplicaFailed, match="a bug"):
            async with asyncio.timeout(30):
                await member.run(asyncio.Event())
        await member.close()

    run(main)


@pytest.mark.parametrize("value", [b"v", None])
def test_an_answer_that_cannot_be_given_does_not_stop_the_member(
    tmp_path: Path, value: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else one request that brings out a defect would end one leader after the other."""

    class Deaf(Answer):
        def reply(self, body: bytes) -> None:
            self.told()

        def fail(self, code: StatusCode, message: str) -> None:
            self.told()

        def told(self) -> None:
            self.future.set_result(b"")
            raise ValueError("a bug")

    async def main() -> None:
        member, porch = await started(settings(tmp_path / "n1"), environment())
        stop = asyncio.Event()
        running = asyncio.create_task(member.run(stop))
        await porch.serving.wait()
        deaf = Deaf()
        request = PutRequest(key=b"first", value=value) if value else PutRequest(key=b"none", ignore_value=True)
        member.replica.submit(CommandKind.PUT, request.SerializeToString(), deaf)
        await deaf.future
        await put(member, b"second")
        assert keys(member) == ({b"first", b"second"} if value else {b"second"})
        stop.set()
        assert await running is None
        await member.close()

    run(main)
    assert "an answer could not be given" in capsys.readouterr().out
