"""The sizes a member works with: limits, batches, how much of the log it keeps.

Not settings: an operator has no reason to change them, and no flag does. They are values, and not constants where they
are used, so that a run with small ones goes through every branch that takes gigabytes with these.
"""

import msgspec

from plasmacloud.chainfire.gathering import DEFAULT_LIMIT_S
from plasmacloud.chainfire.mvcc.slices import SLICE_KEYS
from plasmacloud.chainfire.snapshot_transfer import TransferConfig
from plasmacloud.raft.state import Config as RaftConfig
from plasmacloud.storage.wal import DEFAULT_QUICK_S, DEFAULT_SEGMENT_BYTES, DEFAULT_WINDOW_BYTES


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """``raft``: its ids and timeouts are filled in. ``transfer``: its rate is."""

    raft: RaftConfig = RaftConfig(id=1)
    transfer: TransferConfig = TransferConfig()
    segment_bytes: int = DEFAULT_SEGMENT_BYTES
    window_bytes: int = DEFAULT_WINDOW_BYTES  # of the log's newest entries, kept in memory
    quick_sync_s: float = DEFAULT_QUICK_S  # a disk that answers faster than this may be waited for
    batch_bytes: int = 1 << 20  # a batch of commands is closed beyond this size
    entry_bytes: int = 4 << 20  # so is an entry of several batches
    gather_s: float = DEFAULT_LIMIT_S  # commands wait at most so long for others, to share an entry with them
    slice_keys: int = SLICE_KEYS  # an entry that changes more keys is applied in slices
    unsaved_bytes: int = 64 << 20  # applied state beyond this does not wait for the checkpoint interval
    keep_entries: int = 10_000  # kept in the log behind what every member has, for one that was only just restarted
    max_entries: int = 200_000  # kept at most for a member that lacks them; then it gets a snapshot instead
    max_log_bytes: int = 512 << 20  # and the log is no larger than this, roughly
