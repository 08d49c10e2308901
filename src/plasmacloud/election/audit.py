"""What operators did, and what was refused: rows of ``ha_audit``, which the database lets nobody change.

Every entry is a line of the log as well, at once. In the table it may come later: while the database does not answer,
entries are kept and written in order when it does, and the oldest are given up (and counted) beyond a limit. A call is
never refused because its audit could not be written: with the database gone, that is when operators have to act.
"""

import asyncio
from collections import deque
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from plasmacloud.base.logging import get_logger
from plasmacloud.election.server_database import Database

_KEPT = 1000
_TIMEOUT_S = 2.0
_RETRY_S = 1.0
_INSERT = """
INSERT INTO ha_audit (at, election, node_id, operator, action, outcome, details)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb)
"""

log = get_logger("election")


class AuditEntry(msgspec.Struct, frozen=True):
    """Who did what, and how it ended: ``requested``, ``done``, ``refused`` or ``failed``. ``at``: wall-clock UTC."""

    operator: str
    action: str
    outcome: str
    details: dict[str, Any]
    at: datetime


class Audit:
    """Writes the entries of one server. Without a ``database`` the log is all there is."""

    def __init__(self, database: Database | None, *, election: str, node_id: str) -> None:
        self._database = database
        self._election = election
        self._node_id = node_id
        self._waiting: deque[AuditEntry] = deque()
        self._writer: asyncio.Task[None] | None = None
        self.lost = 0

    @property
    def waiting(self) -> int:
        """How many entries are not in the database yet."""
        return len(self._waiting)

    async def record(self, operator: str, action: str, outcome: str, **details: Any) -> None:
        """Log it, and write it: now if the database answers, later if not. Raises nothing."""
        entry = AuditEntry(operator, action, outcome, details, datetime.now(UTC))
        log.info("audit", operator=operator, action=action, outcome=outcome, **details)
        if self._database is None:
            return
        if len(self._waiting) == _KEPT:
            self._waiting.popleft()
            self.lost += 1
        self._waiting.append(entry)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write())
        await asyncio.wait({self._writer}, timeout=_TIMEOUT_S)

    async def close(self) -> None:
        """Try once more, for a moment; what is left then is in the log only."""
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=_RETRY_S)
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        if self._waiting:
            log.warning("audit entries not written", count=len(self._waiting))

    async def _write(self) -> None:
        assert self._database is not None, "without a database nothing waits"
        while self._waiting:
            entry = self._waiting[0]
            try:
                await self._database.run(partial(self._insert, entry), timeout_s=_TIMEOUT_S)
            except Exception as error:  # noqa: BLE001 - an entry that cannot be written now is written later
                log.debug("audit waits for the database", why=str(error), waiting=len(self._waiting))
                await asyncio.sleep(_RETRY_S)
                continue
            if self._waiting and self._waiting[0] is entry:
                self._waiting.popleft()

    async def _insert(self, entry: AuditEntry, connection: Any) -> None:
        details = msgspec.json.encode(entry.details, enc_hook=str).decode()
        await connection.execute(
            _INSERT, entry.at, self._election, self._node_id, entry.operator, entry.action, entry.outcome, details
        )
