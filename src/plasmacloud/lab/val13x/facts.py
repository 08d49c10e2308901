"""Facts that the common record has no place for: attempts to get past the fence, what was said of the quorum, how a
pooler was refused, and what an operator was told. One line each in `names.FACTS`; the judge reads nothing else.
"""

from pathlib import Path

import msgspec

from plasmacloud.lab.val13x import names
from plasmacloud.verify.files import encode_lines, read_lines
from plasmacloud.verify.history import Outcome


class Fact(msgspec.Struct, frozen=True, tag_field="fact", kw_only=True):
    """Base of all. ``trial`` 0: outside of any trial."""

    at_ns: int
    trial: int = 0


class Begun(Fact, frozen=True, tag="begun"):
    """A scenario begins; its trials are those from ``first_trial`` on."""

    scenario: str
    first_trial: int


class Ended(Fact, frozen=True, tag="ended"):
    """A scenario has ended; ``problem``: why before its end. ``cause``: whose problem that was, the target's or the
    lab's."""

    scenario: str
    last_trial: int
    problem: str = ""
    cause: str = ""


class StaleAttempt(Fact, frozen=True, tag="stale-attempt"):
    """A write in the name of an epoch. ``via``: ``server``, or ``sql`` for a guarded transaction of our own.
    ``accepted``: the epoch under which it was written, if it was.

    ``current``: the attempt names the newest epoch and must succeed; otherwise it names an older one and must not.
    ``kind``: of the problem that the server gave, such as ``stale-epoch``.
    """

    via: str
    target: str
    epoch: str
    outcome: Outcome
    accepted: str = ""
    kind: str = ""
    said: str = ""
    current: bool = False

    @property
    def got_through(self) -> bool:
        """Accepted under the very epoch that was over. (A former leader may lead again, under a newer one.)"""
        return self.outcome is Outcome.OK and self.accepted == self.epoch and not self.current


class QuorumSaid(Fact, frozen=True, tag="quorum"):
    """What one server said about the quorum when it was asked until it said so, and how long that took."""

    server: str
    wanted: str
    health: str
    write_ready: bool
    after_ms: float

    @property
    def reached(self) -> bool:
        return self.health == self.wanted


class Followed(Fact, frozen=True, tag="followed"):
    """A former leader that could be heard again said whom it follows; or, with nobody named, did not in time."""

    server: str
    leader: str
    after_ms: float


class Standby(Fact, frozen=True, tag="standby"):
    """What the primary said about its standby. ``state`` is empty: it has none."""

    primary: str
    standby: str
    state: str = ""
    sync_state: str = ""


class Promoted(Fact, frozen=True, tag="promoted"):
    """A standby takes writes: on which timeline, how long after the loss of the primary."""

    server: str
    old_timeline: int
    timeline: int
    after_ms: float


class PoolerTried(Fact, frozen=True, tag="pooler"):
    """An election server behind a pooler in transaction mode: how it ended (None: it did not), and what it said last.

    ``shared``: through this pooler, two statements of one client did run in different sessions of the server.
    """

    pooler: str
    shared: bool
    status: int | None
    said: str
    acquired: int


class Told(Fact, frozen=True, tag="told"):
    """What `plasma` answered: its exit status, and kinds of findings or actions taken, as far as there were any."""

    command: str
    status: int
    findings: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    leader_id: str = ""


AnyFact = Begun | Ended | StaleAttempt | QuorumSaid | Followed | Standby | Promoted | PoolerTried | Told


class EpochRow(msgspec.Struct, frozen=True):
    """One row of ``leader_epochs``."""

    epoch: int
    timeline: int
    holder_id: str
    acquired_at: str
    resigned_at: str
    notes: str


class AuditRow(msgspec.Struct, frozen=True):
    """One row of ``ha_audit``."""

    at: str
    node_id: str
    operator: str
    action: str
    outcome: str


class Gathered(msgspec.Struct, frozen=True):
    """All files of the suite's own, loaded. ``epochs`` is None when the run did not get so far."""

    facts: list[AnyFact]
    epochs: list[EpochRow] | None
    audit: list[AuditRow]


def append_fact(directory: Path, fact: AnyFact) -> None:
    """Write a fact down, at once."""
    with (directory / names.FACTS).open("ab") as file:
        file.write(encode_lines([fact]))


def gather(directory: Path) -> Gathered:
    """Load. Raises `UnreadableEvidence`."""

    def read(name: str, kind: object) -> list[object] | None:
        return read_lines(directory / name, kind) if (directory / name).exists() else None

    return Gathered(
        facts=read(names.FACTS, AnyFact) or [],  # type: ignore[arg-type]
        epochs=read(names.EPOCHS, EpochRow),  # type: ignore[arg-type]
        audit=read(names.AUDIT, AuditRow) or [],  # type: ignore[arg-type]
    )
