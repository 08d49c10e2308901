"""What an election's sessions call themselves in ``pg_stat_activity``, and how they are found by it.

PostgreSQL keeps 63 bytes of such a name and replaces what is not ASCII, so a name that is too long for its part of the
room, or not ASCII, is cut and marked with a digest: two nodes never get the same one, and all sessions of one election
begin in the same way.
"""

import hashlib

_FAMILY = "election "
_SESSIONS = ("lock", "state")
_ROOM_CHARS = 23  # "election state " and two parts with a space between fit into 63 bytes
_DIGEST_CHARS = 8


def session_name(what: str, election: str, node_id: str) -> str:
    """Of one session. ``what``: ``lock`` or ``state``."""
    assert what in _SESSIONS
    return f"{_FAMILY}{what} {_short(election)} {_short(node_id) if node_id else ''}"


def session_names(election: str, node_id: str = "") -> list[str]:
    """Of both sessions of a candidate; without a node, how such names begin."""
    return [session_name(what, election, node_id) for what in _SESSIONS]


def is_candidate(name: str) -> bool:
    """Whether a session with this name belongs to a candidate of any election."""
    return name.startswith(_FAMILY)


def _short(text: str) -> str:
    if text.isascii() and len(text) <= _ROOM_CHARS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]
    kept = text.encode("ascii", "replace").decode()[: _ROOM_CHARS - _DIGEST_CHARS - 1]
    return f"{kept}~{digest}"
