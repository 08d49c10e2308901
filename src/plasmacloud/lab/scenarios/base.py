"""What a scenario is: how it drives the rig, and how its evidence is judged. The two share nothing but the evidence."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from plasmacloud.lab.judging import Case
from plasmacloud.lab.rig import Rig
from plasmacloud.verify.checks import Check


class Scenario(ABC):
    """One experiment. ``thresholds``: defaults by name, in the unit of the name; the plan may override them.
    ``spares``: nodes beyond those of the plan, for members that come and go."""

    name: str
    must_hold: str
    default_trials: int
    thresholds: ClassVar[Mapping[str, float]]
    spares: ClassVar[int] = 0

    @abstractmethod
    async def drive(self, rig: Rig) -> None:
        """Do it: effects only. Raises `WaitedTooLong` when the target does not reach a state that it must reach."""

    @abstractmethod
    def judge(self, case: Case) -> list[Check]:
        """Checks of the evidence, most important first. Pure."""

    @abstractmethod
    def distributions(self, case: Case) -> dict[str, list[float]]:
        """What was measured once per trial or write, by name with unit. Pure."""
