"""What one run is like: drawn from its seed, so that every seed has its own kind of bad luck.

A rare fault needs runs in which it is frequent, and runs in which another one does not hide it (swarm testing). So each
seed leaves most kinds of faults out and has some often; sizes are drawn from the smallest that work, so that segments
fill, windows close and snapshots are needed within seconds.
"""

import random
from enum import Enum

import msgspec

from plasmacloud.chainfire.gathering import DEFAULT_LIMIT_S
from plasmacloud.chainfire.mvcc.slices import SLICE_KEYS
from plasmacloud.chainfire.snapshot_transfer import TransferConfig
from plasmacloud.chainfire.tuning import Tuning
from plasmacloud.raft.state import Config as RaftConfig
from plasmacloud.rpc.peer_options import PeerOptions
from plasmacloud.sim.network import NetworkOptions
from plasmacloud.sim.process import DiskOptions
from plasmacloud.storage.wal import DEFAULT_QUICK_S


class FaultKind(Enum):
    """Everything that goes wrong on schedule."""

    KILL = "kill"  # a process dies at once; its machine and its page cache live on
    POWER = "power"  # a machine loses power
    POWER_ALL = "power-all"  # all of them do
    RESTART = "restart"  # a process is asked to end, and started again
    PAUSE = "pause"
    PARTITION = "partition"  # two sides, nothing passes
    ONE_WAY = "one-way"  # nothing passes in one direction
    SLOW_LINK = "slow-link"
    CUT = "cut"  # connections are reset; both sides notice
    DARK = "dark"  # connections are lost; nobody notices
    SLOW_DISK = "slow-disk"
    FULL_DISK = "full-disk"
    FAILED_SYNC = "failed-sync"
    FAILED_READ = "failed-read"
    CORRUPT = "corrupt"  # a sector in the middle of the log, or a record, changes by itself
    MISDIRECT = "misdirect"  # a sector of the log is found where another one was
    CLOCK_JUMP = "clock-jump"  # the wall clock of a machine
    TRANSFER = "transfer"  # leadership is handed to another member
    JOIN = "join"  # a new member
    LEAVE = "leave"  # a member is removed
    WIPE = "wipe"  # a machine's disk is replaced by an empty one; the member is removed, and a new one joins
    AMNESIA = "amnesia"  # the same, but first somebody starts the member again, as if nothing had happened
    FALSE_START = "false-start"  # a process ends, or its machine, while it opens its data or installs a snapshot
    TEAR = "tear"  # power is lost in the middle of a write to the log
    AMBUSH = "ambush"  # power is lost right behind a vote, or in the middle of a write
    CHASE = "chase"  # whoever leads is cut off and given writes, one leader after the other
    REPLACE = "replace"  # a new member takes the place of another, in one joint change
    RIFT = "rift"  # the network splits right behind a change of the membership
    SET_BACK = "set-back"  # a disk is set back to a copy of an earlier life; the member is removed, and a new one joins
    WIDOW = "widow"


class WorkloadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``clients`` at random members, on so many ``keys``, pausing ``think_s`` on average between two requests.

    ``weights``: of each kind in `workload.REQUESTS`, the rest does not happen. ``value_bytes``: of values, at most.
    ``together``: keys that are written and deleted in one request. Compactions forget what lies more than
    ``compact_behind`` revisions behind.
    """

    clients: int = 4
    keys: int = 4
    think_s: float = 0.3
    patience_s: float = 2.0
    weights: tuple[int, ...] = (30, 30, 8, 25, 6, 1)
    value_bytes: int = 64
    together: int = 10
    compact_behind: int = 50


SMALL = Tuning(segment_bytes=64 << 10, window_bytes=64 << 10, keep_entries=200, max_entries=2000)
"""Sizes for a run of a minute."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds. ``mean_gap_s``: between two faults of a kind; kinds without one do not happen."""

    seed: int
    members: int = 3
    fault_phase_s: float = 60.0
    calm_phase_s: float = 30.0
    election_timeout_s: float = 0.3
    heartbeat_interval_s: float = 0.05
    request_timeout_s: float = 5.0
    checkpoint_interval_s: float = 1.0
    clock_drift: float = 0.0  # at most so much faster or slower than true
    tuning: Tuning = SMALL
    network: NetworkOptions = NetworkOptions()
    disk: DiskOptions = DiskOptions()
    peers: PeerOptions = PeerOptions()
    workload: WorkloadOptions = WorkloadOptions()
    mean_gap_s: dict[FaultKind, float] = {}

    def describe(self) -> str:
        """In one line, for people."""
        kinds = ", ".join(f"{kind.value} {gap:g}s" for kind, gap in self.mean_gap_s.items())
        return (
            f"{self.members} members, election {self.election_timeout_s:g} s, {self.workload.clients} clients, "
            f"{self.fault_phase_s:g} s of faults: {kinds or 'none'}"
        )


_USUAL_GAP_S: dict[FaultKind, float] = {
    FaultKind.KILL: 12.0,
    FaultKind.POWER: 15.0,
    FaultKind.POWER_ALL: 60.0,
    FaultKind.RESTART: 20.0,
    FaultKind.PAUSE: 12.0,
    FaultKind.PARTITION: 12.0,
    FaultKind.ONE_WAY: 15.0,
    FaultKind.SLOW_LINK: 15.0,
    FaultKind.CUT: 8.0,
    FaultKind.DARK: 15.0,
    FaultKind.SLOW_DISK: 15.0,
    FaultKind.FULL_DISK: 30.0,
    FaultKind.FAILED_SYNC: 40.0,
    FaultKind.FAILED_READ: 40.0,
    FaultKind.CORRUPT: 25.0,
    FaultKind.MISDIRECT: 30.0,
    FaultKind.CLOCK_JUMP: 20.0,
    FaultKind.TRANSFER: 10.0,
    FaultKind.JOIN: 20.0,
    FaultKind.LEAVE: 25.0,
    FaultKind.WIPE: 40.0,
    FaultKind.AMNESIA: 40.0,
    FaultKind.FALSE_START: 15.0,
    FaultKind.TEAR: 12.0,
    FaultKind.AMBUSH: 6.0,
    FaultKind.CHASE: 20.0,
    FaultKind.REPLACE: 20.0,
    FaultKind.RIFT: 12.0,
    FaultKind.SET_BACK: 30.0,
    FaultKind.WIDOW: 10.0,
}


_FEW = 0.35  # of the seeds


def draw_options(seed: int) -> Options:
    """The options of a seed."""
    rng = random.Random(f"options/{seed}")
    members = rng.choice((1, 3, 3, 3, 3, 5))
    election_s = rng.choice((0.15, 0.3, 0.3, 1.0))
    return Options(
        seed=seed,
        members=members,
        election_timeout_s=election_s,
        heartbeat_interval_s=election_s / rng.choice((4, 6, 10)),
        request_timeout_s=rng.choice((2.0, 5.0)),
        checkpoint_interval_s=rng.choice((0.3, 1.0, 1.0, 5.0)),
        clock_drift=rng.choice((0.0, 0.0, 0.001, 0.02)),
        tuning=_draw_tuning(rng, random.Random(f"gathering/{seed}").choice((0.0, DEFAULT_LIMIT_S, 0.005, 0.05))),
        network=_draw_network(rng, election_s),
        disk=rng.choice((DiskOptions(), DiskOptions(), DiskOptions(least_s=0.001, mean_s=0.01))),
        peers=PeerOptions(dead_after_s=rng.choice((1.0, 2.0, 2.0))),
        workload=_draw_workload(rng),
        mean_gap_s=_draw_gaps(rng),
    )


def _draw_tuning(rng: random.Random, gather_s: float) -> Tuning:
    keep = rng.choice((4, 20, 100, 1000))
    # Not both at their smallest: one entry per round trip is less than the clients ask for, and the queue never ends.
    messages, append_bytes = rng.choice(((1, 1 << 20), (2, 512), (8, 1), (256, 1), (256, 1 << 20)))
    small = rng.random() < 0.5
    return Tuning(
        raft=RaftConfig(
            id=1,
            hint_stagger_ticks=rng.choice((1, 2, 2)),
            max_inflight_messages=messages,
            max_inflight_bytes=rng.choice((1024, 16 << 20)),
            max_append_bytes=append_bytes,
            max_uncommitted_bytes=rng.choice((4096, 64 << 20)),
            max_apply_bytes=rng.choice((1, 1024, 4 << 20)),
        ),
        transfer=TransferConfig(
            chunk_bytes=rng.choice((512, 4096)),
            window_bytes=rng.choice((16 << 10, 64 << 10)),
            silence_s=rng.choice((3.0, 30.0)),
        ),
        segment_bytes=rng.choice((4096, 16 << 10, 64 << 10)),
        window_bytes=rng.choice((0, 1024, 1 << 20)),
        batch_bytes=rng.choice((256, 1 << 20)),
        entry_bytes=rng.choice((512, 4 << 20)),
        unsaved_bytes=rng.choice((1024, 64 << 20)),
        keep_entries=keep,
        max_entries=300 + keep * rng.choice((0, 10)),  # a snapshot has to arrive while so many are written
        max_log_bytes=(64 << 10) if small else 512 << 20,
        quick_sync_s=rng.choice((0.0, DEFAULT_QUICK_S)),
        slice_keys=rng.choice((1, 5, SLICE_KEYS, SLICE_KEYS)),
        gather_s=gather_s,
    )


def _draw_network(rng: random.Random, election_s: float) -> NetworkOptions:
    delay_s = rng.choice((0.0001, 0.0005, 0.002, election_s / 30))
    tcp = rng.random() < 0.5  # nothing that TCP does not do either
    return NetworkOptions(
        delay_s=delay_s,
        jitter_s=delay_s * rng.choice((0.2, 1.0, 3.0)),
        grain_s=rng.choice((0.0, 0.0, 0.001)),
        stall=rng.choice((0.0, 0.0005, 0.005)),
        drop=0.0 if tcp else rng.choice((0.0, 0.002, 0.02)),
        duplicate=0.0 if tcp else rng.choice((0.0, 0.01, 0.05)),
        reorder=0.0 if tcp else rng.choice((0.0, 0.01, 0.1)),
    )


def _draw_workload(rng: random.Random) -> WorkloadOptions:
    return WorkloadOptions(
        clients=rng.choice((1, 3, 4, 6)),
        keys=rng.choice((1, 3, 6)),
        think_s=rng.choice((0.1, 0.3, 0.5, 1.0)),
        patience_s=rng.choice((2.0, 8.0)),  # shorter or longer than that of the member which was asked
        weights=rng.choice(
            (
                (30, 30, 8, 25, 6, 1, 0, 0, 0, 0, 8, 4),
                (60, 10, 5, 20, 4, 1, 0, 0, 0, 0, 8, 4),
                (10, 60, 5, 20, 4, 1, 0, 0, 0, 0, 15, 10),
                (20, 15, 8, 15, 4, 4, 8, 6, 10, 12, 15, 10),
                (10, 10, 15, 10, 0, 8, 10, 10, 10, 20, 25, 15),
            )
        ),
        value_bytes=rng.choice((16, 64, 1500, 1500)),
        together=rng.choice((2, 10, 30)),
        compact_behind=rng.choice((5, 50)),
    )


def _draw_gaps(rng: random.Random) -> dict[FaultKind, float]:
    """Many kinds now and then, or a few all the time: what one of them begins, another one mends before it shows."""
    gaps: dict[FaultKind, float] = {}
    few = rng.random() < _FEW
    chosen = {FaultKind.CHASE, *rng.sample(list(_USUAL_GAP_S), rng.choice((1, 2, 3)))} if few else set()
    for kind, usual_s in _USUAL_GAP_S.items():
        if few and kind in chosen:
            gaps[kind] = usual_s * 0.35
        elif not few and rng.random() < 0.45:
            gaps[kind] = usual_s * rng.choice((0.4, 1.0, 2.0))
    return gaps
