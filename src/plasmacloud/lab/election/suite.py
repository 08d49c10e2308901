"""What a suite is: a fixed course of checks with names, evidence files and a verdict rule of its own.

A scenario is one experiment on any target; a suite is a whole validation of one, as somebody else has specified it. It
uses the same recorder, events and history, so that reports and rechecks treat both alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from plasmacloud.lab.election.rig import ElectionRig
from plasmacloud.lab.judging import Case
from plasmacloud.lab.plan import Plan
from plasmacloud.lab.recorder import Recorder
from plasmacloud.verify.checks import Check, Verdict

if TYPE_CHECKING:
    from plasmacloud.lab.judge import Judgement
    from plasmacloud.lab.planning import Request


class Suite(ABC):
    """One validation. ``thresholds``: defaults by name, in the unit of the name; the plan may override them. Its
    evidence is in a directory of its own name."""

    name: str
    target: str
    must_hold: str
    default_trials: int
    thresholds: ClassVar[Mapping[str, float]]

    @abstractmethod
    def missing(self) -> str | None:
        """Why the suite cannot run here; None when it can."""

    @abstractmethod
    def plan(self, request: "Request") -> Plan:
        """The plan. Raises `ConfigError` for what cannot be run, such as ports that are taken."""

    @abstractmethod
    def rig(self, plan: Plan, data: Path, recorder: Recorder) -> ElectionRig:
        """The rig; nothing runs yet. ``data`` is removed after the run."""

    @abstractmethod
    async def drive(self, rig: ElectionRig) -> None:
        """Do it: effects only. Raises `WaitedTooLong` when the target does not reach a state that it must reach."""

    @abstractmethod
    def judge(self, case: Case, directory: Path) -> list[Check]:
        """Checks of the evidence, in the order of the specification. Reads nothing but ``case`` and ``directory``."""

    @abstractmethod
    def verdict(self, checks: Sequence[Check]) -> Verdict:
        """What the checks come to, by the suite's own rule. Pure."""

    @abstractmethod
    def distributions(self, case: Case, directory: Path) -> dict[str, list[float]]:
        """What was measured more than once, by name with unit."""

    @abstractmethod
    def reports(self, judgement: "Judgement") -> dict[str, bytes]:
        """The reports that the specification asks for, by file name. Pure."""
