"""The simulator finds bugs: members with one promise broken each are found, by the rule that they break.

Control: without the mutant the same seeds pass, so it is the mutant that is found, and not the bad luck of the run.
"""

from typing import Any, NamedTuple

import msgspec
import pytest
from mutants import (
    AcknowledgesBeforeSync,
    AppliesTwice,
    BelievesEverybody,
    CommitsEarlierTerms,
    CompactsTooFar,
    ConflictsStay,
    GivesUpCommands,
    HeartbeatCommitsTooMuch,
    InstallsOverNewerState,
    InstallsWithNewLog,
    LeaderCountsItselfEarly,
    LearnersCommit,
    LeavesJointEarly,
    MembershipNotSaved,
    NeverStands,
    NeverSyncs,
    OwnCommandsDiffer,
    PreVoteRaisesTerm,
    ReadsAtOnce,
    ReadsBeforeApplied,
    ReadsBeforeOwnEntry,
    ReadsLocally,
    SessionsNotSaved,
    SkipsDamage,
    StaleAppendCuts,
    StaleLeaderIsHeard,
    TwoChangesAtOnce,
    VoteBeforeSync,
    VoteNotPersisted,
    VotesForAnyLog,
    VotesTwice,
    WinsWithHalf,
)

from plasmacloud.chainfire.running_member import RunningMember
from plasmacloud.sim.options import FaultKind, Options, draw_options
from plasmacloud.sim.simulation import Simulation


class Mutant(NamedTuple):
    """``seed``: the first that finds it, as the faults and the options are drawn today. ``rules``: those it breaks.

    ``decay``: it shows only where disks are bad, and what they lose has not been saved elsewhere by chance.
    """

    member_class: type[RunningMember]
    seed: int
    rules: frozenset[str]
    decay: bool = False

    def options(self, seed: int) -> Options:
        """What is drawn for the seed; for some with what they need."""
        options = draw_options(seed)
        if not self.decay:
            return options
        gaps = {**options.mean_gap_s, FaultKind.CORRUPT: 10.0, FaultKind.POWER: 10.0}
        return msgspec.structs.replace(options, checkpoint_interval_s=30.0, mean_gap_s=gaps)


OWN_TERM = "a leader counts only entries of its own term"
ELECTED = "a leader has the votes of a majority"
ONE_CHANGE = "one change of the membership at a time"
FOLLOWED = "only the leader of the term is followed"
CANDIDATE = "a term begins with a candidate"
SILENT = "who has lost its memory keeps silent"
FORGOTTEN = "a vote is never forgotten"
FALLS = "a term never falls"
COMPLETENESS = "leader completeness"
PROGRESS = "a healed majority makes progress"
CAUGHT_UP = "everybody catches up"
QUORUM = "what is committed is on a majority of disks"
DURABLE = "what was acknowledged is durable"
MATCHING = "log matching"
HISTORY = "linearizability"
PAST = "nobody is answered from the past"
QUESTION = "a read sees what was committed before its question"
DEFECT = "no defect"
MACHINE = "state machine safety"
BELIEVED = "a healthy disk is believed"
REPEATED = "who waits asks again"
REFUSED = "no healthy member is refused"
ON_DISK = "what counts as durable is on the disk"
SPOKEN = "who speaks in a term has it on disk"
MODEL = "the store does what the model does"
GOOD_LOG = "a vote is for a log as good as the own"


def _mutant(seed: int, *rules: str, decay: bool = False, **parts: Any) -> Mutant:
    return Mutant(type("MutantMember", (RunningMember,), parts), seed, frozenset(rules), decay)


MUTANTS: dict[str, Mutant] = {
    "vote not persisted": _mutant(1, ON_DISK, FORGOTTEN, raft_class=VoteNotPersisted),
    "several votes in a term": _mutant(4, FORGOTTEN, raft_class=VotesTwice),
    "vote given before it is synced": _mutant(1, SPOKEN, FALLS, FORGOTTEN, raft_class=VoteBeforeSync),
    "vote for any log": _mutant(1, GOOD_LOG, raft_class=VotesForAnyLog),
    "pre-vote that raises the term": _mutant(2, CANDIDATE, raft_class=PreVoteRaisesTerm),
    "half of the votes elects": _mutant(2, ELECTED, raft_class=WinsWithHalf),
    "nobody stands for election": _mutant(1, PROGRESS, raft_class=NeverStands),
    "an earlier term's entry committed by counting": _mutant(1, OWN_TERM, raft_class=CommitsEarlierTerms),
    "learners count": _mutant(3, QUORUM, raft_class=LearnersCommit),
    "joint configuration left too early": _mutant(2, QUORUM, ELECTED, raft_class=LeavesJointEarly),
    "two membership changes at once": _mutant(2, ONE_CHANGE, raft_class=TwoChangesAtOnce),
    "log cut by a stale append": _mutant(6, DURABLE, raft_class=StaleAppendCuts),
    "conflicting entries stay": _mutant(4, MATCHING, raft_class=ConflictsStay),
    "stale leader's batch accepted": _mutant(3, FOLLOWED, raft_class=StaleLeaderIsHeard),
    "heartbeat commits beyond the match": _mutant(3, MATCHING, raft_class=HeartbeatCommitsTooMuch),
    "leader counts itself before its disk": _mutant(1, QUORUM, raft_class=LeaderCountsItselfEarly),
    "acknowledged before it is synced": _mutant(
        1, ON_DISK, DURABLE, QUORUM, COMPLETENESS, log_class=AcknowledgesBeforeSync
    ),
    "reads without confirmation": _mutant(1, HISTORY, PAST, QUESTION, raft_class=ReadsAtOnce),
    "reads before the leader's own entry": _mutant(10, HISTORY, PAST, QUESTION, raft_class=ReadsBeforeOwnEntry),
    "reads from the local state": _mutant(2, HISTORY, PAST, QUESTION, replica_class=ReadsLocally),
    "reads before they are applied": _mutant(3, HISTORY, PAST, QUESTION, replica_class=ReadsBeforeApplied),
    "a batch that comes twice is applied twice": _mutant(1, MODEL, machine_class=AppliesTwice),
    "sessions not in the checkpoint": _mutant(1, MACHINE, HISTORY, REFUSED, machine_class=SessionsNotSaved),
    "snapshot that forgets the membership": _mutant(2, MACHINE, machine_class=MembershipNotSaved),
    "commands do more where a client waits": _mutant(1, MODEL, machine_class=OwnCommandsDiffer),
    "log shortened beyond the checkpoint": _mutant(7, BELIEVED, log_class=CompactsTooFar),
    "log never synced": _mutant(1, ON_DISK, BELIEVED, DURABLE, FALLS, log_class=NeverSyncs),
    "damage in the log taken for a torn end": _mutant(2, DURABLE, FALLS, FORGOTTEN, decay=True, log_class=SkipsDamage),
    "installation forgets term and vote": Mutant(InstallsWithNewLog, 7, frozenset({FORGOTTEN, FALLS, DURABLE})),
    "snapshot installed over newer state": Mutant(InstallsOverNewerState, 3, frozenset({DURABLE})),
    "emptied disks are believed": _mutant(9, SILENT, register_class=BelievesEverybody),
    "commands not sent to the next leader": _mutant(1, REPEATED, PROGRESS, CAUGHT_UP, replica_class=GivesUpCommands),
}

MAX_SEEDS = 24
FRESH_SEEDS = range(201, 241)


def finds(name: str, seed: int) -> bool:
    """Whether the seed finds the mutant by one of its rules, and with something to read."""
    mutant = MUTANTS[name]
    outcome = Simulation(mutant.options(seed), member_class=mutant.member_class).run()
    if not outcome.failed or outcome.rule not in mutant.rules:
        return False  # another rule may see its traces first; that is no proof that this one would
    assert outcome.last_words
    assert outcome.rule != "linearizability" or outcome.counterexample
    return True


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name: str) -> None:
    first = MUTANTS[name].seed
    seeds = [first, *(seed for seed in range(1, 1 + MAX_SEEDS) if seed != first)]
    assert any(finds(name, seed) for seed in seeds), f"not found with {MAX_SEEDS} seeds"


@pytest.mark.parametrize(("seed", "decay"), sorted({(mutant.seed, mutant.decay) for mutant in MUTANTS.values()}))
def test_without_a_mutant_the_same_seeds_pass(seed: int, decay: bool) -> None:
    outcome = Simulation(Mutant(RunningMember, seed, frozenset(), decay).options(seed)).run()
    assert not outcome.failed, outcome.text


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found_by_seeds_that_nobody_chose(name: str) -> None:
    assert any(finds(name, seed) for seed in FRESH_SEEDS), f"not found with {len(FRESH_SEEDS)} seeds"
