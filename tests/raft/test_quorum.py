"""Quorum arithmetic against a brute-force oracle, and against cases written down by hand."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raft_script import Case, check_or_rewrite, parse

from plasmacloud.raft.quorum import (
    INFINITY,
    VoteResult,
    joint_committed,
    joint_vote,
    majority_committed,
    majority_vote,
)

VECTORS = sorted((Path(__file__).parent / "scripts" / "quorum").glob("*.txt"))

voters = st.frozensets(st.integers(1, 9), max_size=7)
acks = st.dictionaries(st.integers(1, 9), st.integers(0, 12))
ballots = st.dictionaries(st.integers(1, 9), st.booleans())


def brute_committed(config: frozenset[int], acked: dict[int, int]) -> int:
    """Try every index there is: it is committed if more than half of the voters are at or beyond it."""
    if not config:
        return INFINITY
    candidates = [0, *acked.values()]
    return max(i for i in candidates if 2 * sum(acked.get(v, 0) >= i for v in config) > len(config))


def brute_vote(incoming: frozenset[int], outgoing: frozenset[int], votes: dict[int, bool]) -> VoteResult:
    """Play every way in which the missing votes can turn out."""
    everybody = sorted(incoming | outgoing)
    missing = [voter for voter in everybody if voter not in votes]
    outcomes = set()
    for bits in range(1 << len(missing)):
        full = dict(votes) | {voter: bool(bits >> at & 1) for at, voter in enumerate(missing)}
        outcomes.add(
            all(not config or 2 * sum(full[v] for v in config) > len(config) for config in (incoming, outgoing))
        )
    if outcomes == {True}:
        return VoteResult.WON
    return VoteResult.LOST if outcomes == {False} else VoteResult.PENDING


@given(voters, acks)
def test_majority_committed_is_what_brute_force_finds(config: frozenset[int], acked: dict[int, int]) -> None:
    assert majority_committed(config, acked) == brute_committed(config, acked)


@given(voters, voters, acks)
def test_joint_committed_needs_both_majorities(a: frozenset[int], b: frozenset[int], acked: dict[int, int]) -> None:
    expected = min(brute_committed(a, acked), brute_committed(b, acked))
    assert joint_committed(a, b, acked) == expected == joint_committed(b, a, acked)


@given(voters, ballots)
def test_majority_vote_is_decided_when_the_missing_votes_cannot_change_it(
    config: frozenset[int], votes: dict[int, bool]
) -> None:
    assert majority_vote(config, votes) is brute_vote(config, frozenset(), votes)


@given(voters, voters, ballots)
def test_joint_vote_is_decided_when_the_missing_votes_cannot_change_it(
    a: frozenset[int], b: frozenset[int], votes: dict[int, bool]
) -> None:
    result = joint_vote(a, b, votes)
    assert result is joint_vote(b, a, votes)
    expected = brute_vote(a, b, votes)
    if expected is VoteResult.LOST and majority_vote(a, votes) is majority_vote(b, votes) is VoteResult.PENDING:
        # each majority alone can still be won, though not both at once: that is noticed one answer later
        assert result is VoteResult.PENDING
    else:
        assert result is expected


@given(voters, acks, st.integers(1, 9), st.integers(0, 12))
def test_another_acknowledgement_never_lowers_the_commit(
    config: frozenset[int], acked: dict[int, int], voter: int, more: int
) -> None:
    further = dict(acked) | {voter: acked.get(voter, 0) + more}
    assert majority_committed(config, further) >= majority_committed(config, acked)


def evaluate(case: Case) -> str:
    """Run ``committed`` or ``vote`` in the notation of the published vectors.

    ``idx`` and ``votes`` go to the voters of ``cfg`` and then ``cfgj`` in the order written, without repetition.
    """
    line = " ".join(case.command)
    arguments = {
        key: [word.strip() for word in value.split(",") if word.strip()]
        for key, value in re.findall(r"(\w+)=\(?([^()=]*)\)?(?= |$)", line)
    }
    config = [int(word) for word in arguments.get("cfg", [])]
    joint = arguments.get("cfgj")
    other = [int(word) for word in joint if word != "zero"] if joint is not None else []
    order = list(dict.fromkeys(config + other))
    values = arguments.get("idx", arguments.get("votes", []))
    given_values = {voter: value for voter, value in zip(order, values, strict=True) if value != "_"}
    if line.startswith("committed"):
        acked = {voter: int(value) for voter, value in given_values.items()}
        index = joint_committed(config, other, acked) if joint is not None else majority_committed(config, acked)
        return "∞" if index == INFINITY else str(index)
    assert line.startswith("vote")
    votes = {voter: value == "y" for voter, value in given_values.items()}
    result = joint_vote(config, other, votes) if joint is not None else majority_vote(config, votes)
    return f"Vote{result.value.capitalize()}"


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vectors(path: Path) -> None:
    check_or_rewrite(path, parse(path), evaluate, last_line_only=True)


def test_there_are_vectors() -> None:
    assert len(VECTORS) >= 4
