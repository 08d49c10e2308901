"""The log against a list: any sequence of appends, cuts, marks, restarts and power losses."""

import random

from fault_disk import FaultDisk
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from log_model import ALL, entries, open_wal

from plasmacloud.storage.entry import Entry, HardState
from plasmacloud.storage.wal import Wal
from plasmacloud.storage.wal_format import LogMark

SEGMENT_BYTES = 4096
WINDOW_BYTES = 3000


class LogAgainstList(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.disk = FaultDisk()
        self.wal: Wal = open_wal(self.disk, segment_bytes=SEGMENT_BYTES, window_bytes=WINDOW_BYTES)
        self.log: dict[int, Entry] = {}  # every entry that is part of the log, also those compacted
        self.base_term = {0: 0}
        self.last = 0
        self.first = 1
        self.term = 1
        self.hard_state = HardState()
        self.mark = LogMark()

    def term_of(self, index: int) -> int:
        return self.log[index].term if index in self.log else self.base_term[index]

    @rule(
        count=st.integers(0, 12),
        back=st.integers(0, 8),
        newer=st.booleans(),
        padding=st.sampled_from([0, 0, 100, 900]),
        vote=st.none() | st.integers(0, 3),
    )
    def append(self, count: int, back: int, newer: bool, padding: int, vote: int | None) -> None:
        first = max(self.last + 1 - back, self.mark.index + 1, self.hard_state.commit + 1)
        if first <= self.last or newer:
            self.term += 1
        batch = entries(first, first + count - 1, self.term, padding) if count else []
        last = batch[-1].index if batch else self.last
        state = None if vote is None else HardState(self.term, vote, max(self.hard_state.commit, min(last, first)))
        if state is not None and state.commit > last:
            state = None
        self.wal.append_blocking(state, batch)
        if batch:
            for index in range(first, self.last + 1):
                self.log.pop(index, None)
            self.log.update({e.index: e for e in batch})
            self.last = last
        if state is not None:
            self.hard_state = state

    @rule(part=st.floats(0, 1), keep=st.integers(0, 10), conf=st.binary(max_size=700))
    def set_mark(self, part: float, keep: int, conf: bytes) -> None:
        index = self.mark.index + int(part * (self.last - self.mark.index))
        self.mark = LogMark(index, self.term_of(index), conf)
        self.wal.mark_blocking(index, self.mark.term, conf, keep=keep)
        self.first = max(self.first, index - keep + 1)

    @rule(beyond=st.integers(1, 1000))
    def install_snapshot(self, beyond: int) -> None:
        self.mark = LogMark(self.last + beyond, self.term, b"snapshot")
        self.wal.mark_blocking(self.mark.index, self.mark.term, self.mark.conf)
        self.log.clear()
        self.base_term = {self.mark.index: self.mark.term}
        self.last, self.first = self.mark.index, self.mark.index + 1

    @rule(back=st.integers(0, 30))
    def compact(self, back: int) -> None:
        self.wal.compact(self.mark.index - back)
        self.first = max(self.first, self.mark.index - back + 1)

    @rule()
    def restart(self) -> None:
        self.wal.close()
        self.reopen(self.disk.copy())
        assert self.wal.recovery.torn is None

    @rule(seed=st.integers(0, 2**32))
    def power_loss(self, seed: int) -> None:
        """Everything was acknowledged, so everything must be there."""
        chance = random.Random(seed)
        self.reopen(self.disk.power_loss(lambda: chance.random() < 0.5))

    def reopen(self, disk: FaultDisk) -> None:
        self.disk = disk
        self.wal = open_wal(disk, segment_bytes=SEGMENT_BYTES, window_bytes=WINDOW_BYTES)
        # Compaction removes whole segments; what it left in the oldest is visible again after a restart.
        assert self.wal.first_index() <= self.first
        self.first = self.wal.first_index()
        self.base_term.setdefault(self.first - 1, self.wal.term(self.first - 1))

    @invariant()
    def holds_what_the_list_holds(self) -> None:
        if not hasattr(self, "wal"):
            return
        wal = self.wal
        assert (wal.first_index(), wal.last_index()) == (self.first, self.last)
        assert (wal.hard_state, wal.log_mark) == (self.hard_state, self.mark)
        assert wal.durable_index == self.last
        for index in range(self.first - 1, self.last + 1):
            assert wal.term(index) == self.term_of(index)
        if self.first <= self.last:
            assert wal.entries(self.first, self.last + 1, ALL) == [
                self.log[i] for i in range(self.first, self.last + 1)
            ]

    @invariant()
    def keeps_little(self) -> None:
        if not hasattr(self, "wal"):
            return
        window = self.wal._index.window
        assert window.size_bytes <= WINDOW_BYTES
        assert sorted(path.name for path in self.disk.names) == [
            f"{header.segment:010d}.wal" for header in self.wal._segments
        ]


LogAgainstList.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestLogAgainstList = LogAgainstList.TestCase
