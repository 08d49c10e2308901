"""Sessions with a server, and the one question about a failed attempt: is it not ready yet, or will it never be?"""

import asyncio
from typing import Any

import asyncpg

from plasmacloud.postgres.errors import PostgresError

SESSION_FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What talking to a server raises when the server, the network or the session fails; ``OSError`` has ``TimeoutError``.
``InternalClientError``: asyncpg, when a session ends between two steps of one call, or no host is as was asked for."""


class NotReady(PostgresError):
    """Nobody answers, or the server is starting, stopping or recovering: ask again."""


async def open_session(url: str, *, timeout: float, passfile: str | None = None) -> Any:
    """Connect once; returns an asyncpg connection. ``timeout`` in seconds.

    Raises `NotReady` where a later attempt may succeed, `PostgresError` where it will not.
    """
    try:
        return await asyncpg.connect(
            url, timeout=timeout, passfile=passfile, server_settings={"application_name": "plasma"}
        )
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        raise NotReady(str(error) or type(error).__name__) from error
    except (
        asyncpg.CannotConnectNowError,
        asyncpg.TooManyConnectionsError,
        asyncpg.ConnectionDoesNotExistError,
    ) as error:
        raise NotReady(str(error)) from error
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidPasswordError) as error:
        raise PostgresError(f"the server refuses the user: {error}", hint="check user and password") from error
    except asyncpg.InvalidCatalogNameError as error:
        raise PostgresError(f"{error}", hint="create the database, or name another") from error
    except asyncpg.InternalClientError as error:
        raise NotReady(str(error)) from error
    except asyncpg.PostgresError as error:
        raise PostgresError(f"the server refuses the session: {error}") from error
    except (asyncpg.InterfaceError, ValueError) as error:
        raise PostgresError(f"cannot use the connection settings: {error}") from error


async def ask(session: Any, statement: str, *arguments: object, timeout: float) -> list[tuple[Any, ...]]:
    """The rows of one query. Raises `PostgresError` for everything that goes wrong."""
    try:
        return [tuple(row) for row in await session.fetch(statement, *arguments, timeout=timeout)]
    except SESSION_FAILURES as error:
        raise _explained(error, timeout) from error


async def command(session: Any, statement: str, *, timeout: float) -> str:
    """Run one statement; returns its command tag. Raises `PostgresError` for everything that goes wrong."""
    try:
        return str(await session.execute(statement, timeout=timeout))
    except SESSION_FAILURES as error:
        raise _explained(error, timeout) from error


def _explained(error: BaseException, timeout: float) -> PostgresError:
    if isinstance(error, TimeoutError):
        return PostgresError(f"no answer within {timeout:g} s")
    return PostgresError(str(error) or type(error).__name__)
