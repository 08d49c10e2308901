"""What a leader does about the other members, without being asked: the shell around `membership_policy`.

It ends joint phases, promotes learners that have caught up, reports who is silent, and clears away who never came. It
compacts a history that is longer than it may be (`history`). What it decides goes the way of any client's request. And
how long a leader may be silent follows what is measured between the members and on the disk (`timing`).
"""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from plasmacloud.base.logging import get_logger
from plasmacloud.base.units import format_duration
from plasmacloud.chainfire.history import RECORD_BYTES, HistoryLimit
from plasmacloud.chainfire.member_commands import CommandKind, PromoteMember, RemoveMember, encode_member_command
from plasmacloud.chainfire.membership_policy import (
    Decision,
    JoinProgress,
    MembershipPolicy,
    Promote,
    RemoveStaleLearner,
    ReportBack,
    ReportDead,
)
from plasmacloud.chainfire.membership_view import ACTIVE_S, MembershipView, look
from plasmacloud.chainfire.timing import ElectionTiming
from plasmacloud.rpc.proto.rpc_pb2 import CompactionRequest
from plasmacloud.rpc.status import StatusCode
from plasmacloud.storage.wal_metrics import WalMetrics

if TYPE_CHECKING:
    from plasmacloud.chainfire.replica import Replica

_BEAT_S = 0.1

log = get_logger("chainfire")


class _Decided:
    """Waits for the outcome of a decision, on nobody's behalf: a failure is logged and decided anew."""

    done = False

    def __init__(self, what: str, policy: MembershipPolicy) -> None:
        self._what = what
        self._policy = policy

    def reply(self, _body: bytes) -> None:
        self._policy.settled()

    def fail(self, code: StatusCode, message: str) -> None:
        self._policy.settled()
        log.info("not done", what=self._what, code=code.name, reason=message)


class _Compacting:
    """Waits for the outcome of a compaction that nobody has asked for."""

    done = False

    def __init__(self) -> None:
        self.over = False

    def reply(self, _body: bytes) -> None:
        self.over = True

    def fail(self, code: StatusCode, message: str) -> None:
        self.over = True
        log.debug("history not compacted yet", code=code.name, reason=message)


class MemberCare:
    """Belongs to one replica; acts only while that leads."""

    def __init__(self, replica: "Replica") -> None:
        self._replica = replica
        self._policy = MembershipPolicy(replica.config.policy)
        self._loop = asyncio.get_running_loop()
        self._timing = ElectionTiming(
            replica.config.election_timeout_s, keepalive_s=replica.transport.keepalive_s, beat_s=self.beat_s
        )
        self._history = HistoryLimit(replica.config.history_limit_bytes)
        self._compacting: _Compacting | None = None
        replica.transport.on_round_trip = self._timing.round_trip

    @property
    def beat_s(self) -> float:
        """How often to look after things, in seconds."""
        return max(self._replica.config.heartbeat_interval_s, _BEAT_S)

    @property
    def election_timeout_s(self) -> float:
        """The election timeout in force: the configured one, or more."""
        return self._replica.config.election_timeout_s * self._timing.factor

    def view(self) -> MembershipView:
        """The cluster as this member sees it now."""
        replica = self._replica
        return look(
            replica.cluster,
            replica.raft.status(),
            tick_s=replica.config.tick_s,
            active_s=max(ACTIVE_S, 4 * replica.config.heartbeat_interval_s),
            change_pending=replica.raft.membership_pending,
            snapshot_percent={} if replica.snapshots is None else replica.snapshots.percent(),
            election_timeout_s=(self.election_timeout_s, replica.config.election_timeout_s),
        )

    def progress(self) -> Mapping[int, JoinProgress]:
        """How far the learners are; empty on a member that does not lead."""
        return self._policy.progress(self.view()) if self._replica.is_leader else {}

    def look_after_timing(self, disk: WalMetrics) -> None:
        """Let the election timeout follow network and disk. To be called every `beat_s`, on every member."""
        replica, timing = self._replica, self._timing
        before, voters = timing.factor, replica.raft.conf.all_voters()
        factor = timing.observe(
            self._loop.time(),
            others=voters - {replica.member_id},
            quorum=len(voters) // 2 + 1,
            leader=replica.leader_id,
            syncs=disk.syncs,
            sync_seconds=disk.sync_seconds,
        )
        if factor == before:
            return
        log.info(
            "election timeout adjusted to network and disk",
            now=format_duration(self.election_timeout_s),
            configured=format_duration(replica.config.election_timeout_s),
        )
        replica.raft.set_timeouts(round(replica.config.election_ticks * factor), replica.config.heartbeat_ticks)
        self._policy.set_round(self.election_timeout_s)

    def look_after_history(self) -> None:
        """To be called every `beat_s`, on every member."""
        replica = self._replica
        store = replica.machine.store
        records = store.records
        revision = self._history.look(records.added_bytes + RECORD_BYTES * records.added_count, store.revision)
        if revision <= store.compact_revision or not replica.is_leader or replica.stopping:
            return
        if self._compacting is None or self._compacting.over:
            self._compacting = _Compacting()
            body = CompactionRequest(revision=revision).SerializeToString()
            replica.submit(CommandKind.COMPACT, body, self._compacting)

    def look_after_members(self) -> None:
        """To be called every `beat_s`, on every member."""
        replica = self._replica
        if replica.stopping:
            return
        if not replica.is_leader:
            self._policy.stand_by(self._loop.time())
            return
        view = self.view()
        decisions = self._policy.decide(view, self._loop.time())
        if view.joint and not view.change_pending and not replica.change_waits:
            replica.submit(CommandKind.LEAVE_JOINT, b"", _Decided("leaving the joint configuration", self._policy))
        for decision in decisions:
            self._carry_out(decision)

    def _carry_out(self, decision: Decision) -> None:
        name = self._replica.cluster.name_of(decision.member_id)
        if isinstance(decision, ReportDead):
            log.warning("member is silent", member=name, silent_s=round(decision.silent_s))
        elif isinstance(decision, ReportBack):
            log.info("member is back", member=name)
        elif isinstance(decision, Promote):
            log.info("promoting a learner that has caught up", member=name)
            body = encode_member_command(PromoteMember(decision.member_id))
            self._replica.submit(CommandKind.MEMBER_PROMOTE, body, _Decided(f"promoting {name}", self._policy))
        else:
            why = decision.why if isinstance(decision, RemoveStaleLearner) else f"silent for {decision.silent_s:.0f} s"
            log.warning("removing a member", member=name, reason=why)
            body = encode_member_command(RemoveMember(decision.member_id))
            self._replica.submit(CommandKind.MEMBER_REMOVE, body, _Decided(f"removing {name}", self._policy))
