"""The replica as its shell sees it: time, messages and proposals in, Readys out.

The shell's loop::

    raft.tick()                     # in a fixed interval
    raft.step(message)              # for every message received
    raft.propose(data)              # for every batch of commands
    while raft.has_ready():
        rd = raft.ready()
        send(rd.messages)
        write(rd.hard_state, rd.snapshot, rd.entries, when_durable=lambda: (send(rd.after_sync), raft.advance(rd)))
        apply(rd.committed); raft.applied_to(rd.committed[-1].index)
        answer(rd.read_states)      # each when the state machine has applied its index

Nothing here does I/O, reads a clock or draws a number from anywhere but the generator it was given.
"""

import random
from collections.abc import Callable

import msgspec

from plasmacloud.raft.core import InFlight
from plasmacloud.raft.election import Election
from plasmacloud.raft.errors import NotLeader, ProposalRefused
from plasmacloud.raft.log import StableLog
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import FROM_LEADER, TERMLESS, Message, MessageType
from plasmacloud.raft.progress import ProgressState
from plasmacloud.raft.state import Config, ProgressStatus, Ready, SnapshotMark, StateRole, Status
from plasmacloud.storage.entry import HardState

__all__ = ["Config", "Raft", "Ready", "StableLog", "StateRole"]


class Raft(Election):
    """One replica of one group."""

    def __init__(
        self,
        config: Config,
        stable: StableLog,
        hard_state: HardState,
        conf: ConfState,
        applied: int,
        rng: random.Random,
    ) -> None:
        """Start from what the disk holds: as a follower that knows no leader.

        ``applied`` is the last index contained in the applied state, ``conf`` the configuration as of that index.
        Raises `ConfigError`, `BadConfState`, and `StateLost` if log and applied state do not meet.
        """
        super().__init__(config, stable, hard_state, conf, applied, rng)
        self._pending_snapshot: SnapshotMark | None = None
        self._handlers: dict[MessageType, Callable[[Message], None]] = {
            MessageType.APPEND: self._on_append,
            MessageType.APPEND_RESPONSE: self._on_append_response,
            MessageType.COMMIT: self._on_commit,
            MessageType.HEARTBEAT: self._on_heartbeat,
            MessageType.HEARTBEAT_RESPONSE: self._on_heartbeat_response,
            MessageType.VOTE: self._on_vote,
            MessageType.VOTE_RESPONSE: self._on_vote_response,
            MessageType.PRE_VOTE: self._on_pre_vote,
            MessageType.PRE_VOTE_RESPONSE: self._on_pre_vote_response,
            MessageType.SNAPSHOT: self._on_snapshot,
            MessageType.PROPOSE: self._on_propose,
            MessageType.READ_INDEX: self._on_read_index,
            MessageType.READ_INDEX_RESPONSE: self._on_read_index_response,
            MessageType.TIMEOUT_NOW: self._on_timeout_now,
            MessageType.TRANSFER_LEADER: self._on_transfer_leader,
        }

    # -- what can be read ------------------------------------------------------------------------------------------

    @property
    def commit(self) -> int:
        """The last index known to be committed."""
        return self.log.commit

    @property
    def applied(self) -> int:
        """The last index that the shell reported applied."""
        return self.log.applied

    @property
    def last_index(self) -> int:
        """The last index of the log."""
        return self.log.last_index

    @property
    def conf(self) -> ConfState:
        """The configuration in force."""
        return self.tracker.conf

    @property
    def takes_proposals(self) -> bool:
        """Whether a proposal made now would be appended, unless too much waits to be committed."""
        return self.role is StateRole.LEADER and not self._transferee

    def status(self) -> Status:
        """A copy of the state, for operators and tests."""
        progress = self.tracker.progress if self.role is StateRole.LEADER else {}
        return Status(
            id=self.id,
            role=self.role,
            term=self.term,
            vote=self.vote,
            leader_id=self.leader_id,
            first_index=self.log.first_index,
            last_index=self.log.last_index,
            durable=self.log.durable,
            commit=self.log.commit,
            applied=self.log.applied,
            conf=self.tracker.conf,
            transferee=self._transferee,
            uncommitted_bytes=self._uncommitted_bytes,
            progress={
                member: ProgressStatus(
                    match=each.match,
                    next=each.next,
                    state=each.state.value,
                    recent_active=each.recent_active,
                    inflight_messages=len(each.inflights),
                    inflight_bytes=each.inflights.size_bytes,
                    pending_snapshot=each.pending_snapshot,
                    last_contact_ticks=self._ticks - each.heard_tick if member != self.id else 0,
                )
                for member, each in progress.items()
            },
        )

    # -- time ------------------------------------------------------------------------------------------------------

    def tick(self, missed: int = 0) -> None:
        """One tick of time has passed.

        ``missed``: so many more did before it, in which this process did not run. They are no evidence against a
        leader, whose messages may wait unread, and so bring no election nearer; but for as long a leader was silent.
        """
        self._ticks += 1
        self._election_elapsed += 1
        if self.role is StateRole.LEADER:
            self._tick_leader(missed)
        elif self._hint_countdown:
            self._hint_countdown -= 1
            if not self._hint_countdown:
                self._campaign(pre_vote=not self._hint_force, force=self._hint_force)
        elif self._election_elapsed >= self._randomized_timeout:
            self._time_out()

    def _time_out(self) -> None:
        """Nothing was heard of a leader for an election timeout."""
        if self._promotable:
            self._election_elapsed = 0
            self.campaign()
        else:
            self.leader_id = 0  # or the lease would protect it for ever, in case that a candidate counts on this vote

    def _tick_leader(self, missed: int) -> None:
        if self._transferee:
            self._transfer_elapsed += 1
            if self._transfer_elapsed >= self.config.election_ticks:
                self._transferee = 0
        if self._election_elapsed >= self.config.election_ticks:
            self._election_elapsed = 0
            if self.config.check_quorum and not self.tracker.quorum_active(self.id):
                self._become_follower(self.term, 0)
                return
            self.tracker.forget_activity()
        if self._news_waits:
            self._news_waits = False
            self._sending_due = self._news_due = True
        self._tick_reads()
        self._heartbeat_elapsed += 1 + missed
        if self._heartbeat_elapsed >= self.config.heartbeat_ticks:
            self._heartbeat_elapsed = 0
            self._broadcast_heartbeat()

    def set_timeouts(self, election_ticks: int, heartbeat_ticks: int) -> None:
        """Change the timeouts while running. Raises `ConfigError`, changing nothing.

        A countdown under way keeps the fraction that has passed: neither does a shorter timeout start an election at
        once, nor do repeated changes put one off for ever.
        """
        config = msgspec.structs.replace(self.config, election_ticks=election_ticks, heartbeat_ticks=heartbeat_ticks)
        config.check()
        before = self.config.election_ticks
        self.config = config
        self._randomized_timeout = election_ticks + (self._randomized_timeout - before) * election_ticks // before
        self._election_elapsed = -(-self._election_elapsed * election_ticks // before)  # rounded up, or it might stall
        self._hint_countdown = min(self._hint_countdown, election_ticks)

    # -- messages --------------------------------------------------------------------------------------------------

    def step(self, message: Message) -> None:
        """Take in a message. What makes no sense (wrong term, not a member, not for us) is ignored.

        Raises `StateLost` if it proves that this member's disk lost what it had acknowledged.
        """
        if message.to != self.id or message.sender in (0, self.id):
            return
        of_this_term = message.term == self.term != 0
        if not (of_this_term or message.type in TERMLESS or (message.term and self._admit_term(message))):
            return
        self._handlers[message.type](message)

    def _admit_term(self, message: Message) -> bool:
        """Deal with a message of another term; returns whether it is to be handled (in the then current term)."""
        kind = message.type
        if message.term < self.term:
            self._answer_stale(message)
            return False
        if kind in (MessageType.VOTE, MessageType.PRE_VOTE) and not message.force and self._lease_holds:
            if kind is MessageType.PRE_VOTE:
                self._defer_pre_vote(message)
            return False
        if kind is MessageType.PRE_VOTE or (kind is MessageType.PRE_VOTE_RESPONSE and not message.reject):
            return True  # of a term that nobody has entered yet
        self._become_follower(message.term, message.sender if kind in FROM_LEADER else 0)
        return True

    def _answer_stale(self, message: Message) -> None:
        """Tell a leader or pre-candidate of the past about our term.

        Without this, a replica with a raised term which a pre-vote (or a lease) keeps from being elected would ignore
        its leader, and be ignored, for ever.
        """
        if message.type in FROM_LEADER:
            self._respond(Message(MessageType.APPEND_RESPONSE, message.sender, self.id, self.term, reject=True))
        elif message.type is MessageType.PRE_VOTE:
            self._refuse_pre_vote(message)
        elif message.type is MessageType.PRE_VOTE_RESPONSE:
            self._learn_commit(message)  # the refusal of a member with a lower term

    def _on_propose(self, message: Message) -> None:
        """A proposal that another member forwarded; if it cannot be taken, its origin finds out by a timeout."""
        try:
            self.propose(message.data)
        except (NotLeader, ProposalRefused):
            return

    # -- Ready -----------------------------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Whether `ready` has something to hand out."""
        log = self.log
        handed = self._hard_state_handed
        return bool(
            self._sending_due
            or self._messages
            or self._after_sync
            or log.has_unwritten
            or log.has_committed(self._hard_state_durable.commit)
            or self._read_states
            or self._pending_snapshot is not None
            or self.term != handed.term
            or self.vote != handed.vote
            or (log.memberships and log.needs_hardening(handed.commit))
            or (self._reads_waiting and self._reads_due)
        )

    def ready(self) -> Ready:
        """Everything to be done since the last call."""
        if self.role is StateRole.LEADER:
            if self._sending_due:
                self._pump()
            if self._reads_due:
                self._begin_read_round()
        log = self.log
        entries = log.take_unwritten() if log.has_unwritten else []
        snapshot, self._pending_snapshot = self._pending_snapshot, None
        handed = self._hard_state_handed
        promise = self.term != handed.term or self.vote != handed.vote
        if log.memberships and not promise:
            promise = log.needs_hardening(handed.commit)
        must_sync = promise or bool(entries) or snapshot is not None
        rd = Ready(
            hard_state=self._take_hard_state() if must_sync else None,
            snapshot=snapshot,
            entries=entries,
            messages=self._messages,
            after_sync=self._after_sync,
            committed=log.take_committed(self.config.max_apply_bytes, self._hard_state_durable.commit),
            read_states=self._read_states,
            must_sync=must_sync,
        )
        if must_sync or self._after_sync:
            self._ready_number += 1
            rd.number = self._ready_number
            stood_in_term = self.term if self.role is StateRole.CANDIDATE else 0
            self._in_flight.append(InFlight(rd.number, self._hard_state_handed, stood_in_term))
            log.open_write()
        self._messages, self._after_sync, self._read_states, self._pending_ack = [], [], [], None
        return rd

    def _take_hard_state(self) -> HardState | None:
        """The hard state if it changed. The commit index alone is no reason to write, but for a change of the
        membership: it rides along.

        It is capped at what is durable, so that a crash never leaves a commit index beyond the end of the log.
        """
        handed = self._hard_state_handed
        commit = max(handed.commit, min(self.log.commit, self.log.durable))
        if (self.term, self.vote, commit) == (handed.term, handed.vote, handed.commit):
            return None
        self._hard_state_handed = HardState(self.term, self.vote, commit)
        return self._hard_state_handed

    def advance(self, rd: Ready) -> None:
        """What ``rd`` gave to the disk is durable. Readys are advanced in the order in which they were handed out."""
        if rd.number == 0:
            return
        done = self._in_flight.popleft()
        assert done.number == rd.number, "a Ready was advanced out of order"
        self._hard_state_durable = done.hard_state
        self.log.written()
        if done.stood_in_term:
            self._count_own_vote(done.stood_in_term)
        if self.role is StateRole.LEADER:
            self._note_own_durable()

    def applied_to(self, index: int) -> None:
        """The state machine has applied everything up to ``index``."""
        self.log.applied_to(index)

    # -- membership and snapshots ----------------------------------------------------------------------------------

    def apply_membership(self, conf: ConfState) -> None:
        """Put a configuration into force, which a committed entry says. Raises `BadConfState`, changing nothing.

        Call it before `applied_to` says that the entry is applied: until then this replica does not stand for election
        (its majority would be that of the past), and from then on the next change may be proposed.

        A leader that is no voter any more hands over and steps down: what made it so is committed, and it may not
        stand again.
        """
        self.tracker.switch(conf, self.log.last_index + 1, self._ticks)
        self._quick, self._race_round = (), self._read_round + 1
        if self.role is not StateRole.LEADER:
            return
        if not self._promotable:
            self._bequeath()
            self._become_follower(self.term, 0)
            return
        if self._transferee not in conf.voters:
            self._transferee = 0
        self._sending_due = True
        self._advance_commit()
        self._release_reads()

    def report_snapshot(self, peer: int, success: bool) -> None:
        """The shell's transfer of a snapshot to a member has ended. After a failure it is offered again later."""
        progress = self.tracker.progress.get(peer) if self.role is StateRole.LEADER else None
        if progress is None or progress.state is not ProgressState.SNAPSHOT:
            return
        if not success:
            progress.snapshot_failed()
        progress.become_probe(paused=True)

    def _on_snapshot(self, message: Message) -> None:
        """A leader announces a snapshot. Its data comes through the shell, which then calls `restore`."""
        if self._hear_leader(message.sender) and message.index <= self.log.commit:
            self._acknowledge(message.sender, self.log.commit)

    def restore(self, index: int, term: int, conf: ConfState) -> bool:
        """The shell holds a complete snapshot of the state as of entry ``index``; take it over?

        False: not needed, the log has that entry, go on as before. True: the log now starts behind it (what was handed
        out for applying before is part of the snapshot, and no longer to be applied), and the next Ready says so: by
        the time that Ready is advanced, the snapshot's state is in place, and the stable log is empty and starts at
        ``index + 1``. Safe whatever the sender's term: a snapshot holds only committed entries.
        """
        conf.check()
        if index <= self.log.commit:
            return False
        if self.role is not StateRole.FOLLOWER:
            self._become_follower(self.term, 0)
        wanted = not self.log.matches(index, term)
        if wanted:
            self.log.restore(index, term)
            self.tracker.switch(conf, index + 1, self._ticks)
            self._pending_snapshot = SnapshotMark(index, term, conf)
        else:
            self.log.commit_to(index)
        if self.leader_id:
            self._acknowledge(self.leader_id, index)
        return wanted
