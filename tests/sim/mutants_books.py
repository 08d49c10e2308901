"""More members that break a promise each (see `mutants`): those whose own books are wrong, which others notice late."""

from typing import Any

from plasmacloud.chainfire.cluster_state import ClusterState
from plasmacloud.chainfire.replica import Replica
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.raft.log import RaftLog
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message
from plasmacloud.raft.quorum import VoteResult, majority_vote
from plasmacloud.raft.raft import Raft, Ready
from plasmacloud.raft.tracker import Tracker
from plasmacloud.storage.wal import Wal

# What is durable


class OneForAll(RaftLog):
    """The first write that is done vouches for all that are under way."""

    def written(self) -> None:
        self._writes[0].upto = max(self._writes[0].upto, min(self._handed, self._stable.last_index()))
        super().written()


class TermsCountAtOnce(Raft):
    """Whatever write is done, the newest term and vote count as durable."""

    def advance(self, rd: Ready) -> None:
        super().advance(rd)
        self._hard_state_durable = self._hard_state_handed


class SpeaksTooEarly(Raft):
    """Answers leave before their term is on the disk."""

    def _respond(self, message: Message) -> None:
        self._messages.append(message)


# What is under way


class KeepsWhatWasCut(RaftLog):
    """A change of the membership at the very place where the log is cut is still expected."""

    def _truncate(self, index: int) -> None:
        kept = index in self.memberships
        super()._truncate(index)
        if kept:
            self.memberships.append(index)


class ChangesTooEarly(RaftLog):
    """A change of the membership comes into force although a crash may forget that it is committed."""

    def _appliable(self, hardened: int) -> int:
        return min(self.commit, self.durable)


class CountsForEver(Raft):
    """What is committed counts as uncommitted."""

    def _advance_commit(self) -> None:
        counted = self._uncommitted_bytes
        super()._advance_commit()
        self._uncommitted_bytes = counted


class HandsOverForEver(Raft):
    """A transfer of leadership has no end."""

    def _tick_leader(self, missed: int) -> None:
        self._transfer_elapsed = 0
        super()._tick_leader(missed)


class SendsOnceOnly(Raft):
    """It is not noticed that an append was lost."""

    def _on_heartbeat_response(self, message: Message) -> None:
        progress = self.tracker.progress.get(message.sender)
        if progress is not None:
            progress.check_due = False
        super()._on_heartbeat_response(message)


class KnowsItAll(Raft):
    """What is known to be committed needs no answer."""

    def _on_append(self, message: Message) -> None:
        if message.index >= self.commit:
            super()._on_append(message)
        else:
            self._hear_leader(message.sender)


class NewVotersAreEnough(Tracker):
    """A leader is content to hear from the new half of a joint configuration."""

    def quorum_active(self, own_id: int) -> bool:
        active = {member: progress.recent_active or member == own_id for member, progress in self.progress.items()}
        return majority_vote(self.conf.voters, active) is VoteResult.WON


class AsksOnce(Replica):
    """A question to the leader is not repeated."""

    def _repeat_questions(self, contexts: list[int]) -> None:
        pass


# What is kept


class KeepsNothing(Wal):
    """The log is shortened up to the checkpoint, whoever needs it."""

    def mark(self, index: int, term: int, conf: bytes, *, keep: int = 0, on_durable: Any = None) -> None:
        super().mark(index, term, conf, on_durable=on_durable)


class MarksAnything(Wal):
    """A mark says nothing of who belonged to the cluster."""

    def mark(self, index: int, term: int, conf: bytes, *, keep: int = 0, on_durable: Any = None) -> None:
        super().mark(index, term, ConfState().encode(), keep=keep, on_durable=on_durable)


class ForgetsLeavers(ClusterState):
    """Who has left is not remembered."""

    def _adopt(self, conf: ConfState, index: int) -> None:
        super()._adopt(conf, index)
        self._departed.clear()


class LetsGo(StateMachine):
    @classmethod
    def restore(cls, *arguments: Any, **settings: Any) -> "LetsGo":
        machine = super().restore(*arguments, **settings)
        machine.cluster = ForgetsLeavers.decode(machine.cluster.encode())
        return machine  # type: ignore[return-value]
