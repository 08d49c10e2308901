"""Members that break a promise each: what the simulator has to find.

A mutant is a member class for `Simulation(options, member_class=…)`, made of the parts that `RunningMember` lets be
replaced. Each changes one thing only, as a slip of the pen would. Production code knows nothing of them.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from plasmacloud.chainfire.lane import Lane
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.mvcc.slices import Work
from plasmacloud.chainfire.peer_memory import PeerRegister
from plasmacloud.chainfire.proposing import Proposer
from plasmacloud.chainfire.replica import Replica
from plasmacloud.chainfire.running_member import RunningMember
from plasmacloud.chainfire.snapshot_flow import Received
from plasmacloud.chainfire.state_machine import Checkpoint, StateMachine
from plasmacloud.chainfire.state_meta import Applied
from plasmacloud.chainfire.waiting import ReadWaiter, Waiter
from plasmacloud.raft.log import RaftLog
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.quorum import VoteResult, quorum_size
from plasmacloud.raft.raft import Raft, Ready
from plasmacloud.raft.state import StateRole
from plasmacloud.raft.tracker import Tracker
from plasmacloud.rpc.peer_wire import PeerClaim, Refusal, RefusalCode
from plasmacloud.rpc.proto.rpc_pb2 import PutRequest
from plasmacloud.storage.disk import DiskFile
from plasmacloud.storage.entry import Entry, HardState
from plasmacloud.storage.incoming import COMPLETE
from plasmacloud.storage.install import LOG, prepare_state
from plasmacloud.storage.wal import Wal
from plasmacloud.storage.wal_errors import CorruptLog
from plasmacloud.storage.wal_format import LogMark

# Votes and terms


class VoteNotPersisted(Raft):
    """The vote is in memory only."""

    def _take_hard_state(self) -> HardState | None:
        taken = super()._take_hard_state()
        return None if taken is None else msgspec.structs.replace(taken, vote=0)


class VotesTwice(Raft):
    """Whoever asks gets the vote, as long as his log is good."""

    def _on_vote(self, message: Message) -> None:
        if self.role is StateRole.FOLLOWER:
            self.vote, self.leader_id = 0, 0
        super()._on_vote(message)


class VoteBeforeSync(Raft):
    """The answer to a candidate leaves before the vote is on the disk."""

    def ready(self) -> Ready:
        ready = super().ready()
        votes = [message for message in ready.after_sync if message.type is MessageType.VOTE_RESPONSE]
        ready.messages.extend(votes)
        for vote in votes:
            ready.after_sync.remove(vote)
        return ready


class AnyLogWillDo(RaftLog):
    """Every log is as good as the own."""

    def is_up_to_date(self, index: int, term: int) -> bool:
        return True


class VotesForAnyLog(Raft):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.log = AnyLogWillDo(self.log._stable, commit=self.log.commit, applied=self.log.applied)


class PreVoteRaisesTerm(Raft):
    """Whoever asks for pre-votes enters the next term at once, as if there were none."""

    def _campaign(self, *, pre_vote: bool, force: bool = False) -> None:
        stands = self.role is not StateRole.LEADER and self._promotable and not self.log.has_unapplied_membership
        if pre_vote and stands:
            self._become_follower(self.term + 1, 0)
        super()._campaign(pre_vote=pre_vote, force=force)


class WinsWithHalf(Raft):
    """Half of an even number of voters elects a leader."""

    def _decide(self) -> None:
        conf, votes = self.tracker.conf, self.tracker.votes
        granted = sum(votes.get(voter, False) for voter in conf.voters)
        if self.role is StateRole.CANDIDATE and 2 * granted >= len(conf.voters):
            self._become_leader()
            return
        super()._decide()


class NeverStands(Raft):
    """Nobody wants to lead."""

    def campaign(self) -> None:
        pass


# Replication


class CommitsEarlierTerms(Raft):
    """An entry of an earlier term is committed by counting who has it."""

    def _advance_commit(self) -> None:
        begin, self._term_start = self._term_start, 0
        super()._advance_commit()
        self._term_start = begin


class CountsLearners(Tracker):
    """Whoever has an entry counts, voter or not."""

    def committed_index(self) -> int:
        matches = sorted((progress.match for progress in self.progress.values()), reverse=True)
        return matches[quorum_size(len(self.conf.voters)) - 1]


class LearnersCommit(Raft):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tracker = CountsLearners(self.conf, self.config.max_inflight_messages, self.config.max_inflight_bytes)


class ForgetsOutgoing(Tracker):
    """A joint configuration decides by its new half alone."""

    def _adopt(self, conf: ConfState) -> None:
        super()._adopt(conf)
        self._outgoing = []

    def tally(self) -> VoteResult:
        conf, self.conf = self.conf, ConfState(self.conf.voters)
        try:
            return super().tally()
        finally:
            self.conf = conf


class LeavesJointEarly(Raft):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tracker = ForgetsOutgoing(self.conf, self.config.max_inflight_messages, self.config.max_inflight_bytes)


class TwoChangesAtOnce(Raft):
    """The next change of the membership does not wait until the one before is in force."""

    @property
    def membership_pending(self) -> bool:
        return False


class CutsWhatItHas(RaftLog):
    """Everything from the first uncommitted entry of an append on is replaced, even if it is the same."""

    def first_new(self, entries: Sequence[Entry]) -> int:
        return next((position for position, entry in enumerate(entries) if entry.index > self.commit), len(entries))


class StaleAppendCuts(Raft):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.log = CutsWhatItHas(self.log._stable, commit=self.log.commit, applied=self.log.applied)


class KeepsConflicts(RaftLog):
    """Of an append only what lies behind the own end is taken: what contradicts it stays."""

    def first_new(self, entries: Sequence[Entry]) -> int:
        return next(
            (
                position
                for position, entry in enumerate(entries)
                if entry.index > self.last_index and entry.term >= self.last_term
            ),
            len(entries),
        )


class ConflictsStay(Raft):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.log = KeepsConflicts(self.log._stable, commit=self.log.commit, applied=self.log.applied)


class StaleLeaderIsHeard(Raft):
    """A batch of entries is taken whoever sends it: a leader of the past, although another one is known."""

    def _admit_term(self, message: Message) -> bool:
        if message.type is MessageType.APPEND and self.role is StateRole.FOLLOWER and message.term < self.term:
            self.leader_id = message.sender
            return True
        return super()._admit_term(message)


class HeartbeatCommitsTooMuch(Raft):
    """The commit index of a heartbeat goes beyond what the member is known to have; the member cuts it to its log."""

    def _send_heartbeat(self, to: int, match: int) -> None:
        super()._send_heartbeat(to, self.log.commit)

    def _on_heartbeat(self, message: Message) -> None:
        message.commit = min(message.commit, self.log.last_index)
        super()._on_heartbeat(message)


class LeaderCountsItselfEarly(Raft):
    """The leader counts its own entries before its disk has them."""

    def _append_own(self, kind: Any, data: bytes) -> int:
        index = super()._append_own(kind, data)
        self.tracker.progress[self.id].acknowledge(index)
        return index

    def _note_own_durable(self) -> None:
        super()._note_own_durable()
        self._advance_commit()


class AcknowledgesBeforeSync(Wal):
    """What is queued for the disk counts as written."""

    def append(
        self, hard_state: HardState | None, entries: Sequence[Entry], on_durable: Callable[[], None] | None = None
    ) -> None:
        super().append(hard_state, entries)
        if on_durable is not None:
            on_durable()


# Reads


class ReadsAtOnce(Raft):
    """A leader answers reads without asking anybody whether it still leads."""

    def read_index(self, context: int) -> None:
        if self.role is StateRole.LEADER:
            self._read_states.append((context, self.commit))
        else:
            super().read_index(context)


class ReadsBeforeOwnEntry(Raft):
    """A new leader answers reads before it has committed anything, from a commit index that may be behind."""

    @property
    def _reads_due(self) -> bool:
        begin, self._term_start = self._term_start, 0
        due = super()._reads_due
        self._term_start = begin
        return due


class ReadsLocally(Replica):
    """Any member answers reads from what it happens to have."""

    def read(self, waiter: ReadWaiter) -> None:
        waiter.run()


class ReadsBeforeApplied(Replica):
    """A confirmed read is answered although the state is not that far."""

    def _serve(self) -> None:
        super()._serve()
        for read in self._reads.take_ready(self.raft.commit + 1_000_000):
            read.run()


# The state


class AppliesTwice(StateMachine):
    """Forgets what it has executed when a batch comes again."""

    def _begin(self, origin: int, incarnation: int, first_seq: int) -> int | None:
        return None if super()._begin(origin, incarnation, first_seq) is None else 0


class SessionsNotSaved(StateMachine):
    """What was executed for whom is not part of a checkpoint."""

    def take_checkpoint(self) -> Checkpoint:
        sessions, self.sessions = self.sessions, {}
        try:
            return super().take_checkpoint()
        finally:
            self.sessions = sessions


class MembershipNotSaved(StateMachine):
    """Checkpoints, and the snapshots made of them, have the members of the beginning."""

    def take_checkpoint(self) -> Checkpoint:
        cluster, self.cluster = self.cluster, self.cluster.at_start()
        try:
            return super().take_checkpoint()
        finally:
            self.cluster = cluster


class OwnCommandsDiffer(StateMachine):
    """A command does something more where its client waits for it."""

    def _execute_in_slices(self, kind: int, body: bytes, want_reply: bool) -> Work[Applied]:
        if want_reply and kind == CommandKind.DELETE_RANGE:
            self._execute(CommandKind.PUT, PutRequest(key=b"deleted", value=body).SerializeToString(), want_reply)
        return super()._execute_in_slices(kind, body, want_reply)


class CompactsTooFar(Wal):
    """The log is shortened up to its end, not only behind what a checkpoint has."""

    def mark(
        self, index: int, term: int, conf: bytes, *, keep: int = 0, on_durable: Callable[[], None] | None = None
    ) -> None:
        last = self.durable_index
        super().mark(max(index, last), self.term(max(index, last)), conf, on_durable=on_durable)


# Disks


class UnsyncedFile:
    """A file whose writes are durable when the disk likes."""

    def __init__(self, file: DiskFile) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write_durably(self, buffers: Sequence[bytes], offset: int) -> int:
        return self._file.pwritev(buffers, offset)


class UnsyncedDisk:
    def __init__(self, disk: Any) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def create(self, path: Path) -> Any:
        return UnsyncedFile(self._disk.create(path))

    def open(self, path: Path) -> Any:
        return UnsyncedFile(self._disk.open(path))


class NeverSyncs(Wal):
    """The log is written and not synced."""

    @classmethod
    def open(cls, path: Path, **settings: Any) -> "NeverSyncs":
        return super().open(path, **{**settings, "disk": UnsyncedDisk(settings["disk"])})


class SkipsDamage(Wal):
    """A log that is damaged in the middle is taken as one with a torn end: cut there, and go on."""

    def _recover(self, disk: Any, initial_mark: LogMark) -> None:
        while True:
            try:
                super()._recover(disk, initial_mark)
                return
            except CorruptLog as error:
                if not error.offset:
                    raise
                self._segments.clear()
                damaged = Path(error.file)
                file = disk.open(damaged)
                file.pwritev([bytes(file.size_bytes() - error.offset)], error.offset)
                file.fdatasync()
                file.close()
                for name in disk.list_directory(self.path):
                    if name.endswith(".wal") and name > damaged.name:
                        disk.remove(self.path / name)


class InstallsWithNewLog(RunningMember):
    """An installed snapshot comes with a fresh log: term, vote and what lies behind the snapshot are gone."""

    keeps_hard_state = False

    def _finish_installation(self, received: Received | None, path: Path) -> None:
        super()._finish_installation(received, path)
        if received is not None:
            self._replace_log(path / LOG, received.info.mark)

    def _replace_log(self, path: Path, mark: LogMark) -> None:
        open_log = partial(
            Wal.open,
            path,
            identity=self.identity,
            disk=self.environment.disk,
            segment_bytes=self.config.tuning.segment_bytes,
        )
        before = open_log()
        before.close()
        self.environment.disk.remove_tree(path)
        log = open_log(initial_mark=mark)
        if self.keeps_hard_state:
            log.append_blocking(msgspec.structs.replace(before.hard_state, commit=mark.index), ())
        log.close()


class InstallsOverNewerState(InstallsWithNewLog):
    """The snapshot received last is installed again at the next start, whatever came since; term and vote stay."""

    keeps_hard_state = True

    def _finish_installation(self, received: Received | None, path: Path) -> None:
        disk, file = self.environment.disk, path / "snapshots" / COMPLETE
        if received is None and disk.find(file) is not None:  # type: ignore[attr-defined]
            info = prepare_state(path, file, identity=self.identity, disk=disk, stores=self.environment.stores)
            received = Received(file, info)
            self._replace_log(path / LOG, info.mark)
        super()._finish_installation(received, path)


# Members


class BelievesEverybody(PeerRegister):
    """A member whose disk was emptied is let in as who it was."""

    def judge(self, claim: PeerClaim) -> "Refusal | asyncio.Future[None] | None":
        refusal = self.memory.judge(claim, self._evidence(claim.member_id))
        if refusal is not None and refusal.code is RefusalCode.AMNESIA:
            self.memory._known.pop(claim.member_id, None)
            self.memory.note(claim)
            return self._save()
        return super().judge(claim)


class SendsOnce(Proposer):
    def _due(self, lane: Lane[Waiter]) -> list[bytes]:
        return lane.take(self._loop.time()) if lane.has_unsent else []


class GivesUpCommands(Replica):
    """What was sent to a leader that died is not sent to the next one."""

    proposer_class = SendsOnce
