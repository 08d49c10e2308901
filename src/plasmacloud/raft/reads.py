"""Heartbeats, and the linearizable reads that they confirm (Raft thesis §6.4).

A read may be answered from the state machine once it has applied the *read index*: the commit index at a moment after
the read began, at which this replica was certainly the leader. To be certain, the leader numbers its read rounds and
sends the number with a heartbeat; a member that answers round r after it was sent confirms the leadership for that
round and all before it. So one number per member suffices, and the confirmed round is the quorum's index over these
numbers, with the same arithmetic that commits entries.

Reads that arrive while rounds are open share the next one. Nothing is confirmed before an entry of the leader's own
term is committed: until then its commit index may lag behind what an earlier leader acknowledged.
"""

from plasmacloud.raft.core import Core
from plasmacloud.raft.errors import NoLeader
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.state import StateRole

MAX_OPEN_ROUNDS = 2


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
        self._read_batches.append((self._read_round, self.log.commit, self._reads_waiting))
        self._reads_waiting = []
        own = self.tracker.progress.get(self.id)
        if own is not None:
            own.read_round = self._read_round
        self._release_reads()
        if self._read_batches:
            conf = self.tracker.conf
            for member, progress in self.tracker.peers(self.id):
                if conf.is_voter(member):
                    self._send_heartbeat(member, progress.match)

    def _release_reads(self) -> None:
        """Answer the reads of the rounds that a quorum confirmed."""
        confirmed = self.tracker.confirmed_round()
        batches = self._read_batches
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
