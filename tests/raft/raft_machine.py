"""One member of a simulated group: what survives its crashes, and what does not."""

import random
from collections import deque

from raft_cluster import ListLog

from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.raft import Config, Raft, Ready, StateRole
from plasmacloud.storage.entry import Entry, HardState


class Machine:
    """One member: what survives a crash, and the running replica."""

    def __init__(self, id: int, conf: ConfState, rng: random.Random, *, eager_view: bool) -> None:
        self.id = id
        self.conf = conf  # as of ``applied``
        self.rng = rng
        self.eager_view = eager_view  # the stable log shows queued writes, as the write-ahead log does
        self.durable = ListLog()
        self.hard_state = HardState()
        self.checkpoint = 0  # the applied index in the durable state
        self.checkpoint_conf = conf
        self.view = ListLog()
        self.raft: Raft | None = None
        self.writing: deque[Ready] = deque()
        self.applied = 0
        self.to_apply: deque[Entry] = deque()
        self.restoring = 0  # index of the snapshot that was taken over and is not durable yet
        self.last_seen = (0, StateRole.FOLLOWER)

    def start(self) -> Raft:
        self.view = ListLog(self.durable.items, start=self.durable.start, start_term=self.durable.start_term)
        self.applied, self.conf, self.restoring = self.checkpoint, self.checkpoint_conf, 0
        config = Config(
            id=self.id,
            election_ticks=10,
            heartbeat_ticks=2,
            max_inflight_messages=self.rng.choice((1, 3, 256)),
            max_append_bytes=self.rng.choice((1, 100, 1 << 20)),
            max_uncommitted_bytes=2000,
            max_apply_bytes=self.rng.choice((1, 1 << 20)),
            lazy_commit=self.rng.random() < 0.5,
        )
        self.raft = Raft(config, self.view, self.hard_state, self.conf, self.applied, self.rng)
        return self.raft

    def make_durable(self, rd: Ready) -> None:
        if rd.hard_state is not None:
            self.hard_state = rd.hard_state
        self.persist(self.durable, rd)
        if rd.snapshot is not None:
            self.checkpoint, self.checkpoint_conf = rd.snapshot.index, rd.snapshot.conf
            if self.restoring == self.checkpoint:
                self.restoring = 0
        if not self.eager_view:
            self.persist(self.view, rd)

    @staticmethod
    def persist(log: ListLog, rd: Ready) -> None:
        if rd.snapshot is not None:
            log.reset(rd.snapshot.index, rd.snapshot.term)
        log.write(rd.entries)

    def crash(self) -> None:
        for _ in range(self.rng.randrange(len(self.writing) + 1)):  # some of it did reach the disk
            self.make_durable(self.writing.popleft())
        self.writing.clear()
        self.to_apply.clear()
        self.raft = None
