"""Housekeeping as clients see it: compaction until it is done, snapshots on a full disk, how much log is kept."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import grpc
import pytest
from dict_store import DictStore, new_machine
from membership_server import MembershipServer, running_membership_server

from plasmacloud.base.errors import StorageError
from plasmacloud.chainfire.checkpoints import Checkpointer
from plasmacloud.chainfire.commands import encode_batch
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.membership_view import MemberRole, MembershipView, MemberView, log_floor
from plasmacloud.chainfire.mvcc.hashing import StateHash
from plasmacloud.chainfire.services import MaintenanceService
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.chainfire.tuning import Tuning
from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.local_call import call_locally
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.service import ServiceTable
from plasmacloud.storage.wal_errors import DiskFull, WriteFailed

DEADLINE_S = 20.0

T = TypeVar("T")


# --- compaction ------------------------------------------------------------------------------------------------------


def compact(channel: grpc.Channel, revision: int, *, physical: bool) -> Any:
    call = channel.unary_unary("/etcdserverpb.KV/Compact", response_deserializer=rpc_pb2.CompactionResponse.FromString)
    request = rpc_pb2.CompactionRequest(revision=revision, physical=physical)
    return call.future(request.SerializeToString(), timeout=DEADLINE_S)


def write(host: MembershipServer, times: int) -> None:
    with grpc.insecure_channel(host.endpoint) as channel:
        put = channel.unary_unary("/etcdserverpb.KV/Put")
        for n in range(times):
            put(rpc_pb2.PutRequest(key=b"k", value=b"%d" % n).SerializeToString(), timeout=DEADLINE_S)


def test_a_physical_compaction_is_answered_when_the_past_is_removed() -> None:
    with running_membership_server() as host, grpc.insecure_channel(host.endpoint) as channel:
        host.compacts = False
        write(host, 50)
        store = host.machine.store
        future = compact(channel, 40, physical=True)
        while store.compaction is None:
            threading.Event().wait(0.001)
        with pytest.raises(grpc.FutureTimeoutError):
            future.result(0.2)  # nobody has done it yet
        while not store.compact_step(7):
            assert not future.done()
        assert future.result(DEADLINE_S).header.revision == 51


def test_a_logical_compaction_is_answered_at_once() -> None:
    with running_membership_server() as host, grpc.insecure_channel(host.endpoint) as channel:
        host.compacts = False
        write(host, 50)
        assert compact(channel, 40, physical=False).result(DEADLINE_S).header.revision == 51
        assert host.machine.store.compaction is not None


def test_a_refused_physical_compaction_is_refused_at_once() -> None:
    with running_membership_server() as host, grpc.insecure_channel(host.endpoint) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            compact(channel, 4000, physical=True).result(DEADLINE_S)
        assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE


# --- a full disk -----------------------------------------------------------------------------------------------------


class FullStore:
    """A state store whose disk has room only when the test says so."""

    def __init__(self) -> None:
        self.inner = DictStore()
        self.room = False
        self.commits = 0

    def commit(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes], meta: dict[str, bytes]) -> None:
        if not self.room:
            raise DiskFull("no space left on device", hint="free space")
        self.commits += 1
        self.inner.kv.update(puts)
        for key in deletes:
            del self.inner.kv[key]
        self.inner.metas.update(meta)


def put(machine: StateMachine, seq: int) -> None:
    body = rpc_pb2.PutRequest(key=b"k%d" % seq, value=b"v").SerializeToString()
    machine.apply(machine.applied_index + 1, 1, encode_batch(6, 1, seq, [(int(CommandKind.PUT), body)]))


def checkpointer(machine: StateMachine, store: FullStore) -> Checkpointer:
    def fatal(error: Exception) -> None:
        raise error

    async def when_whole(work: Callable[[], T]) -> T:
        return work()

    replica = SimpleNamespace(machine=machine, config=SimpleNamespace(tuning=Tuning()), when_whole=when_whole)
    return Checkpointer(replica, store, None, interval_s=1.0, on_fatal=fatal)  # type: ignore[arg-type]


def test_who_cannot_wait_for_space_is_told_and_nothing_is_lost() -> None:
    async def main() -> None:
        store = FullStore()
        machine = new_machine(store.inner)
        keeper = checkpointer(machine, store)
        put(machine, 1)
        with pytest.raises(DiskFull):
            await keeper.save_now()
        put(machine, 2)
        with pytest.raises(DiskFull):
            await keeper.save_now()
        store.room = True
        put(machine, 3)
        await keeper.save_now()
        again = new_machine(store.inner)
        assert (again.applied_index, again.state_hash()) == (3, machine.state_hash())
        assert store.commits == 2, "what had been taken before, and the rest"
        await keeper.save_now()
        assert store.commits == 2, "there is nothing to save"

    asyncio.run(main())


def test_who_waits_for_space_holds_up_nobody_who_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("plasmacloud.chainfire.checkpoints._RETRY_S", 0.01)
        store = FullStore()
        machine = new_machine(store.inner)
        keeper = checkpointer(machine, store)
        put(machine, 1)
        waiting = asyncio.create_task(keeper.save())
        for _ in range(5):
            await asyncio.sleep(0.01)
            with pytest.raises(DiskFull):
                await keeper.save_now()
        assert not waiting.done()
        store.room = True
        async with asyncio.timeout(DEADLINE_S):
            await waiting
        assert new_machine(store.inner).applied_index == 1

    asyncio.run(main())


def snapshot_status(make: Callable[[Path], Coroutine[Any, Any, None]], directory: Path) -> tuple[grpc.StatusCode, str]:
    """How the Snapshot call of a member ends that makes snapshots so."""

    async def main() -> tuple[grpc.StatusCode, str]:
        table = ServiceTable()
        MaintenanceService(
            MembershipServer(),
            size_bytes=lambda: (0, 0),
            hand_over_timeout_s=1.0,
            make_snapshot=make,
            directory=directory,
        ).register(table)
        server = Server(table)
        host, port = await server.start("127.0.0.1", 0)
        try:
            return await asyncio.to_thread(ask, f"{host}:{port}")
        finally:
            await server.close(0.0)

    def ask(endpoint: str) -> tuple[grpc.StatusCode, str]:
        with grpc.insecure_channel(endpoint) as channel:
            call = channel.unary_stream("/etcdserverpb.Maintenance/Snapshot")
            with pytest.raises(grpc.RpcError) as ended:
                list(call(b"", timeout=DEADLINE_S))
            return ended.value.code(), ended.value.details()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (DiskFull("no space left on device", hint=""), "RESOURCE_EXHAUSTED", "no space for a snapshot"),
        (WriteFailed("input/output error", hint=""), "UNAVAILABLE", "no snapshot could be made"),
        (StorageError("the pin was lost"), "UNAVAILABLE", "no snapshot could be made"),
        (OSError(28, "No space left on device"), "RESOURCE_EXHAUSTED", "no space for a snapshot"),
    ],
)
def test_a_snapshot_that_cannot_be_made_is_refused(error: Exception, code: str, words: str, tmp_path: Path) -> None:
    async def make(_path: Path) -> None:
        raise error

    found, message = snapshot_status(make, tmp_path)
    assert (found.name, words in message) == (code, True), message
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_that_takes_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plasmacloud.chainfire.services._SNAPSHOT_S", 0.05)

    async def make(_path: Path) -> None:
        await asyncio.Event().wait()

    found, message = snapshot_status(make, tmp_path)
    assert (found.name, "did not take a snapshot within 0.05 s" in message) == ("UNAVAILABLE", True), message
    assert list(tmp_path.iterdir()) == []


# --- the length of the log -------------------------------------------------------------------------------------------


def view(*members: MemberView) -> MembershipView:
    return MembershipView(own_id=1, leader_id=1, term=2, last_index=1000, commit=1000, members=members)


def member(id: int, match: int, role: MemberRole = MemberRole.VOTER, **more: Any) -> MemberView:
    fields: dict[str, Any] = {"state": "replicate", "active": True, **more}
    return MemberView(id=id, name=f"n{id}", role=role, match=match, **fields)


def test_the_log_is_kept_for_every_voter_also_for_a_silent_one() -> None:
    assert log_floor(view(member(1, 1000), member(2, 990), member(3, 400, active=False))) == 400
    assert log_floor(view(member(1, 1000), member(2, 0, MemberRole.LEAVING, state="probe"))) == 0


def test_the_log_is_kept_for_learners_that_follow_it_and_for_no_other() -> None:
    voters = (member(1, 1000), member(2, 990))
    assert log_floor(view(*voters, member(4, 700, MemberRole.LEARNER))) == 700
    for absent in (
        member(4, 0, MemberRole.LEARNER, state="probe", active=False),  # never came
        member(4, 700, MemberRole.LEARNER, active=False),  # went
        member(4, 0, MemberRole.LEARNER, state="snapshot"),  # gets a snapshot, which keeps what follows it
    ):
        assert log_floor(view(*voters, absent)) == 990


# --- one at a time ---------------------------------------------------------------------------------------------------


class Making:
    """Makes snapshots when it is told to, and knows how many it makes at once."""

    def __init__(self) -> None:
        self.now = self.most = self.made = 0
        self.go_on = asyncio.Event()

    async def __call__(self, path: Path) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.go_on.wait()
        path.write_bytes(b"x" * 100)
        self.now -= 1
        self.made += 1


def maintenance(host: MembershipServer, making: Making, directory: Path) -> ServiceTable:
    table = ServiceTable()
    MaintenanceService(
        host, size_bytes=lambda: (0, 0), hand_over_timeout_s=1.0, make_snapshot=making, directory=directory
    ).register(table)
    return table


async def save(channel: Channel) -> int:
    """The bytes of a snapshot."""
    size = 0
    async with channel.stream("/etcdserverpb.Maintenance/Snapshot", timeout=DEADLINE_S) as call:
        await call.send(b"")
        call.done_sending()
        async for reply in call:
            size += len(rpc_pb2.SnapshotResponse.FromString(reply).blob)
    return size


def test_snapshots_for_clients_are_made_one_at_a_time_also_when_they_give_up(tmp_path: Path) -> None:
    """Each keeps a worker thread busy, and checkpoints need those, too."""

    async def main() -> None:
        making = Making()
        server = Server(maintenance(MembershipServer(), making, tmp_path))
        host, port = await server.start("127.0.0.1", 0)
        channel = Channel(host, port)
        try:
            impatient = [asyncio.create_task(save(channel)) for _ in range(5)]
            patient = [asyncio.create_task(save(channel)) for _ in range(3)]
            await until(lambda: making.now == 1)
            for task in impatient:
                task.cancel()
            await asyncio.wait(impatient)
            await until(lambda: len(server._tasks) == 3)
            assert (making.most, making.made) == (1, 0), "nobody waits for it, and it is not over yet"
            making.go_on.set()
            assert await asyncio.gather(*patient) == [100] * 3
            assert (making.most, making.made) == (1, 4), "who left before it began gets none"
        finally:
            await channel.close()
            await server.close(0.0)

    asyncio.run(main())
    assert list(tmp_path.iterdir()) == []


def test_hashes_are_computed_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_now, most = 0, 0

    class Watched(StateHash):
        def __init__(self, *arguments: Any) -> None:
            nonlocal open_now, most
            super().__init__(*arguments)
            open_now += 1
            most = max(most, open_now)

        def step(self, max_keys: int = 10) -> bool:
            return super().step(max_keys)

        def close(self) -> None:
            nonlocal open_now
            open_now -= self._pinned
            super().close()

    monkeypatch.setattr("plasmacloud.chainfire.services.StateHash", Watched)

    async def main() -> None:
        host = MembershipServer()
        for number in range(100):
            host.machine.store.put(rpc_pb2.PutRequest(key=b"%03d" % number, value=b"v"))
        table = maintenance(host, Making(), tmp_path)
        path = "/etcdserverpb.Maintenance/HashKV"
        calls = [asyncio.create_task(call_locally(table, path, b"", metadata=[])) for _ in range(6)]
        await asyncio.sleep(0)
        calls[1].cancel()
        replies = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(replies.pop(1), asyncio.CancelledError)
        assert len({reply for reply in replies if isinstance(reply, bytes)}) == 1
        assert len(replies) == 5
        assert host.machine.store._pins == {}

    asyncio.run(main())
    assert (open_now, most) == (0, 1)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.002)
