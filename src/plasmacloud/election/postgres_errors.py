"""What an error of PostgreSQL, of asyncpg or of the network means for an election.

One table by SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html): what passes by itself becomes
`ElectionUnavailable`, what somebody has to repair becomes `ElectionRefused`. A code that is not in the table passes: a
candidate that tries in vain does less harm than one that gives up for a reason nobody foresaw.
"""

from typing import NamedTuple
from urllib.parse import urlsplit

from plasmacloud.election.errors import (
    AccessDenied,
    ElectionError,
    ElectionRefused,
    ElectionUnavailable,
    MissingDatabase,
    MissingPrivileges,
    NotPrimary,
    PoolerInTheWay,
    StoreFull,
)

_POOLER_HINT = (
    "give the election a direct connection to the server, or a pool in session mode; a lock of a session "
    "means nothing where sessions are shared"
)


class Meaning(NamedTuple):
    """The error to raise, and what to do about it."""

    kind: type[ElectionError]
    hint: str | None = None


MEANINGS: dict[str, Meaning] = {
    "28P01": Meaning(AccessDenied, "check the password; PGPASSWORD and ~/.pgpass are used where the URL has none"),
    "28000": Meaning(AccessDenied, "check the role's name, and the rules in the server's pg_hba.conf"),
    "3D000": Meaning(MissingDatabase, "create the database, or name another one in the URL"),
    "42501": Meaning(MissingPrivileges, "GRANT SELECT, INSERT, UPDATE on the election's tables to the role"),
    "53100": Meaning(StoreFull, "the server's disk is full: free some space; the election goes on by itself"),
    "53200": Meaning(StoreFull, "the server is out of memory"),
    "53300": Meaning(StoreFull, "raise max_connections, or end idle sessions"),
    "55P03": Meaning(
        ElectionUnavailable,
        "another transaction keeps the election's row: a guarded write that does not end, or an epoch whose commit "
        "waits for a synchronous standby; see pg_stat_activity",
    ),
    "25006": Meaning(NotPrimary, "promote this server, or name the primary in the URL"),
    "26000": Meaning(PoolerInTheWay, _POOLER_HINT),
    "42P05": Meaning(PoolerInTheWay, _POOLER_HINT),
}


def pooler_in_the_way(what: str) -> PoolerInTheWay:
    """The error for evidence that sessions are shared."""
    return PoolerInTheWay(f"a connection pooler is in the way: {what}", hint=_POOLER_HINT)


def unreadable_url(where: str, error: Exception) -> ElectionRefused:
    """The error for a URL, or a file that it names, of which no connection can be made."""
    return ElectionRefused(f"{where}: {error}", hint="write postgres://user@host:5432/database")


def diagnose(error: BaseException, where: str) -> ElectionError:
    """The election's error for anything that talking to PostgreSQL raised. ``where``: the server, without secrets."""
    from asyncpg import exceptions

    if isinstance(error, ElectionError):
        return error
    if isinstance(error, exceptions.ProtocolViolationError) and "startup parameter" in str(error):
        return pooler_in_the_way(str(error))
    if isinstance(error, exceptions.PostgresError):
        meaning = MEANINGS.get(error.sqlstate or "", Meaning(ElectionUnavailable))
        if meaning.kind is PoolerInTheWay:  # asyncpg's own advice follows, which would only hide the sharing
            return pooler_in_the_way(str(error).partition("\n")[0])
        return meaning.kind(f"{where}: {error}", hint=meaning.hint)
    if isinstance(error, exceptions.TargetServerAttributeNotMatched):
        return NotPrimary(f"{where}: none of the servers is a primary", hint=MEANINGS["25006"].hint)
    if isinstance(error, ConnectionRefusedError):
        return ElectionUnavailable(f"{where}: connection refused", hint="start the server, or check host and port")
    if isinstance(error, TimeoutError):
        return ElectionUnavailable(f"{where}: no answer in time", hint="check the network and the server")
    if isinstance(error, exceptions.InternalClientError | AttributeError):
        # asyncpg, when the server ends a session between two steps of one call: its protocol object is in a state that
        # it did not foresee, or gone.
        return ElectionUnavailable(f"{where}: the session ended in the middle of a call")
    if isinstance(error, exceptions.InterfaceError | OSError):
        return ElectionUnavailable(f"{where}: {str(error) or type(error).__name__}")
    raise error


def describe_url(url: str) -> str:
    """The server and database of a URL, without user or password."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2] or "local socket"
    return f"PostgreSQL at {hosts}{parts.path}"
