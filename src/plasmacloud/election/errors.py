"""How an election can fail, and what that means for the candidate.

`ElectionUnavailable` passes: the candidate tries again, with growing pauses. `ElectionRefused` does not pass by
waiting: somebody has to change a setting, a password or a server, so the candidate ends and says what to change.
`StaleEpoch` is what a guarded write gets that comes too late.
"""

from plasmacloud.base.errors import ConfigError, ExitCode, PlasmaError
from plasmacloud.election.leadership import Epoch


class ElectionError(PlasmaError):
    """Base of the errors of an election."""


class ElectionUnavailable(ElectionError):
    """The store cannot be used at the moment; the candidate tries again."""

    exit_code = ExitCode.UNAVAILABLE


class NotPrimary(ElectionUnavailable):
    """The server is a standby. Its advisory locks are its own: a lock taken there would exclude nobody."""


class StoreFull(ElectionUnavailable):
    """The store has no space (or no memory, or no connection slots) left."""

    exit_code = ExitCode.STORAGE


class EpochUncertain(ElectionUnavailable):
    """The new epoch was not confirmed in time; it may become visible later. Nobody leads with it."""

    exit_code = ExitCode.OUTCOME_UNKNOWN


class ElectionRefused(ElectionError, ConfigError):
    """The store cannot be used as it is configured; waiting does not help."""


class AccessDenied(ElectionRefused):
    """Wrong password, unknown role, or a connection that the server's access rules forbid."""


class MissingDatabase(ElectionRefused):
    """The database does not exist."""


class MissingPrivileges(ElectionRefused):
    """The role may connect, but not do what an election needs."""


class ServerTooOld(ElectionRefused):
    """The server lacks the session limits that a frozen leader is ended by."""


class PoolerInTheWay(ElectionRefused):
    """Statements of one session reach different server sessions: a lock taken through it protects nothing."""


class DuplicateNode(ElectionRefused):
    """Another server takes part in the election under the same name, and came first."""


class NoLeases(ElectionRefused):
    """The key-value store does not offer leases."""


class StaleEpoch(ElectionError):
    """A guarded write came too late: another leadership has begun. It changed nothing.

    ``held``: the epoch that the write was made with. ``current``: the newest one; ``None`` when the election is unknown
    to this database.
    """

    exit_code = ExitCode.NOT_EXECUTED

    def __init__(self, election: str, held: Epoch, current: Epoch | None) -> None:
        newest = f"the election {election!r} is at {current}" if current else f"there is no election {election!r} here"
        super().__init__(
            f"epoch {held} is not current: {newest}",
            hint="this process no longer leads; give the work up, the new leader does it",
        )
        self.election = election
        self.held = held
        self.current = current
