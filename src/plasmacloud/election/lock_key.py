"""From an election's name to the number that PostgreSQL locks.

Advisory locks are numbers of 64 bits, shared by everybody in the database. The number is the first eight bytes of the
SHA-256 of ``plasmacloud election`` and the name, as a signed integer: the same in every version and language, and as
unlikely to meet somebody else's lock as a random number is. An operator finds it in ``pg_locks`` in two halves::

    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = <high> AND objid = <low> AND objsubid = 1
"""

import hashlib
from typing import NamedTuple

_PREFIX = b"plasmacloud election\0"


class LockHalves(NamedTuple):
    """How ``pg_locks`` shows a 64-bit key: two unsigned numbers of 32 bits."""

    high: int  # classid
    low: int  # objid


def lock_key(election: str) -> int:
    """The argument of ``pg_advisory_lock``: a signed integer of 64 bits."""
    digest = hashlib.sha256(_PREFIX + election.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def lock_halves(key: int) -> LockHalves:
    """The same key as ``pg_locks`` shows it."""
    unsigned = key % 2**64
    return LockHalves(unsigned >> 32, unsigned & 0xFFFF_FFFF)
