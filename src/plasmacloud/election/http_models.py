"""The bodies of the HTTP API, as the OpenAPI document describes them."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

OperatorName = Annotated[str, Meta(description="Whose decision this is; a client certificate's name if left out.")]
Reason = Annotated[str, Meta(description="Why; others read it in the audit.")]


class StatusAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What one node says of itself. ``epoch`` is that of the leader it knows; ``backend`` has no password in it.

    ``instance`` is new with each start of the process: two of them under one ``node_id`` are two servers.
    """

    node_id: str
    role: str
    leader_id: str
    epoch: str | None
    epoch_number: int | None
    since: datetime | None
    quorum_health: str
    write_ready: bool
    backend: str
    election: str
    uptime_s: float
    version: str
    url: str
    instance: str
    held: str | None = None


class ReplicaAnswer(msgspec.Struct, frozen=True):
    """A standby of the database."""

    name: str
    state: str
    sync_state: str
    lag_bytes: int | None
    lag_ms: float | None


class TransitionAnswer(msgspec.Struct, frozen=True):
    """A change of health, as this node saw it."""

    at: datetime
    before: str = msgspec.field(name="from")
    after: str = msgspec.field(name="to")
    reason: str = ""


class QuorumAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the database can be trusted with a write."""

    quorum_health: str
    write_ready: bool
    read_ready: bool
    reasons: list[str]
    sync_replicas: int
    min_sync_replicas: int
    max_lag_bytes: int
    replicas: list[ReplicaAnswer]
    checked_at: datetime | None
    transitions: list[TransitionAnswer]


class NodeAnswer(msgspec.Struct, frozen=True):
    """A contender as the database knows it. ``alive``: it has said so lately."""

    node_id: str
    url: str
    role: str
    epoch: str
    alive: bool
    age_s: float


class ReadyAnswer(msgspec.Struct, frozen=True):
    """Yes or no, and why not."""

    ready: bool
    node_id: str
    reasons: list[str]


class FailoverRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hand leadership over. ``force``: although a replica lags, or nobody is known to take over."""

    operator: OperatorName = ""
    reason: Reason = ""
    force: bool = False


class FailoverAnswer(msgspec.Struct, frozen=True):
    """Who led, who leads, and how long it took from asking to the new epoch."""

    old_leader: str
    new_leader: str
    old_epoch: str
    new_epoch: str
    took_ms: float


class Strategy(StrEnum):
    """How to recover from a split brain; `release` ends what `manual-reconcile` began."""

    PROMOTE_LEADER = "promote-leader"
    MANUAL_RECONCILE = "manual-reconcile"
    RELEASE = "release"


class RecoverRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """End a split brain. ``force``: although none was detected."""

    strategy: Strategy
    operator: OperatorName = ""
    reason: Reason = ""
    force: bool = False


class FindingAnswer(msgspec.Struct, frozen=True):
    """One contradiction, and what shows it."""

    kind: str
    summary: str
    evidence: dict[str, str | int | bool | None]


class SplitBrainAnswer(msgspec.Struct, frozen=True):
    """``unseen``: what could not be looked at; no findings there proves nothing."""

    detected: bool
    findings: list[FindingAnswer]
    unseen: list[str]
    held: str | None = None


class RecoverAnswer(msgspec.Struct, frozen=True):
    """What was done, in order, and how it looked before."""

    strategy: str
    leader_id: str
    epoch: str
    actions: list[str]
    findings: list[FindingAnswer]


class ProbeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value to write under the fence."""

    value: Annotated[str, Meta(max_length=65_536)]


class ProbeAnswer(msgspec.Struct, frozen=True):
    """What stands under a key."""

    key: str
    value: str
    epoch: str
    version: int
