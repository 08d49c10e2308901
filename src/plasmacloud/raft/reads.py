"""Heartbeats, and the linearizable reads that they confirm (Raft thesis §6.4).

A read may be answered from the state machine once it has applied the *read index*: the commit index at a moment after
the read began, at which this replica was certainly the leader. To be certain, the leader numbers its read rounds and
sends the number with a heartbeat; a member that answers round r after it was sent confirms the leadership for that
round and all before it. So one number per member suffices, and the confirmed round is the quorum's index over these
numbers, with the same arithmetic that commits entries.

Only as many members are asked as a quorum needs: those that answered first when all were asked. All are asked every
`RACE_EVERY` rounds, while entries are under way, because a member's disk may keep it then, after a tick without an
answer, and when a connection is lost. To ask all of them every time wakes each for nothing and the leader once more: in
a cluster of three that is a third of what a linearizable read costs.

Reads that arrive while rounds are open share the next one. Nothing is confirmed before an entry of the leader's own
term is committed: until then its commit index may lag behind what an earlier leader acknowledged.
"""

from plasmacloud.raft.core import Core
from plasmacloud.raft.errors import NoLeader
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.state import StateRole

MAX_OPEN_ROUNDS = 2
RACE_EVERY = 16  # rounds: so many wait at most for a member that has become slow, but not silent


class Reads(Core):
    """Heartbeats and read index."""

    def read_index(self, context: int) -> None:
        """Ask for an index as of which a read that begins now is linearizable.

        The answer ``(context, index)`` arrives in `Ready.read_states`. It may never arrive (leader change, lost
        message): the caller asks again. Raises `NoLeader`.
        """
        if self.role is StateRole.LEADER:
            self._reads_waiting.append((self.id, context))
        elif self.leader_id:
            self._messages.append(Message(MessageType.READ_INDEX, self.leader_id, self.id, context=context))
        else:
            raise NoLeader

    @property
    def _reads_due(self) -> bool:
        """Whether a read round can begin."""
        return (
            bool(self._reads_waiting)
            and len(self._read_batches) < MAX_OPEN_ROUNDS
            and self.log.commit >= self._term_start
        )

    def _begin_read_round(self) -> None:
        assert self.role is StateRole.LEADER
        self._read_round += 1
        requests, self._reads_waiting = self._reads_waiting, []
        self._read_batches.append((self._read_round, self.log.commit, requests))
        own = self.tracker.progress.get(self.id)
        if own is not None:
            own.read_round = self._read_round
        self._release_reads()
        if self._read_batches:
            if self._quick and self._read_round % RACE_EVERY and self.log.commit == self.log.last_index:
                for member in self._quick:
                    self._send_heartbeat(member, self.tracker.progress[member].match)
                self._tell_commit(requests)
            else:
                self._ask_all_voters()

    def _ask_all_voters(self) -> None:
        """For the open rounds; who is quick is seen anew."""
        if self._quick or not self._race_round:
            self._quick, self._race_round = (), self._read_round
        conf = self.tracker.conf
        for member, progress in self.tracker.peers(self.id):
            if conf.is_voter(member):
                self._send_heartbeat(member, progress.match)

    def _tell_commit(self, requests: list[tuple[int, int]]) -> None:
        """Who is not asked gets no heartbeat, which would have brought the commit index that its reads wait for."""
        commit = self.log.commit
        for requester, _ in requests:
            progress = self.tracker.progress.get(requester)
            if requester != self.id and requester not in self._quick and progress and progress.commit_sent < commit:
                progress.commit_wanted = commit
                self._sending_due = True

    def _tick_reads(self) -> None:
        """A round that was open at the last tick already waits for somebody slow."""
        oldest = self._read_batches[0][0] if self._read_batches else 0
        if self._quick and oldest and oldest == self._late_round:
            self._ask_all_voters()
        self._late_round = oldest

    def _not_quick(self, member: int) -> None:
        """The member cannot be counted on."""
        if member in self._quick:
            self._ask_all_voters()

    def _release_reads(self) -> None:
        """Answer the reads of the rounds that a quorum confirmed."""
        confirmed = self.tracker.confirmed_round()
        batches = self._read_batches
        if not self._quick and batches and batches[0][0] <= confirmed and self._race_round <= confirmed:
            self._note_quick(confirmed)
        while batches and batches[0][0] <= confirmed:
            _, index, requests = batches.popleft()
            for requester, context in requests:
                if requester == self.id:
                    self._read_states.append((context, index))
                else:
                    self._messages.append(
                        Message(
                            MessageType.READ_INDEX_RESPONSE,
                            requester,
                            self.id,
                            self.term,
                            index=index,
                            context=context,
                        )
                    )

    def _note_quick(self, confirmed: int) -> None:
        if not self.tracker.conf.outgoing:  # two quorums are rare and short: all are asked
            self._quick = tuple(
                [
                    member
                    for member, progress in self.tracker.peers(self.id)
                    if progress.read_round >= confirmed and self.tracker.conf.is_voter(member)
                ]
            )

    def _on_read_index(self, message: Message) -> None:
        if self.role is StateRole.LEADER:
            self._reads_waiting.append((message.sender, message.context))

    def _on_read_index_response(self, message: Message) -> None:
        if message.sender == self.leader_id:
            self._read_states.append((message.context, message.index))

    # -- heartbeats ------------------------------------------------------------------------------------------------

    def _send_heartbeat(self, to: int, match: int) -> None:
        commit = min(match, self.log.commit)
        self._messages.append(
            Message(MessageType.HEARTBEAT, to, self.id, self.term, commit=commit, context=self._read_round)
        )

    def _broadcast_heartbeat(self) -> None:
        """The periodic heartbeat. It repeats the open read round, whose first heartbeats may be lost."""
        for member, progress in self.tracker.peers(self.id):
            progress.note_heartbeat()
            self._send_heartbeat(member, progress.match)

    def _confirm_round(self, sender: int, read_round: int) -> None:
        progress = self.tracker.progress[sender]
        if progress.read_round < read_round <= self._read_round:
            progress.read_round = read_round
            if self._read_batches:
                self._release_reads()
