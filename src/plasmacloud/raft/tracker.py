"""The members of the group with their progress and votes, and what their quorums say.

The configuration is the truth; the lists of progress per majority are derived from it once per change, because the
quorum of match indexes is computed for every acknowledgement.
"""

from collections.abc import Iterator

from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.progress import Progress
from plasmacloud.raft.quorum import VoteResult, joint_vote, majority_index


class Tracker:
    """Progress of every member of a configuration, this one included."""

    def __init__(self, conf: ConfState, max_inflight_messages: int, max_inflight_bytes: int) -> None:
        self._window = (max_inflight_messages, max_inflight_bytes)
        self.conf = ConfState()
        self.progress: dict[int, Progress] = {}
        self.votes: dict[int, bool] = {}
        self._incoming: list[Progress] = []
        self._outgoing: list[Progress] = []
        self.switch(conf, next_index=1, tick=0)

    def switch(self, conf: ConfState, next_index: int, tick: int) -> None:
        """Take over a configuration: who stays keeps its progress, who is new starts as a probe at ``next_index``.

        New members count as recently active, or a check-quorum right after the change would depose the leader before
        they had a chance to answer.
        """
        conf.check()
        before = self.progress
        self.progress = {}
        for member in sorted(conf.all_members()):
            progress = before.get(member)
            if progress is None:
                progress = Progress(next_index, *self._window, tick)
                progress.recent_active = True
            self.progress[member] = progress
        self._adopt(conf)

    def reset(self, next_index: int, tick: int) -> None:
        """A new term: nothing is known about anybody."""
        self.votes = {}
        self.progress = {member: Progress(next_index, *self._window, tick) for member in self.progress}
        self._adopt(self.conf)

    def _adopt(self, conf: ConfState) -> None:
        self.conf = conf
        self._incoming = [self.progress[member] for member in conf.voters]
        self._outgoing = [self.progress[member] for member in conf.outgoing]

    def peers(self, own_id: int) -> Iterator[tuple[int, Progress]]:
        """Everybody else, in ascending order of id."""
        return ((member, progress) for member, progress in self.progress.items() if member != own_id)

    def committed_index(self) -> int:
        """The highest index that the voters' quorum (both of them, if joint) holds durably."""
        index = majority_index([progress.match for progress in self._incoming])
        if self._outgoing:
            index = min(index, majority_index([progress.match for progress in self._outgoing]))
        return index

    def confirmed_round(self) -> int:
        """The latest read round that the voters' quorum confirmed."""
        confirmed = majority_index([progress.read_round for progress in self._incoming])
        if self._outgoing:
            confirmed = min(confirmed, majority_index([progress.read_round for progress in self._outgoing]))
        return confirmed

    def record_vote(self, member: int, granted: bool) -> None:
        """Count an answer. A grant replaces an earlier refusal (a deferred pre-vote grant), never the other way."""
        if granted or member not in self.votes:
            self.votes[member] = granted

    def tally(self) -> VoteResult:
        """Where the election stands."""
        return joint_vote(self.conf.voters, self.conf.outgoing, self.votes)

    def quorum_active(self, own_id: int) -> bool:
        """Whether a quorum was heard from since the last call of `forget_activity`."""
        active = {member: progress.recent_active or member == own_id for member, progress in self.progress.items()}
        return joint_vote(self.conf.voters, self.conf.outgoing, active) is VoteResult.WON

    def forget_activity(self) -> None:
        """Start a new check-quorum interval."""
        for progress in self.progress.values():
            progress.recent_active = False
