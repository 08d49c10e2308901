"""Quorum arithmetic: what a majority, or two majorities at once, have agreed on.

Pure functions over numbers, kept apart from everything else so that they can be compared with a brute-force oracle.
A *configuration* is a set of voter ids. During a membership change two of them are in force (joint consensus, Raft
thesis §4.3) and a decision needs a majority of each.

The empty configuration agrees to everything: it stands for "no second majority" in a joint configuration.
"""

from collections.abc import Collection, Mapping, Sequence
from enum import Enum

INFINITY = 2**64 - 1  # the committed index of the empty configuration


class VoteResult(Enum):
    """Where an election stands."""

    PENDING = "pending"  # neither a majority of grants nor of refusals yet
    LOST = "lost"  # can no longer be won
    WON = "won"


def quorum_size(voter_count: int) -> int:
    """How many voters are a majority."""
    return voter_count // 2 + 1


def majority_index(acked: Sequence[int]) -> int:
    """The highest index that a majority acknowledged; one value per voter, in any order."""
    count = len(acked)
    if count == 0:
        return INFINITY
    return sorted(acked)[count - quorum_size(count)]


def majority_committed(voters: Collection[int], acked: Mapping[int, int]) -> int:
    """The highest index acknowledged by a majority of ``voters``; a missing acknowledgement counts as 0."""
    return majority_index([acked.get(voter, 0) for voter in voters])


def joint_committed(incoming: Collection[int], outgoing: Collection[int], acked: Mapping[int, int]) -> int:
    """The highest index acknowledged by a majority of both configurations."""
    return min(majority_committed(incoming, acked), majority_committed(outgoing, acked))


def majority_vote(voters: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """The result of an election among ``voters``, given the answers so far. Others' answers do not count."""
    if not voters:
        return VoteResult.WON
    granted = refused = 0
    for voter in voters:
        vote = votes.get(voter)
        if vote is True:
            granted += 1
        elif vote is False:
            refused += 1
    needed = quorum_size(len(voters))
    assert granted + refused <= len(voters)
    if granted >= needed:
        return VoteResult.WON
    if refused > len(voters) - needed:
        return VoteResult.LOST
    return VoteResult.PENDING


def joint_vote(incoming: Collection[int], outgoing: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """The result of an election that both configurations must grant."""
    first, second = majority_vote(incoming, votes), majority_vote(outgoing, votes)
    if first is second:
        return first
    if VoteResult.LOST in (first, second):
        return VoteResult.LOST
    return VoteResult.PENDING
