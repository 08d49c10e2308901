"""What the consensus core refuses, and what is known when it does."""

from enum import Enum

from plasmacloud.base.errors import ExitCode, PlasmaError


class RaftError(PlasmaError):
    """Base of the errors of the consensus core."""


class NotLeader(RaftError):
    """Only the leader takes proposals; nothing was appended. ``leader`` is the member to ask, 0 if unknown."""

    exit_code = ExitCode.NOT_EXECUTED

    def __init__(self, leader: int) -> None:
        super().__init__(f"not the leader; ask member {leader:x}" if leader else "not the leader; none is known")
        self.leader = leader


class NoLeader(RaftError):
    """No leader is known, so nobody can confirm a read or a transfer."""

    exit_code = ExitCode.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("no leader is known", hint="retry after an election timeout")


class Refusal(Enum):
    """Why a leader did not take a proposal."""

    TRANSFER = "leadership is being transferred"
    UNCOMMITTED = "too many bytes are waiting to be committed"
    TOO_LARGE = "the proposal is larger than a log entry may be"
    MEMBERSHIP = "another membership change is under way, or may be: this leader has not yet applied what it inherited"


class ProposalRefused(RaftError):
    """The leader did not append the proposal."""

    exit_code = ExitCode.NOT_EXECUTED

    def __init__(self, reason: Refusal) -> None:
        super().__init__(f"proposal refused: {reason.value}")
        self.reason = reason


class TransferRefused(RaftError):
    """Leadership cannot go to that member."""

    def __init__(self, to: int) -> None:
        super().__init__(f"member {to:x} is no voter", hint="transfer leadership to a voting member")
        self.to = to


class StateLost(RaftError):
    """This member's disk no longer holds what the member had promised to keep. It must not go on."""

    exit_code = ExitCode.STORAGE
