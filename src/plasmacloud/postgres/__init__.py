"""A PostgreSQL server as a managed process: found, created, started, stopped, killed, copied, promoted, removed.

For the lab, which breaks it on purpose, and for `plasma up`, which must not ask anybody to install one. Nothing here
knows what the database is used for.
"""

from plasmacloud.postgres.binaries import Binaries, find_binaries
from plasmacloud.postgres.errors import PostgresError
from plasmacloud.postgres.external import ExternalServer, probe_external
from plasmacloud.postgres.privileges import find_usable
from plasmacloud.postgres.server import PostgresServer, StopMode
from plasmacloud.postgres.standby import copy_from, promote, require_synchronous, rewind_to

__all__ = [
    "Binaries",
    "ExternalServer",
    "PostgresError",
    "PostgresServer",
    "StopMode",
    "copy_from",
    "find_binaries",
    "find_usable",
    "probe_external",
    "promote",
    "require_synchronous",
    "rewind_to",
]
