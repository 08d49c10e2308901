"""More members that break a promise each (see `mutants`): those that only a rule about single steps finds soon, or only
a request about many keys, or only a fault that waits for its moment.
"""

from typing import Any

from plasmacloud.chainfire.cluster_state import ClusterState
from plasmacloud.chainfire.mvcc.key_index import KeyIndex
from plasmacloud.chainfire.mvcc.range_query import RangeQuery
from plasmacloud.chainfire.mvcc.records import RECORD_ID_BYTES
from plasmacloud.chainfire.mvcc.store import MvccStore
from plasmacloud.chainfire.peer_memory import Evidence, PeerMemory, PeerRegister
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.raft import membership
from plasmacloud.raft.log import RaftLog
from plasmacloud.raft.membership import Change, ChangeKind, ConfState
from plasmacloud.raft.messages import Message
from plasmacloud.raft.quorum import majority_index
from plasmacloud.raft.raft import Raft
from plasmacloud.raft.state import StateRole
from plasmacloud.raft.tracker import Tracker
from plasmacloud.rpc.peer_wire import PeerClaim, Refusal, RefusalCode
from plasmacloud.rpc.proto.rpc_pb2 import RangeRequest


def with_tracker(tracker: type[Tracker]) -> type[Raft]:
    """A core with another tracker."""

    class Mutant(Raft):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.tracker = tracker(self.conf, self.config.max_inflight_messages, self.config.max_inflight_bytes)

    return Mutant


def with_log(log: type[RaftLog]) -> type[Raft]:
    """A core with another log."""

    class Mutant(Raft):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.log = log(self.log._stable, commit=self.log.commit, applied=self.log.applied)

    return Mutant


# Who leads


class NeverAlone(Tracker):
    """A leader does not notice that nobody answers it."""

    def quorum_active(self, own_id: int) -> bool:
        return True


class NewVotersConfirm(Tracker):
    """The old half of a joint configuration has no say in reads."""

    def confirmed_round(self) -> int:
        return majority_index([progress.read_round for progress in self._incoming])


class NewVotersCommit(Tracker):
    """Nor in what is committed."""

    def committed_index(self) -> int:
        return majority_index([progress.match for progress in self._incoming])


class ForgetsMatches(Tracker):
    """Behind a change of the membership everybody is new."""

    def switch(self, conf: ConfState, next_index: int, tick: int) -> None:
        self.progress = {}
        super().switch(conf, next_index, tick)


class LateQuestionsJoin(Raft):
    """A read that comes while a round is under way is answered by that round."""

    def _on_read_index(self, message: Message) -> None:
        if self.role is StateRole.LEADER and self._read_batches:
            self._read_batches[-1][2].append((message.sender, message.context))
        else:
            super()._on_read_index(message)


class LongerIsBetter(RaftLog):
    """Of two logs the longer one counts as the better one, whatever the terms."""

    def is_up_to_date(self, index: int, term: int) -> bool:
        return index >= self.last_index


class LeadsBeforeItsVoteIsDurable(Raft):
    """A candidate counts itself at once."""

    def _campaign(self, *, pre_vote: bool, force: bool = False) -> None:
        super()._campaign(pre_vote=pre_vote, force=force)
        if self.role is StateRole.CANDIDATE:
            self.tracker.record_vote(self.id, True)


class AsksForWhatItMayLose(RaftLog):
    """Everything counts as durable for who stands."""

    @property
    def is_durable(self) -> bool:
        return True


class Impatient(Raft):
    """What a leader says puts off no election."""

    def _hear_leader(self, sender: int) -> bool:
        elapsed = self._election_elapsed
        heard = super()._hear_leader(sender)
        self._election_elapsed = elapsed
        return heard


class GoesRoundForEver(Raft):
    """There is always something to do, and nothing in it."""

    def has_ready(self) -> bool:
        return self.applied > 20 or super().has_ready()


# Members


class AllAtOnce(ClusterState):
    """A member takes another's place without a joint phase."""

    def _adopt(self, conf: ConfState, index: int) -> None:
        super()._adopt(membership.leave_joint(conf) if conf.joint else conf, index)


class ReplacesAtOnce(StateMachine):
    @classmethod
    def restore(cls, *arguments: Any, **settings: Any) -> "ReplacesAtOnce":
        machine = super().restore(*arguments, **settings)
        state = AllAtOnce.decode(machine.cluster.encode())
        machine.cluster = state
        return machine  # type: ignore[return-value]


class OldCopiesWillDo(PeerMemory):
    """It is not asked whether a life knows of the one that was met last."""

    def judge(self, claim: PeerClaim, evidence: Evidence = Evidence()) -> Refusal | None:  # noqa: B008 - immutable
        refusal = super().judge(claim, evidence)
        replaced = self.known(claim.member_id).birth not in (0, claim.birth)
        return None if refusal is not None and refusal.code is RefusalCode.AMNESIA and not replaced else refusal

    def note(self, claim: PeerClaim) -> bool:
        return self.known(claim.member_id).incarnation < claim.incarnation and super().note(claim)


class BelievesOldCopies(PeerRegister):
    def __init__(self, path: Any, cluster_id: int, memory: PeerMemory, *rest: Any) -> None:
        super().__init__(path, cluster_id, OldCopiesWillDo(memory._known), *rest)


# The store


class HalfIsVisible(MvccStore):
    """Readers see what a request has written so far."""

    def open_range(self, request: RangeRequest) -> RangeQuery:
        return RangeQuery(self, request, self.tip)


class CompactsTheLiving(KeyIndex):
    """A compaction drops the newest version before its revision, although that is what a read there sees."""

    __slots__ = ()

    def compact(self, key: bytes, limit: bytes) -> list[bytes]:
        newest = self.live.get(key)
        if newest is None or newest < limit or key not in self.history:
            return super().compact(key, limit)
        ids = bytes(self.history[key])
        before = [ids[at : at + RECORD_ID_BYTES] for at in range(0, len(ids), RECORD_ID_BYTES)]
        dropped = [identity for identity in before if identity < limit]
        if len(dropped) == len(before):
            self.history.pop(key)
        elif dropped:
            self.history[key] = b"".join(before[len(dropped) :])
        return dropped


class ForgetsTheLiving(StateMachine):
    @classmethod
    def restore(cls, *arguments: Any, **settings: Any) -> "ForgetsTheLiving":
        machine = super().restore(*arguments, **settings)
        index = machine.store.index
        other = CompactsTheLiving()
        for name in ("live", "graves", "history", "order", "dead"):
            setattr(other, name, getattr(index, name))
        machine.store.index = other
        return machine  # type: ignore[return-value]


class ShowsHalf(StateMachine):
    @classmethod
    def restore(cls, *arguments: Any, **settings: Any) -> "ShowsHalf":
        machine = super().restore(*arguments, **settings)
        machine.store.__class__ = HalfIsVisible
        return machine  # type: ignore[return-value]


REPLACEMENT = (Change(ChangeKind.ADD_VOTER, 4), Change(ChangeKind.REMOVE, 1))
"""One member in the place of another."""
