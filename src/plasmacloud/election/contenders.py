"""Who takes part in an election: each server writes its own row, again and again, as the probe write of its monitor.

One write does three things. That it is committed proves that the database takes writes. What it says lets any server
name all the others and where they listen. How old it is shows who is alive, by the database's clock alone, so that no
two machines' clocks are ever compared.

A fourth thing: what the row said before. A server whose own row was overwritten by another one shares its name with it.

`election_holds` is here because it belongs to the servers, too, not to the electors. While an election has a row there,
a trigger refuses every new epoch, whichever server asks for it: so nobody can be elected.
"""

import secrets
from typing import Any

import msgspec

from plasmacloud.election.lock_key import lock_key

HELD_SQLSTATE = "PLH01"
_PROOF = 2
STOPPED = "stopped"
STANDS_BACK = "stands-back"
"""Said in place of the role by a node that has just handed leadership over, and leaves it to others for a moment."""

DDL = f"""
CREATE TABLE IF NOT EXISTS election_contenders (
    election text NOT NULL,
    node_id text NOT NULL,
    url text NOT NULL,
    role text NOT NULL,
    epoch text NOT NULL DEFAULT '',
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    instance text NOT NULL DEFAULT '', -- of the run that wrote the row
    joined bigint NOT NULL DEFAULT 0, -- when that run wrote its first one, in microseconds
    PRIMARY KEY (election, node_id)
);
ALTER TABLE election_contenders ADD COLUMN IF NOT EXISTS instance text NOT NULL DEFAULT '';
ALTER TABLE election_contenders ADD COLUMN IF NOT EXISTS joined bigint NOT NULL DEFAULT 0;
CREATE TABLE IF NOT EXISTS election_holds (
    election text PRIMARY KEY,
    operator text NOT NULL,
    reason text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE OR REPLACE FUNCTION election_held() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE held election_holds%ROWTYPE;
BEGIN
    SELECT * INTO held FROM election_holds WHERE election = NEW.election;
    IF FOUND THEN
        RAISE EXCEPTION 'elections of % are held off by %: %', NEW.election, held.operator, held.reason
            USING ERRCODE = '{HELD_SQLSTATE}', HINT = 'plasma ha split-brain release';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER election_held BEFORE INSERT ON leader_epochs
    FOR EACH ROW EXECUTE FUNCTION election_held();
"""
"""Made after the tables of the election itself."""

_CREATION_KEY = lock_key("contender schema")
_IS_THERE = """
SELECT to_regclass('election_holds') IS NOT NULL AND EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = to_regclass('election_contenders') AND attname = 'joined')
"""

BEAT_SQL = """
WITH before AS (
    SELECT instance, url, joined FROM election_contenders WHERE election = $1 AND node_id = $2
), now AS (
    INSERT INTO election_contenders (election, node_id, url, role, epoch, instance, joined)
    VALUES ($1, $2, $3, $4, $5, $6,
            coalesce(nullif($7::bigint, 0), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint))
    ON CONFLICT (election, node_id) DO UPDATE
    SET url = excluded.url, role = excluded.role, epoch = excluded.epoch, seen_at = clock_timestamp(),
        instance = excluded.instance, joined = excluded.joined
    RETURNING joined
)
SELECT now.joined AS own, before.instance, before.url, before.joined FROM now LEFT JOIN before ON true
"""
"""Writes the row, and returns what it said before. ``$6``, ``$7``: the run, and when it joined; 0: now."""

_LIST_SQL = """
SELECT node_id, url, role, epoch, extract(epoch FROM clock_timestamp() - seen_at)::float8 AS age_s
FROM election_contenders WHERE election = $1 ORDER BY node_id
"""


class Contender(msgspec.Struct, frozen=True):
    """One server as its last row describes it. ``age_s``: seconds since then, by the database's clock."""

    node_id: str
    url: str
    role: str
    epoch: str
    age_s: float

    def alive(self, within_s: float) -> bool:
        """Whether it takes part and has said so lately."""
        return self.role != STOPPED and self.age_s <= within_s

    def waits(self, within_s: float) -> bool:
        """Whether it would take leadership now. Another one's row that says ``leader`` is about to be rewritten."""
        return self.alive(within_s) and self.role not in (STANDS_BACK, "leader")


class Run(msgspec.Struct, frozen=True):
    """One run of one server, as its row names it. ``joined``: grows with the time of the first row; 0: not known."""

    instance: str
    url: str
    joined: int


class Presence:
    """Whether a server's row stays its own. Pure.

    What was there before the first row was written belongs to an earlier run. From then on nobody else writes it,
    unless another server has the same name. The one that came later has to leave: twice overwritten is proof, once may
    be the last word of an earlier run that arrived late.
    """

    def __init__(self) -> None:
        self.instance = secrets.token_hex(8)
        self.joined = 0
        self.twin: Run | None = None
        self._overwritten = 0

    def wrote(self, before: Run | None, *, joined: int) -> None:
        """The row was written: what it said before, and since when this run has one."""
        first, self.joined = self.joined == 0, joined
        if not first and before is not None and before.instance not in ("", self.instance):
            self._overwritten += 1
            if self._overwritten >= _PROOF:
                self.twin = before

    @property
    def must_leave(self) -> bool:
        """Whether another server had this name before."""
        twin = self.twin
        return twin is not None and twin.joined > 0 and (twin.joined, twin.instance) < (self.joined, self.instance)


class Hold(msgspec.Struct, frozen=True):
    """Elections are held off: by whom, and why."""

    operator: str
    reason: str
    since: str


async def ensure_contender_schema(connection: Any) -> None:
    """Make the tables where they are missing. ``connection``: of asyncpg, not in a transaction."""
    if await connection.fetchval(_IS_THERE):
        return
    async with connection.transaction():
        await connection.execute(f"SELECT pg_advisory_xact_lock({_CREATION_KEY})")
        await connection.execute(DDL)


async def list_contenders(connection: Any, election: str) -> tuple[Contender, ...]:
    """Everybody who ever took part, by name."""
    return tuple(Contender(**row) for row in await connection.fetch(_LIST_SQL, election))


async def read_hold(connection: Any, election: str) -> Hold | None:
    """The hold on this election, if there is one."""
    row = await connection.fetchrow("SELECT operator, reason, since FROM election_holds WHERE election = $1", election)
    return Hold(row["operator"], row["reason"], row["since"].isoformat()) if row else None
