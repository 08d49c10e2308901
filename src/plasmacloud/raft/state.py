"""The vocabulary of a replica: its settings, its roles, what it hands out, what it tells about itself."""

from enum import Enum

import msgspec

from plasmacloud.base.errors import ConfigError
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message
from plasmacloud.storage.entry import Entry, HardState


class StateRole(Enum):
    """What the replica currently is."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one replica; the same for all members but for the id.

    An election starts after one to one and two thirds times ``election_ticks`` without a leader's message; a
    leader sends heartbeats every ``heartbeat_ticks``. When connections to the leader break, followers start their
    pre-votes ``hint_stagger_ticks`` apart. With ``lazy_commit`` the leader tells the others of a commit in the next
    append, or at the next tick, whichever comes first: under load that saves every second message. A member where
    somebody waits for the news gets it at once (`Raft.hurry_commit`).
    """

    id: int
    election_ticks: int = 30
    heartbeat_ticks: int = 5
    hint_stagger_ticks: int = 2
    max_inflight_messages: int = 256
    max_inflight_bytes: int = 16 * 1024 * 1024
    max_append_bytes: int = 1024 * 1024
    max_uncommitted_bytes: int = 64 * 1024 * 1024
    max_apply_bytes: int = 4 * 1024 * 1024
    pre_vote: bool = True
    check_quorum: bool = True
    lazy_commit: bool = False

    def check(self) -> None:
        """Raise `ConfigError` if the settings cannot work."""
        if not 0 < self.id < 2**64:
            raise ConfigError(f"member id {self.id} must be nonzero and fit 64 bits")
        if not 0 < self.heartbeat_ticks < self.election_ticks:
            raise ConfigError(
                f"heartbeat of {self.heartbeat_ticks} ticks does not fit an election timeout of {self.election_ticks}",
                hint="make the election timeout several heartbeat intervals long",
            )
        limits = (
            self.hint_stagger_ticks,
            self.max_inflight_messages,
            self.max_inflight_bytes,
            self.max_append_bytes,
            self.max_uncommitted_bytes,
            self.max_apply_bytes,
        )
        if min(limits) <= 0:
            raise ConfigError("every limit must be positive")


class SnapshotMark(msgspec.Struct, frozen=True):
    """What a snapshot covers: everything up to ``index``, and who belonged to the group then."""

    index: int
    term: int
    conf: ConfState


class Ready(msgspec.Struct, gc=False):
    """What the shell has to do. Handed out once; several may be under way.

    ``hard_state``, ``snapshot`` and ``entries`` go to the disk in the order of the Readys; ``must_sync`` tells that
    they must be durable before `Raft.advance`. ``messages`` may leave at once: they either promise nothing, or the
    promise is durable already. ``after_sync`` leaves only when this Ready *and all before it* are durable.
    ``committed`` is durable here and may be applied at once. An entry whose index is at or below the log's last one
    replaces everything from there on. ``number`` is 0 if there is nothing to wait for: `Raft.advance` is then optional.
    """

    hard_state: HardState | None = None
    snapshot: SnapshotMark | None = None
    entries: list[Entry] = []
    messages: list[Message] = []
    after_sync: list[Message] = []
    committed: list[Entry] = []
    read_states: list[tuple[int, int]] = []
    must_sync: bool = False
    number: int = 0


class ProgressStatus(msgspec.Struct, frozen=True):
    """A member as the leader sees it. ``state`` is probe, replicate or snapshot.

    ``last_contact_ticks`` counts since the member was last heard from; if it never was, since it was added or this
    leader's term began. ``match`` is 0 until the member has acknowledged something to this leader.
    """

    match: int
    next: int
    state: str
    recent_active: bool
    inflight_messages: int
    inflight_bytes: int
    pending_snapshot: int
    last_contact_ticks: int


class Status(msgspec.Struct, frozen=True):
    """A copy of a replica's state, for operators and tests. ``progress`` is empty unless it leads."""

    id: int
    role: StateRole
    term: int
    vote: int
    leader_id: int
    first_index: int
    last_index: int
    durable: int
    commit: int
    applied: int
    conf: ConfState
    transferee: int
    uncommitted_bytes: int
    progress: dict[int, ProgressStatus]
