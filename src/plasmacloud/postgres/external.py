"""A PostgreSQL server that somebody else runs, given by its URL: checked, and never started or stopped by us."""

from urllib.parse import urlsplit, urlunsplit

import msgspec

from plasmacloud.base.errors import ConfigError
from plasmacloud.postgres.binaries import OLDEST_MAJOR
from plasmacloud.postgres.errors import PostgresError, PostgresUnavailable
from plasmacloud.postgres.sessions import NotReady, open_session

SCHEMES = ("postgres", "postgresql")


class ExternalServer(msgspec.Struct, frozen=True):
    """What a running server said about itself. ``in_recovery``: it is a standby and accepts no writes."""

    url: str
    version: str
    in_recovery: bool

    def __str__(self) -> str:
        return f"PostgreSQL {self.version} at {without_password(self.url)}"


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***{at}{host}"))


async def probe_external(url: str, *, timeout: float = 5.0) -> ExternalServer:
    """Connect once and look. Raises `ConfigError` for what is no URL of PostgreSQL, `PostgresUnavailable` when nobody
    answers or the server is too old, `PostgresError` when it refuses us."""
    if urlsplit(url).scheme not in SCHEMES:
        raise ConfigError(f"{url!r} is not the URL of a PostgreSQL server", hint="postgres://USER@HOST:PORT/DATABASE")
    shown = without_password(url)
    try:
        session = await open_session(url, timeout=timeout)
    except NotReady as error:
        raise PostgresUnavailable(f"no PostgreSQL answers at {shown}: {error}", hint="is it running?") from error
    except PostgresError as error:
        raise PostgresError(f"{shown}: {error}", hint=error.hint) from error
    try:
        number, version, standby = await session.fetchrow(
            "SELECT current_setting('server_version_num')::int, current_setting('server_version'), pg_is_in_recovery()"
        )
    finally:
        session.terminate()
    if number // 10_000 < OLDEST_MAJOR:
        raise PostgresUnavailable(f"{shown} is PostgreSQL {version}", hint=f"version {OLDEST_MAJOR} or newer is needed")
    return ExternalServer(url, version, standby)
