"""Where an election is held, as a URL: ``postgres://…`` or ``etcd://host:port[,host:port …]``."""

from plasmacloud.base.errors import ConfigError
from plasmacloud.election.leadership import Candidate, OnChange
from plasmacloud.election.timers import Timers

DEFAULT_ELECTION = "default"
POSTGRES_SCHEMES = ("postgres://", "postgresql://")
ETCD_SCHEME = "etcd://"


def open_backend(
    url: str,
    *,
    node_id: str,
    election: str = DEFAULT_ELECTION,
    timers: Timers | None = None,
    on_change: OnChange | None = None,
) -> Candidate:
    """A candidate of that election, not yet running. Nothing is connected before `Candidate.run`.

    Raises `ConfigError` for a URL that names no known store, and for an empty node or election name.
    """
    if not node_id or not election:
        raise ConfigError("an election needs a name, and so does each of its nodes", hint="give --id and --election")
    timers = timers or Timers()
    if url.startswith(POSTGRES_SCHEMES):
        from plasmacloud.election.postgres_candidate import PostgresCandidate

        return PostgresCandidate(url, node_id=node_id, election=election, timers=timers, on_change=on_change)
    if url.startswith(ETCD_SCHEME):
        from plasmacloud.election.etcd_candidate import EtcdCandidate

        return EtcdCandidate(url, node_id=node_id, election=election, timers=timers, on_change=on_change)
    raise ConfigError(
        f"{url.partition('://')[0]!r} is no store that elections can be held in",
        hint="write postgres://user@host:5432/database, or etcd://host:2379,host:2379",
    )
