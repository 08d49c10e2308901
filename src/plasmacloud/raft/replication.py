"""Log replication: what the leader sends, what a follower takes, when an entry is committed (Raft §5.3, §5.4).

Nothing is sent at the moment it becomes sendable. `_pump` runs once per Ready and sends each member everything that
is due, so that several proposals and acknowledgements of one round of the event loop leave as one append per member,
and a commit index rides along with entries whenever there are some.
"""

from plasmacloud.raft.errors import NotLeader, ProposalRefused, Refusal, StateLost
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.progress import Progress, ProgressState
from plasmacloud.raft.reads import Reads
from plasmacloud.raft.state import StateRole
from plasmacloud.storage.entry import MAX_ENTRY_DATA_BYTES, Compacted, EntryKind
from plasmacloud.storage.entry_codec import make_entry


class Replication(Reads):
    """Proposals, appends, acknowledgements, commit."""

    # -- the leader's log ------------------------------------------------------------------------------------------

    def propose(self, data: bytes) -> tuple[int, int]:
        """Append an entry of commands; returns its (term, index), by which its fate can be told.

        Raises `NotLeader` and `ProposalRefused`; in both cases nothing was appended.
        """
        return self._propose(EntryKind.COMMANDS, data)

    def propose_membership(self, data: bytes) -> tuple[int, int]:
        """Append an entry that changes the membership once it is applied; returns its (term, index).

        One at a time: the next is taken when this one is applied *here*. A new leader first applies everything that
        it inherited and the entry with which its term began: it cannot know which of it is committed, and a change
        that builds on a configuration which no majority has confirmed in this term could bring two disjoint majorities
        about (the gap in Raft's single-server changes that was found in 2015). Raises as `propose` does.
        """
        if self.role is StateRole.LEADER and self.membership_pending:
            raise ProposalRefused(Refusal.MEMBERSHIP)
        return self._propose(EntryKind.MEMBERSHIP, data)

    @property
    def membership_pending(self) -> bool:
        """Whether a membership change has to wait, because one before it is, or may be, not yet in force."""
        return bool(self.log.memberships) or self.log.applied < self._term_start

    def hurry_commit(self, member: int) -> None:
        """Somebody at ``member`` waits for what was proposed so far: tell it of that commit without delay.

        Nothing happens on a replica that does not lead, and without ``lazy_commit`` every commit is told at once.
        """
        progress = self.tracker.progress.get(member)
        if progress is not None:
            progress.commit_wanted = self.log.last_index

    def _propose(self, kind: EntryKind, data: bytes) -> tuple[int, int]:
        if self.role is not StateRole.LEADER:
            raise NotLeader(self.leader_id)
        if self._transferee:
            raise ProposalRefused(Refusal.TRANSFER)
        if len(data) > MAX_ENTRY_DATA_BYTES:
            raise ProposalRefused(Refusal.TOO_LARGE)
        waiting = self._uncommitted_bytes
        if waiting and waiting + len(data) > self.config.max_uncommitted_bytes:
            raise ProposalRefused(Refusal.UNCOMMITTED)
        return self.term, self._append_own(kind, data)

    def _append_own(self, kind: EntryKind, data: bytes) -> int:
        index = self.log.last_index + 1
        self.log.append((make_entry(self.term, index, kind, data),))
        if data:
            self._uncommitted.append((index, len(data)))
            self._uncommitted_bytes += len(data)
        self._sending_due = True
        return index

    def _advance_commit(self) -> None:
        """Commit what a quorum holds, provided that it is an entry of this term (Raft §5.4.2)."""
        index = self.tracker.committed_index()
        if index < self._term_start or not self.log.commit_to(index):
            return
        uncommitted = self._uncommitted
        while uncommitted and uncommitted[0][0] <= index:
            self._uncommitted_bytes -= uncommitted.popleft()[1]
        assert self._uncommitted_bytes >= 0
        self._sending_due = True

    def _note_own_durable(self) -> None:
        """The leader's own disk reached further: it counts itself only now."""
        progress = self.tracker.progress.get(self.id)
        if progress is not None and progress.acknowledge(self.log.durable):
            self._advance_commit()

    # -- sending ---------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send every member what is due: entries as the windows allow, else the news of a commit if that is urgent."""
        self._sending_due = False
        last, commit = self.log.last_index, self.log.commit
        at_once, self._news_due = self._news_due or not self.config.lazy_commit, False
        for member, progress in self.tracker.peers(self.id):
            if progress.state is ProgressState.REPLICATE:
                while progress.next <= last and not progress.inflights.full:
                    if not self._send_append(member, progress):
                        break
                if progress.commit_sent < commit and progress.state is ProgressState.REPLICATE:
                    if at_once or progress.commit_sent < progress.commit_wanted:
                        self._send_empty(MessageType.COMMIT, member, progress)
                    else:
                        self._news_waits = True
            elif progress.state is ProgressState.PROBE and not progress.paused:
                self._send_append(member, progress)

    def _send_append(self, to: int, progress: Progress) -> bool:
        """Send what follows, or a snapshot if that is compacted; returns whether an append went out."""
        log = self.log
        before = progress.next - 1
        try:
            log_term = log.term(before)
            entries = (
                log.entries(progress.next, log.last_index + 1, self.config.max_append_bytes)
                if before < log.last_index
                else []
            )
        except Compacted:
            self._send_snapshot(to, progress)
            return False
        self._messages.append(
            Message(
                MessageType.APPEND,
                to,
                self.id,
                self.term,
                log_term=log_term,
                index=before,
                commit=log.commit,
                entries=entries,
            )
        )
        if entries:
            progress.sent(entries[-1].index, sum([len(entry.record) for entry in entries]))
        else:
            progress.paused = True
        progress.commit_sent = log.commit
        return True

    def _send_empty(self, kind: MessageType, to: int, progress: Progress) -> None:
        """Send an append without entries (it finds out whether earlier ones were lost) or the news of a commit."""
        before = progress.next - 1
        try:
            log_term = self.log.term(before)
        except Compacted:
            self._send_snapshot(to, progress)
            return
        self._messages.append(
            Message(
                kind,
                to,
                self.id,
                self.term,
                log_term=log_term,
                index=before,
                commit=self.log.commit,
            )
        )
        progress.commit_sent = self.log.commit

    def _send_snapshot(self, to: int, progress: Progress) -> None:
        """Announce a snapshot of the applied state; the shell brings the data and reports how it went."""
        index = self.log.applied
        self._messages.append(
            Message(
                MessageType.SNAPSHOT,
                to,
                self.id,
                self.term,
                log_term=self.log.term(index),
                index=index,
                commit=self.log.commit,
                data=self.tracker.conf.encode(),
            )
        )
        progress.become_snapshot(index)

    # -- a follower's part -----------------------------------------------------------------------------------------

    def _on_append(self, message: Message) -> None:
        if not _is_sound(message) or not self._hear_leader(message.sender):
            return
        log = self.log
        if message.index < log.commit:
            self._acknowledge(message.sender, log.commit)
            return
        if not log.matches(message.index, message.log_term):
            self._refuse(message)
            return
        entries = message.entries
        new = log.first_new(entries)
        if new < len(entries):
            log.append(entries[new:] if new else entries)
        last_new = message.index + len(entries)
        log.commit_to(min(message.commit, last_new))
        self._acknowledge(message.sender, last_new)

    def _acknowledge(self, leader: int, index: int) -> None:
        """Promise to hold the log up to ``index``, once it is durable. One answer serves several appends."""
        pending = self._pending_ack
        if pending is not None and pending.to == leader and pending.term == self.term:
            pending.index = max(pending.index, index)
            return
        self._pending_ack = Message(MessageType.APPEND_RESPONSE, leader, self.id, self.term, index=index)
        self._after_sync.append(self._pending_ack)

    def _refuse(self, message: Message) -> None:
        hint_index, hint_term = self.log.last_not_above(message.index, message.log_term)
        self._after_sync.append(
            Message(
                MessageType.APPEND_RESPONSE,
                message.sender,
                self.id,
                self.term,
                index=message.index,
                hint_index=hint_index,
                hint_term=hint_term,
                reject=True,
            )
        )

    def _on_commit(self, message: Message) -> None:
        if self._hear_leader(message.sender) and self.log.matches(message.index, message.log_term):
            self.log.commit_to(min(message.commit, message.index))

    def _on_heartbeat(self, message: Message) -> None:
        if not self._hear_leader(message.sender):
            return
        if message.commit > self.log.last_index:
            raise StateLost(
                f"entry {message.commit} is committed with this member's help, but its log ends at "
                f"{self.log.last_index}: the disk lost what it had acknowledged",
                hint="remove this member and add it again with an empty directory",
            )
        self.log.commit_to(message.commit)
        self._respond(
            Message(MessageType.HEARTBEAT_RESPONSE, message.sender, self.id, self.term, context=message.context)
        )

    # -- the answers -----------------------------------------------------------------------------------------------

    def _on_append_response(self, message: Message) -> None:
        progress = self._member(message.sender)
        if progress is None:
            return
        if message.reject:
            self._on_refusal(progress, message)
            return
        index = message.index
        if index > self.log.last_index:
            return  # nobody can hold what the leader does not
        news = progress.acknowledge(index)
        if progress.state is not ProgressState.REPLICATE:
            self._sending_due = True
            if progress.state is ProgressState.PROBE:
                if index == progress.match:
                    progress.become_replicate()
            elif progress.match + 1 >= self.log.first_index:
                progress.become_replicate()
        elif progress.next <= self.log.last_index:
            self._sending_due = True  # the window has room again
        if news and index > self.log.commit:
            self._advance_commit()
        self._after_progress(message.sender, progress)

    def _after_progress(self, member: int, progress: Progress) -> None:
        """Hook for the part that hands over leadership: the member's log has grown."""

    def _on_refusal(self, progress: Progress, message: Message) -> None:
        hint = message.hint_index
        if message.hint_term:
            # what precedes the hint on our side in a higher term cannot be in the member's log
            hint = self.log.last_not_above(hint, message.hint_term)[0]
        if progress.refuse(message.index, hint):
            self._sending_due = True

    def _on_heartbeat_response(self, message: Message) -> None:
        progress = self._member(message.sender)
        if progress is None:
            return
        if progress.check_due:
            progress.check_due = False
            if progress.state is ProgressState.PROBE:
                progress.paused = False
                self._sending_due = True
            elif progress.state is ProgressState.REPLICATE:
                self._send_empty(MessageType.APPEND, message.sender, progress)
        if message.sender == self._transferee:
            self._after_progress(message.sender, progress)  # the word to take over may be lost, or have come too early
        self._confirm_round(message.sender, message.context)


def _is_sound(message: Message) -> bool:
    """Whether the entries follow one another and the one they claim to follow."""
    index, term = message.index, message.log_term
    for entry in message.entries:
        index += 1
        if entry.index != index or entry.term < term:
            return False
        term = entry.term
    return term <= message.term
