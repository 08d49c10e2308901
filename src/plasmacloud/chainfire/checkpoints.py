"""Checkpoints: the applied state goes to disk behind the log, and the log is shortened behind the checkpoints.

A checkpoint is one synced transaction on a worker thread, about once a second or when much has gathered. It holds the
applied index together with the data, so that a restart replays only what came later. A full disk is survived: the log
keeps everything until a later checkpoint succeeds. Any other failure of the disk is fatal, as in the log.
"""

import asyncio
from collections.abc import Callable

import msgspec

from plasmacloud.base.errors import StorageError
from plasmacloud.base.logging import get_logger
from plasmacloud.chainfire.replica import Replica
from plasmacloud.chainfire.state_machine import Checkpoint
from plasmacloud.raft.membership import ConfState
from plasmacloud.storage.record_store import RecordStore
from plasmacloud.storage.wal import Wal
from plasmacloud.storage.wal_errors import DiskFull

_POLL_S = 0.1
_RETRY_S = 5.0

log = get_logger("chainfire")


class _Saved(msgspec.Struct, frozen=True):
    """What the last checkpoint covers."""

    index: int
    term: int
    conf: ConfState


class Checkpointer:
    """Runs until cancelled. ``on_fatal`` is called when the state cannot be saved any more."""

    def __init__(
        self,
        replica: Replica,
        store: RecordStore,
        wal: Wal,
        *,
        interval_s: float,
        on_fatal: Callable[[Exception], None],
    ) -> None:
        self._replica = replica
        self._store = store
        self._wal = wal
        self._interval_s = interval_s
        self._on_fatal = on_fatal
        self._loop = asyncio.get_running_loop()
        machine = replica.machine
        self._saved = _Saved(machine.applied_index, machine.applied_term, machine.cluster.conf)
        self._running = asyncio.Lock()
        self._savings: dict[asyncio.Task[None], None] = {}
        self._tuning = replica.config.tuning
        self._taken: Checkpoint | None = None  # and not yet committed

    async def run(self) -> None:
        """Save when it is time, and do the housekeeping that goes with it."""
        due = self._loop.time() + self._interval_s
        while True:
            await asyncio.sleep(_POLL_S)
            if self._loop.time() < due and self._replica.machine.unsaved_bytes < self._tuning.unsaved_bytes:
                continue
            due = self._loop.time() + self._interval_s
            self._replica.share_floor()
            try:
                await self.save()
                self._shorten_log()
            except StorageError as error:
                self._on_fatal(error)
                return

    async def save(self) -> None:
        """Commit everything applied so far; waits for space on a full disk. Raises `StorageError`."""
        while True:
            try:
                await self.save_now()
                return
            except DiskFull as error:
                log.warning("no space for a checkpoint, the log keeps everything", error=str(error))
                await asyncio.sleep(_RETRY_S)

    async def save_now(self) -> None:
        """Commit everything applied so far. Raises `DiskFull`, after which it may be tried again, or `StorageError`.

        Who waits for it may give up: what was begun is finished, because nothing else can be saved before.
        """
        saving = self._loop.create_task(self._save())
        self._savings[saving] = None
        saving.add_done_callback(self._saved_or_not)
        await asyncio.shield(saving)

    def _saved_or_not(self, saving: "asyncio.Task[None]") -> None:
        del self._savings[saving]
        if saving.cancelled() or (error := saving.exception()) is None or isinstance(error, DiskFull):
            return
        # Whoever asked: what could not be saved stays in memory, and the next checkpoint cannot be taken.
        self._on_fatal(error if isinstance(error, Exception) else StorageError(repr(error)))

    async def close(self) -> None:
        """Save nothing more. A commit under way ends before the store is closed, on its own thread."""
        savings = list(self._savings)
        for saving in savings:
            saving.cancel()
        await asyncio.gather(*savings, return_exceptions=True)

    async def _save(self) -> None:
        async with self._running:
            if self._taken is not None:
                await self._commit(self._taken)
            await self._replica.when_whole(self._take)
            if self._taken is not None:
                await self._commit(self._taken)

    def _take(self) -> None:
        machine = self._replica.machine
        if machine.applied_index != self._saved.index:
            # What was taken stays readable in memory until its own commit succeeds.
            self._taken = machine.take_checkpoint()

    async def _commit(self, checkpoint: Checkpoint) -> None:
        await self._loop.run_in_executor(
            None, lambda: self._store.commit(checkpoint.puts, checkpoint.deletes, checkpoint.meta)
        )
        self._taken = None
        self._replica.machine.checkpoint_done()
        self._saved = _Saved(checkpoint.state.applied_index, checkpoint.state.applied_term, checkpoint.conf)

    def _shorten_log(self) -> None:
        """Let entries go that are in a checkpoint here.

        Those that some member lacks are kept, up to a limit in number and in bytes; so are those behind a snapshot that
        is under way. A member that lacks more than that gets a snapshot.
        """
        wal, saved, tuning = self._wal, self._saved, self._tuning
        target = min(self._replica.floor, saved.index) - tuning.keep_entries
        if self._replica.snapshots is not None and self._replica.snapshots.floor is not None:
            target = min(target, self._replica.snapshots.floor)
        target = max(target, saved.index - tuning.max_entries)
        if wal.size_bytes() > tuning.max_log_bytes:
            target = max(target, saved.index - tuning.keep_entries, self._middle())
        if target - wal.first_index() >= tuning.keep_entries // 2 or (
            wal.size_bytes() > tuning.max_log_bytes and target > wal.first_index()
        ):
            wal.mark(saved.index, saved.term, saved.conf.encode(), keep=saved.index - target)

    def _middle(self) -> int:
        """Half of what the log holds, when few large entries fill it."""
        return (self._wal.first_index() + self._saved.index) // 2
