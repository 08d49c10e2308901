"""The shell around the transfers: files, frames and time, between two members in one process."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from plasmacloud.chainfire.snapshot_flow import Received, SnapshotFlow
from plasmacloud.chainfire.snapshot_frames import Offer, decode_frame
from plasmacloud.chainfire.snapshot_transfer import TransferConfig
from plasmacloud.storage.disk import OsDisk
from plasmacloud.storage.record_store import RecordStores, Sealed
from plasmacloud.storage.snapshot import SnapshotInfo, write_snapshot
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.wal_errors import DiskFull
from plasmacloud.storage.wal_format import Identity, LogMark

CONFIG = TransferConfig(repeat_s=0.01)


class FullForAWhile(StateStore):
    """The first states cannot be built."""

    refusals = 2

    @classmethod
    def build(
        cls,
        path: Path,
        chunks: Iterable[Sequence[Sealed]],
        meta: Mapping[str, bytes],
        *,
        identity: Identity,
        map_bytes: int = 1 << 24,
    ) -> None:
        if cls.refusals:
            cls.refusals -= 1
            raise DiskFull("no space for the state")
        super().build(path, chunks, meta, identity=identity, map_bytes=map_bytes)


class Side:
    """One member's flow; what it sends arrives at the other's in the next turn of the loop."""

    def __init__(self, directory: Path, member_id: int, stores: RecordStores) -> None:
        self.id = member_id
        self.directory = directory
        self.other: Side
        self.log_reaches_back = True
        self.applied = 0
        self.reports: list[tuple[int, bool]] = []
        self.defects: list[Exception] = []
        self.received: asyncio.Future[Received] = asyncio.get_running_loop().create_future()
        directory.mkdir()
        self.flow = SnapshotFlow(
            directory,
            directory / "snapshots",
            Identity(1, member_id),
            make=self._make,
            applied=lambda: self.applied,
            continues=lambda _: self.log_reaches_back,
            send=self._send,
            report=lambda member, done: self.reports.append((member, done)),
            on_received=self.received.set_result,
            on_fatal=self.defects.append,
            name_of=str,
            disk=OsDisk(),
            stores=stores,
            config=CONFIG,
        )

    async def _make(self, path: Path) -> SnapshotInfo:
        store = StateStore.open(self.directory / "state", map_bytes=1 << 24)
        store.commit([(b"%d" % number, bytes(1000)) for number in range(100, 400)], (), {})
        info = write_snapshot(store, path, cluster_id=1, describe=lambda _: LogMark(5, 2, b""))
        store.close()
        return info

    def _send(self, _member: int, frame: bytes) -> bool:
        asyncio.get_running_loop().call_soon(self.other.flow.on_frame, self.id, frame)
        return True


def test_a_snapshot_that_could_not_be_prepared_is_prepared_when_there_is_room(tmp_path: Path) -> None:
    async def main() -> None:
        FullForAWhile.refusals = 2
        sender, receiver = Side(tmp_path / "a", 1, StateStore), Side(tmp_path / "b", 2, FullForAWhile)
        sender.other, receiver.other = receiver, sender
        sender.flow.wanted(2)
        async with asyncio.timeout(30):
            while not receiver.received.done() or not sender.reports:
                sender.flow.tick()
                receiver.flow.tick()
                await asyncio.sleep(0.002)
        assert FullForAWhile.refusals == 0
        assert sender.reports == [(2, True)]
        assert receiver.received.result().info.index == 5
        prepared = StateStore.open(tmp_path / "b" / "state.new", map_bytes=1 << 24)
        assert prepared.count() == 300
        prepared.close()
        await sender.flow.close()
        await receiver.flow.close()

    asyncio.run(main())


class ToNobody(Side):
    """What it sends is noted, and never arrives."""

    def _send(self, member: int, frame: bytes) -> bool:
        self.sent = [*getattr(self, "sent", []), (member, decode_frame(frame))]
        return True

    def offered(self) -> list[int]:
        return [member for member, frame in self.sent if isinstance(frame, Offer)]


def test_who_was_receiving_an_old_snapshot_is_offered_the_new_one(tmp_path: Path) -> None:
    async def main() -> None:
        sender = ToNobody(tmp_path / "a", 1, StateStore)

        async def until_offered(*members: int) -> None:
            async with asyncio.timeout(30):
                while sorted(set(sender.offered())) != sorted(members):
                    await asyncio.sleep(0.002)

        sender.flow.wanted(2)
        sender.sent = []
        await until_offered(2)
        sender.log_reaches_back = False  # writes went on meanwhile
        sender.sent = []
        sender.flow.wanted(3)
        await until_offered(2, 3)
        assert set(sender.flow.percent()) == {2, 3}
        assert not sender.reports, "raft waits for both"
        await sender.flow.close()

    asyncio.run(main())


def test_the_log_is_kept_for_who_has_just_received_a_snapshot(tmp_path: Path) -> None:
    """Until it has started anew with it; or it would need the next one."""

    async def main() -> None:
        sender, receiver = Side(tmp_path / "a", 1, StateStore), Side(tmp_path / "b", 2, StateStore)
        sender.other, receiver.other = receiver, sender
        assert sender.flow.floor is None
        sender.flow.wanted(2)
        async with asyncio.timeout(30):
            while not sender.reports:
                sender.flow.tick()
                receiver.flow.tick()
                await asyncio.sleep(0.002)
        assert sender.reports == [(2, True)]
        assert not sender.flow.percent()
        assert sender.flow.floor == 5
        sender.flow._kept_until = asyncio.get_running_loop().time()
        assert sender.flow.floor is None
        await sender.flow.close()
        await receiver.flow.close()

    asyncio.run(main())


def test_a_snapshot_that_is_here_already_is_not_fetched_again(tmp_path: Path) -> None:
    """The member may have started anew with it before its word of that had left."""

    async def main() -> None:
        sender, receiver = Side(tmp_path / "a", 1, StateStore), Side(tmp_path / "b", 2, StateStore)
        sender.other, receiver.other = receiver, sender
        receiver.applied = 5
        sender.flow.wanted(2)
        async with asyncio.timeout(30):
            while not sender.reports:
                sender.flow.tick()
                await asyncio.sleep(0.002)
        assert sender.reports == [(2, True)]
        assert not receiver.received.done()
        await sender.flow.close()
        await receiver.flow.close()

    asyncio.run(main())


def test_a_defect_is_told_and_not_the_end_of_all_transfers_in_silence(tmp_path: Path) -> None:
    class Defective(ToNobody):
        async def _make(self, path: Path) -> SnapshotInfo:
            raise AssertionError(f"{path.name} cannot be")

    async def main() -> None:
        side = Defective(tmp_path / "a", 1, StateStore)
        side.flow.wanted(2)
        async with asyncio.timeout(30):
            while not side.defects:
                await asyncio.sleep(0.002)
        assert [str(error) for error in side.defects] == ["outgoing.snapshot cannot be"]
        await side.flow.close()
        assert len(side.defects) == 1

    asyncio.run(main())
