"""What is said when a prepared statement is gone: a pooler is named, and asyncpg's advice to hide it is left out."""

import asyncpg
import pytest

from plasmacloud.election.errors import PoolerInTheWay
from plasmacloud.election.postgres_errors import diagnose


@pytest.mark.parametrize(
    "kind", [asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError], ids=["26000", "42P05"]
)
def test_a_statement_that_another_session_has_names_the_pooler(kind: type[asyncpg.PostgresError]) -> None:
    error = kind('prepared statement "__asyncpg_stmt_7__" does not exist\nHINT: set statement_cache_size to 0')
    found = diagnose(error, "PostgreSQL at db:5432/x")
    assert isinstance(found, PoolerInTheWay)
    assert str(found) == ('a connection pooler is in the way: prepared statement "__asyncpg_stmt_7__" does not exist')
    assert "session mode" in (found.hint or "")
