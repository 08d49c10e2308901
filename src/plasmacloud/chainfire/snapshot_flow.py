"""Snapshots between members: when raft says that a member needs one, make it, send it; or receive one, and install it.

The transfer itself is in `snapshot_transfer` (pure); this shell gives it files, frames and time. One snapshot file
serves every member that needs one at the time, and is made anew when the log no longer continues behind it. Making,
checking and preparing a snapshot happen on worker threads.

The receiving member installs by starting anew: everything is closed, the snapshot takes the place of the state, and
the member opens again, as after a crash. So there is one way in which a state comes into being, the start, and a member
that was too far behind to be useful is the only one that pauses.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from plasmacloud.base.errors import PlasmaError, StorageError
from plasmacloud.base.logging import get_logger
from plasmacloud.base.units import format_size
from plasmacloud.chainfire.snapshot_frames import Done, Frame, Offer, decode_frame, encode_frame
from plasmacloud.chainfire.snapshot_transfer import Receiver, Sender, TransferConfig, TransferState
from plasmacloud.storage.disk import Disk, DiskFile
from plasmacloud.storage.incoming import IncomingFile
from plasmacloud.storage.install import prepare_state
from plasmacloud.storage.record_store import RecordStores
from plasmacloud.storage.snapshot import DamagedSnapshot, SnapshotInfo
from plasmacloud.storage.wal_format import Identity

_OUTGOING = "outgoing.snapshot"
_RETRY_S = 2.0
CLIENT_PREFIX = "client-"
"""Directories of snapshots that are on their way to clients begin so."""

log = get_logger("snapshot")


class Received(msgspec.Struct, frozen=True):
    """A snapshot that is complete, checked, and prepared beside the present state: the member has to start anew."""

    path: Path
    info: SnapshotInfo


class SnapshotFlow:
    """All transfers of one member. Call `tick` often (every few milliseconds), on the event loop."""

    def __init__(
        self,
        data_dir: Path,
        directory: Path,
        identity: Identity,
        *,
        make: Callable[[Path], Awaitable[SnapshotInfo]],
        applied: Callable[[], int],
        continues: Callable[[int], bool],
        send: Callable[[int, bytes], bool],
        report: Callable[[int, bool], None],
        on_received: Callable[[Received], None],
        on_fatal: Callable[[Exception], None],
        name_of: Callable[[int], str],
        disk: Disk,
        stores: RecordStores,
        config: TransferConfig | None = None,
    ) -> None:
        """``directory`` is for the files of transfers. ``make(path)`` writes a snapshot of the state as it is now.

        ``applied()``: the index that the state has reached. ``continues(index)``: the log goes on behind that index.
        ``send(member, frame)`` is False when the frame cannot leave now. ``report(member, success)`` tells raft.
        ``on_fatal(error)`` is told of a defect: without it nothing would ever be sent or received again.
        """
        self._directory = directory
        self._disk = disk
        self._stores = stores
        self._incoming = IncomingFile.open(self._directory, disk=disk)
        for name in disk.list_directory(self._directory):
            if name.startswith(CLIENT_PREFIX):  # by a life that ended while it served a client
                with contextlib.suppress(OSError):
                    disk.remove_tree(self._directory / name)
        self._data_dir = data_dir
        self._identity = identity
        self._make = make
        self._applied = applied
        self._continues = continues
        self._send = send
        self._report = report
        self._on_received = on_received
        self._on_fatal = on_fatal
        self._name_of = name_of
        self._config = config or TransferConfig()
        self._loop = asyncio.get_running_loop()
        self._senders: dict[int, Sender] = {}
        self._wanting: set[int] = set()  # members for which a snapshot is being made
        self._making: asyncio.Task[None] | None = None
        self._outgoing: SnapshotInfo | None = None
        self._file: DiskFile | None = None
        self._kept_until = 0.0  # somebody received the outgoing snapshot a moment ago
        self._receiver = Receiver(self._incoming, self._config)
        self._finishing: asyncio.Task[None] | None = None
        self._arrived: tuple[Path, SnapshotInfo] | None = None  # complete and checked, but not prepared yet

    # Sending

    @property
    def floor(self) -> int | None:
        """The log must go on behind this index while members receive a snapshot of it; None: no such wish.

        And for a while longer: who has received one installs it and starts anew, and would need the next one if the log
        began behind it by then.
        """
        wanted = self._senders or self._loop.time() < self._kept_until
        return self._outgoing.index if self._outgoing is not None and wanted else None

    def percent(self) -> Mapping[int, int]:
        """How much of its snapshot each receiving member has."""
        return {member: sender.percent for member, sender in self._senders.items()}

    def wanted(self, member: int) -> None:
        """Raft has found that the log no longer reaches back to what this member needs."""
        if member in self._senders or member in self._wanting:
            return
        if self._outgoing is not None and self._continues(self._outgoing.index):
            self._offer(member)
            return
        self._wanting.add(member)
        if self._making is None:
            self._making = self._begin(self._make_one())

    async def _make_one(self) -> None:
        try:
            # The log does not reach back to the old one any more, so it is no use to those who are receiving it either.
            self._wanting.update(self._senders)
            self._close_outgoing("a newer snapshot is needed")
            started = self._loop.time()
            info = await self._make(self._directory / _OUTGOING)
            log.info(
                "snapshot made",
                index=info.index,
                records=info.records,
                size=format_size(info.size_bytes),
                took_ms=round((self._loop.time() - started) * 1000),
            )
            self._outgoing = info
            self._file = self._disk.open(self._directory / _OUTGOING)
            for member in sorted(self._wanting):
                self._offer(member)
        except (StorageError, OSError) as error:
            log.warning("no snapshot could be made", error=str(error))
            await asyncio.sleep(_RETRY_S)  # as soon as raft hears of it, it wants the next one
            for member in sorted(self._wanting):
                self._report(member, False)
        finally:
            self._wanting.clear()
            self._making = None

    def _offer(self, member: int) -> None:
        info = self._outgoing
        assert info is not None
        offer = Offer(info.size_bytes, info.sha256, info.index, info.term)
        self._senders[member] = Sender(offer, self._read, self._loop.time(), self._config)
        log.info("offering a snapshot", to=self._name_of(member), index=info.index, size=format_size(info.size_bytes))
        self._poll(member)

    def _read(self, offset: int, size: int) -> bytes:
        assert self._file is not None
        try:
            return self._file.pread(size, offset)
        except OSError as error:
            raise StorageError(f"cannot read the snapshot: {error.strerror}") from error

    def _poll(self, member: int) -> None:
        sender = self._senders[member]
        sender.poll(self._loop.time(), lambda frame: self._send(member, encode_frame(frame)))
        if not sender.over:
            return
        del self._senders[member]
        done = sender.state is TransferState.DONE
        if done:
            self._kept_until = self._loop.time() + self._config.silence_s
            log.info("snapshot delivered", to=self._name_of(member))
        else:
            log.warning("snapshot not delivered", to=self._name_of(member), reason=sender.reason)
        self._report(member, done)

    def stop_sending(self, why: str) -> None:
        """This member leads no more: the next leader will offer a snapshot of its own."""
        for member, sender in self._senders.items():
            self._send(member, encode_frame(sender.abort(why)))
        self._senders.clear()

    def _close_outgoing(self, why: str) -> None:
        self.stop_sending(why)
        self._outgoing = None
        if self._file is not None:
            self._file.close()
            self._file = None

    # Both

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._on_fatal(error)

    def on_frame(self, member: int, data: bytes) -> None:
        """A frame of a transfer. Raises `BadFrame`, which ends the connection."""
        frame = decode_frame(data)
        now = self._loop.time()
        if member in self._senders:
            self._senders[member].on_frame(frame, now)
            if not isinstance(frame, Offer):
                self._poll(member)
                return
        if isinstance(frame, Offer) and frame.index <= self._applied():
            # It is here: installed by an earlier life, whose word of it may not have arrived, or overtaken by the log.
            self._send(member, encode_frame(Done(frame.transfer)))
            return
        try:
            answers = self._receiver.on_frame(member, frame, now)
        except StorageError as error:
            log.error("cannot receive a snapshot", error=str(error))
            return
        self._answer(answers)

    def connected(self, member: int) -> None:
        """There is a new connection to the member."""
        if member in self._senders:
            self._senders[member].connected(self._loop.time())
            self._poll(member)

    def tick(self) -> None:
        """Time has passed."""
        now = self._loop.time()
        for member, sender in list(self._senders.items()):
            if now >= sender.wake_at(now):
                self._poll(member)
        if now >= self._receiver.wake_at():
            self._answer(self._receiver.poll(now))

    async def close(self) -> None:
        """Stop everything; what has arrived stays for the next start."""
        for task in (self._making, self._finishing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._close_outgoing("the member stops")
        self._incoming.close()

    # Receiving

    def _answer(self, frames: list[Frame]) -> None:
        for frame in frames:
            self._send(self._receiver.sender, encode_frame(frame))
        if self._receiver.state is TransferState.VERIFYING and self._finishing is None:
            self._finishing = self._begin(self._finish())

    async def _finish(self) -> None:
        """Everything has arrived: check it and build the state from it, beside the present one."""
        try:
            if self._arrived is None:
                self._arrived = await self._loop.run_in_executor(None, self._incoming.finish)
            path, info = self._arrived
            prepare = partial(
                prepare_state, self._data_dir, path, identity=self._identity, disk=self._disk, stores=self._stores
            )
            await self._loop.run_in_executor(None, prepare)
        except DamagedSnapshot as error:
            log.warning("the snapshot did not arrive intact", error=str(error))
            self._finishing = self._arrived = None
            self._answer(self._receiver.verified(str(error), self._loop.time()))
            return
        except PlasmaError as error:
            log.error("cannot prepare the snapshot, will be tried again", error=str(error))
            self._finishing = None
            return
        log.info("snapshot received, starting anew with it", index=info.index, size=format_size(info.size_bytes))
        self._answer(self._receiver.verified("", self._loop.time()))
        self._on_received(Received(path, info))
