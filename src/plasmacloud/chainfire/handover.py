"""To whom a leader hands over before it leaves."""

from collections.abc import Callable

from plasmacloud.raft.raft import Raft


def best_successor(raft: Raft, is_connected: Callable[[int], bool]) -> int:
    """The voter that is best prepared to lead instead of this member; 0: none is reachable."""
    best, best_match = 0, -1
    for member_id, progress in raft.status().progress.items():
        if member_id in raft.conf.voters and is_connected(member_id) and progress.match > best_match:
            best, best_match = member_id, progress.match
    return best
