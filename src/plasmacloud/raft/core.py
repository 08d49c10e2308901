"""The state every part of the protocol works on, and the transitions between terms and roles that all parts share.

The protocol is one object, because its parts act on one state, but each part has its own file, stacked so that a part
only uses those below it: `Core` (this file), `Reads` (heartbeats and what they confirm), `Replication`, `Election`,
and on top `Raft`, which is what the shell uses.
"""

import random
from collections import deque

from plasmacloud.raft.log import RaftLog, StableLog
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message
from plasmacloud.raft.progress import Progress
from plasmacloud.raft.state import Config, StateRole
from plasmacloud.raft.tracker import Tracker
from plasmacloud.storage.entry import HardState


class InFlight:
    """A Ready that the shell has not reported durable yet."""

    __slots__ = ("hard_state", "number", "stood_in_term")

    def __init__(self, number: int, hard_state: HardState, stood_in_term: int) -> None:
        self.number = number
        self.hard_state = hard_state
        self.stood_in_term = stood_in_term  # the term in which this replica was a candidate then, else 0


class Core:
    """State of one replica. Invariants: ``term`` never falls; ``vote`` never changes within a term once given."""

    def __init__(
        self,
        config: Config,
        stable: StableLog,
        hard_state: HardState,
        conf: ConfState,
        applied: int,
        rng: random.Random,
    ) -> None:
        config.check()
        self.config = config
        self.id = config.id
        self.role = StateRole.FOLLOWER
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.leader_id = 0
        self.log = RaftLog(stable, commit=hard_state.commit, applied=applied)
        assert self.log.last_term <= self.term, "the log is from a term that was never entered"
        self.tracker = Tracker(conf, config.max_inflight_messages, config.max_inflight_bytes)
        self._rng = rng
        self._ticks = 0
        self._election_elapsed = 0
        self._heartbeat_elapsed = 0
        self._randomized_timeout = 0
        self._hint_countdown = 0  # ticks until the pre-vote that a lost connection asks for; 0 means none
        self._hint_force = False  # a forced vote instead, because leadership was handed to this replica
        # what goes into the next Ready
        self._messages: list[Message] = []
        self._after_sync: list[Message] = []
        self._read_states: list[tuple[int, int]] = []
        self._pending_ack: Message | None = None  # the acknowledgement in _after_sync that may still be raised
        self._in_flight: deque[InFlight] = deque()
        self._ready_number = 0
        self._hard_state_handed = hard_state
        self._hard_state_durable = hard_state
        # what only a leader uses; `_reset` clears it
        self._term_start = 0  # index of the entry with which this leader began its term
        self._transferee = 0
        self._transfer_elapsed = 0
        self._uncommitted: deque[tuple[int, int]] = deque()  # (index, bytes) of this term's proposals
        self._uncommitted_bytes = 0
        self._sending_due = False  # something may have to be sent to the members
        self._news_waits = False  # a commit was not told to a member yet, nobody being in a hurry for it
        self._news_due = False  # now it is
        self._read_round = 0
        self._reads_waiting: list[tuple[int, int]] = []  # (requester, context)
        self._read_batches: deque[tuple[int, int, list[tuple[int, int]]]] = deque()  # (round, read index, requests)
        self._quick: tuple[int, ...] = ()  # who completed the quorum first when all were asked; (): all are asked
        self._race_round = 0  # the first round for which all were asked since
        self._late_round = 0  # a round that was open at the last tick
        self._draw_timeout()

    # -- small questions -------------------------------------------------------------------------------------------

    @property
    def _lease_holds(self) -> bool:
        """Whether a leader was heard of so recently that nobody may campaign (Raft thesis §4.2.3)."""
        return self.config.check_quorum and self.leader_id != 0 and self._election_elapsed < self.config.election_ticks

    @property
    def _promotable(self) -> bool:
        return self.tracker.conf.is_voter(self.id)

    @property
    def _term_is_durable(self) -> bool:
        durable = self._hard_state_durable
        return durable.term == self.term and durable.vote == self.vote

    # -- sending ---------------------------------------------------------------------------------------------------

    def _respond(self, message: Message) -> None:
        """Send an answer that speaks for this term: at once if the term is durable, else once it is."""
        if self._term_is_durable:
            self._messages.append(message)
        else:
            self._after_sync.append(message)

    # -- terms and roles -------------------------------------------------------------------------------------------

    def _draw_timeout(self) -> None:
        ticks = self.config.election_ticks
        # Well below twice the timeout: noticing a silent leader and replacing it should together take no longer.
        self._randomized_timeout = ticks + self._rng.randrange(max(1, ticks * 2 // 3))

    def _reset(self, term: int) -> None:
        """Enter a term (or start over in the current one) with nothing known about the others."""
        assert term >= self.term, "a term never falls"
        if term != self.term:
            self.term = term
            self.vote = 0
        self.leader_id = 0
        self._election_elapsed = 0
        self._heartbeat_elapsed = 0
        self._hint_countdown = 0
        self._draw_timeout()
        self._term_start = 0
        self._transferee = 0
        self._uncommitted.clear()
        self._uncommitted_bytes = 0
        self._sending_due = False
        self._news_waits = self._news_due = False
        self._read_round = 0
        self._reads_waiting = []
        self._read_batches.clear()
        self._race_round = self._late_round = 0
        self._quick = ()
        self.tracker.reset(self.log.last_index + 1, self._ticks)

    def _become_follower(self, term: int, leader: int) -> None:
        self._reset(term)
        self.role = StateRole.FOLLOWER
        self.leader_id = leader

    def _give_vote(self, candidate: int) -> None:
        assert self.vote in (0, candidate), "one vote per term"
        self.vote = candidate

    def _hear_leader(self, sender: int) -> bool:
        """A message of this term's leader arrived; returns False if the sender cannot be that."""
        if self.role is StateRole.LEADER or self.leader_id not in (0, sender):
            return False
        if self.role is not StateRole.FOLLOWER:
            self._become_follower(self.term, sender)
        self.leader_id = sender
        self._election_elapsed = 0
        self._hint_countdown = 0
        return True

    def _member(self, sender: int) -> Progress | None:
        """The progress of a member that answers us as its leader; None if it is no member or we do not lead."""
        if self.role is not StateRole.LEADER:
            return None
        progress = self.tracker.progress.get(sender)
        if progress is not None:
            progress.recent_active = True
            progress.heard_tick = self._ticks
        return progress
