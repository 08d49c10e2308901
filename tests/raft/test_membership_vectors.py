"""Configuration changes in the notation of the published datadriven vectors: the resulting sets, and the progress.

Commands are ``simple``, ``enter-joint [autoleave=true]`` and ``leave-joint``, followed by the changes: v1 makes member
1 a voter, l1 a learner, r1 removes it, u1 says nothing about who belongs to the group. The last index of the log counts
the commands before, so ``next`` tells when a member's progress began, and whether it was kept.

``PLASMA_MEMBERSHIP_VECTORS=DIR`` also runs the files of another directory.
"""

import os
from pathlib import Path

import pytest
from raft_script import Case, check_or_rewrite, parse

from plasmacloud.raft.membership import (
    BadChange,
    Change,
    ChangeKind,
    ConfState,
    Objection,
    enter_joint,
    leave_joint,
    simple,
)
from plasmacloud.raft.tracker import Tracker

VECTORS = sorted((Path(__file__).parent / "scripts" / "membership").glob("*.txt"))
ELSEWHERE = os.environ.get("PLASMA_MEMBERSHIP_VECTORS")
if ELSEWHERE:
    VECTORS += sorted(Path(ELSEWHERE).glob("*.txt"))

KINDS = {"v": ChangeKind.ADD_VOTER, "l": ChangeKind.ADD_LEARNER, "r": ChangeKind.REMOVE}
WORDS = {  # how the vectors word a refusal
    ("simple", Objection.JOINT): "can't apply simple config change in joint config",
    ("enter-joint", Objection.JOINT): "config is already joint",
    ("enter-joint", Objection.EMPTY): "can't make a zero-voter config joint",
    ("leave-joint", Objection.NOT_JOINT): "can't leave a non-joint config",
    ("simple", Objection.NO_VOTER): "removed all voters",
    ("enter-joint", Objection.NO_VOTER): "removed all voters",
    ("simple", Objection.TOO_MANY): "more than one voter changed without entering joint config",
}


def group(ids: frozenset[int]) -> str:
    return "(" + " ".join(map(str, sorted(ids))) + ")"


def show_conf(conf: ConfState) -> str:
    parts = [f"voters={group(conf.voters)}" + (f"&&{group(conf.outgoing)}" if conf.joint else "")]
    if conf.learners:
        parts.append(f"learners={group(conf.learners)}")
    if conf.learners_next:
        parts.append(f"learners_next={group(conf.learners_next)}")
    return " ".join([*parts, *(["autoleave"] if conf.auto_leave else [])])


class Changer:
    """The interpreter: a tracker, and a log that grows by one entry per command."""

    def __init__(self) -> None:
        self.tracker = Tracker(ConfState(), 10, 1000)
        self.last_index = 0

    def run(self, case: Case) -> str:
        name, *arguments = case.command[0].split()
        tokens = " ".join(case.command[1:]).split()
        changes = [Change(KINDS[token[0]], int(token[1:])) for token in tokens if token[0] != "u"]
        next_index = max(self.last_index, 1)
        self.last_index += 1
        try:
            conf = self.changed(name, arguments, changes)
        except BadChange as refused:
            return WORDS[name, refused.objection]
        self.tracker.switch(conf, next_index, 0)
        return "\n".join([show_conf(conf), *self.progress()])

    def changed(self, name: str, arguments: list[str], changes: list[Change]) -> ConfState:
        conf = self.tracker.conf
        if name == "simple":
            return simple(conf, changes)
        if name == "enter-joint":
            return enter_joint(conf, changes, auto_leave=arguments == ["autoleave=true"])
        assert (name, changes) == ("leave-joint", [])
        return leave_joint(conf)

    def progress(self) -> list[str]:
        learners = self.tracker.conf.learners
        return [
            f"{member}: State{each.state.value.capitalize()} match={each.match} next={each.next}"
            + (" learner" if member in learners else "")
            for member, each in self.tracker.progress.items()
        ]


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vectors(path: Path) -> None:
    # some versions of the format also print the commit index last sent, which begins at 0 here as well
    cases = [case._replace(expected=case.expected.replace(" commit=0 ", " ")) for case in parse(path)]
    check_or_rewrite(path, cases, Changer().run)


def test_there_are_vectors() -> None:
    assert len(VECTORS) >= 4
