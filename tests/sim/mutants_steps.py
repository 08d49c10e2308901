"""More members that break a promise each (see `mutants`): where it takes bad luck to see it, or all alike."""

import asyncio
from typing import Any

from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.mvcc.key_index import KeyIndex
from plasmacloud.chainfire.mvcc.store import MvccStore
from plasmacloud.chainfire.peer_memory import PeerRegister
from plasmacloud.chainfire.proposing import Proposer
from plasmacloud.chainfire.replica import Replica
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.chainfire.state_meta import Applied
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.raft import Raft
from plasmacloud.rpc.peer_wire import PeerClaim, Refusal
from plasmacloud.rpc.proto.rpc_pb2 import PutRequest

# Leaders


class NeverForgets(Proposer):
    """What was proposed in an earlier term is taken for proposed in this one."""

    def _propose_all(self) -> None:
        self._proposed_term = self._raft.term
        super()._propose_all()


class RemembersProposals(Replica):
    proposer_class = NeverForgets


class WaitsForItsTurn(Replica):
    """What is in flight when the leader changes is sent again when it is due, and not at once."""

    def _leader_changed(self) -> None:
        before = [(lane, lane._again_at, lane._again_delay_s) for lane in self._lanes]
        super()._leader_changed()
        for lane, again_at, delay_s in before:
            lane._again_at, lane._again_delay_s = again_at, delay_s


class CommitsAllItHas(Raft):
    """A leader's commit index is believed for the whole log."""

    def _on_append(self, message: Message) -> None:
        super()._on_append(message)
        if self.leader_id == message.sender:
            self.log.commit_to(min(message.commit, self.last_index))


class ChangesInHaste(Raft):
    """A new leader takes a change of the membership before it has committed anything."""

    @property
    def membership_pending(self) -> bool:
        return bool(self.log.memberships)


class HasNoLease(Raft):
    """That a leader was just heard of is no reason to refuse another one."""

    @property
    def _lease_holds(self) -> bool:
        return False


class AnswersAnybody(Raft):
    """An answer that waits for the disk serves whoever leads meanwhile."""

    def _acknowledge(self, leader: int, index: int) -> None:
        pending = self._pending_ack
        if pending is None:
            pending = self._pending_ack = Message(MessageType.APPEND_RESPONSE, leader, self.id, self.term, index=index)
            self._after_sync.append(pending)
        pending.index = max(pending.index, index)


# Doors


class AdmitsAtOnce(PeerRegister):
    """A life is let in while it is still being written down."""

    def judge(self, claim: PeerClaim) -> "Refusal | asyncio.Future[None] | None":
        verdict = super().judge(claim)
        return verdict if isinstance(verdict, Refusal) else None


# The store: all members do the same


class ShowsNothingOfBefore(StateMachine):
    """A put does not say what was there."""

    def _execute(self, kind: int, body: bytes, want_reply: bool) -> Applied:
        if kind == CommandKind.PUT:
            request = PutRequest.FromString(body)
            request.prev_kv = False
            body = request.SerializeToString()
        return super()._execute(kind, body, want_reply)


class CountsPutsOnly(MvccStore):
    """Deletions, and what is in transactions, have no part in the checksum of all changes."""

    def _record(self, identity: bytes, record: bytes) -> None:
        checksum = self.change_crc
        super()._record(identity, record)
        self.change_crc = checksum


class ForgetsDeletions(StateMachine):
    @classmethod
    def restore(cls, *arguments: Any, **settings: Any) -> "ForgetsDeletions":
        machine = super().restore(*arguments, **settings)
        machine.store.__class__ = CountsPutsOnly
        return machine  # type: ignore[return-value]


class RemovesNothing(KeyIndex):
    """Compactions are promises."""

    __slots__ = ()

    def compact(self, key: bytes, limit: bytes) -> list[bytes]:
        return []


class KeepsThePast(StateMachine):
    @classmethod
    def restore(cls, *arguments: Any, **settings: Any) -> "KeepsThePast":
        machine = super().restore(*arguments, **settings)
        index = machine.store.index
        machine.store.index = other = RemovesNothing()
        for name in ("live", "graves", "history", "order", "dead"):
            setattr(other, name, getattr(index, name))
        return machine  # type: ignore[return-value]
