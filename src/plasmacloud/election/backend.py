"""Where an election is held, as a URL: ``postgres://…`` or ``etcd://host:port[,host:port …]``."""

from functools import partial

import msgspec

from plasmacloud.base.errors import ConfigError
from plasmacloud.election.candidate import OpenSession, SessionCandidate
from plasmacloud.election.leadership import OnChange, OnKeepalive
from plasmacloud.election.timers import Timers

DEFAULT_ELECTION = "default"
POSTGRES_SCHEMES = ("postgres://", "postgresql://")
ETCD_SCHEME = "etcd://"
ETCD_CAMPAIGN_S = 0.2
"""How often an election in a key-value store is asked for where nothing else is said: there is no queue to wait in."""


def open_backend(
    url: str,
    *,
    node_id: str,
    election: str = DEFAULT_ELECTION,
    timers: Timers | None = None,
    on_change: OnChange | None = None,
    on_keepalive: OnKeepalive | None = None,
) -> SessionCandidate:
    """A candidate of that election, not yet running. Nothing is connected before `Candidate.run`.

    Raises `ConfigError` for a URL that names no known store, and for an empty node or election name.
    """
    if not node_id or not election:
        raise ConfigError("an election needs a name, and so does each of its nodes", hint="give --id and --election")
    timers = timers or Timers()
    opening: OpenSession
    if url.startswith(POSTGRES_SCHEMES):
        from plasmacloud.election.postgres_session import PostgresPlace, PostgresSession

        place = PostgresPlace(url, election=election, node_id=node_id, timers=timers)
        opening = partial(PostgresSession, place)
        return SessionCandidate(opening, node_id=node_id, timers=timers, on_change=on_change, on_keepalive=on_keepalive)
    if url.startswith(ETCD_SCHEME):
        from plasmacloud.election.etcd_session import EtcdPlace, EtcdSession

        if not timers.polls:
            timers = msgspec.structs.replace(timers, campaign=min(ETCD_CAMPAIGN_S, timers.demote_after / 2))
        store = EtcdPlace(url, election=election, node_id=node_id, timers=timers)
        opening = partial(EtcdSession, store)
        return SessionCandidate(opening, node_id=node_id, timers=timers, on_change=on_change, on_keepalive=on_keepalive)
    raise ConfigError(
        f"{url.partition('://')[0]!r} is no store that elections can be held in",
        hint="write postgres://user@host:5432/database, or etcd://host:2379,host:2379",
    )
